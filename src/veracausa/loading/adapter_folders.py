"""Folders of adapters (PEFT): the model that they were trained on, with the adapters in its layers, unmerged."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.errors import FileError
from veracausa.loading.tokenizer import first_line
from veracausa.loading.wrappers import unwrapped
from veracausa.storage.digests import tensor_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder has an adapter alone, and no model."""
    return (folder / _CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The model that an adapter was trained on, as its config names it: a folder, a packaged model, or a hub id.

    Raises:
        FileError: PEFT is not installed; the config is damaged or names none; the weights are pickled or lacking.
    """
    if find_spec("peft") is None:
        raise FileError(f"{folder} is an adapter, which needs the package peft: pip install peft.")
    if not (folder / _WEIGHTS).is_file():
        raise FileError(f"The adapter folder {folder} has no {_WEIGHTS}; pickled weights are never read.")
    try:
        base = json.loads((folder / _CONFIG).read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{folder / _CONFIG} is damaged ({type(error).__name__}: {first_line(error)}).") from error
    if not base or not isinstance(base, str):
        raise FileError(f"{folder / _CONFIG} does not say which model it is an adapter of (base_model_name_or_path).")
    return base


def with_adapter(hf: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with an adapter of a folder in its layers.

    Raises:
        FileError: PEFT cannot read it, or not all of its weights are in the model. ArchitectureError: it is not in the
            layers alone.
    """
    from peft import PeftModel

    try:
        wrapped: Any = PeftModel.from_pretrained(hf, str(folder), local_files_only=True)
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        raise FileError(f"The adapter in {folder} could not be put on {type(hf).__name__}: {said}") from error
    _require_all_taken(wrapped, folder)
    return unwrapped(wrapped.eval())[0]


def _require_all_taken(wrapped: Any, folder: Path) -> None:
    """FileError unless every tensor of the file is a weight of the model."""
    from safetensors.torch import load_file

    kept = {tensor_digest(one.detach().cpu()) for one in wrapped.parameters()}
    for name, tensor in load_file(folder / _WEIGHTS).items():
        kinds = {one.dtype for one in wrapped.parameters()} | {tensor.dtype}
        if not any(tensor_digest(tensor.to(kind)) in kept for kind in kinds):
            raise FileError(f"{name} of the adapter in {folder} was not taken by the model; is it another version's?")

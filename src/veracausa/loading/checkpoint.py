"""Model files on disk: are they whole, are they safe to read, and did the model take all of their weights?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.errors import FileError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Weights that a decoder may leave in the file: masks and rotary frequencies, which are computed now, and parts for
#: other kinds of data or further tokens. What the model's class itself declares, transformers has taken off before.
_NOT_OF_THE_DECODER = re.compile(
    r"inv_freq$|position_ids$|masked_bias$|\.(attn|attention|self_attention|self_attn)\.bias$"
    r"|(^|[._])(vision|visual|image|audio|speech|video|multi_?modal|mm|mtp|talker|token2wav|code2wav)([._]|$)"
)


def check_folder(folder: Path) -> None:
    """Check that a model folder has its config and whole safetensors files, before anything is loaded from it.

    Raises:
        FileError: naming the file that is missing, cut short or damaged, or how to convert a pickled one.
    """
    from safetensors import SafetensorError, safe_open

    if not (folder / "config.json").is_file():
        raise FileError(
            f"{folder} is not a model folder: it has no config.json. Pass a folder written by `save_pretrained`."
        )
    lacking = lacking_weights(folder)
    if lacking:
        patterns = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth")
        pickled = [path.name for pattern in patterns for path in sorted(folder.glob(pattern))]
        if pickled:
            raise FileError(
                f"{folder} has no safetensors weights, only {pickled[0]}, which is a pickle and may run any code when "
                "it is read. If you trust it, convert it once: AutoModelForCausalLM.from_pretrained(folder, "
                "use_safetensors=False).save_pretrained(new_folder), then copy the tokenizer's files."
            )
        raise FileError(f"{folder} lacks weights: there is no {lacking}. Copy or fetch the folder again.")
    single = folder / "model.safetensors"
    for file in [single] if single.exists() else [folder / n for n in shards(folder / "model.safetensors.index.json")]:
        try:
            with safe_open(file, framework="numpy"):  # reads the header and compares it with the file's length
                pass
        except (SafetensorError, OSError) as error:
            raise FileError(f"The weights file {file} is damaged or cut short ({error}). Fetch it again.") from error


def lacking_weights(folder: Path) -> str:
    """What is missing of the safetensors weights in `folder`; an empty string if nothing is."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return ""
    if not index.exists():
        return "model.safetensors"
    return ", ".join(name for name in shards(index) if not (folder / name).exists())


def shards(index: Path) -> list[str]:
    """The weight files that an index names.

    Raises:
        FileError: the index is not valid JSON or has no `weight_map`.
    """
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise FileError(f"The weight index {index} is damaged ({error}). Fetch the model again.") from error


def require_all_taken(title: str, hf: nn.Module, info: Mapping[str, Any]) -> None:
    """Check that a model and its file fit each other, by the report that transformers gives after loading.

    Missing weights would be random numbers, and weights without a place would be left out, such as the last layers of
    a file whose config states fewer: both give another model without a word.

    Raises:
        FileError: naming the weights that are missing, of another shape, or left over.
    """
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise FileError(
            f"The weights of {title} do not fill a {type(hf).__name__}: {_few(missing)} missing, and would be random "
            "numbers. Fetch or save the model again, with the config that belongs to its weights."
        )
    mismatched = sorted(info.get("mismatched_keys") or ())
    if mismatched:
        shapes = [
            f"{name} is {list(found)} in the file and {list(wanted)} by the config"
            for name, found, wanted in mismatched
        ]
        raise FileError(
            f"The weights of {title} do not fit its config.json: {_few(shapes)}. Put the config that belongs to the "
            "weights beside them."
        )
    left = sorted(name for name in map(str, info["unexpected_keys"]) if not _NOT_OF_THE_DECODER.search(name))
    if left:
        config: Any = hf.config
        layers = getattr(config.get_text_config(), "num_hidden_layers", None)
        size = f" of {layers} layers" if layers else ""
        raise FileError(
            f"The weights of {title} do not all have a place in a {type(hf).__name__}{size}, as its config.json states "
            f"it: {_few(left)} would be left out, and the model be another one. Put the config that belongs to the "
            "weights beside them (or take out weights that are not the model's)."
        )


def require_finite(title: str, hf: nn.Module) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        FileError: naming the first one that is.
    """
    import torch

    for name, weight in hf.named_parameters():
        if type(weight.data) is not torch.Tensor:  # packed; that its linear map gives finite numbers is seen elsewhere
            continue
        # A sum is finite only if all its terms are; it may overflow though they are, which is looked at again.
        if not torch.isfinite(weight.detach().sum()) and (bad := _infinite(weight.detach())):
            raise FileError(
                f"{bad:,} of the {weight.numel():,} numbers of {name} in {title} are NaN or infinite: the file is "
                "damaged, or was saved after a training run that broke down. Fetch it again."
            )


def _infinite(weight: torch.Tensor) -> int:
    return int((~weight.isfinite()).sum())


def require_all_of_gguf(title: str, gguf: Path, hf: nn.Module) -> None:
    """Check that a model takes every tensor of the GGUF file that it was read from.

    transformers passes over tensors that it has no place for, so their numbers are counted: names and order change on
    the way, how many there are does not.

    Raises:
        FileError: naming layers beyond the stated ones, rotary factors, or how many numbers were left out.
    """
    from gguf import GGUFReader

    tensors = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    config: Any = hf.config
    layers = config.get_text_config().num_hidden_layers
    beyond = [name for name in tensors if (match := re.match(r"blk\.(\d+)\.", name)) and int(match[1]) >= layers]
    if beyond:
        raise FileError(
            f"{title} states {layers} layers, but has weights of more: {_few(sorted(beyond))} would be left out. Its "
            "header is damaged, or it is of a kind that transformers cannot read; pass a folder with safetensors."
        )
    factors = [name for name in tensors if name.startswith("rope_")]
    if any((tensors[name].data != 1).any() for name in factors):
        raise FileError(
            f"{title} scales its rotary frequencies by {', '.join(factors)}, which transformers does not read from "
            "GGUF: attention would be another model's. Pass the model as a folder with safetensors."
        )
    tied = "output.weight" in tensors and getattr(config, "tie_word_embeddings", False)
    apart = {*factors, "output.weight"} if tied else set(factors)
    held = sum(int(tensor.n_elements) for name, tensor in tensors.items() if name not in apart)
    taken = sum(weight.numel() for weight in hf.parameters())
    if held != taken:
        raise FileError(
            f"{title} holds {held:,} numbers, but a {type(hf).__name__} as transformers reads it takes {taken:,}: some "
            "would be left out, and the model be another one. Pass the model as a folder with safetensors."
        )


def _few(names: Iterable[str]) -> str:
    """The first three, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

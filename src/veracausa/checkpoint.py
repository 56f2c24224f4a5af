"""Model folders on disk: are they whole, and are they safe to read?"""

from __future__ import annotations

import json
from pathlib import Path

from veracausa.errors import FileError


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

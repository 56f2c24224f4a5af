"""Which models lie on this machine already: packaged ones that were converted, .gguf files, and those of the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veracausa.errors import FileError
from veracausa.loading.conversion import MANIFEST, cache_root, read_manifest
from veracausa.loading.packaged import folder_of
from veracausa.loading.wheels import PACKAGED

#: How the hub's cache calls the folder of owner/name.
_HUB = "models--"


@dataclass(frozen=True)
class Local:
    """A model on this machine: what `vc.load` calls it, where it lies, its architecture and size.

    `whole`: all its weights are there, as safetensors, so that it loads without a network.
    """

    name: str
    folder: Path
    architecture: str
    size: int
    whole: bool


def local_models(cache_dir: str | os.PathLike[str] | None = None) -> list[Local]:
    """Every model of veracausa's cache (`cache_dir`, as for `vc.load`) and of the Hugging Face cache.

    >>> [model.name for model in local_models()]
    ['smollm2-135m', 'gpt2']
    """
    return [*_converted(cache_root(cache_dir) / "models"), *_of_hub()]


def hub_ids() -> list[str]:
    """The ids of the models in the Hugging Face cache, whole or not."""
    return sorted(path.name.removeprefix(_HUB).replace("--", "/") for path in _entries(_hub_cache(), f"{_HUB}*"))


def _converted(models: Path) -> Iterator[Local]:
    names = {folder_of(model).name: model.name for model in PACKAGED.values()}
    for folder in _entries(models, "[!.]*"):
        if (folder / MANIFEST).exists():
            name = names.get(folder.name, str(folder))
            yield _local(name, folder, read_manifest(folder) is not None)


def _of_hub() -> Iterator[Local]:
    from veracausa.loading.hub import cached_snapshot

    for repo in hub_ids():
        whole = None
        with suppress(FileError):  # a damaged index, or a folder that no id can have
            whole = cached_snapshot(repo)
        snapshots = _entries(_hub_cache() / f"{_HUB}{repo.replace('/', '--')}" / "snapshots", "*")
        if whole or snapshots:
            yield _local(repo, whole or snapshots[-1], whole is not None)


def _local(name: str, folder: Path, whole: bool) -> Local:
    config: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Local(name, folder, str(config.get("model_type", "")), size, whole)


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _entries(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder, sorted; nothing where there is none."""
    with suppress(OSError):
        return sorted(path for path in folder.glob(pattern) if path.is_dir())
    return []

"""What must be known about a Hugging Face hub id before transformers is asked to load it.

transformers and huggingface_hub retry patiently when there is no network. Here the local cache is
looked at first; an id that lies there whole is used as it is, without a single request. For any
other id one request with a limit of two seconds tells whether the hub can be reached at all.
"""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

from veracausa.errors import DownloadError, FileError

PATIENCE = 2.0  # seconds until the hub counts as out of reach

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id: `name` or `owner/name`."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def cached_snapshot(repo: str, cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder of `repo` in the local Hugging Face cache, if its config and all its safetensors are there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", cache_dir=None if cache_dir is None else Path(cache_dir))
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    return folder if not lacking_weights(folder) else None


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


def require_reachable(repo: str, packaged: tuple[str, ...]) -> None:
    """Return if the hub answers for `repo` within two seconds.

    Honours HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and the proxy settings, as huggingface_hub does.

    Raises:
        DownloadError: there is no network, the hub does not answer, or it does not have (or show) such a model.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    what_to_do = (
        f"It is not in the local Hugging Face cache ({constants.HF_HUB_CACHE}) either. Without a network, use a "
        f"packaged model ({', '.join(packaged)}), a local folder or a .gguf file, or point HF_HOME to a cache with it."
    )
    outcome: list[BaseException | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(repo, timeout=PATIENCE)
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    # In a thread, because looking up a name without a network can hang longer than any timeout of the request.
    asking = threading.Thread(target=ask, daemon=True, name="veracausa-hub-check")
    asking.start()
    asking.join(PATIENCE)
    if not outcome:
        raise DownloadError(
            f"You seem to be offline: the Hugging Face hub did not answer within {PATIENCE:g} seconds, "
            f"so {repo!r} cannot be fetched. {what_to_do}"
        )
    error = outcome[0]
    if error is None:
        return
    if isinstance(error, OfflineModeIsEnabled):
        raise DownloadError(
            f"{repo!r} cannot be fetched: offline mode is switched on (HF_HUB_OFFLINE). {what_to_do}"
        ) from error
    if isinstance(error, GatedRepoError):
        raise DownloadError(
            f"The model {repo!r} is gated: accept its licence on its page, then log in (`hf auth login`)."
        ) from error
    if isinstance(error, RepositoryNotFoundError):
        raise DownloadError(
            f"The Hugging Face hub has no model {repo!r}, or it is private: check the spelling, or log in "
            f"(`hf auth login`). Packaged models: {', '.join(packaged)}."
        ) from error
    if isinstance(error, HfHubHTTPError):
        return  # it answered: transformers will find out the rest
    raise DownloadError(
        f"You seem to be offline: the Hugging Face hub cannot be reached ({type(error).__name__}), so {repo!r} cannot "
        f"be fetched. {what_to_do}"
    ) from error

"""What must be known about a Hugging Face hub id before transformers is asked to load it.

transformers and huggingface_hub retry patiently when there is no network. Here the local cache is
looked at first; an id that lies there whole is used as it is, without a single request. For any
other id one request with a limit of two seconds tells whether the hub can be reached at all.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

from veracausa.errors import DownloadError, FileError
from veracausa.loading.checkpoint import check_folder, lacking_weights
from veracausa.loading.wheels import PACKAGED

PATIENCE = 2.0  # seconds until the hub counts as out of reach

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"),
    "tokenizer_config.json",  # the last resort: it alone says little
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id: `name` or `owner/name`."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def cached_snapshot(repo: str, cache_dir: str | os.PathLike[str] | None = None, *, weights: bool = True) -> Path | None:
    """The folder of `repo` in the local Hugging Face cache, if its config and all its safetensors are there.

    With `weights=False` it is enough that there is a tokenizer.
    """
    from huggingface_hub import try_to_load_from_cache

    where = None if cache_dir is None else Path(cache_dir)
    for name in ("config.json",) if weights else TOKENIZER_FILES:
        try:
            found = try_to_load_from_cache(repo, name, cache_dir=where)
        except ValueError as error:
            raise FileError(f"There is no folder {repo!r}, and it cannot be a hub id either: {error}") from error
        if isinstance(found, str):
            folder = Path(found).parent
            return None if weights and lacking_weights(folder) else folder
    return None


def hub_options(repo: str, cache_dir: str | os.PathLike[str] | None, *, weights: bool) -> dict[str, Any]:
    """How transformers is to load `repo`: from the local cache if it lies there whole, else from a hub that answers.

    Raises:
        DownloadError: as `require_reachable`.
        FileError: a weights file in the cache is damaged.
    """
    snapshot = cached_snapshot(repo, cache_dir, weights=weights)
    if snapshot is None:
        require_reachable(repo)
    elif weights:
        check_folder(snapshot)
    return {"local_files_only": snapshot is not None, "cache_dir": cache_dir}


def require_reachable(repo: str) -> None:
    """Return if the hub answers for `repo` within two seconds.

    Honours HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and the proxy settings, as huggingface_hub does.

    Raises:
        DownloadError: there is no network, the hub does not answer, or it does not have (or show) such a model.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    what_to_do = (
        f"No folder has this name, and the local Hugging Face cache ({constants.HF_HUB_CACHE}) lacks it. Offline, use "
        f"a packaged model ({', '.join(PACKAGED)}), a local folder or .gguf file, or point HF_HOME to a cache with it."
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
            f"(`hf auth login`). There is no folder of that name. Packaged models: {', '.join(PACKAGED)}."
        ) from error
    if isinstance(error, HfHubHTTPError):
        return  # it answered: transformers will find out the rest
    raise DownloadError(
        f"You seem to be offline: the Hugging Face hub cannot be reached ({type(error).__name__}), so {repo!r} cannot "
        f"be fetched. {what_to_do}"
    ) from error

"""From what a user calls a tokenizer to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.errors import FileError, MethodError
from veracausa.loading.hub import hub_options, is_hub_id
from veracausa.loading.packaged import packaged_folder
from veracausa.loading.wheels import PACKAGED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOCAL: dict[str, Any] = {"local_files_only": True}  # how transformers loads without a single request


def given_tokenizer(
    given: Any, title: str, trust_remote_code: bool, cache_dir: str | os.PathLike[str] | None
) -> PreTrainedTokenizerBase:
    """The tokenizer that the user passed, or the one that a packaged model's name, a folder or a hub id means.

    Raises:
        MethodError: it is something else.
        FileError: there is no such folder, or no tokenizer in it.
        DownloadError: a hub id that cannot be fetched.
    """
    from transformers import PreTrainedTokenizerBase

    inner = getattr(given, "tokenizer", None)  # of a multimodal model's processor
    for candidate in (given, inner):
        if isinstance(candidate, PreTrainedTokenizerBase):
            return candidate
    if not isinstance(given, str | os.PathLike):
        raise MethodError(
            f"The tokenizer is a {type(given).__name__}; pass a transformers tokenizer, or the folder or hub id of one."
        )
    name = os.fspath(given)
    if isinstance(given, str) and name in PACKAGED:
        return read_tokenizer(str(packaged_folder(name)[0]), title, False, LOCAL)
    path = Path(name).expanduser()
    if path.is_dir():
        return read_tokenizer(str(path), title, trust_remote_code, LOCAL)
    if not isinstance(given, str) or not is_hub_id(name):
        raise FileError(f"There is no folder {name!r} to read a tokenizer from.")
    return read_tokenizer(name, title, trust_remote_code, hub_options(name, cache_dir, weights=False))


def read_tokenizer(place: str, title: str, trust_remote_code: bool, hub: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; `title` is what the error calls the model that needs it.

    Raises:
        FileError: there is none, or its files are damaged.
    """
    from transformers import AutoTokenizer

    try:
        tok = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code, **hub)
    except Exception as error:
        raise FileError(
            f"No tokenizer could be read for {title} from {place!r} ({first_line(error)}). "
            "Pass one: tokenizer=AutoTokenizer.from_pretrained(…), or the name of a folder that has one."
        ) from error
    if not hasattr(tok, "convert_tokens_to_ids") or len(tok) == 0:
        raise FileError(f"{place} has no tokenizer files. Pass tokenizer=…, or a folder that has them.")
    return tok


def first_line(error: Exception) -> str:
    """The first line of an error's text, without the essay that may follow; two where the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return (said or type(error).__name__)[:300].rstrip(".")

"""Plain text that a model without some parts is judged on, in rows of 128 tokens.

Without a text of the user's it is Python's own documentation (`pydoc_data.topics`, in every Python; the PSF licence):
prose and code. No ranking sees it: parts are ranked on tasks' prompts alone.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics
from typing import TYPE_CHECKING, Any

from veracausa.arguments import is_list, kind_and_value
from veracausa.engine.validate_prompts import require_readable
from veracausa.errors import FileError, MethodError
from veracausa.fitting.sites import LENGTH
from veracausa.pruning.names import PYTHON
from veracausa.storage.files import at
from veracausa.tasks.tokens import encode, tokenizer_of
from veracausa.words import counted

if TYPE_CHECKING:
    from veracausa.model import Model


@dataclass(frozen=True)
class Rows:
    """Rows of token ids, all of one length, and what they are."""

    ids: tuple[tuple[int, ...], ...]
    said: str

    @property
    def tokens(self) -> int:
        """Tokens that are predicted: all but the first of each row."""
        return sum(len(row) - 1 for row in self.ids)

    def digest(self) -> str:
        """A hash of the rows."""
        return hashlib.sha256(json.dumps(self.ids).encode()).hexdigest()[:16]


def rows_of(lm: Model, text: str | Path | Sequence[str] | None, tokens: int, seed: int) -> Rows:
    """At most so many tokens of a text in whole rows, each behind the tokenizer's start token; no row of None.

    `text`: "python", a file in UTF-8, or a list of texts. Its rows are those of its beginning; of Python's
    documentation, of its topics in an order that `seed` draws.

    Raises:
        MethodError: too little text for a row, or no text. FileError: the file cannot be read.
    """
    if text is None:
        return Rows((), "no plain text")
    tokenizer = tokenizer_of(lm)
    length = min(LENGTH, int(getattr(lm.hf.config, "max_position_embeddings", None) or LENGTH))
    start = encode(tokenizer, "a")[: -len(encode(tokenizer, "a", start=False)) or None]
    own, found, ids = length - len(start), list[tuple[int, ...]](), list[int]()
    said, pieces = _pieces(text, seed)
    for piece in pieces:
        ids += encode(tokenizer, piece + "\n", start=False)
        while len(ids) >= own and (len(found) + 1) * length <= tokens:
            found.append(start + tuple(ids[:own]))
            del ids[:own]
        if (len(found) + 1) * length > tokens:
            break
    if not found:
        raise MethodError(f"tokens={tokens} of {said}: that is less than one row of {length} tokens. Give more text.")
    require_readable(lm, found)
    return Rows(tuple(found), f"{said}, {counted(len(found), 'row')} of {length} tokens")


def _pieces(text: Any, seed: int) -> tuple[str, Iterator[str]]:
    """What the text is, and its pieces."""
    if isinstance(text, str) and text == PYTHON:
        pages = [topics.topics[key] for key in sorted(topics.topics)]
        random.Random(seed).shuffle(pages)
        return "topics of Python's documentation", iter(pages)
    if isinstance(text, (str, Path)):
        path = at(text)
        try:
            return f"{path.name}", iter([path.read_text(encoding="utf-8")])
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"The text {path} cannot be read: {error}. Give a file in UTF-8, or text=None.") from error
    if is_list(text) and all(isinstance(one, str) for one in text):
        return counted(len(text), "text"), iter(text)
    raise MethodError(f"text= is 'python', a file, a list of texts or None, but this is {kind_and_value(text)}.")

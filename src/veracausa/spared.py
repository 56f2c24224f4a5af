"""What fails after the work is done costs nothing else: in its place stands a sentence that says why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from veracausa.errors import VeracausaError

T = TypeVar("T")
S = TypeVar("S")


def spared(what: str, make: Callable[[], T], instead: Callable[[str], S]) -> T | S:
    """What `make` gives; where it fails, what `instead` makes of a sentence that says so, and a warning.

    >>> spared("The chart", lambda: draw(data), lambda sentence: None)
    """
    try:
        return make()
    except Exception as error:  # whatever it is: results that were computed must not be lost to a picture of them
        sentence = f"{what} could not be made: {in_words(error)}"
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)
        return instead(sentence)


def in_words(error: Exception) -> str:
    """An error as the page shows it: a refusal's own sentence; of any other the kind, too."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VeracausaError) else f"{type(error).__name__}{f': {text}' if text else ''}."

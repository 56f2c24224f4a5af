"""Names of directions as numbers, so that tables and files of units hold them as they hold the numbers of features."""

from __future__ import annotations

import re

#: In the place of a feature's number: the error, and the skip of a skip transcoder.
ERROR, SKIP = 1 << 40, (1 << 40) + 1
#: The same: all components of a map together.
EVERY = (1 << 40) + 2
#: Letters of names, which are read as digits in base 38 (0: no letter).
_LETTERS = "_abcdefghijklmnopqrstuvwxyz0123456789"
#: As many of them as 64 bits have room for.
LONGEST = 12
#: What a name of a direction or of a dictionary looks like.
WORD = re.compile(r"[a-z_][a-z0-9_]*")


def is_coded(kind: str) -> bool:
    """Whether units of a kind, or what is at a place of that name, are parts of dictionaries.

    >>> is_coded("features"), is_coded("components.down"), is_coded("heads")
    (True, True, False)
    """
    return kind.partition(".")[0] in ("features", "directions", "components")


def word_index(word: str) -> int:
    """A name as a number.

    >>> index_word(word_index("subject"))
    'subject'
    """
    found = 0
    for letter in word:
        found = found * (len(_LETTERS) + 1) + _LETTERS.index(letter) + 1
    return found


def index_word(index: int) -> str:
    """The name that is such a number."""
    found = ""
    while index > 0:
        index, letter = divmod(index, len(_LETTERS) + 1)
        found = _LETTERS[letter - 1] + found
    return found

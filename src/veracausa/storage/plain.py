"""Values as JSON holds them: what a file could not give back is refused when it is written, with where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veracausa.arguments import kind_and_value
from veracausa.errors import FileError

#: Whole numbers up to this can be written as digits and read again by any Python.
_DIGITS = 4000
_DEEPEST = 100


def as_json(value: Any, where: str, depth: int = 0) -> Any:
    """The value of texts, numbers, lists and dicts alone; tuples and arrays as lists.

    `where`: what the value is called in messages: "The task's info".

    Raises:
        FileError: anything else, keys that are no text, half a character, a number of thousands of digits, more levels
            than a reader takes.

    >>> as_json({"a": (1, 2)}, "The task's info")
    {'a': [1, 2]}
    """
    if depth > _DEEPEST:
        raise FileError(f"{where}: lists within lists, deeper than {_DEEPEST} levels, are not written.")
    if isinstance(value, Mapping):
        named = {_text(key, f"a key of {where}"): one for key, one in value.items()}
        return {key: as_json(one, f"{where}[{key!r}]", depth + 1) for key, one in named.items()}
    if hasattr(value, "tolist"):  # of numpy and torch
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_json(one, f"{where}[{i}]", depth + 1) for i, one in enumerate(value)]
    if isinstance(value, str):
        return _text(value, where)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and abs(value) < 10**_DIGITS:
        return value
    raise FileError(
        f"{where} is {kind_and_value(value)}, which a file of JSON cannot hold. Use text, numbers, lists and dicts."
    )


def _text(value: Any, where: str) -> str:
    """The text, if UTF-8 has it."""
    if not isinstance(value, str):
        raise FileError(f"{where} is {kind_and_value(value)}, but in a file of JSON keys are text.")
    half = next((character for character in value if "\ud800" <= character <= "\udfff"), "")
    if half:
        raise FileError(f"{where} holds half of a character, {half!a}: no text in UTF-8 has it.")
    return value

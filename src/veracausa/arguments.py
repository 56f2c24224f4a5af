"""What users hand over, said in a few words: values for error messages, and lists of texts that really are that."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from veracausa.errors import MethodError, VeracausaError

#: What a size in words may be of.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?i?)b?\s*", re.IGNORECASE)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def shown(value: Any) -> str:
    """A value on one short line: tensors, arrays and tables by their shape, everything else by the start of its repr.

    >>> shown(torch.zeros(3, 4)), shown(["a0.h0"] * 99)
    ("a Tensor of shape (3, 4)", "['a0.h0', 'a0.h0', 'a0.h0', 'a0.h0', 'a0.h0', 'a0.h0', ...]")
    """
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, type):
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:  # an int of thousands of digits has no repr
        return f"a very large {type(value).__name__}"


def kind_and_value(value: Any) -> str:
    """A value behind its type, for "but this is …": "list: ['a sentence']", "a Tensor of shape (3, 4)", "None"."""
    short = shown(value)
    plain = value is None or (hasattr(value, "shape") and not isinstance(value, type))
    return short if plain else f"{type(value).__name__}: {short}"


def is_table(value: Any) -> bool:
    """Whether a value is a whole table (of pandas, say), which Python would iterate by its columns' names."""
    return hasattr(value, "columns") and hasattr(value, "to_dict")


def is_list(value: Any) -> bool:
    """Lists, tuples, arrays, tensors and columns of tables; not texts, mappings or whole tables."""
    listed = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) and not is_table(value)
    return listed and getattr(value, "ndim", 1) != 0


def entries(values: Any, what: str, error: type[VeracausaError]) -> list[Any]:
    """The entries of a list, tuple, array, tensor or column of a table; `error` for what is none of them.

    A text, a mapping or a whole table is no list, although Python would run through its letters, keys or columns.
    """
    if is_table(values):
        raise error(
            f"{what} is a list, but this is a table ({shown(values)}); give one of its columns: df['…'].tolist()"
        )
    if not is_list(values):
        raise error(f"{what} is a list, but this is {kind_and_value(values)}")
    return list(values)


def texts(values: Any, what: str, error: type[VeracausaError]) -> list[str]:
    """The entries of a list of texts; `error` names the first that is something else."""
    found = entries(values, what, error)
    for one in found:
        if not isinstance(one, str):
            raise error(f"{what} is a list of texts, but it holds {kind_and_value(one)}")
    return found


def bytes_of(memory: float | str | None) -> int | None:
    """A size in bytes: a number, or one in words; None for None.

    Raises:
        MethodError: it is no size.

    >>> bytes_of("8GB"), bytes_of("1.5 GiB"), bytes_of(8e9)
    (8000000000, 1610612736, 8000000000)
    """
    if memory is None:
        return None
    found = _SIZE.fullmatch(memory) if isinstance(memory, str) else None
    if found and found[2].lower() in _UNITS:
        memory = float(found[1]) * _UNITS[found[2].lower()]
    number = isinstance(memory, (int, float)) and not isinstance(memory, bool) and 1 <= memory < 2**63
    if not number:
        raise MethodError(f"memory={shown(memory)}: give bytes, or a size such as '8GB' or '500 MB'.")
    return int(memory)


def rising_sizes(sizes: Sequence[int] | None, most: int, *, least: int = 0, what: str = "circuits") -> tuple[int, ...]:
    """Numbers of parts, rising, each once; by default each about three times the one before, and all.

    Raises:
        MethodError: none, or one that is no size of `what`.

    >>> rising_sizes(None, 100)
    (1, 3, 10, 30, 100)
    """
    if sizes is None:
        return tuple(sorted({min(most, size) for size in (1, 3, 10, 30, 100, 300, 1000)} | {most}))
    if not len(sizes) or not all(least <= size <= most for size in sizes):
        raise MethodError(f"sizes={shown(list(sizes))}: {what} have {least} … {most:,} parts here.")
    return tuple(sorted({int(size) for size in sizes}))

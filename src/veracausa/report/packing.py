"""Numbers and texts of a page, each column once: charts, tables and the instrument refer to it by its number.

A column is a list; or, shorter, {"repeat": value, "times": n}; {"words": [...], "at": [...]}, each word by its place;
or, from so many rows on, {"bytes": base64, "as": form}, numbers without a digit of text, low bytes first:

- "int8", "int16", "int32": whole numbers;
- "single": numbers of 32 bits, NaN where there is none;
- "five": numbers of at most five digits, 24 bits each: 17 of the digits as a whole number m (all ones: no number), one
  of the sign, six of 22 + e. m · 10^e has one correctly rounded product or quotient for |e| ≤ 22, so it is the number
  that its decimal digits mean, to the last bit.

Where a column is wanted stands {"column": 7}. What charts have in common is `shared`. docs/page.md describes the whole.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: A column that is one value throughout is written once from so many rows on.
_ALIKE = 4
#: Numbers are written as bytes from so many rows on.
_MANY = 32
#: Of "five": what stands for no number, and the exponents that there are.
_NONE, _EXPONENTS = (1 << 17) - 1, range(-22, 23)
#: Texts are written by their places if each stands so often, on average.
_OFTEN = 3


class Columns:
    """The columns of a page, in the order in which they were first wanted.

    >>> columns = Columns()
    >>> columns.add([1, 2]), columns.add([3, 4]), columns.add([1, 2])
    ({'column': 0}, {'column': 1}, {'column': 0})
    """

    def __init__(self) -> None:
        self.packed: list[Any] = []
        self._places: dict[str, int] = {}

    def add(self, values: Sequence[Any]) -> dict[str, int]:
        """Keep a column, unless it is kept already; returns what stands in its place."""
        packed = _packed([_bare(value) for value in values])
        text = json.dumps(packed)
        if text not in self._places:
            self._places[text] = len(self.packed)
            self.packed.append(packed)
        return {"column": self._places[text]}

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Records as {"fields": {name: column}, "rows": n}; as they are where not all have the same fields."""
        fields = list(rows[0]) if rows else []
        if not fields or any(list(row) != fields for row in rows):
            return list(rows)
        return {"fields": {name: self.add([row[name] for row in rows]) for name in fields}, "rows": len(rows)}


def shared(value: Any, least: int = 40) -> tuple[Any, list[Any]]:
    """A value whose parts that are there more than once are written once: where one belongs stands {"shared": 3}.

    Returns the value and its parts, which may have others in them. `least`: characters of JSON of a part that is worth
    it. Charts say the same of their axes again and again.

    >>> shared([{"title": "layer", "grid": False}, {"title": "layer", "grid": False}], least=20)
    ([{'shared': 0}, {'shared': 0}], [{'title': 'layer', 'grid': False}])
    """
    counts: Counter[str] = Counter()
    _count(value, counts)
    parts: list[Any] = []
    return _put(value, {text for text, many in counts.items() if many > 1 and len(text) >= least}, {}, parts), parts


def _count(value: Any, counts: Counter[str]) -> None:
    if isinstance(value, (dict, list)):
        text = json.dumps(value)
        counts[text] += 1
        if counts[text] == 1:  # what is in a part that is there twice already is counted with it
            for one in value.values() if isinstance(value, dict) else value:
                _count(one, counts)


def _put(value: Any, often: set[str], places: dict[str, int], parts: list[Any]) -> Any:
    """The value with references in the place of what is there often."""
    if not isinstance(value, (dict, list)):
        return value
    text = json.dumps(value)
    if text in places:
        return {"shared": places[text]}
    if isinstance(value, dict):
        made: Any = {key: _put(one, often, places, parts) for key, one in value.items()}
    else:
        made = [_put(one, often, places, parts) for one in value]
    if text not in often:
        return made
    places[text] = len(parts)
    parts.append(made)
    return {"shared": places[text]}


def _bare(value: Any) -> Any:
    """A value as JSON holds it: None where there is no number."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _packed(values: list[Any]) -> Any:
    kinds = {type(value) for value in values} - {type(None)}
    if len(values) >= _ALIKE and len(kinds) <= 1 and all(value == values[0] for value in values):
        return {"repeat": values[0], "times": len(values)}
    if len(values) >= _MANY and kinds == {int} and None not in values:
        return _whole(values)
    if len(values) >= _MANY and kinds == {float}:
        return _five(values) or _single(values) or values
    words = list(dict.fromkeys(values)) if kinds == {str} else []
    if words and len(values) >= _OFTEN * len(words):
        places = {word: at for at, word in enumerate(words)}
        return {"words": words, "at": [places[value] for value in values]}
    return values


def _whole(values: list[int]) -> Any:
    """Whole numbers in as few bytes as hold them; as they are beyond 32 bits."""
    kind = next((one for one in ("int8", "int16", "int32") if _fit(values, np.iinfo(one))), None)
    return values if kind is None else _bytes(np.array(values, np.dtype(kind).newbyteorder("<")).tobytes(), kind)


def _fit(values: list[int], limits: np.iinfo[Any]) -> bool:
    return min(values) >= limits.min and max(values) <= limits.max


def _single(values: list[float | None]) -> Any:
    """Numbers that have no more than 32 bits; None where one has more."""
    known = np.array([math.nan if value is None else value for value in values])
    with np.errstate(over="ignore"):
        short = known.astype("<f4")
    return _bytes(short.tobytes(), "single") if np.array_equal(short.astype(float), known, equal_nan=True) else None


def _five(values: list[float | None]) -> Any:
    """Numbers of at most five digits; None where one has more, or is too small or too large."""
    made = bytearray()
    for value in values:
        digits, _, power = (f"{value:.4e}" if value is not None else "0e0").partition("e")
        exponent = int(power) - 4 if value else 0
        if value is not None and (float(f"{value:.4e}") != value or exponent not in _EXPONENTS):
            return None
        size = _NONE if value is None else int(digits.lstrip("-").replace(".", ""))
        code = size | (digits[0] == "-") << 17 | (exponent - _EXPONENTS[0]) << 18
        made += code.to_bytes(3, "little")
    return _bytes(bytes(made), "five")


def _bytes(found: bytes, form: str) -> dict[str, str]:
    return {"bytes": base64.b64encode(found).decode("ascii"), "as": form}

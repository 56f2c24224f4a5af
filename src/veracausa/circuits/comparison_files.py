"""Files of two circuits side by side: JSON, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from veracausa.circuits.comparison import FORMAT, CircuitComparison, Sized, Worth
from veracausa.circuits.exchange.files import unpack_circuit
from veracausa.storage.files import at, read_json
from veracausa.storage.schema import flag, many, maybe, number, one_of, reading, record, text, whole

_FIGURE = number(nan=True)
_HEADER = record(
    format=one_of(FORMAT), circuits=many(record(edges=many(text), importance=maybe(many(_FIGURE))), 2),
    values=many(many(_FIGURE), 2),
    ranks=many(many(whole()), 2), scored=many(whole(), 2), mismatches=many(many(text, 3)),
    worth=maybe(many(many(lambda value: value, 3), 2)), sizes=many(many(lambda value: value, 8)), paired=flag,
)  # fmt: skip


def load_circuit_comparison(path: str | Path) -> CircuitComparison:
    """Read two circuits side by side that `CircuitComparison.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    path = at(path)
    body = read_json(path, "two circuits side by side")
    with reading(path):
        told = _HEADER(body)
        one, other = (unpack_circuit(own, own["edges"], own["importance"], path) for own in body["circuits"])
        made = CircuitComparison(
            one, other, _arrays(told["values"], float), _arrays(told["ranks"], int), tuple(told["scored"]),
            tuple((what, mine, theirs) for what, mine, theirs in told["mismatches"]),
            None if told["worth"] is None else tuple(_worth(row) for row in told["worth"]),  # type: ignore[arg-type]
            tuple(_sized(row) for row in told["sizes"]), told["paired"],
        )  # fmt: skip
        if {len(column) for column in (*made.values, *made.ranks)} != {len(made.edges)}:
            raise ValueError("other numbers than edges")
        return made


def _arrays(columns: list[list[Any]], kind: type) -> tuple[np.ndarray, np.ndarray]:
    return np.array(columns[0], dtype=kind), np.array(columns[1], dtype=kind)


def _worth(row: list[Any]) -> Worth:
    return Worth(_FIGURE(row[0]), _FIGURE(row[1]), text(row[2]))


def _sized(row: list[Any]) -> Sized:
    ranking, edges, f, errors, *rest = row
    both, spread = (many(_FIGURE, 2)(pair) for pair in (f, errors))
    return Sized(one_of("signed", "abs")(ranking), whole(1)(edges), tuple(both), tuple(spread), *map(_FIGURE, rest))

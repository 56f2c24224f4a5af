"""Units at spans: a unit is patched at the tokens that have a name in each pair, "a9.h6@subject", wherever they stand.

Which tokens these are a task says (see `tasks.spans`); the table holds names only, so it is the same for all tasks that
have them. "end" is every prompt's last position.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from veracausa.errors import UnitError
from veracausa.suggestions import did_you_mean
from veracausa.tasks.spans import END
from veracausa.units.kinds import KINDS, Kind
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.tasks.task import Task

#: Draws at spans are keyed by numbers behind those of all positions.
_BEHIND = 1 << 31


@dataclass(frozen=True, eq=False, repr=False)
class SpanUnits(Units):
    """A table of units of one kind, each at a span. `spans[u]`: its name. `position` is −1: it differs from pair to
    pair.

    >>> vc.exact(lm, task, units="heads@spans").units.spans[:2]
    ('IO', 'S1')
    """

    spans: tuple[str, ...]

    @classmethod
    def of(cls, kind: Kind, layer: np.ndarray, index: np.ndarray, spans: Sequence[str]) -> SpanUnits:
        """Units by their layers, indices and spans."""
        return cls(kind, layer, index, np.full(len(layer), -1), tuple(spans))

    @classmethod
    def at(cls, units: Units, names: Sequence[str]) -> SpanUnits:
        """Every unit of a table at every span, the span fastest."""
        layer, index = (np.repeat(column, len(names)) for column in (units.layer, units.index))
        return cls.of(units.kind, layer, index, tuple(names) * len(units))

    def __getitem__(self, chosen: np.ndarray | slice | Sequence[int]) -> SpanUnits:
        kept = np.arange(len(self))[chosen].tolist()
        return SpanUnits.of(self.kind, self.layer[kept], self.index[kept], [self.spans[u] for u in kept])

    @property
    def apart(self) -> str:
        """See `Units.apart`."""
        return " at spans"

    @property
    def positional(self) -> bool:
        """Units are not at all positions."""
        return bool(len(self))

    @property
    def keys(self) -> list[tuple[object, ...]]:
        """What every unit is: (layer, index, span)."""
        return list(zip(self.layer.tolist(), self.index.tolist(), self.spans, strict=True))

    @property
    def draws(self) -> np.ndarray:
        """See `Units.draws`; spans by their names."""
        codes = [_BEHIND + zlib.crc32(name.encode()) for name in self.spans]
        return np.stack([self.layer + 1, self.index + 1, np.array(codes, dtype=np.int64)], 1)

    @property
    def names(self) -> list[str]:
        """The units' names, in order."""
        places = zip(self.layer, self.index, self.spans, strict=True)
        return [f"{KINDS[self.kind].called(layer, index)}@{span}" for layer, index, span in places]

    @property
    def named(self) -> tuple[str, ...]:
        """The spans' names, each once, in the order of the table."""
        return tuple(dict.fromkeys(self.spans))

    def table(self) -> pd.DataFrame:
        """One row per unit: name, layer, head or neuron (where there is one), span."""
        return super().table().drop(columns="position").assign(span=list(self.spans))

    def digest(self) -> str:
        """A hash of the table, for files that must belong together."""
        return hashlib.sha256(f"{super().digest()} {' '.join(self.spans)}".encode()).hexdigest()[:16]


def require_spans(names: Sequence[str], task: Task | None, what: str) -> None:
    """UnitError for spans that a task has not, or where a call takes none (no `task`)."""
    if task is None:
        raise UnitError(
            f"{what} names units at a span ({names[0]!r}), which vc.exact and vc.attribute take; here a unit is at all "
            f"positions, or at a single one (@7).{did_you_mean(names[0], ('positions',))}"
        )
    known = (*task.span_names, END)
    for name in names:
        if name not in known:
            has = f"its spans are {', '.join(known)}" if task.span_names else "it has none but 'end'"
            raise UnitError(
                f"{what}: the task {task.name!r} has no span {name!r}; {has}. Name spans when you make the task: "
                f"vc.task(lm, …, spans={{{name!r}: …}}).{did_you_mean(name, (*known, 'positions', 'spans'))}"
            )

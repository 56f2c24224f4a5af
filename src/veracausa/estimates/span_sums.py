"""Estimates at spans: the sums of the estimates at the span's positions, which patching them together would be to first
order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from veracausa.engine.work import Derived, Work
from veracausa.errors import MethodError
from veracausa.estimates.method import Method
from veracausa.estimates.parts import PATHS
from veracausa.scores.headers import align_settings, span_settings
from veracausa.scores.scores import Scores
from veracausa.tasks.placing import elsewhere, ranges
from veracausa.units.at_spans import SpanUnits
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class SpanSumsWork(Derived):
    """Estimates at positions (`effects`), added up over the spans of `units`; `noising`: those of the clean prompts."""

    units: SpanUnits
    effects: Work
    noising: bool

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """The sums; NaN where an example lacks the span."""
        single: Scores = self.effects.run(show_progress, out)
        aligned = align_settings(self.task, self.units.named)
        column = {key: i for i, key in enumerate(single.units.keys)}
        values = single.values.new_full((single.n, len(self.units)), float("nan"))
        spans = np.array(self.units.spans)
        for at, name in enumerate(self.units.named):
            chosen = np.flatnonzero(spans == name).tolist()
            own = [(int(self.units.layer[u]), int(self.units.index[u])) for u in chosen]
            for example, (first, end) in enumerate(ranges(self.task, self.units.named, self.noising)[:, at].tolist()):
                if first >= 0:
                    columns = torch.tensor(
                        [[column[layer, index, t] for t in range(first, end)] for layer, index in own]
                    )
                    values[example, chosen] = single.values[example, columns].sum(1)
        return replace(
            single,
            values=values,
            units=self.units,
            settings=single.settings | span_settings(self.task) | (aligned if self.aligned else {}),
            notes=(*single.notes, "at spans: the sum of the estimates at the span's positions"),
        )


def at_positions(units: SpanUnits, task: Task, noising: bool) -> Units:
    """Every unit of the table at every position that its span has in some pair."""
    where = ranges(task, units.named, noising)
    found: dict[tuple[int, int, int], None] = {}
    taken = {
        name: sorted({t for first, end in where[:, at].tolist() if first >= 0 for t in range(first, end)})
        for at, name in enumerate(units.named)
    }
    for layer, index, name in zip(units.layer.tolist(), units.index.tolist(), units.spans, strict=True):
        found |= {(layer, index, position): None for position in taken[name]}
    columns = np.array(list(found), dtype=np.int64)
    return Units(units.kind, columns[:, 0], columns[:, 1], columns[:, 2])


def require_sums(method: Method, units: SpanUnits, task: Task) -> None:
    """MethodError where the estimates at a span's positions add up to nothing that is about the span."""
    if PATHS[method.path].moves == "unit":
        why = f"path={method.path!r} moves one position at a time"
    elif not method.signed:
        why = f"rule={method.rule!r} gives magnitudes"
    elif method.drawn:
        why = f"path={method.path!r} knows the errors of its draws position by position"
    elif "qk-exact" in method.rule and units.kind == "keys":
        why = "rule='qk-exact' gives each key a pattern of its own"
    elif method.baseline == "optimal":
        why = "its constants are learned for units at all positions"
    elif method.baseline == "corrupted" and elsewhere(task, units.named):
        if task.align is not None and method.path == "point":
            return
        why = "some pairs have them at other positions in the corrupted prompt"
        if task.align is not None:
            why += f", and path={method.path!r} moves all positions (path='point' does not)"
    else:
        return
    others = "'atp' or 'ig'" if task.align is None else "'atp'"
    raise MethodError(
        f"Estimates at spans are sums over the span's positions, which mean nothing here: {why}. Take vc.exact, or "
        f"another method, such as {others}."
    )

"""The cost–truth frontier: for each budget, the method that comes closest to the exact effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from veracausa.studies.results import Panel, Section
from veracausa.studies.summary import called


@dataclass(frozen=True)
class Best:
    """From `cost` token-layers on, `method` has the highest r of all that cost no more; exact effects have r = 1."""

    method: str
    cost: int
    passes: float
    r: float


def frontier(panel: Panel) -> list[Best]:
    """Methods that no other beats at the same or a lower cost, the cheapest first; ends with the exact effects.

    Methods with undefined r are never best. Methods dearer than the exact effects are left away: there is no reason to
    take them.

    >>> [best.method for best in frontier(panel)]
    ['atp', 'relp', 'exact']
    """
    truth = panel.exact.cost
    rated = [
        Best(one.method, scores.cost.token_layers, scores.cost.forward_equivalents, one.r)
        for scores, one in zip(panel.estimates, panel.agreements, strict=True)
        if np.isfinite(one.r) and (panel.sampled or scores.cost.token_layers < truth.token_layers)
    ]
    best: list[Best] = []
    for one in sorted(rated, key=lambda candidate: (candidate.cost, -candidate.r)):
        if not best or one.r > best[-1].r:
            best.append(one)
    return [*best, Best("exact", truth.token_layers, truth.forward_equivalents, 1.0)]


def advice(sections: Sequence[Section]) -> tuple[str, ...]:
    """Plain words on which method to take at which budget, one sentence per task and kind of unit."""
    sentences = []
    for section in sections:
        for panel in section.panels:
            *estimates, exact = frontier(panel)
            steps = [
                f"{best.method} from {best.passes:,.1f} forward passes a pair (r = {best.r:.3f})" for best in estimates
            ]
            truth = (
                f"exact effects of the {len(panel.exact):,} compared units take {exact.passes:,.1f}"
                if panel.sampled
                else f"exact effects of all {len(panel.exact):,} take {exact.passes:,.1f}"
            )
            what = f"{panel.kind[0].upper()}{panel.kind[1:]} of {called(section.task)}"
            sentences.append(f"{what}: take {'; '.join(steps) or 'no estimate'}; {truth}.")
    return tuple(sentences)

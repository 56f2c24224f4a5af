"""Circuits of features: how faithful and how complete are the strongest parts of a ranking, size by size.

    faithfulness(C) = (m(C) − m(∅)) / (m(M) − m(∅))        all parts outside of C replaced
    completeness(C) = (m(M∖C) − m(∅)) / (m(M) − m(∅))      all parts of C replaced; 0 where nothing is left without C

(Marks et al. 2403.19647), means over pairs above and below the line; ∅: every part of the ranking replaced, M: none.
A circuit is one set of parts, patched at once with all that follows live (`units.groups`). Errors of dictionaries are

* "node": parts like features, ranked with them;
* "kept": the model's own in every run, also in ∅;
* "moved": replaced in every run but M's, as the features outside are (under zero ablation: left out), so that the
  circuit of all features says what the dictionaries hold of the behaviour. Errors of dictionaries that the ranking
  has no part of stay as they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from veracausa.arguments import shown
from veracausa.choices import Ablation
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.words import ERROR
from veracausa.effects.exact import exact
from veracausa.errors import MethodError, UnitError
from veracausa.scores.scores import Scores
from veracausa.statistics.ratios import ratios
from veracausa.tasks.references import Reference
from veracausa.units.groups import Groups
from veracausa.units.kinds import KINDS

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

Errors = Literal["node", "kept", "moved"]
_EMPTY = "∅"


@dataclass(frozen=True, eq=False)
class PartCurve:
    """Circuits of the strongest parts of a ranking. `ranked`: the parts' names, strongest first; `sizes`: how many of
    them each circuit has; `errors`: what was done with errors; `scores`: the exact effects of all sets that were run,
    `"outside 10"` (faithfulness) and `"inside 10"` (completeness), and "∅".

    >>> curve = vc.circuits.part_curve(lm, task, vc.attribute(lm, task, units="features"), sizes=(10, 100))
    >>> curve.table()
    """

    ranked: tuple[str, ...]
    sizes: tuple[int, ...]
    errors: Errors
    scores: Scores

    def _kept(self, sets: str) -> tuple[Float[Tensor, " sizes"], Float[Tensor, " sizes"]]:
        """1 − E(set) / E(∅) of each size, and its standard error over pairs (NaN: not known)."""
        names = self.scores.units.names
        columns = [names.index(f"{sets} {size}") for size in self.sizes if f"{sets} {size}" in names]
        below = self.scores.values[:, names.index(_EMPTY)].double()
        share, error, _ = ratios(self.scores.values[:, columns].double(), below)
        found, spread = below.new_zeros(2, len(self.sizes))
        at = [i for i, size in enumerate(self.sizes) if f"{sets} {size}" in names]
        found[at], spread[at] = share, error
        return 1 - found, spread

    @property
    def faithfulness(self) -> Float[Tensor, " sizes"]:
        """Of each circuit: 1 is the model's behaviour, 0 that of the model without all parts."""
        return self._kept("outside")[0]

    @property
    def completeness(self) -> Float[Tensor, " sizes"]:
        """Faithfulness of what is left when each circuit is taken out: 0 where the circuit is all there is."""
        return self._kept("inside")[0]

    def table(self) -> pd.DataFrame:
        """One row per size: parts, faithfulness and completeness with their standard errors over pairs."""
        import pandas as pd

        columns: dict[str, Any] = {"parts": self.sizes}
        for name, sets in (("faithfulness", "outside"), ("completeness", "inside")):
            value, error = self._kept(sets)
            columns |= {name: value.numpy(), f"{name}_stderr": error.numpy()}
        return pd.DataFrame(columns)

    def describe(self) -> str:
        """What was run, and the table."""
        settings = self.scores.settings
        return (
            f"circuits of the strongest of {len(self.ranked):,} parts · errors {self.errors} · ablation "
            f"{settings['ablation']} · {self.scores.n:,} pairs · {settings['dictionary']}\n"
            f"{self.table().to_string(index=False, float_format='{:.3f}'.format)}"
        )

    def __repr__(self) -> str:
        return self.describe()


def part_curve(
    lm: Model,
    task: Task,
    scores: Scores,
    *,
    sizes: Sequence[int] | None = None,
    errors: Errors = "node",
    by: Literal["abs_mean", "importance"] = "abs_mean",
    ablation: Ablation = "counterfactual",
    reference: Reference | None = None,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    rows: int | None = None,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> PartCurve:
    """Faithfulness and completeness of circuits of features (with errors, skips), of several sizes.

    Args:
        scores: a ranking of parts of dictionaries, exact or estimated, at all positions or one by one.
        sizes: how many parts each circuit has (default: about six, each three times the one before, and all).
        errors: "node", "kept" or "moved"; see the module.
        by: strongest by |mean| or by signed importance.
        ablation, reference, rows, out: as in `vc.exact`. dictionary: where none is laid on the model.

    Raises:
        UnitError: the scores are not of parts of dictionaries, or leave no part to rank. MethodError: see each message.
    """
    if not (scores.units.kind in KINDS and KINDS[scores.units.kind].coded):
        raise UnitError(f"part_curve ranks parts of dictionaries; these scores are of {scores.units.kind}.")
    if errors not in ("node", "kept", "moved"):
        raise MethodError(f"errors={shown(errors)} is not known. Known: node, kept, moved.")
    apart = np.zeros(len(scores.units), dtype=bool) if errors == "node" else scores.units.index == ERROR
    strength = (scores.mean().abs() if by == "abs_mean" else scores.importance()).double().numpy()
    order = [i for i in np.argsort(-strength, kind="stable").tolist() if not apart[i]]
    if not order:
        raise UnitError("There is no part to rank: all are errors, which are not nodes here.")
    names = scores.units.names
    ranked = tuple(names[i] for i in order)
    moved = [names[i] for i in np.flatnonzero(apart)] if errors == "moved" else []
    counts = _sizes(sizes, len(ranked))
    sets = {_EMPTY: [*ranked, *moved]}
    sets |= {f"outside {size}": [*ranked[size:], *moved] for size in counts}
    sets |= {f"inside {size}": [*ranked[:size], *moved] for size in counts}
    asked: dict[str, Any] = {"ablation": ablation, "reference": reference, "dictionary": dictionary, "rows": rows}
    groups = {name: parts for name, parts in sets.items() if parts}
    found = exact(lm, task, units=groups, **asked, out=out, show_progress=show_progress)
    assert isinstance(found.units, Groups)
    return PartCurve(ranked, counts, errors, found)


def _sizes(sizes: Sequence[int] | None, most: int) -> tuple[int, ...]:
    """Numbers of parts, rising, each once.

    >>> _sizes(None, 100)
    (1, 3, 10, 30, 100)
    """
    if sizes is None:
        return tuple(sorted({min(most, size) for size in (1, 3, 10, 30, 100, 300, 1000)} | {most}))
    if not len(sizes) or not all(0 <= size <= most for size in sizes):
        raise MethodError(f"sizes={shown(list(sizes))}: circuits have 0 … {most:,} parts here.")
    return tuple(sorted({int(size) for size in sizes}))

"""Why two methods disagree about a unit: the scores that tell it, computed together (`differences` says what of)."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from veracausa.causes.differences import LABELS, Located
from veracausa.causes.results import Disagreement
from veracausa.choices import AllUnits
from veracausa.cost import Cost
from veracausa.effects.exact import exact
from veracausa.effects.shapley_values import shapley as shapley_values
from veracausa.effects.site_effects import direct, last_in, whole_sites
from veracausa.engine.work import Asked, Composed, Work, gives
from veracausa.errors import UnitError
from veracausa.estimates.attribute import attribute
from veracausa.estimates.kept import kept
from veracausa.scores.completeness import Completeness
from veracausa.scores.headers import require_comparable
from veracausa.scores.scores import Scores
from veracausa.storage.files import at
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class DisagreementWork(Composed):
    """What `disagreement` is about to do: the verbs that give each score of a table of units."""

    lm: Model
    task: Task
    table: Units
    asked: dict[str, Asked]
    known: Mapping[str, Scores]
    locations: Mapping[str, Located]
    kind: ClassVar[str] = "exact"

    def parts(self, given: Collection[str] = ()) -> dict[str, Work]:
        """The scores that are computed: all but what is `known`, or will be `given`."""
        return {
            name: verb.work(self.lm, self.task, units=self.table, **options)
            for name, (verb, options) in self.asked.items()
            if name not in self.known and name not in given
        }

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Disagreement:
        """Compute what is not known yet, and hold what is known against it."""
        began, cost = time.monotonic(), Cost()
        parts, found = self.parts(), dict[str, Scores]()
        for name, (verb, options) in self.asked.items():
            if name in self.known:
                meant = ("replacements",) if "baseline" in options else ()
                found[name] = self.known[name]
                require_comparable(found[name], found["exact"], across=meant)
                continue
            if verb is attribute:
                pieces = None if out is None else at(out)
                found[name] = kept(verb, self.lm, self.task, pieces, show_progress, units=self.table, **options)
            else:
                found[name] = parts[name].run(show_progress, out)
            cost = cost + found[name].cost
        cost.seconds = time.monotonic() - began
        return Disagreement(found, cost, dict(self.locations))


@gives(Disagreement)
def disagreement(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    shapley: int | None = None,
    nodes: int = 16,
    zero_nodes: int | None = 16,
    known: Mapping[str, Scores] | None = None,
    locations: Mapping[str, Located] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> DisagreementWork:
    """Decompose the disagreement of attribution patching, integrated gradients and direct effects with exact effects.

    Curvature E − AtP, interaction IG − E (redundancy or synergy by F), what later units do E − D, baseline
    IG(zero) − IG, unit by unit and pair by pair; every outlier of a method's mean–difference analysis gets the cause
    that its method can have, in words.

    Args:
        lm: the model.
        task: the prompt pairs and the metric. Effects are of noising towards the corrupted prompt.
        units: a kind, names or a table, at all positions; each unit's site is its layer.
        shapley: also compute Shapley values with this many permutations (see `vc.effects.shapley`); None: leave them
            out.
        nodes: of integrated gradients along each site's joint path.
        zero_nodes: of those towards zero, which run whole prompts; None: leave them out.
        known: scores that are there already, by the names of `Disagreement.scores`; they may hold more units.
        locations: unit → where its curvature arises (`vc.causes.locate`), woven into the causes.
        seed: of the permutations.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show progress bars.

    Returns:
        `Disagreement`: `.table()`, `.causes`, `.sentences`, `.save(path)`.

    Raises:
        MethodError: edges, units at single positions, known scores of another model, task or direction.
        UnitError: known scores lack a unit. Others as for `vc.exact` and `vc.attribute`.

    >>> found = vc.causes.disagreement(lm, task, units="heads")
    >>> found.cause("a20.h0", "ig").sentences
    """
    (lm, table), asked = whole_sites(lm, task, units, "These"), _asked(shapley, nodes, zero_nodes, seed)
    own = {name: _of_units(one, name, table) for name, one in (known or {}).items() if name in asked}
    return DisagreementWork(lm, task, table, asked, own, dict(locations or {}))


def _asked(permutations: int | None, nodes: int, zero_nodes: int | None, seed: int) -> dict[str, Asked]:
    """Names of the scores to be had, exact effects first."""
    asked: dict[str, Asked] = {
        "exact": (exact, {}),
        "atp": (attribute, {"method": "atp"}),
        "ig": (attribute, {"method": "ig", "nodes": nodes}),
        "last-in": (last_in, {}),
        "direct": (direct, {}),
    }
    if zero_nodes is not None:
        asked["ig-zero"] = attribute, {"method": "ig", "nodes": zero_nodes, "baseline": "zero"}
    if permutations is not None:
        asked["shapley"] = shapley_values, {"permutations": permutations, "seed": seed}
    return asked


def _of_units(scores: Scores, name: str, table: Units) -> Scores:
    """The scores of the table's units, in its order; completeness, which is about whole layers, of its layers."""
    if scores.units.kind != table.kind:
        raise UnitError(f"The known scores {LABELS[name]!r} are about {scores.units.kind}, not {table.kind}.")
    places = {key: i for i, key in enumerate(scores.units.keys)}
    lacking = [unit for key, unit in zip(table.keys, table.names, strict=True) if key not in places]
    if lacking:
        raise UnitError(
            f"The known scores {LABELS[name]!r} lack {len(lacking)} of {len(table)} units, e.g. {lacking[0]}. Leave "
            "them out of known=, or ask for fewer units."
        )
    chosen = [places[key] for key in table.keys]
    if chosen == list(range(len(scores))):
        return scores
    spread, sums = scores.draw_stderr, scores.completeness
    if sums is not None:
        rows = np.flatnonzero(np.isin(np.unique(scores.units.layer), table.layer))
        sums = Completeness(sums.claimed[rows], sums.true[rows])
    return replace(
        scores,
        values=scores.values[:, chosen],
        units=table,
        completeness=sums,
        draw_stderr=None if spread is None else spread[:, chosen],
    )

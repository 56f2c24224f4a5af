"""Why two methods disagree about a unit: the scores that tell it, computed together (`differences` says what of)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.causes.differences import LABELS, Located
from veracausa.causes.results import Disagreement
from veracausa.cost import Cost
from veracausa.effects.exact import exact
from veracausa.effects.planning import planned_exact, recorded_runs, unpatched_run
from veracausa.effects.shapley_values import planned_shapley
from veracausa.effects.shapley_values import shapley as shapley_values
from veracausa.effects.site_effects import direct, last_in, planned_direct, planned_last_in, whole_sites
from veracausa.errors import UnitError
from veracausa.estimates.attribute import attribute, planned
from veracausa.scores.headers import require_comparable
from veracausa.scores.scores import Completeness, Scores
from veracausa.storage.files import at
from veracausa.units.resolve import all_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Exact effects by their names.
_EFFECTS: dict[str, Callable[..., Scores]] = {"exact": exact, "last-in": last_in, "direct": direct}


def disagreement(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    shapley: int | None = None,
    nodes: int = 16,
    zero_nodes: int | None = 16,
    known: Mapping[str, Scores] | None = None,
    locations: Mapping[str, Located] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Disagreement:
    """Decompose the disagreement of attribution patching, integrated gradients and direct effects with exact effects.

    Curvature E − AtP, interaction IG − E (redundancy or synergy by F), what later units do E − D, baseline
    IG(zero) − IG, unit by unit and pair by pair; every outlier of a method's mean–difference analysis gets the cause
    that its method can have, in words.

    Args:
        lm: the model.
        task: the prompt pairs and the metric. Effects are of noising towards the corrupted prompt.
        units: a kind, names or a table, at all positions; each unit's site is its layer.
        shapley: also compute Shapley values with this many permutations (see `vc.effects.shapley`); None: leave them
        out. nodes: of integrated gradients along each site's joint path. zero_nodes: of those towards zero, which run
        whole prompts; None: leave them out. known: scores that are there already, by the names of
        `Disagreement.scores`; they may hold more units. locations: unit → where its curvature arises
        (`vc.causes.locate`), woven into the causes. seed: of the permutations. out: a folder to keep finished pieces
        in: an interrupted call with the same arguments continues from them. show_progress: show progress bars.

    Returns:
        `Disagreement`: `.table()`, `.causes`, `.sentences`, `.save(path)`.

    Raises:
        MethodError: edges, units at single positions, known scores of another model, task or direction.
        UnitError: known scores lack a unit. Others as for `vc.exact` and `vc.attribute`.

    >>> found = vc.causes.disagreement(lm, task, units="heads")
    >>> found.cause("a20.h0", "ig").sentences
    """
    began = time.monotonic()
    table = whole_sites(lm, task, units, "These")
    pieces, given, cost = None if out is None else at(out), known or {}, Cost()
    common: dict[str, Any] = {"units": table, "out": pieces, "show_progress": show_progress}
    found: dict[str, Scores] = {}
    for name, options in _asked(shapley, nodes, zero_nodes).items():
        if name in given:
            found[name] = _of_units(given[name], name, table)
            meant = ("replacements",) if "baseline" in options else ()
            require_comparable(found[name], found["exact"], across=meant)
            continue
        if name in _EFFECTS:
            found[name] = _EFFECTS[name](lm, task, **common)
        elif name == "shapley":
            found[name] = shapley_values(lm, task, seed=seed, **options, **common)
        else:
            found[name] = _of_units(_estimate(lm, task, table, options, pieces, show_progress), name, table)
        cost = cost + found[name].cost
    cost.seconds = time.monotonic() - began
    return Disagreement(found, cost, dict(locations or {}))


def planned_disagreement(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    shapley: int | None = None,
    nodes: int = 16,
    zero_nodes: int | None = 16,
    known: Sequence[str] = (),
    seed: int = 0,
) -> float:
    """Token-layers that `disagreement` will take; `known`: names of scores that are there already."""
    table = whole_sites(lm, task, units, "These")
    planned_by = {"exact": planned_exact, "last-in": planned_last_in, "direct": planned_direct}
    total = 0.0
    for name, options in _asked(shapley, nodes, zero_nodes).items():
        if name in known:
            continue
        if name in planned_by:
            total += planned_by[name](lm, task, units=table)
        elif name == "shapley":
            total += planned_shapley(lm, task, units=table, seed=seed, **options)
        else:
            share = "baseline" not in options
            total += planned(lm, task, units=table, **options) + recorded_runs(lm, task, share)
            if options["method"] == "ig":
                total += unpatched_run(lm, task, share)
    return total


def _asked(permutations: int | None, nodes: int, zero_nodes: int | None) -> dict[str, dict[str, Any]]:
    """Names of the scores to be had, exact effects first, with the options of those that have any."""
    asked: dict[str, dict[str, Any]] = {
        "exact": {},
        "atp": {"method": "atp"},
        "ig": {"method": "ig", "nodes": nodes},
        "last-in": {},
        "direct": {},
    }
    if zero_nodes is not None:
        asked["ig-zero"] = {"method": "ig", "nodes": zero_nodes, "baseline": "zero"}
    if permutations is not None:
        asked["shapley"] = {"permutations": permutations}
    return asked


def _estimate(
    lm: Model, task: Task, table: Units, options: dict[str, Any], pieces: Path | None, show_progress: bool
) -> Scores:
    """A gradient estimate; of all units of a kind it is the one that a study keeps in the same folder."""
    from veracausa.estimates.kept import kept

    parts = dict(options)
    method = parts.pop("method")
    if len(table) == len(all_units(lm, table.kind)):
        return kept(lm, task, table.kind, method, parts, pieces, show_progress)
    return attribute(lm, task, units=table, method=method, show_progress=show_progress, **parts)


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

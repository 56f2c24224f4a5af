"""Baselines compared: what units are replaced by, in exact effects and in integrated gradients, in one table.

Every ablation asks another question about the same units ("what if this unit took its value in another prompt?", "what
if it said nothing?", "what if it said the one thing that hurts least?"), and integrated gradients along the layer path
to a baseline estimate the exact effect of that ablation. All are noising effects on the same clean prompts, shares of
the counterfactual gap, so they may be laid beside each other: which of them tell the same story, and which estimate
comes close to the exact effect of its own baseline, or of another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from veracausa.counterfactuals.compared_corruptions import square
from veracausa.effects.exact import exact
from veracausa.effects.learned_constants import OptimalConstants, optimal_constants, planned_optimal
from veracausa.effects.optimal_descent import Learning
from veracausa.effects.planning import planned_exact, planned_reference, recorded_runs, unpatched_run
from veracausa.effects.replacements import donors_of, without_donor
from veracausa.errors import MethodError
from veracausa.estimates.attribute import attribute, planned
from veracausa.scores.agreement import Agreement, agreement_across, require_top
from veracausa.scores.bundles import read_all, write_all
from veracausa.scores.estimands import ABLATIONS, BASELINES
from veracausa.scores.files import confirmed, load_scores, same_table
from veracausa.scores.scores import Scores
from veracausa.storage.files import at, keep
from veracausa.storage.schema import many, one_of, reading, whole
from veracausa.suggestions import not_known
from veracausa.units.resolve import resolve_units
from veracausa.version import __version__
from veracausa.words import counted, listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from veracausa.model import Model
    from veracausa.tasks.task import Task
    from veracausa.units.table import Units

#: How optimal constants are learned here: few steps, since the comparison needs their effects and not the last digit.
QUICK = Learning(steps=20, rate=0.1, batch=4)
#: Units whose constants are learned: those with the largest loss at their mean; the others keep it.
MOST = 24
#: Points on IG's layer path, as in `vc.compare`.
NODES = 5
_FORMAT = "veracausa-baselines-2"
#: Ablation → IG's name of the baseline that estimates it.
_BASELINE_OF = {ablation: baseline for baseline, ablation in BASELINES.items()}


@dataclass(frozen=True, eq=False)
class Baselines:
    """Effects of the same units by every ablation, exactly and by IG; see the module's docstring.

    `scores`: "exact, zero", "IG, zero", … → scores. `top`: how many of the strongest units are compared as sets.
    """

    scores: dict[str, Scores]
    top: int

    @property
    def names(self) -> list[str]:
        """The rows, exact ones first."""
        return list(self.scores)

    @property
    def one(self) -> Scores:
        """The first of them: model, task and units are the same in all."""
        return next(iter(self.scores.values()))

    @property
    def ablations(self) -> list[str]:
        """What was compared."""
        return [name.removeprefix("exact, ") for name in self.names if name.startswith("exact, ")]

    @cached_property
    def agreements(self) -> dict[tuple[str, str], Agreement]:
        """Every two of them (first, second in the order of `names`) compared over all units."""
        return {
            (a, b): agreement_across(self.scores[b], self.scores[a], "replacements")
            for i, a in enumerate(self.names)
            for b in self.names[i + 1 :]
        }

    def between(self, a: str, b: str) -> Agreement:
        """Agreement of two of them, whatever their order."""
        for known in (a, b):
            if known not in self.scores:
                raise MethodError(f"{known!r} was not computed; there are {', '.join(self.names)}.")
        return self.agreements[(a, b) if (a, b) in self.agreements else (b, a)]

    def correlations(self, by: str = "r") -> pd.DataFrame:
        """All against all: "r", "spearman" (of effects with their sign) or "jaccard" (of the tops)."""
        kinds = {
            "r": lambda a, b: self.between(a, b).r,
            "spearman": lambda a, b: self.between(a, b).spearman,
            "jaccard": lambda a, b: self.between(a, b).jaccard(self.top),
        }
        if by not in kinds:
            raise MethodError(not_known("by", by, kinds))
        return square(self.names, kinds[by])

    def table(self) -> pd.DataFrame:
        """One row per unit: effect and standard error by each, as shares of the gap; strongest first."""
        table = self.one.units.table()
        table["n"] = self.one.n
        for name, scores in self.scores.items():
            table[f"effect: {name}"] = scores.scaled().numpy()
            table[f"stderr: {name}"] = scores.scaled_stderr().numpy()
        largest = np.max([np.abs(table[f"effect: {name}"]) for name in self.names], axis=0)
        return table.iloc[np.argsort(-largest, kind="stable")].reset_index(drop=True)

    def overview(self) -> pd.DataFrame:
        """One row per ablation: size of effects, r with the counterfactual ones, how well IG estimates it, cost."""
        import pandas as pd

        rows = []
        for ablation in self.ablations:
            name, estimate = f"exact, {ablation}", f"IG, {ablation}"
            effects = self.scores[name].scaled().double().abs().numpy()
            row: dict[str, object] = {"ablation": ablation, "n": self.one.n, "mean |effect|": effects.mean()}
            row |= {"largest |effect|": effects.max(), "strongest": self.strongest(name)[0]}
            row["r with counterfactual"] = self._r(name, "exact, counterfactual")
            row["r of IG"] = self._r(estimate, name)
            row["r of IG with counterfactual"] = self._r(estimate, "exact, counterfactual")
            row["token-layers"] = self.scores[name].cost.token_layers
            rows.append(row)
        return pd.DataFrame(rows)

    def _r(self, a: str, b: str) -> float:
        known = a in self.scores and b in self.scores
        return 1.0 if known and a == b else self.between(a, b).r if known else float("nan")

    def strongest(self, name: str) -> list[str]:
        """The `top` strongest units by one of them."""
        return self.scores[name].units[self.scores[name].ranking()[: self.top]].names

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a researcher would write."""
        kind, said = self.one.units.kind, []
        exacts = [f"exact, {ablation}" for ablation in self.ablations]
        pairs = [(a, b) for i, a in enumerate(exacts) for b in exacts[i + 1 :]]
        if pairs:
            near, far = (pick(pairs, key=lambda pair: self.between(*pair).r) for pick in (max, min))
            said.append(
                f"Over {len(self.one):,} {kind} and {counted(self.one.n, 'pair')} the exact effects that agree best "
                f"are those of {_two(near)} (r = {_interval(self.between(*near))}), worst those of {_two(far)} "
                f"(r = {_interval(self.between(*far))})."
            )
        if "counterfactual" in self.ablations and len(exacts) > 1:
            others = [name for name in exacts if name != "exact, counterfactual"]
            parts = [
                f"{name.removeprefix('exact, ')} {self.between(name, 'exact, counterfactual').jaccard(self.top):.2f}"
                for name in others
            ]
            said.append(
                f"Jaccard of the {self.top} strongest with those of the counterfactual ablation: {listed(parts)}."
            )
        estimated = [a for a in self.ablations if f"IG, {a}" in self.scores]
        if estimated:
            parts = [f"{a} {_interval(self.between(f'IG, {a}', f'exact, {a}'))}" for a in estimated]
            said.append(f"IG to a baseline against the exact effect of the same ablation, r: {listed(parts)}.")
        crossed = [a for a in estimated if a != "counterfactual"]
        if crossed and "counterfactual" in self.ablations:
            parts = [f"{a} {_interval(self.between(f'IG, {a}', 'exact, counterfactual'))}" for a in crossed]
            said.append(f"Against the counterfactual effects, r: {listed(parts)}.")
        if missing := [name for name in ABLATIONS if name not in self.ablations]:
            said.append(f"Not compared: {listed(missing)}.")
        if "optimal" in self.ablations:
            said += [note for note in self.scores["exact, optimal"].notes if "constant" in note]
        return tuple(said)

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file with a JSON header, whole or not at all; see `load`."""
        return write_all(path, _FORMAT, {"top": self.top, "order": self.names}, self.scores)

    @classmethod
    def load(cls, path: str | Path) -> Baselines:
        """Read what `save` wrote; FileError for any other file."""
        own, scores = read_all(path, _FORMAT)
        with reading(at(path)):
            names = many(one_of(*scores), least=1)(own["order"])
            same_table(scores)
            known = [f"{kind}, {ablation}" for kind in ("exact", "IG") for ablation in ABLATIONS]
            for name in names:
                one_of(*known)(name)
            return cls({name: scores[name] for name in names}, whole(1)(own["top"]))

    def describe(self) -> str:
        """What these numbers are."""
        return "\n".join(
            [
                f"baselines compared · {len(self.one):,} {self.one.units.kind} · {', '.join(self.ablations)}",
                f"model   {self.one.model['source']}",
                f"task    {self.one.task['description']}",
                "sign    E = M(clean, unit replaced) − M(clean), share of the counterfactual gap; negative: support",
                f"n       {counted(self.one.n, 'pair')}",
                *(f"caution {caution}" for caution in self.one.cautions),
                "trust   exact effects, and IG compared with them",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])


def baselines(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    ablations: Sequence[str] | None = None,
    nodes: int = NODES,
    learning: Learning = QUICK,
    most: int | None = MOST,
    top: int | None = None,
    known: Mapping[str, Scores] | None = None,
    reference: Task | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Baselines:
    """Exact effects and IG by every ablation, and which of them agree with which.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: as for `vc.exact`, at all positions; no edges.
        ablations: which of "counterfactual", "zero", "mean", "resample", "optimal" (default: all, without "resample"
            where some pair has no other prompt of its length).
        nodes: points on IG's layer path.
        learning, most: of the optimal constants, see `vc.effects.optimal_constants`.
        top: strongest units that are compared as sets (None: 10; of ten units or fewer half).
        known: scores that were computed already with these arguments, by their names here ("exact, counterfactual",
            "IG, zero", …): they are taken as they are.
        reference: prompts for mean and resample (default: the task's own).
        seed: of resampling.
        out: a folder to keep finished pieces in; an interrupted call continues from them.
        show_progress: show progress bars.

    Returns:
        `Baselines`, effects as shares of the counterfactual gap.

    Raises:
        MethodError: an unknown ablation; edges or single positions; others as for `vc.exact` and `vc.attribute`.

    >>> vc.counterfactuals.baselines(lm, task, units="heads").overview()
    """
    ablations = _checked(task, ablations, reference, seed)
    top = require_top(top, len(resolve_units(lm, units, max(task.lengths))))
    known, scores = dict(known or {}), {}
    constants = None
    if "optimal" in ablations and not {"exact, optimal", "IG, optimal"} <= set(known):
        constants = optimal_constants(
            lm, task, units=units, learning=learning, most=most, out=out, show_progress=show_progress
        )
    for ablation in ablations:
        name = f"exact, {ablation}"
        scores[name] = known.get(name) or exact(
            lm, task, units=units, ablation=ablation, seed=seed, out=out, show_progress=show_progress,
            reference=reference if ablation in ("mean", "resample") else None,
            constants=constants if ablation == "optimal" else None,
        )  # fmt: skip
    for ablation in ablations:
        name = f"IG, {ablation}"
        scores[name] = known.get(name) or _integrated(
            lm, task, units, ablation, nodes, reference, seed, constants, out, show_progress
        )
    return Baselines(scores, top)


def planned_compare_baselines(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    ablations: Sequence[str] | None = None,
    nodes: int = NODES,
    learning: Learning = QUICK,
    most: int | None = MOST,
    known: Sequence[str] = (),
    reference: Task | None = None,
    seed: int = 0,
) -> float:
    """Token-layers that `baselines` will take; `known`: names of scores that will be given.

    For optimal constants an upper bound, but for the depth of the units that will be learned (see `planned_optimal`).
    """
    ablations = _checked(task, ablations, reference, seed)
    total = 0.0
    for ablation in ablations:
        if f"exact, {ablation}" not in known:
            # the means of optimal ablation are recorded with its constants
            kind = "zero" if ablation == "optimal" else ablation
            total += planned_exact(lm, task, units=units, ablation=kind, reference=reference)
        if f"IG, {ablation}" not in known:
            total += planned(lm, task, units=units, method="ig", baseline=_BASELINE_OF[ablation], nodes=nodes)
            share = ablation == "counterfactual"
            total += recorded_runs(lm, task, share) + unpatched_run(lm, task, share)
            total += 0 if ablation == "optimal" else planned_reference(lm, reference or task, task, ablation)
    if "optimal" in ablations and not {"exact, optimal", "IG, optimal"} <= set(known):
        total += planned_optimal(lm, task, units=units, learning=learning, most=most)
    return total


def possible_baselines(task: Task, *, reference: Task | None = None, seed: int = 0) -> list[str]:
    """The ablations that can be compared on these pairs: resampling needs another prompt of the length of each."""
    source = reference or task
    lacking = without_donor(task, donors_of([*source.clean, *source.corrupted], seed)) is not None
    return [name for name in ABLATIONS if name != "resample" or not lacking]


def _checked(task: Task, ablations: Sequence[str] | None, reference: Task | None, seed: int) -> Sequence[str]:
    """What is to be compared; MethodError for an ablation that is not known or named twice."""
    if ablations is None:
        return possible_baselines(task, reference=reference, seed=seed)
    unknown = [name for name in ablations if name not in ABLATIONS]
    if unknown or not ablations or len(set(ablations)) < len(ablations):
        raise MethodError(f"ablations={list(ablations)!r}: choose different ones among {', '.join(ABLATIONS)}.")
    return ablations


def _integrated(
    lm: Model,
    task: Task,
    units: str | Sequence[str] | Units,
    ablation: str,
    nodes: int,
    reference: Task | None,
    seed: int,
    constants: OptimalConstants | None,
    out: str | Path | None,
    show: bool,
) -> Scores:
    """IG to one baseline, from the folder if it is there."""
    table = resolve_units(lm, units, max(task.lengths))
    over = {"baseline": _BASELINE_OF[ablation], "nodes": nodes, "seed": seed}
    given = constants if ablation == "optimal" else None
    source = reference if ablation in ("mean", "resample") else None
    path = None
    if out is not None:
        asked: list[object] = [__version__, lm.identity, task.digest(), table.digest(), over]
        asked += [one.digest() if one else None for one in (given, source)]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
        path = at(out) / f"ig-{table.kind}-{ablation}-{key}.safetensors"
        if path.exists():
            return confirmed(load_scores(path), lm, lm.measure(task), path)
    found = attribute(lm, task, units=table, method="ig", reference=source, constants=given, show_progress=show, **over)  # type: ignore[arg-type]
    if path is not None:
        keep(lambda: found.save(path))
    return found


def _two(pair: tuple[str, str]) -> str:
    return " and ".join(name.removeprefix("exact, ") for name in pair)


def _interval(found: Agreement) -> str:
    """0.93 (0.88 to 0.96): r with its interval over pairs, where there is one."""
    low, high = found.intervals.get("r", (float("nan"), float("nan")))
    r = number(found.r)
    return f"{r} ({number(low)} to {number(high)})" if np.isfinite(low) else r


def number(r: float) -> str:
    """0.93 or −0.04."""
    return f"{r:.2f}".replace("-", "−")

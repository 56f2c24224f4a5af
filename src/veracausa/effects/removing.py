"""Removal curves computed: sets of the strongest units, the same units one by one, and pairs of them (`removals`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from veracausa.arguments import rising_sizes, shown
from veracausa.choices import Ablation, Direction, Ranking
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.crossing_rows import alone as each_alone
from veracausa.effects.exact import ExactWork, exact
from veracausa.effects.instead import Instead
from veracausa.effects.interacting import InteractionsWork, interactions
from veracausa.effects.laid import named_units, with_dictionary
from veracausa.effects.removals import ALL, RemovalCurve, others, top
from veracausa.engine.work import Composed, Work, gives
from veracausa.errors import MethodError, UnitError
from veracausa.scores.about import require_about
from veracausa.scores.estimands import BASELINES
from veracausa.scores.scores import Scores
from veracausa.units.edges import Edges
from veracausa.units.groups import Groups
from veracausa.units.paths import Paths

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task
    from veracausa.units.members import Member
    from veracausa.units.table import Units

#: Units up to which all are run alone where nothing else is asked for.
_ALL_ALONE = 1000


@dataclass(frozen=True, eq=False)
class RemovalWork(Composed):
    """Exact effects of sets, singles and pairs; see `removal_curve`. `known`: singles that need no run."""

    lm: Model
    task: Task
    ranked: tuple[str, ...]
    sizes: tuple[int, ...]
    ranking: str
    known: Scores | None
    works: Mapping[str, ExactWork | InteractionsWork]
    kind: ClassVar[str] = "exact"

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return all(work.alone for work in self.works.values())

    def parts(self, given: Collection[str] = ()) -> dict[str, Work]:
        """The effects of "alone", "sets" and "pairs"."""
        return {name: work for name, work in self.works.items() if name not in given}

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> RemovalCurve:
        """Run them all."""
        found = {name: work.run(show_progress, out) for name, work in self.works.items()}
        alone = found["alone"] if self.known is None else self.known
        return RemovalCurve(self.ranked, self.sizes, self.ranking, alone, found["sets"], found.get("pairs"))


@gives(RemovalCurve)
def removal_curve(
    lm: Model,
    task: Task,
    scores: Scores,
    *,
    sizes: Sequence[int] | None = None,
    singles: int | None = None,
    pairs: int = 6,
    by: Ranking = "abs_mean",
    ablation: Ablation | Instead | None = None,
    direction: Direction | None = None,
    reference: Reference | None = None,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> RemovalWork:
    """Replace the strongest units together, and all but them, size by size, beside the sum of their single effects.

    Args:
        lm: the model.
        task: the pairs; held-out ones, if the ranking has seen others.
        scores: any ranking of units, exact or estimated; edges and paths have `vc.curve` and `vc.circuits.cause_curve`.
        sizes: how many units are taken (default: 1, 3, 10, 30, …, and all).
        singles: how many of the strongest are run alone, for their sum (default: all, of more than 1,000 units those
            of the largest set that is not all). Sums of more are NaN.
        pairs: among how many of the strongest units the interactions of pairs are run; 0: none.
        by: strongest by |mean E| ("abs_mean"), mean |E| ("mean_abs") or signed importance ("importance").
        ablation, direction: as for `vc.exact` (default: what the scores are of).
        reference, dictionary, seed, out, memory, show_progress: as for `vc.exact`.

    Returns:
        `RemovalCurve`. Exact scores of the same pairs, replacement and direction serve as the singles; nothing of
        them is run again.

    Raises:
        UnitError: scores of edges, paths, or of units that overlap or that not all pairs have. MethodError: scores of
        another model, sizes out of range, learned constants. Others as for `vc.exact`.

    Cost: two sets for each size, one more, the singles, and pairs · (pairs + 1) / 2 rows.

    >>> vc.effects.removal_curve(lm, task, vc.attribute(lm, task, units="neurons"), sizes=(10, 100)).table()
    """
    lm, _ = named_units(with_dictionary(lm, dictionary), scores.units)
    require_about(lm, scores)
    members = members_of(scores.units, task)
    order = np.array(scores.ranking(by))
    wanted = rising_sizes(sizes, len(order), least=1, what="sets")
    inner = [size for size in wanted if size < len(order)]
    asked: dict[str, Any] = {
        "ablation": _ablation(scores) if ablation is None else ablation,
        "direction": scores.direction if direction is None else direction,
        "reference": reference,
        "seed": seed,
    }
    if asked["ablation"] == "optimal":
        raise MethodError(
            "ablation='optimal' learns constants for every call; take 'zero', 'mean' or 'counterfactual'."
        )
    count = _singles(singles, inner, len(order))
    first = exact.work(lm, task, units=scores.units[order[:count]], **asked)
    known = _known(scores, order[:count], task, first)
    works: dict[str, ExactWork | InteractionsWork] = {} if known is not None else {"alone": first}
    strongest = [members[i] for i in order]
    works["sets"] = exact.work(lm, task, units=_sets(strongest, inner), **asked)
    if (most := _pairs(pairs, len(order))) > 1:
        both = Groups.of([(*one, *other) for one, other in combinations(strongest[:most], 2)])
        works["pairs"] = interactions.work(lm, task, units=both, **asked)
    names = tuple(scores.units.names[i] for i in order)
    return RemovalWork(lm, task, names, wanted, f"{scores.method} ({by})", known, works)


def members_of(units: Units, task: Task) -> tuple[tuple[Member, ...], ...]:
    """What each unit is made of, as a group."""
    if isinstance(units, Edges | Paths) or (units.joint and not isinstance(units, Groups)):
        raise UnitError(
            f"Sets are of units that can be replaced together, not of {units.kind}: for rankings of edges take "
            "vc.curve or vc.circuits.cause_curve."
        )
    if units.positional and int(units.furthest.max()) >= min(task.lengths):
        raise UnitError(
            f"Some of these units are at position {int(units.furthest.max())}, which a prompt of {min(task.lengths)} "
            "tokens does not have: sets of them would be of the longer prompts alone. Take pairs of one length, or "
            "units at all positions or at spans."
        )
    return units.members if isinstance(units, Groups) else each_alone(units).members


def _ablation(scores: Scores) -> Ablation:
    """What replaces units in the effects that scores are, or that they estimate."""
    own, baseline = (scores.settings.get(name) for name in ("ablation", "baseline"))
    if own in BASELINES.values():
        return own  # type: ignore[return-value]
    if baseline in BASELINES:
        return BASELINES[str(baseline)]
    raise MethodError(
        f"The scores have ablation {own!r} and baseline {baseline!r}, so say what replaces units: ablation='zero', "
        "'mean', 'counterfactual', …"
    )


def _singles(singles: int | None, inner: list[int], units: int) -> int:
    """How many units are run alone."""
    if singles is None:
        return units if units <= _ALL_ALONE else max(inner, default=units)
    if not 1 <= singles <= units:
        raise MethodError(f"singles={shown(singles)}: between 1 and {units:,} units are run alone here.")
    return singles


def _pairs(pairs: int, units: int) -> int:
    if pairs < 0 or pairs == 1:
        raise MethodError(f"pairs={pairs}: pairs are among 2 units or more; 0 for none.")
    return min(pairs, units)


def _known(scores: Scores, order: np.ndarray, task: Task, work: ExactWork) -> Scores | None:
    """The scores of the units that are run alone, where they are what the work would give."""
    same = all(scores.settings.get(name) == value for name, value in work.settings.items())
    if scores.method != "exact" or scores.task["digest"] != task.digest() or not same or work.learn is not None:
        return None
    spread = None if scores.draw_stderr is None else scores.draw_stderr[:, order]
    return replace(scores, values=scores.values[:, order], units=scores.units[order], draw_stderr=spread)


def _sets(strongest: Sequence[tuple[Member, ...]], sizes: Sequence[int]) -> Groups:
    """The sets of every size, and of all units."""
    sets = {top(size): strongest[:size] for size in sizes} | {others(size): strongest[size:] for size in sizes}
    sets[ALL] = strongest
    return Groups.of([[one for unit in own for one in unit] for own in sets.values()], [*sets])

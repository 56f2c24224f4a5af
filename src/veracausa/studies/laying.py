"""Lays two results beside each other: which of their units correspond, and whether their pairs are the same.

Units correspond if they have the same name in models of the same configuration: `a9.h6` of another architecture is
another head. The pairs are the same if the tasks have the same digest; of studies, which hold their prompts, if the
clean prompts are the same, whatever they are compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from veracausa.engine.identity import require_same_configuration
from veracausa.errors import MethodError, UnitError
from veracausa.receipts.receipts import Receipt
from veracausa.scores.comparison import Compared, Comparison
from veracausa.scores.scores import METRIC, Scores
from veracausa.studies.results import Panel, Section, Study
from veracausa.tasks.task import Task
from veracausa.units.edges import Edges
from veracausa.units.kinds import singular
from veracausa.units.paths import Paths
from veracausa.units.table import Units


def beside(one: Any, other: Any, *, paired: bool | None = None, corresponding: bool = False) -> Comparison:
    """Lay two results side by side: scores, receipts (their scores) or studies (their exact effects). No model is run.

    Args:
        one, other: the results; differences are those of the other less those of the one.
        paired: whether the pairs are the same, in the same order; None: see the module.
        corresponding: that units of the same name are the same part, although the models have other configurations,
            such as a model and the same with an adapter.

    Raises:
        UnitError: their units cannot be matched: other kinds, other models, other dictionaries, none in common.
        MethodError: they are no such results; values of other units; `paired` where the pairs cannot be the same.

    >>> vc.studies.beside(vc.open("out/base"), vc.open("out/tuned"), corresponding=True).describe()
    """
    if isinstance(one, Study) and isinstance(other, Study):
        return _studies(one, other, paired, corresponding)
    first, second = _scores(one), _scores(other)
    return Comparison((_compared(_titled(first.units), first, second, paired, corresponding),))


def _scores(result: Any) -> Scores:
    if isinstance(result, Receipt):
        return result.scores
    if isinstance(result, Scores):
        return result
    raise MethodError(
        f"A {type(result).__name__} cannot be laid beside another result: two scores, receipts or studies can. The "
        "scores of a study or discovery lie in the folder “scores” beside its page; vc.open reads each."
    )


def _studies(one: Study, other: Study, paired: bool | None, corresponding: bool) -> Comparison:
    """Sections with the same task, else of the same title, else the only ones left; of them, kinds of both."""
    compared: list[Compared] = []
    left: list[str] = []
    pairs, alone = _sections(one.sections, other.sections)
    left += [f"Only in {name}: {title}." for name, title in alone]
    for mine, theirs in pairs:
        title = mine.title if mine.title == theirs.title else f"{mine.title} (A), {theirs.title} (B)"
        same = paired if paired is not None else _same_prompts(mine.task, theirs.task)
        panels, lone = _panels(mine.panels, theirs.panels)
        left += [f"Only in {name}, {title}: {kind}." for name, kind in lone]
        compared += [
            _compared(f"{title}: {_titled(panel.exact.units)}", panel.exact, fellow.exact, same, corresponding)
            for panel, fellow in panels
        ]
    if not compared:
        raise UnitError(f"These studies have nothing in common to compare. {' '.join(left)}")
    return Comparison(tuple(compared), tuple(left))


Sections = list[tuple[Section, Section]]


def _sections(ones: Sequence[Section], others: Sequence[Section]) -> tuple[Sections, list[tuple[str, str]]]:
    mine, theirs, pairs = list(ones), list(others), []
    for same in (lambda a, b: a.task.digest() == b.task.digest(), lambda a, b: a.title == b.title):
        for section in list(mine):
            found = [fellow for fellow in theirs if same(section, fellow)]
            if found:
                pairs.append((section, found[0]))
                mine.remove(section)
                theirs.remove(found[0])
    if len(mine) == len(theirs) == 1:
        pairs.append((mine.pop(), theirs.pop()))
    order = {id(section): i for i, section in enumerate(ones)}
    pairs.sort(key=lambda pair: order[id(pair[0])])
    return pairs, [*(("A", one.title) for one in mine), *(("B", one.title) for one in theirs)]


def _panels(ones: Iterable[Panel], others: Iterable[Panel]) -> tuple[list[tuple[Panel, Panel]], list[tuple[str, str]]]:
    def of(panels: Iterable[Panel]) -> dict[tuple[str, str], Panel]:
        return {(panel.kind, panel.exact.units.apart): panel for panel in panels}

    mine, theirs = of(ones), of(others)
    lone = [("A", _titled(mine[key].exact.units)) for key in mine.keys() - theirs.keys()]
    lone += [("B", _titled(theirs[key].exact.units)) for key in theirs.keys() - mine.keys()]
    return [(mine[key], theirs[key]) for key in mine if key in theirs], sorted(lone)


def _titled(units: Units) -> str:
    """heads, neurons per position"""
    return f"{singular(units.kind)}s{units.apart}"


def _same_prompts(one: Task, other: Task) -> bool:
    """Whether pair i of both has the same clean prompt, as text: models may read it as other tokens."""
    if len(one) != len(other):
        return False
    return all("".join(one.tokens(i)[0]) == "".join(other.tokens(i)[0]) for i in range(len(one)))


def _compared(title: str, one: Scores, other: Scores, paired: bool | None, corresponding: bool) -> Compared:
    _require_same_units(one, other, corresponding)
    _require_same_scale(one, other)
    alike = one.n == other.n
    first, second, alone = _matched(one, other)
    if paired and not (alike and _same_gaps_in(first, second)):
        raise MethodError(
            f"paired=True: the results have {one.n:,} and {other.n:,} pairs"
            + ("." if not alike else ", but other pairs lack a unit in one than in the other.")
        )
    same = alike and one.task["digest"] == other.task["digest"] if paired is None else paired
    return Compared(title, first, second, bool(same and _same_gaps_in(first, second)), alone)


def _same_gaps_in(one: Scores, other: Scores) -> bool:
    """Whether the same pairs lack the same units (have no such position)."""
    return one.values.shape == other.values.shape and bool((one.values.isnan() == other.values.isnan()).all())


def _require_same_units(one: Scores, other: Scores, corresponding: bool) -> None:
    """UnitError unless units of the same name are the same part in both."""
    if one.units.kind != other.units.kind:
        raise UnitError(f"The results are about {one.units.kind} and {other.units.kind}; compare one kind.")
    if not corresponding:
        named = f"a unit of one, such as {one.units.names[0]},"
        require_same_configuration(one.model, other.model, named, "unit", "vc.studies.beside")
    graphs = [scores.units.graph.header if isinstance(scores.units, Edges | Paths) else None for scores in (one, other)]
    if graphs[0] != graphs[1]:
        raise UnitError("The results are about edges of two graphs of other shapes; they have no edges in common.")
    digests = [scores.settings.get("dictionary_digest") for scores in (one, other)]
    if digests[0] != digests[1] and not corresponding:
        raise UnitError(
            f"The results are about {one.units.kind} of other dictionaries, so that {one.units.names[0]} is another in "
            "each. Compare results of the same dictionaries."
        )


def _require_same_scale(one: Scores, other: Scores) -> None:
    """MethodError unless the values can be on one scale."""
    if one.has_shares and other.has_shares:
        return
    told = [scores.task["metric"] if scores.unit == METRIC else scores.unit for scores in (one, other)]
    if told[0] != told[1]:
        raise MethodError(
            f"The values are of {told[0]} and of {told[1]}, and are not both shares of a gap, so that their difference "
            "means nothing."
        )


def _matched(one: Scores, other: Scores) -> tuple[Scores, Scores, tuple[int, int]]:
    """Both with the units that both have a value of, in the order of the first; how many each has alone."""
    theirs = {key: i for i, key in enumerate(other.units.keys) if bool((~other.values[:, i].isnan()).any())}
    has = (~one.values.isnan()).any(0).tolist()
    rows = [(i, theirs[key]) for i, key in enumerate(one.units.keys) if has[i] and key in theirs]
    if not rows:
        raise UnitError(
            f"No unit is in both results, so there is nothing to compare: they name other {one.units.kind}."
        )
    mine, fellows = (np.array(column) for column in zip(*rows, strict=True))
    return _only(one, mine), _only(other, fellows), (sum(has) - len(rows), len(theirs) - len(rows))


def _only(scores: Scores, chosen: np.ndarray) -> Scores:
    if np.array_equal(chosen, np.arange(len(scores))):
        return replace(scores, completeness=None, draw_stderr=None)
    return replace(
        scores, values=scores.values[:, chosen], units=scores.units[chosen], completeness=None, draw_stderr=None
    )  # fmt: skip

"""What the page's own script knows of a study: units, effects pair by pair, estimates, and what findings say of units.

docs/page.md describes it. Columns of numbers are kept once in the page (`report.packing`); here stand their places.
Effects are shares of the mean gap where there is one ("share"), else in the unit of the metric: pair i's number is
effect / mean gap, so that the mean over pairs is the share that tables show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from veracausa.circuits.quality.curve import Curve
from veracausa.report.charts.data import effects, errors, match, number, plural
from veracausa.report.instrument.circuits import study_circuit
from veracausa.report.instrument.naming import in_place
from veracausa.report.instrument.told import CALLS, Told, tell
from veracausa.report.packing import Columns
from veracausa.report.pages.asked import asked
from veracausa.scores.scores import Scores
from veracausa.statistics.ratios import LEVEL
from veracausa.units.kinds import singular
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.report.pages.asked import Token
    from veracausa.report.pages.panels import PanelView, SectionView


def contents(views: Sequence[SectionView], columns: Columns) -> dict[str, Any]:
    """All sections of a study as the page's script reads them."""
    calls = [{"what": what, "title": title, "call": call} for what, title, call in CALLS]
    return {"sections": [_section(view, columns) for view in views], "calls": calls}


def _section(view: SectionView, columns: Columns) -> dict[str, Any]:
    section, shown = view.section, asked(view.section)
    pairs = [
        {
            "clean": _words(one.clean), "corrupted": _words(one.corrupted), "differs": [t.differs for t in one.clean],
            "correct": one.correct, "incorrect": one.incorrect[:6], "gap": number(one.gap),
        }
        for one in (*shown.first, *shown.more)
    ]  # fmt: skip
    return {
        "id": view.name,
        "title": section.title,
        "metric": section.task.metric,
        "pairs": pairs,
        "kinds": [_kind(panel, columns) for panel in view.panels],
        "told": packed_told(tell(section.findings), columns),
        "circuits": _circuits(view, columns),
    }


def _circuits(view: SectionView, columns: Columns) -> list[dict[str, Any]]:
    """The section's scores of edges as a live circuit, with what was run of it."""
    findings = view.section.findings
    every = [one for one in findings if isinstance(one, Scores)]
    scores, placed = ([one for one in every if one.units.positional is at] for at in (False, True))
    curves = [one for one in findings if isinstance(one, Curve)]
    places = [chapter.live for chapter in view.chapters if chapter.live]
    task, rest = view.section.task, (next(iter(curves), None), next(iter(placed), None))
    return [study_circuit(one, *rest, task, at, columns) for one, at in zip(scores, places, strict=True)]


def _words(tokens: Sequence[Token]) -> list[str]:
    return [token.text for token in tokens]


def _kind(view: PanelView, columns: Columns) -> dict[str, Any]:
    """One kind of unit: a map's worth of names, places, effects and estimates."""
    exact, panel = view.panel.exact, view.panel
    units = exact.units
    values, title = effects(exact)
    low, high = interval(exact)
    return {
        **placed(units, columns),
        "first": "exact",
        "laid": False,
        "anchor": view.name,
        "n": exact.n,
        "share": exact.has_shares,
        "title": title,
        "supports": {"noising": -1, "denoising": 1}.get(exact.direction, 0) if exact.signed else 0,
        "sampled": panel.sampled,
        "exact": ranged(values, low, high, columns),
        "each": _numbers(_each(exact), columns) if exact.n > 1 and exact.per_example else None,
        "estimates": [
            {
                "label": label, "alike": scores.signed and effects(scores)[1] == title, "title": effects(scores)[1],
                "value": _numbers(match(scores, units), columns),
            }
            for scores, label in zip(panel.estimates, panel.labels, strict=True)
        ],
    }  # fmt: skip


def placed(units: Units, columns: Columns) -> dict[str, Any]:
    """Units by kind, name and place."""
    return {
        "kind": units.kind,
        "one": singular(units.kind),
        "many": plural(units.kind),
        "names": columns.add(units.names),
        "said": in_place(units.kind),
        "layer": columns.add(units.layer.tolist()),
        "index": columns.add(units.index.tolist()),
        "position": columns.add(units.position.tolist()),
    }


def ranged(values: np.ndarray, low: np.ndarray, high: np.ndarray, columns: Columns) -> dict[str, Any]:
    """Numbers and the ends of their intervals."""
    return {"value": _numbers(values, columns), "low": _numbers(low, columns), "high": _numbers(high, columns)}


def interval(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Student's 95% interval of every effect over its pairs, on the scale of `charts.data.effects`.

    mean ± t(n − 1) · standard error; NaN where no error is known: a single pair, a gap that is not told from 0.
    """
    value, error = effects(scores)[0], errors(scores)
    count = scores.pairs().numpy()
    times = stats.t.ppf((1 + LEVEL) / 2, np.maximum(count - 1, 1))
    half = np.where(count > 1, times * error, np.nan)
    return value - half, value + half


def _each(scores: Scores) -> np.ndarray:
    """Every pair's effect, unit after unit: [units · pairs]; over the mean gap where `effects` are shares of it."""
    values = scores.values.double().numpy()
    if scores.has_shares:
        has = np.isfinite(values)
        values = values / ((has * scores.gap.double().numpy()[:, None]).sum(0) / np.maximum(has.sum(0), 1))
    return values.T.ravel()


def _numbers(values: np.ndarray, columns: Columns) -> dict[str, int]:
    """A column of so many digits as a reader can use: five."""
    return columns.add([None if not np.isfinite(v) else float(f"{v:.5g}") for v in values.tolist()])


def packed_told(told: Sequence[Told], columns: Columns) -> list[dict[str, Any]]:
    """What findings say of single units: sentences, numbers, curves, answers."""
    made = []
    for one in told:
        packed: dict[str, Any] = {
            "what": one.what,
            "title": one.title,
            "about": one.about,
            "units": columns.add(one.units),
        }
        for name, column in one.columns.items():
            packed.setdefault("columns", {})[name] = columns.add([_short(value) for value in column])
        made.append(packed)
    return made


def _short(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_short(one) for one in value]
    return number(float(value)) if isinstance(value, (float, np.floating)) else value

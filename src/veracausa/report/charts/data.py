"""From scores to rows of a chart: plain records with names, places and numbers, and which units to draw."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from veracausa.scores.scores import METRIC, Scores
from veracausa.units.at_spans import SpanUnits
from veracausa.units.kinds import singular
from veracausa.units.table import Units

Row = dict[str, Any]

#: Scatter charts draw at most this many points; beyond, the weak middle is thinned.
MOST_POINTS = 2500


def number(value: float) -> float | None:
    """A number as charts store it: six significant digits, None where there is none."""
    value = float(value)
    return float(f"{value:.6g}") if np.isfinite(value) else None


def effects(scores: Scores) -> tuple[np.ndarray, str]:
    """What a chart draws of scores, and its axis title: shares of the gap, or plain effects where there is none.

    Scores that are no effects on the metric are drawn in their own unit.
    """
    if scores.has_shares:
        return scores.normalised().double().numpy(), "effect, share of the gap"
    title = f"effect on {scores.task['metric']}" if scores.unit == METRIC else scores.unit
    return scores.mean().double().numpy(), title


def errors(scores: Scores) -> np.ndarray:
    """Standard errors of `effects`; NaN where they are not known."""
    found = scores.normalised_stderr() if scores.has_shares else scores.stderr()
    return found.double().numpy()


def keys(units: Units) -> list[tuple[Any, ...]]:
    """What every unit is, to match tables by."""
    return units.keys


def unit_rows(units: Units, columns: Mapping[str, np.ndarray], chosen: Iterable[int] | None = None) -> list[Row]:
    """One record per unit: name, layer, index, position and the given numbers."""
    chosen = range(len(units)) if chosen is None else list(chosen)
    names, places = units.names, np.stack([units.layer, units.index, units.position], 1).tolist()
    spans = units.spans if isinstance(units, SpanUnits) else None
    return [
        {"name": names[i], "layer": places[i][0], "index": places[i][1], "position": places[i][2]}
        | ({"span": spans[i]} if spans else {})
        | {column: number(values[i]) for column, values in columns.items()}
        for i in chosen
    ]


def match(scores: Scores, units: Units) -> np.ndarray:
    """The effects of `units` by `scores`, NaN where it has none."""
    values, _ = effects(scores)
    own = dict(zip(keys(scores.units), values.tolist(), strict=True))
    return np.array([own.get(key, float("nan")) for key in keys(units)])


class Datasets(dict[str, list[Row]]):
    """The named records of a chart, kept beside it: altair wraps and checks every number of data inside a chart.

    The live page can be asked for them: `view.data(name)`. `inline`: put them inside the chart after all, so that it
    stands alone (for notebooks).
    """

    def __init__(self, inline: bool = False) -> None:
        super().__init__()
        self.inline = inline

    def add(self, name: str, rows: Sequence[Row]) -> alt.NamedData | alt.InlineData:
        """Keep records under a name; returns what `alt.Chart` takes."""
        name = identifier(name)
        if self.inline:
            return alt.InlineData(values=list(rows), name=name)
        self[name] = list(rows)
        return alt.NamedData(name=name)


def identifier(text: str) -> str:
    """Letters, digits and hyphens of a text, for file names and anchors."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def heading(kind: str, apart: str) -> str:
    """A kind of unit as a heading: "Attention heads", "MLP neurons per position"; `apart` as in `Units.apart`."""
    words = {"heads": "Attention heads", "neurons": "MLP neurons", "residual": "Residual stream", "mlps": "MLPs"}
    words |= {"attention": "Attention layers", "shared": "Shared experts"}
    return words.get(kind, kind.capitalize()) + apart


def plural(kind: str) -> str:
    """A kind of unit within a sentence: "heads", "MLPs", "neurons"."""
    return f"{singular(kind)}s"


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS, keep: Sequence[int] = ()) -> list[int]:
    """Which of many points to draw: the extreme ones and an even, reproducible choice of the weak middle.

    Half of the places go to the points with the largest |x|, |y| or |y − x|; the other half to every n-th of the
    rest in the order of |x| + |y|. All points where there are no more than `most`.
    """
    count = len(x)
    if count <= most:
        return list(range(count))
    sixth = most // 6
    chosen = set(keep)
    measures: list[Callable[[], np.ndarray]] = [lambda: np.abs(x), lambda: np.abs(y), lambda: np.abs(y - x)]
    for measure in measures:
        chosen.update(np.argsort(-measure(), kind="stable")[:sixth].tolist())
    rest = [i for i in np.argsort(np.abs(x) + np.abs(y), kind="stable").tolist() if i not in chosen]
    places = np.linspace(0, len(rest) - 1, max(0, most - len(chosen))).round().astype(int)
    return sorted(chosen | {rest[i] for i in places.tolist()})

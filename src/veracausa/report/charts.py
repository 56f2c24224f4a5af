"""One chart of one `Scores`, for notebooks and the command line."""

from __future__ import annotations

from typing import Any

from veracausa.attribution.scores import Scores
from veracausa.report.data import Datasets, effects, errors
from veracausa.report.maps import limit_of, place_view
from veracausa.report.theme import LIGHT


def scores_chart(scores: Scores) -> Any:
    """Scores as an Altair chart.

    Heads: a layer × head map. MLPs, attention layers, residual stream: bars per layer, or a layer × position map if
    they are per position. Neurons, lists of units, heads per position: the 30 strongest. Colour and axes are shares of
    the gap (plain effects where the gap is zero); whiskers are one standard error, where there are several examples.

    >>> vc.exact(lm, task).chart().save("heads.png")
    """
    values, title = effects(scores)
    spread = errors(scores) if scores.n > 1 else None
    pairs = "1 pair" if scores.n == 1 else f"{scores.n} pairs"
    view = place_view(
        Datasets(inline=True), scores.units, {"effect": values}, "effect", "scores", title, limit_of(values),
        stderr=spread, palette=LIGHT.diverging,
    )  # fmt: skip
    heading = f"{scores.method}: {len(scores):,} {scores.units.kind}"
    return view.properties(title={"text": heading, "subtitle": f"{scores.model['name']}, {pairs}"}, width=360)

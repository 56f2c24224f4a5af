"""Units over the tokens of a prompt, as a coloured grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import View
from veracausa.report.charts.maps import NAMES
from veracausa.report.readable import readable

if TYPE_CHECKING:
    from jaxtyping import Float


def tokens_view(
    data: Datasets,
    name: str,
    values: Float[np.ndarray, "units tokens"],
    units: Sequence[str],
    tokens: Sequence[str],
    limits: Float[np.ndarray, " units"],
) -> View:
    """What each unit is at each token, coloured by its size as a share of the unit's limit; tooltips tell the value."""
    rows: list[Row] = [
        {
            "unit": unit, "position": position, "token": readable(tokens[position]), "value": number(own[position]),
            "share": float(abs(own[position]) / limit),
        }
        for unit, own, limit in zip(units, values, limits, strict=True)
        for position in range(len(tokens))
    ]  # fmt: skip
    texts = json.dumps([readable(token.strip() or "␣") for token in tokens])
    axis = alt.Axis(
        labelAngle=-50, domain=False, ticks=False, labelExpr=f"{texts}[datum.value]", labelOverlap=False, orient="top"
    )
    scale = alt.Scale(domain=[0, 1], range=alt.RangeEnum("ramp"), interpolate="rgb")
    legend = alt.Legend(title="share of the unit’s largest", titleLimit=0, orient="bottom", gradientLength=160,
                        values=[0, 0.5, 1])  # fmt: skip
    return (
        alt.Chart(data.add(name, rows))
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("position:O", title=None, axis=axis),
            y=alt.Y("unit:N", title=None, sort=list(units), axis=NAMES),
            color=alt.Color("share:Q", scale=scale, legend=legend),
            tooltip=[alt.Tooltip("unit:N"), alt.Tooltip("position:O"), alt.Tooltip("token:N"),
                     alt.Tooltip("value:Q", format=".4f")],
        )
        .properties(height=18 * len(units))
    )  # fmt: skip

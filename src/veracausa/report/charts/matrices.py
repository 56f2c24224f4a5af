"""Tables of numbers drawn as a coloured grid with the numbers in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number
from veracausa.report.charts.figures import View
from veracausa.report.charts.maps import colour
from veracausa.report.charts.theme import Support
from veracausa.words import plain

if TYPE_CHECKING:
    from jaxtyping import Float

#: Height of a row, in pixels.
_ROW = 21


def matrix_view(
    data: Datasets,
    name: str,
    values: Float[np.ndarray, "rows columns"],
    down: Sequence[str],
    across: Sequence[str],
    title: str,
    limit: float,
    support: Support | None = None,
    *,
    stderr: Float[np.ndarray, "rows columns"] | None = None,
    digits: int = 2,
    angle: int = 0,
) -> View:
    """A grid of numbers, coloured from −limit to +limit: effects, `support` says what their sign means, or agreement.

    `angle`: of the column labels.
    """
    rows: list[Row] = [
        {
            "row": one, "column": other, "value": number(values[i, j]), "text": plain(float(values[i, j]), digits),
            "stderr": None if stderr is None else number(stderr[i, j]),
            "strong": bool(abs(values[i, j]) > 0.55 * limit),
        }
        for i, one in enumerate(down)
        for j, other in enumerate(across)
    ]  # fmt: skip
    axis = alt.Axis(domain=False, ticks=False, labelLimit=190)
    top = alt.Axis(domain=False, ticks=False, labelAngle=angle, labelOverlap=False, orient="top", labelLimit=150)
    x = alt.X("column:N", sort=list(across), title=None, axis=top)
    y = alt.Y("row:N", sort=list(down), title=None, axis=axis)
    tips = [alt.Tooltip("row:N", title="row"), alt.Tooltip("column:N", title="column"),
            alt.Tooltip("value:Q", title=title, format="+.4f")]  # fmt: skip
    if stderr is not None:
        tips.append(alt.Tooltip("stderr:Q", title="± SE", format=".4f"))
    base = alt.Chart(data.add(name, rows)).encode(x=x, y=y, tooltip=tips)
    layers = [base.mark_rect(stroke=None).encode(color=colour(limit, title, support))]
    for style, test in ((theme.NAME, "!datum.strong"), (theme.INVERSE, "datum.strong")):
        layers.append(base.mark_text(style=style).encode(text="text:N").transform_filter(test))
    return alt.layer(*layers).properties(height=_ROW * len(down))

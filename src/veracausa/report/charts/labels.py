"""Where to write names beside points so that they do not lie on each other."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from veracausa.report.charts.data import Datasets, Row
from veracausa.report.charts.theme import NAME

#: Width and height of a chart for which names are placed, in pixels: about the narrowest that is drawn. On wider
#: charts points lie farther apart, so names that are free here are free there.
PLANE = (230, 240)
_CHARACTER, _LINE = 6.3, 12.0

Box = tuple[float, float, float, float]


def place_labels(
    names: Sequence[str],
    x: np.ndarray,
    y: np.ndarray,
    across: tuple[float, float],
    up: tuple[float, float],
    edges: Sequence[float] = (),
) -> list[tuple[float, float]]:
    """Offsets (dx, dy) in pixels of each name's middle from its point, in the order of importance.

    Each name takes the first of sixteen places around its point (right, left, above, below, then farther out) that is
    inside the chart and overlaps neither a name placed before nor another named point; the least bad one if none is.
    `edges`: values of y at which the right edge of the chart is written on already.
    """
    columns = (np.asarray(x) - across[0]) / (across[1] - across[0]) * PLANE[0]
    rows = (up[1] - np.asarray(y)) / (up[1] - up[0]) * PLANE[1]
    dots: list[Box] = [(c - 4, r - 4, c + 4, r + 4) for c, r in zip(columns.tolist(), rows.tolist(), strict=True)]
    taken: list[Box] = []
    for edge in edges:
        height = (up[1] - edge) / (up[1] - up[0]) * PLANE[1]
        taken.append((PLANE[0] - 52, height - 14, PLANE[0], height + 14))
    places = []
    for k, (column, row) in enumerate(zip(columns.tolist(), rows.tolist(), strict=True)):
        half = len(names[k]) * _CHARACTER / 2
        blocked = [*taken, *dots[:k], *dots[k + 1 :]]
        best, least = (half + 6, 0.0), float("inf")
        for dx, dy in _around(half):
            box = (column + dx - half, row + dy - _LINE / 2, column + dx + half, row + dy + _LINE / 2)
            cost = sum(_overlap(box, other) for other in blocked) + 3 * _outside(box)
            if cost < least:
                best, least = (dx, dy), cost
            if cost == 0:
                break
        dx, dy = best
        taken.append((column + dx - half, row + dy - _LINE / 2, column + dx + half, row + dy + _LINE / 2))
        places.append((round(dx, 1), round(dy, 1)))
    return places


def named_points(data: Datasets, name: str, rows: Sequence[Row]) -> alt.Chart:
    """Names at the offsets `dx`, `dy` that every row has; the caller encodes x, y and text."""
    dx, dy = alt.expr("datum.dx"), alt.expr("datum.dy")
    return alt.Chart(data.add(name, rows)).mark_text(style=NAME, align="center", baseline="middle", dx=dx, dy=dy)


def _around(half: float) -> list[tuple[float, float]]:
    side = half + 8
    near = [(side, 0.0), (-side, 0.0), (0.0, -11.0), (0.0, 11.0)]
    corners = [(side, -9.0), (-side, -9.0), (side, 9.0), (-side, 9.0)]
    far = [(0.0, -22.0), (0.0, 22.0), (side, -20.0), (-side, -20.0), (side, 20.0), (-side, 20.0)]
    return [*near, *corners, *far, (0.0, -33.0), (0.0, 33.0)]


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Box) -> float:
    beyond = max(0.0, -box[0]) + max(0.0, box[2] - PLANE[0])
    return _LINE * beyond + (box[2] - box[0]) * (max(0.0, -box[1]) + max(0.0, box[3] - PLANE[1]))

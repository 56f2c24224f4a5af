"""Attribution graphs drawn: the nodes with the most influence; live against frozen ablation."""

from __future__ import annotations

import numpy as np

from veracausa.graphs.checked import GraphCheck
from veracausa.graphs.graph import AttributionGraph
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Part
from veracausa.report.charts.maps import STRONGEST
from veracausa.report.charts.strengths import bars_view, diagonal_view


def attribution_part(found: AttributionGraph, name: str) -> Part:
    """Bars: influence of the strongest nodes, logits left out."""
    data, table = Datasets(inline=True), found.top(STRONGEST)
    view = bars_view(data, name, table["name"].tolist(), table["influence"].to_numpy(), "influence on the logits")
    said = " ".join(found.sentences)
    return Part("Nodes with the most influence", view, data, f"Bar chart. {said}", found.sentences[0])


def graph_check_part(found: GraphCheck, name: str) -> Part:
    """Dots: every node's effect in the frozen network against that in the live model."""
    data, table = Datasets(inline=True), found.table()
    names = [f"{one} (graph {graph})" for one, graph in zip(table.name, table.graph, strict=True)]
    columns = table.live.to_numpy(dtype=np.float64), table.frozen.to_numpy(dtype=np.float64)
    titles = ("live ablation: M without it − M", "frozen ablation")
    view = diagonal_view(data, name, *columns, table.kind.tolist(), titles, names)
    said = " ".join(found.sentences)
    return Part("Live against frozen ablation", view, data, f"Scatter. {said}", "\n".join(found.sentences))

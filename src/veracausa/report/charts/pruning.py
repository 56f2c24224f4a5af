"""Pruning drawn: which layers hold what a ranking finds, what is left of a model, and what it then does."""

from __future__ import annotations

import numpy as np

from veracausa.pruning.measures import RANKINGS
from veracausa.pruning.part_ranking import PartRanking
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Part
from veracausa.report.charts.strengths import bars_view


def ranking_part(found: PartRanking, name: str) -> Part:
    """What share of the first task's sum the parts of every layer hold."""
    data, own = Datasets(inline=True), found.values[0]
    layers = np.unique(found.parts.layer)
    held = np.array([own[found.parts.layer == layer].sum() for layer in layers]) / max(own.sum(), 1e-30)
    title = f"share of the sum of {RANKINGS[found.how]}"
    view = bars_view(data, name, [f"layer {layer}" for layer in layers], held, title)
    said = " ".join(found.sentences)
    return Part(f"Where {' and '.join(found.parts.kinds).replace('_', ' ')} are worth most", view, data,
                f"Bar chart. {said}", f"{found.how} on {found.task['name']}")  # fmt: skip

"""Circuits ablated on tasks, drawn: what each takes from each, and what random ones like it take."""

from __future__ import annotations

import numpy as np

from veracausa.circuits.quality.specificity import Specificity
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.matrices import matrix_view
from veracausa.report.charts.theme import Support

_TITLE = "share of the gap that is gone"


def specificity_part(found: Specificity, name: str, limit: float | None = None) -> Part:
    """The matrix of damage: circuits down, tasks across."""
    values, data = found.damage.numpy(), Datasets(inline=True)
    limit = max(1.0, float(np.abs(values).max())) if limit is None else limit
    view = matrix_view(data, name, values, found.circuits, [*found.tasks], _TITLE, limit, Support.POSITIVE,
                       stderr=found.stderr.numpy())  # fmt: skip
    said = " ".join(found.sentences)
    return Part("What each task loses without each circuit", view, data, f"Heat map. {said}", "rows: circuits")


def specificity_figure(found: Specificity, name: str) -> Figure:
    """The same beside the mean of random circuits of the same layer profile, on one scale."""
    drawn = found.random.double().mean(1).numpy()
    limit = max(1.0, float(found.damage.abs().max()), float(np.abs(drawn).max(initial=0)))
    parts = [specificity_part(found, name, limit)]
    if found.random.shape[1]:
        data, circuits = Datasets(inline=True), [*found.circuits]
        view = matrix_view(data, f"{name}-random", drawn, circuits, [*found.tasks], _TITLE, limit, Support.POSITIVE)
        told = f"mean of {found.random.shape[1]:,} draws"
        parts.append(Part("Random ones like it", view, data, f"Heat map of random ones, {told}.", told))
    said = "Rows: what is ablated; columns: the task that is asked."
    said += " Where the two matrices are alike, any edges do." if parts[1:] else ""
    return Figure(name, "What each task loses", tuple(parts), said, limit, Support.POSITIVE, _TITLE, 420, 420, 2)

"""Interactions of two layers drawn: the strongest sources against the strongest readers."""

from __future__ import annotations

import numpy as np

from veracausa.interplay.results import Interactions
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Part
from veracausa.report.charts.maps import limit_of
from veracausa.report.charts.matrices import matrix_view
from veracausa.report.charts.theme import Support

#: Sources and readers that are drawn.
SHOWN = 12


def interactions_part(found: Interactions, name: str) -> Part:
    """A grid of strengths: the sources and readers that the strongest pairs are of, in the order of the model."""
    readers, sources = (np.sort(list(dict.fromkeys(side.tolist()))[:SHOWN]) for side in found.ranking())
    values, data = found.strength.T[np.ix_(sources, readers)], Datasets(inline=True)
    down, across = [found.sources[j] for j in sources], [found.readers[i] for i in readers]
    view = matrix_view(
        data, name, values.clip(min=0), down, across, "strength: √ mean of J²", limit_of(values), Support.UNSIGNED,
        angle=-40,
    )  # fmt: skip
    heading = f"{found.settings['sources']} (rows) → {found.settings['readers']} (columns)"
    shown = f"the strongest {len(down)} of {len(found.sources):,} and {len(across)} of {len(found.readers):,}"
    trust = "exact" if found.exact else "not verified"
    return Part(heading, view, data, " ".join(found.sentences), f"{found.settings['method']}, {trust}; {shown}")

"""Interactions of two layers drawn: the strongest sources against the strongest readers; estimates against exact."""

from __future__ import annotations

import numpy as np

from veracausa.interplay.checked import CheckedInteractions
from veracausa.interplay.results import Interactions
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Part
from veracausa.report.charts.maps import limit_of
from veracausa.report.charts.matrices import matrix_view
from veracausa.report.charts.strengths import diagonal_view
from veracausa.report.charts.theme import Support

#: Sources and readers that are drawn.
SHOWN = 12
#: Pairs that are drawn of those that were run.
_DOTS = 2000


def interactions_part(found: Interactions, name: str) -> Part:
    """A grid of strengths: the sources and readers that the strongest pairs are of, in the order of the model."""
    readers, sources = (np.sort(list(dict.fromkeys(side.tolist()))[:SHOWN]) for side in found.ranking())
    values, data = found.strength.T[np.ix_(sources, readers)], Datasets(inline=True)
    down, across = [found.sources[j] for j in sources], [found.readers[i] for i in readers]
    view = matrix_view(
        data, name, values.clip(min=0), down, across, "strength: √ mean of J²", limit_of(values), Support.UNSIGNED,
        angle=-40, digits=3,
    )  # fmt: skip
    heading = f"{found.settings['sources']} (rows) → {found.settings['readers']} (columns)"
    shown = f"the strongest {len(down)} of {len(found.sources):,} and {len(across)} of {len(found.readers):,}"
    trust = "exact" if found.exact else f"{found.settings['method']}, not verified"
    return Part(heading, view, data, " ".join(found.sentences), f"{trust}; {shown}")


def checked_part(found: CheckedInteractions, name: str) -> Part:
    """Estimated against exact strength of every pair that was run, those chosen for it apart."""
    table, data = found.table(), Datasets(inline=True)
    table = table[table.verified != "not verified"]
    chosen = table[table.verified != "beside"]
    table = table[table.index.isin([*chosen.index, *table.index[:_DOTS]])]
    names = [f"{one} → {other}" for one, other in zip(table.source, table.reader, strict=True)]
    how = found.estimate.settings["method"]
    view = diagonal_view(
        data, name, table.exact.to_numpy(), table.strength.to_numpy(), table.verified.tolist(),
        ("exact strength", f"{how} strength"), names,
    )  # fmt: skip
    said = " ".join(found.sentences)
    return Part(f"{how} against exact interactions", view, data, said, "\n".join(found.sentences[1:3]))

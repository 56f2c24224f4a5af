"""Which layers of a study talk to each other: modules of their parts, and how far single prompts differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from veracausa.interplay.module_results import Modules
from veracausa.interplay.results import Interactions
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.modules import modules_part
from veracausa.report.charts.strengths import bars_view
from veracausa.report.tables import SHOWN, Column, Table

#: Pairs of every two layers that are shown, of which the spread over prompts is told.
STRONGEST = 10


def figures(found: Modules, name: str, layers: Sequence[Interactions]) -> list[Figure]:
    """The graph of the modules, and how much an average over the prompts hides."""
    # what its lines say stands above it, as the figure's sentence
    part = replace(modules_part(found, f"{name}-graph"), title="", subtitle="")
    said = " ".join([*found.sentences, f"Lines are as wide as strengths {found.settings['trust']}."])
    every = [Figure(f"{name}-modules", "Modules", (part,), said, least=380, width=680)]
    if layers and layers[0].n > 1:
        share = np.array([one.overlap(STRONGEST).mean() for one in layers])
        data, names = Datasets(), [_said(one) for one in layers]
        said = (
            f"Of a single prompt's {STRONGEST} strongest pairs {share.mean():.0%} are among the average's "
            f"(mean over {len(layers)} neighbouring layers and {layers[0].n} prompts; "
            f"least: {names[int(share.argmin())]}, {share.min():.0%})."
        )
        view = bars_view(data, f"{name}-hidden", names, share, "share of single prompts' strongest", domain=(0, 1))
        part = Part("", view, data, f"Bar chart. {said}")
        every.append(Figure(f"{name}-hidden", "How much the average hides", (part,), said, least=380, width=420))
    return every


def tables(found: Modules, name: str, layers: Sequence[Interactions]) -> list[Table]:
    """The strongest pairs of every two layers, single prompts beside the average; and every part's module."""
    frames = [one.spread(STRONGEST).assign(layers=_said(one)) for one in layers]
    columns = (
        Column("source", "source"), Column("reader", "reader"), Column("layers", "layers"),
        Column("strength", "strength", "plain"), Column("low", "least of a prompt", "plain"),
        Column("median", "median", "plain"), Column("high", "most", "plain"),
        Column("share", "among a prompt's strongest", "percent", 0),
        Column("carried", "of the square from a tenth of the prompts", "percent", 0),
    )  # fmt: skip
    pairs = pd.concat(frames) if frames else pd.DataFrame(columns=[one.key for one in columns])
    rows = tuple(dict(row) for row in pairs.to_dict("records"))
    note = f"The {STRONGEST} strongest of every two layers; strengths of different readers have different units."
    where = zip(found.nodes, found.step, found.module, strict=True)
    parts = tuple({"part": one, "site": found.layers[step], "module": str(module + 1)} for one, step, module in where)
    named = Column("part", "part"), Column("site", "site"), Column("module", "module")
    return [
        Table(f"{name}-pairs", "The strongest pairs, and single prompts", columns, rows, note, shown=SHOWN),
        Table(f"{name}-parts", "Which module each part is in", named, parts, shown=SHOWN),
    ]


def _said(one: Interactions) -> str:
    """ "heads of layer 10 → 11", or both in full."""
    names = [str(one.settings[side]).partition(" ")[2] for side in ("sources", "readers")]
    (kind, layer), (other, above) = (name.rsplit(" ", 1) for name in names)
    return f"{kind} {layer} → {above}" if kind == other else " → ".join(names)

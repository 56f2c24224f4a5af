"""Dictionaries of features in a study: how well they fit, and where their strongest features fire."""

from __future__ import annotations

import re

import numpy as np

from veracausa.fitting.quality import Quality
from veracausa.reading.activity import Activations
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.maps import limit_of
from veracausa.report.charts.strengths import bars_view
from veracausa.report.charts.tokens import tokens_view
from veracausa.report.tables import SHOWN, Column, Table

#: Units that are drawn over a prompt's tokens.
DRAWN = 20


def quality_figures(found: Quality, name: str) -> list[Figure]:
    """What is kept with the reconstruction in the place of the activations, as shares."""
    shares = {"variance explained": found.variance_explained, "loss recovered": found.recovered}
    if found.gap_share is not None:
        shares["gap of the task kept"] = found.gap_share
    data = Datasets()
    view = bars_view(data, name, list(shares), np.array(list(shares.values())), "share, 1 is all")
    part = Part("", view, data, f"Bar chart. {' '.join(found.sentences)}")
    return [Figure(f"{name}-kept", "What the reconstruction keeps", (part,), " ".join(found.sentences), width=420)]


def quality_tables(found: Quality, name: str) -> list[Table]:
    """Every figure."""
    columns = Column("figure", "figure"), Column("value", "value", "plain", 4), Column("what it is", "what it is")
    rows = tuple(dict(row) for row in found.table().to_dict("records"))
    return [Table(f"{name}-figures", "All figures", columns, rows, plainly(found.dictionary))]


def plainly(dictionaries: str) -> str:
    """What dictionaries are, as their results' headers say it, without the names of classes."""
    return re.sub(r"Dictionary\(([^()]*)\)", r"\1", dictionaries)


def activations_figures(found: Activations, name: str) -> list[Figure]:
    """The first pair, token by token, a grid for each run."""
    parts = []
    names = found.units.names[:DRAWN]
    first = found.values[:, 0, : len(names)].double().numpy()
    limits = np.array([limit_of(first[:, unit]) for unit in range(len(names))])
    for run, said in enumerate(found.runs):
        tokens = found.prompts[run][0]
        values = first[run, :, : len(tokens)]
        data = Datasets()
        view = tokens_view(data, f"{name}-{said}", values, names, tokens, limits)
        parts.append(Part(said, view, data, f"{len(names)} units over the tokens of the first {said} prompt"))
    few = "" if len(names) == len(found.units) else f" The first {len(names)} of {len(found.units)} units."
    sentence = f"The first pair, token by token; each unit is coloured by its own scale, one for both prompts.{few}"
    return [Figure(f"{name}-tokens", "Token by token", tuple(parts), sentence, least=380, width=420, columns=1)]


def activations_tables(found: Activations, name: str) -> list[Table]:
    """Every unit: how often it fires, and where it is largest."""
    columns = (
        Column("name", "unit"), *(Column(f"fires {run}", f"fires, {run}", "percent", 0) for run in found.runs),
        Column("value", "largest", "plain"), Column("text", "where it is largest"), Column("run", "run"),
        Column("pair", "pair", "index"), Column("position", "position", "index", csv_only=True),
        Column("token", "token", csv_only=True),
    )  # fmt: skip
    rows = tuple(dict(row) for row in found.table().to_dict("records"))
    note = "Fires: share of the prompts’ tokens where it is not 0. Values are in units of the site; errors by length."
    return [Table(f"{name}-largest", "Where each is largest", columns, rows, note, shown=SHOWN)]

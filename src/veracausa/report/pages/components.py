"""The page of components of weights: map by map the strongest, an estimate, sets of them, and what they read, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.effects.removals import RemovalCurve
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.removals import removal_figure
from veracausa.report.charts.strengths import diagonal_view
from veracausa.report.pages.discovery_tables import rows_of
from veracausa.report.pages.frame import About, framed
from veracausa.report.readable import readable
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.scores.agreement import agreement
from veracausa.scores.scores import Scores
from veracausa.storage.files import at, write_text
from veracausa.words import whole

if TYPE_CHECKING:
    import pandas as pd

#: Components that are drawn as dots, the strongest.
_DOTS = 2000
_METHODS = (
    (
        "Components",
        "A map's weights are a sum of parts of rank one, W = Σ u vᵀ. Taking one out of the weights is running the "
        "model without it at every position; its effect is the metric then, minus the metric of the whole model.",
    ),
    (
        "Estimate",
        "The slope of the metric by the weights times the part that is taken away, ⟨∂M/∂W, −u vᵀ⟩: one backward pass "
        "for all components.",
    ),
    (
        "Removal curve",
        "The strongest components taken out together, and all but them, by exact runs, beside the sum of what they do "
        "one by one. Interactions are the effect of both of a pair less the sum of each one's.",
    ),
)
_READING = (
    ("Names", "m5.down.c12 is singular direction 12 of the down map of block 5, a9.h6.ov3 direction 3 of head 6's "
              "value and output maps together, a9.q.lora1 rank 1 of the adapters, m5.down.diff0 a part of what two "
              "checkpoints differ by."),
    ("Sign", "Negative effects: the metric falls without the component, so that it supports the behaviour."),
    ("Words", "What a component writes: tokens that it raises or lowers through the unembedding. What it reads: tokens "
              "whose embeddings make it write that, or neurons and heads. Nothing between is looked at."),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class MapFound:
    """What was found of one map: exact effects of its components, an estimate of them, sets of them, and their words.

    `words`: of the strongest (`vc.reading.component_words`).
    """

    name: str
    exact: Scores
    estimate: Scores
    curve: RemovalCurve
    words: pd.DataFrame

    @property
    def sentences(self) -> tuple[str, ...]:
        """The strongest, how well the estimate agrees, and what they do together."""
        return (self.exact.sentences[0], agreement(self.estimate, self.exact).sentences[0], *self.curve.sentences)

    def table(self) -> pd.DataFrame:
        """The strongest components: exact effect, its error, the estimate, and their words."""
        names = list(self.exact.units.names)
        places = [names.index(one) for one in self.words["name"]]
        value, error, guess = (one.numpy()[places] for one in (*_effects(self.exact), _effects(self.estimate)[0]))
        found = self.words.copy()
        for i, (column, numbers) in enumerate((("effect", value), ("stderr", error), ("estimate", guess)), 1):
            found.insert(i, column, numbers)
        return found


def _effects(scores: Scores) -> tuple[Any, Any]:
    """Means and their errors, in shares of the gap where there is one."""
    return (scores.scaled(), scores.scaled_stderr()) if scores.has_shares else (scores.mean(), scores.stderr())


def write_page(found: Sequence[MapFound], path: str | Path) -> Path:
    """Write the page as one offline file.

    Raises:
        FileError: it cannot be written, or not made.
    """
    return write_text(at(path), page(found))


def page(found: Sequence[MapFound]) -> str:
    """The page as text: everything it needs is in it, nothing is fetched."""
    maps = [_of_map(one, number) for number, one in enumerate(found)]
    figures = [figure for one in maps for figure in one["drawn"]]
    tables = [table for one in maps for table in one["listed"]]
    model = found[0].exact.model
    costs = [cost for one in found for cost in (one.exact.cost, one.estimate.cost, one.curve.sets.cost)]
    costs += [one.curve.pairs.cost for one in found if one.curve.pairs is not None]
    return framed(
        "components.html",
        figures,
        tables,
        shown=About.now(f"Components of weights of {model['name']}", model, sum(cost.seconds for cost in costs)),
        summary=[f"{one.name}: {sentence}" for one in found for sentence in one.sentences[:3]],
        notes=[],
        maps=maps,
        description=found[0].exact.task["description"],
        methods=_METHODS,
        reading=_READING,
        cost=sum(cost.token_layers for cost in costs),
    )


def _of_map(one: MapFound, number: int) -> dict[str, Any]:
    """A map's part of the page."""
    name = f"map{number}"
    drawn = [*spared_figures(f"{name}-estimate", "Estimate", lambda: [_scatter(one, f"{name}-estimate")])]
    drawn += spared_figures(f"{name}-curve", "Removal curve", lambda: [removal_figure(one.curve, f"{name}-curve")])
    listed = [
        *spared_tables(f"{name}-top", "Components", lambda: [_strongest(one, f"{name}-top")]),
        *spared_tables(f"{name}-sizes", "Sets", lambda: [_sizes(one, f"{name}-sizes")]),
    ]
    told = one.exact.settings
    facts = [
        ("Components", whole(len(one.exact))), ("Pairs", whole(one.exact.n)), ("Replaced by", str(told["ablation"])),
        ("Numbers", one.curve.scale), ("Estimate", one.estimate.method),
    ]  # fmt: skip
    return {"anchor": name, "name": one.name, "facts": facts, "drawn": drawn,
            "listed": listed}  # fmt: skip


def _scatter(one: MapFound, name: str) -> Figure:
    chosen = np.array(one.exact.ranking()[:_DOTS])
    data, names = Datasets(), [one.exact.units.names[i] for i in chosen]
    x, y = (_effects(scores)[0].double().numpy()[chosen] for scores in (one.exact, one.estimate))
    titles = (f"exact effect, {one.curve.scale}", f"estimate ({one.estimate.method})")
    view = diagonal_view(data, name, x, y, ["component"] * len(chosen), titles, names)
    said = agreement(one.estimate, one.exact).sentences[0]
    part = Part("", view, data, f"Estimate against exact effect of every component. {said}")
    return Figure(name, "The estimate beside the truth", (part,), said, width=420)


def _strongest(one: MapFound, name: str) -> Table:
    frame = one.table()
    columns = (
        Column("name", "component"), Column("effect", "exact effect", "signed", 4),
        Column("stderr", "s. e.", "plain", 4),
        Column("estimate", one.estimate.method, "signed", 4), Column("size", "size", "plain", 2),
        Column("writes", "writes"), Column("lowers", "lowers"), Column("reads", "reads"),
        Column("reads_against", "reads against"),
    )  # fmt: skip
    for column in ("name", "writes", "lowers", "reads", "reads_against"):
        frame[column] = [readable(str(value)) for value in frame[column]]
    note = f"Strongest of {whole(len(one.exact))} by exact effect; effects: {one.curve.scale}."
    return Table(name, "The strongest components", columns, tuple(rows_of(frame)), note, SHOWN)


def _sizes(one: MapFound, name: str) -> Table:
    columns = [Column("units", "components", "whole")]
    heads = {"together": "together", "sum": "sum of singles", "excess": "difference", "rest": "all but them"}
    for figure, heading in heads.items():
        columns += [Column(figure, heading, "signed", 3), Column(f"{figure}_stderr", "s. e.", "plain", 3)]
    return Table(name, "Sets of the strongest", tuple(columns), tuple(rows_of(one.curve.table())))

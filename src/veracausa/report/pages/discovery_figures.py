"""Figures of a discovery's page: the receipt's scatter and faithfulness pair by pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from veracausa.report.charts.data import Datasets, plural
from veracausa.report.charts.faithfulness import RANGE, pairs_view
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.scatters import against_exact, padded
from veracausa.report.sentences import scatter_sentence
from veracausa.words import plain, whole

if TYPE_CHECKING:
    from veracausa.discovery.evaluation import Evaluation
    from veracausa.receipts.receipts import Receipt


def receipt_figure(receipt: Receipt) -> Figure:
    """Estimates against the exact effects that the receipt took."""
    found = receipt.agreement
    drawn = frozenset(receipt.estimate.units[receipt.drawn].names)
    data = Datasets()
    view = against_exact(data, found, drawn, "receipt", padded([found.exact, found.estimate]))
    kind = receipt.estimate.units.kind
    text = f"Scatter of {found.method} against exact effects, {len(found.names)} {plural(kind)}, r {plain(found.r)}"
    subtitle = f"r {plain(found.r)}, Spearman {plain(found.spearman)}"
    sentence = scatter_sentence(kind, [found], len(found.names))
    part = Part(found.method, view, data, text, subtitle)
    return Figure("receipt", "Scores against exact effects", (part,), sentence, least=300, width=420)


def pairs_figure(evaluation: Evaluation) -> Figure:
    """f of every pair, of the circuit and of the random one."""
    name = f"{evaluation.name}-f"
    data = Datasets()
    circuits = {"circuit": evaluation.circuit, "random circuit": evaluation.random}
    f = evaluation.circuit.per_example.double().numpy()
    low, middle, high = np.nanquantile(f, [0.1, 0.5, 0.9])
    outside = int(((f < RANGE[0]) | (f > RANGE[1])).sum())
    sentence = (
        f"Half of the pairs lie above {plain(float(middle), 2)}, eight of ten between {plain(float(low), 2)} and "
        f"{plain(float(high), 2)}; the bar is the ratio of means, {plain(evaluation.circuit.f, 2)}."
    )
    if outside:
        sentence += f" {whole(outside)} outside {plain(RANGE[0], 0)} … {plain(RANGE[1], 1)} are drawn at the border."
    if unknown := int(np.isnan(f).sum()):
        sentence += f" {whole(unknown)} without a gap of their own are not drawn."
    text = f"Faithfulness of the circuit on {len(f)} pairs: median {plain(float(middle), 2)}"
    part = Part("", pairs_view(data, circuits, name), data, text)
    return Figure(name, "Is it faithful on every pair?", (part,), sentence, least=320, width=560)

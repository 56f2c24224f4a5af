"""Charts: one valid specification for every kind of unit, thinning, labels, sentences."""

from __future__ import annotations

import altair as alt
import numpy as np
import pytest

import veracausa as vc
from veracausa.estimates.attribute import attribute
from veracausa.report.charts.data import Datasets, thin
from veracausa.report.charts.figures import png, spec_of
from veracausa.report.charts.labels import PLANE, place_labels
from veracausa.report.charts.lines import ladder
from veracausa.report.charts.maps import shape
from veracausa.report.pages.page import _figures
from veracausa.report.tables import Column
from veracausa.words import joined, plain, signed

SHAPES = {
    "heads": "map",
    "mlps": "bars",
    "attention": "bars",
    "residual": "bars",
    "neurons": "ranking",
    "queries": "map",
    "keys": "map",
    "values": "map",
    "patterns": "map",
    "mlps@positions": "positions",
    "residual@positions": "positions",
    "heads@positions": "ranking",
    "patterns@positions": "ranking",
    "patterns@cells": "ranking",
    "neurons@positions": "ranking",
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("units", SHAPES)
@pytest.mark.parametrize("n", [1, 3])
def test_every_kind_of_unit_has_a_chart(tiny, task_of, units, n):
    scores = attribute(tiny("gpt2"), task_of([6, 8][:n], n=n), units=units, show_progress=False)
    assert shape(scores.units) == SHAPES[units]
    chart = scores.chart()
    spec = chart.to_dict()  # altair checks it against the schema of Vega-Lite
    data = [*spec.get("datasets", {}).values(), *(part["data"].get("values", []) for part in spec.get("layer", [spec]))]
    rows = [row for values in data for row in values]
    assert rows and {row["name"] for row in rows if "name" in row} <= set(scores.units.names)


def test_a_list_of_units_is_a_ranking_that_draws(tiny, task_of):
    scores = vc.exact(tiny("gpt2"), task_of(), units=["a0.h1", "a2.h3"], show_progress=False)
    assert shape(scores.units) == "ranking"
    assert png(spec_of(scores.chart()))[:4] == b"\x89PNG"


@pytest.mark.slow
def test_figures_of_a_study_are_valid_specifications(views):
    for view in views:
        for figure in _figures(view):
            assert figure.sentence and figure.sentence.endswith(".")
            assert "nan" not in figure.sentence and figure.layout["width"] > 0
            for spec, part in zip(figure.specs(), figure.parts, strict=True):
                assert part.alt
                part.view.to_dict()  # validated
                assert set(part.data) <= set(spec["datasets"])


def test_maps_share_one_symmetric_scale(study, views):
    figure = views[0].panels[0].figures[0]
    domains = [spec["encoding"]["color"]["scale"]["domain"] for spec in figure.specs()]
    largest = float(study.sections[0].panels[0].exact.normalised().abs().max())
    assert all(domain == pytest.approx([-largest, largest]) for domain in domains)
    assert len(domains) == 4


def test_thinning_keeps_what_matters_and_is_reproducible():
    rng = np.random.default_rng(0)
    x = rng.normal(size=46_080) ** 5
    y = x + rng.normal(size=46_080)
    chosen = thin(x, y, keep=[17])
    assert len(chosen) <= 2500 and len(set(chosen)) == len(chosen)
    assert 17 in chosen
    for extreme in (np.abs(x), np.abs(y), np.abs(y - x)):
        assert set(np.argsort(-extreme)[:100].tolist()) <= set(chosen)
    assert chosen == thin(x, y, keep=[17])
    assert thin(x[:10], y[:10]) == list(range(10))


def test_labels_do_not_lie_on_each_other():
    x, y = np.array([0.0, 0.02, 0.01, 0.03]), np.array([0.0, 0.01, 0.02, -0.01])
    names = ["a10.h2", "a10.h3", "a9.h6", "a11.h10"]
    places = place_labels(names, x, y, (-1, 1), (-1, 1))
    boxes = []
    for name, column, row, (dx, dy) in zip(names, x, y, places, strict=True):
        middle = (column + 1) / 2 * PLANE[0] + dx, (1 - row) / 2 * PLANE[1] + dy
        half = len(name) * 3
        boxes.append((middle[0] - half, middle[1] - 5, middle[0] + half, middle[1] + 5))
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_datasets_are_inline_on_request():
    rows = [{"x": 1}]
    apart, inside = Datasets(), Datasets(inline=True)
    assert isinstance(apart.add("A b", rows), alt.NamedData) and apart == {"a-b": rows}
    assert isinstance(inside.add("A b", rows), alt.InlineData) and not inside


def test_numbers_as_text():
    assert signed(-0.2571) == "−0.257" and signed(0.5, 1) == "+0.5" and signed(-1e-9) == "0.000"
    assert plain(0.955) == "0.955" and plain(-0.04, 2) == "−0.04" and plain(float("nan")) == "–"
    assert joined(["a"]) == "a" and joined(["a", "b", "c"]) == "a, b and c" and joined([]) == "none"
    assert Column("p", "p", "p").show(1e-9) == "< 0.001" and Column("x", "x", "whole").show(1234.0) == "1,234"
    assert Column("x", "x", "plain").show(None) == "–" and Column("x", "x", "percent", 1).show(0.123) == "12.3 %"
    assert ladder(5) == [1, 2, 3, 4, 5]

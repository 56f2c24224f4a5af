"""Figures and tables of locations, responses and surfaces: numbers and words against the results' own."""

from __future__ import annotations

import altair as alt
import numpy as np
import pytest

import veracausa as vc
from veracausa.report.chapters import location, responses, surface
from veracausa.report.charts.figures import Figure

ALPHAS = np.linspace(-2, 3, 11)


def drawn(figures: list[Figure]) -> dict[str, list[dict]]:
    """All records of figures by the name of their data; every part is a valid specification and has words."""
    rows: dict[str, list[dict]] = {}
    for figure in figures:
        assert "nan" not in figure.sentence and figure.title
        assert len({part.title for part in figure.parts}) == len(figure.parts)
        names = [name for part in figure.parts for name in part.data]
        assert len(set(names)) == len(names), "parts share one specification in the PNG"
        for part in figure.parts:
            part.view.to_dict()  # altair validates it on the way
            assert isinstance(part.view, alt.TopLevelMixin) and part.alt
            rows |= part.data
        assert figure.png().startswith(b"\x89PNG")
    return rows


@pytest.mark.cases(1)
@pytest.mark.parametrize("n", [1, 3])
def test_location(tiny, task_of, n):
    lm, task = tiny("llama"), task_of((6, 7), n=n)
    found = vc.causes.locate(lm, task, units=["a0.h1", "a1.h0", "a2.h3"], show_progress=False)
    figures = location.figures(found, "x")
    rows = drawn(figures)
    bars = {(row["unit"], row["kind"]): row["value"] for row in rows["x-kinds"]}
    for unit, one in found.items():
        for kind, share in one.kinds.items():
            if one.cause != "none":
                assert bars[unit, location.LABELS[kind]] == pytest.approx(share.value, rel=1e-5)
    one = found["a0.h1"]
    line, steps = rows["x-profile-a0-h1-line"], rows["x-profile-a0-h1"]
    assert line[0]["y"] == pytest.approx(one.atp.value, rel=1e-5, abs=1e-9)
    assert line[-1]["y"] == pytest.approx(one.exact.value, rel=1e-5, abs=1e-5)
    assert {row["place"]: row["step"] for row in steps} == pytest.approx(
        {place: share.value for place, share in one.sublayers.items()}, rel=1e-5, abs=1e-9
    )
    assert ("3 pairs" if n == 3 else "one pair") in figures[0].sentence
    kinds, places, attention = location.tables(found, "x")
    assert kinds.frame()["curvature"].tolist() == found.table()["curvature"].tolist()
    assert {row["what"] for row in places.rows} == {"sublayer", "head"} and "a0.h1" in kinds.csv()
    watched = {row["unit"] for row in attention.rows}
    assert watched == {"a0.h1", "a1.h0"}, "no attention is behind the last layer's heads"


@pytest.mark.cases(1)
@pytest.mark.parametrize("names", [["a0.h1", "a2.h3"], ["m1"]], ids=str)
def test_responses(tiny, task_of, names):
    lm, task = tiny("llama"), task_of((6, 7), n=3)
    found = vc.causes.responses(lm, task, units=names, alphas=ALPHAS, show_progress=False)
    figures = responses.figures(found, "x")
    rows = drawn(figures)
    for unit, one in found.items():
        points = rows[f"x-{unit.replace('.', '-')}"]
        own = [row["effect"] for row in points if row["path"] == responses.OWN]
        np.testing.assert_allclose(own, one.values, rtol=1e-5, atol=1e-9)
        assert any(row["path"] == responses.SITE for row in points) == (names != ["m1"])
        turns = [row for key, kept in rows.items() if "peak" in key or "trough" in key for row in kept]
        assert len(turns) == sum(len(each.turns) for each in found.values())
    assert "3 pairs" in figures[0].sentence
    summary, points = responses.tables(found, "x")
    assert summary.frame()["at 1"].tolist() == found.table()["at 1"].tolist()
    paths = 2 if names != ["m1"] else 1
    assert len(points.rows) == len(names) * paths * len(ALPHAS) and points.page_rows == ()


def test_surface(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 7), n=3)
    found = vc.causes.surface(lm, task, units=("a0.h1", "m2"), alphas=[-0.5, 0.5, 1.5], show_progress=False)
    (figure,) = surface.figures(found, "x")
    rows = drawn([figure])
    cells = np.array([row["value"] for row in rows["x"]]).reshape(5, 5)
    np.testing.assert_allclose(cells, found.means(), rtol=1e-5, atol=1e-9)
    for row in rows["x"]:
        assert row["left"] < row["alpha"] < row["right"] and row["low"] < row["beta"] < row["high"]
    assert figure.sentence == found.sentences[0]
    (table,) = surface.tables(found, "x")
    assert table.frame()["effect"].tolist() == found.table()["effect"].tolist()

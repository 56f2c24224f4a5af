"""Blue supports the behaviour, orange works against it, in words on every figure; early layers are at the bottom."""

from __future__ import annotations

import json

import numpy as np
import pytest

import veracausa as vc
from veracausa.report.chapters import surface
from veracausa.report.charts.circuit_drawing import AGAINST, SUPPORTS
from veracausa.report.charts.theme import DARK, LIGHT, Support
from veracausa.report.pages.panels import PanelView
from veracausa.scores.scores import Scores
from veracausa.studies.results import Panel

BLUE, ORANGE = LIGHT.diverging[0], LIGHT.diverging[-1]
QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def several(tiny, task_of):
    """A model and pairs whose mean gap is positive."""
    lm = tiny("llama")
    task = next(task for seed in range(20) if lm.measure(task := task_of(6, n=2, seed=seed)).gap.mean() > 1)
    return lm, task


def colours(spec) -> dict[str, str]:
    """The colour of a supporting and of an opposing unit, from the painted scale: sign × how its support is signed."""
    scale = spec["encoding"]["color"]["scale"]
    ends = scale["range"][::-1] if scale.get("reverse") else scale["range"]
    assert scale["domain"][0] == -scale["domain"][1] < 0
    return {"−": ends[0], "+": ends[-1]}


@pytest.mark.parametrize("direction, supporting, words", [("noising", "−", "blue (−)"), ("denoising", "+", "blue (+)")])
def test_maps(several, direction, supporting, words):
    lm, task = several
    spec = vc.exact(lm, task, direction=direction, **QUIET).chart().to_dict()
    found = colours(spec)
    assert found.pop(supporting) == BLUE and list(found.values()) == [ORANGE]
    legend = " ".join(spec["encoding"]["color"]["legend"]["title"])
    assert f"{words} supports the behaviour" in legend and "orange" in legend
    assert spec["encoding"]["y"]["field"] == "layer" and spec["encoding"]["y"]["sort"] == "descending"


@pytest.mark.parametrize("direction, below", [("noising", LIGHT.diverging[1]), ("denoising", LIGHT.diverging[-2])])
def test_bars(several, direction, below):
    lm, task = several
    spec = vc.exact(lm, task, units="mlps", direction=direction, **QUIET).chart().to_dict()
    [negative] = [one for one in spec["layer"] if "< 0" in json.dumps(one.get("transform", []))]
    assert negative["mark"]["color"] == below
    assert Support.of(direction).value in spec["title"]["subtitle"]
    assert negative["encoding"]["y"]["sort"] == "descending"


def test_magnitudes_have_no_sign_and_are_seen(several):
    lm, task = several
    spec = vc.attribute(lm, task, method="atp-star", **QUIET).chart().to_dict()
    scale = spec["encoding"]["color"]["scale"]
    assert scale["domain"][0] == 0 and not {BLUE, ORANGE} & set(scale["range"])
    assert "no sign" in " ".join(spec["encoding"]["color"]["legend"]["title"])
    [rows] = spec["datasets"].values()
    assert max(row["value"] for row in rows) == pytest.approx(scale["domain"][1], rel=1e-5)


def test_circuits_and_edges(several):
    lm, task = several
    for direction in ("noising", "denoising"):
        scores = vc.attribute(lm, task, units="edges", method="eap", direction=direction, **QUIET)
        for chart in (scores.chart(), vc.select(scores, n=20, how="greedy").chart()):
            text = json.dumps(chart.to_dict(), ensure_ascii=False)
            [scale] = [s for s in find(chart.to_dict(), "scale") if isinstance(s, dict) and SUPPORTS in str(s)]
            painted = dict(zip(scale["domain"], scale["range"], strict=True))
            assert painted[SUPPORTS] == LIGHT.diverging[1] and painted[AGAINST] == LIGHT.diverging[-2]
            assert "blue (+) supports the behaviour, orange (−) works against it" in text
            [layer] = [axis for axis in find(chart.to_dict(), "y") if "domain" in str(axis) and "axis" in axis][:1]
            assert "sort" not in layer and layer["scale"]["domain"][0] < layer["scale"]["domain"][1]  # upwards


def find(part, key):
    """All values of a key in a specification."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == key:
                yield value
            yield from find(value, key)
    elif isinstance(part, list):
        for value in part:
            yield from find(value, key)


def test_a_page_says_it_with_every_figure_of_places(several):
    lm, task = several
    for direction in ("noising", "denoising"):
        exact = vc.exact(lm, task, direction=direction, **QUIET)
        star = vc.attribute(lm, task, method="atp-star", direction=direction, **QUIET)
        atp = vc.attribute(lm, task, direction=direction, **QUIET)
        figure = PanelView(Panel("heads", exact, (atp, star)), "p").figures[0]
        assert figure.support is Support.of(direction)
        assert [part.subtitle for part in figure.parts] == ["", "", "magnitudes: no sign,\nso grey"]
        assert figure.spec()["resolve"] == {"scale": {"color": "independent"}}  # one of them has no sign
        assert PanelView(Panel("heads", exact, (atp,)), "p").figures[0].spec()["resolve"]["scale"]["color"] == "shared"


def test_surfaces_are_effects_of_noising(several):
    lm, task = several
    found = vc.causes.surface(lm, task, units=("a0.h0", "a1.h1"), alphas=(0, 1), **QUIET)
    [figure] = surface.figures(found, "s")
    assert Support.NEGATIVE.value in json.dumps(figure.spec(), ensure_ascii=False)


def test_the_sign_of_a_unit_that_supports(several):
    """By hand: where support of noising is negative, importance and denoising say it positively."""
    lm, task = several
    scores: Scores = vc.exact(lm, task, **QUIET)
    unit = int(np.argmin(scores.normalised().numpy()))
    assert scores.importance()[unit] > 0 > scores.normalised()[unit]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_ends_are_blue_and_orange(theme):
    blue, orange = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (theme.diverging[1], theme.diverging[-2]))
    assert blue[2] > blue[0] and orange[0] > orange[2]
    assert theme.config()["range"]["ordinal"] == [theme.diverging[-2], theme.muted, theme.diverging[1]]

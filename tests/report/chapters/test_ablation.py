"""Figures and tables of ablation studies: drawn, complete, and saying the study's own numbers."""

import pytest

import veracausa as vc
from veracausa.report.chapters.ablation import DRAWN, figures, tables

QUIET = {"show_progress": False}
UNITS = ["a0.h0", "a0.h1", "a1.h2", "a2.h3", "m1"]


@pytest.fixture(scope="module")
def made(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 7), 12)
    study = vc.behaviour.ablation_study(lm, task, units=UNITS, **QUIET)
    scores = [vc.exact(lm, task, **QUIET), vc.attribute(lm, task, **QUIET)]
    return study, [study.against(*scores, ablation=ablation) for ablation in ("zero", "mean")]


def test_every_figure_is_drawn_and_says_n(made):
    study, forecasts = made
    drawn = figures(study, "tiny", forecasts)
    assert [figure.name for figure in drawn] == [
        "tiny-accuracy", "tiny-metric", "tiny-scores-zero", "tiny-scores-mean",
    ]  # fmt: skip
    for figure in drawn:
        assert figure.png().startswith(b"\x89PNG") and figure.specs()
        assert "12 prompts" in figure.sentence


def test_bars_are_the_outcomes(made):
    study, _ = made
    data = figures(study, "tiny")[0].parts[0].data
    assert len(data["tiny-accuracy"]) == len(study.outcomes)
    row = next(row for row in data["tiny-accuracy"] if (row["name"], row["ablation"]) == ("a1.h2", "mean"))
    one = study["a1.h2", "mean"]
    wanted = (one.accuracy, one.low, one.high)
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx(wanted, abs=1e-6)  # six digits are kept
    assert data["tiny-accuracy-unablated"][0]["level"] == study.unablated.accuracy


def test_tables_hold_every_condition_and_every_method(made):
    study, forecasts = made
    conditions, methods = tables(study, "tiny", forecasts)
    assert len(conditions.rows) == len(study.conditions) and len(methods.rows) == 4
    assert conditions.frame()["lost"].tolist() == study.table()["lost"].tolist()
    for table in (conditions, methods):
        for row in table.rows:
            assert all(isinstance(column.show(row.get(column.key)), str) for column in table.columns)


def test_many_units_are_thinned_to_those_that_change_most(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, 4)
    study = vc.behaviour.ablation_study(
        lm, task, units=[f"m1.n{i}" for i in range(DRAWN + 5)], ablations=["zero"], **QUIET
    )
    figure = figures(study, "tiny")[0]
    assert len(figure.parts[0].data["tiny-accuracy"]) == DRAWN + 1  # and all together
    assert "5 weaker ablations are in the table" in figure.sentence

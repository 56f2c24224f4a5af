"""Figures and tables of counterfactuals, searches, baselines and general-purpose units, from tiny models' results."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import veracausa as vc
from veracausa.effects.optimal_descent import Learning
from veracausa.report.chapters import baselines, counterfactuals, search
from veracausa.report.charts.figures import png


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def task(task_of):
    return task_of((6, 6, 8, 8), n=8)


def other(task, step):
    return replace(task, corrupted=tuple((*ids[:-1], (ids[-1] + step) % 60) for ids in task.clean), corrupted_text=())


def pool_of(task):
    info = tuple({"pair": i, "how": "own", "own": True} for i in range(len(task)))
    more = tuple({"pair": i, "how": "plus 3", "own": False} for i in range(len(task)))
    changed = other(task, 3)
    joined = {name: getattr(task, name) * 2 for name in ("clean", "correct", "incorrect", "clean_text")}
    return replace(
        task, corrupted=task.corrupted + changed.corrupted, info=info + more,
        corrupted_text=task.corrupted_text + changed.corrupted_text, **joined,
    )  # fmt: skip


def look(figures, tables, drawn=True):
    """Every figure has a sentence, a text for those who do not see it and can be drawn; every table can be shown."""
    for figure in figures:
        assert figure.sentence.endswith(".") and figure.title and all(part.alt for part in figure.parts)
        assert "nan" not in figure.sentence.lower()
        if drawn:
            assert png(figure.spec()).startswith(b"\x89PNG")
    for table in tables:
        assert table.csv().count("\n") == len(table.rows) + 1
        for row in table.page_rows:
            assert all(column.show(row.get(column.key)) for column in table.page_columns if column.numeric)


def test_counterfactuals(lm, task):
    tasks = {"first": task, "second": other(task, 7), "third": other(task, 11)}
    found = vc.counterfactuals.corruptions(lm, tasks, top=4, show_progress=False)
    roles = vc.counterfactuals.head_roles(lm, task)
    figures = counterfactuals.figures(found, "cf", roles)
    tables = counterfactuals.tables(found, "cf", roles)
    look(figures, tables)
    assert [figure.name for figure in figures] == ["cf-effects", "cf-ranks", "cf-agreement"]
    effects = figures[0].parts[0].data["cf-effects"]
    means = {(row["row"].split(" · ")[0], row["column"]): row["value"] for row in effects}
    assert len(means) == 12 * 3
    for name in tasks:
        mean = dict(zip(found.one.units.names, found.mean(name), strict=True))
        assert all(means[unit, name] == pytest.approx(mean[unit], rel=1e-4, abs=1e-9) for unit in mean)
    ends = [row["at"] for row in figures[1].parts[0].data["cf-ranks-third"]]
    assert all(b / a > 1.05 for a, b in pairwise(ends)), "names keep a distance"


def test_search(lm, task):
    found = vc.counterfactuals.search(lm, pool_of(task), units=["a1.h0", "a2.h1"], show_progress=False)
    figures, tables = search.figures(found, "search"), search.tables(found, "search")
    look(figures, tables)
    assert [len(table.rows) for table in tables] == [4, 4] and len(figures[0].parts) == 2


def test_baselines_and_general_purpose(lm, task):
    short = {"learning": Learning(steps=2, rate=0.1, batch=2), "nodes": 2, "show_progress": False}
    found = vc.counterfactuals.baselines(
        lm, task, top=4, ablations=("counterfactual", "zero", "mean", "optimal"), **short
    )
    look(baselines.figures(found, "baselines"), baselines.tables(found, "baselines"))
    known = {kind: found.scores["exact", kind] for kind in ("counterfactual", "mean")}
    general = vc.counterfactuals.general_purpose(lm, task, large=0.5, small=0.5, known=known, show_progress=False)
    figures = baselines.general_figures(general, "general")
    look(figures, baselines.general_tables(general, "general"))
    groups = [row["group"] for row in figures[0].parts[0].data["general"]]
    assert len(groups) == 12 and groups.count("others") == 12 - len(general.candidates)


def test_one_pair(lm, task):
    """Nothing is tested and nothing has an error; everything can be drawn all the same."""
    one = task[:1]
    found = vc.counterfactuals.corruptions(lm, {"a": one, "b": other(one, 7)}, top=4, show_progress=False)
    look(counterfactuals.figures(found, "cf"), counterfactuals.tables(found, "cf"), drawn=False)
    general = vc.counterfactuals.general_purpose(lm, one, show_progress=False)
    look(baselines.general_figures(general, "gp"), baselines.general_tables(general, "gp"), drawn=False)
    assert np.isnan(general.p).all()

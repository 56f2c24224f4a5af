"""Figures and tables of a disagreement: made of its numbers, drawn without a browser, readable."""

import pytest
from bridges import smooth

import veracausa as vc
from veracausa.report.chapters.causes import BARS, DRAWN, figures, tables


@pytest.fixture(scope="module", params=[1, 4], ids=["one pair", "four pairs"])
def found(request, task_of):
    return vc.causes.disagreement(smooth("llama"), task_of((6, 8), n=request.param), shapley=4, show_progress=False)


def rows_of(part):
    return [row for rows in part.data.values() for row in rows]


@pytest.mark.cases(1)
def test_figures_are_drawn_and_say_what_they_show(found):
    made = figures(found, "tiny")
    assert [figure.name for figure in made] == ["tiny-methods", "tiny-differences", "tiny-shapley"]
    for figure in made:
        assert figure.png().startswith(b"\x89PNG") and figure.specs()
        assert ("one pair" if found.n == 1 else "n = 4") in figure.sentence or "n = 1 pair" in figure.sentence
        assert all(part.alt for part in figure.parts)


def test_methods_and_differences_hold_the_numbers(found):
    methods, differences, _ = figures(found, "tiny")
    strongest = found.units.names[found.strongest(1)[0]]
    assert strongest in methods.sentence and str(found.share("exact", strongest)) in methods.sentence
    drawn = {row["name"] for row in rows_of(methods.parts[0])}
    assert drawn == {found.units.names[i] for i in found.strongest(DRAWN)}
    for part, key in zip(differences.parts, ("curvature", "interaction", "downstream", "baseline"), strict=True):
        rows = part.data[f"tiny-differences-{key}"]
        assert len(rows) == min(BARS, len(found.units))
        for row in rows:
            share = found.share(key, row["name"])
            assert row["value"] == pytest.approx(share.value, rel=1e-5)
            assert row["clear"] == (abs(share.value) > 1e-4 and share.clear)
        sizes = [abs(row["value"]) for row in rows]
        assert sizes == sorted(sizes, reverse=True)


def test_tables(found):
    causes, every = tables(found, "tiny")
    assert [row["unit"] for row in causes.rows] == [cause.unit for cause in found.causes]
    assert all(row["error"] == pytest.approx(row["estimate"] - row["exact"]) for row in causes.rows)
    assert len(every.rows) == len(found.units) and (every.frame()["n"] == found.n).all()
    assert "stderr: curvature" in every.csv().splitlines()[0]
    assert every.rows[0]["name"] == found.units.names[found.strongest(1)[0]]


def test_shapley_values_may_be_absent(found):
    scores = {name: one for name, one in found.scores.items() if name not in ("shapley", "ig-zero")}
    made = figures(vc.causes.Disagreement(scores, found.cost), "few")
    assert [figure.name for figure in made] == ["few-methods", "few-differences"]
    assert len(made[1].parts) == 3

"""Studies side by side: which sections and kinds belong together, and whether their pairs are the same."""

from dataclasses import replace

import pytest

import veracausa as vc
from veracausa.errors import UnitError
from veracausa.studies.results import Panel, Section, Study

QUIET = {"show_progress": False}


def section(lm, task, title, kinds=("heads", "mlps")):
    panels = tuple(Panel(kind, vc.exact(lm, task, units=kind, **QUIET), ()) for kind in kinds)
    return Section(title, task, lm.measure(task), panels)


def study(lm, *sections):
    model = {"name": lm.name, "source": lm.source, "identity": lm.identity}
    return Study("A study", model, sections, (), {}, "a machine", "2026-01-01", "", 1.0)


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def task(task_of):
    return task_of([6, 8], n=4, name="one")


def test_sections_are_matched_by_task_then_title_then_as_the_ones_left(lm, task, task_of):
    other, third = task_of([6, 8], n=3, seed=3, name="other"), task_of(7, n=3, seed=4, name="third")
    one = study(lm, section(lm, task, "first"), section(lm, other, "same title"), section(lm, other, "left in A"))
    two = study(lm, section(lm, third, "same title"), section(lm, task, "renamed", ("heads",)))
    found = one | two
    assert [each.title for each in found.compared] == [
        "first (A), renamed (B): heads", "same title: heads", "same title: MLPs",
    ]  # fmt: skip
    assert [each.paired for each in found.compared] == [True, False, False]
    assert found.left == ("Only in A: left in A.", "Only in A, first (A), renamed (B): MLPs.")
    assert set(found.table()["compared"]) == {each.title for each in found.compared}
    lone = study(lm, section(lm, task, "a")) | study(lm, section(lm, other, "b"))
    assert lone.compared[0].title == "a (A), b (B): heads"
    with pytest.raises(UnitError, match=r"nothing in common to compare. Only in A, x: heads"):
        study(lm, section(lm, task, "x", ("heads",))) | study(lm, section(lm, task, "x", ("mlps",)))


def test_the_same_clean_prompts_are_the_same_pairs_whatever_they_are_compared_with(lm, task):
    swapped = replace(task, corrupted=task.corrupted[2:] + task.corrupted[:2])
    assert swapped.digest() != task.digest()
    found = study(lm, section(lm, task, "one")) | study(lm, section(lm, swapped, "one"))
    assert all(each.paired for each in found.compared) and "Pairs" in {what for what, *_ in found.mismatches}
    exact = [vc.exact(lm, each, **QUIET) for each in (task, swapped)]
    assert not (exact[0] | exact[1]).compared[0].paired  # scores do not hold their prompts
    assert vc.studies.beside(*exact, paired=True).compared[0].paired


def test_a_receipt_is_its_scores(lm, task):
    scores = vc.attribute(lm, task, units="heads", method="atp", **QUIET)
    receipt = vc.verify(lm, task, scores, top=3, sample=4, **QUIET)
    assert (receipt | scores).compared[0].values[0].tolist() == (scores | scores).compared[0].values[0].tolist()

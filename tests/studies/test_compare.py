"""The comparison of methods: one row per method, the frontier, and what does not fit the budget."""

import dataclasses

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.cost import Cost
from veracausa.errors import MethodError, TaskError, UnitError
from veracausa.estimates.presets import ESTIMATES
from veracausa.studies.compare import compare, table
from veracausa.studies.frontier import frontier

CHEAP = ["atp", "relp", "eap-ig", "conductance"]


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama", dtype=torch.float32)


@pytest.fixture(scope="module")
def page(lm, task_of):
    return compare(lm, task_of((5, 6), n=4), methods=CHEAP, neurons=20, sample=15, show_progress=False)


def test_panels_hold_what_the_public_functions_give(lm, page):
    [section] = page.sections
    heads, neurons = section.panels
    assert (heads.kind, neurons.kind) == ("heads", "neurons")
    assert torch.equal(heads.exact.values, vc.exact(lm, section.task, show_progress=False).values)
    assert len(neurons.exact) == 35 and neurons.sampled == 15
    for panel in section.panels:
        assert panel.labels == CHEAP
        for scores, name in zip(panel.estimates, CHEAP, strict=True):
            assert torch.equal(
                scores.values,
                vc.attribute(lm, section.task, units=panel.kind, method=name, show_progress=False).values,
            )


def test_the_table_has_a_row_per_method(page):
    heads = page.sections[0].panels[0]
    rows = table(heads)
    assert {row["method"] for row in rows} == set(CHEAP)
    passes = [row["passes"] for row in rows]
    assert passes == sorted(passes)
    by_name = {row["method"]: row for row in rows}
    found = vc.agreement(heads.estimates[0], heads.exact)
    assert by_name["atp"]["r"] == found.r and by_name["atp"]["wrong signs"] == f"{found.sign_errors} of {found.strong}"
    assert by_name["conductance"]["residual"] == pytest.approx(
        heads.estimates[3].completeness.relative(heads.estimates[3].gap)
    )
    assert np.isnan(by_name["relp"]["stability"])  # under the number of pairs that a bootstrap needs


def test_the_frontier_by_hand(page):
    """Of costs 10, 20, 30 and r .5, .4, .9 the second is beaten by the first; the exact effects end it."""
    heads = page.sections[0].panels[0]
    wanted, costs = [0.5, 0.4, 0.9], [10, 20, 30]
    exact = heads.exact.scaled().double()
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for name, r, cost in zip("abc", wanted, costs, strict=True):
        noise = torch.randn(len(exact), generator=generator, dtype=torch.float64)
        x = (exact - exact.mean()) / exact.std()
        noise = noise - noise.mean()
        noise -= x * (noise @ x) / (x @ x)
        mixed = r * x + (1 - r * r) ** 0.5 * noise / noise.std()
        one = dataclasses.replace(
            heads.estimates[0],
            values=(mixed * heads.exact.gap.mean()).expand(4, -1).float(),
            method=name,
            cost=Cost(forward=cost, full=1),
        )
        estimates.append(one)
    panel = dataclasses.replace(heads, estimates=tuple(estimates))
    best = frontier(panel)
    assert [one.method for one in best] == ["a", "c", "exact"]
    assert [one.r for one in best] == pytest.approx([0.5, 0.9, 1], abs=1e-6)
    dear = dataclasses.replace(estimates[2], cost=Cost(forward=10**9, full=1))
    assert [one.method for one in frontier(dataclasses.replace(panel, estimates=(*estimates[:2], dear)))] == [
        "a",
        "exact",
    ]


def test_advice_names_the_frontier(page):
    for sentence, panel in zip(page.summary, page.sections[0].panels, strict=True):
        assert panel.kind in sentence.lower() and all(best.method in sentence for best in frontier(panel))


def test_what_does_not_fit_is_left_out(lm, task_of):
    short = compare(lm, task_of(6, n=2), units=["heads"], methods=["atp", "ig"], budget=1e-6, show_progress=False)
    [panel] = short.sections[0].panels
    assert panel.labels == ["atp"]
    [note] = short.notes
    assert "ig" in note and "left out on heads" in note and "budget" in note


def test_what_means_nothing_is_left_out_with_its_reason(lm, task_of):
    page = compare(lm, task_of(6, n=2, metric="neg_kl"), units=["heads"], methods=["atp", "eap-ig"],
                   show_progress=False)  # fmt: skip
    assert page.sections[0].panels[0].labels == ["eap-ig"]
    assert any("atp" in note and "KL" in note for note in page.notes)


@pytest.mark.slow
def test_all_methods_and_several_tasks(lm, task_of, tmp_path):
    tasks = [task_of(6, n=1, name="one"), task_of(5, n=2, name="two")]
    presets = [name for name in ESTIMATES if name != "mask"]  # three hundred steps; it has a test of its own
    page = compare(lm, tasks, units=["heads"], methods=presets, out=tmp_path, show_progress=False)
    assert [len(section.task) for section in page.sections] == [1, 2]
    for section in page.sections:
        assert section.panels[0].labels == presets
    again = compare(lm, tasks, units=["heads"], methods=presets, out=tmp_path, show_progress=False)
    for one, other in zip(page.sections, again.sections, strict=True):
        pairs = zip(one.panels[0].estimates, other.panels[0].estimates, strict=True)
        assert all(torch.equal(a.values, b.values) for a, b in pairs)
    saved = page.save(tmp_path / "page")
    assert saved.exists() and "Which method to take" in saved.read_text()


@pytest.mark.slow
def test_the_learned_mask_is_a_row_like_the_others(lm, task_of):
    page = compare(lm, task_of((5, 6), n=4), units=["heads", "residual"], methods=["atp", "mask"], show_progress=False)
    heads, residual = page.sections[0].panels
    assert heads.labels == ["atp", "mask"] and residual.labels == ["atp"]
    mask = table(heads)[1]
    assert mask["wrong signs"] == "unsigned" and mask["stability"] != mask["stability"]  # one mask for all examples
    assert any("mask" in note and "residual" in note for note in page.notes)


def test_wrong_input(lm, task_of):
    task = task_of(6)
    with pytest.raises(MethodError, match=r"nonsense.*atp"):
        compare(lm, task, methods=["nonsense"])
    with pytest.raises(UnitError, match=r"wheels.*heads"):
        compare(lm, task, units=["wheels"])
    with pytest.raises(TaskError):
        compare(lm, [])

"""Precision, recall, AUROC and average precision against counting by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.errors import MethodError, UnitError


@pytest.fixture(scope="module")
def sort():
    lm, program = vc.ground_truth.load_compiled("sort")
    return lm, program, vc.exact(lm, program.task(n=16), units="edges", show_progress=False)


def with_values(scores, values, signed=True):
    return dataclasses.replace(scores, values=torch.as_tensor(values, dtype=torch.float32)[None], signed=signed)


def by_hand(true: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """AUROC by counting pairs; average precision by walking down the distinct values."""
    wins = [(t > f) + 0.5 * (t == f) for t in values[true] for f in values[~true]]
    average, before = 0.0, 0.0
    for value in sorted(set(values), reverse=True):
        taken = values >= value
        recall = (taken & true).sum() / true.sum()
        average += (recall - before) * (taken & true).sum() / taken.sum()
        before = recall
    return float(np.mean(wins)), average


@pytest.mark.parametrize("seed", range(4))
def test_against_counting(sort, seed):
    _, program, scores = sort
    draw = np.random.default_rng(seed)
    values = draw.integers(-3, 4, len(scores)).astype(float)  # many ties
    found = vc.ground_truth.recovery(with_values(scores, values), program)
    true = np.array([name in program.edges for name in scores.units.names])
    auroc, average = by_hand(true, np.abs(values))
    assert found.auroc == pytest.approx(auroc) and found.average_precision == pytest.approx(average)
    taken = set(np.array(scores.units.names)[np.argsort(-np.abs(values), kind="stable")[: true.sum()]])
    assert found.precision == pytest.approx(len(taken & program.edges) / len(taken))
    assert set(found.missed) == program.edges - taken and set(found.wrong) == taken - program.edges


def test_exact_effects_recover_all(sort):
    _, program, scores = sort
    found = vc.ground_truth.recovery(scores, program, by="mean_abs")
    assert (found.auroc, found.average_precision, found.f1) == (1, 1, 1) and not found.missed
    assert "AUROC 1.000" in str(found)
    nodes = vc.ground_truth.recovery(scores, program, nodes=True)
    assert nodes.f1 == 1 and nodes.true == len(program.nodes) and nodes.of == 6
    assert vc.ground_truth.recovery(scores, program, n=14).precision == pytest.approx(
        7 / max(7, int((scores.mean() != 0).sum()))
    )


def test_zeros_find_nothing(sort):
    _, program, scores = sort
    found = vc.ground_truth.recovery(with_values(scores, torch.zeros(len(scores))), program)
    assert found.n == 0 and found.recall == found.f1 == 0
    assert found.auroc == 0.5 and found.average_precision == pytest.approx(7 / 46)


def test_importance_ranks_what_hinders_last(sort):
    _, program, scores = sort
    values = torch.tensor([1.0 if name in program.edges else 0.0 for name in scores.units.names])  # noising: hinders
    assert vc.ground_truth.recovery(with_values(scores, values), program).auroc == 1
    assert vc.ground_truth.recovery(with_values(scores, values), program, by="importance").auroc == 0


def test_heads_and_mlps(sort):
    lm, program, _ = sort
    heads = vc.exact(lm, program.task(n=16), units="heads", show_progress=False)
    assert vc.ground_truth.recovery(heads, program).f1 == 1


def test_circuits(sort):
    lm, program, scores = sort
    true = vc.Circuit.from_names(lm, sorted(program.edges))
    found = vc.ground_truth.recovery(true, program)
    assert found.f1 == 1 and found.auroc is None
    assert vc.ground_truth.recovery(scores, true, by="mean_abs").f1 == 1
    assert vc.ground_truth.recovery(true, program, nodes=True).f1 == 1
    more = vc.Circuit.from_names(lm, [*program.edges, "input->logits", "m2->logits"])
    found = vc.ground_truth.recovery(more, program)
    assert found.precision == pytest.approx(7 / 9) and found.recall == 1 and set(found.wrong) == {
        "input->logits", "m2->logits",
    }  # fmt: skip
    assert vc.ground_truth.recovery(more, program, nodes=True).wrong == ("m2",)


def test_what_cannot_be_compared_is_said(sort):
    lm, program, scores = sort
    with pytest.raises(MethodError, match="not a ranking"):
        vc.ground_truth.recovery(scores, program, by="size")
    with pytest.raises(MethodError, match="at least 1"):
        vc.ground_truth.recovery(scores, program, n=47)
    with pytest.raises(MethodError, match="taken whole"):
        vc.ground_truth.recovery(vc.Circuit.from_names(lm, sorted(program.edges)), program, n=3)
    with pytest.raises(UnitError, match="a9"):
        vc.ground_truth.recovery(scores, ["a9.h9->logits"])
    with pytest.raises(MethodError, match="nothing to tell apart"):
        vc.ground_truth.recovery(scores, scores.units.names)
    with pytest.raises(MethodError, match="nodes=True"):
        vc.ground_truth.recovery(
            vc.exact(lm, program.task(n=2), units="heads", show_progress=False), program, nodes=True
        )

"""Estimates of patterns: against Hugging Face's eager attention and autograd, exact effects, and finite differences."""

import naive_patterns
import numpy as np
import pytest
import tiny_models
import torch
from bridges import naive_metric, smooth

import veracausa as vc
from veracausa.errors import MethodError, UnitError

FAMILIES = tiny_models.FAMILIES
QUIET = {"show_progress": False}


def naive_estimates(lm, task, units, direction="noising", **options):
    """The reference's numbers [examples, units]."""
    found = []
    for i in range(len(task)):
        own, other = (task.clean[i], task.corrupted[i])[:: 1 if direction == "noising" else -1]
        found.append(naive_patterns.estimate(lm.hf, own, other, naive_metric(lm, task, i), units, **options))
    return torch.stack(found)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("units", ["patterns", "patterns@positions", "patterns@cells"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_change_times_gradient(tiny, task_of, agree, family, units, direction):
    """Σ (A' − A) · ∂M/∂A."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = vc.attribute(lm, task, units=units, direction=direction, **QUIET)
    theirs = naive_estimates(lm, task, scores.units, direction)
    agree(scores.values, theirs, scores.gap)
    assert theirs[~theirs.isnan()].abs().max() > 1e-3


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_other_baselines(tiny, task_of, agree, family, baseline):
    lm, task = tiny(family), task_of(6, n=2)
    prompts = [*task.clean, *task.corrupted]
    for units in ("patterns", "patterns@cells"):
        scores = vc.attribute(lm, task, units=units, baseline=baseline, **QUIET)
        theirs = naive_estimates(lm, task, scores.units, ablation=baseline, reference=prompts)
        agree(scores.values, theirs, scores.gap)


LINEAR = ["atp", "ig", "eap-ig", "conductance", "ceap", "eap-gp", "gradpath-complete", "gim", "relp"]


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", LINEAR)
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_cells_add_up_to_rows_and_rows_to_patterns(tiny, task_of, agree, family, method):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    whole, rows, cells = (
        vc.attribute(lm, task, units=f"patterns{which}", method=method, **QUIET)
        for which in ("", "@positions", "@cells")
    )
    n = max(task.lengths)
    by_row = rows.values.nan_to_num().unflatten(1, (-1, n))
    query, key = np.tril_indices(n)
    by_cell = torch.zeros(len(task), len(whole), n, n, dtype=torch.float64)
    by_cell[:, :, query, key] = cells.values.nan_to_num().unflatten(1, (len(whole), -1))
    agree(by_cell.sum(3), by_row, whole.gap)
    agree(by_row.sum(2), whole.values, whole.gap)


@pytest.mark.parametrize("units", ["patterns", "patterns@positions", "patterns@cells"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_unit_path_ends_at_the_exact_effect(task_of, family, units):
    """Each pattern moved alone, straight to the other run's: with enough points its score is its effect."""
    lm, task = smooth(family), task_of(6, n=1)
    exact = vc.exact(lm, task, units=units, **QUIET)
    chosen = exact.units[np.arange(0, len(exact), 1 if units == "patterns" else 11)]
    exact = vc.exact(lm, task, units=chosen, **QUIET)
    path = vc.Method(path="unit", combine="increments", nodes=40)
    scores = vc.attribute(lm, task, units=chosen, method=path, **QUIET)
    torch.testing.assert_close(scores.values, exact.values, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_layer_path_is_complete(task_of, family):
    """A layer's patterns add up to the effect of replacing them all."""
    lm, task = smooth(family), task_of(6, n=2)
    scores = vc.attribute(lm, task, units="patterns", method="ig", nodes=40, **QUIET)
    layers, heads = range(lm.layers), range(lm.heads)
    groups = {f"layer {layer}": [f"a{layer}.h{head}<pattern>" for head in heads] for layer in layers}
    together = vc.exact(lm, task, units=groups, **QUIET)
    by_layer = scores.values.unflatten(1, (lm.layers, lm.heads)).sum(2)
    torch.testing.assert_close(by_layer, together.values, rtol=1e-6, atol=1e-8)
    assert scores.completeness is not None and float(scores.completeness.shares(scores.gap).max()) < 1e-6


@pytest.mark.parametrize("family", tiny_models.mostly_slow(FAMILIES))
def test_finite_differences(tiny, task_of, family):
    """∂M along (A' − A) of one unit, by moving it a little both ways in Hugging Face's own attention."""
    lm, task, step = tiny(family), task_of(6, n=1), 1e-6
    names = ["a0.h1<pattern>@5,2", "a1.h2<pattern>@5,4", "a2.h3<pattern>@5,3", "a0.h0<pattern>@4,2"]
    scores = vc.attribute(lm, task, units=names, **QUIET)
    own, other = (naive_patterns.patterns(lm.hf, ids[0]) for ids in (task.clean, task.corrupted))
    metric = naive_metric(lm, task, 0)
    for unit, (layer, head, query, key) in enumerate(naive_patterns.rows(scores.units)):
        with torch.no_grad():
            up, down = (
                metric(naive_patterns.logits(lm.hf, task.clean[0], [(layer, head, query, key, own[layer] + move)]))
                for move in (step * (other[layer] - own[layer]), -step * (other[layer] - own[layer]))
            )
        assert float(scores.values[0, unit]) == pytest.approx(float((up - down) / (2 * step)), rel=1e-4, abs=1e-7)


def test_qk_exact_is_plain_here_and_says_so(tiny, task_of, agree):
    """A pattern's change is what AtP* recomputes for queries and keys; of a pattern it is the exact one already."""
    lm, task = tiny("llama"), task_of((5, 6), n=2)
    plain = vc.attribute(lm, task, units="patterns", **QUIET)
    exactly = vc.attribute(lm, task, units="patterns", method=vc.Method(path="point", rule="qk-exact"), **QUIET)
    agree(exactly.values, plain.values, plain.gap)
    assert any("exact already" in note for note in exactly.notes)
    dropped = vc.attribute(lm, task, units="patterns@cells", method="atp-star", **QUIET)
    assert (dropped.values.nan_to_num() >= 0).all()


def test_the_pattern_is_what_changed_queries_make(tiny, task_of, agree):
    """In the first layer, queries and keys of a head changed at once are its pattern changed: qk-exact meets it."""
    lm, task = tiny("gpt2"), task_of(6, n=2)
    groups = {"read": "a0.h1<q>+a0.kv1<k>", "pattern": "a0.h1<pattern>"}
    scores = vc.exact(lm, task, units={"read": groups["read"], "pattern": (groups["pattern"],)}, **QUIET)
    agree(scores.values[:, 0], scores.values[:, 1], scores.gap)


def test_agreement_and_receipt(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(6, n=3)
    for units in ("patterns", "patterns@positions", ["a1.h2<pattern>@5,3", "a1.h2<pattern>@5,4", "a0.h0<pattern>@5,1"]):
        estimate = vc.attribute(lm, task, units=units, **QUIET)
        exact = vc.exact(lm, task, units=units, **QUIET)
        assert vc.agreement(estimate, exact).n == 3
        receipt = vc.verify(lm, task, estimate, top=2, sample=1, **QUIET)
        same = [exact.units.find(name) for name in receipt.exact.units.names]
        torch.testing.assert_close(receipt.exact.values, exact.values[:, same])
        saved = receipt.save(tmp_path / f"receipt-{len(estimate)}.safetensors")
        assert vc.open(saved).exact.units.names == receipt.exact.units.names


def test_what_estimates_refuse(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=3)
    with pytest.raises(UnitError, match=r"only vc\.exact takes"):
        vc.attribute(lm, task, units="a1.h2<pattern>@-1,2", **QUIET)
    with pytest.raises(MethodError, match="resample"):
        vc.attribute(lm, task, units=["a1.h2<pattern>@5,2"], baseline="resample", **QUIET)
    drawn = vc.attribute(lm, task, units="patterns", baseline="resample", **QUIET)
    assert drawn.values.isfinite().all()
    with pytest.raises((MethodError, UnitError), match="mask"):
        vc.estimates.learn_mask(lm, task, units="patterns", **QUIET)

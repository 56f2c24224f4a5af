"""AtP*: patterns recomputed exactly and gradients with dropped layers, against plain hooks on whole prompts.

Tolerance where formulas are the same: 1e-9 of the gap in float64 (conftest.EXACT), as for all other estimates.
"""

import naive
import naive_attention
import naive_paths
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model, naive_metric

import veracausa as vc
from veracausa.units.every_unit import all_units

#: Sequential with grouped heads, fused and biased, parallel, post-norms with soft caps and windows, norms on q and k.
FEW = ("llama", "gpt2", "gpt_neox", "gemma2", "qwen3")
POINT = vc.Method(path="point", rule="graddrop")
INPUTS = vc.Method(path="inputs", rule="graddrop", grid="published", nodes=2)


def attribute(lm, task, units, **options):
    return vc.attribute(lm, task, units=units, show_progress=False, **options)


def few(lm, kind, positions=0):
    units = all_units(lm, kind, positions)
    return units[np.arange(0, len(units), 5 if positions else {"neurons": 17}.get(kind, 1))]


def runs(task, i, direction):
    """Prompts of the patched run and of the other one."""
    return (task.clean[i], task.corrupted[i])[:: 1 if direction == "noising" else -1]


def points(method, own, other, direction):
    """The embeddings (and weights) at which a method takes gradients."""
    if method.path == "point":
        return [(own, 1.0)]
    clean, corrupted = (own, other) if direction == "noising" else (other, own)
    return [(corrupted, 0.5), ((corrupted + clean) / 2, 0.5)]


def each(lm, task, direction, compute):
    """`compute(own, other, metric)` of every example, prompts as ids, stacked."""
    return torch.stack([
        compute(*runs(task, i, direction), naive_metric(lm, task, i)) for i in range(len(task))
    ])  # fmt: skip


# ---- dropped layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("method", [POINT, INPUTS], ids=["point", "inputs"])
@pytest.mark.parametrize("kind", ["heads", "neurons", "queries", "values", "mlps"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FEW))
def test_graddrop(tiny, task_of, agree, family, kind, method, direction):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, few(lm, kind), method=method, direction=direction)

    def one(own, other, metric):
        a, b = (naive_paths.embeddings(lm.hf, ids) for ids in (own, other))
        return sum(
            weight * naive_paths.graddrop(lm, family, a, b, point, metric, scores.units)
            for point, weight in points(method, a, b, direction)
        )

    agree(scores.values, each(lm, task, direction, one), scores.gap)
    assert not scores.signed and (scores.values >= 0).all()
    assert scores.completeness is None


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_graddrop_per_position(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, few(lm, "heads", 6), method=POINT)

    def one(own, other, metric):
        a, b = (naive_paths.embeddings(lm.hf, ids) for ids in (own, other))
        return naive_paths.graddrop(lm, family, a, b, a, metric, scores.units)

    agree(scores.values, each(lm, task, "noising", one), scores.gap)
    assert scores.values.isnan().any()


def _silence(hf, family, layer):
    """Let a block write a constant: zero weights of its two output projections."""
    blocks, _, out_proj, _, down_proj = naive.PATHS[family]
    for name in (out_proj, down_proj):
        hf.get_submodule(f"{blocks}.{layer}.{name}").weight.data.zero_()


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("kind", ["heads", "neurons", "queries", "mlps"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FEW))
def test_graddrop_is_plain_where_no_other_layer_carries_gradient(tiny, task_of, agree, family, kind, direction):
    """Later blocks write constants: dropping one changes nothing, so every pass gives |plain|."""
    hf = tiny_models.make(family, seed=1)
    for layer in (1, 2):
        _silence(hf, family, layer)
    lm, task = as_model(hf, family), task_of((5, 6), n=2, seed=2)
    plain = attribute(lm, task, few(lm, kind), direction=direction)
    dropped = attribute(lm, task, few(lm, kind), method=POINT, direction=direction)
    agree(dropped.values, plain.values.abs(), plain.gap)
    assert plain.values[:, plain.units.layer == 0].abs().max() > 1e-3 * plain.gap.abs().mean()
    lm = tiny(family)  # the control: where later blocks write, they differ
    plain, dropped = (attribute(lm, task, few(lm, kind), method=m).values for m in ("atp", POINT))
    first = few(lm, kind).layer == 0
    assert (dropped - plain.abs())[:, first].abs().max() > 0.05 * plain[:, first].abs().max()


@pytest.mark.parametrize("family", FEW)
def test_dropping_an_earlier_layer_changes_nothing(tiny, task_of, agree, family):
    """The last layer's heads have no later layer to drop: |plain|, whichever is dropped."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    names = [f"a2.h{head}" for head in range(4)]
    plain, dropped = (attribute(lm, task, names, method=method) for method in ("atp", POINT))
    agree(dropped.values, plain.values.abs(), plain.gap)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_graddrop_of_the_final_stream(tiny, task_of, agree, family):
    """No block is behind it, and none is its own: the mean over three passes that all give |plain|."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    plain, dropped = (attribute(lm, task, ["r3"], method=method) for method in ("atp", POINT))
    agree(dropped.values, plain.values.abs(), plain.gap)


def test_graddrop_against_cancellation(task_of):
    """Block 1's MLP undoes all that heads of block 0 write: plain AtP sees nothing, one of two passes all of it."""

    def values(method, undoing):
        hf = tiny_models.make("gpt2", seed=1, activation_function="linear")
        for norm in (hf.transformer.h[1].ln_2, hf.transformer.ln_f):  # x − mean of x: beside ε a variance is nothing
            norm.eps = 1e24
            norm.weight.data.fill_(1e12)
            norm.bias.data.zero_()
        for layer in (1, 2):
            _silence(hf, "gpt2", layer)
        hf.transformer.h[0].mlp.c_proj.weight.data.zero_()
        if undoing:
            mlp = hf.transformer.h[1].mlp
            mlp.c_fc.weight.data[:, :24] = torch.eye(24)
            mlp.c_proj.weight.data[:24] = -torch.eye(24)
        lm = as_model(hf, "gpt2")  # towards zero, which needs no gap: what is undone separates no prompts either
        return attribute(lm, task_of(6, seed=2), [f"a0.h{head}" for head in range(4)], method=method, baseline="zero")

    direct = values("atp", undoing=False).values
    assert values("atp", undoing=True).values.abs().max() < 1e-9 * direct.abs().max()
    torch.testing.assert_close(values(POINT, undoing=True).values, direct.abs() / 2, rtol=1e-9, atol=0)


# ---- exact patterns -------------------------------------------------------------------------------------------------


def through_pattern(lm, family, own, other, units, gradients):
    """Σ (A_patched − A) v · ∂M/∂z of each unit, from ∂M/∂z by layer."""
    changes = naive_attention.value_changes(lm.hf, family, own, other, units)
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    return torch.stack([
        nan if change is None else (change * gradients[layer]).sum()
        for change, layer in zip(changes, units.layer.tolist(), strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("positions", [0, 6], ids=["summed", "per-position"])
@pytest.mark.parametrize("kind", ["queries", "keys"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
def test_qk_exact(tiny, task_of, agree, family, kind, positions, direction):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    units = few(lm, kind, positions)
    scores = attribute(lm, task, units, method=vc.Method(rule="qk-exact"), direction=direction)

    def one(own, other, metric):
        _, gradients = naive_paths.at(lm.hf, family, naive_paths.embeddings(lm.hf, own), metric)
        return through_pattern(lm, family, own, other, units, gradients["z"])

    theirs = each(lm, task, direction, one)
    agree(scores.values, theirs, scores.gap)
    assert scores.signed and not any("plain here" in note for note in scores.notes)
    plain = attribute(lm, task, units, direction=direction).values  # else nothing was tested
    assert (scores.values - plain).nan_to_num().abs().max() > 1e-2 * scores.gap.abs().mean()


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("kind", ["queries", "keys"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_qk_exact_along_the_input(tiny, task_of, agree, family, kind, direction):
    """The pattern changes from the patched run's to the exact one; only ∂M/∂z is averaged over the path."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    method = vc.Method(path="inputs", rule="qk-exact", grid="published", nodes=2)
    scores = attribute(lm, task, kind, method=method, direction=direction)

    def one(own, other, metric):
        ends = [naive_paths.embeddings(lm.hf, ids) for ids in (own, other)]
        found = [
            (weight, naive_paths.at(lm.hf, family, point, metric)[1]["z"])
            for point, weight in points(method, *ends, direction)
        ]
        gradients = [sum(weight * z[layer] for weight, z in found) for layer in range(3)]
        return through_pattern(lm, family, own, other, scores.units, gradients)

    agree(scores.values, each(lm, task, direction, one), scores.gap)


@pytest.mark.parametrize("kind", ["heads", "neurons", "mlps", "residual", "values", "attention"])
def test_qk_exact_is_plain_for_other_kinds_and_says_so(tiny, task_of, kind):
    lm, task = tiny("llama"), task_of((5, 6), n=2, seed=4)
    scores = attribute(lm, task, kind, method=vc.Method(rule="qk-exact"))
    assert torch.equal(scores.values, attribute(lm, task, kind).values)
    assert [note for note in scores.notes if "plain here" in note] == [
        f"{kind} have no queries or keys, so rule qk-exact is plain here"
    ]
    both = attribute(lm, task, kind, method="atp-star")
    assert torch.equal(both.values, attribute(lm, task, kind, method=POINT).values)
    assert any("plain here" in note for note in both.notes)


def attention_only(family):
    """MLPs write constants; the final norm is linear, because its ε is 1e24 (and its gain 1e12 times larger)."""
    hf = tiny_models.make(family, seed=1)
    blocks, final_norm, _, _, down_proj = naive.PATHS[family]
    for layer in range(3):
        hf.get_submodule(f"{blocks}.{layer}.{down_proj}").weight.data.zero_()
    norm = hf.get_submodule(final_norm)
    norm.weight.data *= 1e12
    setattr(norm, "eps" if hasattr(norm, "eps") else "variance_epsilon", 1e24)
    return as_model(hf, family)


@pytest.mark.cases(2)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("kind", ["queries", "keys", "queries@positions", "keys@positions"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(["gpt2", "llama", "mistral", "qwen3", "gpt_neox"]))
def test_qk_exact_is_exact_where_only_the_pattern_bends(task_of, agree, family, kind, direction):
    """Behind the last layer's pattern all is linear here. Plain AtP is off by 0.1 to 14 times the largest effect."""
    lm, task = attention_only(family), task_of((5, 6), n=2, seed=2)
    units = all_units(lm, kind.partition("@")[0], 6 if "@" in kind else 0)
    last = units[units.layer == 2]
    effects = vc.exact(lm, task, units=last, direction=direction, show_progress=False)
    ours, plain = (
        attribute(lm, task, last, method=vc.Method(rule=rule), direction=direction) for rule in ("qk-exact", "plain")
    )
    agree(ours.values, effects.values, effects.gap)
    off, largest = ((plain.values - effects.values).nan_to_num().abs().max(), effects.values.nan_to_num().abs().max())
    assert off > 0.1 * largest > 0.001 * effects.gap.abs().mean()
    earlier = units[units.layer < 2]  # the control: a later layer's pattern bends, too
    effects = vc.exact(lm, task, units=earlier, direction=direction, show_progress=False)
    ours = attribute(lm, task, earlier, method=vc.Method(rule="qk-exact"), direction=direction)
    assert (ours.values - effects.values).nan_to_num().abs().max() > 1e-3 * largest


# ---- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("positions", [0, 6], ids=["summed", "per-position"])
@pytest.mark.parametrize("kind", ["queries", "keys"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(FEW))
def test_atp_star(tiny, task_of, agree, family, kind, positions, direction):
    """1/(L − 1) Σ over dropped layers of |(A_patched − A) v · ∂M/∂z with that layer's gradient dropped|."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    units = few(lm, kind, positions)
    scores = attribute(lm, task, units, method="atp-star", direction=direction)

    def one(own, other, metric):
        total = torch.zeros(len(units), dtype=torch.float64)
        for dropped in range(3):

            def drop(layer, entered, left, dropped=dropped):
                return entered + (left - entered).detach() if layer == dropped else left

            point = naive_paths.embeddings(lm.hf, own).requires_grad_()
            trace = naive_paths.run(lm.hf, family, point, edit=drop)
            gradients = naive_paths.gradients(trace, metric)["z"]
            magnitudes = through_pattern(lm, family, own, other, units, gradients).abs()
            total += torch.where(torch.as_tensor(units.layer) == dropped, 0.0 * magnitudes, magnitudes)
        return total / 2

    agree(scores.values, each(lm, task, direction, one), scores.gap)
    assert not scores.signed
    composed = attribute(lm, task, units, method=vc.Method(rule="qk-exact+graddrop"), direction=direction)
    assert torch.equal(composed.values.nan_to_num(), scores.values.nan_to_num())

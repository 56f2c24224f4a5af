"""Rankings of parts: each measure against a second, naive way; FGP's rule; order, sizes, rounds, files."""

from contextlib import contextmanager

import naive_pruning
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model, naive_metric

import veracausa as vc
from veracausa.cost import Cost
from veracausa.errors import ArchitectureError, MethodError, UnitError
from veracausa.pruning.cutting import constants_of, cut_of, cut_out
from veracausa.pruning.part_ranking import PartRanking, ordered, strengths
from veracausa.pruning.parts import Parts

QUIET = {"show_progress": False}
FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma3")


def setting(family: str, **over):
    """A tiny model in float64, and three pairs of two lengths."""
    lm = as_model(tiny_models.make(family, **over))
    clean = [(5, 9, 11, 20, 7), (5, 8, 11, 20, 7), (6, 9, 12, 7)]
    corrupted = [(5, 9, 13, 20, 7), (5, 8, 14, 20, 7), (6, 9, 15, 7)]
    task = vc.Task("three", clean, corrupted, [(30,), (31,), (32,)], [(33,), (34,), (35,)])
    return lm, task


def ranked(lm, task, **how):
    found = vc.pruning.rank(lm, task, **how, **QUIET)
    return dict(zip(found.parts.names, found.values[0], strict=True)), found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("units", "place"),
    [("heads", "z"), ("neurons", "neurons"), ("mlps", "mlp"), ("kv_groups", "z"), ("attention", "z")],
)
def test_support_is_feature_times_gradient_token_by_token(family, units, place):
    lm, task = setting(family)
    parts = {"heads": lm.heads, "kv_groups": lm.decoder.kv_heads, "neurons": 40}.get(units, 1)
    expected = naive_pruning.support(
        lm.hf, family, task.clean, lambda i: naive_metric(lm, task, i), parts, place
    ).flatten()
    if family == "gemma3" and units in ("mlps", "attention"):  # its norms behind them leave nothing but rounding
        assert expected.max() < 1e-4
        return
    found, _ = ranked(lm, task, how="fgp", units=units)
    # float64 throughout: only the order of sums differs
    assert np.allclose(list(found.values()), expected.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_over_weights_are_those_of_the_parts_own_weights(family):
    lm, task = setting(family)
    for how, norms in (("wanda", naive_pruning.norms(lm.hf, family, task.clean)), ("magnitude", None)):
        wanted = naive_pruning.weight_sums(lm.hf, family, lm.heads, lm.decoder.kv_heads, norms)
        for units, sums in wanted.items():
            found, _ = ranked(lm, task, how=how, units=units)
            assert np.allclose(list(found.values()), sums, rtol=1e-9), (how, units)


def test_exact_and_estimated_rankings_are_those_of_the_library_and_groups_add_up():
    lm, task = setting("llama")
    exact = vc.exact(lm, task, units="heads", ablation="zero", **QUIET)
    assert np.allclose([*ranked(lm, task, how="exact-zero", units="heads")[0].values()], exact.values.mean(0).abs())
    how = {"method": "atp", "baseline": "mean", "reference": task.side(True)}
    atp = vc.attribute(lm, task, units="heads", **how, **QUIET).values.mean(0)
    groups = ranked(lm, task, how="atp-mean", units="kv_groups")[0]
    assert np.allclose([*groups.values()], atp.unflatten(0, (-1, 2)).sum(-1).abs())
    both = vc.exact(lm, task, units={"a1.kv1": ["a1.h2", "a1.h3"]}, ablation="zero", **QUIET).values.mean()
    assert np.isclose(ranked(lm, task, how="exact-zero", units="kv_groups")[0]["a1.kv1"], abs(float(both)))


def test_a_layers_zero_is_the_layer_cut_out():
    """GPT-2's outputs have biases, which stay where a head's or an MLP's values are 0, and go where a layer is cut."""
    lm, task = setting("gpt2")
    values = ranked(lm, task, how="exact-zero", units="layers")[0]
    for layer, name in enumerate(values):
        bare = lm.measure(task).clean.mean()
        with without_layer(lm.hf.transformer.h[layer]):
            assert values[name] == pytest.approx(abs(float(lm.measure(task).clean.mean() - bare)), abs=1e-12)


@contextmanager
def without_layer(block):
    """The block passes the stream on."""

    def passed(module, given, out):
        return (given[0], *out[1:]) if isinstance(out, tuple) else given[0]

    handle = block.register_forward_hook(passed)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("units", ["mlps", "attention", "layers", "attention+neurons"])
def test_gradients_of_outputs_that_a_norm_makes_one_size_are_refused(units):
    """Σ a · ∂M/∂a is 0 there but for the norm's ε, whatever the part does (Gemma 2)."""
    lm, task = setting("gemma2")
    for how in ("fgp", "atp-zero"):
        with pytest.raises(ArchitectureError, match="does not see how large"):
            ranked(lm, task, how=how, units=units)
    assert min(ranked(lm, task, how="exact-zero", units="mlps")[0].values()) > 1e-3


def test_a_part_is_kept_that_is_in_the_smallest_set_of_any_class():
    generator = np.random.default_rng(0)
    values = generator.random((3, 30)) ** 3
    strength = strengths(values, np.full(30, 7), "fgp")
    for share in (0.3, 0.6, 0.9):
        kept = set()
        for own in values:  # the rule as it is written: the smallest set that covers the share, class by class
            total = 0.0
            for part in np.argsort(-own):
                if total >= share * own.sum():
                    break
                kept.add(int(part))
                total += own[part]
        assert kept == set(np.flatnonzero(1 - strength < share).tolist())
    assert ordered(np.array([2.0, 1.0, 1.0])).tolist() == [2, 1, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_of_parts_are_those_that_they_have(family):
    lm, _ = setting(family)
    block = lm.decoder.blocks[1]
    assert Parts.of(lm, "layers").parameters[1] == sum(p.numel() for p in block.module.parameters())
    whole = sum(p.numel() for module in block.mlp_modules for p in module.parameters())
    biases = 24 if family == "gpt2" else 32 if family == "gpt_neox" else 0
    assert Parts.of(lm, "neurons").parameters[:40].sum() == whole - biases
    groups, heads = Parts.of(lm, "kv_groups"), Parts.of(lm, "heads")
    linear = sum(p.numel() for name, p in block.attention.named_parameters() if "norm" not in name)
    linear -= sum(p.numel() for p in block.attention_out.parameters() if p.ndim == 1)
    assert groups.parameters[groups.layer == 1].sum() == linear
    assert (heads.parameters[heads.layer == 1].sum() == linear) == (lm.heads == lm.decoder.kv_heads)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_weights_without_parts_give_what_hooks_on_their_activations_give(family, ablation):
    lm, task = setting(family)
    own = {name: value.clone() for name, value in lm.hf.state_dict().items()}
    parts = Parts.of(lm, "heads+neurons")
    gone = np.random.default_rng(1).random(len(parts)) < 0.4
    cut = cut_of(lm, parts, gone)
    z = {layer: torch.from_numpy(one.z) for layer, one in enumerate(cut)}
    neurons = {layer: torch.from_numpy(one.neurons) for layer, one in enumerate(cut)}
    constants = constants_of(lm, parts, task.clean, Cost()) if ablation == "mean" else {}
    ids = torch.tensor([task.clean[0]])
    with torch.no_grad(), naive_pruning.without(lm.hf, family, z, neurons, means=constants):
        expected = lm.hf(ids).logits
    identity = lm.identity
    with torch.no_grad(), cut_out(lm, cut, constants):
        found = lm.hf(ids).logits
        assert lm.identity != identity
    assert float((found - expected).abs().max()) < 1e-9 * float(expected.abs().max())
    with torch.no_grad():
        assert float((lm.hf(ids).logits - expected).abs().max()) > 1e-3
    assert lm.identity == identity
    assert all(torch.equal(value, lm.hf.state_dict()[name]) for name, value in own.items())


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    ("family", "units"), [("jamba", "heads"), ("nemotron_h", "neurons"), ("mixtral", "attention"), ("opt", "mlps"),
                          ("cohere", "heads"), ("gemma4", "heads"), ("phi3", "neurons")],
)  # fmt: skip
def test_a_part_cut_out_of_the_weights_is_its_exact_zero_effect(family, units):
    """One part at a time both are the same number; the engine's suffix runs share no code with the cut."""
    lm, task = setting(family)
    parts = Parts.of(lm, units)
    some = np.random.default_rng(0).choice(len(parts), size=min(3, len(parts)), replace=False)
    names = [parts.names[i] for i in some]
    exact = vc.exact(lm, task, units=names, ablation="zero", **QUIET)
    full = lm.measure(task).clean
    for name, at in zip(names, some, strict=True):
        with cut_out(lm, cut_of(lm, parts, np.arange(len(parts)) == at), {}):
            change = lm.measure(task).clean - full
        own = exact.values[:, exact.units.names.index(name)]
        # float64; the furthest of 49 tiny families were 3e-10 (a mixer in front), most 1e-14
        assert float((change - own).abs().max()) < 1e-8
    ranked(lm, task, how="fgp", units=units)


def test_a_failing_call_leaves_the_weights():
    lm, _ = setting("llama")
    parts = Parts.of(lm, "layers")
    with pytest.raises(ZeroDivisionError), cut_out(lm, cut_of(lm, parts, np.ones(len(parts), dtype=bool)), {}):
        assert not lm.decoder.blocks[0].mlp_out.weight.any()
        1 / 0  # noqa: B018
    assert lm.decoder.blocks[0].mlp_out.weight.all() and lm.decoder.blocks[0].mlp_out.bias is None


def test_sizes_are_shares_of_parameters_and_sets_are_nested():
    lm, task = setting("llama")
    found = ranked(lm, [task, task[:2]], how="fgp", units="kv_groups+mlps")[1]
    before = np.zeros(len(found.parts), dtype=bool)
    for size in (0.0, 0.1, 0.3, 0.6, 1.0):
        gone = found.cut(size)
        assert found.parts.saved(gone) <= size * found.parts.total and (gone | before == gone).all()
        before = gone
    assert before.all()
    each = ranked(lm, task, how="magnitude", units="neurons")[1].cut(0.25, per_layer=True)
    assert each.reshape(3, 40).sum(1).tolist() == [10, 10, 10]
    with pytest.raises(MethodError, match="less than one of the parts"):
        ranked(lm, task, how="random", units="kv_groups")[1].cut(0.2, per_layer=True)


def test_rounds_rank_what_is_left_of_the_model_that_is_left():
    lm, task = setting("llama")
    found = vc.pruning.rank(lm, task, how="fgp", units="neurons", share=0.4, rounds=2, **QUIET)
    once = vc.pruning.rank(lm, task, how="fgp", units="neurons", **QUIET)
    first = once.cut(0.2)
    assert np.array_equal(found.cut(0.2), first) and not np.array_equal(found.order, once.order)
    with cut_out(lm, cut_of(lm, once.parts, first), {}):
        again = vc.pruning.rank(lm, task, how="fgp", units="neurons", **QUIET)
    left = [part for part in again.order.tolist() if not first[part]]
    assert found.order.tolist()[first.sum() :] == left


def test_what_cannot_be_is_refused():
    lm, task = setting("llama")
    for wrong, error in (
        ({"how": "best"}, MethodError), ({"units": "head"}, UnitError), ({"units": "heads+kv_groups"}, UnitError),
        ({"units": "layers+mlps"}, UnitError), ({"share": 1.5}, MethodError), ({"rounds": 0}, MethodError),
        ({"ablation": "resample"}, MethodError),
    ):  # fmt: skip
        with pytest.raises(error):
            vc.pruning.rank(lm, task, **{"how": "random", **wrong}, **QUIET)
    with pytest.raises(ArchitectureError, match="experts"):
        mixed, pairs = setting("mixtral")
        vc.pruning.rank(mixed, pairs, how="random", units="neurons", **QUIET)


def test_a_forecast_counts_what_is_run():
    lm, task = setting("llama")
    for how, units in (("fgp", "neurons"), ("atp-zero", "heads"), ("wanda", "heads"), ("exact-zero", "heads")):
        price = vc.forecast(vc.pruning.rank, lm, task, how=how, units=units, measure=False)
        made = vc.pruning.rank(lm, task, how=how, units=units, **QUIET)
        assert price.token_layers == made.cost.token_layers, how


def test_it_is_written_and_read(tmp_path):
    lm, task = setting("llama")
    found = vc.pruning.rank(lm, task, how="atp-zero", units="heads", **QUIET)
    again = vc.open(found.save(tmp_path / "ranking.safetensors"))
    assert isinstance(again, PartRanking) and again.describe() == found.describe()
    assert again.table().equals(found.table())

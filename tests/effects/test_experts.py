"""Experts of MLPs as units: exact effects against whole runs of the plain model with hooks, and estimates of them."""

import copy
from functools import partial

import naive_experts as naive
import numpy as np
import pytest
import torch
from tiny_models import MIXTURES, make, mostly_slow, pairs

import veracausa as vc
from veracausa.anatomy import decoder_of
from veracausa.errors import ArchitectureError, ContractError, MethodError, UnitError
from veracausa.model import Model
from veracausa.tasks.task import Task

every_mixture = pytest.mark.parametrize("family", mostly_slow(MIXTURES, fast=("mixtral",)))


def model_of(hf, name="tiny"):
    return Model(hf, None, name, f"{name}, random weights", decoder_of(hf))


def task_of(found):
    columns = [[tuple(pair.clean) for pair in found], [tuple(pair.corrupted) for pair in found]]
    return Task(
        "random", *map(tuple, columns), tuple((p.correct,) for p in found), tuple((p.incorrect,) for p in found)
    )


def asked(family, count=1, length=8, seed=3, **over):
    hf, found = make(family, **over), pairs(family, count, length, seed)
    return hf, model_of(hf, family), found, task_of(found)


def whole_run(hf, pair, layer, ids, delta):
    """M of a run of the plain model whose MLP of a layer gives `delta` more."""
    return naive.metric(hf, ids, pair, naive.plus(hf, layer, delta))


def by_name(scores):
    return dict(zip(scores.units.names, scores.values.T.tolist(), strict=True))


@pytest.mark.parametrize("family", mostly_slow(MIXTURES, fast=("mixtral", "deepseek_v3")))
def test_effects_are_those_of_whole_runs(family):
    hf, lm, found, task = asked(family, count=2)
    ours = by_name(vc.exact(lm, task, units="experts", show_progress=False))
    back = by_name(vc.exact(lm, task, units="experts", direction="denoising", show_progress=False))
    without = by_name(vc.exact(lm, task, units="experts", ablation="zero", show_progress=False))
    assert len(ours) == 4 * len(naive.mixtures(hf))
    for i, pair in enumerate(found):
        runs = [naive.recorded(hf, ids) for ids in (pair.clean, pair.corrupted)]
        bare = [naive.metric(hf, ids, pair) for ids in (pair.clean, pair.corrupted)]
        for layer in naive.mixtures(hf):
            for expert in range(4):
                clean, other = (run[layer]["experts"][expert] for run in runs)
                name, whole = f"m{layer}.e{expert}", partial(whole_run, hf, pair, layer)
                assert ours[name][i] == pytest.approx(whole(pair.clean, other - clean) - bare[0], abs=1e-9)
                assert back[name][i] == pytest.approx(whole(pair.corrupted, clean - other) - bare[1], abs=1e-9)
                assert without[name][i] == pytest.approx(whole(pair.clean, -clean) - bare[0], abs=1e-9)


@pytest.mark.parametrize("family", mostly_slow(["deepseek_v3", "qwen2_moe"], fast=("deepseek_v3",)))
def test_shared_experts_are_those_of_whole_runs(family):
    hf, lm, (pair,), task = asked(family)
    ours = by_name(vc.exact(lm, task, units="shared", show_progress=False))
    clean, other = (naive.recorded(hf, ids) for ids in (pair.clean, pair.corrupted))
    bare = naive.metric(hf, pair.clean, pair)
    assert [*ours] == ["m1.shared", "m2.shared"]
    for layer in (1, 2):
        delta = other[layer]["shared"].view_as(clean[layer]["output"]) - clean[layer]["shared"].view_as(
            clean[layer]["output"]
        )
        whole = naive.metric(hf, pair.clean, pair, naive.plus(hf, layer, delta))
        assert ours[f"m{layer}.shared"][0] == pytest.approx(whole - bare, abs=1e-9)


@every_mixture
def test_groups_replace_what_experts_add_in_the_run_that_is_going_on(family):
    """The first member changes what the second would add, and which experts are chosen there."""
    hf, lm, (pair,), task = asked(family)
    first, last = sorted(naive.mixtures(hf))[0], sorted(naive.mixtures(hf))[-1]
    group = (f"m{first}.e0", f"m{first}.e2", f"m{last}.e1", f"m{last}.e3")
    ours = float(vc.exact(lm, task, units={"four": group}, show_progress=False).values)
    other = naive.recorded(hf, pair.corrupted)
    new = {
        layer: {e: other[layer]["experts"][e] for e in chosen} for layer, chosen in ((first, (0, 2)), (last, (1, 3)))
    }
    whole = naive.metric(hf, pair.clean, pair, *(naive.replaced(hf, layer, one) for layer, one in new.items()))
    assert ours == pytest.approx(whole - naive.metric(hf, pair.clean, pair), abs=1e-9)


def test_all_experts_and_the_shared_one_are_the_whole_mlp():
    _, lm, _, task = asked("deepseek_v3", count=2)
    whole = vc.exact(lm, task, units=["m1"], show_progress=False).values
    for parts in ("m1.e0+m1.e1+m1.e2+m1.e3+m1.shared", "m1.shared+m1.e3+m1.e2+m1.e1+m1.e0"):
        together = vc.exact(lm, task, units=[(parts,)], show_progress=False).values
        torch.testing.assert_close(together, whole, atol=1e-9, rtol=0)


def test_positions_are_those_of_whole_runs():
    hf, lm, (pair,), task = asked("mixtral")
    clean, other = (naive.recorded(hf, ids)[1]["experts"] for ids in (pair.clean, pair.corrupted))
    bare = naive.metric(hf, pair.clean, pair)
    alone = by_name(vc.exact(lm, task, units="experts@positions", show_progress=False))
    end = by_name(vc.exact(lm, task, units="experts@end", show_progress=False))
    both = vc.exact(lm, task, units=["m1.e1+m1.e3@6-7"], show_progress=False).values
    for expert in range(4):
        for position in (5, 7):
            delta = torch.zeros_like(clean[expert])
            delta[position] = (other[expert] - clean[expert])[position]
            whole = naive.metric(hf, pair.clean, pair, naive.plus(hf, 1, delta)) - bare
            assert alone[f"m1.e{expert}@{position}"][0] == pytest.approx(whole, abs=1e-9)
            if position == 7:
                assert end[f"m1.e{expert}@end"][0] == pytest.approx(whole, abs=1e-9)
    delta = torch.zeros_like(clean[0])
    delta[6:] = sum((other[e] - clean[e])[6:] for e in (1, 3))
    assert float(both) == pytest.approx(naive.metric(hf, pair.clean, pair, naive.plus(hf, 1, delta)) - bare, abs=1e-9)


@pytest.mark.slow
def test_other_replacements_are_those_of_whole_runs():
    hf, lm, found, task = asked("qwen2_moe", count=4)
    prompts = [naive.recorded(hf, ids)[1]["experts"] for pair in found for ids in (pair.clean, pair.corrupted)]
    means = vc.exact(lm, task, units=["m1.e0", "m1.e3"], ablation="mean", show_progress=False)
    vector = torch.randn(lm.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = vc.exact(lm, task, units=["m1.e0"], ablation=vc.effects.Own({"m1.e0": vector}), show_progress=False)
    added = vc.exact(lm, task, units=["m1.e0"], ablation=vc.effects.Added({"m1.e0": vector}, 2.0), show_progress=False)
    for i, pair in enumerate(found):
        bare, clean = naive.metric(hf, pair.clean, pair), naive.recorded(hf, pair.clean)[1]["experts"]

        def whole(delta, pair=pair, bare=bare):
            return naive.metric(hf, pair.clean, pair, naive.plus(hf, 1, delta)) - bare

        for unit, expert in enumerate((0, 3)):
            mean = torch.stack([run[expert] for run in prompts]).mean(0)
            assert float(means.values[i, unit]) == pytest.approx(whole(mean - clean[expert]), abs=1e-9)
        assert float(own.values[i]) == pytest.approx(whole(vector - clean[0]), abs=1e-9)
        assert float(added.values[i]) == pytest.approx(whole((2 * vector).expand_as(clean[0])), abs=1e-9)
    drawn = vc.exact(lm, task, units=["m1.e0", "m1.e1"], ablation="resample", show_progress=False)
    again = vc.exact(lm, task, units=["m1.e1", "m1.e2"], ablation="resample", show_progress=False)
    torch.testing.assert_close(drawn.values[:, 1], again.values[:, 0], atol=1e-12, rtol=0)
    assert drawn.values.abs().max() > 0


@every_mixture
def test_routers_choose_by_the_other_run_s_logits(family):
    """Alone, at one position, and in a group with an expert of the same layer and a later router."""
    hf, lm, (pair,), task = asked(family)
    first, last = sorted(naive.mixtures(hf))[0], sorted(naive.mixtures(hf))[-1]
    ours = by_name(vc.exact(lm, task, units="routers", show_progress=False))
    back = by_name(vc.exact(lm, task, units="routers", direction="denoising", show_progress=False))
    here = float(vc.exact(lm, task, units=[f"m{first}.router@7"], show_progress=False).values)
    group = (f"m{first}.router", f"m{first}.e1", f"m{last}.router")
    together = float(vc.exact(lm, task, units={"three": group}, show_progress=False).values)
    bare = [naive.metric(hf, ids, pair) for ids in (pair.clean, pair.corrupted)]
    new = {layer: naive.router_logits(hf, pair.corrupted, layer) for layer in naive.mixtures(hf)}

    def swapped(layer):
        return naive.rerouted(hf, layer, lambda own: new[layer].view_as(own))

    for layer in new:
        own = naive.router_logits(hf, pair.clean, layer)
        assert ours[f"m{layer}.router"][0] == pytest.approx(
            naive.metric(hf, pair.clean, pair, swapped(layer)) - bare[0], abs=1e-9
        )
        other = naive.rerouted(hf, layer, lambda logits, own=own: own.view_as(logits))
        whole = naive.metric(hf, pair.corrupted, pair, other) - bare[1]
        assert back[f"m{layer}.router"][0] == pytest.approx(whole, abs=1e-9)
    at = naive.router_logits(hf, pair.clean, first)
    at[7] = new[first][7]
    whole = naive.metric(hf, pair.clean, pair, naive.rerouted(hf, first, at.view_as)) - bare[0]
    assert here == pytest.approx(whole, abs=1e-9)
    expert = naive.recorded(hf, pair.corrupted)[first]["experts"][1]
    hooks = swapped(first), naive.replaced(hf, first, {1: expert}), swapped(last)
    assert together == pytest.approx(naive.metric(hf, pair.clean, pair, *hooks) - bare[0], abs=1e-9)


@every_mixture
def test_neurons_of_experts_are_those_of_whole_runs(family):
    """Where an expert is chosen in the run that is patched, whatever the other chooses; weights stay."""
    hf, lm, (pair,), task = asked(family)
    layer = max(naive.mixtures(hf)) - 1
    mlp = naive.mixtures(hf)[layer]
    clean, other = (naive.recorded(hf, ids)[layer]["called"][0] for ids in (pair.clean, pair.corrupted))
    names = [f"m{layer}.e{expert}.n{neuron}" for expert in range(4) for neuron in (0, 7)]
    ours = by_name(vc.exact(lm, task, units=names, show_progress=False))
    gone = by_name(vc.exact(lm, task, units=names, ablation="zero", show_progress=False))
    end = by_name(vc.exact(lm, task, units=[f"{name}@end" for name in names], show_progress=False))
    slopes = by_name(vc.attribute(lm, task, units=names, method="atp", show_progress=False))
    bare = naive.metric(hf, pair.clean, pair)
    with torch.no_grad():
        for name in names:
            expert, index = (int(part[1:]) for part in name.split(".")[1:])
            delta, (own, _) = (
                naive.neuron_change(mlp, clean, other, expert, index),
                naive.neuron(mlp, clean, expert, index),
            )
            last = torch.zeros_like(delta)
            last[-1] = delta[-1]
            for found, change in ((ours[name], delta), (gone[name], -own), (end[f"{name}@end"], last)):
                whole = whole_run(hf, pair, layer, pair.clean, change) - bare
                assert found[0] == pytest.approx(whole, abs=1e-9), name
            ends = [whole_run(hf, pair, layer, pair.clean, step * delta) for step in (-1e-5, 1e-5)]
            assert slopes[name][0] == pytest.approx((ends[1] - ends[0]) / 2e-5, abs=1e-5)
    assert max(abs(one) for (one,) in ours.values()) > 1e-3


@every_mixture
def test_neurons_of_experts_in_groups(family):
    """With another of its layer, with an expert of a later one, and at positions, in the run that is going on."""
    hf, lm, (pair,), task = asked(family)
    first, last = sorted(naive.mixtures(hf))[0], sorted(naive.mixtures(hf))[-1]
    other = naive.recorded(hf, pair.corrupted)
    new = {key: naive.at_weight_one(naive.mixtures(hf)[first], other[first]["called"][0], *key)
           for key in ((0, 3), (2, 7), (3, 1), (1, 3))}  # fmt: skip
    names = [f"m{first}.e{expert}.n{index}" for expert, index in new]
    ours = vc.exact(lm, task, units={"all": (*names, f"m{last}.e1"), "late": "+".join(names) + "@6-7"},
                    show_progress=False).values[0]  # fmt: skip
    bare = naive.metric(hf, pair.clean, pair)
    hooks = naive.replaced_neurons(hf, first, new), naive.replaced(hf, last, {1: other[last]["experts"][1]})
    assert float(ours[0]) == pytest.approx(naive.metric(hf, pair.clean, pair, *hooks) - bare, abs=1e-9)
    clean = naive.recorded(hf, pair.clean)[first]["called"][0]
    for key, value in new.items():
        value[:6] = naive.at_weight_one(naive.mixtures(hf)[first], clean, *key)[:6]
    whole = naive.metric(hf, pair.clean, pair, naive.replaced_neurons(hf, first, new)) - bare
    assert float(ours[1]) == pytest.approx(whole, abs=1e-9)
    assert ours.abs().min() > 1e-6


@pytest.mark.parametrize("family", mostly_slow(MIXTURES, fast=("mixtral",)))
def test_other_replacements_of_neurons_of_experts(family):
    """Means, position by position, and other prompts' values; 0 where an expert is not chosen counts."""
    hf, lm, found, task = asked(family, count=3)
    layer = max(naive.mixtures(hf)) - 1
    mlp, keys = naive.mixtures(hf)[layer], [(0, 3), (1, 7), (2, 0), (3, 5)]
    called = {tuple(ids): naive.recorded(hf, ids)[layer]["called"][0] for p in found for ids in (p.clean, p.corrupted)}
    names = [f"m{layer}.e{expert}.n{index}" for expert, index in keys]
    means, draws = (vc.exact(lm, task, units=names, ablation=kind, show_progress=False).values
                    for kind in ("mean", "resample"))  # fmt: skip
    grouped = vc.exact(lm, task, units=[(names[1],), tuple(names)], ablation="mean", show_progress=False).values
    alone = vc.exact(lm, task, units=[(name,) for name in names], ablation="resample", show_progress=False).values
    for i, pair in enumerate(found):
        own = called[tuple(pair.clean)]
        bare, every = naive.metric(hf, pair.clean, pair), {}
        for unit, key in enumerate(keys):
            adds, weight = naive.neuron(mlp, own, *key)
            values = {ids: naive.at_weight_one(mlp, args, *key) for ids, args in called.items()}
            every[key] = torch.stack([naive.at_weight_one(mlp, called[tuple(ids)], *key)
                                      for p in found for ids in (p.clean, p.corrupted)]).mean(0)  # fmt: skip

            def whole(new, weight=weight, adds=adds, pair=pair, bare=bare):
                return whole_run(hf, pair, layer, pair.clean, weight * new - adds) - bare

            assert float(means[i, unit]) == pytest.approx(whole(every[key]), abs=1e-9)
            for drawn in (draws, alone):
                donors = [values[ids] for ids in called if ids not in (tuple(pair.clean), tuple(pair.corrupted))]
                assert min(abs(float(drawn[i, unit]) - whole(new)) for new in donors) < 1e-9
        assert float(grouped[i, 0]) == pytest.approx(float(means[i, 1]), abs=1e-9)
        together = naive.metric(hf, pair.clean, pair, naive.replaced_neurons(hf, layer, every)) - bare
        assert float(grouped[i, 1]) == pytest.approx(together, abs=1e-9)


@pytest.mark.cases(1)
@pytest.mark.parametrize("baseline", ["corrupted", "mean"])
@pytest.mark.parametrize("family", mostly_slow(MIXTURES, fast=("mixtral",)))
def test_paths_of_neurons_of_experts_are_complete(family, baseline):
    """Of each alone its exact effect; of a layer, scores that sum to that of all its neurons, weights as they are."""
    hf, lm, _, task = asked(family, count=2)
    layer, ablation = max(naive.mixtures(hf)), "counterfactual" if baseline == "corrupted" else "mean"
    size = lm.decoder.mixtures[layer].neurons
    names = [f"m{layer}.e{expert}.n{index}" for expert in range(4) for index in range(size)]
    some = names[:: size - 3]
    quiet = {"show_progress": False}
    each = vc.attribute(lm, task, units=some, method=vc.Method(path="unit", nodes=24, baseline=baseline), **quiet)
    torch.testing.assert_close(each.values, vc.exact(lm, task, units=some, ablation=ablation, **quiet).values,
                               atol=1e-7, rtol=0)  # fmt: skip
    scores = vc.attribute(lm, task, units=names, method=vc.Method(baseline=baseline, path="layer", nodes=24), **quiet)
    whole = vc.exact(lm, task, units=[tuple(names)], ablation=ablation, **quiet).values[:, 0]
    torch.testing.assert_close(scores.values.sum(1), whole, atol=1e-7, rtol=0)
    part = vc.attribute(lm, task, units=some, method=vc.Method(baseline=baseline, path="layer", nodes=24), **quiet)
    torch.testing.assert_close(part.values, scores.values[:, :: size - 3], atol=1e-12, rtol=0)
    assert scores.completeness is None or scores.completeness.residual.abs().max() < 1e-7


def test_neurons_of_experts_are_told_apart_and_refused_in_words():
    hf, lm, _, task = asked("mixtral")
    scores = vc.attribute(lm, task, units="expert_neurons", method="atp", show_progress=False)
    assert len(scores.units) == 3 * 4 * 40
    assert scores.units.names[41] == "m0.e1.n1"
    assert scores.units.table()[["expert", "neuron"]].iloc[41].tolist() == [1, 1]
    whole = by_name(vc.attribute(lm, task, units=["m0.e1"], method="atp", show_progress=False))["m0.e1"][0]
    chosen = [(args[1] == 1).any(-1) for args in
              (naive.recorded(hf, ids)[0]["called"][0] for ids in (task.clean[0], task.corrupted[0]))]  # fmt: skip
    assert whole != 0 and (chosen[0] | chosen[1]).any()
    with pytest.raises(UnitError, match=r"m1\.e1\.n40.*each with 4 experts of 40 neurons"):
        vc.exact(lm, task, units=["m1.e1.n40"])
    with pytest.raises(UnitError, match=r"m1\.e1\.n3 and m1\.e1, which overlap"):
        vc.exact(lm, task, units=["m1.e1.n3+m1.e1"])
    with pytest.raises(MethodError, match="no one constant is learned for it"):
        vc.exact(lm, task, units=["m1.e1.n3"], ablation="optimal")
    with pytest.raises(MethodError, match="experts, and their neurons with them, come and go"):
        vc.attribute(lm, task, units=["m1.e1.n3"], method="conductance")
    with pytest.raises(MethodError, match="each of which has a donor of its own"):
        vc.attribute(lm, task, units=["m1.e1.n3"], method=vc.Method(baseline="resample"))


@pytest.mark.parametrize("family", mostly_slow(["deepseek_v3", "mixtral"], fast=("mixtral",)))
def test_neurons_of_experts_in_bfloat16(family):
    """Their routers give weights in float32. Both ways are rounded; a tenth of the gap would be another number."""
    _, lm, _, task = asked(family, dtype=torch.bfloat16)
    layer = max(lm.decoder.mixtures)
    units = [f"m{layer}.e{expert}.n{neuron}" for expert in range(4) for neuron in (0, 7)]
    half = vc.exact(lm, task, units=units, show_progress=False)
    full = model_of(copy.deepcopy(lm.hf).float(), family)
    truth = vc.exact(full, task, units=units, show_progress=False).values
    assert float((half.values.float() - truth.float()).abs().max()) < 0.1 * float(half.gap.abs().mean())


def test_a_router_s_estimate_does_not_see_the_choice():
    """Its slope is that of a small step of the logits, which changes no choice, and the scores say so."""
    hf, lm, (pair,), task = asked("mixtral")
    slopes = vc.attribute(lm, task, units="routers", method="atp", show_progress=False)
    assert any("slope of a router's logits" in note for note in slopes.notes)
    own, new = (naive.router_logits(hf, ids, 1) for ids in (pair.clean, pair.corrupted))
    ends = [naive.metric(hf, pair.clean, pair, naive.rerouted(hf, 1, (own + step * (new - own)).view_as))
            for step in (-1e-5, 1e-5)]  # fmt: skip
    assert float(slopes.values[0, 1]) == pytest.approx((ends[1] - ends[0]) / 2e-5, abs=1e-5)
    with pytest.raises(MethodError, match="there is no ablation='zero' of routers"):
        vc.exact(lm, task, units="routers", ablation="zero")


def test_costs_are_those_that_were_forecast():
    """Of experts' rows those of an MLP's, of routers' their own MLP beside."""
    _, lm, _, task = asked("deepseek_v3", count=2)
    for units in ("experts", "routers@positions", ["m1.e1.n3", "m2.e0.n2"]):
        forecast = vc.forecast(vc.exact, lm, task, units=units)
        made = vc.exact(lm, task, units=units, show_progress=False).cost
        assert made.token_layers == pytest.approx(forecast.token_layers), units


@every_mixture
def test_estimates_are_slopes_and_integrals(family):
    """AtP is the slope of the exact effect along the change of one expert; where nothing is chosen any more (the last
    block) integrated gradients sum to the effect of all experts, and a path of each alone is its effect."""
    hf, lm, (pair,), task = asked(family)
    layer = max(naive.mixtures(hf))
    names = [f"m{layer}.e{expert}" for expert in range(4)]
    clean, other = (naive.recorded(hf, ids)[layer]["experts"] for ids in (pair.clean, pair.corrupted))
    slopes = vc.attribute(lm, task, units=names, method="atp", show_progress=False)
    step = 1e-4
    for expert in range(4):
        ends = [naive.metric(hf, pair.clean, pair, naive.plus(hf, layer, t * (other[expert] - clean[expert])))
                for t in (-step, step)]  # fmt: skip
        assert float(slopes.values[0, expert]) == pytest.approx((ends[1] - ends[0]) / (2 * step), abs=1e-5)
    whole = vc.exact(lm, task, units=["+".join(names)], show_progress=False).values
    layers = vc.attribute(lm, task, units=names, method="ig", nodes=24, show_progress=False)
    assert float(layers.values.sum()) == pytest.approx(float(whole), abs=1e-7)
    each = vc.attribute(lm, task, units=names, method=vc.Method(path="unit", nodes=24), show_progress=False)
    exact = vc.exact(lm, task, units=names, show_progress=False)
    torch.testing.assert_close(each.values, exact.values, atol=1e-7, rtol=0)
    assert any("chosen" in note for note in slopes.notes)


def test_a_receipt_of_experts():
    _, lm, _, task = asked("mixtral", count=2)
    estimate = vc.attribute(lm, task, units="experts", method="atp", show_progress=False)
    receipt = vc.verify(lm, task, estimate, top=4, sample=8, show_progress=False)
    exact = by_name(vc.exact(lm, task, units="experts", show_progress=False))
    checked = by_name(receipt.exact)
    assert len(checked) == 12
    for name, values in checked.items():
        np.testing.assert_allclose(values, exact[name], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("family", MIXTURES)
def test_float32_and_other_implementations(family):
    """In float32, and where one grouped product runs all experts."""
    _, lm, _, task = asked(family, dtype=torch.float32)
    exact = vc.exact(lm, task, units="experts", show_progress=False).values
    _, fine, _, _ = asked(family)
    truth = vc.exact(fine, task, units="experts", show_progress=False).values
    torch.testing.assert_close(exact.double(), truth, atol=2e-3, rtol=1e-3)
    for implementation in ("batched_mm", "grouped_mm"):
        lm.hf.config._experts_implementation = implementation
        again = vc.exact(lm, task, units="experts", show_progress=False).values
        torch.testing.assert_close(again, exact, atol=2e-3, rtol=1e-3)


def test_refusals_name_the_part():
    _, lm, _, task = asked("deepseek_v3")
    with pytest.raises(UnitError, match=r"its layers with experts are 1, 2, each with 4 experts"):
        vc.exact(lm, task, units=["m0.e1"])
    with pytest.raises(UnitError, match="its layers with experts are 1, 2"):
        vc.exact(lm, task, units=["m0.shared"])
    with pytest.raises(UnitError, match=r"m1\.e4"):
        vc.exact(lm, task, units=["m1.e4"])
    _, dense, _, other = asked("llama")
    with pytest.raises(
        ArchitectureError, match=r"has no experts that veracausa could tell: its MLPs are not made of exp"
    ):
        vc.exact(dense, other, units="experts")
    _, mixtral, _, third = asked("mixtral")
    with pytest.raises(ArchitectureError, match=r"has no shared experts .* no expert of its MLPs sees every token"):
        vc.exact(mixtral, third, units=["m1.shared"])


def test_experts_that_do_not_add_up_are_refused():
    """A hook of the user's between the experts and the MLP's output, and one on the experts themselves."""
    hf, lm, _, task = asked("mixtral")
    plain = vc.exact(lm, task, units=["m2.e1"], show_progress=False).values
    handle = hf.model.layers[2].mlp.register_forward_hook(lambda _, __, out: out * 1.5)
    with pytest.raises(ContractError, match="The mixture of experts of block 2"):
        vc.exact(lm, task, units=["m2.e1"], show_progress=False)
    handle.remove()
    handle = hf.model.layers[2].mlp.experts.register_forward_hook(lambda _, __, out: out * 0.5)
    halved = vc.exact(lm, task, units=["m2.e1"], show_progress=False).values
    handle.remove()
    assert float((plain - halved).abs().max()) > 1e-3

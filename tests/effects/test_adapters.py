"""LoRA adapters as units: exact effects against hooks on the plain PEFT model, and B zeroed in place; estimates.

Tolerance: 1e-9 of the effects in float64. Rounding leaves 1e-13; an adapter read wrong changes the first digit.
"""

import copy
from dataclasses import replace

import naive_adapters as naive
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.errors import ArchitectureError, ContractError, MethodError, UnitError

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")

TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "mamba": ["in_proj", "x_proj"],
    "bamba": ["in_proj", "out_proj", "q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
    "qwen2_moe": ["q_proj", "o_proj", "shared_expert.gate_proj", "shared_expert.down_proj"],
}
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SOME = ["llama", "gemma2", *TARGETS]
QUIET = {"show_progress": False}


def adapted(family, **over):
    """A tiny model with a LoRA beside linear maps of its blocks, with dropout that a call must switch off."""
    hf = tiny_models.make(family, seed=1)
    settings = {"r": 2, "target_modules": TARGETS.get(family, LLAMA), "init_lora_weights": False, "lora_dropout": 0.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf.add_adapter(peft.LoraConfig(**settings | over))
    for name, weight in hf.named_parameters():
        if "lora_B" in name:
            weight.data *= 0.3
    return hf.eval()


def by_name(lm):
    """Unit → the module of its adapter, by the plain model's own module tree."""
    found = {}
    for layer, block in enumerate(lm.decoder.blocks):
        every = naive.adapters(block.module)
        for path, module in every.items():
            own = path.rpartition(".")[2]
            several = sum(other.rpartition(".")[2] == own for other, _ in block.module.named_modules()) > 1
            found[f"lora{layer}.{'.'.join(path.split('.')[-2:]) if several else own}"] = module
    return found


def metric(lm, task, i, clean, *hooked):
    logits = naive.run(lm.hf, (task.clean if clean else task.corrupted)[i], *hooked)
    return float(logits[task.correct[i][0]] - logits[task.incorrect[i][0]])


def true(lm, task, modules, *, clean=True, new="other", positions=slice(None)):
    """Effects, pair by pair, of adapters that add what they do in the other run, or nothing."""
    found = []
    for i in range(len(task)):
        other = (task.corrupted if clean else task.clean)[i]
        values = [None if new == "zero" else naive.added(lm.hf, other, module) for module in modules]
        hooked = [(module, naive.setting(v, positions)) for module, v in zip(modules, values, strict=True)]
        found.append(metric(lm, task, i, clean, *hooked) - metric(lm, task, i, clean))
    return torch.tensor(found, dtype=torch.float64)


def plain(lm, task, *hooked):
    """M of every pair's clean run."""
    return torch.tensor([metric(lm, task, i, True, *hooked) for i in range(len(task))], dtype=torch.float64)


def close(ours, theirs, within=1e-9):
    assert float((ours - theirs).abs().max()) <= within * max(1.0, float(theirs.abs().max()))


def within(family):
    """Mixers compute decays in float32 whatever the model's precision is."""
    return 1e-6 if family in tiny_models.MIXED else 1e-9


@pytest.mark.parametrize("family", tiny_models.mostly_slow(SOME, fast=("llama", "gpt2", "bamba", "qwen2_moe")))
def test_effects_are_those_of_hooks(family, task_of):
    lm, task = as_model(adapted(family), family), task_of(7, 2)
    modules = by_name(lm)
    ours = vc.exact(lm, task, units="adapters", **QUIET)
    back = vc.exact(lm, task, units="adapters", direction="denoising", **QUIET)
    off = vc.exact(lm, task, units="adapters", ablation="zero", **QUIET)
    assert ours.units.names == [*modules] and (off.values != 0).all()
    for unit, (name, module) in enumerate(modules.items()):
        if unit % 2 == 0 or family in ("llama", "gpt2"):
            close(ours.values[:, unit], true(lm, task, [module]), within(family))
            close(back.values[:, unit], true(lm, task, [module], clean=False), within(family))
            with naive.without([module]):
                zeroed = plain(lm, task)
            close(off.values[:, unit], zeroed - plain(lm, task), within(family))
            assert ours.units.find(name) == unit


@pytest.mark.parametrize("family", tiny_models.mostly_slow(SOME, fast=("llama", "mamba")))
def test_a_layer_together_and_positions(family, task_of):
    """All adapters of a layer are set, whatever the earlier ones make of what the later ones read; all off: no LoRA."""
    lm, task = as_model(adapted(family), family), task_of(7, 2)
    modules = by_name(lm)
    layers = vc.exact(lm, task, units="layer_adapters", **QUIET)
    for unit, layer in enumerate(layers.units.layer.tolist()):
        own = [module for name, module in modules.items() if name.startswith(f"lora{layer}.")]
        close(layers.values[:, unit], true(lm, task, own), within(family))
    first, last = next(iter(modules)), [*modules][-1]
    for name in (f"{first}@5", f"{last}@6", "lora1@5"):
        own = [module for known, module in modules.items() if known.startswith(name.partition("@")[0])]
        for ablation, new in (("counterfactual", "other"), ("zero", "zero")):
            found = vc.exact(lm, task, units=[name], ablation=ablation, **QUIET)
            at = int(name.partition("@")[2])
            close(found.values[:, 0], true(lm, task, own, new=new, positions=at), within(family))
    every = vc.exact(
        lm, task, units=["+".join(f"lora{layer}" for layer in layers.units.layer)], ablation="zero", **QUIET
    )
    lm.hf.disable_adapters()
    bare = plain(lm, task)
    lm.hf.enable_adapters()
    close(every.values[:, 0], bare - layers.clean, within(family))


def test_sets_mix_with_other_units_spans_and_donors(task_of):
    lm, task = as_model(adapted("llama"), "llama"), task_of(7, 4)
    modules = by_name(lm)
    two = vc.exact(lm, task, units=["lora0.q_proj+lora2.down_proj"], **QUIET)
    close(two.values[:, 0], true(lm, task, [modules["lora0.q_proj"], modules["lora2.down_proj"]]))
    at = vc.exact(lm, task, units=["lora0.v_proj@4-5+lora1.o_proj@6"], **QUIET)
    assert (at.values != 0).all()
    mixed = vc.exact(lm, task, units=["lora0.q_proj+a1.h0"], **QUIET)
    alone = vc.exact(lm, task, units=[("a1.h0",)], **QUIET)
    assert not torch.equal(mixed.values, alone.values)
    named = replace(task, spans=tuple({"subject": ((4, 6), (4, 6))} for _ in range(len(task))))
    span = vc.exact(lm, named, units=["lora0.v_proj@subject"], **QUIET)
    close(span.values, vc.exact(lm, named, units=["lora0.v_proj@4-5"], **QUIET).values)
    donor = vc.exact(lm, task, units="adapters", ablation="resample", **QUIET)
    mean = vc.exact(lm, task, units="adapters", ablation="mean", **QUIET)
    assert (donor.values != 0).all() and not torch.equal(mean.values, donor.values)
    prompts = [*dict.fromkeys(task.prompts)]
    value = torch.cat([naive.added(lm.hf, ids, modules["lora1.k_proj"]) for ids in prompts]).mean(0, keepdim=True)
    hooked = (modules["lora1.k_proj"], naive.setting(value))
    close(mean.values[:, mean.units.find("lora1.k_proj")], plain(lm, task, hooked) - plain(lm, task))
    with pytest.raises(UnitError, match="resample"):
        vc.exact(lm, task, units=["lora0.q_proj+lora1.q_proj"], ablation="resample", **QUIET)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(SOME, fast=("llama", "gpt2", "bamba")))
def test_estimates_are_slopes_and_paths_that_add_up(family, task_of):
    """At adapters that hardly differ atp is exact to first order; on a site's path scores sum to the layer's effect."""
    hf = adapted(family)
    lm, task = as_model(hf, family), task_of(7, 2)
    estimate = vc.attribute(lm, task, units="adapters", **QUIET)
    slope = {"rel": 2e-3, "abs": 2e-4} if family in tiny_models.MIXED else {"rel": 1e-4, "abs": 1e-5}
    for unit in (0, len(estimate.units) - 1):
        module = by_name(lm)[estimate.units.names[unit]]
        for i in range(2):
            own, other = (naive.added(hf, ids[i], module) for ids in (task.clean, task.corrupted))
            h = 1e-3
            ends = [metric(lm, task, i, True, (module, naive.setting(own + s * h * (other - own)))) for s in (1, -1)]
            assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(float(estimate.values[i, unit]), **slope)
    if family == "qwen2_moe":  # whose choices jump on the way
        return
    along = vc.attribute(lm, task, units="adapters", method="ig", nodes=48, **QUIET)
    whole = vc.exact(lm, task, units="layer_adapters", **QUIET)
    together = vc.attribute(lm, task, units="layer_adapters", method="ig", nodes=48, **QUIET)
    for column, layer in enumerate(whole.units.layer):
        summed = along.values[:, along.units.layer == layer].sum(1)
        assert torch.allclose(summed, whole.values[:, column], rtol=1e-3, atol=2e-3)
        assert torch.allclose(together.values[:, column], summed)
    alone = vc.attribute(lm, task, units="adapters", method=vc.Method(path="unit", nodes=24), **QUIET)
    effects = vc.exact(lm, task, units="adapters", **QUIET)
    assert torch.allclose(alone.values, effects.values, rtol=1e-2, atol=1e-2)


def test_positions_estimates_receipts_and_files(task_of, tmp_path):
    lm, task = as_model(adapted("llama"), "llama"), task_of(7, 3)
    each = vc.attribute(lm, task, units="adapters@positions", **QUIET)
    whole = vc.attribute(lm, task, units="adapters", **QUIET)
    summed = each.values.unflatten(1, (len(whole.units), -1)).nan_to_num().sum(-1)
    assert torch.allclose(summed, whole.values)
    receipt = vc.verify(lm, task, whole, top=3, sample=8, **QUIET)
    effects = vc.exact(lm, task, units="adapters", **QUIET)
    assert vc.agreement(whole, effects).r > 0.3 and receipt.scores.units.names == whole.units.names
    effects.save(tmp_path / "found")
    again = vc.open(tmp_path / "found")
    assert again.units.names == effects.units.names and torch.equal(again.values, effects.values)
    table = effects.table()
    assert {"name", "layer", "adapter"} <= {*table.columns} and "q_proj" in set(table["adapter"])


@pytest.mark.parametrize("use_rslora", [False, True])
def test_several_active_adapters_are_one_unit(task_of, use_rslora):
    hf = adapted("llama", use_rslora=use_rslora, lora_alpha=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        more = peft.LoraConfig(
            r=3, target_modules=["q_proj", "up_proj"], init_lora_weights=False, use_rslora=use_rslora
        )
        hf.add_adapter(more, "second")
    for module in (one for one in hf.modules() if hasattr(one, "lora_A")):
        module.set_adapter(["default", "second"])
    lm, task = as_model(hf.eval(), "llama"), task_of(7, 2)
    modules = by_name(lm)
    assert len(modules["lora0.q_proj"].active_adapters) == 2
    for ablation, new in (("counterfactual", "other"), ("zero", "zero")):
        ours = vc.exact(lm, task, units=["lora0.q_proj", "lora1.up_proj", "lora1.o_proj"], ablation=ablation, **QUIET)
        for unit, name in enumerate(ours.units.names):
            close(ours.values[:, unit], true(lm, task, [modules[name]], new=new))


def test_the_model_is_left_as_it_was(task_of):
    hf = adapted("llama")
    before = copy.deepcopy(hf.state_dict())
    lm, task = as_model(hf, "llama"), task_of(7, 2)
    vc.exact(lm, task, units="adapters", **QUIET)
    vc.attribute(lm, task, units="adapters", method="ig", nodes=2, **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in hf.modules())


@pytest.mark.parametrize("family", tiny_models.mostly_slow(SOME, fast=("gpt2",)))
def test_contracts_hold(family):
    outcomes = as_model(adapted(family), family).check()
    assert all(one.ok for one in outcomes)
    assert 16 in {one.number for one in outcomes}  # of models without adapters it is not asked: tests/contracts


def test_shapley_and_last_in(task_of):
    lm, task = as_model(adapted("llama", layers_to_transform=[1]), "llama"), task_of(7, 2)
    layer = vc.exact(lm, task, units="layer_adapters", **QUIET)
    shares = vc.effects.shapley(lm, task, units="adapters", permutations=4, **QUIET)
    assert torch.allclose(shares.values.sum(1), layer.values[:, 0])
    last = vc.effects.last_in(lm, task, units="adapters", **QUIET)
    others = "+".join(name for name in last.units.names if name != "lora1.o_proj")
    rest = vc.exact(lm, task, units=[others], **QUIET)
    close(last.values[:, last.units.find("lora1.o_proj")], layer.values[:, 0] - rest.values[:, 0])


def test_what_is_no_unit_is_refused_by_name(task_of):
    task = task_of(7, 2)
    bare = as_model(tiny_models.make("llama", seed=1), "llama")
    with pytest.raises(ArchitectureError, match="no LoRA"):
        vc.exact(bare, task, units="adapters", **QUIET)
    lm = as_model(adapted("llama", target_modules=["q_proj"]), "llama")
    with pytest.raises(UnitError, match="lora0 on q_proj"):
        vc.exact(lm, task, units=["lora0.v_proj"], **QUIET)
    with pytest.raises(UnitError, match="not the name"):
        vc.exact(lm, task, units=["lora0.experts.0.w1"], **QUIET)
    for over, why in (({"use_dora": True}, "Dora"),):
        dora = as_model(adapted("llama", target_modules=["q_proj"], **over), "llama")
        with pytest.raises(ArchitectureError, match=f"self_attn.q_proj.*{why}"):
            vc.exact(dora, task, units="adapters", **QUIET)
    merged = adapted("llama", target_modules=["q_proj"])
    next(one for one in merged.modules() if hasattr(one, "lora_A")).merge()
    with pytest.raises(ArchitectureError, match="merged"):
        vc.exact(as_model(merged, "llama"), task, units="adapters", **QUIET)
    ia3 = tiny_models.make("llama", seed=1)
    ia3.add_adapter(peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    with pytest.raises(ArchitectureError, match=r"k_proj.*ia3"):
        vc.exact(as_model(ia3, "llama"), task, units="adapters", **QUIET)


REFUSED = {
    "atp of a layer": lambda lm, task: vc.attribute(lm, task, units="layer_adapters", **QUIET),
    "optimal": lambda lm, task: vc.exact(lm, task, units="adapters", ablation="optimal", **QUIET),
    "own": lambda lm, task: vc.exact(
        lm, task, units=["lora0.q_proj"], ablation=vc.effects.Own({"lora0.q_proj": np.zeros(16)}), **QUIET
    ),
    "noise": lambda lm, task: vc.exact(lm, task, units="adapters", ablation=vc.effects.Noise(1.0), **QUIET),
    "direct": lambda lm, task: vc.effects.direct(lm, task, units="adapters", **QUIET),
    "mask": lambda lm, task: vc.estimates.learn_mask(lm, task, units="adapters", steps=1, **QUIET),
    "constants": lambda lm, task: vc.effects.optimal_constants(lm, task, units="adapters", **QUIET),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_they_cannot_mean_is_refused(what, task_of):
    lm, task = as_model(adapted("llama", target_modules=["q_proj", "down_proj"]), "llama"), task_of(7, 3)
    with pytest.raises(MethodError):
        REFUSED[what](lm, task)


def test_a_hook_on_the_adapted_map_is_an_error(task_of):
    hf = adapted("llama", target_modules=["q_proj"])
    one = next(module for module in hf.modules() if hasattr(module, "lora_A"))
    one.register_forward_hook(lambda _, __, output: 2 * output)
    with pytest.raises(ContractError, match="adapter on q_proj"):
        vc.exact(as_model(hf, "llama"), task_of(7, 2), units="adapters", **QUIET)

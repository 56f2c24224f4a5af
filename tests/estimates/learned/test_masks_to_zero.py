"""Masks whose closed gates hold 0: of components, W less what the gates take away; of heads, z times the gate.

Tolerance: 1e-9 in float64; slopes by central differences.
"""

from contextlib import ExitStack

import naive
import naive_weights as plain
import numpy as np
import pytest
import torch
from laid_features import asked

import veracausa as vc
from veracausa.cost import Cost
from veracausa.engine.bucket import Bucket
from veracausa.engine.coded_gates import CodedPairs
from veracausa.engine.gates import GatedPairs
from veracausa.engine.patches import sites_for
from veracausa.errors import MethodError

QUIET = {"show_progress": False}


@pytest.mark.parametrize(("family", "name"), [("llama", "up"), ("gpt2", "q"), ("gemma2", "down")])
def test_gates_on_components_are_weights_less_what_they_take(family, name):
    hf, lm, found, task = asked(family)
    letter = "m" if name in ("up", "down") else "a"
    maps = [plain.Map(hf, family, layer, name, lm.heads, lm.kv_heads) for layer in (0, 1)]
    work = vc.exact.work(lm, task, units=[f"{letter}{layer}.{name}.c{c}" for layer in (0, 1) for c in (0, 2)])
    lm, table = work.lm, work.units
    sites = sites_for(table.place)
    with torch.no_grad():
        bucket = Bucket.record(lm, task, 0, (0, 1), Cost(), sites=sites)
    on = CodedPairs.on(lm.decoder, table.place, bucket.tape, bucket.tape.tokens[0], table.layer, table.index)
    gates = torch.from_numpy(np.random.default_rng(0).uniform(size=(2, 4))).requires_grad_()
    metric = bucket.read(on.to_zero().run(gates, bucket.every), bucket.every)
    (slope,) = torch.autograd.grad(metric.sum(), gates)
    parts = [(own, plain.directions(own.weight)[c]) for own in maps for c in (0, 2)]

    def wanted(pair, values):
        with ExitStack() as stack:
            for (own, part), g in zip(parts, values, strict=True):
                stack.enter_context(own.without((1 - g) * part))
            return plain.metric(hf, pair)

    for i in range(2):
        own = gates[i].tolist()
        assert float(metric[i].detach()) == pytest.approx(wanted(found[i], own), abs=1e-9)
        for u in (0, 3):
            ends = [wanted(found[i], [g + h * (k == u) for k, g in enumerate(own)]) for h in (1e-5, -1e-5)]
            assert float(slope[i, u]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gates_on_heads_scale_them(family):
    hf, lm, found, task = asked(family)
    with torch.no_grad():
        bucket = Bucket.record(lm, task, 0, (0, 1), Cost(), sites=("z",))
        gates = torch.from_numpy(np.random.default_rng(0).uniform(size=(2, lm.layers, lm.heads)))
        pairs = GatedPairs.of(lm.decoder, "z", bucket.tape, bucket.tape.tokens[0]).to_zero()
        metric = bucket.read(pairs.run(gates, bucket.every), bucket.every)
    path, _, out, *_ = naive.PATHS[family]
    for i, pair in enumerate(found):
        with ExitStack() as stack:
            for layer, block in enumerate(hf.get_submodule(path)):
                scale = gates[i, layer].repeat_interleave(lm.decoder.head_dim)
                hook = block.get_submodule(out).register_forward_pre_hook(lambda _, args, s=scale: (args[0] * s,))
                stack.callback(hook.remove)
            assert float(metric[i]) == pytest.approx(plain.metric(hf, pair), abs=1e-9)


@pytest.mark.parametrize("units", ["heads", ["m1.down.c*"]], ids=str)
def test_what_is_left_is_the_exact_effect_of_zeroing_all_others(units):
    _, lm, _, task = asked("llama", count=3)
    how = {"units": units, "ablation": "zero"}
    mask = vc.estimates.learn_mask(lm, task, keep=3, steps=4, **how, **QUIET)
    price = vc.forecast(vc.estimates.learn_mask, lm, task, keep=3, steps=4, measure=False, **how)
    assert price.token_layers == mask.cost.token_layers
    kept = {mask.units.names[i] for i in mask.ranking()[:3]}
    others = {"others": [name for name in mask.units.names if name not in kept]}
    closed = lm.measure(task).clean.mean() + vc.exact(lm, task, units=others, ablation="zero", **QUIET).values.mean()
    assert f"metric {float(closed):+.3f}" in " ".join(mask.notes)
    zero, other = (vc.exact(lm, task, units=units, ablation=name, **QUIET) for name in ("zero", "counterfactual"))
    assert vc.agreement(mask, zero).n == len(task)
    with pytest.raises(MethodError, match="different replacements"):
        vc.agreement(mask, other)


def test_what_is_refused():
    _, lm, _, task = asked("llama")
    for how, said in (({"ablation": "mean"}, "counterfactual"), ({"how": "discogp"}, "known for edges alone")):
        with pytest.raises(MethodError, match=said):
            vc.estimates.learn_mask(lm, task, units="heads", **how, **QUIET)

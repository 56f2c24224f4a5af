"""Components of weights: exact effects against the plain model's own weights changed in place, slopes against the
gradient of the weight itself.

Tolerance: 1e-9 in float64; rounding leaves 1e-13, a component read wrong changes the first digit.
"""

import re

import naive_weights as plain
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model
from laid_features import asked, by_name, task_of
from tiny_models import mostly_slow

import veracausa as vc
from veracausa.cli.checks import units_of
from veracausa.errors import ArchitectureError, ContractError

QUIET = {"show_progress": False}
FAST = ("llama", "gpt2", "gemma2", "qwen2", "phi3", "bloom")


@pytest.mark.parametrize("family", mostly_slow(list(plain.MAPS), fast=FAST))
def test_removing_a_component_is_removing_it_from_the_weights(family):
    hf, lm, found, task = asked(family, count=1)
    maps = ["q", "k", "v", "o", "up", "down"] + (["gate"] if "gate" in plain.MAPS[family][1] else [])
    zero, wanted = {"ablation": "zero", **QUIET}, {}
    for name in maps:
        own = plain.Map(hf, family, 1, name, lm.heads, lm.kv_heads)
        parts, stem = plain.directions(own.weight), f"{'a' if name in 'qkvo' else 'm'}1.{name}"
        of = {f"{stem}.c{c}": parts[c] for c in (0, 3, len(parts) - 1)} | {stem: own.weight}
        one = np.zeros_like(own.weight)
        one[5, 2] = own.weight[5, 2]
        exact = by_name(vc.exact(lm, task, units=list(of), **zero))
        wanted |= {unit: plain.removed(hf, found[0], own, part) for unit, part in (of | {f"{stem}[2,5]": one}).items()}
        for unit in of:
            assert exact[unit][0] == pytest.approx(wanted[unit], abs=1e-9), unit
        if name in ("q", "up", "down"):
            slope = by_name(vc.attribute(lm, task, units=list(of), method=vc.Method(baseline="zero"), **QUIET))
            np.testing.assert_allclose(
                [slope[unit][0] for unit in of], plain.slopes(hf, found[0], own, [*of.values()]), rtol=0, atol=1e-9
            )
    # as groups of one each, which take their values while their block runs
    groups = by_name(vc.exact(lm, task, units={unit: [unit] for unit in wanted}, **zero))
    for unit, value in wanted.items():
        assert groups[unit][0] == pytest.approx(value, abs=1e-9), unit


@pytest.mark.parametrize(
    "family", mostly_slow(["llama", "gpt2", "qwen2", "gemma2", "falcon", "olmo2"], fast=("gpt2", "qwen2"))
)
def test_a_heads_output_map_in_parts(family):
    """The value map's bias goes through all of the output map, whatever is taken out of the product."""
    hf, lm, found, task = asked(family, count=1)
    names, wanted = [], []
    for head, c in ((0, 0), (0, 2), (lm.heads - 1, 1)):
        out, part, gain = plain.outputs_of_head(hf, family, 1, lm.heads, lm.kv_heads, head)(c)
        before = plain.metric(hf, found[0])
        with out.without(part), plain.gaining(out.module, gain):
            wanted.append(plain.metric(hf, found[0]) - before)
        names.append(f"a1.h{head}.ov{c}")
    exact = vc.exact(lm, task, units=names, ablation="zero", **QUIET)
    np.testing.assert_allclose(exact.values[0], wanted, rtol=0, atol=1e-9)
    if hf.config.model_type != "gpt2":
        return
    # all of them: what the head writes, but for what the bias of the values makes it write
    every = vc.exact(lm, task, units={"all": ["a1.h0.ov*"]}, ablation="zero", **QUIET)
    values = plain.Map(hf, family, 1, "v", lm.heads, lm.kv_heads)
    none = np.zeros_like(values.weight)
    none[:, : none.shape[1] // lm.heads] = values.weight[:, : none.shape[1] // lm.heads]
    assert every.values[0, 0] == pytest.approx(plain.removed(hf, found[0], values, none), abs=1e-9)


def test_queries_and_keys_in_parts_where_nothing_stands_between_them():
    """Taken out of the keys by hand, which without a bias of the queries is the same product."""
    hf, lm, found, task = asked("gpt2", count=1)
    size = lm.width
    hf.transformer.h[1].attn.c_attn.bias.data[:size] = 0
    queries, keys = (plain.Map(hf, "gpt2", 1, name, lm.heads, lm.kv_heads) for name in "qk")
    own = slice(6, 12)  # head 1 of four
    *_, right = np.linalg.svd(queries.weight[:, own] @ keys.weight[:, own].T)
    wanted = []
    for c in (0, 4):
        part = np.zeros_like(keys.weight)
        part[:, own] = np.outer(right[c], right[c] @ keys.weight[:, own])
        wanted.append(plain.removed(hf, found[0], keys, part))
    exact = vc.exact(lm, task, units=["a1.h1.qk0", "a1.h1.qk4"], ablation="zero", **QUIET)
    np.testing.assert_allclose(exact.values[0], wanted, rtol=0, atol=1e-9)
    _, rotated, _, other = asked("llama", count=1)
    for made in (  # before anything is run for its pairs
        lambda: vc.components(rotated, "a1.qk"),
        lambda: vc.exact.work(rotated, other, units=["a1.h1.qk0"], ablation="zero"),
        lambda: vc.reading.component_words(rotated, ["a1.h1.qk0"]),
    ):
        with pytest.raises(ArchitectureError, match=r"rotation.*a1\.q\.c0"):
            made()
    with pytest.raises(ArchitectureError, match=r"sink stands between.*a1\.v, a1\.o"):
        vc.components(as_model(tiny_models.make("gpt_oss"), "gpt_oss"), "a1.ov")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_another_prompts_values_at_one_position_together_and_back(family):
    hf, lm, found, task = asked(family)
    for name in ("m1.down.c1", "a1.o.c0", "m1.up.c2", "a1.q.c0", "a1.v.c3"):
        own = plain.Map(hf, family, 1, name.split(".")[1], lm.heads, lm.kv_heads)
        v, _, u = np.linalg.svd(own.weight, full_matrices=False)
        c = int(name[-1])
        factors = v[:, c] * np.linalg.svd(own.weight)[1][c], u[c]
        for unit, at in ((name, None), (f"{name}@4", 4)):
            exact = vc.exact(lm, task, units=[unit], **QUIET)
            group = vc.exact(lm, task, units=[(unit,)], **QUIET)
            wanted = [plain.exchanged(hf, pair, own, *factors, position=at) for pair in found]
            np.testing.assert_allclose(exact.values[:, 0], wanted, rtol=0, atol=1e-9)
            np.testing.assert_allclose(group.values[:, 0], wanted, rtol=0, atol=1e-9)


def test_together_every_component_of_two_maps():
    """A joint removal is one from both weights; later components are read off what the earlier removal has made."""
    hf, lm, found, task = asked("llama")
    maps = [plain.Map(hf, "llama", 0, name, lm.heads, lm.kv_heads) for name in ("up", "down")]
    wanted = []
    for pair in found:
        before = plain.metric(hf, pair)
        with (
            maps[0].without(sum(plain.directions(maps[0].weight)[:2])),
            maps[1].without(plain.directions(maps[1].weight)[0]),
        ):
            wanted.append(plain.metric(hf, pair) - before)
    exact = vc.exact(lm, task, units=[("m0.up.c0-1", "m0.down.c0")], ablation="zero", **QUIET)
    np.testing.assert_allclose(exact.values[:, 0], wanted, rtol=0, atol=1e-9)


def test_scaled_weights():
    hf, lm, found, task = asked("llama")
    own = plain.Map(hf, "llama", 1, "down", lm.heads, lm.kv_heads)
    first, second = plain.directions(own.weight)[:2]
    for factor in (0.5, 2.0, -1.0):
        wanted = [
            [plain.removed(hf, pair, own, (1 - factor) * part) for part in (first, first + second)] for pair in found
        ]
        scaled = vc.effects.Scaled(factor)
        one = vc.exact(lm, task, units=["m1.down.c0"], ablation=scaled, **QUIET)
        both = vc.exact(lm, task, units=[("m1.down.c0", "m1.down.c1")], ablation=scaled, **QUIET)
        np.testing.assert_allclose(np.stack([one.values[:, 0], both.values[:, 0]], 1), wanted, rtol=0, atol=1e-9)
    # of other units, alone and in a group of one: the same as the tensor that this is
    heads = {f"a1.h{h}": plain_values(lm, task, h) for h in range(2)}
    for units in (list(heads), [(name,) for name in heads]):
        halved = vc.exact(lm, task, units=units, ablation=vc.effects.Scaled(0.5), **QUIET)
        given = vc.exact(lm, task, units=units, ablation=vc.effects.Own(heads), **QUIET)
        np.testing.assert_allclose(halved.values, given.values, rtol=0, atol=1e-9)


def plain_values(lm, task, head):
    """Half of a head's values in every clean prompt."""
    found, d = [], lm.decoder.head_dim
    for prompt in task.clean:
        seen = []
        out = lm.decoder.blocks[1].attention_out
        hook = out.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0][0]))
        with torch.no_grad():
            lm.hf(input_ids=torch.tensor([list(prompt)]), use_cache=False)
        hook.remove()
        found.append(seen[0][:, head * d : (head + 1) * d] / 2)
    return torch.stack(found)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_ranks_of_an_adapter_are_what_lies_between_both_models(family):
    peft = pytest.importorskip("peft")
    hf = tiny_models.make(family, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        names = ["q_proj", "down_proj", "up_proj"] if family == "llama" else ["c_attn", "c_proj", "c_fc"]
        hf.add_adapter(peft.LoraConfig(r=3, target_modules=names, init_lora_weights=False, lora_dropout=0.3))
    lm, found = as_model(hf.eval(), family), tiny_models.pairs(family, 1, 6, 3)
    task = task_of(found)
    maps = ["a1.q", "a1.k", "a1.v", "m1.down", "m1.up"] + (["a1.o"] if family == "gpt2" else [])
    maps = [one for one in maps if family == "gpt2" or one not in ("a1.k", "a1.v")]
    given = vc.components(lm, maps, of="lora")
    laid = lm.reading(*given)
    blocks = plain.MAPS[family][0]
    adapted = {path: one for path, one in hf.get_submodule(f"{blocks}.1").named_modules() if hasattr(one, "lora_A")}
    before = plain.metric(hf, found[0])
    # all ranks of all maps of a block: the model without that block's adapters
    kept = {one: dict(one.scaling) for one in adapted.values()}
    for one in adapted.values():
        one.scaling = dict.fromkeys(one.scaling, 0.0)
    wanted = plain.metric(hf, found[0]) - before
    for one, scaling in kept.items():
        one.scaling = scaling
    every = vc.exact(laid, task, units={"all": [f"{one}.lora" for one in maps]}, ablation="zero", **QUIET)
    assert every.values[0, 0] == pytest.approx(wanted, abs=1e-9)
    # one rank of one map: its row of A at zero
    path = "mlp.down_proj" if family == "llama" else "mlp.c_proj"
    row = adapted[path].lora_A["default"].weight.data
    own, row[1] = row[1].clone(), 0
    wanted = plain.metric(hf, found[0]) - before
    row[1] = own
    single = vc.exact(laid, task, units=["m1.down.lora1"], ablation="zero", **QUIET)
    assert single.values[0, 0] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_weights_that_were_changed_since_they_were_taken_apart(tmp_path):
    """An edit, or another strength of an adapter, is found before there is a number; what is laid anew is apart in a
    folder of pieces, and an adapter with a bias has no ranks that are all of it."""
    peft = pytest.importorskip("peft")
    hf, lm, _, task = asked("gpt2", count=1)
    how = {"units": ["m1.down.c0"], "ablation": "zero", "out": tmp_path, **QUIET}
    old = lm.reading(*vc.components(lm, "m1.down"))
    before = vc.exact(old, task, **how).values
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_proj.weight[3] += 0.5
    for verb in (vc.exact, vc.attribute):
        with pytest.raises(ContractError, match=r"weights of m1\.down .* were changed"):
            verb(old, task, units=["m1.down.c0"], **QUIET)
    new = lm.reading(*vc.components(lm, "m1.down"))
    kept, anew = vc.exact(new, task, **how).values, vc.exact(new, task, **(how | {"out": None})).values
    assert torch.equal(kept, anew) and not torch.allclose(kept, before)
    hf.add_adapter(peft.LoraConfig(r=2, target_modules=["c_proj"], init_lora_weights=False))
    lm = as_model(hf.eval(), "gpt2")
    ranks = lm.reading(*vc.components(lm, "m1.down", of="lora"))
    vc.exact(ranks, task, units=["m1.down.lora0"], ablation="zero", **QUIET)
    hf.transformer.h[1].mlp.c_proj.scaling["default"] *= 2
    with pytest.raises(ContractError, match="adapters switched, or scaled"):
        vc.exact(ranks, task, units=["m1.down.lora0"], ablation="zero", **QUIET)
    hf, lm, *_ = asked("gpt2", count=1)
    hf.add_adapter(peft.LoraConfig(r=2, target_modules=["c_proj"], init_lora_weights=False, lora_bias=True))
    lm = as_model(hf.eval(), "gpt2")
    with pytest.raises(ArchitectureError, match="lora_bias=True"):
        vc.components(lm, "m1.down", of="lora")


def test_what_one_checkpoint_has_that_another_has_not():
    hf, lm, found, task = asked("qwen2", count=1)
    other_hf = tiny_models.make("qwen2")
    maps = ["a1.q", "m1.down", "m0.gate"]
    for name in maps:
        own = plain.Map(other_hf, "qwen2", int(name[1]), name.split(".")[1], lm.heads, lm.kv_heads)
        noise = torch.randn(own.module.weight.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        own.module.weight.data += 0.1 * noise
    other = as_model(other_hf, "qwen2")
    gap = plain.metric(other_hf, found[0]) - plain.metric(hf, found[0])
    for here, there, sign in ((lm, other, 1), (other, lm, -1)):
        laid = here.reading(*vc.components(here, maps, against=there))
        every = vc.exact(laid, task, units={"all": [f"{one}.diff" for one in maps]}, ablation="zero", **QUIET)
        assert every.values[0, 0] == pytest.approx(sign * gap, abs=1e-9)
    with pytest.raises(vc.VeracausaError, match="the same in both"):
        vc.components(lm, "m2.down", against=other)


def test_factors_of_your_own(tmp_path):
    hf, lm, found, task = asked("gpt2", count=1)
    own = plain.Map(hf, "gpt2", 1, "up", lm.heads, lm.kv_heads)
    rng = np.random.default_rng(0)
    v, u = rng.normal(size=(own.weight.shape[0], 3)), rng.normal(size=(3, own.weight.shape[1]))
    np.savez(tmp_path / "factors.npz", **{"m1.up.V": v, "m1.up.U": u})
    for factors in ((u, v), tmp_path / "factors.npz"):
        laid = lm.reading(*vc.components(lm, "m1.up", factors=factors, name="spd"))
        names = ["m1.up.spd1", "m1.up.spd", "m1.up.spd.rest"]
        exact = by_name(vc.exact(laid, task, units=names, ablation="zero", **QUIET))
        for name, part in zip(names, (np.outer(v[:, 1], u[1]), v @ u, own.weight - v @ u), strict=True):
            assert exact[name][0] == pytest.approx(plain.removed(hf, found[0], own, part), abs=1e-9)
    with pytest.raises(vc.VeracausaError, match="transposed"):
        vc.components(lm, "m1.up", factors=(v, u))
    with pytest.raises(vc.VeracausaError, match=r"has no 'm0\.up\.U'"):
        vc.components(lm, "m0.up", factors=tmp_path / "factors.npz")


@pytest.mark.slow
def test_masks_receipts_curves_and_paths_take_components():
    _, lm, _, task = asked("llama")
    for names in (["m1.down.c*"], ["m1.up.c0-5"], ["a1.h*.ov0"], ["a0.q", "a1.q"]):
        mask = vc.estimates.learn_mask(lm, task, units=names, keep=1, steps=2, **QUIET)
        kept = mask.ranking()[0]
        others = {"others": [name for i, name in enumerate(mask.units.names) if i != kept]}
        closed = float(lm.measure(task).clean.mean() + vc.exact(lm, task, units=others, **QUIET).values.mean())
        assert f"metric {closed:.3f}" in " ".join(mask.notes)
        exact = vc.exact(lm, task, units=names, ablation="zero", **QUIET)
        price = vc.forecast(vc.exact, lm, task, units=names, ablation="zero", measure=False)
        assert price.token_layers == exact.cost.token_layers
    # unit paths end at the exact effect, and a receipt needs no dictionary of singular directions
    names = ["m1.up.c0-5"]
    exact = vc.exact(lm, task, units=names, ablation="zero", **QUIET)
    path = vc.attribute(lm, task, units=names, method=vc.Method(path="unit", baseline="zero", nodes=24), **QUIET)
    np.testing.assert_allclose(path.values, exact.values, rtol=0, atol=1e-9)
    slopes = vc.attribute(lm, task, units=names, method=vc.Method(baseline="zero"), **QUIET)
    assert vc.verify(lm, task, slopes, top=2, sample=2, **QUIET).agreement.r > 0
    assert vc.effects.removal_curve(lm, task, exact, sizes=[2], **QUIET).sizes == (2,)


def test_names_that_mean_nothing_say_what_there_is():
    _, lm, _, task = asked("gpt2", count=1)
    for units, words in (
        ("m1.down.c99", "the last of them m1.down.c23"), ("m9.down.c0", "layers are 0 … 2"),
        ("m1.gate.c0", "Ask for up"), ("m1.down.spd0", "vc.components"), ("m1.down[99,0]", "24 outputs and 40 inputs"),
        ("a9.down.c*", "no map 'down'"), ("m1.down.c4-2", "counted from 0"), ("components.down", "name them"),
        ("a1.o.c0->m2", "no paths are known"), ("m0->m1.up.c0->logits", "no paths are known"),
    ):  # fmt: skip
        with pytest.raises(vc.VeracausaError, match=re.escape(words)):
            vc.exact(lm, task, units=units, ablation="zero", **QUIET)
    for how, words in (
        ({"maps": "m1.gates"}, "no linear map"), ({"maps": ["m1.up", "m1.up"]}, "twice"), ({"of": "lora"}, "no LoRA"),
        ({"against": lm, "of": "lora"}, "give one of them"), ({"factors": (1, 2), "name": "c"}, "small letters"),
        ({"maps": "a1.ov", "weights": [(0, 0)]}, "product of two maps"),
    ):  # fmt: skip
        with pytest.raises(vc.VeracausaError, match=re.escape(words)):
            vc.components(lm, **{"maps": "m1.down"} | how)
    with pytest.raises(vc.VeracausaError, match="set the same activation"):
        vc.exact(lm, task, units=[("m1.down.c0", "m1")], ablation="zero", **QUIET)
    with pytest.raises(vc.VeracausaError, match="no direct effect"):
        vc.effects.direct(lm, task, units=["a1.q.c0"], **QUIET)


def test_names_on_the_command_line():
    for text, names in (
        ("m5.down.c0-31", "m5.down.c0-31"), ("a9.h*.ov0,m5.up.c*", ["a9.h*.ov0", "m5.up.c*"]),
        ("m5.down[4,17],m3.down[0,1]@S2", ["m5.down[4,17]", "m3.down[0,1]@S2"]), ("m5.down.c0+m3", "m5.down.c0+m3"),
    ):  # fmt: skip
        assert units_of(text) == names
    with pytest.raises(vc.VeracausaError, match="not known"):
        units_of("m5.middle.c0")

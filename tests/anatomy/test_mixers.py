"""Mixers in the place of attention: units, exact effects and estimates against hooks on the bare model."""

import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.contracts.checks import check
from veracausa.effects import Added
from veracausa.errors import ArchitectureError, MethodError, UnitError

FAST = ("mamba", "bamba")
#: Another seed where the pair of the contracts has too narrow a gap for float32, or where a step of a finite difference
#: is too wide; of one family there alone.
SEEDS = {"granitemoehybrid": 3, "falcon_h1": 2}
SEED_OF_CONTRACTS = {"nemotron_h": 4}


def model(family: str, seed: int | None = None, **over):
    return as_model(tiny_models.make(family, seed=seed or SEEDS.get(family, 1), **over), family)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.MIXED, ("mamba",)))
@pytest.mark.parametrize("dtype", [pytest.param(torch.float64, marks=pytest.mark.slow), torch.float32])
def test_contracts_hold(family, dtype):
    lm = model(family, SEED_OF_CONTRACTS.get(family), dtype=dtype)
    edges = [] if "edges" in lm.decoder.lacks else [4, 6, 13]
    assert [one.number for one in lm.check()] == sorted([1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 14, *edges])
    assert bool(edges) == (family != "qwen3_next")  # a gate stands behind its heads


def metric(lm, task, hooked=None):
    """M of the bare model's clean run with hooks, `(module, hook)`."""
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooked or ()]
    try:
        with torch.no_grad():
            logits = lm.hf(input_ids=torch.tensor([task.clean[0]]), use_cache=False).logits[0, -1]
        return float(logits[task.correct[0][0]] - logits[task.incorrect[0][0]])
    finally:
        for handle in handles:
            handle.remove()


def read(lm, tokens, module):
    """What a module of the bare model reads in a run."""
    kept = []
    handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
    with torch.no_grad():
        lm.hf(input_ids=torch.tensor([tokens]), use_cache=False)
    handle.remove()
    return kept[0]


def taking(new, where):
    def hook(_, args):
        x = args[0].clone()
        x[where] = new[where]
        return (x,)

    return hook


@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.MIXED, FAST))
def test_exact_effects_are_those_of_hooks(family, task_of):
    """Whole mixers, channels, one position, and zeros: by hooks before the bare model's output projections."""
    lm, task, whole = model(family), task_of(9), (slice(None), slice(None))
    outs = {layer: lm.decoder.blocks[layer].mixer.attention_out for layer in lm.decoder.layers_with("mixer")}
    first, last = min(outs), max(outs)
    asked = {
        "counterfactual": {
            f"x{first}": (first, whole), f"x{last}": (last, whole), f"x{first}.c3": (first, (..., slice(3, 4))),
            f"x{first}@8": (first, (slice(None), 8)), f"x{first}.c3@8": (first, (slice(None), 8, slice(3, 4))),
        },
        "zero": {f"x{first}": (first, whole), f"x{last}.c5": (last, (..., slice(5, 6)))},
    }  # fmt: skip
    before = metric(lm, task)
    for ablation, units in asked.items():
        for name, (layer, where) in units.items():
            new = read(lm, task.corrupted[0], outs[layer])
            new = new if ablation == "counterfactual" else torch.zeros_like(new)
            true = metric(lm, task, [(outs[layer], taking(new, where))]) - before
            ours = vc.exact(lm, task, units=[name], ablation=ablation, show_progress=False)
            assert float(ours.values[0, 0]) == pytest.approx(true, abs=1e-5), name


def test_groups_and_heads_of_mixers_are_patched_together(task_of):
    lm, task = model("mamba2"), task_of(9)
    outs = [block.attention_out for block in lm.decoder.blocks]
    size, before = lm.decoder.channels // lm.decoder.mixer_heads, metric(lm, task)
    new = [read(lm, task.corrupted[0], out) for out in outs]
    head = (..., slice(2 * size, 3 * size))
    hooked = [(outs[0], taking(new[0], head)), (outs[2], taking(new[2], (..., slice(7, 8))))]
    for units, own in ((["x0.h2"], hooked[:1]), ([("x0.h2", "x2.c7")], hooked)):
        true = metric(lm, task, own) - before
        assert float(vc.exact(lm, task, units=units, show_progress=False).values) == pytest.approx(true, abs=1e-5)
    with pytest.raises(UnitError, match=r"x0\.h2 and x0\.c30, which overlap"):
        vc.exact(lm, task, units=[("x0.h2", "x0.c30")], show_progress=False)


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_other_replacements_and_the_restored_run(ablation, task_of):
    """All channels of a layer move as the whole mixer does; denoising a whole mixer and noising it are two effects."""
    lm, task = model("mamba"), task_of(8, n=3)
    whole = vc.exact(lm, task, units=["x1"], ablation=ablation, show_progress=False).values
    every = [tuple(f"x1.c{i}" for i in range(lm.decoder.channels))]
    if ablation == "mean":  # of resample each channel has a donor of its own
        assert torch.allclose(vc.exact(lm, task, units=every, ablation="mean", show_progress=False).values, whole)
    restored = vc.exact(lm, task, units=["x1"], direction="denoising", show_progress=False).values
    assert torch.isfinite(whole).all() and not torch.allclose(restored, whole)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.MIXED, FAST))
def test_estimates_are_slopes(family, task_of):
    """Attribution patching of a mixer, summed over its channels, is the derivative of steering along the difference."""
    lm, task = model(family), task_of(9)
    layer = max(lm.decoder.layers_with("mixer")[:-1], default=0)
    out = lm.decoder.blocks[layer].mixer.attention_out
    new, own = (read(lm, tokens, out) for tokens in (task.corrupted[0], task.clean[0]))
    whole = float(vc.attribute(lm, task, units=[f"x{layer}"], method="atp", show_progress=False).values)
    channels = [f"x{layer}.c{i}" for i in range(lm.decoder.channels)]
    parts = vc.attribute(lm, task, units=channels, method="atp", show_progress=False).values
    step = 1e-3
    up, down = (metric(lm, task, [(out, taking(own + s * (new - own), ...))]) for s in (step, -step))
    assert float(parts.sum()) == pytest.approx(whole, abs=1e-6)
    assert whole == pytest.approx((up - down) / (2 * step), rel=2e-3, abs=2e-4)


def test_a_hybrid_has_units_where_it_has_the_parts(task_of):
    lm, task = model("nemotron_h"), task_of(6)
    layers = {"mixers": [0, 3], "attention": [2], "mlps": [1], "residual": [0, 1, 2, 3, 4]}
    for kind, expected in layers.items():
        assert vc.exact(lm, task, units=kind, show_progress=False).units.layer.tolist() == expected
    heads = vc.exact(lm, task, units="heads", show_progress=False).units.names
    assert heads == [f"a2.h{head}" for head in range(4)]
    with pytest.raises(UnitError, match=r"'a0\.h1' is not in nemotron_h: its layers with attention are 2, each with 4"):
        vc.exact(lm, task, units=["a0.h1"], show_progress=False)
    with pytest.raises(UnitError, match=r"'x2' is not in nemotron_h: its layers with a mixer are 0, 3"):
        vc.exact(lm, task, units=["x2"], show_progress=False)
    with pytest.raises(UnitError, match=r"'m0' is no reader here.*mixers \(x4\), MLPs \(m3\) and logits"):
        vc.exact(lm, task, units=["x0.h1->m0"], show_progress=False)


def test_what_a_family_has_not_is_named(task_of):
    lm, task = model("mamba"), task_of(6)
    with pytest.raises(ArchitectureError, match=r"no heads .* mixed by other means than attention. Ask for mixers"):
        vc.exact(lm, task, show_progress=False)
    with pytest.raises(ArchitectureError, match=r"Where errors arise is not told of Mamba.* scans have no tangents"):
        vc.causes.locate(lm, task, units=["x1"], show_progress=False)
    with pytest.raises(ArchitectureError, match=r"no mlps .* its blocks have no MLP"):
        vc.exact(lm, task, units="mlps", show_progress=False)
    with pytest.raises(ArchitectureError, match=r"channels are not grouped into heads. Ask for channels"):
        vc.exact(lm, task, units="mixer_heads", show_progress=False)
    llama = as_model(tiny_models.make("llama", seed=1), "llama")
    with pytest.raises(ArchitectureError, match=r"no mixers .* by attention alone. Ask for heads"):
        vc.exact(llama, task, units="mixers", show_progress=False)


def test_steering_a_mixer(task_of):
    """A vector is added to the channels of one layer, as a hook adds it."""
    lm, task = model("mamba"), task_of(6)
    vector = torch.linspace(-1, 1, lm.decoder.channels, dtype=torch.float64)
    out, before = lm.decoder.blocks[1].attention_out, metric(lm, task)
    true = metric(lm, task, [(out, lambda _, args: (args[0] + vector,))]) - before
    ours = vc.exact(lm, task, units=["x1"], ablation=Added({"x1": vector}), show_progress=False)
    assert float(ours.values) == pytest.approx(true, abs=1e-5)


@pytest.mark.slow
def test_the_state_of_a_recurrence_is_given_back(task_of):
    lm = model("recurrent_gemma")
    kept = [m for m in lm.hf.modules() if "recurrent_states" in vars(m)]
    own = [object() for _ in kept]
    for module, state in zip(kept, own, strict=True):
        module.recurrent_states = state
    before = lm.identity
    vc.exact(lm, task_of(6), units="mixers", show_progress=False)
    assert all(module.recurrent_states is state for module, state in zip(kept, own, strict=True))
    assert lm.identity == before


@pytest.mark.slow
def test_a_stream_in_float32_beside_weights_in_bfloat16(task_of):
    """`residual_in_fp32`: the stream is rounded where a norm reads it, and nowhere else."""
    hf = tiny_models.make("mamba", seed=1, dtype=torch.float32, residual_in_fp32=True).to(torch.bfloat16)
    lm = as_model(hf, "mamba")
    assert lm.decoder.blocks[0].float32_stream
    assert all(one.ok for one in check(lm, pair=task_of(8, seed=27)))


def test_positions_in_a_group_that_begin_late(task_of):
    """A mixer that reads earlier positions again leaves them as they were recorded."""
    lm, task = model("mamba"), task_of(9)
    found = vc.exact(lm, task, units={"late": "x0@7+x0@8", "two layers": "x0@8+x1@7-8"}, show_progress=False)
    outs = [lm.decoder.blocks[layer].attention_out for layer in (0, 1)]
    news = [read(lm, task.corrupted[0], out) for out in outs]
    late = (slice(None), slice(7, 9))
    patches = [
        [(outs[0], taking(news[0], late))],
        [(outs[0], taking(news[0], (slice(None), 8))), (outs[1], taking(news[1], late))],
    ]
    for column, hooked in enumerate(patches):
        assert float(found.values[0, column]) == pytest.approx(metric(lm, task, hooked) - metric(lm, task), abs=1e-5)


@pytest.mark.parametrize("family", ["mamba", "bamba"])
def test_forecasts(family, task_of):
    lm, task = model(family), task_of(7, n=2)
    for verb, options in (
        (vc.exact, {"units": "mixers"}), (vc.attribute, {"units": "channels", "method": "ig"}),
        (vc.exact, {"units": "gates"}), (vc.study, {"level": "quick"}),
    ):  # fmt: skip
        assert vc.forecast(verb, lm, task, **options).token_layers > 0


#: Family → its gate's module within a block, and which of the numbers that this gives are the gate's (of c channels).
GATES = {
    **dict.fromkeys(("mamba", "falcon_mamba"), ("mixer.in_proj", lambda c: slice(c, 2 * c))),
    **dict.fromkeys(("mamba2", "nemotron_h"), ("mixer.in_proj", lambda c: slice(0, c))),
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid"), ("mamba.in_proj", lambda c: slice(0, c))),
    "jamba": ("mamba.in_proj", lambda c: slice(c, 2 * c)),
    "lfm2": ("conv.in_proj", lambda c: slice(c, 2 * c)),
    "recurrent_gemma": ("temporal_block.linear_y", lambda c: slice(0, c)),
    "olmo_hybrid": ("linear_attn.g_proj", lambda c: slice(0, c)),
}


def given(lm, tokens, module):
    """What a module of the bare model gives in a run."""
    kept = []
    handle = module.register_forward_hook(lambda _, __, output: kept.append(output.clone()))
    with torch.no_grad():
        lm.hf(input_ids=torch.tensor([tokens]), use_cache=False)
    handle.remove()
    return kept[0]


def giving_instead(lm, task, module, new, where):
    """M of the bare model's clean run, a module of which gives something else at some places."""

    def hook(_, __, output):
        output = output.clone()
        output[where] = new[where]
        return output

    handle = module.register_forward_hook(hook)
    found = metric(lm, task)
    handle.remove()
    return found


@pytest.mark.parametrize("family", tiny_models.mostly_slow(list(GATES), FAST))
def test_gates_are_those_of_hooks(family, task_of):
    """What a channel is gated with: at all positions, at one, at zero, all of a layer; slopes by finite differences."""
    lm, task, quiet = model(family), task_of(9), {"show_progress": False}
    path, numbers = GATES[family]
    layers = lm.decoder.layers_with("mixer")
    modules = {layer: lm.decoder.blocks[layer].module.get_submodule(path) for layer in layers}
    part, before, every = numbers(lm.decoder.channels), metric(lm, task), (slice(None), slice(None))
    for layer in {layers[0], layers[-1]}:
        own, other = (given(lm, tokens, modules[layer]) for tokens in (task.clean[0], task.corrupted[0]))
        one = slice(part.start + 3, part.start + 4)
        asked = {f"x{layer}.c3<gate>": (*every, one), f"x{layer}.c3<gate>@8": (slice(None), 8, one),
                 f"x{layer}<gate>": (*every, part)}  # fmt: skip
        for name, where in asked.items():
            for ablation, new in (("counterfactual", other), ("zero", torch.zeros_like(own))):
                ours = vc.exact(lm, task, units=[name], ablation=ablation, **quiet)
                true = giving_instead(lm, task, modules[layer], new, where) - before
                assert float(ours.values[0, 0]) == pytest.approx(true, abs=1e-5), name
        both = vc.exact(lm, task, units=[(f"x{layer}.c3<gate>", f"x{layer}.c4<gate>")], **quiet)
        pair = (*every, slice(one.start, one.start + 2))
        true = giving_instead(lm, task, modules[layer], other, pair) - before
        assert float(both.values[0, 0]) == pytest.approx(true, abs=1e-5)
        slope, step = vc.attribute(lm, task, units=[f"x{layer}<gate>"], **quiet), 3e-3
        up, down = (giving_instead(lm, task, modules[layer], own + s * step * (other - own), asked[f"x{layer}<gate>"])
                    for s in (1, -1))  # fmt: skip
        assert float(slope.values[0, 0]) == pytest.approx((up - down) / (2 * step), rel=2e-3, abs=2e-4)
    parts = vc.attribute(lm, task, units="gates", method="ig", nodes=128, **quiet)
    whole = vc.exact(lm, task, units="layer_gates", **quiet)
    summed = torch.stack([parts.values[0, parts.units.layer == layer].sum() for layer in layers])
    assert torch.allclose(summed, whole.values[0], atol=1e-5) and parts.units.names[1] == f"x{layers[0]}.c1<gate>"
    with pytest.raises(MethodError, match="direct effect"):
        vc.effects.direct(lm, task, units="layer_gates", **quiet)


def test_a_gate_among_other_numbers_is_refused(task_of):
    with pytest.raises(ArchitectureError, match="gates are told apart by no linear map"):
        vc.exact(model("qwen3_next"), task_of(9), units="gates", show_progress=False)

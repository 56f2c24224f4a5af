"""Gemma 4: a stream that is scaled behind each block, heads of two sizes, keys that are values: against plain hooks."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import naive_generation
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.errors import ArchitectureError

FAMILIES = ("gemma4", "gemma4-keys-are-values", "gemma4-own-inputs")


def model(family, **over):
    return as_model(tiny_models.make(family, seed=1, **over), family)


@contextmanager
def edited(*edits):
    """Hooks of the bare model: (module, "in" or "out", what its first input or its output is changed to)."""
    with ExitStack() as stack:
        for module, at, edit in edits:
            if at == "in":
                handle = module.register_forward_pre_hook(lambda _, args, edit=edit: (edit(args[0]), *args[1:]))
            else:
                handle = module.register_forward_hook(lambda _, __, output, edit=edit: edit(output))
            stack.callback(handle.remove)
        yield


def metric(lm, task, *edits):
    with edited(*edits), torch.no_grad():
        logits = lm.hf(input_ids=torch.tensor([task.clean[0]]), use_cache=False).logits[0, -1]
    return float(logits[task.correct[0][0]] - logits[task.incorrect[0][0]])


def seen(lm, tokens, module, at):
    kept = []
    with edited((module, at, lambda x: (kept.append(x.clone()), x)[1])), torch.no_grad():
        lm.hf(input_ids=torch.tensor([tokens]), use_cache=False)
    return kept[0]


def part(lm, name):
    """(module, "in" or "out", columns) of a head, an MLP or a neuron, written out for this family."""
    layer = lm.hf.model.layers[int(name[1])]
    if name[0] == "a":
        dim, head = layer.self_attn.head_dim, int(name.split(".h")[1])
        return layer.self_attn.o_proj, "in", slice(head * dim, (head + 1) * dim)
    return (layer.mlp.down_proj, "in", slice(5, 6)) if ".n" in name else (layer.mlp, "out", slice(None))


def patch(lm, task, name):
    module, at, columns = part(lm, name)
    new = seen(lm, task.corrupted[0], module, at)

    def edit(x):
        x = x.clone()
        x[..., columns] = new[..., columns]
        return x

    return module, at, edit


NAMES = [f"a{layer}.h{head}" for layer in range(3) for head in (0, 3)] + ["m0", "m1", "m2", "m0.n5", "m1.n5"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)])
def test_contracts_hold(family, dtype):
    lm = model(family, dtype=dtype)
    edges = () if family == "gemma4-own-inputs" else (4, 6, 13)
    assert [one.number for one in lm.check()] == [n for n in range(1, 15) if n not in (4, 6, 13) or n in edges]
    assert [block.head_dim for block in lm.decoder.blocks] == [8, 12, 12] and "of width 8 or 12" in repr(lm)
    assert all(block.stream_scale != 1 for block in lm.decoder.blocks)


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_and_estimates_are_those_of_hooks(family, task_of):
    """Rounding alone: both run in float64, and effects are about 1."""
    lm, task = model(family), task_of(9)
    heads, others = [n for n in NAMES if n[0] == "a"], {"mlps": ["m0", "m1", "m2"], "neurons": ["m0.n5", "m1.n5"]}
    for names in (heads, *others.values()):
        exact = vc.exact(lm, task, units=names, show_progress=False).values[0]
        slopes = vc.attribute(lm, task, units=names, method="atp", show_progress=False).values[0]
        for name, effect, slope in zip(names, exact.tolist(), slopes.tolist(), strict=True):
            assert effect == pytest.approx(metric(lm, task, patch(lm, task, name)) - metric(lm, task), abs=1e-10), name
            assert slope == pytest.approx(plain_slope(lm, task, name), abs=1e-10), name


def plain_slope(lm, task, name):
    module, at, columns = part(lm, name)
    own, new = (seen(lm, tokens, module, at) for tokens in (task.clean[0], task.corrupted[0]))
    leaf = own.clone().requires_grad_()
    with edited((module, at, lambda _: leaf.clone())):
        logits = lm.hf(input_ids=torch.tensor([task.clean[0]]), use_cache=False).logits[0, -1]
    (logits[task.correct[0][0]] - logits[task.incorrect[0][0]]).backward()
    lm.hf.zero_grad()
    return float(((new - own) * leaf.grad)[..., columns].sum())


def test_direct_effects_are_those_of_runs_whose_other_writes_are_held(task_of):
    """A write reaches the end multiplied by the scales of its own block and the later ones."""
    lm, task = model("gemma4"), task_of(9)
    names = ["a0.h1", "a1.h3", "a2.h0", "m0", "m1", "m2"]
    by_kind = {n: float(vc.effects.direct(lm, task, units=[n], show_progress=False).values[0, 0]) for n in names}
    norms = [
        (f"{kind}{i}", norm)
        for i, layer in enumerate(lm.hf.model.layers)
        for kind, norm in (("a", layer.post_attention_layernorm), ("m", layer.post_feedforward_layernorm))
    ]
    clean = {name: seen(lm, task.clean[0], norm, "out") for name, norm in norms}
    for name, direct in by_kind.items():
        held = [(norm, "out", lambda _, n=n: clean[n]) for n, norm in norms if n != name[:2]]
        assert direct == pytest.approx(metric(lm, task, patch(lm, task, name), *held) - metric(lm, task), abs=1e-10)


def test_logit_attributions_add_up_and_scale_each_write(task_of):
    """What a write adds is ⟨write · scales behind it, g⟩; the call itself refuses what does not add up."""
    lm, task = model("gemma4", final_logit_softcapping=None), task_of(9)
    found = vc.reading.dla(lm, task, show_progress=False)
    assert float(found.values[0, 0].sum()) == pytest.approx(float(found.metric[0, 0]), abs=1e-10)
    layers, write = lm.hf.model.layers, lm.hf.model.layers[0].post_feedforward_layernorm
    scale = float(torch.stack([layer.layer_scalar for layer in layers]).prod())
    end, own = seen(lm, task.clean[0], lm.hf.model.norm, "in")[0, -1], seen(lm, task.clean[0], write, "out")[0, -1]
    frozen = lm.hf.model.norm.weight * own * scale * (end.square().mean() + lm.hf.model.norm.eps) ** -0.5
    logits = (lm.hf.lm_head.weight @ frozen).detach()
    true = float(logits[task.correct[0][0]] - logits[task.incorrect[0][0]])
    assert float(found.values[0, 0, found.names.index("m0")]) == pytest.approx(true, abs=1e-10)


def test_dropped_gradients_go_straight_to_the_stream_before(task_of):
    """The gradient behind a dropped block, times its scale, reaches the first MLP by the stream alone."""
    lm, task = model("gemma4"), task_of(9)
    scores = vc.attribute(lm, task, units=["m0"], method="atp-star", show_progress=False).values[0, 0]
    total = 0.0
    for dropped in (1, 2):
        parts = lm.hf.model.layers[dropped]
        detached = [(norm, "out", torch.Tensor.detach)
                    for norm in (parts.post_attention_layernorm, parts.post_feedforward_layernorm)]  # fmt: skip
        with edited(*detached):
            total += abs(plain_slope(lm, task, "m0")) / 2
    assert float(scores) == pytest.approx(total, abs=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_generate(family, task_of):
    lm, task = model(family), task_of((7, 9), 2)
    study = vc.behaviour.ablation_study(lm, task, units=["a1.h1"], new_tokens=3, show_progress=False)
    for i in range(len(task)):
        wanted = naive_generation.generate(lm.hf, "llama", task.clean[i], [], 3)
        assert [token for token in study.tokens[0, i].tolist() if token >= 0] == wanted


def test_queries_streams_and_attentions_beside_inputs_and_keys_of_others(task_of):
    """Rows that join ahead of, behind and beyond the block whose keys the last one reads, in one call each."""
    lm, task = model("gemma4-own-inputs"), task_of(9, 3)
    layers, clean = lm.hf.model.layers, metric(lm, task)
    assert [block.reads_keys for block in lm.decoder.blocks] == [False, False, True]

    def taken(module, at, columns):
        new = seen(lm, task.corrupted[0], module, at)

        def edit(x):
            x = x.clone()
            x[..., columns] = new[..., columns]
            return x

        return metric(lm, task, (module, at, edit)) - clean

    def moved(layer):
        return taken(layers[layer], "in", slice(None))

    wanted = {
        "queries": {f"a{i}.h1<q>": taken(layers[i].self_attn.q_proj, "out", slice(d, 2 * d))
                    for i, d in enumerate((8, 12, 12))},
        "residual": {f"r{i}": moved(i) for i in range(3)},
    }  # fmt: skip
    for effects in wanted.values():
        found = vc.exact(lm, task, units=[*effects], show_progress=False).values[0].tolist()
        assert found == pytest.approx([*effects.values()], abs=1e-10)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (
            lambda lm, task: vc.exact(lm, task, units="edges"),
            "no edges that veracausa could tell",
        ),
        (lambda lm, task: vc.exact(lm, task, units="keys"), "acts in several blocks"),
        (lambda lm, task: vc.effects.direct(lm, task, units="heads"), "a direct effect can't follow"),
        (lambda lm, task: vc.reading.dla(lm, task), "direct logit attribution can't follow"),
        (lambda lm, task: vc.attribute(lm, task, units="heads", method="eap-ig"), "moves the embeddings"),
        (lambda lm, task: vc.interactions(lm, task, "heads:0", "heads:1"), "an interaction can't follow"),
        (lambda lm, task: vc.causes.locate(lm, task, units=["a0.h1"]), "vc.causes.locate can't follow"),
    ],
)
def test_what_blocks_with_inputs_of_their_own_have_not(call, named, task_of):
    with pytest.raises(ArchitectureError, match=named):
        call(model("gemma4-own-inputs"), task_of(9))


@pytest.mark.parametrize(
    ("over", "named"),
    [
        ({"use_bidirectional_attention": "all"}, "bidirectional"),
    ],
)
def test_what_does_not_fit_is_named(over, named):
    with pytest.raises(ArchitectureError, match=named):
        model("gemma4", **over)

"""Families behind bridges: every kind of number against the naive references, which see the family's own attention.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT).
"""

from contextlib import contextmanager

import naive
import naive_circuit
import naive_edges
import naive_generation
import naive_path_patching
import naive_patterns
import numpy as np
import pytest
import tiny_models
import torch
from accounts import account
from bridges import as_model, naive_metric
from left_as_it_was import Boom, explode, same, state_of, unusual

import veracausa as vc
from veracausa.anatomy.bridges import bridged
from veracausa.anatomy.graph import K, Q, V
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.contracts.checks import check
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.guard import as_found, attention_function, attention_name, borrowed
from veracausa.errors import ArchitectureError, MethodError
from veracausa.units.every_unit import all_edges, all_units
from veracausa.units.resolve import resolve_units

#: Those that are always tested, and those with the slow tests.
FAST = ("gpt_neo",)
FAMILIES = tiny_models.mostly_slow(tiny_models.BRIDGED, FAST)
QUIET = {"show_progress": False}
KINDS = ("heads", "mlps", "attention", "neurons", "residual")


def some(lm, kind, every):
    units = all_units(lm, kind, 0)
    return units[np.arange(0, len(units), every)]


@contextmanager
def of_softmax(model, patches=(), keep=None):
    """As `naive_patterns.patched`, of modules that call torch's softmax themselves."""
    softmax, running = torch.nn.functional.softmax, []

    def own(*args, **kwargs):
        weights = softmax(*args, **kwargs)
        if not running:
            return weights
        shape, layer = weights.shape, running[-1]
        weights = weights.view(1, -1, *shape[-2:])
        for at, head, query, key, new in patches:
            if at == layer:
                where = (head, *(slice(None) if one is None else one for one in (query, key)))
                weights = weights.clone()
                weights[0][where] = new[where]
        if keep is not None:
            keep[layer] = weights
        return weights.view(shape)

    def scaled(query, key, value, attn_mask=None, is_causal=False, **_):
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, float("-inf"))
        return own(scores if attn_mask is None else scores + attn_mask, dim=-1) @ value

    handles = []
    for layer, block in enumerate(as_model(model).decoder.blocks):
        handles.append(block.attention.register_forward_pre_hook(lambda *_, layer=layer: running.append(layer)))
        handles.append(block.attention.register_forward_hook(lambda *_: running.clear()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", own)
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", scaled)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def pairwise(function, lm, task, *rest, direction="noising", **options):
    """A naive reference [examples, units] that takes both prompts and the metric."""
    found = []
    for i in range(len(task)):
        own, other = (task.clean[i], task.corrupted[i])[:: 1 if direction == "noising" else -1]
        found.append(function(lm.hf, own, other, naive_metric(lm, task, i), *rest, **options))
    return torch.stack(found)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.BRIDGED, ("bloom", "falcon-groups", "codegen")))
def test_contracts_hold(tiny, family):
    assert all(contract.ok and contract.tolerance <= 1e-9 for contract in tiny(family).check())


@pytest.mark.parametrize("family", FAMILIES)
def test_projections_are_split_into_heads(tiny, family):
    """Put together they are the projection's output again; what is put into it is where it is read."""
    lm = tiny(family)
    block, counts, d = lm.decoder.blocks[1], (lm.heads, lm.kv_heads, lm.kv_heads), lm.decoder.head_dim
    with torch.no_grad():
        x = torch.randn(2, lm.width, dtype=torch.float64)
        outputs = [part(x) for part in block.projections]
    parts = [block.layout.projected(kind, outputs[kind], count, d) for kind, count in enumerate(counts)]
    for again, output in zip(block.layout.fused(parts), outputs, strict=True):
        assert torch.equal(again, output)
    for kind, count in enumerate(counts):
        cut = [naive_edges.columns(lm.hf, family, "qkv"[kind], head) for head in range(count)]
        assert torch.equal(parts[kind], torch.stack([outputs[kind][:, one] for one in cut], 1))
        changed, new = outputs[kind].clone(), torch.randn(2, 1, d, dtype=torch.float64)
        block.layout.put(kind, changed, torch.tensor([count - 1]), new, count, d)
        assert torch.equal(changed[:, cut[-1]], new[:, 0]) and (changed != outputs[kind]).sum() == 2 * d


def test_sizes(tiny):
    assert [tiny(name).kv_heads for name in ("falcon", "falcon-groups", "falcon-alibi", "gptj")] == [1, 2, 4, 4]
    assert [tiny(name).decoder.positions for name in ("gptj", "mpt", "gpt_neo", "bloom")] == [64, 64, 64, None]


@pytest.mark.parametrize(
    ("family", "setting", "why"),
    [
        ("bloom", "apply_residual_connection_post_layernorm", "stream goes through norms"),
        ("bloom", "slow_but_exact", "slices"),
        ("xglm", "add_cross_attention", "cross-attention"),
    ],
)
def test_what_does_not_fit_is_refused(family, setting, why):
    with pytest.raises(ArchitectureError, match=f"{setting}=True.*{why}"):
        as_model(tiny_models.make(family, **{setting: True}))


def test_clipped_projections(task_of):
    """Corners, as those of ReLU; no tangents."""
    lm = as_model(tiny_models.make("mpt", seed=1, attn_config={"clip_qkv": 0.5}))
    assert lm.decoder.has_corners and all(contract.ok for contract in lm.check())
    with pytest.raises(ArchitectureError, match="clips queries, keys and values"):
        account(lm, task_of(7), ["a0.h1"])


def test_eager_alibi_of_falcon_is_refused(task_of):
    lm = as_model(tiny_models.make("falcon-alibi", seed=1, attn_implementation="eager"))
    with pytest.raises(ArchitectureError, match=r"twice.*attn_implementation='sdpa'"):
        vc.exact(lm, task_of(6), **QUIET)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_effects(tiny, task_of, reference, agree, family, direction, kind):
    lm, task = tiny(family), task_of((6, 8, 6), n=3)
    units = some(lm, kind, {"heads": 5, "neurons": 31}.get(kind, 1))
    scores = vc.exact(lm, task, units=units, direction=direction, **QUIET)
    theirs = reference(naive.exact, lm, task, scores.units, direction=direction)
    agree(scores.values, theirs, scores.gap)
    assert theirs.abs().max() > 1e-3  # otherwise anything agrees
    whole = vc.exact(lm, task, units=units, direction=direction, share_prefix=False, **QUIET)
    agree(whole.values, theirs, scores.gap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_plain_models_own(tiny, task_of, reference, agree, family, kind):
    """Attribution patching against autograd on the Hugging Face model."""
    lm, task = tiny(family), task_of((5, 6, 5), n=3, seed=4)
    units = some(lm, kind, {"heads": 3, "neurons": 31}.get(kind, 1))
    scores = vc.attribute(lm, task, units=units, **QUIET)
    agree(scores.values, reference(naive.atp, lm, task, scores.units), scores.gap)


@pytest.mark.parametrize("family", FAMILIES)
def test_edges(tiny, task_of, agree, family):
    """Exact effects of edges, and EAP, their slope."""
    lm, task = tiny(family), task_of((5, 7), n=2)
    edges = all_edges(lm)[::5]
    found = vc.exact(lm, task, units=edges, **QUIET)
    theirs, slopes = (
        torch.stack([
            function(lm.hf, lm.name, task.clean[i], task.corrupted[i], naive_metric(lm, task, i), found.units.names)
            for i in range(len(task))
        ])
        for function in (naive_edges.edge_effects, naive_edges.slopes)
    )  # fmt: skip
    agree(found.values, theirs, found.gap)
    eap = vc.attribute(lm, task, units=edges, method="eap", **QUIET)
    agree(eap.values, slopes, found.gap, 1e-6)  # central differences
    path = vc.attribute(lm, task, units=edges, method="eap-ig", **QUIET)
    alone = [vc.attribute(lm, task[i], units=edges, method="eap-ig", **QUIET) for i in range(len(task))]
    agree(path.values, torch.cat([one.values for one in alone]), found.gap)


@pytest.mark.parametrize("family", FAMILIES)
def test_circuits(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 7), n=2)
    whole = all_edges_mask(lm.graph)
    masks = [whole & (np.random.default_rng(seed).random(whole.shape) < share) for seed, share in enumerate((0.2, 0.7))]
    found = run_circuits(lm, task, masks, **QUIET)
    theirs = torch.stack([naive_circuit.metrics(lm, task, mask) for mask in masks])
    agree(found.metric, theirs, found.measured.gap)
    alone = run_circuits(lm, task, masks, share_prefix=False, **QUIET)
    agree(alone.metric, theirs, found.measured.gap)


@pytest.mark.cases(2)
@pytest.mark.parametrize("units", ["patterns", "patterns@positions", "patterns@cells"])
@pytest.mark.parametrize("family", FAMILIES)
def test_patterns(tiny, task_of, agree, monkeypatch, family, units):
    """Patched in torch's softmax, and the estimate against its gradient there."""
    monkeypatch.setattr(naive_patterns, "patched", of_softmax)
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    table = resolve_units(lm, units, 6)
    table = table[np.arange(0, len(table), {"patterns": 1, "patterns@positions": 7}.get(units, 29))]
    for direction in ("noising", "denoising"):
        scores = vc.exact(lm, task, units=table, direction=direction, **QUIET)
        agree(scores.values, pairwise(naive_patterns.exact, lm, task, scores.units, direction=direction), scores.gap)
    scores = vc.attribute(lm, task, units=table, **QUIET)
    agree(scores.values, pairwise(naive_patterns.estimate, lm, task, scores.units), scores.gap)


@pytest.mark.parametrize("kind", ["queries", "keys", "values"])
@pytest.mark.parametrize("family", FAMILIES)
def test_queries_keys_and_values(tiny, task_of, agree, family, kind):
    """Patched where they are projected: rotation commutes with that, so it tells the same."""
    lm, task = tiny(family), task_of((6, 7), n=2)
    number, heads = (Q, K, V)[("queries", "keys", "values").index(kind)], lm.heads if kind == "queries" else lm.kv_heads
    scores = vc.exact(lm, task, units=kind, **QUIET)

    def theirs(model, own, other, metric):
        effects = []
        with torch.no_grad():
            before = metric(model(torch.tensor([own])).logits[0, -1])
            for layer, head in zip(scores.units.layer.tolist(), scores.units.index.tolist(), strict=True):
                block, kept = lm.decoder.blocks[layer], []
                part = block.projections[number]
                handle = part.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output.clone()))
                model(torch.tensor([other]))
                handle.remove()

                def put(_, __, output, kept=kept, block=block, head=head):
                    parts = [
                        block.layout.projected(of, x, lm.heads if of == Q else lm.kv_heads, lm.decoder.head_dim).clone()
                        for of, x in ((of, kept[0] if of == number else output) for of in (Q, K, V))
                    ] if block.qkv != "separate" else None  # fmt: skip
                    if parts is None:
                        output = output.unflatten(-1, (heads, -1)).clone()
                        output[..., head, :] = kept[0].unflatten(-1, (heads, -1))[..., head, :]
                        return output.flatten(-2)
                    own = block.layout.projected(number, output, heads, lm.decoder.head_dim).clone()
                    own[..., head, :] = parts[number][..., head, :]
                    parts[number] = own
                    return block.layout.fused(parts)[number]

                handle = part.register_forward_hook(put)
                effects.append(metric(model(torch.tensor([own])).logits[0, -1]) - before)
                handle.remove()
        return torch.stack(effects)

    agree(scores.values, pairwise(theirs, lm, task), scores.gap)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_paths_of_edges(tiny, task_of, agree, family, direction):
    """Heads that see what others hand on are run beside each other, each with the bias of positions of its own."""
    lm, task = tiny(family), task_of((5, 7), n=2)
    names = ["a0.h1->a2.h2<q>->logits", "a0.h3->a1.h0<v>->a2.h1<k>->...->logits", "m0->a2.h3<k>->logits"]
    found = vc.exact(lm, task, units=names, direction=direction, **QUIET)
    agree(found.values, naive_path_patching.effects(lm, task, names, direction), found.gap)


@pytest.mark.parametrize("family", FAMILIES)
def test_expansions_end_at_attribution_and_at_the_effect(tiny, task_of, agree, family):
    """Every kind of part expanded is attribution patching, none is the exact effect (`vc.causes.locate`)."""
    lm, task = tiny(family), task_of(7)
    for names in (["a0.h1", "a1.h2"], ["m0"], ["m1.n5"]):
        _, found = account(lm, task, names)
        exact, atp = vc.exact(lm, task, units=names, **QUIET), vc.attribute(lm, task, units=names, **QUIET)
        agree(found.runs[-1], exact.values[0], exact.gap)
        agree(found.runs[0], atp.values[0], exact.gap)
        agree(found.sublayers.sum(0), (exact.values - atp.values)[0], exact.gap)


def test_tangents_of_blooms_activation_are_refused(tiny, task_of):
    """Its backward pass is of its own making; an expansion takes two of these, a path over the input can't."""
    lm, task = tiny("bloom"), task_of((5, 6), n=2)
    with pytest.raises(MethodError, match=r"forward-mode.*bloom.*combine='mean'"):
        vc.attribute(lm, task, method=vc.Method(path="inputs", combine="increments", nodes=3), **QUIET)
    assert vc.attribute(lm, task, method=vc.Method(path="inputs", nodes=3), **QUIET).values.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_generation(tiny, task_of, family):
    lm, task = tiny(family), task_of((5, 6), 3)
    study = vc.behaviour.ablation_study(lm, task, units=["a0.h1"], ablations=("zero",), new_tokens=3, **QUIET)
    for c, condition in enumerate(study.conditions):
        for i in range(len(task)):
            zero = torch.zeros(task.lengths[i], lm.decoder.head_dim, dtype=torch.float64)
            own = [("heads", 0, 1, zero)] if condition.units else []
            wanted = naive_generation.generate(lm.hf, family, task.clean[i], own, 3)
            assert [t for t in study.tokens[c, i].tolist() if t >= 0] == wanted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow
def test_in_bfloat16(task_of, family):
    """Milder weights, as for the other families: bf16 rounds every logit to 3 digits."""
    hf = tiny_models.make(family, seed=1, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if not any(part in name for part in ("norm", "ln_", "embed", "wte", "wpe")):
                weight *= 0.5
    lm = as_model(hf.to(torch.bfloat16), family)
    task = max((task_of(8, seed=seed) for seed in range(9, 29)), key=lambda task: abs(float(lm.measure(task).gap)))
    outcomes = check(lm, pair=task)
    assert all(one.ok for one in outcomes)


@pytest.mark.parametrize("after", [None, 0, 3, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_left_as_it_was(task_of, family, after):
    hf = unusual(family, "sdpa" if family.startswith("falcon") else "eager")
    part = as_model(hf).decoder.blocks[1].mlp_out
    handle = None if after is None else part.register_forward_pre_hook(explode(after))
    before = state_of(hf)
    for _ in range(6):  # the hook's count goes on, so that some call surely meets it
        try:
            vc.exact(as_model(hf, family), task_of((5, 6), n=2), units="patterns", **QUIET)
        except Boom:
            break
        finally:
            same(before, state_of(hf))
    else:
        assert handle is None, "the hook never raised"


def test_bridges_stand_only_while_our_function_is_in_force(tiny):
    lm = tiny("gpt_neo")
    module, config = lm.decoder.blocks[1].attention, lm.hf.config
    own, name = vars(module)["forward"], attention_name(lm.decoder)
    with borrowed(lm.decoder):
        assert bridged(module) is None and vars(module)["forward"] is own
        with attention_function(lm.decoder, SUFFIX):
            assert bridged(module).function == SUFFIX == attention_name(lm.decoder)
            assert config._attn_implementation == name == "eager"  # the model makes its masks for its own attention
            with as_found(lm.decoder):
                assert bridged(module) is None and attention_name(lm.decoder) == "eager"
            with attention_function(lm.decoder, "eager"):
                assert bridged(module) is None
            assert bridged(module).function == SUFFIX
    assert vars(module)["forward"] is own


def test_attention_without_an_inside_is_refused(task_of):
    """A flash kernel's class has no method in which scores are made."""
    hf = tiny_models.make("gpt_neo", seed=1, dtype=torch.float32)
    kind = type(hf.transformer.h[0].attn.attention)
    flash = type("Flash", (kind,), {"_attn": property(lambda self: lambda *parts: kind._attn(self, *parts))})
    for block in hf.transformer.h:
        block.attn.attention.__class__ = flash
    with pytest.raises(ArchitectureError, match=r"Flash.*attn_implementation='eager'"):
        vc.exact(as_model(hf, "flash"), task_of(6), **QUIET)

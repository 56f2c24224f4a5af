"""Backward rules: forward values bit for bit, gradients against rules written out with `.detach()`, and their removal.

Gradients are compared in float64, as a share of the largest gradient of their site: rounding leaves 1e-13, a factor or
a detach in the wrong place changes the first digits.
"""

from dataclasses import asdict, replace

import naive_paths
import pytest
import tiny_models
import torch
from bridges import as_model, naive_metric
from torch import nn

import veracausa as vc
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function, hooks
from veracausa.engine.recording import record
from veracausa.engine.rule import PLAIN, RULES, Rule
from veracausa.engine.rules import applied
from veracausa.errors import ArchitectureError

FAMILIES = tiny_models.FAMILIES
PARTS = {
    "gim": RULES["gim"],
    "relp": RULES["relp"],
    "norms": Rule(freeze_norms=True),
    "temperature": Rule(temperature=2.0),
    "cold": Rule(temperature=0.7),
    "query_key": Rule(query_key=0.25),
    "value": Rule(value=0.5),
    "product": Rule(product=0.5),
    "activations": Rule(linear_activations=True),
}
SITES = ("z", "neurons", "mlp", "queries", "keys", "values")
TOLERANCE = 1e-10


def logits(lm, ids):
    return lm.hf(torch.tensor([ids]), use_cache=False).logits


def traces(hf):
    """What a rule must leave as it was: hooks of all modules, attention implementation, instances' attributes."""
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in hf.modules()]
    return hooks, hf.config._attn_implementation, [sorted(module.__dict__) for module in hf.modules()]


# ---- forward --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def plain_runs(tiny, task_of, family):
    """A model, a prompt, and its run without a rule: without and with its graph."""
    lm, ids = tiny(family), torch.tensor([task_of(7, seed=4).clean[0]])
    with attention_function(lm.decoder, SUFFIX):
        return lm, ids, [record(lm.decoder, ids, sites=SITES[:3], grad=g, logits=True)[0] for g in (False, True)]


@pytest.mark.parametrize("name", PARTS)
def test_no_forward_value_changes(plain_runs, name):
    lm, ids, runs = plain_runs
    sites = SITES[:3]
    for grad, plain in zip((False, True), runs, strict=True):
        with applied(lm.decoder, PARTS[name]):
            ours, _ = record(lm.decoder, ids, sites=sites, grad=grad, logits=True)
        assert torch.equal(plain.logits, ours.logits)
        for a, b in zip(plain.residual + plain.middle, ours.residual + ours.middle, strict=True):
            assert torch.equal(a, b)
        for site in sites:
            assert all(torch.equal(a, b) for a, b in zip(plain.sites[site], ours.sites[site], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma3"])
def test_no_forward_value_changes_in_other_types(tiny, task_of, family, dtype):
    lm, task = tiny(family, dtype=dtype), task_of(7, seed=4)
    with torch.no_grad():
        with attention_function(lm.decoder, SUFFIX):
            plain = logits(lm, task.clean[0])
        for name in ("gim", "relp"):
            with applied(lm.decoder, RULES[name]):
                assert torch.equal(logits(lm, task.clean[0]), plain), name


# ---- removal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gim", "relp"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "qwen3"])
def test_a_rule_is_gone_afterwards(tiny, task_of, family, name):
    lm, ids = tiny(family), task_of(7, seed=4).clean[0]
    before, bare = traces(lm.hf), logits(lm, ids)
    with applied(lm.decoder, RULES[name]):
        inside = traces(lm.hf)
    assert inside != before and inside[1] == SUFFIX
    assert traces(lm.hf) == before
    with pytest.raises(ZeroDivisionError), applied(lm.decoder, RULES[name]):
        raise ZeroDivisionError
    assert traces(lm.hf) == before
    assert torch.equal(logits(lm, ids), bare)


def test_a_rule_is_gone_after_an_exception_in_the_middle_of_a_run(tiny, task_of, monkeypatch):
    lm, task = tiny("llama", fresh=True), task_of(7, seed=4)
    before = traces(lm.hf)

    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("veracausa.estimates.paths.bucket.PathBucket.slopes", broken)
    for method in ("gim", vc.Method(path="inputs", rule="gim", nodes=2)):
        with pytest.raises(ZeroDivisionError):
            vc.attribute(lm, task, method=method, show_progress=False)
        assert traces(lm.hf) == before


class _Squash(nn.Module):
    """A "norm" without a denominator (a dynamic tanh)."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=torch.float64))

    def forward(self, x):
        return torch.tanh(x) * self.weight


@pytest.mark.parametrize("where", ["final", "first"])
def test_an_unknown_norm_is_an_error_and_leaves_nothing(task_of, where):
    hf = tiny_models.make("llama", seed=1)
    if where == "final":
        hf.model.norm = _Squash(24)
    else:
        hf.model.layers[0].input_layernorm = _Squash(24)
    lm, before = as_model(hf, "llama"), traces(hf)
    for method in ("gim", "relp"):
        with pytest.raises(ArchitectureError, match=r"_Squash.*rule='plain'"):
            vc.attribute(lm, task_of(7, seed=4), method=method, show_progress=False)
        assert traces(hf) == before
    assert vc.attribute(lm, task_of(7, seed=4), show_progress=False).values.isfinite().all()


# ---- backward -------------------------------------------------------------------------------------------------------


def gradients(lm, task, rule):
    """∂M/∂(every site) of the clean run under a rule, {site: [n, d] by layer}, and the embeddings' as "resid"."""
    metric = naive_metric(lm, task, 0)
    with applied(lm.decoder, rule):
        state, _ = record(lm.decoder, torch.tensor([task.clean[0]]), sites=SITES, grad=True)
        m = metric(lm.decoder.logits(state.last)[0])
        wanted = {"resid": state.residual, **state.sites}
        flat = [tensor for tensors in wanted.values() for tensor in tensors]
        found = iter(torch.autograd.grad(m, flat, allow_unused=True, materialize_grads=True))
    return {site: [naive_paths.Trace.shaped(next(found)) for _ in tensors] for site, tensors in wanted.items()}


def same(ours, theirs):
    for site in theirs:
        for a, b in zip(ours[site], theirs[site], strict=True):
            scale = b.abs().max().clamp_min(1e-6)
            assert (a - b).abs().max() / scale < TOLERANCE, site


def differ(ours, theirs):
    return max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-9))
        for a, b in zip(ours["resid"][:1], theirs["resid"][:1], strict=True)
    )


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_every_part(tiny, task_of, family, name):
    lm, task = tiny(family), task_of(7, seed=4)
    point = naive_paths.embeddings(lm.hf, task.clean[0])
    metric = naive_metric(lm, task, 0)
    _, theirs = naive_paths.at(lm.hf, family, point, metric, naive_paths.Rule(**asdict(PARTS[name])))
    ours = gradients(lm, task, PARTS[name])
    same(ours, theirs)
    changed = differ(ours, naive_paths.at(lm.hf, family, point, metric)[1])
    ungated = family.startswith("gpt")
    if name == "product" and ungated:  # no gated product to share
        assert changed < TOLERANCE
    else:
        assert changed > 1e-4, "this part of the rule did nothing, so that nothing was tested"


@pytest.mark.parametrize("method", ["gim", "relp"])
@pytest.mark.parametrize("kind", ["heads", "neurons", "queries", "values"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_presets(tiny, task_of, agree, family, kind, method):
    """GIM and RelP as presets, per example, prompts of mixed lengths, in both directions."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    rule = {"gim": naive_paths.GIM, "relp": naive_paths.RELP}[method]
    for direction in ("noising", "denoising"):
        scores = vc.attribute(lm, task, units=kind, method=method, direction=direction, show_progress=False)
        theirs = []
        for i in range(2):
            ends = [naive_paths.embeddings(lm.hf, ids) for ids in (task.clean[i], task.corrupted[i])]
            own, other = ends if direction == "noising" else ends[::-1]
            metric = naive_metric(lm, task, i)
            theirs.append(naive_paths.mean_scores(lm, family, own, other, [(own, 1.0)], metric, scores.units, rule))
        agree(scores.values, torch.stack(theirs), scores.gap)


@pytest.mark.parametrize("family", FAMILIES)
def test_gim_with_nothing_changed_is_plain(tiny, task_of, agree, monkeypatch, family):
    """Temperature 1, scales 1, live norms: through all the hooks, and by the shortcut that puts none on."""
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    plain = vc.attribute(lm, task, method="atp", show_progress=False)
    nothing = replace(RULES["gim"], temperature=1.0, query_key=1.0, value=1.0, product=1.0, freeze_norms=False)
    assert nothing.plain and nothing == PLAIN
    monkeypatch.setitem(RULES, "gim", nothing)
    agree(vc.attribute(lm, task, method="gim", show_progress=False).values, plain.values, plain.gap)
    monkeypatch.setattr(Rule, "plain", property(lambda _: False))
    agree(vc.attribute(lm, task, method="gim", show_progress=False).values, plain.values, plain.gap)


@pytest.mark.parametrize("part", ["temperature", "query_key", "value", "product"])
def test_a_part_near_nothing_is_near_plain(tiny, task_of, part):
    """Each numeric part is continuous at its neutral value: a deviation of 1e-6 moves gradients by about as much."""
    lm, task = tiny("qwen3"), task_of(7, seed=4)
    change = differ(gradients(lm, task, Rule(**{part: 1 + 1e-6})), gradients(lm, task, PLAIN))
    assert 1e-10 < change < 1e-4


# ---- RelP -----------------------------------------------------------------------------------------------------------


def linear(family, activation="linear"):
    """A model without a gate whose MLPs (with activation "linear") and norms are linear.

    The norms' ε is 1e24 and their gain 1e12 times larger: beside ε a variance of 1e6 is 1e-18, nothing in float64.
    """
    over = {"activation_function": activation} if family == "gpt2" else {"hidden_act": activation}
    hf = tiny_models.make(family, seed=1, **over)
    for module in hf.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e24
            module.weight.data *= 1e12
    return as_model(hf, family)


@pytest.mark.parametrize("kind", ["heads", "neurons", "residual", "queries"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gpt_neox-sequential"])
def test_relp_on_a_linear_model_is_plain(task_of, agree, family, kind):
    """Attention is not linear, but RelP leaves it alone. The same numbers but for rounding."""
    lm, task = linear(family), task_of((5, 6), n=2, seed=4)
    relp, plain = (vc.attribute(lm, task, units=kind, method=m, show_progress=False) for m in ("relp", "atp"))
    agree(relp.values, plain.values, plain.gap)
    bent = linear(family, "gelu")  # the control: with a nonlinearity they differ
    relp, plain = (vc.attribute(bent, task, units=kind, method=m, show_progress=False) for m in ("relp", "atp"))
    assert (relp.values - plain.values).abs().max() > 1e-3 * plain.gap.abs().mean()


@pytest.mark.parametrize(("activation", "slope"), [("gelu", 0.5), ("gelu_new", 0.5), ("silu", 0.5), ("tanh", 1.0)])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_ratio_at_zero_is_the_slope(task_of, family, activation, slope):
    """A layer whose activations all read exactly 0: f(x)/x is f′(0) there, and no NaN."""
    over = {"activation_function": activation} if family == "gpt2" else {"hidden_act": activation}
    hf = tiny_models.make(family, seed=1, **over)
    with torch.no_grad():
        for layer in range(3):
            into = hf.transformer.h[layer].mlp.c_fc if family == "gpt2" else hf.model.layers[layer].mlp.gate_proj
            into.weight.zero_()
            if into.bias is not None:
                into.bias.zero_()
    lm, task = as_model(hf, family), task_of(7, seed=4)
    into = [b.mlp.c_fc if family == "gpt2" else b.mlp.gate_proj for b in lm.decoder.blocks]
    metric, read = naive_metric(lm, task, 0), []  # what activations read
    handles = [module.register_forward_hook(lambda _, __, output: read.append(output)) for module in into]
    with hooks(*handles), applied(lm.decoder, Rule(linear_activations=True)):
        state, _ = record(lm.decoder, torch.tensor([task.clean[0]]), sites=("neurons",), grad=True)
        m = metric(lm.decoder.logits(state.last)[0])
        before, behind = (torch.autograd.grad(m, t, retain_graph=True) for t in (read[-3:], state.sites["neurons"]))
    for block, a, b, middle in zip(lm.decoder.blocks, before, behind, state.middle, strict=True):
        gate = 1 if block.up is None else block.up(block.mlp_norm(middle)).detach()
        assert b.abs().max() > 1e-3
        # the slope is a central difference with step 1e-4: error of order 1e-8
        torch.testing.assert_close(a, b * gate * slope, rtol=1e-7, atol=1e-12)


def test_relu_away_from_zero(tiny, task_of):
    """relu(x)/x is its own slope: RelP's activations change nothing on a relu model."""
    lm, task = tiny("gpt2", activation_function="relu"), task_of(7, seed=4)
    assert differ(gradients(lm, task, Rule(linear_activations=True)), gradients(lm, task, PLAIN)) < TOLERANCE


@pytest.mark.parametrize("method", ["gim", "relp"])
def test_rules_of_an_mlp_are_refused_for_experts(task_of, method):
    """Their activations and products are inside of experts, where no hook reaches: half a rule would be no rule."""
    lm = as_model(tiny_models.make("mixtral", seed=1), "mixtral")
    with pytest.raises(ArchitectureError, match="made of experts"):
        vc.attribute(lm, task_of(7), units="heads", method=method, show_progress=False)

"""What a user's hooks do is a part of the model, or refused by name, kind by kind.

The judges are the contracts' bare runs and central differences, which call the modules with their hooks, and the naive
reference: 1e-9 of a logit in float64, where effects are of the size of one.
"""

import naive
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.contracts.edges import circuits_equal_bare_runs, eap_is_the_slope, readers_sum_to_the_stream
from veracausa.errors import ArchitectureError, ContractError

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp.act_fn", "mlp")
NORMS = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm")
CHANGES = {"factor": lambda output: 0.5 * output, "shift": lambda output: output + 0.3}


def hooked(family, part, change, before=False):
    """A tiny model with the same hook on a part of every block, or on one part of the model."""
    hf = tiny_models.make(family, seed=1)
    owners = [hf.get_submodule(part)] if part.split(".")[0] in ("lm_head", "model") else [
        block if part == "block" else block.get_submodule(part) for block in hf.model.layers]  # fmt: skip
    for owner in owners:
        if before:
            owner.register_forward_pre_hook(lambda module, args: (change(args[0]), *args[1:]))
        else:
            owner.register_forward_hook(lambda module, args, output: change(output))
    return as_model(hf, family)


def edges(lm, task, method="eap"):
    return vc.attribute(lm, task, units="edges", method=method, show_progress=False)


@pytest.mark.cases(2)
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("part", [*ATTENTION, *MLP, *NORMS, "lm_head", "model.norm", "model.embed_tokens"])
def test_a_factor_or_a_shift_works(task_of, reference, agree, part, kind):
    lm, task = hooked("qwen3", part, CHANGES[kind]), task_of(6)
    assert circuits_equal_bare_runs(lm, task) < 1e-9
    assert eap_is_the_slope(lm, task) < 1e-9
    assert readers_sum_to_the_stream(lm, task) < 1e-9
    scores = vc.exact(lm, task, units=["a0.h0", "a1.h3", "a2.h1"], show_progress=False)
    agree(scores.values, reference(naive.exact, lm, task, scores.units), 1.0)


@pytest.mark.cases(1)
@pytest.mark.parametrize("part", ["post_attention_layernorm", "post_feedforward_layernorm"])
@pytest.mark.parametrize("kind", CHANGES)
def test_on_post_norms_too(task_of, part, kind):
    lm, task = hooked("gemma3", part, CHANGES[kind]), task_of(6)
    assert circuits_equal_bare_runs(lm, task) < 1e-9
    assert eap_is_the_slope(lm, task) < 1e-9


@pytest.mark.cases(2)
@pytest.mark.parametrize("part", ["self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_a_pre_hook_works(task_of, reference, agree, part):
    lm, task = hooked("llama", part, CHANGES["factor"], before=True), task_of(6)
    assert circuits_equal_bare_runs(lm, task) < 1e-9
    assert eap_is_the_slope(lm, task) < 1e-9
    scores = vc.exact(lm, task, units=["m0.n1", "m2.n5"], show_progress=False)
    agree(scores.values, reference(naive.exact, lm, task, scores.units), 1.0)


def last_halved(output):
    return torch.cat([output[:, :-1], output[:, -1:] / 2], 1)


def of_first(change):
    return lambda output: (change(output[0]), *output[1:])


@pytest.mark.parametrize(
    ("part", "change", "units", "words"),
    [
        ("self_attn.o_proj", torch.relu, "heads", "attention output projection of block 0 .* is not linear"),
        ("mlp.down_proj", torch.relu, "neurons", "down projection of block 0 .* is not linear"),
        ("self_attn.v_proj", torch.relu, "edges", "value projection of block 0 .* is not linear"),
        ("lm_head", torch.tanh, "heads", "unembedding .* is not linear"),
        ("input_layernorm", torch.tanh, "edges", "neither a LayerNorm nor an RMS norm"),
        ("self_attn.k_proj", last_halved, "edges", "key projection of block 0|run whole"),
        ("input_layernorm", last_halved, "edges", "norm before the attention of block 0|run whole"),
        ("mlp.down_proj", last_halved, "neurons", "down projection of block 0|run whole"),
        ("self_attn", of_first(CHANGES["factor"]), "heads", "attention of block 0"),
        ("self_attn", of_first(CHANGES["factor"]), "edges", "attention of block 0"),
        ("block", CHANGES["factor"], "heads", "attention of block 0|unpatched run"),
        ("block", CHANGES["shift"], "heads", "attention of block 0|unpatched run"),
        ("mlp", CHANGES["factor"], "neurons", "down projection of block 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(task_of, part, change, units, words):
    lm, task = hooked("llama", part, change), task_of(6)
    with pytest.raises((ContractError, ArchitectureError), match=words):
        edges(lm, task) if units == "edges" else vc.exact(lm, task, units=units, show_progress=False)


def test_what_a_call_does_not_assume_it_does_not_refuse(task_of, reference, agree):
    """Exact effects of heads run the value projection as it is, whatever its hook does."""
    lm, task = hooked("llama", "self_attn.v_proj", torch.relu), task_of(6)
    scores = vc.exact(lm, task, show_progress=False)
    agree(scores.values, reference(naive.exact, lm, task, scores.units), 1.0)


def test_rules_see_what_the_module_does(task_of, agree):
    """A factor behind the values is the same as in the weights, under every backward rule."""
    task, twin = task_of(6), tiny_models.make("llama", seed=1)
    with torch.no_grad():
        for block in twin.model.layers:
            block.self_attn.v_proj.weight *= 0.5
            block.input_layernorm.weight *= 0.5
    hf = tiny_models.make("llama", seed=1)
    for block in hf.model.layers:
        block.self_attn.v_proj.register_forward_hook(lambda module, args, output: output * 0.5)
        block.input_layernorm.register_forward_hook(lambda module, args, output: output * 0.5)
    for method in ("eap", "relp", "gim", "ceap", "eap-ig-activations"):
        ours, theirs = (edges(as_model(one, "llama"), task, method) for one in (hf, twin))
        agree(ours.values, theirs.values, theirs.gap)


def test_a_pre_hook_behind_queries_and_values_counts(task_of, agree):
    """A factor before the output projection is the same as in its weights."""
    task, hf, twin = task_of(6), *(tiny_models.make("llama", seed=1) for _ in range(2))
    for one, other in zip(hf.model.layers, twin.model.layers, strict=True):
        one.self_attn.o_proj.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))
        other.self_attn.o_proj.weight.data *= 0.5
    lm, other = as_model(hf, "llama"), as_model(twin, "llama")
    qk_exact = {"units": "queries", "method": vc.Method(path="point", rule="qk-exact", combine="mean")}
    for call in (
        lambda lm: vc.exact(lm, task, units="values", show_progress=False),
        lambda lm: vc.exact(lm, task, units="queries", show_progress=False),
        lambda lm: vc.attribute(lm, task, **qk_exact, show_progress=False),
    ):
        ours, theirs = call(lm), call(other)
        agree(ours.values, theirs.values, 1.0)

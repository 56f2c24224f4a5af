"""Shared prefixes where rotary embeddings depend on the prompt's length, and the guard for whatever else does."""

import random

import naive
import naive_circuit
import naive_edges
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model, naive_metric
from long_models import FIRST, KINDS, LENGTH, long_model

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.engine import validate_whole
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.sharing import starts
from veracausa.errors import ContractError

EDGES = ["input->a0.h0<q>", "input->a0.kv1<k>", "a0.h1->m1", "m0->a2.kv0<v>", "a1.h2->logits", "m2->logits"]


def pairs(*firsts_and_lengths, seed=0):
    """A task of pairs that first differ at a position, and again near the end."""
    rng, clean, corrupted = random.Random(seed), [], []
    for first, length in firsts_and_lengths:
        prompt = [rng.randrange(tiny_models.VOCAB) for _ in range(length)]
        clean.append(tuple(prompt))
        for position in (first, length - 3):
            prompt[position] = (prompt[position] + 1 + rng.randrange(tiny_models.VOCAB - 1)) % tiny_models.VOCAB
        corrupted.append(tuple(prompt))
    n = len(clean)
    return vc.Task("long", tuple(clean), tuple(corrupted), ((3,),) * n, ((5,),) * n)


def bare_metric(lm, task, i, prompts):
    with torch.no_grad():
        return naive_metric(lm, task, i)(lm.hf(torch.tensor([prompts[i]]), use_cache=False).logits[0, -1])


def rotary_state(lm):
    """Everything that the rotary modules hold."""
    rotary = lm.hf.model.rotary_emb
    buffers = {name: (id(buffer), buffer.clone()) for name, buffer in rotary.named_buffers()}
    return buffers, {k: v for k, v in vars(rotary).items() if not k.startswith("_")}


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if "qwen" in k else k for k in KINDS])
def test_every_computation_equals_whole_prompts(reference, agree, kind):
    lm, task = long_model(kind), pairs((FIRST, LENGTH))
    assert starts(lm.decoder, task) == (0,)
    measured = [lm.measure(task) for _ in range(3)]
    bare = torch.stack([bare_metric(lm, task, 0, prompts) for prompts in (task.clean, task.corrupted)])
    for one in measured:
        assert torch.equal(one.gap, measured[0].gap)
        agree(torch.stack([one.clean[0], one.corrupted[0]]), bare, one.gap)
    heads = vc.exact(lm, task, units="heads", show_progress=False)
    agree(heads.values, reference(naive.exact, lm, task, heads.units), heads.gap)
    atp = vc.attribute(lm, task, units="heads", method="atp", show_progress=False)
    agree(atp.values, reference(naive.atp, lm, task, atp.units), heads.gap)
    ig = vc.attribute(lm, task, units="heads", method="ig", nodes=3, show_progress=False)
    agree(ig.values, reference(naive.ig_layer, lm, task, ig.units, nodes=3), heads.gap)
    ends = task.clean[0], task.corrupted[0], naive_metric(lm, task, 0)
    edges = vc.exact(lm, task, units=EDGES, show_progress=False)
    agree(edges.values[0], naive_edges.edge_effects(lm.hf, lm.name, *ends, edges.units.names), heads.gap)
    eap = vc.attribute(lm, task, units=EDGES, method="eap", show_progress=False)
    # central differences of the reference are good to 1e-6, as where they are used elsewhere
    agree(eap.values[0], naive_edges.slopes(lm.hf, lm.name, *ends, eap.units.names), heads.gap, 1e-6)
    whole = all_edges_mask(lm.graph)
    mask = whole & (np.random.default_rng(0).random(whole.shape) < 0.5)
    circuit = run_circuits(lm, task, [mask], show_progress=False)
    agree(circuit.metric[0], naive_circuit.metrics(lm, task, mask), heads.gap)


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_sets_of_lengths_under_and_beyond_the_original(reference, agree, kind):
    """Short prompts go on sharing; each has the numbers that it has alone, in any order."""
    lm, task = long_model(kind), pairs((10, 24), (FIRST, LENGTH), (12, 24), (30, 40))
    assert starts(lm.decoder, task) == (10, 0, 12, 0)
    scores = vc.exact(lm, task, units="heads", show_progress=False)
    agree(scores.values, torch.cat([vc.exact(lm, task[i], units="heads", show_progress=False).values
                                    for i in (3, 1, 0, 2)])[[2, 1, 3, 0]], scores.gap)  # fmt: skip
    for i in range(len(task)):
        lm.hf(torch.tensor([[1, 2, 3]]))  # the reference, too, begins at rest
        agree(scores.values[i], reference(naive.exact, lm, task[i], scores.units)[0], scores.gap)


def test_a_long_prefix_of_its_own_long_kind_is_shared():
    """Longrope knows two sets of frequencies: a prefix beyond the original length has the long one like its prompt."""
    lm, task = long_model("longrope"), pairs((40, LENGTH), (FIRST, LENGTH))
    assert starts(lm.decoder, task) == (40, 0)


@pytest.mark.parametrize("kind", ["longrope", "dynamic", "gemma3 longrope"])
@pytest.mark.parametrize("before", [None, 100, 3])
def test_rotary_modules_are_left_as_found_and_tell_nothing_of_earlier_prompts(kind, before):
    lm, task = long_model(kind), pairs((FIRST, LENGTH))
    fresh = lm.measure(task).gap
    if before:
        with torch.no_grad():
            lm.hf(torch.arange(before)[None] % tiny_models.VOCAB)
    buffers, held = rotary_state(lm)
    assert torch.equal(lm.measure(task).gap, fresh)
    vc.attribute(lm, task, show_progress=False)
    after, held_after = rotary_state(lm)
    assert held.keys() == held_after.keys() and all(held[name] is held_after[name] for name in held)
    for name, (identity, value) in buffers.items():
        assert after[name][0] == identity and torch.equal(after[name][1], value)


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gemma2"])
def test_sliding_windows_are_shared_beyond_the_window(tiny, reference, agree, family):
    """Windows depend on distances, not on lengths: prompts five windows long share their prefix."""
    lm, task = tiny(family), pairs((9, 20), (13, 17), seed=2)
    assert starts(lm.decoder, task) == (9, 13)
    scores = vc.exact(lm, task, units="heads", show_progress=False)
    agree(scores.values, reference(naive.exact, lm, task, scores.units), scores.gap)


CALLS = {
    "measure": lambda lm, task: lm.measure(task),
    "exact": lambda lm, task: vc.exact(lm, task, show_progress=False),
    "edges": lambda lm, task: vc.exact(lm, task, units=EDGES, show_progress=False),
    "attribute": lambda lm, task: vc.attribute(lm, task, show_progress=False),
    "eap": lambda lm, task: vc.attribute(lm, task, units="edges", method="eap", show_progress=False),
    "circuits": lambda lm, task: run_circuits(lm, task, [all_edges_mask(lm.graph)], show_progress=False),
    "mask": lambda lm, task: vc.estimates.learn_mask(lm, task, steps=1, show_progress=False),
    "learned edges": lambda lm, task: vc.circuits.learn(lm, task, steps=1, show_progress=False),
    "responses": lambda lm, task: vc.causes.responses(lm, task, units=["a0.h0"], show_progress=False),
    "surface": lambda lm, task: vc.causes.surface(lm, task, units=("a0.h0", "a1.h1"), show_progress=False),
    "locate": lambda lm, task: vc.causes.locate(lm, task, units=["a0.h0"], show_progress=False),
    "ablations": lambda lm, task: vc.behaviour.ablation_study(
        lm, task, units=["a0.h0"], ablations=["counterfactual"], show_progress=False
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_what_no_rotary_module_shows_is_refused(call):
    """Values scaled by the length of the run, inside the attention: nothing that a block receives tells of it."""
    hf, task = tiny_models.make("llama", seed=1), pairs((4, 9))
    for layer in hf.model.layers:
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, output: output * (1 + output.shape[1] / 20))
    with pytest.raises(ContractError, match=r"run whole by the bare|unpatched run|not do what veracausa reads"):
        CALLS[call](as_model(hf, "llama"), task)


def test_the_guard_names_both_numbers_and_is_asked_once_a_call(monkeypatch):
    hf, task = tiny_models.make("llama", seed=1), pairs((4, 9), (5, 9), (3, 7))
    lm, asked = as_model(hf, "llama"), []
    own = validate_whole._require_alike
    monkeypatch.setattr(validate_whole, "_require_alike", lambda *args: (asked.append(args[4]), own(*args)))
    vc.exact(lm, task, show_progress=False)
    assert asked == ["clean", "corrupted"]  # of the longest pair, although measured and recorded in three batches
    handle = hf.model.layers[1].self_attn.v_proj.register_forward_hook(lambda _, __, out: out * (1 + out.shape[1] / 20))
    bare = float(bare_metric(lm, task, 0, task.clean))
    with pytest.raises(ContractError, match=f"clean prompt of pair 0 .*9 tokens.*logit_diff = {bare:.6g}") as error:
        lm.measure(task)
    # measured with the third pair, which differs one token earlier
    assert "first 3 tokens" in str(error.value) and "share_prefix=False" in str(error.value)
    handle.remove()


def test_the_guard_takes_the_users_attention_function(monkeypatch):
    """Edges are recorded under ours; what they are compared with is not."""
    lm = as_model(tiny_models.make("llama", seed=1, attn_implementation="eager"), "llama")
    task, seen, hf_forward = pairs((4, 9)), [], lm.hf.forward

    def forward(*args, **kwargs):
        if kwargs.get("use_cache") is False:
            seen.append(lm.hf.config._attn_implementation)
        return hf_forward(*args, **kwargs)

    monkeypatch.setattr(lm.hf, "forward", forward)
    vc.exact(lm, task, units=EDGES, show_progress=False)
    vc.causes.locate(lm, task, units=["a0.h0"], show_progress=False)
    assert seen and set(seen) == {"eager"}

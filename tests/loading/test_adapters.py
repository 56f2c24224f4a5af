"""Unmerged adapters are part of the model at every site: the same numbers as of a copy that has them merged.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT). Merging rounds W + BA once, 1e-16 of it; reading the map off the
modules as often; plain weights in place of it change the first digit.
"""

import copy

import pytest
import tiny_models
import torch
from bridges import as_model
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.loading.resolve import resolve

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")

LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LINEAR = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


def adapted(family, **over):
    """A tiny model with a LoRA beside every linear map of its blocks, and with dropout that a call must switch off."""
    hf = tiny_models.make(family, seed=1)
    targets = list(LINEAR.get(family.split("-")[0], LLAMA))
    settings = {"r": 2, "target_modules": targets, "init_lora_weights": False, "lora_dropout": 0.3} | over
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf.add_adapter(peft.LoraConfig(**settings))
    return hf


def merged(hf):
    """A copy with the adapters in its weights and out of its layers."""
    hf = copy.deepcopy(hf)
    for name, module in list(hf.named_modules()):
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.merge()
            owner, _, own = name.rpartition(".")
            setattr(hf.get_submodule(owner), own, module.get_base_layer())
    return hf


def edges_of(lm):
    return ["input->a0.h1<q>", "a0.h0->a1.kv1<k>", "m0->a2.kv0<v>", "a1.h3->m2", "a0.h2->logits"]


NODES = {
    "exact heads": lambda lm, task: vc.exact(lm, task, show_progress=False),
    "exact neurons": lambda lm, task: vc.exact(lm, task, units=["m0.n3", "m2.n0"], show_progress=False),
    "exact values": lambda lm, task: vc.exact(lm, task, units="values", show_progress=False),
    "exact zero": lambda lm, task: vc.exact(lm, task, units=["a1.h0"], ablation="zero", show_progress=False),
    "atp": lambda lm, task: vc.attribute(lm, task, units="neurons", show_progress=False),
}
EDGES = {
    "exact": lambda lm, task: vc.exact(lm, task, units=edges_of(lm), show_progress=False),
    **{
        method: lambda lm, task, method=method: vc.attribute(lm, task, units="edges", method=method, **{
            "nodes": 2} if method in ("eap-ig", "eap-ig-activations", "ceap") else {}, show_progress=False)
        for method in ("eap", "eap-ig", "eap-ig-activations", "ceap", "relp", "gim", "ifr")
    },
    "qk-exact": lambda lm, task: vc.attribute(
        lm, task, units="edges", method=vc.Method(path="point", rule="qk-exact", combine="mean"), show_progress=False
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_lora_on_every_map_counts_at_every_site(task_of, agree, family):
    hf, task = adapted(family), task_of(6)
    lm, other = as_model(hf, family), as_model(merged(hf), family)
    calls = [NODES["exact heads"], NODES["exact neurons"], NODES["atp"], EDGES["exact"], EDGES["eap"]]
    for call in calls:
        ours, theirs = call(lm, task), call(other, task)
        agree(ours.values, theirs.values, theirs.gap)
    for ablation in ("counterfactual", "zero"):
        circuit = vc.select(theirs, n=60, how="abs")
        run = []
        for one in (lm, other):
            own = vc.Circuit.from_names(one, circuit.names)
            run.append(vc.faithfulness(one, task, own, ablation=ablation, show_progress=False))
        agree(run[0].metric, run[1].metric, theirs.gap)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(["llama", "gpt2", "gemma2", "gpt_neox"], fast=("gemma2",)))
@pytest.mark.slow
def test_other_methods_too(task_of, agree, family):
    hf, task = adapted(family), task_of(6)
    lm, other = as_model(hf, family), as_model(merged(hf), family)
    for name, call in (NODES | EDGES).items():
        ours, theirs = call(lm, task), call(other, task)
        assert (ours.values != 0).any(), name
        agree(ours.values, theirs.values, theirs.gap)


@pytest.mark.cases(2)
@pytest.mark.parametrize("part", ["v_proj", "lm_head", "embed_tokens"])
def test_an_adapter_on_one_part_alone(task_of, agree, part):
    hf, task = adapted("llama", target_modules=[part]), task_of(6)
    lm, other = as_model(hf, "llama"), as_model(merged(hf), "llama")
    for call in (NODES["exact heads"], EDGES["exact"], EDGES["eap"]):
        ours, theirs = call(lm, task), call(other, task)
        agree(ours.values, theirs.values, theirs.gap)


def test_an_adapter_that_is_switched_off_between_calls_no_longer_counts(task_of, agree):
    """What is read off a module is kept for one call only."""
    hf, task = adapted("llama"), task_of(6)
    lm, bare = as_model(hf, "llama"), as_model(tiny_models.make("llama", seed=1), "llama")
    with_it = EDGES["eap"](lm, task)
    hf.disable_adapters()
    without = EDGES["eap"](lm, task)
    agree(without.values, EDGES["eap"](bare, task).values, without.gap)
    hf.enable_adapters()
    assert torch.equal(EDGES["eap"](lm, task).values, with_it.values)


@pytest.mark.slow
def test_the_contracts_hold():
    hf = adapted("gpt2", lora_alpha=1)  # a small update: contract 5 needs a path that its nodes integrate
    assert all(one.ok and one.tolerance <= 1e-9 for one in as_model(hf, "gpt2").check())


@pytest.mark.parametrize(
    "kind",
    ["LoraConfig", "IA3Config", *(pytest.param(f"{one}Config", marks=pytest.mark.slow)
                                  for one in ("LoHa", "LoKr", "Vera", "AdaLora"))],
)  # fmt: skip
def test_a_peft_model_is_taken_as_it_runs(task_of, agree, kind):
    """The model inside has the adapters in its layers and gives the wrapper's logits, and ours are those."""
    parts = {
        "LoraConfig": {"target_modules": list(LLAMA), "r": 2, "init_lora_weights": False},
        "IA3Config": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"],
                      "init_ia3_weights": False},
        "LoHaConfig": {"target_modules": list(LLAMA), "r": 2, "init_weights": False},
        "LoKrConfig": {"target_modules": list(LLAMA), "r": 2, "init_weights": False},
        "VeraConfig": {"target_modules": ["q_proj"], "r": 2, "init_weights": False},
        "AdaLoraConfig": {"target_modules": list(LLAMA), "init_r": 2, "target_r": 2, "total_step": 9,
                          "init_lora_weights": False},
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tuned = peft.get_peft_model(tiny_models.make("llama", seed=1), getattr(peft, kind)(**parts[kind]))
    tuned = tuned.double().eval()
    task = task_of(6)
    loaded = resolve(tuned, word_tokenizer(["word"]))
    assert loaded.hf is tuned.get_base_model() and "PeftModel, adapters included" in loaded.source
    ids = torch.tensor([task.clean[0]])
    assert torch.equal(loaded.hf(ids).logits, tuned(ids).logits)
    lm, other = as_model(loaded.hf, "llama"), as_model(merged(loaded.hf), "llama")
    for call in (NODES["exact heads"], NODES["atp"], EDGES["eap"]):
        ours, theirs = call(lm, task), call(other, task)
        agree(ours.values, theirs.values, theirs.gap)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["use_rslora", "use_dora"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_other_ways_to_scale_a_lora(task_of, agree, family, kind):
    """DoRA divides by the norm of the adapted weight: a number, so what runs is a linear map."""
    hf, task = adapted(family, **{kind: True}), task_of(6, 3)
    lm, other = as_model(hf, family), as_model(merged(hf), family)
    for call in (NODES["exact heads"], NODES["exact neurons"], NODES["atp"], EDGES["exact"], EDGES["eap"]):
        ours, theirs = call(lm, task), call(other, task)
        agree(ours.values, theirs.values, theirs.gap)

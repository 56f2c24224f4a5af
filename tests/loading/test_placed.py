"""Models that Accelerate has placed give the numbers of the same model in one place, and come back as they were."""

import copy
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from command_line import model_folder, pairs_file
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.errors import DeviceError
from veracausa.loading import asked

pytest.importorskip("accelerate")

from placements import CALLS, by_hooks, offloaded, pretended
from two_devices import two_devices

HOW = ["cpu_offload", "disk_offload", "dispatched"]


def load(hf):
    return vc.load(hf, word_tokenizer(["word"]))


@pytest.mark.parametrize("how", ["cpu_offload", *(pytest.param(one, marks=pytest.mark.slow) for one in HOW[1:])])
def test_offloaded_weights_give_the_same_numbers(task_of, tmp_path, how):
    """To the last bit: weights are fetched, nothing is computed otherwise."""
    hf, task = tiny_models.make("llama", seed=1, dtype=torch.float32), task_of(6)
    whole, lm = load(hf), load(offloaded(hf, how, torch.device("cpu"), tmp_path))
    assert any(weight.is_meta for weight in lm.hf.parameters()) and lm.device == torch.device("cpu")
    frozen = next(iter(lm.hf.model.layers[0].parameters()))
    frozen.requires_grad_(False)
    trained = [weight.requires_grad for weight in lm.hf.parameters()]
    for name, call in CALLS.items():
        assert torch.equal(call(lm, task), call(whole, task)), name
    assert lm.identity == whole.identity, "where weights lie makes no other model"
    assert [weight.requires_grad for weight in lm.hf.parameters()] == trained


def test_a_model_that_is_loaded_onto_all_devices(tmp_path, monkeypatch):
    """Here that is the one there is."""
    folder = str(model_folder(tmp_path / "model"))
    spread, whole = (vc.load(folder, device=device) for device in ("auto", "cpu"))
    task = vc.task(whole, pairs_file(tmp_path / "pairs.csv"))
    assert spread.identity == whole.identity and spread.source == whole.source
    effects = [vc.exact(lm, task, show_progress=False).values for lm in (spread, whole)]
    torch.testing.assert_close(*effects, rtol=1e-4, atol=1e-5)  # on a GPU: float32 on two devices
    assert vc.load(spread.hf, spread.tokenizer, device="auto").identity == whole.identity
    monkeypatch.setattr(asked, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="needs the package accelerate"):
        vc.load(folder, device="auto")


def test_a_model_that_does_not_fit_onto_the_gpus_is_not_fetched_part_by_part():
    for fitting in ({}, {"": "cpu"}, {"a": 0, "b": 1}):
        asked.require_on_devices("it", SimpleNamespace(hf_device_map=fitting))
    for lying in ({"a": 0, "b": "cpu"}, {"a": "cpu", "b": "disk"}, {"a": 0, "b": "disk"}):
        with pytest.raises(DeviceError, match="it does not fit onto the GPUs"):
            asked.require_on_devices("it", SimpleNamespace(hf_device_map=lying))


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_the_contracts_hold_of_offloaded_models(tmp_path, family, how):
    hf = tiny_models.make(family, seed=1, dtype=torch.float32)
    assert all(one.ok for one in load(offloaded(hf, how, torch.device("cpu"), tmp_path)).check())


@pytest.fixture
def named(monkeypatch):
    """Two names for the CPU, whose tensors may not meet; Accelerate asks for them by name."""
    mode = two_devices()

    def device_of(data):
        names = [mode.of(one) for one in torch.utils._pytree.tree_leaves(data) if isinstance(one, torch.Tensor)]
        return torch.device(next(filter(None, names), "cpu:0"))

    monkeypatch.setattr("accelerate.hooks.find_device", device_of)
    return mode


def test_a_model_on_two_devices(task_of, agree, named):
    """Whatever a block's weights make comes back to where the stream is; nothing of two devices meets."""
    hf, task = tiny_models.make("llama", seed=1), task_of(6)
    spread, whole = load(pretended(hf, named)), load(hf)
    hooks = [m._hf_hook for m in spread.hf.modules() if "_hf_hook" in vars(m)]
    before = [vars(hook).copy() for hook in hooks]
    for name, call in CALLS.items():
        want, moved = call(whole, task), named.moved
        with named:
            found = call(spread, task)
        agree(found, want, whole.measure(task).gap)
        assert named.moved > moved, name
    assert [vars(hook) | {"input_device": None} for hook in hooks] == before


@pytest.mark.slow
def test_the_contracts_hold_on_two_devices(named):
    lm = load(pretended(tiny_models.make("llama", seed=1), named))
    with named:
        assert all(one.ok for one in lm.check())


def test_effects_by_plain_hooks_are_ours(task_of, agree):
    """The second way that the tests on a GPU use."""
    hf, task = tiny_models.make("llama", seed=1), task_of(6)
    lm = load(hf)
    agree(CALLS["heads"](lm, task), by_hooks(copy.deepcopy(hf), task, lm.decoder.head_dim), lm.measure(task).gap)


def test_weights_that_nothing_fetches(task_of):
    hf = tiny_models.make("llama", seed=1)
    hf.model.layers[1].mlp.down_proj.to("meta")
    with pytest.raises(DeviceError, match=r"model.layers.1.mlp.down_proj.weight is on no device"):
        load(hf)


def test_a_module_that_is_spread_itself(named):
    """An own weight beside parts with weights, elsewhere: what they make comes home, the weight would not."""
    hf = tiny_models.make("llama", seed=1)
    hf.model.layers[0].self_attn.sinks = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    with pytest.raises(DeviceError, match=r"model.layers.0.self_attn computes on cpu:1 with sinks, .* on cpu:0"):
        load(pretended(hf, named))

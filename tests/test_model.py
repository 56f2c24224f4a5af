"""`Model` and `vc.load` for models that are loaded already: what is taken, what is refused, what is said."""

import sys
import types

import pytest
import tiny_models
import torch
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.errors import ArchitectureError, DeviceError, FileError, MethodError

WORDS = word_tokenizer(["the", "key", "keys", "near", "cabinet", "is", "are"])


def test_a_loaded_model_is_taken_as_it_is():
    hf = tiny_models.make("llama", dtype=torch.float32)
    hf.train()
    lm = vc.load(hf, WORDS)
    assert lm.hf is hf and lm.tokenizer is WORDS and hf.training
    assert (lm.layers, lm.heads, lm.kv_heads, lm.neurons, lm.width) == (3, 4, 2, 40, 24)
    assert lm.dtype == torch.float32 and lm.score_dtype == torch.float32 and lm.device.type == "cpu"
    assert "LlamaForCausalLM" in lm.source and "float32" in lm.source
    assert "3 layers, 4 heads (2 K/V) of width 8, width 24, 40 neurons a layer, float32, cpu" in repr(lm)


@pytest.mark.parametrize(("dtype", "scores"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_scores_are_at_least_float32(task_of, dtype, scores):
    lm = vc.load(tiny_models.make("llama", dtype=dtype), WORDS)
    assert lm.score_dtype == scores
    assert lm.measure(task_of(6)).clean.dtype == scores
    assert vc.attribute(lm, task_of(6), show_progress=False).values.dtype == scores


def test_identity_is_of_the_weights():
    one, same = (vc.load(tiny_models.make("llama", seed=1), WORDS).identity for _ in range(2))
    other = vc.load(tiny_models.make("llama", seed=2), WORDS).identity
    assert one == same != other
    changed = tiny_models.make("llama", seed=1)
    changed.model.layers[2].mlp.down_proj.weight.data[0, 0] += 1e-12
    assert vc.load(changed, WORDS).identity != one


def test_a_tokenizer_is_needed():
    with pytest.raises(FileError, match="tokenizer"):
        vc.load(tiny_models.make("llama"))


@pytest.mark.parametrize(
    "options", [{"dtype": torch.bfloat16}, {"device": "meta"}, {"attn_implementation": "eager"}], ids=str
)
def test_a_loaded_model_is_never_converted(options):
    with pytest.raises((MethodError, DeviceError)):
        vc.load(tiny_models.make("llama", dtype=torch.float32), WORDS, **options)


def test_a_model_on_no_device_is_refused():
    hf = tiny_models.make("llama", dtype=torch.float32).to("meta")
    with pytest.raises(DeviceError, match="meta"):
        vc.load(hf, WORDS)


def test_an_nnsight_model_is_opened(monkeypatch):
    """By the shape of the class alone: nnsight is no dependency."""
    module = types.ModuleType("nnsight.modeling.language")
    monkeypatch.setitem(sys.modules, "nnsight", types.ModuleType("nnsight"))

    class LanguageModel:
        pass

    LanguageModel.__module__ = module.__name__
    wrapped = LanguageModel()
    wrapped._model, wrapped.tokenizer = tiny_models.make("gpt2"), WORDS
    lm = vc.load(wrapped)
    assert lm.hf is wrapped._model and lm.tokenizer is WORDS and "nnsight" in lm.source


def test_a_transformer_lens_bridge_is_refused():
    class TransformerBridge:
        pass

    TransformerBridge.__module__ = "transformer_lens.model_bridge.bridge"
    with pytest.raises(ArchitectureError, match=r"TransformerLens TransformerBridge has changed the model it wraps"):
        vc.load(TransformerBridge())


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), 3, None, object()], ids=lambda x: type(x).__name__)
def test_other_things_are_refused(thing):
    with pytest.raises(ArchitectureError, match=r"is not a Hugging Face model"):
        vc.load(thing, WORDS)


def test_a_backbone_is_refused():
    with pytest.raises(ArchitectureError, match="head"):
        vc.load(tiny_models.make("llama").model, WORDS)


def test_tokens_and_text_meet(task_of):
    """A task from text on a loaded model, end to end."""
    hf = tiny_models.make("llama", dtype=torch.float32, vocab_size=len(WORDS))
    lm = vc.load(hf, WORDS)
    task = vc.task(lm, clean="the keys near the cabinet", corrupted="the key near the cabinet", correct=" are",
                   incorrect=" is")  # fmt: skip
    exact, atp = vc.exact(lm, task, show_progress=False), vc.attribute(lm, task, show_progress=False)
    found = vc.agreement(atp, exact)
    assert len(found.names) == 12 and -1 <= found.r <= 1
    assert all(one.ok for one in lm.check())


@pytest.mark.parametrize("token", [60, 10_000, -1])
def test_tokens_that_the_model_does_not_have(tiny, token):
    """A task built with another tokenizer."""
    task = vc.Task("foreign", ((1, 2, token),), ((1, 3, token),), ((4,),), ((5,),))
    with pytest.raises(vc.VeracausaError, match="token"):
        vc.exact(tiny("llama"), task, show_progress=False)


def test_prompts_longer_than_the_model_reads(tiny, task_of):
    with pytest.raises(vc.VeracausaError, match="64"):
        tiny("gpt2").measure(task_of(70))

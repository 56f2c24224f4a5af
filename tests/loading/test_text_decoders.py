"""The text decoder of a model with eyes or ears has that model's numbers on text, and its weights."""

import pytest
import torch
from bridges import as_model
from transformers import AutoConfig, AutoModelForMultimodalLM, LlamaConfig, Qwen2Config
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.errors import ArchitectureError
from veracausa.loading.text_decoders import text_decoder

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
SEEN = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip


def wrapper(kind: str, text: dict | None = None):
    """A tiny multimodal model of a type, random."""
    settings = {
        "llava": {"text_config": LlamaConfig(**TEXT), "vision_config": {"model_type": "clip_vision_model"} | SEEN},
        "internvl": {
            "text_config": Qwen2Config(**TEXT),
            "vision_config": SEEN | {"image_size": [8, 8], "patch_size": [4, 4]},
        },
        "qwen2_audio": {
            "text_config": TEXT | {"model_type": "qwen2"},
            "audio_config": {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24},
        },
        "gemma3": {"text_config": TEXT | {"head_dim": 8}, "vision_config": SEEN, "mm_tokens_per_image": 4},
    }[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **settings)
        return AutoModelForMultimodalLM.from_config(config).double().eval()


@pytest.mark.parametrize("kind", ["llava", "internvl", "qwen2_audio", "gemma3"])
def test_exact_effects_are_those_of_plain_hooks_on_the_whole_model(kind, task_of):
    hf, task = wrapper(kind), task_of((5, 7), n=3)
    lm = vc.load(hf, word_tokenizer(["word"]))
    assert f"the text decoder of a{'n' * (kind == 'internvl')} {type(hf).__name__}" in lm.source
    assert {id(weight) for weight in lm.hf.parameters()} <= {id(weight) for weight in hf.parameters()}
    found = vc.exact(lm, task, units=["m0", "m1"], show_progress=False)

    def run(ids, patch=None):
        kept, handles = {}, []
        for layer, block in enumerate(lm.decoder.blocks):

            def look(module, args, output, layer=layer):
                kept[layer] = output
                return patch[layer] if patch and layer in patch else None

            handles.append(block.mlp.register_forward_hook(look))
        with torch.no_grad():
            logits = hf(input_ids=torch.tensor([ids])).logits[0, -1]
        for handle in handles:
            handle.remove()
        return logits, kept

    for i in range(len(task)):
        metric = lambda logits, i=i: float(logits[task.correct[i][0]] - logits[task.incorrect[i][0]])  # noqa: E731
        bare, _ = run(task.clean[i])
        _, other = run(task.corrupted[i])
        for layer in range(2):
            patched, _ = run(task.clean[i], {layer: other[layer]})
            # double() leaves norms in float32, so that both ways agree to its precision
            assert float(found.values[i, layer]) == pytest.approx(metric(patched) - metric(bare), abs=1e-4)


def test_it_is_saved_and_loaded_from_a_folder(tmp_path, task_of):
    hf, task = wrapper("llava").float(), task_of(6, n=2)
    hf.save_pretrained(tmp_path)
    word_tokenizer(["word"]).save_pretrained(tmp_path)
    lm = vc.load(tmp_path, device="cpu")
    assert type(lm.hf).__name__ == "LlamaForCausalLM"
    same = vc.load(hf, word_tokenizer(["word"]))
    torch.testing.assert_close(lm.measure(task).clean, same.measure(task).clean)
    assert all(outcome.ok for outcome in lm.check(strict=False))


def test_the_whole_model_is_left_as_it_was():
    hf = wrapper("llava")
    before, training = dict(hf.named_modules()), hf.training
    decoder, _ = text_decoder(hf)
    assert decoder is not hf and dict(hf.named_modules()) == before and hf.training == training


def test_a_model_that_does_something_else_with_text_is_refused(monkeypatch):
    hf = wrapper("llava")
    own = type(hf).forward

    def louder(self, *args, **kwargs):
        output = own(self, *args, **kwargs)
        output.logits = 2 * output.logits
        return output

    monkeypatch.setattr(type(hf), "forward", louder)
    with pytest.raises(ArchitectureError, match="gives other logits for a text than the whole model"):
        text_decoder(hf)


def test_a_plain_decoder_is_itself(tiny):
    lm = tiny("llama")
    assert text_decoder(lm.hf) == (lm.hf, "")
    assert as_model(lm.hf, "llama").hf is lm.hf


def test_a_family_that_is_none_is_refused_before_anything_is_loaded():
    with pytest.raises(ArchitectureError, match="anatomy='lama' is not a known family"):
        vc.load("no/such-model", anatomy="lama")

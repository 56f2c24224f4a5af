"""Binding a family's anatomy: what is said of models that are none of ours. Each family's own: `test_families`."""

import pytest
import tiny_models
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

import veracausa as vc
from veracausa.anatomy import FAMILIES, decoder_of
from veracausa.errors import ArchitectureError


def test_an_unknown_architecture_says_what_it_lacks():
    config = AutoConfig.for_model("opt", hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
                                  vocab_size=30, word_embed_proj_dim=16)  # fmt: skip
    with pytest.raises(ArchitectureError) as caught:
        decoder_of(AutoModelForCausalLM.from_config(config))
    for words in ("'opt'", "OPTForCausalLM", "lacks", "embed_tokens", "gpt2", "llama", "gemma3_text"):
        assert words in str(caught.value)


def test_an_unknown_name_of_a_known_layout_can_be_read_as_it():
    config = AutoConfig.for_model("olmo", hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                  num_attention_heads=2, vocab_size=30, pad_token_id=None, eos_token_id=0)  # fmt: skip
    hf = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ArchitectureError, match=r"anatomy='llama'.*lm\.check\(\)|anatomy='llama'"):
        decoder_of(hf)
    assert decoder_of(hf, "llama").layers == 2
    with pytest.raises(ArchitectureError, match=r"anatomy='lama' is not a known family"):
        decoder_of(hf, "lama")


def test_a_backbone_alone_is_refused():
    backbone = tiny_models.make("llama").model
    with pytest.raises(ArchitectureError, match=r"lacks.*backbone.*ForCausalLM"):
        decoder_of(backbone)


@pytest.mark.parametrize(
    ("family", "part"),
    [("llama", "model.layers.0.self_attn.o_proj"), ("gpt2", "transformer.h.0.ln_2"), ("gemma3", "model.norm")],
)
def test_a_missing_part_is_named(family, part):
    hf = tiny_models.make(family)
    owner, _, name = part.rpartition(".")
    delattr(hf.get_submodule(owner), name)
    with pytest.raises(ArchitectureError, match=name):
        decoder_of(hf)


@pytest.mark.parametrize("flag", ["add_cross_attention", "use_bidirectional_attention"])
def test_decoders_that_look_elsewhere_are_refused(flag):
    hf = tiny_models.make("gpt2" if flag.startswith("add") else "gemma3")
    setattr(hf.config, flag, True)
    with pytest.raises(ArchitectureError, match=flag):
        decoder_of(hf)


def test_a_multimodal_wrapper_says_what_to_pass_instead():
    hf = nn.Module()
    hf.config = AutoConfig.for_model("gemma3")
    with pytest.raises(ArchitectureError, match="Gemma3ForCausalLM"):
        decoder_of(hf)


def test_an_encoder_decoder_is_refused():
    config = T5Config(d_model=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=20, d_kv=4)
    with pytest.raises(ArchitectureError, match="encoder-decoder"):
        vc.load(T5ForConditionalGeneration(config))


def test_every_family_names_all_parts():
    for name, anatomy in FAMILIES.items():
        parts = anatomy.block_parts()
        assert len(parts) >= 9 and all(parts.values()), name

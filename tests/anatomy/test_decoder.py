"""Binding a family's anatomy: what is said of models that are none of ours. Each family's own: `test_families`."""

import pytest
import tiny_models
import torch
from bridges import as_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

import veracausa as vc
from veracausa.anatomy import FAMILIES, decoder_of
from veracausa.errors import ArchitectureError


@pytest.mark.parametrize(
    ("kind", "sizes", "words"),
    [
        ("rwkv", {}, ["recurrence", "`rwkv`"]),
        ("bart", {"d_model": 16, "decoder_layers": 2}, ["cross-attention", "`encoder_attn`"]),
        (
            "roberta",
            {"num_attention_heads": 4, "is_decoder": True},
            ["behind each sum", "`attention.output.LayerNorm`"],
        ),
        ("diffllama", {"num_attention_heads": 4, "num_key_value_heads": 4}, ["two patterns", "`self_attn.groupnorm`"]),
        ("ctrl", {"n_embd": 16, "n_head": 4, "n_layer": 2}, ["lacks", "`model`"]),
    ],
)
def test_an_unknown_architecture_says_what_does_not_fit(kind, sizes, words):
    config = AutoConfig.for_model(kind, **{"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 30} | sizes)
    with pytest.raises(ArchitectureError) as caught:
        decoder_of(AutoModelForCausalLM.from_config(config))
    for word in (f"'{kind}'", type(AutoModelForCausalLM.from_config(config)).__name__, "veracausa models", *words):
        assert word in str(caught.value)


def test_an_unknown_name_of_a_known_layout_can_be_read_as_it():
    hf = tiny_models.make("llama")
    hf.config.model_type = "of-our-own"
    with pytest.raises(ArchitectureError, match=r"anatomy='llama'.*lm\.check\(\)|anatomy='llama'"):
        decoder_of(hf)
    assert decoder_of(hf, "llama").layers == 3
    with pytest.raises(ArchitectureError, match=r"anatomy='lama' is not a known family"):
        decoder_of(hf, "lama")


def test_a_layout_of_its_own_is_read_as_the_user_says(task_of):
    """A Llama whose parts were given other names, with what differs from Llama said: the same numbers."""
    ours, hf = as_model(tiny_models.make("llama", seed=1), "llama"), tiny_models.make("llama", seed=1)
    hf.config.model_type = "of-our-own"
    for block in hf.model.layers:
        block.attn, block.pre, block.mlp.out = block.self_attn, block.input_layernorm, block.mlp.down_proj
    names = {"attention": "attn", "attention_norm": ("before", "pre"), "mlp_out": "mlp.out", "qk_norms": []}
    lm = vc.Model(hf, None, "ours", "random weights", decoder_of(hf, {"like": "llama", **names}))
    assert "own, like llama" in repr(lm)
    for units in ("heads", "neurons", "edges"):
        one, other = (vc.exact(one, task_of(6), units=units, show_progress=False).values for one in (lm, ours))
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"like": "lama"}, "Did you mean 'llama'"),
        ({"atention": "attn"}, "Did you mean 'attention'"),
        ({"attention": 3}, "must be str"),
        ({"parallel": "no_such"}, "no_such"),
        ({"attention_out": "self_attn.nothing"}, r"lacks attention_out \(`self_attn.nothing`\)"),
    ],
)
def test_an_anatomy_that_cannot_be_is_refused(asked, words):
    with pytest.raises(ArchitectureError, match=words):
        decoder_of(tiny_models.make("llama"), asked)


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
    """One whose text decoder is of no known family; others: `loading/test_text_decoders`."""
    hf = nn.Module()
    hf.config, hf.vision_tower = AutoConfig.for_model("qwen2_vl"), nn.Linear(2, 2)
    with pytest.raises(ArchitectureError, match=r"wrapper for images or sound .*vision_tower.* Pass that alone"):
        decoder_of(hf)


def test_an_encoder_decoder_is_refused():
    config = T5Config(d_model=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=20, d_kv=4)
    with pytest.raises(ArchitectureError, match="encoder-decoder"):
        vc.load(T5ForConditionalGeneration(config))


def test_every_family_names_all_parts():
    for name, anatomy in FAMILIES.items():
        if anatomy.lone:  # each of its blocks has some
            continue
        parts = anatomy.block_parts(torch.nn.Module())
        assert {"attention", "attention_out", "mlp_out"} <= set(parts) and all(parts.values()), name
        assert ("activation" in parts) == (anatomy.activation is not None), name
        assert (("mlp" in parts) != ("mlp_in" in parts) and name == anatomy.family) or name == "gemma3_text", name


def test_a_setting_that_changes_the_picture_is_refused():
    """OPT-350m's norms stand behind each sum, and its embeddings are narrower than its stream."""
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30}
    behind = AutoConfig.for_model("opt", **sizes, word_embed_proj_dim=16, do_layer_norm_before=False)
    with pytest.raises(ArchitectureError, match="do_layer_norm_before=False: its norms stand behind"):
        decoder_of(AutoModelForCausalLM.from_config(behind))
    narrow = AutoConfig.for_model("opt", **sizes, word_embed_proj_dim=8)
    with pytest.raises(ArchitectureError, match="embeddings of 8 numbers and a residual stream of 16"):
        decoder_of(AutoModelForCausalLM.from_config(narrow))


def test_what_a_family_lacks_is_refused_by_name(task_of):
    """A gate behind the heads; experts: each names the part, before anything runs."""
    for family, units, words in (
        ("qwen3_next", "edges", "a gate that reads the stream stands between"),
        ("qwen3_next", ["input->a1.h0<q>"], "a gate that reads the stream stands between"),
        ("mixtral", "neurons", "made of experts"),
    ):
        lm = as_model(tiny_models.make(family), family)
        with pytest.raises(ArchitectureError, match=words):
            vc.exact(lm, task_of(6), units=units, show_progress=False)


def test_mixtures_of_experts_are_refused_before_anything_runs(task_of):
    """Where a call would need the inside of an expert: no forward of the model has begun."""
    lm = as_model(tiny_models.make("mixtral", seed=1), "mixtral")
    ran: list[int] = []
    lm.hf.model.embed_tokens.register_forward_pre_hook(lambda *_: ran.append(1))
    for call in (
        lambda: vc.attribute(lm, task_of(6), units="heads", method="relp", show_progress=False),
        lambda: vc.causes.locate(lm, task_of(6)[0], units=["a0.h0"], show_progress=False),
        lambda: vc.reading.dla(lm, task_of(6), neurons=[0], show_progress=False),
        lambda: vc.compare(lm, task_of(6), units=["neurons"], show_progress=False),
        lambda: vc.forecast(vc.attribute, lm, task_of(6), units="heads", method="gim", measure=False),
    ):
        with pytest.raises(ArchitectureError, match="made of experts"):
            call()
    assert not ran
    found = vc.compare(lm, task_of(6), units=["heads"], methods=["atp", "relp"], show_progress=False)
    assert any("relp" in note and "experts" in note for note in found.notes)


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "setting"), [("cohere", "use_qk_norm"), ("stablelm", "qk_layernorm")])
def test_norms_with_a_gain_per_head(task_of, family, setting):
    """Contracts hold; rules that hold norms constant are refused in words."""
    lm = as_model(tiny_models.make(family, seed=1, **{setting: True}), family)
    assert all(one.ok for one in lm.check())
    with pytest.raises(ArchitectureError, match="a gain for each head"):
        vc.attribute(lm, task_of(6), units="heads", method="gim", show_progress=False)

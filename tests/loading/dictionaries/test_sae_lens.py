"""SAELens' files against the formulas of its classes, with settings of version 6 and before."""

import pytest
import torch
from dictionary_files import SIZE, WIDTH, close

import veracausa as vc
from veracausa.errors import FileError, MethodError

WEIGHTS = "sae_weights.safetensors"
V6 = {"d_in": WIDTH, "d_sae": SIZE, "dtype": "float32", "apply_b_dec_to_input": True, "normalize_activations": "none",
      "metadata": {"hook_name": "blocks.1.hook_resid_pre", "model_name": "llama",
                   "sae_lens_version": "6.5.0"}}  # fmt: skip
V3 = {"architecture": "standard", "d_in": WIDTH, "d_sae": SIZE, "activation_fn_str": "relu",
      "hook_point": "blocks.0.hook_resid_post",
      "hook_point_layer": 0, "hook_point_head_index": None, "normalize_activations": "none", "model_name": "llama",
      "finetuning_scaling_factor": False}  # fmt: skip


@pytest.fixture
def tensors(draw):
    return {"W_enc": draw(WIDTH, SIZE), "b_enc": draw(SIZE), "W_dec": draw(SIZE, WIDTH), "b_dec": draw(WIDTH)}


def double(tensors):
    return {key: value.double() for key, value in tensors.items()}


@pytest.mark.parametrize("subtracts", [True, False])
def test_standard(llama, folder, tensors, x, subtracts):
    told = V6 | {"architecture": "standard", "apply_b_dec_to_input": subtracts}
    dic = vc.dictionary(llama, folder({"cfg.json": told}, {WEIGHTS: tensors}))
    t = double(tensors)
    f = torch.relu((x - t["b_dec"] * subtracts) @ t["W_enc"] + t["b_enc"])
    close(dic.encode(x), f)
    close(dic.reconstruct(x), f @ t["W_dec"] + t["b_dec"])
    assert (dic.reads.name, dic.writes.name, dic.size) == ("r1", "r1", SIZE)


def test_before_version_six(llama, folder, tensors, x):
    """Old names; the decoder's bias comes off where nothing is said; the stream behind block 0 enters block 1."""
    dic = vc.dictionary(llama, folder({"cfg.json": V3}, {WEIGHTS: tensors | {"scaling_factor": torch.ones(SIZE)}}))
    t = double(tensors)
    close(dic.encode(x), torch.relu((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]))
    assert dic.reads.name == "r1"


def test_gated(llama, folder, tensors, draw, x):
    tensors |= {"b_gate": tensors.pop("b_enc"), "b_mag": draw(SIZE), "r_mag": draw(SIZE) / 3}
    dic = vc.dictionary(llama, folder({"cfg.json": V6 | {"architecture": "gated"}}, {WEIGHTS: tensors}))
    t = double(tensors)
    u = x - t["b_dec"]
    gate = u @ t["W_enc"] + t["b_gate"] > 0
    close(dic.encode(x), gate * torch.relu(u @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]))


def test_jumprelu(llama, folder, tensors, draw, x):
    tensors |= {"threshold": draw(SIZE).abs()}
    dic = vc.dictionary(llama, folder({"cfg.json": V6 | {"architecture": "jumprelu"}}, {WEIGHTS: tensors}))
    t = double(tensors)
    pre = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    close(dic.encode(x), torch.relu(pre) * (pre > t["threshold"]))


@pytest.mark.parametrize("old", [False, True])
def test_topk(llama, folder, tensors, x, old):
    told = (
        V3 | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}
        if old
        else V6 | {"architecture": "topk", "k": 5}
    )
    dic = vc.dictionary(llama, folder({"cfg.json": told}, {WEIGHTS: tensors}))
    t = double(tensors)
    pre = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    rank = (pre[:, None] > pre[..., None]).sum(-1)  # how many are larger
    close(dic.encode(x), torch.relu(pre) * (rank < 5))


def test_topk_rescaled_by_decoder_norms(llama, folder, tensors, x):
    told = V6 | {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True}
    dic = vc.dictionary(llama, folder({"cfg.json": told}, {WEIGHTS: tensors}))
    t = double(tensors)
    norms = t["W_dec"].norm(dim=-1)
    pre = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norms
    f = torch.relu(pre) * ((pre[:, None] > pre[..., None]).sum(-1) < 5)
    close(dic.encode(x), f)
    close(dic.reconstruct(x), (f / norms) @ t["W_dec"] + t["b_dec"])


def test_inputs_times_one_factor(llama, folder, tensors, draw, x):
    tensors |= {"threshold": draw(SIZE).abs()}
    told = V6 | {"architecture": "jumprelu", "normalize_activations": "expected_average_only_in"}
    home = folder({"cfg.json": told}, {WEIGHTS: tensors})
    with pytest.raises(MethodError, match="norm_factor"):
        vc.dictionary(llama, home)
    dic = vc.dictionary(llama, home, norm_factor=0.37)
    t = double(tensors)
    pre = (0.37 * x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    f = torch.relu(pre) * (pre > t["threshold"])
    close(dic.encode(x), f)
    close(dic.reconstruct(x), (f @ t["W_dec"] + t["b_dec"]) / 0.37)


def test_constant_norm(llama, folder, tensors, x):
    told = V6 | {"architecture": "standard", "normalize_activations": "constant_norm_rescale"}
    dic = vc.dictionary(llama, folder({"cfg.json": told}, {WEIGHTS: tensors}))
    t = double(tensors)
    scale = WIDTH**0.5 / x.norm(dim=-1, keepdim=True)
    f = torch.relu((x * scale - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
    close(dic.encode(x), f / scale)  # in units of the site
    close(dic.reconstruct(x), (f @ t["W_dec"] + t["b_dec"]) / scale)


def test_layer_norm(llama, folder, tensors, x):
    told = V6 | {"architecture": "standard", "normalize_activations": "layer_norm"}
    dic = vc.dictionary(llama, folder({"cfg.json": told}, {WEIGHTS: tensors}))
    t = double(tensors)
    mean, deviation = x.mean(-1, keepdim=True), (x - x.mean(-1, keepdim=True)).std(-1, keepdim=True)
    f = torch.relu(((x - mean) / (deviation + 1e-5) - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
    close(dic.reconstruct(x), (f @ t["W_dec"] + t["b_dec"]) * deviation + mean)


def test_the_stream_between_attention_and_mlp(llama, folder, tensors):
    told = V6 | {"architecture": "standard", "metadata": V6["metadata"] | {"hook_name": "blocks.1.hook_resid_mid"}}
    dic = vc.dictionary(llama, folder({"cfg.json": told}, {WEIGHTS: tensors}))
    assert dic.sites == "r1.mid"


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "jumprelu_transcoder"])
def test_transcoders(llama, folder, tensors, draw, x, kind):
    told = V6 | {"architecture": kind, "d_out": WIDTH, "apply_b_dec_to_input": False}
    told["metadata"] = V6["metadata"] | {"hook_name": "blocks.2.mlp.hook_in", "hook_name_out": "blocks.2.hook_mlp_out"}
    tensors |= {"W_skip": draw(WIDTH, WIDTH)} if "skip" in kind else {}
    tensors |= {"threshold": draw(SIZE).abs()} if "jump" in kind else {}
    dic = vc.dictionary(llama, folder({"cfg.json": told}, {WEIGHTS: tensors}))
    t = double(tensors)
    pre = x @ t["W_enc"] + t["b_enc"]
    f = torch.relu(pre) * (pre > t.get("threshold", torch.zeros(1)))
    close(dic.encode(x), f)
    close(dic.reconstruct(x), f @ t["W_dec"] + t["b_dec"] + (x @ t["W_skip"].T if "W_skip" in t else 0))
    assert (dic.reads.name, dic.writes.name) == ("n2", "m2")


@pytest.mark.parametrize(
    ("told", "more", "said"),
    [
        ({"architecture": "batchtopk"}, {}, "batchtopk.*saved as jumprelu"),
        ({"architecture": "temporal"}, {}, "temporal.*known are standard"),
        ({"architecture": "topk"}, {}, "does not say k"),
        ({"architecture": "jumprelu"}, {}, "no thresholds"),
        ({"activation_fn": "tanh-relu"}, {}, "tanh-relu"),
        ({"normalize_activations": "per_batch"}, {}, "normalize_activations='per_batch'"),
        ({"hook_head_index": 3}, {}, "head 3 alone"),
        ({}, {"scaling_factor": torch.full((SIZE,), 1.5)}, "scaling_factor other than 1"),
        ({}, {"W_gate": torch.ones(3)}, "W_gate"),
        ({"architecture": "transcoder", "apply_b_dec_to_input": False}, {}, "hook_name_out"),
    ],
)
def test_what_is_not_done_is_refused(llama, folder, tensors, told, more, said):
    home = folder({"cfg.json": V6 | {"architecture": "standard"} | told}, {WEIGHTS: tensors | more})
    with pytest.raises((FileError, MethodError), match=said):
        vc.dictionary(llama, home)


def test_centred_weights_are_asked_for_and_folded(gpt2, folder, tensors, x):
    """A stream without its mean: TransformerLens' default for models with LayerNorms."""
    told = V6 | {"architecture": "standard"}
    told["metadata"] = V6["metadata"] | {"model_name": "gpt2-xl", "model_class_name": "HookedTransformer"}
    home = folder({"cfg.json": told}, {WEIGHTS: tensors})
    with (
        pytest.raises(MethodError, match="centred=True if it was"),
        pytest.warns(UserWarning, match="trained on gpt2-xl"),
    ):
        vc.dictionary(gpt2, home)
    t = double(tensors)
    for centred in (True, False):
        with pytest.warns(UserWarning, match="trained on gpt2-xl"):
            dic = vc.dictionary(gpt2, home, centred=centred)
        u = x - x.mean(-1, keepdim=True) if centred else x
        close(dic.encode(x), torch.relu((u - t["b_dec"]) @ t["W_enc"] + t["b_enc"]))


def test_settings_say_whether_weights_were_centred(gpt2, folder, tensors, x):
    told = V6 | {"architecture": "standard"}
    told["metadata"] = {
        "hook_name": "blocks.1.hook_resid_pre",
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
    }
    home = folder({"cfg.json": told}, {WEIGHTS: tensors})
    t = double(tensors)
    close(vc.dictionary(gpt2, home).encode(x),
          torch.relu((x - x.mean(-1, keepdim=True) - t["b_dec"]) @ t["W_enc"] + t["b_enc"]))  # fmt: skip
    with pytest.raises(MethodError, match="centred=False, but the files"):
        vc.dictionary(gpt2, home, centred=False)


def test_values_of_heads_without_their_biases(gpt2, folder, tensors):
    """`hook_z` of processed weights: the values' biases are folded into the output's, so z lacks them."""
    told = V6 | {"architecture": "standard"}
    told["metadata"] = {"hook_name": "blocks.1.attn.hook_z"}
    home = folder({"cfg.json": told}, {WEIGHTS: tensors})
    with pytest.raises(MethodError, match="biases of its values"):
        vc.dictionary(gpt2, home)
    dic = vc.dictionary(gpt2, home, centred=True)
    bias = gpt2.hf.transformer.h[1].attn.c_attn.bias[2 * WIDTH :].detach()
    z = torch.randn(7, WIDTH, dtype=torch.float64)
    t = double(tensors)
    f = torch.relu((z - bias - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
    close(dic.encode(z), f)
    close(dic.reconstruct(z), f @ t["W_dec"] + t["b_dec"] + bias)

"""Files of the other libraries against the formulas of their classes."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from dictionary_files import SIZE, WIDTH, close

import veracausa as vc
from veracausa.dictionaries import Onward
from veracausa.errors import FileError, MethodError
from veracausa.loading.dictionaries.files import mapped


def double(tensors):
    return {key: value.double() for key, value in tensors.items()}


def largest(pre, k):
    """pre rectified where fewer than k are larger."""
    return torch.relu(pre) * ((pre[:, None] > pre[..., None]).sum(-1) < k)


# sparsify


@pytest.fixture
def sparsified(draw):
    return {
        "encoder.weight": draw(SIZE, WIDTH),
        "encoder.bias": draw(SIZE),
        "W_dec": draw(SIZE, WIDTH),
        "b_dec": draw(WIDTH),
    }


@pytest.mark.parametrize(("hook", "site"), [("layers.1", "r2"), ("layers.1.mlp", "m1"), ("h.0", "r1")])
def test_sparsify(llama, folder, sparsified, x, hook, site):
    told = {"d_in": WIDTH, "k": 6, "activation": "topk", "transcode": False}
    dic = vc.dictionary(llama, folder({"cfg.json": told}, {"sae.safetensors": sparsified}, under=hook))
    t = double(sparsified)
    f = largest((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"], 6)
    close(dic.encode(x), f)
    close(dic.reconstruct(x), f @ t["W_dec"] + t["b_dec"])
    assert dic.reads.name == dic.writes.name == site


def test_a_transcoder_of_sparsify_keeps_its_input_and_skips(llama, folder, sparsified, draw, x):
    told = {"d_in": WIDTH, "k": 6, "transcode": True, "skip_connection": True}
    tensors = sparsified | {"W_skip": draw(WIDTH, WIDTH)}
    dic = vc.dictionary(llama, folder({"cfg.json": told}, {"sae.safetensors": tensors}, under="layers.2.mlp"))
    t = double(tensors)
    f = largest(x @ t["encoder.weight"].T + t["encoder.bias"], 6)
    close(dic.encode(x), f)
    close(dic.reconstruct(x), f @ t["W_dec"] + t["b_dec"] + x @ t["W_skip"].mT)
    assert (dic.reads.name, dic.writes.name) == ("n2", "m2")


@pytest.mark.parametrize("more", [{"activation": "groupmax"}, {"embed_skip": True}])
def test_sparsify_refuses(llama, folder, sparsified, more):
    home = folder({"cfg.json": {"k": 6} | more}, {"sae.safetensors": sparsified}, under="layers.1")
    with pytest.raises(FileError, match=next(iter(more))):
        vc.dictionary(llama, home)


# dictionary_learning


def trainer(kind, **more):
    told = {"dict_class": kind, "layer": 1, "lm_name": "llama", "submodule_name": "resid_post_layer_1"}
    return {"config.json": {"trainer": told | more, "buffer": {"ctx_len": 128}}}


@pytest.fixture
def linear(draw):
    return {"encoder.weight": draw(SIZE, WIDTH), "encoder.bias": draw(SIZE), "decoder.weight": draw(WIDTH, SIZE)}


@pytest.mark.parametrize("said", [True, False])
def test_autoencoder(llama, folder, linear, draw, x, said):
    tensors = linear | {"bias": draw(WIDTH)}
    home = folder(trainer("AutoEncoder") if said else {}, {"ae.pt": tensors})
    dic = vc.dictionary(llama, home, site=None if said else "r2")
    t = double(tensors)
    f = torch.relu((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"])
    close(dic.encode(x), f)
    close(dic.reconstruct(x), f @ t["decoder.weight"].T + t["bias"])
    assert dic.reads.name == "r2"


def test_newer_autoencoder_keeps_its_input(llama, folder, linear, draw, x):
    tensors = linear | {"decoder.bias": draw(WIDTH)}
    dic = vc.dictionary(llama, folder(trainer("AutoEncoderNew"), {"ae.pt": tensors}))
    t = double(tensors)
    f = torch.relu(x @ t["encoder.weight"].T + t["encoder.bias"])
    close(dic.reconstruct(x), f @ t["decoder.weight"].T + t["decoder.bias"])


def test_gated_autoencoder_counts_in_decoder_norms(llama, folder, linear, draw, x):
    del linear["encoder.bias"]
    tensors = linear | {
        "decoder_bias": draw(WIDTH),
        "r_mag": draw(SIZE) / 3,
        "gate_bias": draw(SIZE),
        "mag_bias": draw(SIZE),
    }
    dic = vc.dictionary(llama, folder(trainer("GatedAutoEncoder"), {"ae.pt": tensors}))
    t = double(tensors)
    u, norms = (x - t["decoder_bias"]) @ t["encoder.weight"].T, t["decoder.weight"].norm(dim=0)
    f = (u + t["gate_bias"] > 0) * torch.relu(t["r_mag"].exp() * u + t["mag_bias"]) * norms
    close(dic.encode(x), f)
    close(dic.reconstruct(x), (f / norms) @ t["decoder.weight"].T + t["decoder_bias"])


def test_topk_autoencoder(llama, folder, linear, draw, x):
    tensors = linear | {"b_dec": draw(WIDTH), "k": torch.tensor(7, dtype=torch.int), "threshold": torch.tensor(0.4)}
    dic = vc.dictionary(llama, folder(trainer("AutoEncoderTopK"), {"ae.pt": tensors}))
    t = double(tensors)
    close(dic.encode(x), largest((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"], 7))


def test_batch_topk_uses_its_threshold(llama, folder, linear, draw, x):
    """Which tokens run together must not change a feature."""
    tensors = linear | {"b_dec": draw(WIDTH), "k": torch.tensor(7, dtype=torch.int), "threshold": torch.tensor(0.4)}
    dic = vc.dictionary(llama, folder(trainer("BatchTopKSAE"), {"ae.pt": tensors}))
    t = double(tensors)
    f = torch.relu((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"])
    close(dic.encode(x), f * (f > t["threshold"]))
    close(dic.encode(x[:1]), dic.encode(x)[:1])


def test_batch_topk_without_a_threshold_is_refused(llama, folder, linear, draw):
    tensors = linear | {"b_dec": draw(WIDTH), "k": torch.tensor(7), "threshold": torch.tensor(-1.0)}
    with pytest.raises(FileError, match="never learned"):
        vc.dictionary(llama, folder(trainer("BatchTopKSAE"), {"ae.pt": tensors}))
    with pytest.raises(FileError, match="TopK or a BatchTopK"):
        vc.dictionary(llama, folder({}, {"ae.pt": tensors}, under="bare"), site="r1")


def test_jumprelu_autoencoder_counts_in_decoder_norms(llama, folder, draw, x):
    tensors = {"W_enc": draw(WIDTH, SIZE), "b_enc": draw(SIZE), "W_dec": draw(SIZE, WIDTH), "b_dec": draw(WIDTH),
               "threshold": draw(SIZE).abs()}  # fmt: skip
    dic = vc.dictionary(llama, folder(trainer("JumpReluAutoEncoder"), {"ae.pt": tensors}))
    t = double(tensors)
    pre, norms = x @ t["W_enc"] + t["b_enc"], t["W_dec"].norm(dim=1)
    f = torch.relu(pre * (pre > t["threshold"])) * norms
    close(dic.encode(x), f)
    close(dic.reconstruct(x), (f / norms) @ t["W_dec"] + t["b_dec"])


def test_a_pickle_that_would_run_code_is_not_read(llama, tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "ae.pt").write_bytes(pickle.dumps({"encoder.weight": Runs()}, protocol=2))
    with pytest.raises(FileError, match=r"cannot be read|run code"):
        vc.dictionary(llama, tmp_path, site="r1")
    torch.save({"encoder.weight": Runs()}, tmp_path / "ae.pt")
    with pytest.raises(FileError, match="run code of its own"):
        vc.dictionary(llama, tmp_path, site="r1")
    np.savez(tmp_path / "params.npz", W_enc=np.array([Runs()], dtype=object))
    (tmp_path / "ae.pt").unlink()
    with pytest.raises(FileError, match="without running code"):
        vc.dictionary(llama, tmp_path, site="r1")
    assert not (tmp_path / "made").exists()


# Gemma Scope


@pytest.fixture
def jumping(draw):
    return {"W_enc": draw(WIDTH, SIZE), "b_enc": draw(SIZE), "W_dec": draw(SIZE, WIDTH), "b_dec": draw(WIDTH),
            "threshold": draw(SIZE).abs()}  # fmt: skip


def jump(x, t):
    pre = x @ t["W_enc"] + t["b_enc"]
    return torch.relu(pre) * (pre > t["threshold"])


@pytest.mark.parametrize(
    ("collection", "reads", "writes"),
    [("res", "r2", "r2"), ("mlp", "m1.post", "m1.post"), ("transcoders", "n1", "m1.post")],
)
def test_gemma_scope(gemma, tmp_path, jumping, x, collection, reads, writes):
    home = tmp_path / f"gemma-scope-2b-pt-{collection}" / "layer_1" / "width_16k" / "average_l0_82"
    home.mkdir(parents=True)
    np.savez(home / "params.npz", **{key: value.numpy() for key, value in jumping.items()})
    with pytest.warns(UserWarning, match="trained on gemma-2-2b, and the model is gemma2"):
        dic = vc.dictionary(gemma, home)
    assert (dic.reads.name, dic.writes.name) == (reads, writes)
    t = double(jumping)
    u = x
    if collection == "transcoders":  # reads the norm's output before its gain, 1 + weight
        gain = 1 + gemma.hf.model.layers[1].pre_feedforward_layernorm.weight.detach()
        assert (gain - 1).abs().max() > 0.1
        u = x / gain
    close(dic.encode(x), jump(u, t))
    close(dic.reconstruct(x), jump(u, t) @ t["W_dec"] + t["b_dec"])


def test_gemma_scope_says_what_its_path_leaves_out(gemma, tmp_path, jumping):
    np.savez(tmp_path / "params.npz", **{key: value.numpy() for key, value in jumping.items()})
    with pytest.raises(MethodError, match="Say site='r10'"):
        vc.dictionary(gemma, tmp_path)
    assert vc.dictionary(gemma, tmp_path / "params.npz", site="r3").reads.name == "r3"


@pytest.mark.parametrize(
    ("hooks", "sites"),
    [
        (("model.layers.1.output", "model.layers.1.output"), ("r2", "r2")),
        (("model.layers.2.pre_feedforward_layernorm.output", "model.layers.2.post_feedforward_layernorm.output"),
         ("n2", "m2.post")),
    ],
)  # fmt: skip
def test_gemma_scope_2(gemma, folder, jumping, draw, x, hooks, sites):
    told = {"architecture": "jump_relu", "model_name": "gemma2", "hf_hook_point_in": hooks[0],
            "hf_hook_point_out": hooks[1], "affine_connection": sites[0] == "n2", "l0": 7, "width": SIZE}  # fmt: skip
    own = {
        "w_enc": jumping["W_enc"],
        "w_dec": jumping["W_dec"],
        **{k: jumping[k] for k in ("b_enc", "b_dec", "threshold")},
    }
    own |= {"affine_skip_connection": draw(WIDTH, WIDTH)} if told["affine_connection"] else {}
    dic = vc.dictionary(gemma, folder({"config.json": told}, {"params.safetensors": own}))
    t = double(jumping)
    skip = x @ own["affine_skip_connection"].double() if told["affine_connection"] else 0  # not transposed
    close(dic.encode(x), jump(x, t))
    close(dic.reconstruct(x), jump(x, t) @ t["W_dec"] + t["b_dec"] + skip)
    assert (dic.reads.name, dic.writes.name) == sites


def scope_2_layers(draw, cut=False, layers=3):
    """Files of a cross-layer transcoder of Gemma Scope 2: decoders of all layers, or cut to their own on."""
    return {
        f"params_layer_{i}.safetensors": {
            "w_enc": draw(WIDTH, SIZE), "b_enc": draw(SIZE), "b_dec": draw(WIDTH), "threshold": draw(SIZE).abs(),
            "w_dec": draw(SIZE, layers - cut * i, WIDTH), "affine_skip_connection": draw(WIDTH, WIDTH),
        } for i in range(layers)
    }  # fmt: skip


@pytest.mark.parametrize("cut", [False, True])
def test_gemma_scope_2_across_layers(gemma, folder, draw, x, cut):
    files, hook = scope_2_layers(draw, cut), "model.layers.{layer}.pre_feedforward_layernorm.output"
    home = folder({"config.json": {"architecture": "jump_relu", "hf_hook_point_in": hook}}, files)
    found = vc.transcoders(gemma, home)
    for layer, dic in enumerate(found):
        t = double(files[f"params_layer_{layer}.safetensors"])
        pre = x @ t["w_enc"] + t["b_enc"]
        f = pre * (pre > t["threshold"])
        close(dic.encode(x), f)
        assert (dic.reads.name, dic.writes.name) == (f"n{layer}", f"m{layer}.post") and dic.layers == range(layer, 3)
        for to in dic.layers:
            close(dic.written(dic.encode(x), to), f @ t["w_dec"][:, to - cut * layer])
        close(dic.reconstruct(x), f @ t["w_dec"][:, layer - cut * layer] + t["b_dec"] + x @ t["affine_skip_connection"])
    assert vc.dictionary(gemma, home, layer=1).digest() == found[1].digest()


def test_gemma_scope_2_across_layers_adds_up(gemma, folder, draw, task_of):
    """All features, errors and skips of all layers set to the other run's are the patch of all MLPs."""
    files, task = scope_2_layers(draw), task_of(6, n=2)
    laid = gemma.reading(*vc.transcoders(gemma, folder({}, files)))
    every = tuple(f"f{layer}.{part}" for layer in range(3) for part in (*range(SIZE), "error", "skip"))
    whole = vc.exact(laid, task, units=[every], show_progress=False).values
    close(whole, vc.exact(gemma, task, units=[("m0", "m1", "m2")], show_progress=False).values)


@pytest.mark.parametrize(("settings", "change", "error", "said"), [
    ({}, {"w_dec": (SIZE, 5, WIDTH)}, FileError, r"\[features, 3, d\]"),
    ({}, {"threshold": None}, FileError, "thresholds"),
    ({"hf_hook_point_in": "model.layers.1.output"}, {}, FileError, "pre_feedforward"),
    ({"architecture": "topk"}, {}, FileError, "architecture"), ({}, {"extra": (3,)}, FileError, "extra"),
    ({"affine_connection": True}, {"affine_skip_connection": None}, FileError, "affine connection"),
])  # fmt: skip
def test_gemma_scope_2_across_layers_is_refused_where_it_does_not_fit(
    gemma, folder, draw, settings, change, error, said
):
    files = scope_2_layers(draw)
    own = files["params_layer_1.safetensors"]
    for key, shape in change.items():
        own.pop(key, None)
        if shape:
            own[key] = draw(*shape)
    home = folder({"config.json": settings}, files)
    with pytest.raises(error, match=said):
        vc.dictionary(gemma, home, layer=1)
    for source, layer, told in ((home, None, "say layer"), (home, 7, "no transcoder of layer 7"),
                                (home / "params_layer_0.safetensors", None, "give its folder")):  # fmt: skip
        with pytest.raises((FileError, MethodError), match=told):
            vc.dictionary(gemma, source, layer=layer)


def test_gemma_scope_2_of_several_layers_is_refused(gemma, folder, draw):
    own = {"w_enc": draw(3, WIDTH, SIZE), "w_dec": draw(3, SIZE, WIDTH)}
    with pytest.raises(FileError, match="several layers"):
        vc.dictionary(gemma, folder({"config.json": {}}, {"params.safetensors": own}))


# Llama Scope


@pytest.mark.parametrize("included", [True, False])
@pytest.mark.parametrize("transcodes", [True, False])
def test_llama_scope(llama, folder, linear, draw, x, included, transcodes):
    tensors = linear | {"decoder.bias": draw(WIDTH)}
    told = {"d_model": WIDTH, "d_sae": SIZE, "act_fn": "jumprelu", "jump_relu_threshold": 0.6,
            "norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 9.0, "out": 3.0},
            "sparsity_include_decoder_norm": included,
            "hook_point_in": "blocks.1.ln2.hook_normalized" if transcodes else "blocks.1.hook_resid_post",
            "hook_point_out": "blocks.1.hook_mlp_out" if transcodes else "blocks.1.hook_resid_post"}  # fmt: skip
    dic = vc.dictionary(llama, folder({"hyperparams.json": told}, {"checkpoints/final.safetensors": tensors}))
    t = double(tensors)
    u = x / llama.hf.model.layers[1].post_attention_layernorm.weight.detach() if transcodes else x
    pre = (u * WIDTH**0.5 / 9) @ t["encoder.weight"].T + t["encoder.bias"]
    f = pre * (pre * (t["decoder.weight"].norm(dim=0) if included else 1) > 0.6)
    close(dic.encode(x), f)
    close(dic.reconstruct(x), (f @ t["decoder.weight"].T + t["decoder.bias"]) * 3 / WIDTH**0.5)
    assert dic.writes.name == ("m1" if transcodes else "r2")


# circuit-tracer


def test_circuit_tracer(llama, folder, draw, x):
    settings = {"model_name": "llama", "model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in",
                "feature_output_hook": "mlp.hook_out"}  # fmt: skip
    files = {f"layer_{i}.safetensors": {"W_enc": draw(SIZE, WIDTH), "W_dec": draw(SIZE, WIDTH), "b_enc": draw(SIZE),
                                        "b_dec": draw(WIDTH)} for i in range(3)}  # fmt: skip
    files["layer_1.safetensors"] |= {"W_skip": draw(WIDTH, WIDTH)}
    files["layer_2.safetensors"] |= {"activation_function.threshold": draw(SIZE).abs()}
    home = folder({"config.yaml": settings}, files)
    with pytest.raises(MethodError, match="layers 0, 1, 2; say layer"):
        vc.dictionary(llama, home)
    with pytest.raises(FileError, match="no transcoder of layer 7"):
        vc.dictionary(llama, home, layer=7)
    for layer in range(3):
        dic = vc.dictionary(llama, home, layer=layer)
        t = double(files[f"layer_{layer}.safetensors"])
        pre = x @ t["W_enc"].T + t["b_enc"]
        f = torch.relu(pre) * (pre > t.get("activation_function.threshold", torch.zeros(1)))
        close(dic.encode(x), f)
        close(dic.reconstruct(x), f @ t["W_dec"] + t["b_dec"] + (x @ t["W_skip"].T if "W_skip" in t else 0))
        assert (dic.reads.name, dic.writes.name) == (f"n{layer}", f"m{layer}")
        assert vc.dictionary(llama, home / f"layer_{layer}.safetensors").digest() == dic.digest()


def crossing(draw, layers=3, thresholds=True, decoders=3):
    """Files of a cross-layer transcoder, as circuit-tracer writes them."""
    files = {}
    for i in range(layers):
        found = {f"W_enc_{i}": draw(SIZE, WIDTH), f"b_enc_{i}": draw(SIZE), f"b_dec_{i}": draw(WIDTH)}
        files[f"W_enc_{i}.safetensors"] = found
        if thresholds:
            files[f"W_enc_{i}.safetensors"][f"threshold_{i}"] = draw(SIZE).abs()
        files[f"W_dec_{i}.safetensors"] = {f"W_dec_{i}": draw(SIZE, decoders - i, WIDTH)}
    return files


@pytest.mark.parametrize("hook", ["hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in"])
def test_cross_layer_transcoders(llama, folder, draw, x, hook):
    files = crossing(draw)
    told = {"model_name": "llama", "model_kind": "cross_layer_transcoder", "feature_input_hook": hook}
    home = folder({"config.yaml": told | {"feature_output_hook": "hook_mlp_out"}}, files)
    with pytest.raises(MethodError, match="layers 0, 1, 2; say layer"):
        vc.dictionary(llama, home)
    with pytest.raises(MethodError, match="give its folder"):
        vc.dictionary(llama, home / "W_enc_1.safetensors")
    found = vc.transcoders(llama, home)
    for layer, dic in enumerate(found):
        t = double(files[f"W_enc_{layer}.safetensors"])
        w_dec = double(files[f"W_dec_{layer}.safetensors"])[f"W_dec_{layer}"]
        gain = llama.hf.model.layers[layer].post_attention_layernorm.weight.detach()
        u = x / gain if hook == "ln2.hook_normalized" else x
        pre = u @ t[f"W_enc_{layer}"].T + t[f"b_enc_{layer}"]
        f = pre * (pre > t[f"threshold_{layer}"])
        close(dic.encode(x), f)
        assert dic.writes.name == f"m{layer}" and dic.layers == range(layer, 3)
        assert dic.reads.name == (f"r{layer}.mid" if "mid" in hook else f"n{layer}")
        for to in dic.layers:
            close(dic.written(dic.encode(x), to), f @ w_dec[:, to - layer])
    assert vc.dictionary(llama, home, layer=1).digest() == found[1].digest() != found[0].digest()
    assert repr(found[0]).startswith(f"Dictionary(features of {found[0].reads.name} → m0 … m2: 40 × 24")


def test_behind_a_post_norm_cross_layer_transcoders_write_there(gemma, folder, draw):
    told = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    home = folder({"config.yaml": told}, crossing(draw, thresholds=False))
    found = vc.transcoders(gemma, home, name="clt", layers=[2, 0])
    assert [dic.writes.name for dic in found] == ["m2.post", "m0.post"] and found[0].name == "clt"


@pytest.mark.parametrize(("files", "error", "said"), [
    ({"decoders": 4}, MethodError, "writes to 4 layers from m0 on, but"),
    ({"layers": 1, "lacks": "W_dec_0.safetensors"}, FileError, r"no W_dec_0\.safetensors"),
    ({"flat": True}, FileError, r"is \[features, layers, d\]"),
    ({"skip": True}, FileError, "W_skip"),
])  # fmt: skip
def test_cross_layer_files_that_do_not_fit_are_refused(llama, folder, draw, files, error, said):
    made = crossing(draw, files.get("layers", 3), decoders=files.get("decoders", 3))
    if files.get("lacks"):
        del made[files["lacks"]]
    if files.get("flat"):
        made["W_dec_0.safetensors"]["W_dec_0"] = draw(SIZE, WIDTH)
    if files.get("skip"):
        made["W_enc_0.safetensors"]["W_skip_0"] = draw(WIDTH, WIDTH)
    told = {"model_kind": "cross_layer_transcoder", "feature_input_hook": "hook_resid_mid",
            "feature_output_hook": "hook_mlp_out"}  # fmt: skip
    home = folder({"config.yaml": told}, made)
    with pytest.raises(error, match=said):
        vc.dictionary(llama, home, layer=0)


def test_tensors_of_a_cross_layer_transcoder_are_those_of_its_files(llama, folder, draw, x):
    files = crossing(draw)
    told = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    wanted = vc.transcoders(llama, folder({"config.yaml": told}, files))
    for layer, dic in enumerate(wanted):
        own = {**files[f"W_enc_{layer}.safetensors"], **files[f"W_dec_{layer}.safetensors"]}
        given = {key.removesuffix(f"_{layer}"): value for key, value in own.items()}
        given["W_enc"] = given["W_enc"].T
        found = vc.dictionary(llama, given, site=f"r{layer}.mid", writes=f"m{layer}")
        assert found.digest() == dic.digest() and found.layers == dic.layers
        close(found.reconstruct(x), dic.reconstruct(x))
    with pytest.raises(MethodError, match="writes to several layers is a transcoder"):
        vc.dictionary(llama, given, site="r1")


def resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc on this system")
def test_decoders_are_mapped_and_not_read(folder):
    """Of a file of 200 MB less than a tenth comes into memory."""
    big = folder({}, {"W_dec_0.safetensors": {"W_dec_0": torch.ones(1 << 15, 16, 96)}}, under="big")
    before = resident()
    whole = mapped(big / "W_dec_0.safetensors")["W_dec_0"]
    found = Onward(whole).rows(torch.tensor([3, 7]), 2, whole)
    assert bool((found == 1).all())
    assert resident() - before < 20e6


def test_the_stream_between_attention_and_mlp_is_a_site_where_there_is_one(llama, gpt_neox_like, draw):
    tensors = {"W_enc": draw(WIDTH, SIZE), "W_dec": draw(SIZE, WIDTH)}
    dic = vc.dictionary(llama, tensors, site="r1.mid")
    assert dic.reads.name == dic.writes.name == "r1.mid" and llama.reading(dic).decoder.codes
    for writes in (None, "m1"):
        with pytest.raises(MethodError, match="side by side"):
            vc.dictionary(gpt_neox_like, tensors, site="r1.mid", writes=writes)


# plain tensors, and what fits a model


def test_plain_tensors(llama, tmp_path, jumping, x):
    dic = vc.dictionary(llama, {**jumping, "k": 3, "threshold": None}, site="r1", name="mine")
    t = double(jumping)
    close(dic.encode(x), largest(x @ t["W_enc"] + t["b_enc"], 3))
    assert dic.name == "mine"
    close(vc.dictionary(llama, jumping, site="r1").encode(x), jump(x, t))
    arrays = {key: value.numpy() for key, value in jumping.items()}
    close(vc.dictionary(llama, arrays | {"subtract_b_dec": True}, site="m2").encode(x), jump(x - t["b_dec"], t))
    np.savez(tmp_path / "own.npz", **arrays)
    close(vc.dictionary(llama, tmp_path / "own.npz", site="r1").encode(x), jump(x, t))


@pytest.mark.parametrize(
    ("more", "asked", "said"),
    [
        ({}, {}, "Say site='r10'"),
        ({}, {"site": "r4"}, "3 blocks, so the last one is r3"),
        ({}, {"site": "m3"}, "3 blocks, so the last one is m2"),
        ({}, {"site": "m1.post"}, "no post-norm there; say m1"),
        ({}, {"site": "z1"}, "24 wide, but z1 of llama is 32 wide"),
        ({}, {"site": "q1"}, "is not known. Sites are"),
        ({}, {"site": "n1"}, "Nothing writes at n1"),
        ({"W_dex": torch.ones(2)}, {"site": "r1"}, "W_dex, which is not known"),
        ({"activation": "swish"}, {"site": "r1"}, "activation='swish' is not known: linear"),
        ({"b_enc": torch.full((SIZE,), float("nan"))}, {"site": "r1"}, "b_enc has NaN"),
        ({"b_enc": "zero"}, {"site": "r1"}, "b_enc is a tensor"),
        ({"W_dec": torch.ones(WIDTH, SIZE)}, {"site": "r1"}, "Transpose"),
        ({"k": 99, "threshold": None}, {"site": "r1"}, "1 … 40 features"),
        ({"k": 5}, {"site": "r1"}, "threshold belongs to"),
        ({"activation": "relu"}, {"site": "r1"}, "threshold belongs to"),
        ({"k": 3.7, "threshold": None}, {"site": "r1"}, "whole number"),
        ({"subtract_b_dec": "no"}, {"site": "r1"}, "True or False"),
        ({"labels": "abc"}, {"site": "r1"}, "names"),
        ({"norm_eps": -1.0}, {"site": "r1"}, "small number"),
    ],
)
def test_what_does_not_fit_is_refused(llama, jumping, more, asked, said):
    with pytest.raises(MethodError, match=said):
        vc.dictionary(llama, jumping | more, **asked)


def test_another_site_than_the_files_is_refused(llama, folder, sparsified):
    home = folder({"cfg.json": {"k": 6}}, {"sae.safetensors": sparsified}, under="layers.1")
    with pytest.raises(MethodError, match=r"reads layers.1, which is r2, but 'r1'"):
        vc.dictionary(llama, home, site="r1")
    with pytest.raises(MethodError, match="k: the settings of sparsify"):
        vc.dictionary(llama, home, k=4)


def test_what_is_no_dictionary_is_refused(llama, tmp_path):
    with pytest.raises(FileError, match="There is nothing at"):
        vc.dictionary(llama, tmp_path / "missing")
    with pytest.raises(FileError, match=r"no dictionary of a known format.*SAELens: cfg.json"):
        vc.dictionary(llama, tmp_path)
    (tmp_path / "own.safetensors").write_bytes(b"nothing")
    with pytest.raises(FileError, match="cannot be read as safetensors"):
        vc.dictionary(llama, tmp_path / "own.safetensors", site="r1")


def test_a_layer_norms_bias_comes_off_what_was_read_before_it(gpt2, folder, draw, x):
    """`ln2.hook_normalized` of a LayerNorm: γ and β are folded, also into the skip."""
    tensors = {"W_enc": draw(WIDTH, SIZE), "b_enc": draw(SIZE), "W_dec": draw(SIZE, WIDTH), "b_dec": draw(WIDTH),
               "W_skip": draw(WIDTH, WIDTH)}  # fmt: skip
    told = {"architecture": "skip_transcoder", "apply_b_dec_to_input": False,
            "metadata": {"hook_name": "blocks.1.ln2.hook_normalized",
                         "hook_name_out": "blocks.1.hook_mlp_out"}}  # fmt: skip
    dic = vc.dictionary(gpt2, folder({"cfg.json": told}, {"sae_weights.safetensors": tensors}))
    norm, t = gpt2.hf.transformer.h[1].ln_2, double(tensors)
    u = (x - norm.bias.detach()) / norm.weight.detach()
    f = torch.relu(u @ t["W_enc"] + t["b_enc"])
    close(dic.encode(x), f)
    close(dic.reconstruct(x), f @ t["W_dec"] + t["b_dec"] + u @ t["W_skip"].T)

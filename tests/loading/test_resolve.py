"""`resolve`: every way to name a model, and every way in which it can go wrong."""

from __future__ import annotations

import gc
import http.server
import json
import shutil
import socket
import threading
import time

import pytest
import tiny_models
import torch
from processes import python
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

from veracausa.errors import ArchitectureError, DeviceError, DownloadError, FileError, MethodError
from veracausa.loading.resolve import resolve
from veracausa.loading.wrappers import require_weights
from veracausa.storage.digests import weights_digest

WORDS = ["<unk>", "John", "Mary", "gave", "milk", "to"]


def tiny_model(**over) -> torch.nn.Module:
    settings = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    settings |= {"bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(LlamaConfig(**(settings | over))).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved model that a test may damage."""
    return shutil.copytree(saved, tmp_path / "tiny")


@pytest.fixture
def no_hub(monkeypatch):
    """A hub address where nothing listens."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


# ---------------------------------------------------------------- folders


def test_folder(saved):
    loaded = resolve(str(saved))
    assert loaded.name == str(saved)
    assert loaded.source == f"LlamaForCausalLM from the local folder {saved}, float32"
    assert loaded.hf.dtype == torch.float32 and not loaded.hf.training
    assert loaded.tokenizer("Mary gave milk")["input_ids"] == [2, 3, 4]
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded.hf.cpu()(ids).logits, tiny_model()(ids).logits)


def test_folder_as_path_and_other_tokenizer(saved):
    tokenizer = tiny_tokenizer()
    loaded = resolve(saved, tokenizer, device="cpu")
    assert loaded.tokenizer is tokenizer and loaded.hf.device.type == "cpu"
    assert resolve(saved, str(saved)).tokenizer("milk")["input_ids"] == [4]


def test_dtype(folder):
    tiny_model().to(torch.bfloat16).save_pretrained(folder)
    assert resolve(folder).hf.dtype == torch.float32
    loaded = resolve(folder, dtype="auto")
    assert loaded.hf.dtype == torch.bfloat16 and loaded.source.endswith("bfloat16")
    assert resolve(folder, dtype="bfloat16").identity == loaded.identity
    assert resolve(folder, dtype=torch.float64).hf.dtype == torch.float64
    assert resolve(folder).identity != loaded.identity
    for wrong in ("int8", torch.int64, "no_such_type", 32):
        with pytest.raises(MethodError, match="floating-point"):
            resolve(folder, dtype=wrong)


def test_attention_implementation(saved):
    assert resolve(saved, attn_implementation="eager").hf.config._attn_implementation == "eager"
    with pytest.raises(MethodError, match="no_such_attention"):
        resolve(saved, attn_implementation="no_such_attention")


def test_sharded_folder(saved, folder):
    (folder / "model.safetensors").unlink()
    tiny_model().save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert resolve(folder).identity == resolve(saved).identity
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(FileError, match=gone.name):
        resolve(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [')
    with pytest.raises(FileError, match=r"index\.json is damaged"):
        resolve(folder)


def test_tied_embeddings_are_not_missing(folder):
    tiny_model(tie_word_embeddings=True).save_pretrained(folder)
    assert resolve(folder).hf.config.tie_word_embeddings


@pytest.mark.parametrize("keep", [-100, 100, 5])
def test_cut_short_weights(folder, keep):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(FileError, match=r"model\.safetensors is damaged or cut short"):
        resolve(folder)


def weights_with(folder, **change):
    """Change tensors of the weights file; None takes one out."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors") | change
    kept = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def config_with(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_lacking_weights_are_an_error_not_random_numbers(folder):
    weights_with(folder, **{"model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(FileError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        resolve(folder)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"num_hidden_layers": 1}, r"model\.layers\.1\.input_layernorm\.weight.*6 more would be left out"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm\.weight.*random"),
        ({"vocab_size": 5}, r"lm_head\.weight is \[6, 16\] in the file and \[5, 16\] by the config"),
        ({"intermediate_size": 20}, r"mlp\.down_proj\.weight is \[16, 24\] in the file and \[16, 20\]"),
        ({"num_key_value_heads": 4}, r"k_proj\.weight is \[8, 16\] in the file and \[16, 16\]"),
        ({"layer_types": ["full_attention"]}, r"layer_types|num_hidden_layers"),
    ],
)
def test_a_config_of_another_size_is_an_error_not_another_model(folder, entries, said):
    config_with(folder, **entries)
    with pytest.raises(FileError, match=rf"(?s){said}"):
        resolve(folder, tiny_tokenizer())


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.mlp.up_proj.weight_scale", "more"]
)
def test_weights_without_a_place_are_an_error(folder, name):
    weights_with(folder, **{name: torch.ones(16)})
    with pytest.raises(FileError, match=rf"{name} would be left out"):
        resolve(folder)


@pytest.mark.parametrize(
    "name",
    ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.masked_bias",
     "vision_tower.encoder.weight", "multi_modal_projector.linear_1.weight", "model.audio_tower.0.weight",
     "mtp.0.weight"],
)  # fmt: skip
def test_what_is_not_of_the_decoder_may_be_left_out(saved, folder, name):
    weights_with(folder, **{name: torch.ones(2)})
    assert resolve(folder).identity == resolve(saved).identity


def test_a_stored_copy_of_tied_embeddings_has_a_place(folder):
    tiny_model(tie_word_embeddings=True).save_pretrained(folder)
    before = resolve(folder).hf
    weights_with(folder, **{"lm_head.weight": before.model.embed_tokens.weight.detach().clone()})
    assert torch.equal(resolve(folder).hf.lm_head.weight, before.lm_head.weight)
    weights_with(folder, **{"lm_head.weight": torch.ones(6, 16)})  # of its own: then it is not tied
    assert torch.equal(resolve(folder).hf.lm_head.weight.cpu(), torch.ones(6, 16))


def test_weights_that_are_no_numbers(folder):
    norm = torch.ones(16)
    norm[3] = float("nan")
    weights_with(folder, **{"model.norm.weight": norm})
    with pytest.raises(FileError, match=r"1 of the 16 numbers of model\.norm\.weight"):
        resolve(folder)
    weights_with(folder, **{"model.norm.weight": torch.empty(0)})
    with pytest.raises(FileError, match=r"model\.norm\.weight is \[0\] in the file"):
        resolve(folder)
    weights_with(folder, **{"model.norm.weight": torch.full((16,), 3e38)})  # finite, though their sum is not
    assert resolve(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(FileError, match=r"pytorch_model\.bin, which is a pickle.*save_pretrained"):
        resolve(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileError, match=r"there is no model\.safetensors"):
        resolve(folder)


def test_folder_that_is_no_model(tmp_path, folder):
    with pytest.raises(FileError, match=r"no config\.json"):
        resolve(tmp_path)
    (folder / "config.json").write_text("{ not json")
    with pytest.raises(FileError):
        resolve(folder)
    with pytest.raises(FileError, match=r"neither a \.gguf file nor a model folder"):
        resolve(folder / "model.safetensors")


def test_folder_without_a_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(FileError, match=r"No tokenizer could be read .*tokenizer=AutoTokenizer"):
        resolve(folder)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(FileError, match="No tokenizer could be read"):
        resolve(folder)
    assert resolve(folder, tiny_tokenizer()).tokenizer is not None
    with pytest.raises(MethodError, match="int"):
        resolve(folder, 3)
    with pytest.raises(FileError, match="no folder"):
        resolve(folder, "./nowhere")


def test_unknown_model_type(folder):
    config_with(folder, model_type="no_such_family")
    with pytest.raises(ArchitectureError, match="no_such_family"):
        resolve(folder, tiny_tokenizer())


def test_encoder_decoder_folder(folder):
    T5ForConditionalGeneration(
        T5Config(vocab_size=6, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).save_pretrained(folder)
    with pytest.raises(ArchitectureError, match="causal language model"):
        resolve(folder, tiny_tokenizer())


def test_code_of_a_repository_is_not_run(folder):
    ran = folder / "ran"
    code = f"open({str(ran)!r}, 'w').close()\nclass OwnConfig: pass\nclass Own: pass\n"
    (folder / "modeling_own.py").write_text(code)
    auto_map = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    config_with(folder, model_type="own", auto_map=auto_map)
    with pytest.raises(ArchitectureError, match="trust_remote_code=True"):
        resolve(folder, tiny_tokenizer())
    assert not ran.exists()


@pytest.mark.parametrize("device", ["cuda:99", "warp", "meta"])
def test_bad_device(saved, device):
    with pytest.raises(DeviceError, match=device):
        resolve(saved, device=device)


# ---------------------------------------------------------------- loaded models


def test_passed_model_is_never_changed(saved):
    hf = tiny_model().train()
    next(hf.parameters()).requires_grad_(False)
    before = {name: (id(p), p.requires_grad, p.dtype, p.clone()) for name, p in hf.named_parameters()}
    loaded = resolve(hf, tiny_tokenizer())
    assert loaded.hf is hf and hf.training
    assert loaded.source == "LlamaForCausalLM passed by the caller, float32"
    for name, p in hf.named_parameters():
        old = before[name]
        assert (id(p), p.requires_grad, p.dtype) == old[:3] and torch.equal(p, old[3])
    assert loaded.identity == resolve(saved).identity


def test_tokenizer_of_a_passed_model(saved):
    with pytest.raises(FileError, match="needs its tokenizer"):
        resolve(tiny_model())
    loaded = resolve(AutoModelForCausalLM.from_pretrained(saved))
    assert loaded.tokenizer("to")["input_ids"] == [5]
    assert loaded.name == str(saved)
    hf = tiny_model()
    hf.name_or_path = "someone/not-in-the-cache"
    start = time.monotonic()
    with pytest.raises(FileError, match="tokenizer="):
        resolve(hf)
    assert time.monotonic() - start < 2


def test_options_that_contradict_a_passed_model():
    hf, tokenizer = tiny_model(), tiny_tokenizer()
    resolve(hf, tokenizer, dtype="float32", device="cpu", attn_implementation=hf.config._attn_implementation)
    with pytest.raises(MethodError, match=r"dtype=bfloat16.*already loaded"):
        resolve(hf, tokenizer, dtype="bfloat16")
    with pytest.raises(MethodError, match="attn_implementation=flex_attention"):
        resolve(hf, tokenizer, attn_implementation="flex_attention")
    assert hf.dtype == torch.float32


def test_attention_that_leaves_out_the_cap_of_scores(tmp_path):
    """Gemma 2's cap, which sdpa does not know and older transformers drop without a word."""
    hf = tiny_models.make("gemma2", dtype=torch.float32)
    hf.save_pretrained(tmp_path)
    assert resolve(tmp_path, tiny_tokenizer()).hf.config._attn_implementation == "eager"
    with pytest.raises(MethodError, match=r"cap on its attention scores.*attn_implementation='eager'"):
        resolve(tmp_path, tiny_tokenizer(), attn_implementation="sdpa")
    hf.config._attn_implementation_internal = "sdpa"  # as older transformers let it be
    with pytest.raises(MethodError, match="The Gemma2ForCausalLM passed has a cap"):
        resolve(hf, tiny_tokenizer())


def test_models_that_are_not_decoders_with_a_head():
    tokenizer = tiny_tokenizer()
    with pytest.raises(ArchitectureError, match="no language-model head"):
        resolve(AutoModel.from_config(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=6)), tokenizer)
    with pytest.raises(ArchitectureError, match="encoder-decoder"):
        config = T5Config(vocab_size=6, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        resolve(T5ForConditionalGeneration(config), tokenizer)
    for other in (torch.nn.Linear(2, 2), None, 3):
        with pytest.raises(ArchitectureError, match="not a Hugging Face model"):
            resolve(other, tokenizer)


def test_weights_on_no_device_or_on_several():
    hf = tiny_model()
    hf.model.layers[1].to("meta")
    with pytest.raises(DeviceError, match="meta"):
        resolve(hf, tiny_tokenizer())
    if torch.cuda.is_available():
        hf = tiny_model()
        hf.model.layers[1].cuda()
        with pytest.raises(DeviceError, match="nothing moves what goes"):
            resolve(hf, tiny_tokenizer())


def wrapper(package: str, **parts) -> object:
    """An object as `package` makes it: a class of a module of that package, holding the real model."""
    kind = type("LanguageModel", (), {"__module__": f"{package}.modeling.language"})
    made = kind()
    vars(made).update(parts)
    return made


@pytest.mark.parametrize("attribute", ["_model", "_module"])
def test_nnsight_model_is_unwrapped(attribute):
    hf, tokenizer = tiny_model(), tiny_tokenizer()
    loaded = resolve(wrapper("nnsight", tokenizer=tokenizer, **{attribute: hf}))
    assert loaded.hf is hf and loaded.tokenizer is tokenizer
    assert "nnsight LanguageModel" in loaded.source


def test_real_nnsight(saved):
    nnsight = pytest.importorskip("nnsight")
    hf = tiny_model()
    assert resolve(nnsight.LanguageModel(hf, tokenizer=tiny_tokenizer())).hf is hf


def test_data_parallel_wrappers_are_taken_off():
    hf, tokenizer = tiny_model(), tiny_tokenizer()
    loaded = resolve(torch.nn.DataParallel(hf), tokenizer)
    assert loaded.hf is hf
    assert loaded.source == "LlamaForCausalLM passed by the caller, taken out of a DataParallel, float32"
    with pytest.raises(ArchitectureError, match="not a Hugging Face model"):
        resolve(torch.nn.DataParallel(torch.nn.Linear(2, 2)), tokenizer)


@pytest.mark.slow  # torch's compiler takes long to import
def test_compiled_wrappers_are_taken_off():
    hf = tiny_model()
    loaded = resolve(torch.compile(torch.nn.DataParallel(hf)), tiny_tokenizer())
    assert loaded.hf is hf and "taken out of an OptimizedModule, taken out of a DataParallel" in loaded.source


def test_a_model_that_accelerate_runs_in_another_precision_is_refused():
    from accelerate import Accelerator

    prepared = Accelerator(cpu=True, mixed_precision="bf16").prepare(tiny_model())
    with pytest.raises(ArchitectureError, match=r"unwrap_model\(model, keep_fp32_wrapper=False\)"):
        resolve(prepared, tiny_tokenizer())


@pytest.mark.parametrize("kind", ["FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"])
def test_models_spread_over_processes_are_refused(kind):
    """By the names of their classes: making one takes a process group, or a library."""
    spread = type(f"{kind}OfLlama", (type(kind, (torch.nn.Module,), {}),), {})()
    with pytest.raises(ArchitectureError, match="has spread the model's weights over processes"):
        resolve(spread, tiny_tokenizer())


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_virtual_tokens_are_refused_with_what_can_be_done(kind):
    peft = pytest.importorskip("peft")
    hf = tiny_model()
    tuned = peft.get_peft_model(hf, getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ArchitectureError, match=r"virtual tokens.*get_base_model\(\)") as caught:
        resolve(tuned, tiny_tokenizer())
    assert "merge_and_unload" not in str(caught.value)
    assert resolve(tuned.get_base_model(), tiny_tokenizer()).hf is hf


class Linear4bit(torch.nn.Linear):
    """As bitsandbytes has it: weights packed, two in a byte, in one column."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        packed = torch.zeros(linear.weight.numel() // 2, 1, dtype=torch.uint8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)


class Linear8bitLt(torch.nn.Linear):
    """As bitsandbytes has it: of the right shape, but integers."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = torch.nn.Parameter(torch.zeros(linear.weight.shape, dtype=torch.int8), requires_grad=False)


class QuantLinear(torch.nn.Module):
    """As GPTQ has it: no weight at all, but packed buffers."""

    def __init__(self, linear):
        super().__init__()
        self.infeatures, self.outfeatures = linear.in_features, linear.out_features
        self.register_buffer("qweight", torch.zeros(2, linear.out_features, dtype=torch.int32))


class Shard(torch.nn.Linear):
    """Half of the outputs, under the whole's sizes."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = torch.nn.Parameter(linear.weight[: linear.out_features // 2].detach())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Linear4bit, r"uint8 of shape \[192, 1\]"),
        (QuantLinear, "absent"),
        (Shard, r"\[12, 16\]"),
    ],
)
def test_quantised_weights_are_refused(kind, said):
    hf = tiny_model()
    mlp = hf.model.layers[1].mlp
    mlp.up_proj = kind(mlp.up_proj)
    with pytest.raises(ArchitectureError, match=rf"layers\.1\.mlp\.up_proj\.weight.*{kind.__name__} is .*{said}"):
        resolve(hf, tiny_tokenizer())


def test_linear_maps_that_round_what_they_are_given_are_refused():
    hf = tiny_model()
    mlp = hf.model.layers[1].mlp
    mlp.up_proj = Linear8bitLt(mlp.up_proj)
    with pytest.raises(ArchitectureError, match=r"layers\.1\.mlp\.up_proj as a Linear8bitLt, .*load_in_4bit=True"):
        resolve(hf, tiny_tokenizer())


@pytest.mark.filterwarnings("ignore")  # it is deprecated, and used
def test_torchs_dynamic_quantisation_is_refused():
    quantised = torch.ao.quantization.quantize_dynamic(tiny_model(), {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ArchitectureError, match=r"q_proj, a Linear \(packed\), that rounds what it is given"):
        resolve(quantised, tiny_tokenizer())


def test_weights_under_a_parametrisation_or_an_adapter_are_plain():
    from torch.nn.utils.parametrizations import weight_norm

    hf = tiny_model()
    weight_norm(hf.model.layers[0].mlp.up_proj)
    assert resolve(hf, tiny_tokenizer()).hf is hf
    peft = pytest.importorskip("peft")
    tuned = peft.get_peft_model(tiny_model(), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    require_weights(tuned.get_base_model(), "it")


def test_transformer_lens_is_refused():
    with pytest.raises(ArchitectureError, match="load the original Hugging Face model"):
        resolve(wrapper("transformer_lens", model=tiny_model()))


# ---------------------------------------------------------------- identity


def test_identity_notices_every_change():
    hf = tiny_model()
    weight = hf.model.layers[1].mlp.up_proj.weight.data
    digests = {weights_digest(hf)}

    def changed(change) -> None:
        old = weight.clone()
        change()
        digests.add(weights_digest(hf))
        weight.copy_(old)

    changed(lambda: weight[3, 5].mul_(1 + 1e-6))
    changed(lambda: weight[:2, 0].neg_())
    changed(lambda: weight[2].neg_())
    changed(lambda: weight.copy_(weight.roll(1, 0)))
    changed(lambda: weight[0, :2].copy_(weight[0, :2].flip(0)))
    assert len(digests) == 6
    assert weights_digest(hf) in digests  # everything was put back
    assert weights_digest(hf.double()) not in digests


def test_identity_of_large_tensors_notices_signs_and_swaps():
    layer = torch.nn.Linear(300, 301, bias=True)  # more than one piece, with odd bytes left over
    digests = {weights_digest(layer)}
    with torch.no_grad():
        layer.weight[7:9, 1].neg_()
        digests.add(weights_digest(layer))
        layer.weight[11].neg_()
        digests.add(weights_digest(layer))
        layer.weight.copy_(layer.weight.roll(2, 1))
        digests.add(weights_digest(layer))
    assert len(digests) == 4


def test_identity_does_not_depend_on_memory_layout():
    layer = torch.nn.Linear(64, 200)
    digest = weights_digest(layer)
    layer.weight = torch.nn.Parameter(layer.weight.detach().t().contiguous().t())
    assert not layer.weight.is_contiguous()
    assert weights_digest(layer) == digest
    buffer = torch.empty(64 * 200 + 1)
    buffer[1:] = layer.weight.detach().reshape(-1)  # off the grid of 64-bit words
    layer.weight = torch.nn.Parameter(buffer[1:].view(200, 64))
    assert weights_digest(layer) == digest
    one = torch.nn.Linear(1, 1, bias=False)
    one.weight = torch.nn.Parameter(torch.arange(4.0).view(2, 2)[1:, 1:])  # a single value cut out of a table
    digest = weights_digest(one)
    one.weight = torch.nn.Parameter(torch.full((1, 1), 3.0))
    assert weights_digest(one) == digest


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_does_not_depend_on_the_device(dtype):
    layer = torch.nn.Linear(3000, 3001, dtype=dtype)
    assert weights_digest(layer) == weights_digest(layer.cuda())


# ---------------------------------------------------------------- hub ids


def hub_cache(saved, root, repo="someone/tiny", leave_out=()):
    """A Hugging Face cache that holds `repo`."""
    place = root / f"models--{repo.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(saved, place / "snapshots" / commit, ignore=lambda *_: leave_out)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    return root


def test_cached_hub_id_works_offline(saved, tmp_path, no_hub):
    start = time.monotonic()
    loaded = resolve("someone/tiny", cache_dir=hub_cache(saved, tmp_path))
    assert time.monotonic() - start < 2
    assert loaded.identity == resolve(saved).identity
    assert loaded.source == "someone/tiny from the Hugging Face hub, commit 0123456789ab, float32"
    hf = LlamaForCausalLM.from_pretrained("someone/tiny", cache_dir=tmp_path, local_files_only=True)
    assert resolve(hf, cache_dir=tmp_path).name == "someone/tiny"  # its tokenizer is in the cache, too


def test_half_cached_hub_id_is_not_taken_for_whole(saved, tmp_path, no_hub):
    with pytest.raises(DownloadError, match="offline"):
        resolve("someone/tiny", cache_dir=hub_cache(saved, tmp_path / "a", leave_out=["model.safetensors"]))
    with pytest.raises(DownloadError, match="offline"):
        tokens = ["tokenizer.json", "tokenizer_config.json"]
        resolve("someone/tiny", cache_dir=hub_cache(saved, tmp_path / "b", leave_out=tokens))


def test_damaged_hub_cache(saved, tmp_path, no_hub):
    cache = hub_cache(saved, tmp_path)
    (weights,) = cache.rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(FileError, match="cut short"):
        resolve("someone/tiny", cache_dir=cache)


def test_no_network(tmp_path, no_hub):
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"offline.*'gpt2'.*smollm2-135m.*folder.*HF_HOME"):
        resolve("gpt2", cache_dir=tmp_path)
    assert time.monotonic() - start < 3


def test_hub_that_never_answers(tmp_path, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(DownloadError, match=r"offline"):
            resolve("gpt2", cache_dir=tmp_path)
        assert 1.5 < time.monotonic() - start < 3


def test_offline_mode(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        resolve("gpt2", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "said"), [(404, "RepoNotFound", "has no model"), (403, "GatedRepo", "gated")]
)
def test_hub_that_refuses(tmp_path, monkeypatch, status, code, said):
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(DownloadError, match=said):
            resolve("someone/misspelt", cache_dir=tmp_path)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "two words", "someone/..", "a--b/c"])
def test_names_that_mean_nothing(name, no_hub):
    with pytest.raises(FileError):
        resolve(name)


# ---------------------------------------------------------------- manners


def test_state_of_transformers_is_given_back(saved, folder, capfd):
    (folder / "tokenizer.json").write_text("{}")
    old = logging.get_verbosity()
    try:
        logging.set_verbosity_info()
        for bars in (True, False):
            (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
            capfd.readouterr()
            resolve(saved)
            with pytest.raises(FileError):
                resolve(folder)
            assert capfd.readouterr() == ("", "")
            assert logging.get_verbosity() == logging.INFO and logging.is_progress_bar_enabled() is bars
            assert gc.isenabled()
    finally:
        logging.enable_progress_bar()
        logging.set_verbosity(old)


def test_import_is_cheap():
    code = "import sys, veracausa.loading.resolve; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert python(code).strip() == "[]"

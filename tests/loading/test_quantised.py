"""Models with packed weights are taken as they run: the numbers of a copy that is turned back to plain weights.

Tolerance: 1e-9 of the gap for maps that compute in float64; 1e-4 in float32 and 0.1 in bfloat16 (the contracts' own).
"""

import copy
import json

import pytest
import tiny_models
import torch
from placements import CALLS, by_hooks
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.anatomy.packed import SWITCH
from veracausa.errors import ArchitectureError, MethodError


class Packed(torch.nn.Module):
    """Weights as bytes with one scale a row, as quantised linear maps have them; sizes by name, no plain weight."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / 127)
        self.weight = torch.nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x) * self.scale, self.bias)


class Closed(Packed):
    """The same, but no gradient passes."""

    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


def replaced(hf, make):
    """A copy in which every linear map of the blocks is `make(it)`."""
    hf = copy.deepcopy(hf)
    for name, module in list(hf.named_modules()):
        if type(module) in (torch.nn.Linear, Packed, Closed) and "lm_head" not in name:
            owner, _, own = name.rpartition(".")
            setattr(hf.get_submodule(owner), own, make(module))
    return hf


def turned_back(packed):
    linear = torch.nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None)
    linear.weight = torch.nn.Parameter(packed.weight.to(packed.scale) * packed.scale)
    linear.bias = packed.bias
    return linear


def load(hf):
    return vc.load(hf, word_tokenizer(["word"]))


@pytest.mark.parametrize("family", tiny_models.mostly_slow(["llama", "gpt_neox", "gemma2"], fast=("llama",)))
def test_packed_weights_give_the_numbers_of_plain_ones(task_of, agree, family):
    hf, task = replaced(tiny_models.make(family, seed=1), Packed), task_of(6)
    lm, plain = load(hf), load(replaced(hf, turned_back))
    calls = CALLS if family == "llama" else {name: CALLS[name] for name in ("heads", "atp", "eap")}
    assert "weights quantised (Packed)" in lm.source and "quantised" not in plain.source
    for call in calls.values():
        agree(call(lm, task), call(plain, task), plain.measure(task).gap)


@pytest.mark.slow
def test_where_no_gradient_passes_exact_effects_alone_are_given(task_of, agree):
    """Estimates would miss what goes through such a map: the stream's gradient passes beside it, and looks whole."""
    hf, task = replaced(tiny_models.make("llama", seed=1), Closed), task_of(6)
    lm, plain = load(hf), load(replaced(hf, turned_back))
    assert "quantised (Closed; no gradient passes: exact effects alone)" in lm.source
    for units in ("heads", "neurons", "residual", ["a0.h0->m1", "m0->logits"]):
        ours, theirs = (vc.exact(one, task, units=units, show_progress=False) for one in (lm, plain))
        agree(ours.values, theirs.values, theirs.gap)
    circuit = vc.Circuit.from_names(lm, ["a0.h0->m1", "m1->logits"])
    assert vc.faithfulness(lm, task, circuit, show_progress=False).f is not None
    quiet = {"show_progress": False}
    for call in (
        lambda: vc.attribute(lm, task, units="heads", **quiet),
        lambda: vc.attribute(lm, task, units="heads", method="ig", **quiet),
        lambda: vc.attribute(lm, task, units="edges", method="eap-ig", **quiet),
        lambda: vc.estimates.learn_mask(lm, task, units="heads", steps=1, **quiet),
        lambda: vc.effects.optimal_constants(lm, task, units="heads", **quiet),
        lambda: vc.circuits.iterate(lm, task, **quiet),
        lambda: vc.circuits.learn(lm, task, steps=1, **quiet),
    ):
        with pytest.raises(MethodError, match=r"No gradient passes through model\.layers\.\d\.\S+ \(Closed"):
            call()
    assert not any(module._forward_pre_hooks for module in hf.modules())
    assert {1, 2, 3, 9, 11} <= {one.number for one in lm.check()} and not {5, 6, 13} & {o.number for o in lm.check()}


class Rounding(Closed):
    """The same, with inputs rounded to eight bits token by token."""

    def forward(self, x):
        step = x.abs().amax(-1, keepdim=True) / 127
        return super().forward((x / step.clamp_min(1e-9)).round() * step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_that_round_their_inputs_are_refused(dtype):
    """In bfloat16 such a map is linear within what rounding may do; what it writes is off by a tenth of the gap."""
    with pytest.raises(ArchitectureError, match=r"rounds what it is given, too"):
        load(replaced(middle(dtype), Rounding))


def test_packed_weights_are_told_apart():
    hf = replaced(tiny_models.make("llama", seed=1), Packed)
    before = load(hf).identity
    hf.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    assert load(hf).identity.split("-")[0] != before.split("-")[0]


def middle(dtype):
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=60, num_key_value_heads=2, initializer_range=0.12, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).to(dtype).eval()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torchao(task_of, agree, dtype):
    quantization, task = pytest.importorskip("torchao.quantization"), task_of((6, 9), 4)
    hf = middle(dtype)
    quantization.quantize_(hf, quantization.Int8WeightOnlyConfig())
    lm = load(hf)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    assert "weights quantised (Int8Tensor)" in lm.source
    agree(CALLS["heads"](lm, task), by_hooks(hf, task, 32), lm.measure(task).gap, tolerance)
    assert dtype == torch.float32 or all(one.ok for one in lm.check())


@pytest.mark.slow
def test_bitsandbytes_in_4_bits(task_of, agree, tmp_path):
    """A run of the user's own packs the weights anew where the CPU has instructions for that: then it is refused."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    middle(torch.float32).save_pretrained(tmp_path)
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=how, device_map={"": "cpu"})
    lm, task = load(hf.eval()), task_of((6, 9), 4)
    assert "weights quantised (Linear4bit)" in lm.source
    switches = [vars(module).get(SWITCH) for module in hf.modules()]
    assert all(one.ok for one in lm.check())
    found = {name: call(lm, task) for name, call in CALLS.items()}
    assert [vars(module).get(SWITCH) for module in hf.modules()] == switches
    plain = load(copy.deepcopy(hf).dequantize())
    for name, call in CALLS.items():
        agree(found[name], call(plain, task), plain.measure(task).gap, 1e-4)
    hf.save_pretrained(tmp_path / "saved")
    saved = vc.load(tmp_path / "saved", lm.tokenizer)
    assert torch.equal(CALLS["heads"](saved, task), found["heads"])
    with torch.no_grad():
        hf(torch.tensor([task.clean[0]]))
    if any(switches):
        with pytest.raises(ArchitectureError, match=r"packed the 4-bit weights of model\.layers\.0"):
            CALLS["atp"](lm, task)


@pytest.mark.slow
def test_bitsandbytes_in_8_bits_is_refused(tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    middle(torch.float32).save_pretrained(tmp_path)
    how = BitsAndBytesConfig(load_in_8bit=True)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=how, device_map={"": "cpu"})
    with pytest.raises(ArchitectureError, match="Linear8bitLt, which rounds what it is given"):
        load(hf)


def eights(weight, size):
    """A weight as 8-bit floats with a scale for each block of `size` rows and columns, and turned back by hand."""
    rows, columns = (n // size for n in weight.shape)
    blocks = weight.float().reshape(rows, size, columns, size)
    scale = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
    packed = (blocks / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
    return packed, scale, (packed.float().reshape(blocks.shape) * scale[:, None, :, None]).reshape(weight.shape)


def test_a_checkpoint_in_blocks_of_8_bit_floats(tmp_path, task_of):
    """Without a GPU transformers turns it back when it is loaded: its numbers are those of weights turned back here."""
    sizes = {"vocab_size": tiny_models.VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip
    torch.manual_seed(0)
    hf = LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16).eval()
    stored, back = {}, {}
    for name, weight in hf.state_dict().items():
        stored[name] = back[name] = weight.contiguous()
        if name.endswith("proj.weight"):
            stored[name], stored[f"{name}_scale_inv"], back[name] = eights(weight, 16)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    how = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    (tmp_path / "config.json").write_text(json.dumps(hf.config.to_dict() | {"quantization_config": how}))
    lm = load(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval())
    plain = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    plain.load_state_dict({name: weight.to(torch.bfloat16).float() for name, weight in back.items()})
    for name, weight in lm.hf.state_dict().items():
        torch.testing.assert_close(weight.float(), plain.state_dict()[name], rtol=1e-2, atol=1e-6)  # to bfloat16
    task = task_of(7)
    found = vc.exact(lm, task, units="heads", show_progress=False)
    error = (found.values.float() - by_hooks(plain, task, 8).float()).abs().max()
    assert error < 0.1 * found.gap.abs().mean()
    assert vc.attribute(lm, task, units="heads", method="atp", show_progress=False).values.isfinite().all()

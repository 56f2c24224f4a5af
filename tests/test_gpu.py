"""On a GPU: the contracts, effects against plain hooks, and models as people have them there.

`pytest -m gpu` on a machine with one (two minutes). Precision: float64 holds 1e-9 of the gap, float32 1e-4, as
everywhere; bfloat16 0.1, and both ways read the same rounded model, so that wrong wiring is seen and rounding is not.
"""

import copy

import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from word_tokenizer import word_tokenizer

import veracausa as vc

pytest.importorskip("accelerate")

from placements import CALLS, by_hooks, device_map, offloaded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1}


def load(hf):
    return vc.load(hf, word_tokenizer(["word"]))


def tiny(dtype=torch.float64):
    return tiny_models.make("llama", seed=1, dtype=dtype)


def middle(dtype):
    """Six blocks of width 256, as a Llama is initialised, but for larger weights."""
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8}
    config = LlamaConfig(
        vocab_size=60, num_key_value_heads=4, max_position_embeddings=256, initializer_range=0.08, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).to(dtype).eval()


MODELS = [(tiny, torch.float64), (tiny, torch.float32), (tiny, torch.bfloat16), (middle, torch.float32),
          (middle, torch.bfloat16)]  # fmt: skip


@pytest.mark.parametrize(("make", "dtype"), MODELS)
def test_the_contracts_hold(make, dtype):
    lm = load(make(dtype).cuda())
    assert lm.device == torch.device("cuda:0")
    for one in lm.check(strict=False):
        assert one.ok, one


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_the_contracts_hold_of_other_families(family):
    for one in load(tiny_models.make(family, seed=1, dtype=torch.float32).cuda()).check(strict=False):
        assert one.ok, one


@pytest.mark.parametrize(("make", "dtype"), MODELS)
def test_heads_against_plain_hooks(task_of, agree, make, dtype):
    hf, task = make(dtype).cuda(), task_of((6, 9), 4)
    lm = load(hf)
    found = CALLS["heads"](lm, task).cpu()
    agree(found, by_hooks(copy.deepcopy(hf), task, lm.decoder.head_dim), lm.measure(task).gap.cpu(), TOLERANCE[dtype])


@pytest.mark.parametrize("name", CALLS)
def test_the_numbers_are_those_of_the_cpu(task_of, agree, name):
    hf, task = tiny(), task_of((6, 9), 4)
    on_cpu, on_gpu = load(hf), load(copy.deepcopy(hf).cuda())
    # the tables of the rotation are float32 (6e-8), and a GPU's sine is rounded otherwise than a CPU's
    agree(CALLS[name](on_gpu, task).cpu(), CALLS[name](on_cpu, task), on_cpu.measure(task).gap, 1e-5)


@pytest.mark.parametrize("how", ["cpu_offload", "disk_offload", "dispatched", "two devices"])
def test_placed_models(task_of, agree, tmp_path, how):
    """Weights that are fetched for each forward; blocks that compute on the CPU, others on the GPU."""
    hf, task, device = tiny(), task_of((6, 9), 4), torch.device("cuda:0")
    whole, lm = load(copy.deepcopy(hf).to(device)), load(offloaded(hf, how, device, tmp_path))
    assert lm.device == device
    elsewhere = {weight.device.type for weight in lm.hf.parameters()}
    assert elsewhere & ({"cpu"} if how == "two devices" else {"meta"})
    for call in CALLS.values():
        agree(call(lm, task).cpu(), call(whole, task).cpu(), whole.measure(task).gap.cpu())
    assert elsewhere == {weight.device.type for weight in lm.hf.parameters()}


@pytest.mark.parametrize("how", ["dispatched", "two devices"])
def test_the_contracts_hold_of_placed_models(tmp_path, how):
    for one in load(offloaded(tiny(torch.float32), how, torch.device("cuda:0"), tmp_path)).check(strict=False):
        assert one.ok, one


def test_a_device_map_of_transformers(task_of, agree, tmp_path):
    hf, task = middle(torch.bfloat16), task_of((6, 9), 4)
    hf.save_pretrained(tmp_path / "saved")
    where = device_map(hf, [0, "cpu"], 0)
    where.pop("")
    placed = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", device_map=where, dtype=torch.bfloat16).eval()
    assert any(weight.is_meta for weight in placed.parameters())
    # loaded, too: `.to(dtype)` rounds the frequencies of the rotation, which a loaded model has in float32
    lm = load(placed)
    whole = load(AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16).eval().cuda())
    for name in ("heads", "atp"):
        want = CALLS[name](whole, task).cpu()
        agree(CALLS[name](lm, task).cpu(), want, whole.measure(task).gap.cpu(), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("wrapped", ["compiled", "compiled in place", "DataParallel"])
def test_wrappers_that_only_run_the_model(task_of, agree, wrapped):
    hf, task = tiny().cuda(), task_of(6)
    whole = load(copy.deepcopy(hf))
    ids = torch.tensor([task.clean[0]], device="cuda")
    if wrapped == "DataParallel":
        one = torch.nn.DataParallel(hf)
    elif wrapped == "compiled":
        one = torch.compile(hf, backend="aot_eager")
    else:
        hf.compile(backend="aot_eager")
        one = hf
    with torch.no_grad():
        before = one(ids).logits
    lm = load(one)
    for call in CALLS.values():
        agree(call(lm, task).cpu(), call(whole, task).cpu(), whole.measure(task).gap.cpu())
    with torch.no_grad():
        assert torch.equal(one(ids).logits, before)


def test_a_lora(task_of, agree):
    peft = pytest.importorskip("peft")
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tuned = peft.get_peft_model(tiny(), peft.LoraConfig(r=2, target_modules=every, init_lora_weights=False))
    tuned, task = tuned.double().eval().cuda(), task_of(6)
    lm, merged = load(tuned), load(copy.deepcopy(tuned).merge_and_unload())
    for call in CALLS.values():
        agree(call(lm, task).cpu(), call(merged, task).cpu(), merged.measure(task).gap.cpu())

"""What a model is: the same model has one identity, and whatever changes its numbers changes it."""

import functools
from pathlib import Path

import pytest
import tiny_models
import torch
from bridges import as_model
from hooked import Scale, half, scaled, with_hooks
from processes import python

import veracausa as vc
from veracausa.engine.guard import borrowed
from veracausa.engine.identity import difference, identity_of
from veracausa.errors import CircuitError, FileError, MethodError

HELPERS = Path(__file__).parents[1] / "helpers"


def set_window(lm):
    lm.hf.model.layers[0].self_attn.sliding_window = 2


def set_window_in_config(lm):
    lm.hf.config.sliding_window = 2


def set_eps(lm):
    lm.hf.model.layers[1].input_layernorm.variance_epsilon = 0.3


def set_scaling(lm):
    lm.hf.model.layers[1].self_attn.scaling = 0.9


def set_data(lm):
    lm.hf.model.layers[2].mlp.down_proj.weight.data[0, 0] += 1e-12


def swap_heads(lm):
    """Two heads' rows change places: every plain sum stays the same."""
    weight = lm.hf.model.layers[1].self_attn.q_proj.weight
    with torch.no_grad():
        weight[:16] = weight[:16].roll(8, 0)


def through_numpy(lm):
    lm.hf.model.layers[0].mlp.up_proj.weight.detach().numpy()[3, 2] = 0.25


def set_buffer(lm):
    lm.hf.model.rotary_emb.inv_freq.mul_(1.5)


def set_attention_factor(lm):
    lm.hf.model.rotary_emb.attention_scaling = 2.0


def other_activation(lm):
    lm.hf.model.layers[0].mlp.act_fn = torch.nn.Tanh()


def replaced_forward(lm):
    mlp = lm.hf.model.layers[0].mlp
    own = mlp.forward
    mlp.forward = lambda x: 0.5 * own(x)


def hooked(lm):
    lm.hf.model.layers[0].self_attn.v_proj.register_forward_hook(half)


CHANGES = {
    set_window: "configuration", set_window_in_config: "configuration", set_eps: "configuration",
    set_scaling: "configuration", set_buffer: "configuration", set_attention_factor: "configuration",
    other_activation: "configuration", set_data: "weights", swap_heads: "weights", through_numpy: "weights",
    replaced_forward: "hooks", hooked: "hooks",
}  # fmt: skip


@pytest.fixture
def lm():
    return as_model(tiny_models.make("mistral", seed=1), "mistral")


@pytest.mark.parametrize("door", ["storage", "another process's file"])
def test_weights_written_where_torch_counts_no_write(lm, tmp_path, door):
    """Neither a tensor's version nor its place changes, so only its values say it."""
    weight = lm.hf.model.layers[0].mlp.up_proj.weight
    path = tmp_path / "weights.bin"
    path.write_bytes(weight.detach().numpy().tobytes())
    weight.data = torch.from_file(str(path), shared=True, size=weight.numel(), dtype=weight.dtype).view(weight.shape)
    before, known = lm.identity, (weight._version, weight.data_ptr())
    if door == "storage":
        weight.untyped_storage()[2] ^= 1
    else:
        with path.open("r+b") as file:
            file.seek(2)
            file.write(bytes([weight.untyped_storage()[2] ^ 1]))
    assert (weight._version, weight.data_ptr()) == known
    assert difference(before, lm.identity) == "weights"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_seen_and_named(lm, change):
    before = lm.identity
    assert lm.identity == before and difference(before, before) == ""
    change(lm)
    assert difference(before, lm.identity) == CHANGES[change]


@pytest.mark.cases(2)
@pytest.mark.parametrize("change", [*CHANGES], ids=lambda change: change.__name__)
def test_old_numbers_are_not_given_out(lm, task_of, tmp_path, change):
    """A folder of the model before the change gives the model after it its own numbers; results are not mixed."""
    task = task_of(8, n=2)
    old = vc.exact(lm, task, out=tmp_path, show_progress=False)
    estimate = vc.attribute(lm, task, show_progress=False)
    change(lm)
    try:
        right = vc.exact(lm, task, show_progress=False)
    except vc.errors.ContractError:  # a model that the engine refuses is refused with the folder, too
        with pytest.raises(vc.errors.ContractError):
            vc.exact(lm, task, out=tmp_path, show_progress=False)
        return
    new = vc.exact(lm, task, out=tmp_path, show_progress=False)
    assert torch.equal(new.values, right.values)
    words = f"other {CHANGES[change]}"
    with pytest.raises(MethodError, match=words):
        vc.agreement(estimate, new)
    with pytest.raises(MethodError, match=words):
        vc.verify(lm, task, estimate, show_progress=False)
    vc.agreement(estimate, old)


def test_a_circuit_and_constants_of_an_edited_model_are_refused(lm, task_of):
    task = task_of(6)
    circuit = vc.select(vc.attribute(lm, task, units="edges", method="eap", show_progress=False), n=40)
    constants = vc.effects.optimal_constants(
        lm, task, units=["a0.h0"], learning=vc.effects.Learning(steps=1), show_progress=False
    )
    set_eps(lm)
    with pytest.raises(CircuitError, match="other configuration"):
        vc.faithfulness(lm, task, circuit, show_progress=False)
    with pytest.raises(MethodError, match="other configuration"):
        vc.exact(lm, task, units=["a0.h0"], ablation="optimal", constants=constants, show_progress=False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda m, a, o: o * 0.5, lambda m, a, o: o * 0.7),
        (scaled(0.5), scaled(0.7)),
        (functools.partial(half), functools.partial(scaled(0.5))),
        (Scale(0.5), Scale(0.7)),
        (Scale(0.5).method, Scale(0.7).method),
        (scaled(torch.tensor(0.5)), scaled(torch.tensor(0.7))),
    ],
    ids=["constant", "closure", "partial", "object", "method", "tensor"],
)
def test_hooks_differ_by_what_they_do(lm, one, other):
    projection, seen = lm.hf.model.layers[0].self_attn.v_proj, {lm.identity}
    for hook in (one, other):
        handle = projection.register_forward_hook(hook)
        seen.add(lm.identity)
        assert lm.identity in seen
        handle.remove()
        assert lm.identity in seen
    assert len(seen) == 3
    lm.hf.model.layers[1].self_attn.v_proj.register_forward_hook(one)
    assert lm.identity not in seen  # the same hook elsewhere


def test_a_hook_that_writes_down_what_it_sees_is_one_model(lm, task_of):
    """Its list grows with every run, and is no part of what it does."""
    seen, tokens = [], [0]

    def keep(module, args, output):
        seen.append(output)
        tokens[-1] += 1

    lm.hf.model.layers[0].mlp.register_forward_hook(keep)
    before = lm.identity
    lm.measure(task_of(6))
    assert seen and tokens[0] and lm.identity == before


def test_a_global_that_a_hook_reads_counts(lm, monkeypatch):
    handle = lm.hf.model.layers[0].mlp.register_forward_hook(lambda m, a, o: o * GLOBAL)
    before = lm.identity
    monkeypatch.setitem(globals(), "GLOBAL", 0.7)
    assert difference(before, lm.identity) == "hooks"
    handle.remove()


GLOBAL = 0.5


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_what_changes_no_number_changes_nothing(family, task_of):
    """Calls, training mode, gradients, the attention implementation, ids of special tokens, another name."""
    lm = as_model(tiny_models.make(family, seed=1), family)
    before = lm.identity
    vc.attribute(lm, task_of(12), units="heads", method="gim", show_progress=False)
    vc.exact(lm, task_of(30), units="mlps", show_progress=False)
    lm.hf(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert lm.identity == before
    lm.hf.train()
    lm.hf.requires_grad_(False)
    lm.hf.config.pad_token_id, lm.hf.config.use_cache, lm.hf.name_or_path = 7, False, "else"
    lm.hf.config._attn_implementation = "eager"
    assert lm.identity == before
    eager = tiny_models.make(family, seed=1, attn_implementation="eager")
    assert identity_of(eager) == before
    assert identity_of(tiny_models.make(family, seed=1, dtype=torch.float32)) != before


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_state_of_the_last_run_is_no_identity(rope):
    """Rotary embeddings that depend on the length remember the last one."""
    parameters = {"rope_type": rope, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 8}
    if rope == "longrope":
        parameters |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    lm = as_model(tiny_models.make("llama", seed=1, rope_parameters=parameters, max_position_embeddings=16), "llama")
    before = lm.identity
    for length in (4, 30, 4):
        lm.hf(torch.arange(1, 1 + length)[None])
        assert lm.identity == before
    lm.hf.model.rotary_emb.original_inv_freq.mul_(2)
    assert difference(before, lm.identity) == "configuration"


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from hooked import with_hooks
print(with_hooks())
"""


@pytest.mark.slow
def test_another_process_gives_the_same_identity():
    """Hashes of strings differ from process to process, and so do addresses: neither may enter."""
    said = python(CHILD.format(tests=str(HELPERS)), env={"PYTHONHASHSEED": "7"})
    assert said.split() == [with_hooks()]


def test_saved_and_loaded_again_it_is_the_same(tmp_path):
    from transformers import AutoModelForCausalLM

    hf = tiny_models.make("gemma3", seed=1, dtype=torch.float32)
    hf.save_pretrained(tmp_path)
    assert identity_of(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)) == identity_of(hf)


def test_adapters(tmp_path):
    """Their weights, their scale, whether they are on."""
    peft = pytest.importorskip("peft")
    hf = tiny_models.make("llama", seed=1)
    bare = identity_of(hf)
    hf.add_adapter(peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    on = identity_of(hf)
    hf.disable_adapters()
    off = identity_of(hf)
    hf.enable_adapters()
    assert identity_of(hf) == on != bare
    assert "adapters" in difference(bare, on) and difference(on, off) == "adapters"
    hf.model.layers[0].self_attn.v_proj.scaling["default"] = 3.0
    assert difference(on, identity_of(hf)) == "adapters"
    hf.model.layers[0].self_attn.v_proj.scaling["default"] = 4.0  # r 2, alpha 8
    hf.model.layers[0].self_attn.v_proj.lora_A["default"].weight.data[0, 0] += 1
    assert "weights" in difference(on, identity_of(hf))


def test_a_change_that_no_hash_can_see(lm, task_of, tmp_path, monkeypatch):
    """A method replaced in a class: identity is the same, but the bare model's metric is not."""
    task = task_of(8, n=2)
    kind = type(lm.hf.model.layers[0].mlp)
    estimate = vc.attribute(lm, task, show_progress=False)
    vc.exact(lm, task, out=tmp_path, show_progress=False)
    own, before = kind.forward, lm.identity
    monkeypatch.setattr(kind, "forward", lambda self, x: 1.5 * own(self, x))
    assert lm.identity == before
    with pytest.raises(FileError, match="behaved otherwise"):
        vc.exact(lm, task, out=tmp_path, show_progress=False)
    with pytest.raises(MethodError, match="behaved differently"):
        vc.agreement(estimate, vc.attribute(lm, task, method="ig", show_progress=False))


def test_a_call_reads_the_weights_a_few_times_at_most(lm, task_of, tmp_path, monkeypatch):
    import veracausa.engine.identity as module

    reads = []
    own = module.weights_digest
    monkeypatch.setattr(module, "weights_digest", lambda hf, known=None: reads.append(hf) or own(hf, known))
    estimate = vc.attribute(lm, task_of(6), show_progress=False)
    assert len(reads) == 1
    vc.exact(lm, task_of(6), show_progress=False)
    assert len(reads) == 2
    vc.exact(lm, task_of(6), out=tmp_path, show_progress=False)
    assert len(reads) == 3
    vc.verify(lm, task_of(6), estimate, show_progress=False)
    assert len(reads) <= 5


def test_within_a_call_only_what_was_written_to_is_read_again(lm, monkeypatch):
    from veracausa.storage import digests

    reads, own = [], digests.tensor_digest
    monkeypatch.setattr(digests, "tensor_digest", lambda tensor: reads.append(tensor) or own(tensor))
    with borrowed(lm.decoder):
        before, weights = lm.identity, len(reads)
        assert weights and lm.identity == before and len(reads) == weights
        swap_heads(lm)
        after = lm.identity
        assert after != before and len(reads) == weights + 1
        projection = lm.hf.model.layers[0].mlp.down_proj
        projection.weight = torch.nn.Parameter(projection.weight.detach().clone())
        assert lm.identity == after and len(reads) == weights + 2
    assert lm.identity == after and len(reads) == 2 * weights + 2  # the next call knows nothing

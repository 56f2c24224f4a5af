"""The user's model comes back as it was, after success and after an exception; and what the user put on it counts."""

import naive
import pytest
import tiny_models
import torch
from bridges import as_model
from left_as_it_was import Boom, explode, same, state_of, unusual

import veracausa as vc
from veracausa.engine.guard import attention_function, borrowed
from veracausa.errors import MethodError

CALLS = {
    "exact": lambda lm, task: vc.exact(lm, task, units="heads", show_progress=False),
    "exact zero": lambda lm, task: vc.exact(lm, task, units="neurons", ablation="zero", show_progress=False),
    "atp": lambda lm, task: vc.attribute(lm, task, units="neurons", show_progress=False),
    "ig": lambda lm, task: vc.attribute(lm, task, method="ig", nodes=2, show_progress=False),
    "mask": lambda lm, task: vc.estimates.learn_mask(lm, task, steps=2, show_progress=False),
    "responses": lambda lm, task: vc.causes.responses(lm, task, units=["a0.h0"], alphas=[0.5], show_progress=False),
    "measure": lambda lm, task: lm.measure(task),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_restored_after_success(task_of, family, call):
    hf = unusual(family)
    before = state_of(hf)
    CALLS[call](as_model(hf, family), task_of((5, 6), n=2))
    same(before, state_of(hf))


@pytest.mark.parametrize("after", [0, 3, 7])
@pytest.mark.parametrize("call", CALLS)
def test_restored_after_an_exception_inside_the_model(task_of, call, after):
    hf = unusual()
    hf.transformer.h[1].mlp.register_forward_pre_hook(explode(after))
    before = state_of(hf)
    for _ in range(6):  # the hook's count goes on, so that some call surely meets it
        try:
            CALLS[call](as_model(hf, "gpt2"), task_of((5, 6), n=2))
        except Boom as error:
            same(before, state_of(hf))  # with the traceback alive, as in a notebook
            assert error.__traceback__ is not None
            return
    pytest.fail("the hook never raised")


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_restored_when_interrupted_between_two_chunks(task_of, tmp_path, monkeypatch, kind):
    """As when Ctrl-C, or a full disk, hits the writing of pieces: the traceback keeps every frame alive."""
    from veracausa.storage.pieces import Checkpoint

    def fail(self, *, force=False):
        if not force:
            raise kind

    monkeypatch.setattr(Checkpoint, "keep", fail)
    hf = unusual()
    before = state_of(hf)
    try:
        vc.exact(as_model(hf, "gpt2"), task_of(6), rows=1, out=tmp_path, show_progress=False)
    except kind:
        after = state_of(hf)
    finally:
        torch.set_grad_enabled(True)  # whatever happened, not for the tests that follow
    same(before, after)


def test_restored_when_interrupted_between_two_layers(task_of, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("veracausa.estimates.paths.unit_sums.UnitSums.contract", fail)
    hf = unusual()
    before = state_of(hf)
    try:
        vc.attribute(as_model(hf, "gpt2"), task_of(6), method="ig", nodes=2, show_progress=False)
    except KeyboardInterrupt:
        after = state_of(hf)
    finally:
        torch.set_grad_enabled(True)
    same(before, after)


def test_borrowed_restores_exactly_what_it_changed():
    hf = unusual()
    before = state_of(hf)
    with pytest.raises(Boom), borrowed(as_model(hf).decoder):
        assert not any(p.requires_grad for p in hf.parameters())
        assert not any(m.training for m in hf.modules())
        raise Boom
    same(before, state_of(hf))


def test_attention_function_is_put_back():
    lm = as_model(unusual())
    with pytest.raises(Boom), attention_function(lm.decoder, "sdpa"):
        assert lm.hf.config._attn_implementation == "sdpa"
        raise Boom
    assert lm.hf.config._attn_implementation == "eager"


def test_capped_scores_are_not_left_to_sdpa(task_of):
    """The config lets a user choose it after loading; transformers' own error would come from deep inside a run."""
    lm = as_model(tiny_models.make("gemma2"))
    lm.hf.config._attn_implementation_internal = "sdpa"
    with pytest.raises(MethodError, match=r"The Gemma2ForCausalLM has a cap .* set_attn_implementation\('eager'\)"):
        vc.exact(lm, task_of(), units="heads", show_progress=False)
    assert lm.hf.config._attn_implementation == "sdpa"  # what the user chose is his


def test_the_model_still_trains_after_a_call(task_of):
    hf = tiny_models.make("llama", seed=1)
    vc.attribute(as_model(hf, "llama"), task_of(6), method="ig", nodes=2, show_progress=False)
    hf(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(p.grad is not None for p in hf.parameters())


def test_train_mode_with_dropout_gives_eval_numbers(tiny, task_of):
    task = task_of((5, 6), n=2)
    lm = tiny("gpt2", resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    quiet = vc.exact(lm, task, show_progress=False), vc.attribute(lm, task, show_progress=False)
    lm.hf.train()
    loud = vc.exact(lm, task, show_progress=False), vc.attribute(lm, task, show_progress=False)
    assert all(torch.equal(a.values, b.values) for a, b in zip(quiet, loud, strict=True))


def test_under_autocast_the_models_own_precision_is_used(tiny, task_of):
    lm, task = tiny("llama", dtype=torch.float32), task_of(6)
    plain = vc.exact(lm, task, show_progress=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(vc.exact(lm, task, show_progress=False).values, plain.values)


# ---- hooks of the user's own ----------------------------------------------------------------------------------------


def steering(value):
    return lambda module, args, output: output + value


@pytest.mark.parametrize("part", ["model.layers.1.mlp", "model.layers.1.self_attn.o_proj", "model.embed_tokens"])
def test_a_users_steering_hook_is_honoured(task_of, reference, agree, part):
    """The model to explain is the model with the hook."""
    hf, task = tiny_models.make("llama", seed=1), task_of((5, 6), n=2)
    lm = as_model(hf, "llama")
    plain = vc.exact(lm, task, show_progress=False)
    generator = torch.Generator().manual_seed(0)
    hf.get_submodule(part).register_forward_hook(steering(torch.randn(24, generator=generator, dtype=torch.float64)))
    steered = vc.exact(lm, task, show_progress=False)
    assert (steered.values - plain.values).abs().max() > 1e-3
    agree(steered.values, reference(naive.exact, lm, task, steered.units), steered.gap)
    slopes = vc.attribute(lm, task, show_progress=False)
    agree(slopes.values, reference(naive.atp, lm, task, slopes.units), slopes.gap)
    assert len(hf.get_submodule(part)._forward_hooks) == 1


def tripled(module, args, output):
    return (3 * output[0], *output[1:]) if isinstance(output, tuple) else 3 * output


def _honoured_or_refused(hf, task, reference):
    lm = as_model(hf, "llama")
    try:
        scores = vc.exact(lm, task, show_progress=False)
    except vc.VeracausaError:
        return
    theirs = reference(naive.exact, lm, task, scores.units)
    torch.testing.assert_close(scores.values, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("part", ["model.layers.1", "model.norm"])
def test_other_hooks_are_honoured_or_refused(task_of, reference, part):
    """A hook where the engine does not look must never give wrong numbers in silence."""
    hf = tiny_models.make("llama", seed=1)

    hf.get_submodule(part).register_forward_hook(tripled)
    _honoured_or_refused(hf, task_of(6), reference)


@pytest.mark.parametrize("part", ["lm_head", "model.layers.1.self_attn.o_proj", "model.layers.2.self_attn"])
def test_scaling_hooks_are_honoured_or_refused(task_of, reference, part):
    hf = tiny_models.make("llama", seed=1)
    hf.get_submodule(part).register_forward_hook(tripled)
    _honoured_or_refused(hf, task_of(6), reference)


def test_a_users_watching_hook_survives(tiny, task_of):
    lm = tiny("llama", fresh=True)
    seen = []
    handle = lm.hf.model.layers[0].register_forward_hook(lambda *_: seen.append(1))
    vc.exact(lm, task_of(6), units="mlps", show_progress=False)
    assert seen
    count = len(seen)
    with torch.no_grad():
        lm.hf(torch.tensor([[1, 2, 3]]))
    assert len(seen) == count + 1
    handle.remove()
    assert not lm.hf.model.layers[0]._forward_hooks

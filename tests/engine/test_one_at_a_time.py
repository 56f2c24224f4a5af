"""Several threads on one model; calls inside inference mode; settings of the user's that shape a model's outputs."""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny_models
import torch
from bridges import as_model
from left_as_it_was import Boom, explode, same, state_of, unusual

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.guard import alone, attention_function, borrowed, loan_of
from veracausa.errors import DeviceError

CALLS = {
    "exact": lambda lm, task: vc.exact(lm, task, show_progress=False).values,
    "edges": lambda lm, task: vc.exact(lm, task, units=["a0.h0->m1", "m0->logits"], show_progress=False).values,
    "atp": lambda lm, task: vc.attribute(lm, task, show_progress=False).values,
    "eap": lambda lm, task: vc.attribute(lm, task, units="edges", method="eap", show_progress=False).values,
    "measure": lambda lm, task: lm.measure(task).gap,
}

MORE = {
    "circuits": lambda lm, task: run_circuits(lm, task, [all_edges_mask(lm.graph)], show_progress=False).metric,
    "surface": lambda lm, task: vc.causes.surface(
        lm, task, units=("a0.h0", "a1.h1"), alphas=[0.5], show_progress=False
    ).values,
    "locate": lambda lm, task: vc.causes.locate(lm, task, units=["a0.h0"], show_progress=False).runs,
    "ablations": lambda lm, task: vc.behaviour.ablation_study(lm, task, units=["a0.h0"], show_progress=False).metric,
    "acdc": lambda lm, task: torch.tensor(len(vc.circuits.acdc(lm, task, tau=1e9, show_progress=False))),
    "responses": lambda lm, task: vc.causes.responses(lm, task, units=["a0.h0"], alphas=[0.5], show_progress=False).own,
    "flow": lambda lm, task: vc.attribute(lm, task, units="edges", method="ifr", show_progress=False).values,
    "kept": lambda lm, task: vc.exact(lm, task, out=tempfile.mkdtemp(), show_progress=False).values,
}  # fmt: skip


def test_threads_on_one_model_get_the_numbers_of_one_thread(task_of):
    """Two `vc.Model`s of one Hugging Face model count as one; calls queue."""
    hf, task = unusual("llama"), task_of((5, 6), n=2)
    models = [as_model(hf, "llama"), as_model(hf, "llama")]
    alone_found = {name: call(models[0], task) for name, call in CALLS.items()}
    before = state_of(hf)
    wanted = [(name, models[i % 2]) for i, name in enumerate(list(CALLS) * 3)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: (one[0], CALLS[one[0]](one[1], task)), wanted))
    assert len(found) == 15
    assert all(torch.equal(values, alone_found[name]) for name, values in found)
    same(before, state_of(hf))


def test_a_call_that_fails_lets_the_next_thread_in(task_of):
    hf, task = unusual("llama"), task_of((5, 6), n=2)
    lm = as_model(hf, "llama")
    right, before = CALLS["exact"](lm, task), state_of(hf)
    handle = hf.model.layers[1].mlp.register_forward_pre_hook(explode(6))

    def call(_):
        try:
            return CALLS["exact"](lm, task)
        except Boom as error:
            return error  # with its traceback, whose frames hold the suspended work

    with ThreadPoolExecutor(3) as pool:
        failed = list(pool.map(call, range(3)))
        handle.remove()
        assert sum(isinstance(one, Boom) for one in failed) == 3
        assert all(torch.equal(one, right) for one in pool.map(call, range(3)))
    same(before, state_of(hf))
    assert loan_of(lm.decoder).owner is None


def test_a_generator_left_behind_holds_nothing(task_of):
    """A suspended run neither keeps the lock nor, closed late, changes the model of whoever comes next."""
    lm = as_model(unusual("llama"))

    def work():
        with attention_function(lm.decoder, "sdpa"):
            yield

    with borrowed(lm.decoder):
        suspended = work()
        next(suspended)
        assert lm.hf.config._attn_implementation == "sdpa"
    assert lm.hf.config._attn_implementation == "eager"
    lm.hf.config._attn_implementation = "sdpa"  # the user's own choice since then
    entered = threading.Thread(target=lambda: alone(lm.decoder).__enter__())
    entered.start()
    entered.join(10)
    assert not entered.is_alive()
    suspended.close()
    assert lm.hf.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("where", ["eval", "parameters", "hooks", "exit"])
def test_an_interrupt_on_the_way_in_or_out_loses_nothing(task_of, monkeypatch, where):
    hf, task = unusual("llama"), task_of(6)
    lm, before, times = as_model(hf, "llama"), state_of(hf), []

    def interrupt(own, at):
        def interrupted(*args, **kwargs):
            times.append(1)
            if len(times) == at:
                raise KeyboardInterrupt
            return own(*args, **kwargs)

        return interrupted

    target, name, at = {
        "eval": (torch.nn.Module, "train", 3),
        "parameters": (torch.Tensor, "requires_grad_", 4),
        "hooks": (torch.nn.Module, "register_forward_pre_hook", 5),
        "exit": (torch.Tensor, "requires_grad_", 30),
    }[where]
    monkeypatch.setattr(target, name, interrupt(getattr(target, name), at))
    with pytest.raises(KeyboardInterrupt):
        CALLS["exact"](lm, task)
    monkeypatch.undo()
    same(before, state_of(hf))
    assert loan_of(lm.decoder).owner is None and loan_of(lm.decoder).before is None


@pytest.mark.cases(2)
@pytest.mark.parametrize("call", CALLS | MORE)
def test_calls_inside_inference_mode(tiny, task_of, call):
    lm, task = tiny("llama"), task_of((5, 6), n=2)
    run = (CALLS | MORE)[call]
    right = run(lm, task)
    with torch.inference_mode():
        found = run(lm, task)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(right))


def test_weights_made_in_inference_mode_are_refused_in_words(task_of):
    with torch.inference_mode():
        lm = as_model(tiny_models.make("llama", seed=1), "llama")
    with pytest.raises(DeviceError, match=r"made inside torch\.inference_mode.*outside of it"):
        lm.measure(task_of(6))


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("setting", ["return_dict", "use_cache"])
def test_settings_of_outputs_are_the_users(tiny, task_of, family, setting):
    lm, task = tiny(family, fresh=True), task_of((5, 6), n=2)
    right = [CALLS[name](lm, task) for name in CALLS]
    setattr(lm.hf.config, setting, False)
    before = state_of(lm.hf)
    assert all(torch.equal(CALLS[name](lm, task), one) for name, one in zip(CALLS, right, strict=True))
    vc.behaviour.ablation_study(lm, task, units=["a0.h0"], ablations=["zero"], new_tokens=2, show_progress=False)
    same(before, state_of(lm.hf))

"""A model that its user compiled in place runs as it is written, and is compiled again after."""

import pytest
import torch
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.engine.guard import borrowed
from veracausa.engine.uncompiled import uncompiled


def compile_in_place(module, forward):
    """As `module.compile()` and `module.forward = torch.compile(module.forward)` leave it, without a compiler.

    Like compiled code it does not see hooks: it never calls the module inside.
    """

    def compiled(*args, **kwargs):
        raise AssertionError("compiled code was run")

    if forward is None:
        module._compiled_call_impl = compiled
    else:
        compiled._torchdynamo_orig_callable = forward
        module.forward = compiled
    return compiled


@pytest.mark.parametrize("part", ["the model", "a block", "forward of the model", "forward of an MLP"])
def test_compiled_parts_are_set_aside(tiny, task_of, part):
    lm, task = tiny("llama", fresh=True), task_of(n=2)
    expected = vc.exact(lm, task, units="heads", show_progress=False)
    module = lm.hf if "model" in part else lm.hf.model.layers[1].mlp if "MLP" in part else lm.hf.model.layers[1]
    compiled = compile_in_place(module, module.forward if "forward" in part else None)
    again = vc.load(lm.hf, word_tokenizer(["a", "b"]))
    assert torch.equal(vc.exact(again, task, units="heads", show_progress=False).values, expected.values)
    assert vc.attribute(again, task, units="mlps", method="atp", show_progress=False).values.isfinite().all()
    assert again.measure(task).gap.equal(lm.measure(task).gap)
    assert vars(module)["forward" if "forward" in part else "_compiled_call_impl"] is compiled


def test_what_was_compiled_is_put_back_after_an_error(tiny):
    hf = tiny("llama", fresh=True).hf
    compiled = compile_in_place(hf, None)
    with pytest.raises(RuntimeError, match="stop"), uncompiled(hf):
        assert hf._compiled_call_impl is None
        raise RuntimeError("stop")
    assert hf._compiled_call_impl is compiled


@pytest.mark.slow  # torch's compiler takes long to import
def test_a_really_compiled_model(tiny, task_of):
    lm, task = tiny("llama", fresh=True), task_of(n=2)
    expected = vc.exact(lm, task, units="heads", show_progress=False).values
    lm.hf.compile(backend="eager")
    lm.hf.model.layers[0].forward = torch.compile(lm.hf.model.layers[0].forward, backend="eager")
    ids = torch.tensor([task.clean[0]])
    with torch.no_grad():
        lm.hf(ids)  # compiled here, before any hook
    with borrowed(lm.decoder):
        assert lm.hf._compiled_call_impl is None
    assert torch.equal(vc.exact(lm, task, units="heads", show_progress=False).values, expected)
    assert lm.hf._compiled_call_impl is not None

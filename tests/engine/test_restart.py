"""Mixers that go on from what they carry: the numbers of rows that run all positions again, at fewer tokens."""

import pytest
import tiny_models
import torch
from bridges import as_model
from torch.overrides import TorchFunctionMode

import veracausa as vc
from veracausa.contracts.checks import _suffix_equals_full as contract_3
from veracausa.engine import restart, suffix

QUIET = {"show_progress": False}
#: Families whose mixers go on from a cache for any number of tokens, and those that do so for one alone, or not.
GOING_ON = ("mamba2", "bamba", "falcon_h1", "granitemoehybrid", "lfm2", "nemotron_h", "qwen3_next", "olmo_hybrid")
WHOLE = ("mamba", "falcon_mamba", "jamba", "recurrent_gemma")


class InFloat64(TorchFunctionMode):
    """Scans that their families write in float32 are taken in float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        if func is torch.Tensor.to:
            args = [torch.float64 if one is torch.float32 else one for one in args]
        return func(*args, **(kwargs or {}))


def counted(lm, call, monkeypatch, restarts=True):
    """What a call gives, and how many tokens went through mixers in it."""
    tokens = []
    mixers = [lm.decoder.blocks[layer].mixer.attention for layer in lm.decoder.layers_with("mixer")]
    handles = [
        mixer.register_forward_pre_hook(
            lambda _, args, kwargs: tokens.append((args[0] if args else kwargs["hidden_states"]).shape[:2].numel()),
            with_kwargs=True,
        )
        for mixer in mixers
    ]
    with monkeypatch.context() as patched:
        if not restarts:
            patched.setattr(suffix, "carried_by", lambda *_: None)
        found = call()
    for handle in handles:
        handle.remove()
    return found, sum(tokens)


def test_every_family_with_mixers_is_tried():
    assert {*GOING_ON, *WHOLE} == {*tiny_models.MIXED}


@pytest.mark.parametrize("family", tiny_models.mostly_slow(GOING_ON, ("mamba2", "lfm2")))
def test_rows_that_go_on_are_whole_rows(family, task_of, monkeypatch):
    """In float64, to rounding, at fewer tokens; rows from the prompts' beginning give the same."""
    lm, task = as_model(tiny_models.make(family, seed=1), family), task_of(24, n=2, seed=5)
    first, last = (lm.decoder.layers_with("mixer")[i] for i in (0, -1))
    both = [(f"x{first}@{p}", f"x{last}@22") for p in (19, 21)]
    for units in ("channels", [f"x{first}.c{i}@{p}" for i in range(6) for p in (20, 22)], both):

        def run(units=units, **how):
            return vc.exact(lm, task, units=units, **how, **QUIET)

        with InFloat64():
            ours, tokens = counted(lm, run, monkeypatch)
            whole, all_tokens = counted(lm, run, monkeypatch, restarts=False)
            beginning = run(share_prefix=False)
        assert ours.values.abs().max() > 0
        for other in (whole, beginning):
            torch.testing.assert_close(ours.values, other.values, rtol=0, atol=1e-11)
        if units == "channels":
            assert tokens < all_tokens


def test_how_many_tokens_mixers_are_spared(task_of, monkeypatch):
    """144 rows of 24 tokens, of which the last four can change: 3,966 tokens through mixers become 1,222."""
    lm, task = as_model(tiny_models.make("mamba2", seed=1), "mamba2"), task_of(24, seed=5)
    assert task.first_difference == (20,)
    with InFloat64():
        tokens = [counted(lm, lambda: vc.exact(lm, task, units="channels", **QUIET), monkeypatch, restarts)[1]
                  for restarts in (True, False)]  # fmt: skip
    rows = 48 * 2 + 48  # of layer 0 through layers 1 and 2, of layer 1 through layer 2
    spared, asked = (rows - 2) * 20, 2 * (20 + 24 + 4)
    assert tokens[1] - tokens[0] == spared - asked


def test_in_float64_a_scan_in_float32_runs_whole(task_of):
    """It would come to its state in another order, and differ by what float32 rounds."""
    lm, task = as_model(tiny_models.make("mamba2", seed=1), "mamba2"), task_of(24)
    units = [f"x0.c{i}" for i in range(4)]
    ours = vc.exact(lm, task, units=units, **QUIET)
    torch.testing.assert_close(
        ours.values, vc.exact(lm, task, units=units, share_prefix=False, **QUIET).values, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_rows_begin_at_the_first_difference(family, task_of):
    """Also where prompts share no prefix, and what is counted before is what is run."""
    lm, task = as_model(tiny_models.make(family, seed=1), family), task_of((12, 9), n=3)
    for units in ("mixers", "mixers@positions", "residual"):
        found = vc.exact(lm, task, units=units, **QUIET)
        again = vc.exact(lm, task, units=units, share_prefix=False, **QUIET)
        assert found.cost.token_layers == vc.exact.work(lm, task, units=units).tokens() < again.cost.token_layers
        torch.testing.assert_close(found.values, again.values, rtol=0, atol=1e-6, equal_nan=True)
        if units == "mixers@positions":
            for i, first in enumerate(task.first_difference):
                assert not found.values[i, found.units.position < first].any()


def test_contract_3_is_about_rows_that_go_on(task_of, monkeypatch):
    """A cache that is ignored fails it, where the check of every recording is taken away."""
    lm, task = as_model(tiny_models.make("mamba2", seed=1, dtype=torch.float32), "mamba2"), task_of(24, seed=5)
    allowed = 1e-4 * float(lm.measure(task).gap)
    assert contract_3(lm, task) < allowed
    monkeypatch.setattr(restart, "_as_whole", lambda *_: True)
    assert contract_3(lm, task) < allowed
    monkeypatch.setattr(restart, "_going_on", lambda *_: {})
    assert contract_3(lm, task) > 10 * allowed

"""Estimates at spans: sums over positions, for the methods of which they mean something."""

import dataclasses

import pytest
import torch

import veracausa as vc
from veracausa.errors import MethodError

QUIET = {"show_progress": False}
WHERE = ({"subject": (2, 4), "verb": (4, 5)}, {"subject": (3, 5)}, {"subject": (1, 2), "verb": (3, 6)})


@pytest.fixture
def task(task_of):
    return dataclasses.replace(task_of((6, 8), n=3), spans=WHERE)


@pytest.mark.cases(3)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("method", ["atp", "ig", "eap-ig", "relp", "conductance"])
@pytest.mark.parametrize("kind", ["heads", "mlps", "neurons"])
def test_sums_over_the_positions_of_each_pair(tiny, task, kind, method, direction):
    lm = tiny("llama")
    spans = vc.attribute(lm, task, units=f"{kind}@spans", method=method, direction=direction, **QUIET)
    single = vc.attribute(lm, task, units=f"{kind}@positions", method=method, direction=direction, **QUIET)
    column = {key: i for i, key in enumerate(single.units.keys)}
    for u, (layer, index, name) in enumerate(spans.units.keys):
        for i, n in enumerate(task.lengths):
            first, end = (n - 1, n) if name == "end" else WHERE[i].get(name, (0, 0))
            own = [float(single.values[i, column[layer, index, t]]) for t in range(first, end)]
            wanted = sum(own) if own else float("nan")
            assert float(spans.values[i, u]) == pytest.approx(wanted, rel=1e-9, abs=1e-11, nan_ok=True)
    work = vc.attribute.work(lm, task, units=f"{kind}@spans", method=method, direction=direction)
    assert work.tokens() == spans.cost.token_layers
    assert spans.verified == "not verified" and "verb (2 of 3 pairs)" in repr(spans)
    assert any(note.startswith("at spans: the sum") for note in spans.notes)


def test_an_estimate_at_spans_is_verified(tiny, task, tmp_path):
    lm = tiny("llama")
    estimate = vc.attribute(lm, task, units="heads@spans", method="ig", **QUIET)
    receipt = vc.verify(lm, task, estimate, top=4, sample=8, **QUIET)
    exact = vc.exact(lm, task, units=receipt.exact.units, **QUIET)
    torch.testing.assert_close(receipt.exact.values, exact.values, rtol=1e-9, atol=1e-11, equal_nan=True)
    assert vc.agreement(estimate, vc.exact(lm, task, units="heads@spans", **QUIET)).r > 0.3
    again = vc.open(estimate.save(tmp_path / "estimate.safetensors"))
    assert again.units.names == estimate.units.names and again.settings == estimate.settings


def test_a_path_over_a_whole_site_adds_up(tiny, task_of):
    """Spans that cover a prompt hold all that the layer's site does."""
    lm, task = tiny("llama"), dataclasses.replace(task_of(6, n=2), spans=({"front": (0, 3), "back": (3, 6)},) * 2)
    spans = vc.attribute(lm, task, units=["m1@front", "m1@back"], method="ig", **QUIET)
    whole = vc.attribute(lm, task, units=["m1"], method="ig", **QUIET)
    torch.testing.assert_close(spans.values.sum(1), whole.values[:, 0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": vc.Method(path="unit")}, "moves one position at a time"),
        ({"method": "atp-star"}, "magnitudes"),
        ({"method": "expected-gradients"}, "position by position"),
        ({"method": vc.Method(rule="qk-exact"), "units": "keys@spans"}, "a pattern of its own"),
        ({"baseline": "optimal"}, "at all positions"),
        ({"baseline": "resample"}, "at single positions take"),
    ],
)
def test_methods_whose_sums_mean_nothing(tiny, task, options, why):
    with pytest.raises(MethodError, match=why):
        vc.attribute(tiny("llama"), task, **{"units": "heads@spans", **options}, **QUIET)


def test_spans_that_stand_elsewhere_in_the_corrupted_prompt(tiny, task_of):
    task = dataclasses.replace(task_of(6, n=1), spans=({"it": [(2, 3), (3, 4)]},))
    with pytest.raises(MethodError, match="at other positions in the corrupted prompt"):
        vc.attribute(tiny("llama"), task, units="heads@it", **QUIET)
    zero = vc.attribute(tiny("llama"), task, units="heads@it", baseline="zero", **QUIET)
    single = vc.attribute(tiny("llama"), task, units=[f"a0.h{i}@2" for i in range(4)], baseline="zero", **QUIET)
    torch.testing.assert_close(zero.values[:, :4], single.values, rtol=1e-9, atol=1e-11)

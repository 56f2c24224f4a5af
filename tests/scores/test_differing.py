"""The difference of two scores is the effect on the difference of the metrics."""

import dataclasses

import pytest
import torch

import veracausa as vc
from veracausa.errors import MethodError

QUIET = {"show_progress": False}


def two(task):
    """The right and the wrong answer of each pair as tasks of their own, by log-probability."""
    right = dataclasses.replace(task, metric="logprob", incorrect=())
    return right, dataclasses.replace(right, correct=task.incorrect)


@pytest.mark.parametrize("units", ["heads", "mlps@positions", "edges"])
def test_of_two_log_probabilities_it_is_the_logit_difference(tiny, task_of, units):
    lm, task = tiny("llama"), task_of((5, 7), n=3)
    whole = vc.exact(lm, task, units=units, **QUIET)
    found = vc.scores.difference(*(vc.exact(lm, one, units=units, **QUIET) for one in two(task)))
    # the same in real numbers; the logarithm of the sum is taken once more in each, in float64
    torch.testing.assert_close(found.values, whole.values, rtol=0, atol=1e-11, equal_nan=True)
    torch.testing.assert_close(found.gap, whole.gap, rtol=0, atol=1e-11)
    assert found.task["metric"] == "logprob − logprob" and " minus " in found.task["description"]


@pytest.mark.parametrize("method", ["atp", "ig", "eap-ig"])
def test_of_estimates_too(tiny, task_of, method):
    lm, task = tiny("gpt_neox"), task_of(6, n=2)
    units = "edges" if method == "eap-ig" else "heads"
    whole = vc.attribute(lm, task, units=units, method=method, **QUIET)
    both = [vc.attribute(lm, one, units=units, method=method, **QUIET) for one in two(task)]
    torch.testing.assert_close(vc.scores.difference(*both).values, whole.values, rtol=0, atol=1e-10)


def test_of_two_continuations(tiny, task_of):
    """Of which the naive way is two whole runs each."""
    lm, base = tiny("llama"), task_of(6, n=1)
    tasks = []
    for answer in ((7, 8), (9, 3, 4)):
        grown = {name: (getattr(base, name)[0] + answer[:-1],) for name in ("clean", "corrupted")}
        read = (tuple(range(-len(answer), 0)),)
        tasks.append(dataclasses.replace(base, **grown, correct=(answer,), incorrect=(), metric="logprob", read=read,
                                         continued=True, over="sum"))  # fmt: skip
    found = vc.scores.difference(*(vc.exact(lm, one, units=["a1.h2"], **QUIET) for one in tasks))
    apart = [vc.exact(lm, one, units=["a1.h2"], **QUIET) for one in tasks]
    assert float(found.values) == pytest.approx(float(apart[0].values) - float(apart[1].values), abs=1e-12)
    assert float(found.clean) == pytest.approx(
        float(lm.measure(tasks[0]).clean - lm.measure(tasks[1]).clean), abs=1e-12
    )
    assert found.cost.token_layers == apart[0].cost.token_layers + apart[1].cost.token_layers


def test_saved_and_compared(tiny, task_of, tmp_path):
    lm, (right, wrong) = tiny("llama"), two(task_of(6, n=2))
    exact = vc.scores.difference(*(vc.exact(lm, one, **QUIET) for one in (right, wrong)))
    estimate = vc.scores.difference(*(vc.attribute(lm, one, **QUIET) for one in (right, wrong)))
    again = vc.open(exact.save(tmp_path / "a.safetensors"))
    torch.testing.assert_close(again.values, exact.values)
    assert vc.agreement(estimate, again).r == vc.agreement(estimate, exact).r
    with pytest.raises(MethodError, match="different tasks"):
        vc.agreement(vc.attribute(lm, right, **QUIET), exact)


def test_what_has_no_difference(tiny, task_of):
    lm, (right, wrong) = tiny("llama"), two(task_of(6, n=2))
    exact = vc.exact(lm, right, **QUIET)
    for other, said in (
        (vc.exact(lm, wrong, units="mlps", **QUIET), "different kinds of units"),
        (vc.exact(lm, wrong[:1], **QUIET), "different numbers of pairs"),
        (vc.exact(lm, wrong, direction="denoising", **QUIET), "different directions"),
        (vc.exact(lm, wrong, ablation="zero", **QUIET), "different replacements"),
        (vc.attribute(lm, wrong, **QUIET), "different methods"),
        (
            vc.exact(lm, wrong, units=["a0.h1", *exact.units.names[:1], *exact.units.names[2:]], **QUIET),
            "another order",
        ),
        (
            vc.exact(tiny("llama", fresh=True, num_hidden_layers=3, rms_norm_eps=1e-3), wrong, **QUIET),
            "different models",
        ),
    ):
        with pytest.raises(MethodError, match=said):
            vc.scores.difference(exact, other)
    for method, said in (("atp-star", "magnitudes"), ("geodesic-ig", "another for another metric")):
        own = [
            vc.attribute(lm, one, method=method, nodes=3 if "ig" in method else None, **QUIET) for one in (right, wrong)
        ]
        with pytest.raises(MethodError, match=said):
            vc.scores.difference(*own)

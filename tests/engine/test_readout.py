"""Metrics read elsewhere than at the last position: at one or several, of continuations, as functions of the user's.

The reference runs the whole model with plain hooks and computes the metric from all its logits, float64.
"""

import dataclasses

import naive
import pytest
import torch
from tiny_models import FAMILIES, mostly_slow

import veracausa as vc
from veracausa import errors
from veracausa.circuits.runs.run_circuits import run_circuits

VOCAB = 60


def surprise(logits):
    """−log p of the likeliest token but one; two numbers of each row, of several positions the first and last."""
    first = logits if logits.ndim == 2 else logits[:, 0] + 2 * logits[:, -1]
    return first[:, 3] - first[:, 5:9].logsumexp(-1)


def against_clean(logits, clean, pair):
    """A divergence at temperature 2, another for every pair."""
    p, q = (clean / 2).log_softmax(-1), (logits / 2).log_softmax(-1)
    kl = -(p.exp() * (p - q)).sum(-1)
    return (kl if kl.ndim == 1 else kl.mean(-1)) * (1 + pair)


def read(task, where, **how):
    """The same pairs, read at the positions of each that `where(length)` says."""
    return dataclasses.replace(task, read=tuple(where(n) for n in task.lengths), **how)


def tasks(task_of):
    """A task of each way to be read, with what the metric is."""
    base = task_of((6, 7, 9), n=3)
    forced = dataclasses.replace(
        base,
        metric="logprob",
        correct=tuple(ids[-2:] for ids in base.clean),
        incorrect=(),
        read=tuple((n - 3, n - 1) for n in base.lengths),
        continued=True,
        over="sum",
    )
    several = read(base, lambda n: (n - 3, n - 2, n - 1)).with_metric("neg_kl")
    return {
        "earlier": read(base, lambda n: (n - 2,)),
        "of its own": read(base, lambda n: (4,)),
        "mean": read(base, lambda n: tuple(range(2, n))),
        "sum": read(base, lambda n: (n - 3, n - 1), over="sum").with_metric("prob_diff"),
        "divergence": several,
        "continuation": forced,
        "its probability": forced.with_metric("prob"),
        "function": base.with_metric(surprise),
        "function of several": read(base, lambda n: (1, n - 1)).with_metric(surprise),
        "beside the clean run": read(base, lambda n: tuple(range(n - 2, n))).with_metric(against_clean),
    }


WAYS = list(tasks(lambda lengths, n: vc.Task("t", ((1,) * 6, (1,) * 7, (1,) * 9), ((2,) * 6, (2,) * 7, (2,) * 9),
                                             ((3,),) * 3, ((4,),) * 3)))  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("units", ["heads", "mlps@positions", "residual@positions", "keys"])
def test_exact_effects_are_those_of_whole_runs(tiny, task_of, reference, way, units):
    lm, task = tiny("llama"), tasks(task_of)[way]
    for direction in ("noising", "denoising")[: 1 + (units == "heads")]:
        ours = vc.exact(lm, task, units=units, direction=direction, show_progress=False)
        if units == "keys":  # the reference has none: positions sum up only along values, so another way to the number
            again = vc.exact(
                lm, task, units=units, direction=direction, share_prefix=False, rows=3, show_progress=False
            )
            torch.testing.assert_close(ours.values, again.values, rtol=0, atol=1e-10)
            continue
        theirs = reference(naive.exact, lm, task, ours.units, direction=direction)
        torch.testing.assert_close(ours.values, theirs, rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", mostly_slow(FAMILIES))
@pytest.mark.parametrize("way", ["mean", "continuation", "function of several"])
def test_every_family(tiny, task_of, reference, family, way):
    lm, task = tiny(family), tasks(task_of)[way]
    ours = vc.exact(lm, task, units="heads", show_progress=False)
    torch.testing.assert_close(ours.values, reference(naive.exact, lm, task, ours.units), rtol=0, atol=1e-9)
    for method, function in (("atp", naive.atp),):
        found = vc.attribute(lm, task, units="neurons", method=method, show_progress=False)
        theirs = reference(function, lm, task, found.units)
        torch.testing.assert_close(found.values, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "beside the clean run"])
def test_measured_by_the_bare_model(tiny, task_of, way):
    lm, task = tiny("gemma2"), tasks(task_of)[way]
    from bridges import naive_metric

    measured = lm.measure(task)
    for ids, ours in ((task.clean, measured.clean), (task.corrupted, measured.corrupted)):
        for i, prompt in enumerate(ids):
            logits = lm.hf(torch.tensor([prompt])).logits[0].detach()
            metric = naive_metric(lm, task, i)
            theirs = metric(logits) if getattr(metric, "whole", False) else metric(logits[-1])
            assert float(ours[i]) == pytest.approx(float(theirs), abs=1e-10)


@pytest.mark.cases(2)
@pytest.mark.parametrize("way", ["mean", "continuation", "function of several", "divergence"])
def test_edges_and_circuits(tiny, task_of, way):
    """Exact edges are circuits of all edges but one; estimates along a path of edges sum to the gap."""
    lm, task = tiny("llama"), tasks(task_of)[way]
    edges = vc.exact(lm, task, units="edges", show_progress=False)
    graph, some = lm.graph, range(0, len(edges), max(1, len(edges) // 7))
    masks = []
    for unit in some:
        mask = (graph.writer_order[None] <= graph.reader_order[:, None]).copy()
        mask[edges.units.reader[unit], edges.units.writer[unit]] = False
        masks.append(mask)
    runs = run_circuits(lm, task, masks, show_progress=False)
    for column, unit in enumerate(some):
        change = runs.metric[column] - runs.measured.clean
        torch.testing.assert_close(edges.values[:, unit], change, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", ["mean", "continuation", "function of several"])
@pytest.mark.parametrize("units", ["heads", "edges"])
def test_conductance_sums_to_the_change(tiny, task_of, way, units):
    """Increments of all that crosses the stream at the input sum to M(x′) − M(x)."""
    lm, task = tiny("llama"), tasks(task_of)[way]
    found = vc.attribute(lm, task, units=units, method="conductance", nodes=200, show_progress=False)
    gap = float(found.gap.abs().mean())
    assert found.completeness is not None and found.completeness.relative(found.gap) < 2e-2, gap


@pytest.mark.cases(2)
@pytest.mark.parametrize("way", ["mean", "continuation", "function"])
def test_ways_around_the_engine_agree(tiny, task_of, way):
    lm, task = tiny("gpt2"), tasks(task_of)[way]
    whole = vc.exact(lm, task, units="heads", show_progress=False)
    apart = torch.cat([vc.exact(lm, task[i], units="heads", show_progress=False).values for i in range(len(task))])
    torch.testing.assert_close(whole.values, apart, rtol=0, atol=1e-10)
    direct = vc.effects.direct(lm, task, units="heads", show_progress=False)
    edges = [f"{name}->logits" for name in direct.units.names]
    to_logits = vc.exact(lm, task, units=edges, show_progress=False)
    torch.testing.assert_close(direct.values, to_logits.values, rtol=0, atol=1e-9)
    group = vc.exact(lm, task, units=[("a0.h0", "m1")], show_progress=False)
    hooks = vc.effects.interactions(lm, task, units=[("a0.h0", "m1")], show_progress=False)
    assert group.values.isfinite().all() and hooks.values.isfinite().all()


def test_earlier_than_any_difference_nothing_changes(tiny, task_of):
    base = task_of(7, n=2)
    early = read(base, lambda n: (0,)) if min(base.first_difference) else None
    if early is None:
        pytest.skip("the prompts differ from their first token on")
    with pytest.raises(errors.GapError):
        vc.exact(tiny("llama"), early, show_progress=False)


def test_gradients_of_own_metrics_are_those_of_differences(tiny, task_of, reference):
    lm, task = tiny("llama"), task_of(6, n=1).with_metric(surprise)
    found = vc.attribute(lm, task, units="heads", method="atp", show_progress=False)
    theirs = reference(naive.central_difference, lm, task, found.units)
    torch.testing.assert_close(found.values, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda logits: logits, errors.MethodError, r"returned a tensor of shape \(1, 60\) .* one number"),
        (lambda logits: float(logits.sum()), errors.MethodError, "returned float"),
        (lambda logits: logits.sum(-1).log() * float("nan"), errors.NumericsError, "returned NaN"),
        (lambda logits: logits[:, 100], errors.MethodError, "failed on logits of shape .*IndexError"),
        (lambda logits: logits @ logits, errors.MethodError, "failed on logits of shape .*RuntimeError"),
        (lambda logits: logits[:, 0] * 1j, errors.MethodError, "returned complex numbers"),
        (lambda logits: logits[:, 3] - logits.mean(), errors.MethodError, "mixes rows"),
        (
            lambda logits: logits[:, 3] * (1 if len(logits) < 3 else 2),
            errors.MethodError,
            "beside 6 others: it mixes rows",
        ),
        (lambda logits, tokens: logits[:, 3], errors.MethodError, "asks for 'tokens'"),
        (lambda: 3, errors.MethodError, "takes nothing"),
    ],
)
def test_own_metrics_that_are_none(tiny, task_of, function, error, message):
    with pytest.raises(error, match=message):
        vc.exact(tiny("llama"), task_of(5).with_metric(function), show_progress=False)


def test_a_metric_without_a_gradient(tiny, task_of):
    task = task_of(5).with_metric(lambda logits: (logits[:, 3] > logits[:, 4]).to(logits.dtype) + logits[:, 5].detach())
    assert vc.exact(tiny("llama"), task, show_progress=False).values.isfinite().all()
    with pytest.raises(errors.MethodError, match="cannot be differentiated"):
        vc.attribute(tiny("llama"), task, method="atp", show_progress=False)


def test_methods_that_read_the_last_position_refuse(tiny, task_of):
    lm, task = tiny("llama"), read(task_of(6, n=2), lambda n: (n - 2,))
    with pytest.raises(errors.MethodError, match="read the last position alone, but pair 0"):
        vc.attribute(lm, task, units="edges", method="ifr", show_progress=False)
    with pytest.raises(errors.MethodError, match="read the last position alone"):
        vc.behaviour.ablation_study(lm, task, units=["a0.h0"], show_progress=False)


def test_the_divergence_of_circuits_is_over_all_that_is_read(tiny, task_of):
    """Of a circuit without edges, which is the corrupted run, and of the whole graph."""
    lm, task = tiny("llama"), tasks(task_of)["mean"]
    whole = lm.graph.writer_order[None] <= lm.graph.reader_order[:, None]
    runs = run_circuits(lm, task, [whole, whole & False], show_progress=False)
    torch.testing.assert_close(runs.metric[0], runs.measured.clean, rtol=0, atol=1e-9)
    assert float(runs.kl[0].abs().max()) < 1e-9
    for i in range(len(task)):
        p, q = (
            lm.hf(torch.tensor([ids[i]])).logits[0].detach().log_softmax(-1) for ids in (task.clean, task.corrupted)
        )
        theirs = (p.exp() * (p - q)).sum(-1)[list(task.places[i])].mean()
        assert float(runs.kl[1, i]) == pytest.approx(float(theirs), abs=1e-9)


@pytest.mark.parametrize("way", ["earlier", "mean", "continuation"])
def test_whether_the_likeliest_token_is_right(tiny, task_of, way):
    """Beside any metric: at all places that are read, of whole logits."""
    lm, task = tiny("llama"), tasks(task_of)[way]
    both = (task.clean, task.corrupted)
    said = [[lm.hf(torch.tensor([ids])).logits[0].argmax(-1).tolist() for ids in prompts] for prompts in both]
    likely = [
        [said[0][i][at] for at in task.places[i]] if task.continued else [said[0][i][task.places[i][-1]]]
        for i in range(len(task))
    ]
    # the first two pairs' answers are what the clean run says, the third's is something else
    right = [*likely[:2], [(one + 1) % VOCAB for one in likely[2]]]
    wrong = [[] if task.continued else [(one + 2) % VOCAB for one in own] for own in right]
    task = dataclasses.replace(task, correct=tuple(map(tuple, right)), incorrect=tuple(map(tuple, wrong)))
    found = lm.measure(task).right
    for run, answers in enumerate(said):
        for i, own in enumerate(right):
            asked = own if task.continued else own * len(task.places[i])
            theirs = all(answers[i][at] == one for at, one in zip(task.places[i], asked, strict=True))
            assert bool(found[run, i]) == theirs
    assert found[0].tolist()[2] is False and lm.measure(task_of(5).with_metric(surprise)).right is not None


def test_nothing_is_right_without_answers(tiny):
    task = vc.Task("t", ((1, 2, 3),), ((1, 4, 3),), (), (), metric="entropy")
    assert tiny("llama").measure(task).right is None


@pytest.mark.parametrize("way", ["mean", "divergence", "function of several", "its probability"])
def test_logits_in_parts_are_the_same_numbers(tiny, task_of, monkeypatch, way):
    from veracausa.engine import readout

    lm, task = tiny("llama"), tasks(task_of)[way]
    whole = vc.exact(lm, task, units="heads", show_progress=False)
    monkeypatch.setattr(readout, "_LOGITS", VOCAB * 4)
    torch.testing.assert_close(
        vc.exact(lm, task, units="heads", show_progress=False).values, whole.values, rtol=0, atol=1e-12
    )

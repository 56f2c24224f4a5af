"""The logit lens against plain hooks on the Hugging Face model, family by family."""

from __future__ import annotations

import naive_lens
import pytest
import torch
from bridges import as_model, naive_metric
from tiny_models import FAMILIES, VOCAB, make

import veracausa as vc
from veracausa.errors import MethodError
from veracausa.tasks.task import Task

QUIET = {"show_progress": False}


def _naive(lm, task, example: int, corrupted: bool = False) -> dict[str, torch.Tensor]:
    return naive_lens.lens(lm.hf, lm.name, (task.corrupted if corrupted else task.clean)[example])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_point_is_what_hooks_read(tiny, task_of, family):
    lm, task = tiny(family), task_of([7, 9, 7], 3)
    found = vc.reading.lens(lm, task, tokens=3, **QUIET)
    for run in (0, 1):
        for i in range(3):
            points = _naive(lm, task, i, corrupted=run == 1)
            assert tuple(points) == found.points
            for p, logits in enumerate(points.values()):
                last = logits[-1]
                m, (right,) = naive_metric(lm, task, i)(last), task.correct[i]
                assert float(found.metric[run, p, i]) == pytest.approx(float(m), abs=1e-9)
                assert float(found.probability[run, p, i]) == pytest.approx(float(last.softmax(-1)[right]), abs=1e-12)
                assert found.rank[run, p, i] == 1 + (last > last[right]).sum()
                assert found.tokens[run, p, i, 0].tolist() == last.topk(3).indices.tolist()
    bare = lm.measure(task)
    torch.testing.assert_close(found.metric[0, -1], bare.clean, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.metric[1, -1], bare.corrupted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", ["prob", "entropy", "neg_kl", "logit_diff_max"])
def test_other_metrics_and_no_tokens(tiny, task_of, metric):
    lm, task = tiny("llama"), task_of([7, 9], 2, metric=metric)
    found, bare = vc.reading.lens(lm, task, **QUIET), vc.reading.lens(lm, task, tokens=0, **QUIET)
    for i in range(2):
        for p, logits in enumerate(_naive(lm, task, i).values()):
            assert float(found.metric[0, p, i]) == pytest.approx(float(naive_metric(lm, task, i)(logits[-1])), abs=1e-9)
    torch.testing.assert_close(found.metric, bare.metric, rtol=0, atol=1e-12)
    assert bare.tokens.shape[-1] == 0 and bare.probability.isnan().all() and not bare.answered


def test_several_positions_and_a_function(tiny, task_of):
    lm, task = tiny("gemma2"), task_of([7, 9], 2)
    read = Task("t", task.clean, task.corrupted, task.correct, task.incorrect, read=((2, -1), (5,)), over="sum")
    found = vc.reading.lens(lm, read, tokens=2, **QUIET)
    for i, places in enumerate(read.places):
        for p, logits in enumerate(_naive(lm, read, i).values()):
            own, right = logits[list(places)], task.correct[i][0]
            m = (own[:, right] - own[:, task.incorrect[i][0]]).sum()
            assert float(found.metric[0, p, i]) == pytest.approx(float(m), abs=1e-9)
            ranks = 1 + (own > own[:, [right]]).sum(-1)
            assert float(found.rank[0, p, i]) == pytest.approx(float(ranks.double().mean()))
            assert found.tokens[0, p, i, : len(places)].tolist() == own.topk(2).indices.tolist()
    assert found.tokens[0, 0, 1, 1].tolist() == [-1, -1]
    assert len(found.pair(0, place=1)) == 2 * len(found.points)
    with pytest.raises(MethodError, match=r"pair 1 is read at 1 position"):
        found.pair(1, place=1)
    own = task.with_metric(lambda logits: logits[:, :5].logsumexp(-1))
    last = list(_naive(lm, own, 1).values())[3][-1]
    seen = vc.reading.lens(lm, own, **QUIET).metric[0, 3, 1]
    assert float(seen) == pytest.approx(float(last[:5].logsumexp(-1)), abs=1e-9)


def test_without_a_counterpart_and_without_answers(tiny, task_of):
    lm, task = tiny("llama"), task_of([7, 9], 2)
    alone = Task("alone", task.clean, (), (), (), "entropy")
    found = vc.reading.lens(lm, alone, **QUIET)
    assert found.runs == ("clean",) and not found.answered and len(found.sentences) == 2
    assert found.table()["token"].notna().all() and "rank" in found.table()
    assert found.cost.token_layers == sum(task.lengths) * lm.layers


def test_half_precision_reads_its_own_metric_at_the_end(task_of):
    lm, task = as_model(make("llama", seed=1, dtype=torch.bfloat16), "llama"), task_of(7, 1)
    found = vc.reading.lens(lm, task, **QUIET)
    assert found.metric.dtype == torch.float32
    torch.testing.assert_close(found.metric[0, -1], lm.measure(task).clean)


def test_the_forecast_is_the_cost(tiny, task_of):
    lm, task = tiny("llama"), task_of([7, 9, 7], 3)
    price = vc.forecast(vc.reading.lens, lm, task, measure=False)
    assert price.token_layers == vc.reading.lens(lm, task, **QUIET).cost.token_layers


def test_bad_input(tiny, task_of):
    lm, task = tiny("llama"), task_of(7, 1)
    with pytest.raises(MethodError, match=r"tokens=-1: give how many"):
        vc.reading.lens(lm, task, tokens=-1, **QUIET)
    with pytest.raises(MethodError, match=r"no pair 1: this lens has 1"):
        vc.reading.lens(lm, task, **QUIET).pair(1)


def test_more_tokens_than_there_are(tiny, task_of):
    found = vc.reading.lens(tiny("llama"), task_of(7, 1), tokens=VOCAB + 5, **QUIET)
    assert found.tokens.shape[-1] == VOCAB


def test_a_continuation_is_read_where_it_is_predicted(tiny):
    lm = tiny("gpt2")
    task = Task("c", ((3, 5, 8, 9, 4),), ((3, 6, 8, 9, 4),), ((9, 4),), ((),), "logprob", read=((2, 3),), over="sum",
                continued=True)  # fmt: skip
    found = vc.reading.lens(lm, task, **QUIET)
    for p, logits in enumerate(_naive(lm, task, 0).values()):
        own = logits.log_softmax(-1)[[2, 3], [9, 4]]
        assert float(found.metric[0, p, 0]) == pytest.approx(float(own.sum()), abs=1e-9)
        assert float(found.probability[0, p, 0]) == pytest.approx(float(own.exp().mean()), abs=1e-9)


def test_the_gap_is_told_by_the_end_s_half(tiny, task_of):
    found = vc.reading.lens(tiny("llama"), task_of([7, 9], 2), **QUIET)
    gap = (found.metric[0] - found.metric[1]).mean(1)
    from_there = found.points.index(found.half())
    assert (gap[from_there:] / gap[-1] >= 0.5).all()
    assert not from_there or gap[from_there - 1] / gap[-1] < 0.5

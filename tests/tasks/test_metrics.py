import math

import pytest
import torch

from veracausa.errors import MethodError
from veracausa.tasks import METRICS, Answers, metric

VOCAB = 13
CORRECT = [[3], [1, 4], [0, 5, 12]]
INCORRECT = [[7, 8], [2], [6, 9, 10, 11]]
ANSWERS = Answers.of(CORRECT, INCORRECT)


def logits(seed=0, dtype=torch.float64):
    return torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) * 3


def given(m, all_logits, answers=ANSWERS):
    return all_logits if m.vocabulary else answers.pick(all_logits)


def by_hand(name, row, correct, incorrect, reference):
    """The closed form for one example, in plain Python."""
    total = math.log(sum(math.exp(x) for x in row))
    p = [math.exp(x - total) for x in row]
    good, bad = [row[t] for t in correct], [row[t] for t in incorrect]
    return {
        "logit_diff": lambda: sum(good) / len(good) - sum(bad) / len(bad),
        "logit_diff_lse": lambda: math.log(sum(map(math.exp, good))) - math.log(sum(map(math.exp, bad))),
        "logprob": lambda: math.log(sum(p[t] for t in correct)),
        "prob": lambda: sum(p[t] for t in correct),
        "prob_diff": lambda: sum(p[t] for t in correct) - sum(p[t] for t in incorrect),
        "neg_kl": lambda: -sum(math.exp(r) * (r - math.log(q)) for r, q in zip(reference, p, strict=True)),
    }[name]()


@pytest.mark.parametrize("name", METRICS)
def test_closed_form(name):
    m, run, reference = metric(name), logits(), logits(1).log_softmax(-1)
    got = m(given(m, run), ANSWERS, reference)
    want = [
        by_hand(name, row, c, i, ref)
        for row, c, i, ref in zip(run.tolist(), CORRECT, INCORRECT, reference.tolist(), strict=True)
    ]
    assert got.shape == (3,) and got.dtype == torch.float64
    assert got.tolist() == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_gradients(name):
    m, reference = metric(name), logits(1).log_softmax(-1)
    run = logits().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: m(given(m, x), ANSWERS, reference), run, fast_mode=True)


@pytest.mark.parametrize("name", METRICS)
def test_padding_counts_for_nothing(name):
    m, run, reference = metric(name), logits(), logits(1).log_softmax(-1)
    alone = Answers.of(CORRECT[:1], INCORRECT[:1])
    first = ANSWERS[torch.tensor([0])]
    assert first.tokens.shape == (1, 7) and alone.tokens.shape == (1, 3)
    got = m(given(m, run[:1], first), first, reference[:1])
    torch.testing.assert_close(got, m(given(m, run[:1], alone), alone, reference[:1]))
    if not m.vocabulary:  # also where the padded token's logit is infinite, as after a logit mask
        picked = first.pick(run[:1]).masked_fill(~(first.correct | first.incorrect), float("-inf"))
        torch.testing.assert_close(m(picked, first), got)


@pytest.mark.parametrize("name", METRICS)
def test_half_precision_is_widened(name):
    m, run, reference = metric(name), logits(dtype=torch.bfloat16), logits(1).log_softmax(-1)
    got = m(given(m, run), ANSWERS, reference)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, m(given(m, run.float()), ANSWERS, reference))


def test_one_correct_and_one_incorrect_is_the_plain_difference():
    answers, run = Answers.of([[3]], [[7]]), logits()[:1]
    for name in ("logit_diff", "logit_diff_lse"):
        torch.testing.assert_close(metric(name)(answers.pick(run), answers), run[:, 3] - run[:, 7])


def test_neg_kl_at_the_clean_point():
    run = logits().requires_grad_()
    value = metric("neg_kl")(run, ANSWERS, run.detach().log_softmax(-1))
    torch.testing.assert_close(value, torch.zeros(3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), run)
    assert gradient.abs().max() < 1e-12
    assert (metric("neg_kl")(run, ANSWERS, logits(1).log_softmax(-1)) < 0).all()


def test_neg_kl_ignores_tokens_that_the_clean_run_excludes():
    reference = logits(1).masked_fill(torch.arange(VOCAB) == 2, float("-inf")).log_softmax(-1)
    assert metric("neg_kl")(logits(), ANSWERS, reference).isfinite().all()


def test_rows_repeat_and_move():
    rows = torch.tensor([2, 0, 2])
    some = ANSWERS[rows].to("cpu")
    assert len(some) == 3 and some.tokens[0].tolist() == [0, 5, 12, 6, 9, 10, 11]
    m = metric("logit_diff")
    torch.testing.assert_close(m(some.pick(logits()[rows]), some), m(ANSWERS.pick(logits()), ANSWERS)[rows])


def test_no_incorrect_answers_anywhere():
    answers = Answers.of([[1], [2, 3]], [[], []])
    assert metric("prob")(logits()[:2], answers).shape == (2,)


def test_errors():
    with pytest.raises(MethodError, match=r"no metric 'logitdiff'.*logit_diff, logit_diff_lse, logprob, prob"):
        metric("logitdiff")
    with pytest.raises(MethodError, match=r"answer tokens, of shape \(3, 7\), but got \(3, 13\)"):
        metric("logit_diff")(logits(), ANSWERS)
    with pytest.raises(MethodError, match="pass reference="):
        metric("neg_kl")(logits(), ANSWERS)
    with pytest.raises(MethodError, match=r"reference has shape \(2, 13\)"):
        metric("neg_kl")(logits(), ANSWERS, logits()[:2])

import math
from functools import partial

import pytest
import torch

import veracausa as vc
from veracausa.errors import MethodError
from veracausa.tasks import METRICS, Answers, metric
from veracausa.tasks.metrics import flat_where_clean
from veracausa.tasks.task_files import load_task

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
    clean = [math.exp(r) for r in reference]
    middle = [(q + r) / 2 for q, r in zip(p, clean, strict=True)]

    def kl(one, other):
        return sum(a * math.log(a / b) for a, b in zip(one, other, strict=True))

    return {
        "logit_diff": lambda: sum(good) / len(good) - sum(bad) / len(bad),
        "logit_diff_lse": lambda: math.log(sum(map(math.exp, good))) - math.log(sum(map(math.exp, bad))),
        "logprob": lambda: math.log(sum(p[t] for t in correct)),
        "prob": lambda: sum(p[t] for t in correct),
        "prob_diff": lambda: sum(p[t] for t in correct) - sum(p[t] for t in incorrect),
        "logit_diff_max": lambda: sum(good) / len(good) - max(x for t, x in enumerate(row) if t not in correct),
        "logit": lambda: sum(good) / len(good),
        "logit_lse": lambda: math.log(sum(map(math.exp, good))),
        "entropy": lambda: -sum(q * math.log(q) for q in p),
        "neg_kl": lambda: -kl(clean, p),
        "neg_kl_reverse": lambda: -kl(p, clean),
        "neg_js": lambda: -(kl(clean, middle) + kl(p, middle)) / 2,
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


DIVERGENCES = [name for name in METRICS if METRICS[name].compared]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_at_the_clean_point(name):
    run = logits().requires_grad_()
    value = metric(name)(run, ANSWERS, run.detach().log_softmax(-1))
    torch.testing.assert_close(value, torch.zeros(3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), run)
    assert gradient.abs().max() < 1e-12
    assert (metric(name)(run, ANSWERS, logits(1).log_softmax(-1)) < 0).all()
    assert flat_where_clean(name) and not flat_where_clean("logprob")


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].vocabulary])
def test_tokens_that_both_runs_exclude_count_for_nothing(name):
    """Values and gradients are those of the vocabulary without them (a logit mask sets them to −inf)."""
    masked = torch.arange(VOCAB) == VOCAB - 2  # no answer
    run = logits().masked_fill(masked, float("-inf")).requires_grad_()
    reference = logits(1).masked_fill(masked, float("-inf")).log_softmax(-1)
    value = metric(name)(run, ANSWERS, reference)
    (gradient,) = torch.autograd.grad(value.sum(), run)
    kept = ~masked
    answers = Answers.of([[3], [1, 4], [0, 5, 11]], [[7, 8], [2], [6, 9, 10]])  # as they are called without it
    ours = Answers.of([[3], [1, 4], [0, 5, 12]], [[7, 8], [2], [6, 9, 10]])
    small = logits()[:, kept].requires_grad_()
    other = metric(name)(small, answers, reference[:, kept])
    torch.testing.assert_close(metric(name)(run, ours, reference), other)
    if name != "prob_diff":  # which reads a token that the mask excludes, of value 0
        torch.testing.assert_close(value, other)
        torch.testing.assert_close(gradient[:, kept], torch.autograd.grad(other.sum(), small)[0])
    assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", ["0.5", "1", "2", ".25", "10"])
def test_divergences_at_a_temperature_are_those_of_torch(temperature):
    """Of logits that are divided by it, the clean run's as the other's; at 1 the plain metric."""
    run, clean, t = logits().requires_grad_(), logits(1), float(temperature)
    p, q = (run / t).log_softmax(-1), (clean / t).log_softmax(-1)
    kl_div = partial(torch.nn.functional.kl_div, reduction="none", log_target=True)
    middle = ((p.exp() + q.exp()) / 2).log()
    want = {
        "neg_kl": -kl_div(p, q).sum(-1),
        "neg_kl_reverse": -kl_div(q, p).sum(-1),
        "neg_js": -(kl_div(middle, p) + kl_div(middle, q)).sum(-1) / 2,
        "entropy": torch.distributions.Categorical(logits=run / t).entropy(),
    }
    for name, value in want.items():
        found = metric(f"{name}_t{temperature}")
        assert found.name == f"{name}_t{temperature}" and found.vocabulary and not found.answered
        ours = found(run, ANSWERS, clean.log_softmax(-1))
        torch.testing.assert_close(ours, value, rtol=0, atol=1e-12)
        slopes = [torch.autograd.grad(one.sum(), run, retain_graph=True)[0] for one in (ours, value)]
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-12)
        if temperature == "1":
            torch.testing.assert_close(ours, metric(name)(run, ANSWERS, clean.log_softmax(-1)), rtol=0, atol=1e-12)
    assert flat_where_clean(f"neg_kl_t{temperature}") and not flat_where_clean(f"entropy_t{temperature}")


@pytest.mark.parametrize(
    "name", ["neg_kl_t0", "neg_kl_t", "neg_kl_t-1", "neg_kl_t2x", "prob_t2", "kl_t2", "neg_kl_t2_t2"]
)
def test_no_such_temperature(name):
    with pytest.raises(MethodError, match="temperature above 0"):
        metric(name)


def test_a_task_is_measured_at_a_temperature(tiny, task_of, tmp_path):
    """Effects are those of the same function by hand; the name goes into files and back."""
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    warm = task.with_metric("neg_kl_reverse_t2")

    def by_hand(logits, clean):
        p, q = (logits / 2).log_softmax(-1), (clean / 2).log_softmax(-1)
        return (p.exp() * (q - p)).sum(-1)

    found = vc.exact(lm, warm, units="heads", show_progress=False)
    torch.testing.assert_close(
        found.values, vc.exact(lm, task.with_metric(by_hand), units="heads", show_progress=False).values
    )
    with pytest.raises(MethodError, match="gradient"):
        vc.attribute(lm, warm, units="heads", method="atp", show_progress=False)
    vc.attribute(lm, warm, units="heads", method="ig", show_progress=False)
    warm.save(tmp_path / "task.json")
    assert load_task(tmp_path / "task.json").metric == "neg_kl_reverse_t2"


def test_kl_ignores_tokens_that_the_clean_run_alone_excludes():
    reference = logits(1).masked_fill(torch.arange(VOCAB) == 2, float("-inf")).log_softmax(-1)
    for name in ("neg_kl", "neg_js"):
        assert metric(name)(logits(), ANSWERS, reference).isfinite().all()
    assert metric("neg_kl_reverse")(logits(), ANSWERS, reference).tolist() == [float("-inf")] * 3


def test_the_strongest_other_token_may_be_the_padding_one():
    """Token 0 fills rows of the table; it counts as right only where it is an answer."""
    run = torch.zeros(3, VOCAB, dtype=torch.float64)
    run[:, 0] = 5.0
    assert metric("logit_diff_max")(run, ANSWERS).tolist() == pytest.approx([-5, -5, 5 / 3])


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
    with pytest.raises(MethodError, match=r"no metric 'logitdiff'.*logit_diff, logit_diff_lse, logit_diff_max, "):
        metric("logitdiff")
    with pytest.raises(MethodError, match=r"answer tokens, of shape \(3, 7\), but got \(3, 13\)"):
        metric("logit_diff")(logits(), ANSWERS)
    with pytest.raises(MethodError, match="pass reference="):
        metric("neg_kl")(logits(), ANSWERS)
    with pytest.raises(MethodError, match=r"reference has shape \(2, 13\)"):
        metric("neg_kl")(logits(), ANSWERS, logits()[:2])

"""Metrics: one number per example from the logits at the metric's position, higher = more of the behaviour.

`M(x)` of METHODS 1. C is an example's set of correct tokens, I its set of incorrect tokens, ℓ the logits and
p = softmax(ℓ) at the position where it is read, the last one of the prompt unless the task says otherwise:

==================  =======================================  ==============  =================
name                formula                                  needs I         reads
==================  =======================================  ==============  =================
``logit_diff``      mean of ℓ over C − mean of ℓ over I      yes             answer tokens only
``logit_diff_lse``  logsumexp of ℓ over C − the same over I  yes             answer tokens only
``logit_diff_max``  mean of ℓ over C − max of ℓ outside C    no              whole vocabulary
``logit``           mean of ℓ over C                         no              answer tokens only
``logit_lse``       logsumexp of ℓ over C                    no              answer tokens only
``logprob``         log Σ_{c∈C} p_c                          no              whole vocabulary
``prob``            Σ_{c∈C} p_c                              no              whole vocabulary
``prob_diff``       Σ_{c∈C} p_c − Σ_{i∈I} p_i                yes             whole vocabulary
``entropy``         −Σ_v p_v log p_v                         no              whole vocabulary
``neg_kl``          −KL(p of the clean run ‖ p of this run)  no              whole vocabulary
``neg_kl_reverse``  −KL(p of this run ‖ p of the clean run)  no              whole vocabulary
``neg_js``          −½ KL(p₀ ‖ m) − ½ KL(p ‖ m)              no              whole vocabulary
==================  =======================================  ==============  =================

m = ½ (p₀ + p), p₀ of the clean run; all logarithms are natural. Probability saturates and hides negative components. A
plain logit moves with all others, too, whatever becomes of the answer; `logit_diff_max` compares with the strongest
other token, whichever it is, and bends where that changes. The divergences are largest (0) at the clean run, where
their gradient is zero, whatever the answers; entropy says how open the prediction is, not whether it is right. They
and entropy can be of a temperature T, `_t` and a number behind the name, such as `neg_kl_t2` or `neg_kl_reverse_t0.5`:
p = softmax(ℓ / T) and p₀ likewise, without the factor T² of distillation.

Where a task is read at several positions, M is the mean, the sum or the product over them (`combined`): of a
continuation y, log p(y | x) = Σ_t log p(y_t | x, y_<t), p(y | x) = Π_t p(y_t | x, y_<t).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from veracausa.arguments import shown
from veracausa.choices import Over
from veracausa.errors import MethodError
from veracausa.suggestions import did_you_mean

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float
    from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """Answer tokens of several examples as one padded table.

    `tokens` [rows, A] int64, `correct` [rows, A] bool, `incorrect` [rows, A] bool. A place where neither mask is
    True is padding (token 0) and counts for nothing.

    >>> answers = task.answers([0, 3])
    >>> metric("logit_diff")(answers.pick(logits), answers)
    """

    tokens: Tensor
    correct: Tensor
    incorrect: Tensor

    @classmethod
    def of(cls, correct: Sequence[Sequence[int]], incorrect: Sequence[Sequence[int]]) -> Answers:
        """Build the table from one list of token ids per example, correct ones first in each row."""
        import torch

        rows = [(tuple(c), tuple(i)) for c, i in zip(correct, incorrect, strict=True)]
        width = max((len(c) + len(i) for c, i in rows), default=0)
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        is_correct = torch.zeros(len(rows), width, dtype=torch.bool)
        is_incorrect = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, (c, i) in enumerate(rows):
            tokens[row, : len(c) + len(i)] = torch.tensor(c + i, dtype=torch.long)
            is_correct[row, : len(c)] = True
            is_incorrect[row, len(c) : len(c) + len(i)] = True
        return cls(tokens, is_correct, is_incorrect)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: Tensor) -> Answers:
        """The same table for a LongTensor of rows (repeats allowed), such as one row per patched unit."""
        return Answers(self.tokens[rows], self.correct[rows], self.incorrect[rows])

    def to(self, device: torch.device | str) -> Answers:
        """The same table on another device."""
        return Answers(self.tokens.to(device), self.correct.to(device), self.incorrect.to(device))

    def pick(self, logits: Tensor) -> Tensor:
        """Logits of the answer tokens [rows, A] out of all logits [rows, V]."""
        return logits.gather(-1, self.tokens)


@dataclass(frozen=True)
class Metric:
    """One number per example from logits; differentiable, higher = more of the behaviour.

    Called with logits [rows, A] of the answer tokens where `vocabulary` is False, else with all logits [rows, V];
    returns [rows], in float32 at least (float64 stays). `reference`: clean log-probabilities [rows, V], for those that
    are `compared` with the clean run. `answered`: whether it reads the answers at all. Raises MethodError if logits or
    reference have the wrong width, or a divergence gets no reference.

    >>> m = metric("prob")
    >>> m(logits if m.vocabulary else answers.pick(logits), answers)
    """

    name: str
    vocabulary: bool
    needs_incorrect: bool
    function: Callable[[Tensor, Answers, Tensor | None], Tensor]
    compared: bool = False
    answered: bool = True

    def __call__(self, logits: Tensor, answers: Answers, reference: Tensor | None = None) -> Tensor:
        """The metric of each row, [rows]."""
        import torch

        if not self.vocabulary and logits.shape != answers.tokens.shape:
            raise MethodError(
                f"{self.name} takes the logits of the answer tokens, of shape {tuple(answers.tokens.shape)}, but got "
                f"{tuple(logits.shape)}; use answers.pick(logits)"
            )
        if self.compared and reference is None:
            raise MethodError(
                f"{self.name} compares a run with the clean one: pass reference=clean log-probabilities [rows, V]"
            )
        if self.compared and reference is not None and reference.shape != logits.shape:
            raise MethodError(
                f"{self.name}: reference has shape {tuple(reference.shape)}, the logits have {tuple(logits.shape)}; "
                "both are [rows, V]"
            )
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return self.function(wide, answers, reference if reference is None else reference.to(wide.dtype))


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    # where, not multiplication: an infinite logit at a padded place must not become NaN
    return values.where(mask, 0).sum(-1) / mask.sum(-1)


def _logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, float("-inf")).logsumexp(-1)


def _logit_diff(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    return _mean(logits, answers.correct) - _mean(logits, answers.incorrect)


def _logit_diff_lse(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    return _logsumexp(logits, answers.correct) - _logsumexp(logits, answers.incorrect)


def _logprob(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    return _logsumexp(answers.pick(logits.log_softmax(-1)), answers.correct)


def _prob(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    return answers.pick(logits.softmax(-1)).where(answers.correct, 0).sum(-1)


def _prob_diff(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    probability = answers.pick(logits.softmax(-1))
    return probability.where(answers.correct, 0).sum(-1) - probability.where(answers.incorrect, 0).sum(-1)


def _logit(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    return _mean(logits, answers.correct)


def _logit_lse(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    return _logsumexp(logits, answers.correct)


def _logit_diff_max(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    # counted, since padding names token 0 once more where that may be a right answer
    counts = answers.correct.to(logits.dtype).new_zeros(logits.shape)
    right = counts.scatter_add(-1, answers.tokens, answers.correct.to(logits.dtype)) > 0
    return _mean(answers.pick(logits), answers.correct) - logits.masked_fill(right, float("-inf")).amax(-1)


def _entropy(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    return -_expected(logits.log_softmax(-1), logits.log_softmax(-1))


def _neg_kl(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    assert reference is not None  # held by Metric.__call__
    return -divergence(reference, logits)


def _neg_kl_reverse(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    assert reference is not None
    own = logits.log_softmax(-1)
    return _expected(own, reference) - _expected(own, own)


def _neg_js(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    assert reference is not None
    own = logits.log_softmax(-1)
    both = (own.exp() + reference.exp()) / 2
    middle = both.where(both > 0, 1).log()  # a token of no chance in either counts for nothing
    parts = [_expected(p, middle) - _expected(p, p) for p in (reference, own)]
    return (parts[0] + parts[1]) / 2


def _expected(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ_v p_v log q_v of each row, [rows]; a token that p excludes (−inf, as after a logit mask) adds nothing."""
    return (log_p.exp() * log_q.where(log_p > float("-inf"), 0)).sum(-1)


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(p of `reference` ‖ p of `logits`) of each row, [rows], for log-probabilities and logits [rows, V]."""
    log_ratio = reference - logits.log_softmax(-1)
    # a token that the clean run excludes (−inf, as after a logit mask) has p = 0 and adds nothing
    possible = reference > float("-inf")
    return (reference.exp() * log_ratio.where(possible, 0)).sum(-1)


def combined(
    values: Float[Tensor, "rows places"], read: Bool[Tensor, "rows places"], over: Over
) -> Float[Tensor, " rows"]:
    """The mean, the sum or the product of each row's values over the places that are `read`."""
    return COMBINED[over](values, read)


#: What becomes of an example's places: (values, which are read) → one number a row.
COMBINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda values, read: values.where(read, 0).sum(-1) / read.sum(-1),
    "sum": lambda values, read: values.where(read, 0).sum(-1),
    "product": lambda values, read: values.where(read, 1).prod(-1),
}

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("logit_diff", vocabulary=False, needs_incorrect=True, function=_logit_diff),
        Metric("logit_diff_lse", vocabulary=False, needs_incorrect=True, function=_logit_diff_lse),
        Metric("logit_diff_max", vocabulary=True, needs_incorrect=False, function=_logit_diff_max),
        Metric("logit", vocabulary=False, needs_incorrect=False, function=_logit),
        Metric("logit_lse", vocabulary=False, needs_incorrect=False, function=_logit_lse),
        Metric("logprob", vocabulary=True, needs_incorrect=False, function=_logprob),
        Metric("prob", vocabulary=True, needs_incorrect=False, function=_prob),
        Metric("prob_diff", vocabulary=True, needs_incorrect=True, function=_prob_diff),
        Metric("entropy", vocabulary=True, needs_incorrect=False, function=_entropy, answered=False),
        *(
            Metric(name, vocabulary=True, needs_incorrect=False, function=function, compared=True, answered=False)
            for name, function in (("neg_kl", _neg_kl), ("neg_kl_reverse", _neg_kl_reverse), ("neg_js", _neg_js))
        ),
    )
}


#: A metric's name with a temperature behind it.
_WARM = re.compile(r"(.+)_t(\d+(?:\.\d+)?|\.\d+)")


def _known(name: str) -> Metric | None:
    """The metric of that name, maybe of a temperature; None if there is none."""
    if not isinstance(name, str) or name in METRICS or not (found := _WARM.fullmatch(name)):
        return METRICS.get(name) if isinstance(name, str) else None
    base, temperature = METRICS.get(found[1]), float(found[2])
    if base is None or base.answered or not temperature:
        return None
    return replace(base, name=name, function=partial(_warm, base.function, temperature))


def _warm(
    function: Callable[[Tensor, Answers, Tensor | None], Tensor],
    temperature: float,
    logits: Tensor,
    answers: Answers,
    reference: Tensor | None,
) -> Tensor:
    """A metric of logits that are divided by a temperature."""
    clean = None if reference is None else (reference / temperature).log_softmax(-1)
    return function(logits / temperature, answers, clean)


def metric(name: str) -> Metric:
    """The metric of that name; MethodError lists the names if there is none.

    >>> metric("logit_diff").vocabulary
    False
    >>> metric("neg_kl_t2").compared
    True
    """
    if (found := _known(name)) is not None:
        return found
    raise MethodError(
        f"there is no metric {shown(name)}; the metrics are {', '.join(METRICS)}; those that read no answers also at a "
        f"temperature above 0 (neg_kl_t2).{did_you_mean(name, METRICS)}"
    )


def compares_answers(name: str) -> bool:
    """Whether a metric sets right against wrong answers, so that under 0 the wrong ones are preferred."""
    return (found := _known(name)) is not None and found.needs_incorrect


def flat_where_clean(name: str) -> bool:
    """Whether a metric is largest at the clean run, so that its gradient there is zero."""
    return (found := _known(name)) is not None and found.compared

"""Metrics: one number per example from the logits at the metric's position, higher = more of the behaviour.

`M(x)` of METHODS 1. C is an example's set of correct tokens, I its set of incorrect tokens, ℓ the logits and
p = softmax(ℓ) at the last position of the prompt:

==================  =======================================  ==============  =================
name                formula                                  needs I         reads
==================  =======================================  ==============  =================
``logit_diff``      mean of ℓ over C − mean of ℓ over I      yes             answer tokens only
``logit_diff_lse``  logsumexp of ℓ over C − the same over I  yes             answer tokens only
``logprob``         log Σ_{c∈C} p_c                          no              whole vocabulary
``prob``            Σ_{c∈C} p_c                              no              whole vocabulary
``prob_diff``       Σ_{c∈C} p_c − Σ_{i∈I} p_i                yes             whole vocabulary
``neg_kl``          −KL(p of the clean run ‖ p of this run)  no              whole vocabulary
==================  =======================================  ==============  =================

Probability saturates and hides negative components; the gradient of `neg_kl` at the clean point is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from veracausa.arguments import shown
from veracausa.errors import MethodError
from veracausa.suggestions import did_you_mean

if TYPE_CHECKING:
    import torch
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
    returns [rows], in float32 at least (float64 stays). `reference`: clean log-probabilities [rows, V], for `neg_kl`
    alone. Raises MethodError if logits have the wrong width or `neg_kl` gets no reference.

    >>> m = metric("prob")
    >>> m(logits if m.vocabulary else answers.pick(logits), answers)
    """

    name: str
    vocabulary: bool
    needs_incorrect: bool
    function: Callable[[Tensor, Answers, Tensor | None], Tensor]

    def __call__(self, logits: Tensor, answers: Answers, reference: Tensor | None = None) -> Tensor:
        """The metric of each row, [rows]."""
        import torch

        if not self.vocabulary and logits.shape != answers.tokens.shape:
            raise MethodError(
                f"{self.name} takes the logits of the answer tokens, of shape {tuple(answers.tokens.shape)}, but got "
                f"{tuple(logits.shape)}; use answers.pick(logits)"
            )
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return self.function(wide, answers, reference)


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


def _neg_kl(logits: Tensor, answers: Answers, reference: Tensor | None) -> Tensor:
    if reference is None:
        raise MethodError("neg_kl compares a run with the clean one: pass reference=clean log-probabilities [rows, V]")
    if reference.shape != logits.shape:
        raise MethodError(
            f"neg_kl: reference has shape {tuple(reference.shape)}, the logits have {tuple(logits.shape)}; both are "
            "[rows, V]"
        )
    return -divergence(reference.to(logits.dtype), logits)


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(p of `reference` ‖ p of `logits`) of each row, [rows], for log-probabilities and logits [rows, V]."""
    log_ratio = reference - logits.log_softmax(-1)
    # a token that the clean run excludes (−inf, as after a logit mask) has p = 0 and adds nothing
    possible = reference > float("-inf")
    return (reference.exp() * log_ratio.where(possible, 0)).sum(-1)


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("logit_diff", vocabulary=False, needs_incorrect=True, function=_logit_diff),
        Metric("logit_diff_lse", vocabulary=False, needs_incorrect=True, function=_logit_diff_lse),
        Metric("logprob", vocabulary=True, needs_incorrect=False, function=_logprob),
        Metric("prob", vocabulary=True, needs_incorrect=False, function=_prob),
        Metric("prob_diff", vocabulary=True, needs_incorrect=True, function=_prob_diff),
        Metric("neg_kl", vocabulary=True, needs_incorrect=False, function=_neg_kl),
    )
}


def metric(name: str) -> Metric:
    """The metric of that name; MethodError lists the names if there is none.

    >>> metric("logit_diff").vocabulary
    False
    """
    try:
        return METRICS[name]
    except (KeyError, TypeError):
        raise MethodError(
            f"there is no metric {shown(name)}; the metrics are {', '.join(METRICS)}.{did_you_mean(name, METRICS)}"
        ) from None


def compares_answers(name: str) -> bool:
    """Whether a metric sets right against wrong answers, so that under 0 the wrong ones are preferred."""
    return name in METRICS and METRICS[name].needs_incorrect

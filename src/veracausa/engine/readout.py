"""The metric, read off a final residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.engine.validate import require_logits
from veracausa.tasks.metrics import Answers, Metric, metric

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.engine.tape import State
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True)
class Readout:
    """The metric of rows, given their final residual at the last position.

    `answers` are those of a bucket's examples; `reference` their clean log-probabilities where the metric is a KL.
    """

    lm: Model
    metric: Metric
    answers: Answers
    reference: Float[Tensor, "examples vocabulary"] | None

    @classmethod
    def of(cls, lm: Model, task: Task, examples: tuple[int, ...], clean: State) -> Readout:
        """The answers of some examples, and their clean log-probabilities if the metric compares with them.

        Raises:
            NumericsError, ContractError: see `validate.require_logits`.
        """
        kind, answers = metric(task.metric), task.answers(examples).to(lm.device)
        require_logits(lm, clean, answers.tokens)
        reference = None
        if kind.compared:
            reference = lm.decoder.logits(clean.last.detach()).log_softmax(-1)
        return cls(lm, kind, answers, reference)

    def __call__(self, last: Float[Tensor, "rows width"], example: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """M of every row; `example[r]` is row r's example in the bucket."""
        answers = self.answers[example]
        logits = self.lm.decoder.logits(last, None if self.metric.vocabulary else answers.tokens)
        return self.metric(logits, answers, None if self.reference is None else self.reference[example])

    def of_logits(self, logits: Float[Tensor, "rows vocabulary"], example: Int[Tensor, " rows"]) -> Tensor:
        """M of every row, given its logits over the whole vocabulary."""
        answers = self.answers[example]
        read = logits if self.metric.vocabulary else answers.pick(logits)
        return self.metric(read, answers, None if self.reference is None else self.reference[example])

    def of_state(self, state: State) -> Float[Tensor, " examples"]:
        """M of every example of a recorded run."""
        return self(state.last, torch.arange(len(self.answers), device=state.last.device))

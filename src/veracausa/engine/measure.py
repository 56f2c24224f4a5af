"""Read the metric: off a final residual, and for whole tasks off the bare model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veracausa.engine.answer_forms import note_forms
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.cost import Cost
from veracausa.engine.guard import borrowed
from veracausa.engine.memory import halving
from veracausa.engine.tape import State, Tape, buckets, record_pairs
from veracausa.engine.validate import require_logits, require_readable, require_whole
from veracausa.errors import GapError
from veracausa.tasks.metrics import Answers, Metric, metric

if TYPE_CHECKING:
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
        if kind.name == "neg_kl":
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


def readout(lm: Model, task: Task, tape: Tape) -> Readout:
    """The readout of a recorded bucket; every computation on pairs takes it, so the bare model is asked here.

    Warns once per task where the model says another form of the answers (see `answer_forms`).

    Raises:
        NumericsError, ContractError: see `validate.require_logits` and `validate.require_whole`.
    """
    read = Readout.of(lm, task, tape.examples, tape.clean)
    require_whole(lm, task, tape, read)
    note_forms(lm, task, tape.examples, tape.clean.logits)
    return read


@dataclass(frozen=True)
class Measurement:
    """The metric of every example: `clean`, `corrupted`, and their difference `gap`, each [examples]."""

    clean: Float[Tensor, " examples"]
    corrupted: Float[Tensor, " examples"]

    @classmethod
    def blank(cls, lm: Model, task: Task) -> Measurement:
        """Room for every example of a task, to be filled by `put`."""
        return cls(*torch.full((2, len(task)), float("nan"), dtype=lm.score_dtype))

    def put(self, examples: tuple[int, ...], clean: Tensor, corrupted: Tensor) -> None:
        """Write down the values of some examples."""
        self.clean[list(examples)] = clean.to(self.clean)
        self.corrupted[list(examples)] = corrupted.to(self.corrupted)

    @property
    def gap(self) -> Float[Tensor, " examples"]:
        """M(x) − M(x′), example by example."""
        return self.clean - self.corrupted

    @property
    def weak(self) -> list[int]:
        """Examples that the model hardly separates: |gap| under a tenth of the mean |gap|."""
        size = self.gap.abs()
        return torch.nonzero(size < 0.1 * size.mean()).flatten().tolist()

    def require_gap(self, task: Task, corrupted: str = "corrupted") -> None:
        """Raise GapError unless the mean gap differs from zero by more than rounding; `corrupted`: the other run."""
        scale = torch.cat([self.clean, self.corrupted]).abs().max().clamp_min(1e-12)
        if abs(float(self.gap.mean())) <= 1e-5 * float(scale):
            raise GapError(
                f"The model does not separate clean from {corrupted} on {task.name!r}: mean metric "
                f"{float(self.clean.mean()):+.4g} clean, {float(self.corrupted.mean()):+.4g} {corrupted} "
                f"({task.metric}, {len(task)} pairs). Effects cannot be compared with a gap of zero: check the "
                "answers, or choose a corruption that changes the behaviour."
            )


def measure(lm: Model, task: Task, cost: Cost | None = None) -> Measurement:
    """M(x) and M(x′) of every pair of a task, by the bare model (public as `lm.measure`)."""

    def run(start: int, examples: tuple[int, ...]) -> None:
        tape = record_pairs(lm.decoder, *pair_ids(lm, task, examples), start, examples=examples, cost=cost)
        read = readout(lm, task, tape)
        measured.put(examples, read.of_state(tape.clean), read.of_state(tape.corrupted))

    with borrowed(lm.decoder), torch.no_grad():
        measured = Measurement.blank(lm, task)
        halving(buckets(lm.decoder, task.clean, task.corrupted, True, examples_per_batch(lm, task)), run)
    return measured


def pair_ids(
    lm: Model, task: Task, examples: tuple[int, ...]
) -> tuple[Int[Tensor, "examples positions"], Int[Tensor, "examples positions"]]:
    """Clean and corrupted token ids of a bucket, on the model's device."""
    both = [[prompts[i] for i in examples] for prompts in (task.clean, task.corrupted)]
    for prompts in both:
        require_readable(lm, prompts)
    clean, corrupted = (torch.tensor(prompts, device=lm.device) for prompts in both)
    return clean, corrupted

"""The metric, read off a final residual at the positions where it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.choices import Over
from veracausa.engine.validate import require_logits, rounding
from veracausa.errors import MethodError
from veracausa.tasks.metrics import Answers, Metric, combined, metric
from veracausa.tasks.own_metrics import OwnMetric

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from veracausa.engine.tape import State
    from veracausa.model import Model
    from veracausa.tasks.task import Task


#: Places whose logits over the whole vocabulary are held at once.
_UNEMBEDDED = 64
#: Beside how many other rows a function of the user's is tried.
_BESIDE = (1, 6)
#: Logits that a metric without gradients is given at once: 256 MB in float32.
_LOGITS = 1 << 26


@dataclass(frozen=True)
class Readout:
    """The metric of rows, given their final residual at a bucket's tail (its last positions).

    `places[example]`: positions in the tail at which an example is read, [examples, P], filled up with its first one;
    `read` says which of them count. `over`: what becomes of an example's positions. `answers`: of every example and
    place, [examples · P, A]. `pair`: the examples' numbers in the task as it was made. `reference`: the clean run's
    log-probabilities there, where the metric compares with them, [examples, P, vocabulary].
    """

    lm: Model
    metric: Metric | OwnMetric
    answers: Answers
    places: Int[Tensor, "examples places"]
    read: Bool[Tensor, "examples places"]
    pair: Int[Tensor, " examples"]
    tail: int
    over: Over
    reference: Float[Tensor, "examples places vocabulary"] | None = None

    @classmethod
    def of(cls, lm: Model, task: Task, examples: tuple[int, ...], clean: State) -> Readout:
        """The answers of some examples, and their clean log-probabilities if the metric compares with them.

        Raises:
            NumericsError, ContractError: see `validate.require_logits`.
        """
        answers, tail = task.answers(examples).to(lm.device), task.tail(examples)
        longest = max(task.lengths[i] for i in examples)
        where = [[place + tail - longest for place in task.places[i]] for i in examples]
        most = max(map(len, where))
        places = torch.tensor([row + row[:1] * (most - len(row)) for row in where], device=lm.device)
        read = torch.tensor([[k < len(row) for k in range(most)] for row in where], device=lm.device)
        pair = torch.tensor([task.number[i] for i in examples], device=lm.device)
        require_logits(lm, clean, answers.tokens[::most])
        made = cls(lm, task.measure, answers, places, read, pair, tail, task.over)
        return made.compared_with(clean) if made.metric.compared else made

    @property
    def every(self) -> Int[Tensor, " examples"]:
        """All examples, by their places in the bucket."""
        return torch.arange(len(self.places), device=self.places.device)

    def compared_with(self, clean: State) -> Readout:
        """The same, with the clean run's log-probabilities."""
        hidden = self.lm.decoder.final_norm(clean.end(self.tail).detach())
        logits = self.lm.decoder.unembedded(self.gathered(hidden, self.every).flatten(0, 1))
        return replace(self, reference=logits.log_softmax(-1).unflatten(0, self.places.shape))

    def require_rows(self, clean: State) -> None:
        """MethodError if a function of the user's makes a row's number of other rows, too.

        It is asked for the first pair alone, and beside the logits of one other row and of several.
        """
        if not isinstance(self.metric, OwnMetric):
            return
        first = torch.zeros(1, dtype=torch.long, device=self.places.device)
        with torch.no_grad():
            hidden = self.gathered(self.lm.decoder.final_norm(clean.end(self.tail)[:1].detach()), first)[0]
            logits = self.lm.decoder.unembedded(hidden)
            alone = self._of(logits, first)
            others = [1 + (2 + k) * logits.flip(-1) for k in range(max(_BESIDE))]
            beside = {n: self._of(torch.cat([logits, *others[:n]]), first.expand(1 + n))[:1] for n in _BESIDE}
        for count, found in beside.items():
            if float((alone - found).abs()) > rounding(logits.dtype, 1 + float(alone.abs())):
                raise MethodError(
                    f"The metric {self.metric.name} gives {float(alone):.6g} for a pair's logits alone and "
                    f"{float(found):.6g} beside {'another row' if count == 1 else f'{count} others'}: it mixes rows. "
                    "Each row is a run of its own, so reduce over the last dimension alone (dim=-1)."
                )

    def divergence(self, clean: State) -> Readout:
        """Minus the KL from the clean run's output distribution, its mean over the places that are read."""
        return replace(self, metric=metric("neg_kl"), over="mean").compared_with(clean)

    def __call__(self, ends: Float[Tensor, "rows tail width"], example: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """M of every row; `example[r]` is row r's example in the bucket."""
        hidden, decoder = self.gathered(self.lm.decoder.final_norm(ends), example), self.lm.decoder
        if not self.metric.vocabulary:
            return self._of(decoder.unembedded(hidden.flatten(0, 1), self._answers(example).tokens), example)
        vocabulary: Tensor = decoder.unembedding.weight  # type: ignore[assignment]
        rows = len(hidden) if hidden.requires_grad else max(1, _LOGITS // (len(vocabulary) * hidden.shape[1]))
        parts = zip(hidden.split(rows), example.split(rows), strict=True)
        return torch.cat([self._of(decoder.unembedded(own.flatten(0, 1)), who) for own, who in parts])

    def of_logits(
        self, logits: Float[Tensor, "rows tail vocabulary"], example: Int[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """M of every row, given its logits over the whole vocabulary."""
        return self.of_places(self.gathered(logits, example), example)

    def of_places(
        self, logits: Float[Tensor, "rows places vocabulary"], example: Int[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """The same, given them at the places where it is read."""
        read = logits.flatten(0, 1)
        return self._of(read if self.metric.vocabulary else self._answers(example).pick(read), example)

    def of_state(self, state: State, example: Int[Tensor, " rows"] | None = None) -> Float[Tensor, " rows"]:
        """M of every row of a recorded run; its rows are the bucket's examples where none are given."""
        return self(state.end(self.tail), self.every if example is None else example)

    def right(self, state: State) -> Bool[Tensor, " examples"]:
        """Whether the likeliest token is a correct answer, at all places where an example is read."""
        hidden = self.gathered(self.lm.decoder.final_norm(state.end(self.tail)), self.every).flatten(0, 1)
        said = torch.cat([self.lm.decoder.unembedded(part).argmax(-1) for part in hidden.split(_UNEMBEDDED)])
        answers = self._answers(self.every)
        found = ((said[:, None] == answers.tokens) & answers.correct).any(-1).unflatten(0, self.places.shape)
        return (found | ~self.read).all(-1)

    def logits_at_the_end(self, clean: State) -> Tensor | None:
        """The clean run's logits where each example is last read; None where it kept none."""
        if clean.logits is None or self.tail == 1:
            return clean.logits
        last = self.places.gather(1, self.read.sum(1, keepdim=True) - 1)
        return self.lm.decoder.logits(clean.end(self.tail)[self.every, last[:, 0]])

    def gathered(self, ends: Tensor, example: Tensor) -> Float[Tensor, "rows places *channels"]:
        """What rows have at the places where they are read, given it at the tail."""
        if ends.shape[1] == 1:
            return ends
        row = torch.arange(len(ends), device=ends.device)[:, None]
        return ends[row, self.places[example]]

    def _answers(self, example: Tensor) -> Answers:
        """The answers of every row and place."""
        most = self.places.shape[1]
        if most == 1:
            return self.answers[example]
        return self.answers[(example[:, None] * most + torch.arange(most, device=example.device)).flatten()]

    def _of(self, logits: Float[Tensor, "rows_x_places logits"], example: Tensor) -> Float[Tensor, " rows"]:
        """M of every row, given the logits that it reads, of every place."""
        most, reference = self.places.shape[1], None if self.reference is None else self.reference[example]
        if isinstance(self.metric, OwnMetric):
            return self.metric.of_rows(
                logits.unflatten(0, (-1, most)), self.read[example], self.pair[example], reference
            )
        found = self.metric(logits, self._answers(example), None if reference is None else reference.flatten(0, 1))
        if most == 1:
            return found
        return combined(found.unflatten(0, (-1, most)), self.read[example], self.over)

"""`vc.reading.lens`: what the model would say if it stopped at each layer.

    M_l = M(unembedding(final norm(x_l))),   x_l: the stream where block l begins, or between its attention and its MLP

The norm is the live one: each x_l is divided by its own size. At the end of the stream M_L is the model's own M.

Cost: one recorded run of each prompt; nothing is run again. Reading costs one product with the unembedding for every
point and position that is read, width × vocabulary each: of SmolLM2-135M, 61 points of 32 pairs, twice, are 0.2 TFLOP,
about what the runs themselves are at 15 tokens. With `tokens=0` only the answers' rows of it are multiplied, if the
metric needs no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.arguments import shown
from veracausa.engine.bucket import Bucket
from veracausa.engine.tape import State
from veracausa.engine.work import gives
from veracausa.errors import MethodError
from veracausa.reading.both_runs import BothRuns
from veracausa.reading.lenses import Lens
from veracausa.scores.scores import task_header

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Logits that are held at once.
_LOGITS = 1 << 25


@dataclass(frozen=True, eq=False)
class LensWork(BothRuns):
    """What `lens` is about to do; `top`: likeliest tokens that are kept of every point."""

    top: int

    @property
    def points(self) -> tuple[str, ...]:
        """Where the stream is read, from its beginning."""
        decoder, names = self.lm.decoder, []
        for layer, block in enumerate(decoder.blocks):
            names += [f"r{layer}"] if block.parallel else [f"r{layer}", f"r{layer}+a{layer}"]
        return (*names, f"r{decoder.layers}")

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Lens:
        """Record both runs and read them; nothing is kept on the way."""
        task, vocabulary = self.task, self.lm.decoder.unembedding_map.weight.shape[1]
        places, kept = max(map(len, task.places)), min(self.top, vocabulary)
        shape = len(self.points), len(task)
        figures = {name: self.blank(*shape) for name in ("metric", "probability", "rank")}
        tokens = torch.full((len(self.runs), *shape, places, kept), -1)

        def look(bucket: Bucket) -> None:
            ends = [stream[:, -bucket.tape.tail :] for state in self.states(bucket) for stream in self._streams(state)]
            for name, values in self._read(bucket, torch.cat(ends)).items():
                values = values.unflatten(0, (len(self.runs), len(self.points), -1)).cpu()
                if name == "tokens":
                    tokens[:, :, bucket.index, : values.shape[3]] = values
                else:
                    figures[name][:, :, bucket.index] = values.to(figures[name])

        with self.calling(show_progress) as call:
            self.each(call, f"logit lens of {len(task):,} pairs", look)
        return Lens(
            points=self.points, runs=self.runs, **figures, tokens=tokens, vocabulary=self.strings(tokens),
            settings={"tokens": self.top}, model=call.origin, task=task_header(task), cost=call.cost,
        )  # fmt: skip

    def _streams(self, state: State) -> Iterator[Float[Tensor, "examples positions width"]]:
        """The stream at every point."""
        for layer, block in enumerate(self.lm.decoder.blocks):
            yield state.residual[layer]
            if not block.parallel:
                yield state.middle[layer]
        yield state.residual[-1]

    def _read(self, bucket: Bucket, ends: Float[Tensor, "rows tail width"]) -> dict[str, Tensor]:
        """What streams say: all points of all examples in few products, since each reads the whole unembedding."""
        read, decoder, whole = bucket.read, self.lm.decoder, bucket.every.repeat(len(ends) // len(bucket.every))
        if not self.top:
            return {"metric": read(ends, whole)}
        places, vocabulary = read.places.shape[1], decoder.unembedding_map.weight.shape[1]
        size = max(1, _LOGITS // (places * vocabulary))
        found: list[dict[str, Tensor]] = []
        for rows, example in zip(ends.split(size), whole.split(size), strict=True):
            hidden = decoder.final_norm(read.gathered(rows, example))
            logits = decoder.unembedded(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
            found.append({"metric": read.of_places(logits, example), **self._said(bucket, logits, example)})
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def _said(
        self, bucket: Bucket, logits: Float[Tensor, "rows places vocabulary"], example: Tensor
    ) -> dict[str, Tensor]:
        """The likeliest tokens, and the correct answers' probability and rank, means over the places."""
        read = bucket.read
        counts = read.read[example]
        top = logits.topk(min(self.top, logits.shape[-1]), -1).indices
        found = {"tokens": top.where(counts[..., None], -1)}
        if not read.answers.correct.any():
            return found
        rows = (example[:, None] * counts.shape[1] + torch.arange(counts.shape[1], device=example.device)).flatten()
        answers = read.answers[rows]
        own = answers.pick(logits.flatten(0, 1)).masked_fill(~answers.correct, float("-inf"))
        chance = (own - logits.flatten(0, 1).logsumexp(-1, keepdim=True)).exp().sum(-1)
        rank = 1 + (logits.flatten(0, 1) > own.amax(-1, keepdim=True)).sum(-1)
        for name, values in (("probability", chance), ("rank", rank.to(chance))):
            found[name] = values.unflatten(0, counts.shape).where(counts, 0).sum(-1) / counts.sum(-1)
        return found


@gives(Lens)
def lens(
    lm: Model, task: Task, *, tokens: int = 5, memory: float | str | None = None, show_progress: bool = True
) -> LensWork:
    """The logit lens: the metric, the answer's probability and rank, and the likeliest tokens, at every layer.

    The stream is read by the model's own final norm and unembedding where each block begins, between its attention and
    its MLP (not where blocks are parallel), and at the end, at the positions where the task is read.

    Args:
        lm: the model.
        task: prompts and metric; without a counterpart the clean prompts alone are read.
        tokens: how many of the likeliest tokens to keep of every point and position; 0: the metric alone, which needs
            no more of the unembedding than it reads itself.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Lens`: of both runs, points and pairs. What a layer says in the end's language need not be what later layers
        read of it: the lens shows when an answer is there in the form in which it is read at the end.

    Raises:
        MethodError, NumericsError, OutOfMemoryError: see each message.

    Source: the logit lens (nostalgebraist 2020).

    >>> vc.reading.lens(lm, vc.tasks.ioi(lm, n=8)).table()
    """
    if tokens < 0:
        raise MethodError(f"tokens={shown(tokens)}: give how many of the likeliest tokens to keep, 0 or more.")
    return LensWork(lm, task, tokens)

"""Both runs of every pair, recorded once each: all that reading the stream takes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from veracausa.engine.batches import buckets
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.session import Session, session
from veracausa.engine.tape import State
from veracausa.engine.work import recorded_runs

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.engine.patches import Place
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class BothRuns:
    """A work that records the clean and the corrupted run of every pair (the clean one alone, where there is no other).

    A prefix that both prompts share is run once. Nothing is kept on the way: it is two forward passes.
    """

    lm: Model
    task: Task
    kind: ClassVar[str] = "gradients"
    alone: ClassVar[bool] = True

    @property
    def runs(self) -> tuple[str, ...]:
        """What the runs are called."""
        return ("clean", "corrupted") if self.task.paired else ("clean",)

    @property
    def floats(self) -> int:
        """Numbers a token that a layer's recorded sites hold."""
        return 2 * self.lm.width

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Pairs that are recorded together."""
        most = examples_per_batch(self.lm, self.task, self.floats)
        return buckets(self.lm.decoder, self.task, self.task.paired, most)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers of the whole call."""
        if self.task.paired:
            return recorded_runs(self.lm, self.task, self.groups())
        return float(self.lm.layers * sum(self.task.lengths))

    def calling(self, show: bool) -> AbstractContextManager[Session]:
        """A session with one number a pair, that it is done."""
        return session(self.lm, self.task, (len(self.task), 1), measured=False, show=show)

    def each(
        self, call: Session, label: str, run: Callable[[Bucket], None],
        sites: Collection[str] = (), places: Collection[Place] = (),
    ) -> None:  # fmt: skip
        """Record every bucket and call `run` with it."""

        def recorded(start: int, examples: tuple[int, ...]) -> None:
            asked = (self.lm, self.task, start, examples, call.cost)
            if self.task.paired:
                bucket = Bucket.record(*asked, sites=sites, places=places)
            else:
                bucket = Bucket.record_clean(self.lm, self.task, examples, call.cost, sites=sites)
            run(bucket)
            call.put((bucket.index, 0), torch.ones(len(examples)))

        with call.bar(label, self.tokens()), torch.no_grad():
            call.rest(self.groups(), recorded)

    def states(self, bucket: Bucket) -> list[State]:
        """A bucket's recorded runs, in the order of `runs`."""
        return [bucket.tape.clean, bucket.tape.corrupted][: len(self.runs)]

    def strings(self, tokens: Int[Tensor, "*shape"]) -> dict[int, str]:
        """Every token that is shown, as text."""
        tokenizer, known = self.lm.tokenizer, self.task.vocabulary
        kept = [token for token in tokens.unique().tolist() if token >= 0]
        if tokenizer is None:
            return {token: known.get(token, f"#{token}") for token in kept}
        return {token: str(tokenizer.decode([token], clean_up_tokenization_spaces=False)) for token in kept}

    def blank(self, *sizes: int, **kind: Any) -> Tensor:
        """Room for a number of every run and `sizes`, NaN."""
        return torch.full((len(self.runs), *sizes), float("nan"), dtype=self.lm.score_dtype)


def at_places(bucket: Bucket, of: Tensor) -> Float[Tensor, "examples places *channels"]:
    """What a recorded tensor [examples, positions, …] has where the metric is read, in float32 at least."""
    found = bucket.read.gathered(of[:, -bucket.tape.tail :], bucket.every)
    return found.to(torch.promote_types(found.dtype, torch.float32))

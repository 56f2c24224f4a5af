"""What the bare model says on a task: the metric of every clean and corrupted prompt, and the gap between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.errors import GapError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from veracausa.tasks.task import Task


@dataclass(frozen=True)
class Measurement:
    """The metric of every example: `clean`, `corrupted`, and their difference `gap`, each [examples].

    `right`: beside any metric, whether the likeliest of all tokens is a correct answer in the clean and in the
    corrupted run, at all places where it is read, [2, examples]; None where it was not asked (no answers, many places).
    """

    clean: Float[Tensor, " examples"]
    corrupted: Float[Tensor, " examples"]
    right: Bool[Tensor, "2 examples"] | None = None

    @classmethod
    def blank(cls, examples: int, dtype: torch.dtype) -> Measurement:
        """Room for every example of a task, to be filled by `put`."""
        return cls(*torch.full((2, examples), float("nan"), dtype=dtype))

    def put(self, examples: tuple[int, ...], clean: Tensor, corrupted: Tensor) -> None:
        """Write down the values of some examples."""
        self.clean[list(examples)] = clean.to(self.clean)
        self.corrupted[list(examples)] = corrupted.to(self.corrupted)

    @property
    def ends(self) -> dict[str, Tensor]:
        """Both, by name, for files."""
        return {"clean": self.clean, "corrupted": self.corrupted}

    @property
    def gap(self) -> Float[Tensor, " examples"]:
        """M(x) − M(x′), example by example."""
        return self.clean - self.corrupted

    def f_of(self, metric: Float[Tensor, " examples"]) -> Float[Tensor, ""]:
        """f of a run between the two: mean(M − M(corrupted)) / mean gap, 1 as the clean run, 0 as the corrupted one."""
        return (metric - self.corrupted).mean() / self.gap.mean()

    @property
    def weak(self) -> list[int]:
        """Examples that the model hardly separates: |gap| under a tenth of the mean |gap|."""
        size = self.gap.abs()
        return torch.nonzero(size < 0.1 * size.mean()).flatten().tolist()

    def require_gap(self, task: Task, corrupted: str = "corrupted") -> None:
        """Raise GapError unless the mean gap differs from zero by more than rounding; `corrupted`: the other run."""
        scale = torch.cat([self.clean, self.corrupted]).abs().max().clamp_min(1e-12)
        if abs(float(self.gap.mean())) <= 1e-5 * float(scale):
            at, first = task.places, task.first_difference
            unread = task.paired and corrupted == "corrupted" and not self.gap.any()
            if unread and all(places[-1] < start for places, start in zip(at, first, strict=True)):
                raise GapError(
                    f"The prompts of {task.name!r} differ only behind where the metric is read, which cannot see that: "
                    f"pair 0 from token {first[0]} on, read at {at[0][-1]}. Read later, or change an earlier token."
                )
            raise GapError(
                f"The model does not separate clean from {corrupted} on {task.name!r}: mean metric "
                f"{float(self.clean.mean()):+.4g} clean, {float(self.corrupted.mean()):+.4g} {corrupted} "
                f"({task.metric}, {len(task)} pairs). Effects cannot be compared with a gap of zero: check the "
                "answers, or choose a corruption that changes the behaviour."
            )

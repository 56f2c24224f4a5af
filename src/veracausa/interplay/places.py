"""Where units of an interaction are: at all positions of a prompt, at one, or at those of a span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.tasks.placing import places
from veracausa.units.at_spans import SpanUnits

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from veracausa.tasks.task import Task
    from veracausa.units.table import Units


@dataclass(frozen=True, eq=False)
class Places:
    """Different places of a table of units, −1 (all positions), a position, or a span; and the place of each unit.

    >>> Places.of(units, "cpu").masks(task, 0).shape          # [places, positions of the first clean prompt]
    """

    names: tuple[int | str, ...]
    of_unit: Int[Tensor, " units"]

    @classmethod
    def of(cls, units: Units, device: torch.device | str) -> Places:
        """The places of a table."""
        own: list[int | str] = [*units.spans] if isinstance(units, SpanUnits) else units.position.tolist()
        names = {name: number for number, name in enumerate(dict.fromkeys(own))}
        return cls(tuple(names), torch.tensor([names[name] for name in own], device=device))

    @property
    def spans(self) -> tuple[str, ...]:
        """Those that are spans."""
        return tuple(name for name in self.names if isinstance(name, str))

    def masks(self, task: Task, example: int) -> Bool[Tensor, "places positions"]:
        """Which positions of a pair's clean prompt each place is; none where the prompt lacks it."""
        length = len(task.clean[example])
        found = np.zeros((len(self.names), length), dtype=bool)
        spans = places(task, example, self.spans, True)
        for row, name in zip(found, self.names, strict=True):
            first, end = spans.get(name, (0, 0)) if isinstance(name, str) else (name, name + 1)
            row[slice(0, length) if name == -1 else slice(first, end)] = True
        return torch.as_tensor(found, device=self.of_unit.device)

"""`vc.reading.activations`: what units are at every position of both runs: where a feature fires, and how strongly.

Cost: one recorded run of every prompt; nothing is run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from veracausa.effects.laid import laid_units
from veracausa.effects.numbers import numbers_of
from veracausa.effects.replacements import recorded
from veracausa.engine.patches import activation, sites_for
from veracausa.engine.session import session
from veracausa.engine.work import gives
from veracausa.errors import UnitError
from veracausa.reading.activity import Activations
from veracausa.scores.headers import dictionary_settings
from veracausa.scores.scores import task_header
from veracausa.units.groups import Groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from veracausa.choices import AllUnits
    from veracausa.dictionaries.dictionary import Dictionary
    from veracausa.engine.tape import State
    from veracausa.model import Model
    from veracausa.tasks.task import Task
    from veracausa.units.table import Units


@dataclass(frozen=True, eq=False)
class ActivationsWork:
    """What `activations` is about to do."""

    lm: Model
    task: Task
    units: Units
    kind: ClassVar[str] = "gradients"

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """Every prompt once."""
        return [*dict.fromkeys(self.task.prompts)]

    def tokens(self) -> float:
        """Token-layers of the whole call."""
        return float(self.lm.layers * sum(map(len, self.prompts)))

    def batches(self) -> int:
        """Batches that are recorded: one of each length."""
        return len({*map(len, self.prompts)})

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Activations:
        """Record every prompt; nothing is kept on the way."""
        lm, task, prompts = self.lm, self.task, self.prompts
        found: dict[tuple[int, ...], Tensor] = {}
        with session(lm, task, (len(task), 1), measured=False, show=show_progress) as call, torch.no_grad():
            reading = call.bar(f"activations of {len(self.units):,} units", self.tokens())
            places = sites_for(self.units.place)
            with reading:
                for batch, state in recorded(lm, prompts, places, call.cost):
                    found |= {prompts[i]: own.cpu() for i, own in zip(batch, self._read(state), strict=True)}
                    call.advance()
        runs = {"clean": task.clean} | ({"corrupted": task.corrupted} if task.paired else {})
        values = torch.full(
            (len(runs), len(task), len(self.units), max(map(len, prompts))), float("nan"), dtype=lm.score_dtype
        )
        for run, own in enumerate(runs.values()):
            for example, prompt in enumerate(own):
                values[run, example, :, : len(prompt)] = found[prompt]
        words = [task.tokens(i) for i in range(len(task))]
        return Activations(
            runs=tuple(runs), values=values, units=self.units,
            prompts=tuple(tuple(tuple(pair[run]) for pair in words) for run in range(len(runs))),
            settings=dictionary_settings(lm, self.units.kind), model=call.origin, task=task_header(task),
            cost=call.cost,
        )  # fmt: skip

    def _read(self, state: State) -> Float[Tensor, "examples units positions"]:
        """The units of a recorded batch: numbers as they are, vectors by their length."""
        first, positions = state.residual[0].shape[:2]
        read = torch.empty(
            first, len(self.units), positions, dtype=self.lm.score_dtype, device=state.residual[0].device
        )
        for layer in dict.fromkeys(self.units.layer.tolist()):
            site = activation(state, self.units.place, layer).to(read)
            for unit in (self.units.layer == layer).nonzero()[0].tolist():
                own = numbers_of(self.lm, self.units, unit)
                assert own is not None  # `laid_units` has the dictionary tell these apart
                part = site[..., own]
                read[:, unit] = part[..., 0] if part.shape[-1] == 1 else part.norm(dim=-1)
        return read


@gives(Activations)
def activations(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] = "features",
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> ActivationsWork:
    """What units are at every position of both runs: where a feature fires in the prompts, and how strongly.

    A number (a feature, a direction, a neuron) is given as it is; a vector (a head’s z, an MLP’s output, an error) by
    its length ‖·‖. Features are counted in units of their site, as they are written.

    Args:
        lm: the model.
        task: prompts; without a counterpart the clean prompts alone.
        units: names, or all of a kind; of a kind of dictionary those that are active in some prompt.
        dictionary: dictionaries to lay on the model for this call, beside those that lie on it.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Activations`, whose `strongest(name)` lists the tokens on which a unit is largest.

    Raises:
        UnitError: no such unit, or edges, groups, patterns or units at positions, which are none of these.

    >>> vc.reading.activations(lm, task, units=["f20.517"]).strongest("f20.517")
    """
    lm, table = laid_units(lm, task, units, dictionary, spans=False, across=True)
    if isinstance(table, Groups) or table.kind in _WITHOUT or table.positional:
        raise UnitError(
            "Activations are of single units at every position: heads, MLPs, neurons, features, directions. Name these "
            "without positions."
        )
    return ActivationsWork(lm, task, table)


#: Kinds that have no activation of their own at a position.
_WITHOUT = ("edges", "paths", "patterns", "experts", "expert_neurons", "shared", "routers", "states", "taps")

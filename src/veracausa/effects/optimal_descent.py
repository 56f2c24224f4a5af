"""The descent of `optimal`: losses of units at constants, and their gradients, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.dictionaries.words import is_coded
from veracausa.effects.numbers import by_parts
from veracausa.effects.replacements import Mean
from veracausa.effects.rows import Rows
from veracausa.engine.attention import SUFFIX
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.guard import attention_function
from veracausa.engine.memory import chunks
from veracausa.engine.patches import Place, activation, sites_for
from veracausa.engine.readout import Readout
from veracausa.engine.session import Session
from veracausa.engine.suffix import sweep
from veracausa.engine.tape import Tape
from veracausa.errors import MethodError, NumericsError
from veracausa.typed import require_fields
from veracausa.units.table import Units, layers_with, per_layer

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Constants:
    """A `Replacement`: the same values at every position, `sites[layer]`."""

    anywhere: ClassVar[bool] = True

    sites: Float[Tensor, "layers site"]

    def rows(
        self, tape: Tape, place: Place, layer: int, example: Tensor, unit: Tensor | None
    ) -> Float[Tensor, "rows positions site"]:
        """See `Replacement.rows`."""
        sites = self.sites[layer]
        if is_coded(place):  # dictionaries of several sizes stand side by side, the smaller ones with room behind
            sites = sites[: tape.clean.codes[place, layer].width]
        return sites.expand(len(example), tape.length - tape.start, -1)


@dataclass(frozen=True)
class Part:
    """Pairs of one length, recorded whole: the KL from their clean run is read off `read`."""

    tape: Tape
    read: Readout


def recorded_parts(call: Session, table: Units, groups: Sequence[tuple[int, tuple[int, ...]]]) -> list[Part]:
    """The task's pairs, recorded from position 0 on, in groups of one length."""
    lm, place = call.lm, table.place
    parts: list[Part] = []

    def run(start: int, examples: tuple[int, ...]) -> None:
        bucket = Bucket.record(lm, call.task, 0, examples, call.cost, sites=sites_for(place), places=(place,))
        with attention_function(lm.decoder, SUFFIX):
            replace(bucket, cost=Cost()).unpatched(bucket.tape.clean)
        parts.append(Part(bucket.tape, bucket.read.divergence(bucket.tape.clean)))
        call.advance()

    call.rest(groups, run)
    return parts


def schedule(sizes: Sequence[int], learning: Learning) -> list[tuple[int, slice]]:
    """Which group of pairs, and which of them, every step takes."""
    draw, share = np.random.default_rng(learning.seed), np.array(sizes, dtype=float)
    steps = []
    for _ in range(learning.steps):
        group = int(draw.choice(len(sizes), p=share / share.sum()))
        first = int(draw.integers(max(1, sizes[group] - learning.batch + 1)))
        steps.append((group, slice(first, min(first + learning.batch, sizes[group]))))
    return steps


def descend(
    start: Tensor,
    size: Tensor,
    learning: Learning,
    sizes: Sequence[int],
    slope: Callable[[Tensor, int, slice], Tensor],
) -> Tensor:
    """Constants after Adam from `start`, whose steps are in units of `size`.

    `sizes`: pairs of each group; `slope(constants, group, which)`: the gradient of the mean loss over these pairs.
    """
    moved = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.Adam([moved], lr=learning.rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, learning.steps)
    for group, which in schedule(sizes, learning):
        moved.grad = size * slope((start + size * moved).detach(), group, which)
        optimiser.step()
        falling.step()
    return (start + size * moved).detach()


def require_finite(loss: Tensor) -> None:
    """Raise NumericsError where a loss of constants is no number any more."""
    if not torch.isfinite(loss).all():
        raise NumericsError("The loss of optimal constants became NaN or infinite: lower the rate.")


@dataclass(frozen=True, eq=False)
class Descent:
    """Units of a table at constants: losses and descent. The model is borrowed, without gradients.

    `start`, `size`: every layer's means, and the root mean square of each unit's activation, [layers, site].
    """

    call: Session
    rows: Rows
    parts: list[Part]
    start: Float[Tensor, "layers site"]
    size: Float[Tensor, "layers site"]

    @classmethod
    def of(cls, call: Session, table: Units, parts: list[Part]) -> Descent:
        """Starts from the means over all positions of the task's clean and corrupted prompts."""
        lm, task = call.lm, call.task
        means = Mean(lm, task.prompts, table.place, False, call.cost).means
        means = {layer: means[layer] for layer in layers_with(lm, table.kind)}
        some = next(iter(means.values()))
        widths = {layer: mean.shape[-1] for layer, mean in means.items()}
        start = some.new_zeros(max(lm.layers, max(means) + 1), max(widths.values()))
        for layer, mean in means.items():  # of a layer that has no such part nothing is asked
            start[layer, : widths[layer]] = mean[0]
        squares, size = torch.zeros_like(start), torch.zeros_like(start)
        tokens = 0
        for part in parts:
            for layer in means:
                own = activation(part.tape.clean, table.place, layer)
                squares[layer, : widths[layer]] += own.square().sum((0, 1))
            tokens += part.tape.length * len(part.tape.examples)
        for layer, width in widths.items():
            size[layer, :width] = by_parts(lm, table.kind, layer, squares[layer, :width] / tokens).sqrt()
        size = size.clamp_min(1e-6 * float(size.max()))
        return cls(call, Rows(lm, task, table, Constants(start), True, None, call.cost), parts, start, size)

    def losses(self, sites: Tensor, units: np.ndarray) -> Float[Tensor, " units"]:
        """Mean KL over all pairs of the run with each unit at its constant."""
        total, count = torch.zeros(len(units), dtype=self.rows.lm.score_dtype), 0
        column = {int(unit): i for i, unit in enumerate(units)}
        for part in self.parts:
            examples = range(len(part.tape.examples))
            for rows, loss in self._run(part, sites, units, examples, False):
                where = torch.tensor([column[int(unit)] for unit in rows[:, 1]])
                total.index_add_(0, where, loss.detach().to("cpu", self.rows.lm.score_dtype))
            count += len(examples)
        return (total / count).clamp_min(0)

    def learn(self, learning: Learning, units: np.ndarray) -> Float[Tensor, "layers site"]:
        """Constants after descent; those of other units stay as they were."""
        sizes = [len(part.tape.examples) for part in self.parts]

        def slope(constants: Tensor, group: int, which: slice) -> Tensor:
            sites, examples = constants.requires_grad_(), range(which.start, which.stop)
            total = torch.zeros_like(constants)
            with torch.enable_grad():
                for _, loss in self._run(self.parts[group], sites, units, examples, True):
                    require_finite(loss)
                    total += torch.autograd.grad(loss.sum() / len(examples), sites)[0]
            return total

        return descend(self.start, self.size, learning, sizes, slope)

    def merged(self, found: Tensor, units: np.ndarray) -> Float[Tensor, "layers site"]:
        """The found constants of these units, the means of all others."""
        table = self.rows.units
        if is_coded(table.kind):
            kept = self.start.clone()
            for layer, index in zip(table.layer[units].tolist(), table.index[units].tolist(), strict=True):
                own = self.rows.lm.decoder.codes[table.kind, layer].numbers(index)
                kept[layer, own] = found[layer, own]
            return kept
        parts = max(1, per_layer(self.rows.lm, self.rows.units.kind))
        whole = self.start.clone().unflatten(-1, (parts, -1))
        layer = torch.as_tensor(self.rows.units.layer[units])
        index = torch.as_tensor(self.rows.units.index[units]).clamp_min(0)
        whole[layer, index] = found.unflatten(-1, (parts, -1))[layer, index]
        return whole.flatten(-2)

    def _run(
        self, part: Part, sites: Tensor, units: np.ndarray, examples: range, backward: bool
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Rows (example, unit) of a part, chunk by chunk, with their KL."""
        work, decoder = replace(self.rows, source=Constants(sites)), self.rows.lm.decoder
        order = units[np.argsort(work.units.layer[units], kind="stable")]
        waiting = np.stack(np.meshgrid(np.array(examples), order, indexing="ij"), -1).transpose(1, 0, 2).reshape(-1, 2)
        length = part.tape.length
        size = rows_per_chunk(self.rows.lm, length, length, backward)

        def run(rows: np.ndarray) -> Tensor:
            joins = work.joins(part.tape, part.tape.clean, rows, 0)
            last = sweep(decoder, part.tape, part.tape.clean, joins, start=0, backward=backward, cost=work.cost)
            return -part.read(last, torch.as_tensor(rows[:, 0], device=last.device))

        with attention_function(decoder, SUFFIX):
            for rows, loss in chunks(waiting, size, run, f"{length} tokens"):
                self.call.advance()
                yield rows, loss


@dataclass(frozen=True)
class Learning:
    """How optimal constants are learned: Adam's `steps` and `rate` (falling to 0), pairs a step, the seed."""

    steps: int = 60
    rate: float = 0.05
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        require_fields(self, globals())
        if self.steps < 1 or self.batch < 1 or not self.rate > 0:
            raise MethodError(
                f"Learning with steps={self.steps}, batch={self.batch}, rate={self.rate}: all must be above 0."
            )

"""The numbers of one pair: J of every reader, at every position of it, by every source, and what is kept of it.

    J_{i,t←j} = Σ_t' Δ_{j,t'} ∫₀¹ ∂f_{i,t}(α) / ∂f_{j,t'} dα        t' over the source's positions

forward: one product per source and node gives all readers at all positions. reverse: one per number of a reader,
position and node (or per reader and probe) gives all sources. exact: f_i − f_i with the source replaced, one run each.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.passages import Passage
from veracausa.interplay.sides import Side
from veracausa.interplay.signs import full, signs

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from veracausa.cost import Cost
    from veracausa.engine.tape import State, Tape
    from veracausa.model import Model


@dataclass(frozen=True)
class Kept:
    """What is kept of a pair, sums over the readers' positions: ΣJ² and ΣJ, [readers, sources]; of ΣJ − change and of
    the change.

    `change`: f_i(own) − f_i(baseline), the squares summed, [readers]; `rest` those of Σ_j J − change. `error`: standard
    errors of ΣJ² over the probes.
    """

    squares: Float[Tensor, "readers sources"]
    sums: Float[Tensor, "readers sources"]
    rest: Float[Tensor, " readers"]
    change: Float[Tensor, " readers"]
    error: Float[Tensor, "readers sources"] | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """One pair of a recorded bucket, by its place `example` in the tape: how far every source moves (`delta`).

    `talking`, `listening`: the positions of every place of the sources, of the readers (`Places.masks`, of the tape's).
    """

    lm: Model
    passage: Passage
    tape: Tape
    base: State
    example: int
    source: Side
    reader: Side
    talking: Bool[Tensor, "places positions"]
    listening: Bool[Tensor, "places positions"]
    delta: Float[Tensor, "positions site"]
    nodes: tuple[tuple[float, float], ...]
    cost: Cost

    def run(self, delta: Float[Tensor, "rows positions site"], twice: bool = False) -> Tensor:
        """The readers' numbers in rows whose source site differs from the run's own by `delta`."""
        rows = torch.full((len(delta),), self.example, device=delta.device)
        found = self.passage.run(self.tape, self.base, rows, delta, twice=twice, cost=self.cost)
        return found[..., self.reader.number]

    def ends(self) -> Float[Tensor, "positions numbers"]:
        """f(own) − f(baseline)."""
        own, other = self.run(torch.stack([torch.zeros_like(self.delta), -self.delta]))
        return own - other

    def forward(self) -> Kept:
        """By products in the direction of each source."""
        return self._by_sources(self._tangents)

    def exact(self) -> Kept:
        """By running without each source."""
        own = self.run(torch.zeros_like(self.delta)[None])
        return self._by_sources(lambda moved: own - self.run(-moved))

    def _by_sources(self, of: Callable[[Tensor], Tensor]) -> Kept:
        """`of`: what readers owe to some sources, [sources, positions, numbers], of how these move."""
        change = self.ends()
        total = of((self.delta * self.source.rest(self.talking).to(self.delta))[None])[0]
        squares, sums = [], []
        for chosen in torch.arange(len(self.source), device=change.device).split(self._at_once):
            each = of(self.delta * self.source.masks(chosen, self.talking).to(self.delta))
            total = total + each.sum(0)
            squares.append(self.reader.over(each**2, self.listening))
            sums.append(self.reader.over(each, self.listening))
        return Kept(torch.cat(squares).T, torch.cat(sums).T, *self._ends(total - change, change))

    def _ends(self, rest: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        rest, change = self.reader.over(torch.stack([rest**2, change**2]), self.listening)
        return rest, change

    @property
    def _at_once(self) -> int:
        """Sources whose products are taken together."""
        rows = rows_per_chunk(self.lm, len(self.delta), self.tape.length, backward=True)
        return max(1, rows // (2 * len(self.nodes)))

    def _tangents(self, moved: Float[Tensor, "sources positions site"]) -> Float[Tensor, "sources positions numbers"]:
        """Σ_α w_α ∂f(α) · moved."""
        count, nodes = len(moved), len(self.nodes)
        alpha, weight = torch.tensor(self.nodes, device=moved.device, dtype=moved.dtype).T
        at = ((alpha - 1)[:, None, None] * self.delta)[:, None].expand(-1, count, -1, -1).flatten(0, 1).contiguous()
        with forward_ad.dual_level():
            found = self.run(forward_ad.make_dual(at, moved.repeat(nodes, 1, 1)), twice=True)
            tangent = forward_ad.unpack_dual(found).tangent
        if tangent is None:  # nothing of the source reaches the readers
            return moved.new_zeros(count, found.shape[1], found.shape[2])
        return torch.einsum("a,asrn->srn", weight.to(tangent), tangent.unflatten(0, (nodes, count)))

    def reverse(self) -> Kept:
        """By products in the direction of each reader's number and position."""
        change, reader = self.ends(), self.reader
        squares, sums = (change.new_zeros(len(reader), len(self.source)) for _ in range(2))
        rest, asked = torch.zeros_like(change), reader.asked(self.listening)
        gradients = self._gradients()
        next(gradients)
        for number, part in enumerate(reader.part.tolist()):
            at = asked[part].nonzero()[:, 0]
            if not len(at):
                continue
            every = change.new_zeros(len(at), *change.shape)
            every[torch.arange(len(at)), at, number] = 1.0
            each, whole = gradients.send(every)
            units = (reader.own == part).nonzero()[:, 0]
            there = self.listening[reader.places.of_unit[units]][:, at].to(each)
            squares[units] += there @ each**2
            sums[units] += there @ each
            rest[at, number] = whole - change[at, number]
        return Kept(squares, sums, *self._ends(rest, change))

    def probed(self, probes: int, seed: int, example: int, orthogonal: bool) -> Kept:
        """The same by random signs in the place of every position (and every number of a reader that has several)."""
        change, reader = self.ends(), self.reader
        squares, sums, error = (change.new_zeros(len(reader), len(self.source)) for _ in range(3))
        rest = change.new_zeros(len(reader))
        gradients = self._gradients()
        next(gradients)
        for i, part in enumerate(reader.own.tolist()):
            own = (reader.part == part).nonzero()[:, 0]
            # drawn for the whole prompt, so that a shared prefix does not change them
            drawn = signs(probes, self.tape.length * len(own), seed, example, orthogonal)
            phi = torch.as_tensor(drawn).to(change).view(probes, self.tape.length, len(own))[:, self.tape.start :]
            there = self.listening[reader.places.of_unit[i]].to(change)[:, None]
            phi = phi * there
            every = change.new_zeros(probes + 1, *change.shape)
            every[:probes, :, own] = phi
            every[probes, :, own] = there
            each, whole = gradients.send(every)
            squares[i], sums[i] = (each[:probes] ** 2).mean(0), each[probes]
            # Orthogonal signs are drawn without putting back: of all there are, none is left to chance.
            left = 1 - probes / full(drawn.shape[1]) if orthogonal else 1.0
            error[i] = (each[:probes] ** 2).std(0) * (left / probes) ** 0.5 if probes > 1 else float("nan")
            rest[i] = ((whole[:probes] - (phi * change[:, own]).sum((1, 2))) ** 2).mean()
        return Kept(squares, sums, rest, self._ends(change, change)[1], error)

    @torch.enable_grad()
    def _gradients(self) -> Generator[tuple[Tensor, Tensor], Tensor, None]:
        """Is sent what the readers' numbers are multiplied with, [rows, positions, numbers].

        Gives, of each row, Σ J of every source, [rows, sources], and of the whole site, [rows].
        """
        alpha, weight = torch.tensor(self.nodes, device=self.delta.device, dtype=self.delta.dtype).T
        at = ((alpha - 1)[:, None, None] * self.delta).requires_grad_(True)
        found = self.run(at)
        passed = found.shape[1] * len(self.nodes) * self.passage.depth
        where = self.talking.to(self.delta)
        asked: Tensor = yield found.new_empty(0), found.new_empty(0)
        while True:
            parts, whole = [], []
            for some in asked.split(self._at_once):
                given = some[:, None].expand(-1, len(found), -1, -1).to(found)
                (own,) = torch.autograd.grad(found, at, given, retain_graph=True, is_grads_batched=True)
                each = torch.einsum("a,ratn->rtn", weight, own) * self.delta
                parts.append(self.source.picked(torch.einsum("rtn,gt->rgn", each[:, :, self.source.number], where)))
                whole.append(each.sum((1, 2)))
                self.cost.backward += len(some) * passed
            asked = yield torch.cat(parts).detach(), torch.cat(whole).detach()

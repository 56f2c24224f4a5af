"""What every walk along a path works on: a recorded bucket of pairs, and the sums that the walk fills in.

A walk takes gradients at the points of its path and hands them on, row by row, with what has moved there. What becomes
of them is told by `Sums`, of which there are two kinds: of units (`unit_sums`) and of edges (`edge_sums`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from veracausa.effects.replacements import Replacement
from veracausa.engine.bucket import Bucket
from veracausa.engine.memory import memory_errors
from veracausa.engine.overrides import Override
from veracausa.engine.rule import Rule
from veracausa.engine.session import Session
from veracausa.engine.stretches import Stretch
from veracausa.engine.suffix import Join
from veracausa.engine.tape import State
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.anatomy import Decoder
    from veracausa.estimates.method import Method
    from veracausa.model import Model

#: The run that keeps its graph.
Graph = Literal["clean", "corrupted"]


@dataclass(frozen=True, eq=False)
class PathBucket(Bucket):
    """A recorded bucket, the run of it that is patched (`base`), and the one that its path leads to (`other`)."""

    base: State
    other: State
    method: Method
    noising: bool
    advance: Callable[[], None]

    @classmethod
    def of(cls, bucket: Bucket, method: Method, noising: bool, advance: Callable[[], None]) -> PathBucket:
        """A bucket with a path through it; `advance` is called when something was run (see `Session`)."""
        own = {one.name: getattr(bucket, one.name) for one in fields(bucket)}
        base, other = bucket.runs(noising)
        return cls(**own, base=base, other=other, method=method, noising=noising, advance=advance)

    @property
    def rule(self) -> Rule:
        """The backward rule of the gradients."""
        return self.method.backward

    def slopes(
        self, state: State, example: Int[Tensor, " rows"], wanted: list[Tensor], *, again: bool = False
    ) -> list[Tensor]:
        """∂M/∂(some tensors of a run's graph); counts the backward pass. `again`: the graph is needed once more."""
        rows = len(state.residual[0])
        with torch.enable_grad(), memory_errors(f"The backward pass of {rows} prompts"):
            metric = self.read.of_state(state, example).sum()
            found = torch.autograd.grad(metric, wanted, allow_unused=True, materialize_grads=True, retain_graph=again)
        self.cost.backward += rows * self.positions * self.lm.layers
        return list(found)


@dataclass(frozen=True)
class Site:
    """Activations that move together: their `number` among the sites where completeness is compared, and their name.

    `join`: where rows with a change of them join the stream (see `suffix.Join`).
    """

    number: int
    name: int | str
    join: tuple[int, bool]

    def depth(self, layers: int) -> int:
        """Blocks that a row of this site runs."""
        return layers - self.join[0]


@dataclass(frozen=True)
class SiteRow:
    """A point of a path that moves one site: `unit` is an index into the table, or −1 for all units of the site."""

    site: Site
    unit: int
    example: int
    alpha: float
    weight: float


@dataclass(frozen=True)
class SiteRuns:
    """Rows that were run, site by site along the stream; M of each.

    With gradients: `moves`, `slopes`: of each site, the whole change of its rows and ∂M/∂(what moved); `state`,
    `found`: the run behind them, and gradients as `Sums.wanted_behind` asked for them.
    """

    by_site: list[tuple[Site, list[SiteRow]]]
    metric: Float[Tensor, " rows"]
    state: State
    found: list[Tensor]
    moves: list[Tensor]
    slopes: list[Tensor]


@dataclass(eq=False)
class Sums(ABC):
    """What a walk adds up for one bucket, and how gradients and changes become scores.

    `source`: what units move towards. `places`: where completeness is compared, layers or sites by name; `claimed`,
    `true`: both sides of its equation [places, examples]. `values`: scores [examples, units]; `squares`: sums of
    squares over draws, for their error.
    """

    bucket: PathBucket
    units: Units
    source: Replacement

    def __post_init__(self) -> None:
        lm, method = self.bucket.lm, self.bucket.method
        self.places = self.compared(lm.decoder, self.units, method)
        like: Any = {"dtype": lm.score_dtype, "device": lm.device}
        examples = len(self.bucket.tape.examples)
        self.values = torch.zeros(examples, len(self.units), **like)
        self.claimed, self.true = torch.zeros(2, len(self.places), examples, **like)
        self.squares = torch.zeros_like(self.values) if method.drawn else None

    # ---- a call's buckets -------------------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def kept(lm: Model, units: Units, length: int) -> int:
        """Floats a token that a bucket keeps of each layer beside the stream; `length`: of the longest prompt."""

    @staticmethod
    @abstractmethod
    def record(
        call: Session,
        units: Units,
        method: Method,
        start: int,
        examples: tuple[int, ...],
        grad: Graph | None,
        noising: bool | None,
    ) -> Bucket:
        """Both runs of a bucket, checked for what scores of these units rest on; `grad`: which keeps its graph.

        `noising`: as in `Bucket.record`.
        """

    @staticmethod
    @abstractmethod
    def beside(lm: Model, units: Units, method: Method) -> float:
        """Blocks that each position runs through beside the path's own passes."""

    @staticmethod
    @abstractmethod
    def compared(decoder: Decoder, units: Units, method: Method) -> Sequence[int | str]:
        """The `places`."""

    @property
    def spread(self) -> Float[Tensor, "examples units"] | None:
        """The draws' standard errors."""
        if self.squares is None:
            return None
        count = self.bucket.method.nodes
        variance = (self.squares / count - self.values.square()).clamp_min(0) * count / (count - 1)
        return (variance / count).sqrt()

    # ---- points of a path over the input ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def sites(self) -> Sequence[str]:
        """What the run at a point must hold."""

    @property
    def most(self) -> int | None:
        """Rows at a time, at most."""
        return None

    @property
    def told(self) -> int:
        """Bytes of a token that gradients take beside the graph that they come from."""
        return 0

    def stretches(self, rows: int, examples: int = 0) -> list[Stretch]:
        """Positions of a chunk whose gradients are contracted at once; `examples`: whose Δ stands beside them."""
        return [Stretch(0, self.bucket.positions, self.bucket.positions)]

    @abstractmethod
    def wanted(self, state: State) -> list[Tensor]:
        """The tensors of a run's graph that gradients are needed of."""

    @abstractmethod
    def gradients(self, state: State, found: list[Tensor]) -> Iterator[tuple[int, int, Tensor]]:
        """(which of the `moving` it belongs to, key, gradient with its rows in the third dimension from the end).

        `found`: gradients of the `wanted` tensors.
        """

    @abstractmethod
    def moving(self, state: State) -> list[Float[Tensor, "rows ..."]]:
        """What moves from point to point."""

    @abstractmethod
    def add(
        self, key: int, change: Tensor, gradient: Tensor, example: Int[Tensor, " rows"], weights: Tensor, at: Stretch
    ) -> None:
        """Add weights · change · gradient, row by row; `at`: the positions that they are of."""

    @abstractmethod
    def add_mean(self, state: State, found: list[Tensor], example: Tensor, weights: Float[Tensor, " rows"]) -> None:
        """Add weights · Δ · gradient, and the squares of each row's own Δ · gradient where they are summed."""

    @torch.no_grad()
    def close(self) -> None:
        """Add what only the whole walk can tell: what increments of the stream at any place must sum to."""
        if self.bucket.method.combine != "mean":
            change = self.bucket.read.of_state(self.bucket.other) - self.bucket.read.of_state(self.bucket.base)
            self.true += change.to(self.true)

    # ---- paths of one site ------------------------------------------------------------------------------------------

    #: What must be kept of the run behind a site so that gradients there can be taken, beside that of what moves.
    behind: ClassVar[Sequence[str]] = ()

    @staticmethod
    @abstractmethod
    def moved(decoder: Decoder, units: Units) -> list[Site]:
        """Sites that have some of these units, along the stream."""

    @abstractmethod
    def move(self, site: Site, units: list[int], example: Int[Tensor, " rows"]) -> Float[Tensor, "rows positions _"]:
        """The whole change of each row."""

    @abstractmethod
    def join(self, site: Site, example: Int[Tensor, " rows"], change: Tensor) -> Join:
        """Where rows with such a change enter the stream."""

    def carried(
        self, site: Site, rows: Int[Tensor, " rows"], change: Float[Tensor, "rows positions _"]
    ) -> Iterator[tuple[int, Override]]:
        """(layer, what rows of a sweep take there) of what such a change changes of later layers' writes by itself."""
        return iter(())

    def wanted_behind(self, state: State, since: tuple[int, bool]) -> list[Tensor]:
        """The tensors, beside what moves, that gradients are needed of, in a run from a place (block, middle) on."""
        return []

    @abstractmethod
    def add_sites(self, ran: SiteRuns) -> None:
        """Add weights · move · gradient of rows that were run."""


def columns(rows: Sequence[SiteRow], like: Tensor) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Examples and weights of rows."""
    example = torch.tensor([row.example for row in rows], device=like.device)
    return example, torch.tensor([row.weight for row in rows], device=like.device, dtype=like.dtype)

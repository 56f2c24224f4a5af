"""What you put in a unit's place yourself: your own tensors, a vector added to what is there, noise.

    Own(values)         a_u ← values[u]
    Added(values, s)    a_u ← a_u + s · values[u]                          steering by a vector
    Scaled(factor)      a_u ← factor · a_u                                 weaker, stronger or turned round
    Noise(sd, draws)    a_u ← a_u + sd · σ_u · ε,   ε ~ N(0, 1)            the mean over draws, and its standard error

σ_u is the standard deviation of the unit's own activations around each coordinate's mean, over all positions of the
reference set's prompts, as a root mean square over its coordinates (of an attention layer head by head). A feature has
one coordinate, an error those of its site; a feature that is 0 gets noise, too. None needs corrupted prompts.

>>> vc.exact(lm, task, units=["r10"], ablation=vc.effects.Added({"r10": direction}, scale=4.0))
"""

from __future__ import annotations

import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.arguments import kind_and_value
from veracausa.cost import Cost
from veracausa.dictionaries.words import is_coded
from veracausa.effects.given_tensors import Sites, as_sites
from veracausa.effects.group_rows import kind_at
from veracausa.effects.numbers import by_parts
from veracausa.effects.replacements import Moving, Multiple, Replacement, recorded
from veracausa.engine.patches import Place, activation, sites_for
from veracausa.engine.tape import Tape
from veracausa.errors import MethodError
from veracausa.scores.headers import prompts_digest
from veracausa.units.table import Units, layers_with

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Places by number, which noise is keyed by.
_PLACES: tuple[Place, ...] = (
    "z", "neurons", "mlp", "residual", "queries", "keys", "values", "experts", "shared", "router", "channels", "gate",
)  # fmt: skip
_LARGEST = sys.float_info.max


class Instead(ABC):
    """A replacement of your own, as `vc.exact(…, ablation=…)` takes it. `name`: what headers call it."""

    name: ClassVar[str]
    draws: int = 1

    @abstractmethod
    def settings(self, task: Task, source: Task) -> dict[str, Any]:
        """What headers say of it, with a digest of all that numbers depend on; `source`: the reference set."""

    @abstractmethod
    def made(self, lm: Model, task: Task, units: Units, source: Task, cost: Cost) -> list[Replacement]:
        """The replacement of these units, draw by draw.

        Raises:
            MethodError, UnitError: it cannot be put there; see each message.
        """

    def tokens(self, lm: Model, source: Task) -> float:
        """Token-layers of making it for one place."""
        return 0.0

    @abstractmethod
    def require(self, lm: Model, task: Task, units: Units) -> None:
        """The same errors before anything is run."""


@dataclass(frozen=True, eq=False)
class Own(Instead):
    """Your own tensors in the place of units' activations: a_u ← values[u].

    `values`: unit (without positions) → its tensor, as wide as the unit: [width], the same everywhere; [positions,
    width]; [pairs, width]; or [pairs, positions, width], where pairs or positions may be 1. Lists and arrays will do.

    >>> vc.exact(lm, task, units=["a9.h6"], ablation=vc.effects.Own({"a9.h6": torch.zeros(64)}))
    """

    values: Mapping[str, Any]
    name: ClassVar[str] = "own"

    def settings(self, task: Task, source: Task) -> dict[str, Any]:
        """See `Instead.settings`."""
        return {"ablation": self.name, "replacement_digest": _digest(self.values)}

    def made(self, lm: Model, task: Task, units: Units, source: Task, cost: Cost) -> list[Replacement]:
        """See `Instead.made`."""
        return [_Put(as_sites(lm, task, self.values, units))]

    def require(self, lm: Model, task: Task, units: Units) -> None:
        """See `Instead.require`."""
        as_sites(lm, task, self.values, units)


@dataclass(frozen=True, eq=False)
class Added(Own):
    """A vector added to units' activations, steering: a_u ← a_u + scale · values[u]; `values` as in `Own`.

    In a group it is added to what the group's earlier members have made of the activation.

    >>> vc.exact(lm, task, units=["r10"], ablation=vc.effects.Added({"r10": direction}, scale=-2.0))
    """

    scale: float = 1.0
    name: ClassVar[str] = "added"

    def __post_init__(self) -> None:
        _require_number("scale", self.scale)

    def settings(self, task: Task, source: Task) -> dict[str, Any]:
        """See `Instead.settings`."""
        return super().settings(task, source) | {"scale": float(self.scale)}

    def made(self, lm: Model, task: Task, units: Units, source: Task, cost: Cost) -> list[Replacement]:
        """See `Instead.made`."""
        return [_Shift(as_sites(lm, task, self.values, units), float(self.scale))]


@dataclass(frozen=True)
class Scaled(Instead):
    """Units' own activations times a factor: a_u ← factor · a_u; of a component of weights that part of W times it.

    0 is ablation="zero", 1 changes nothing. In a group each is scaled as the earlier members have made it.

    >>> vc.exact(lm, task, units="heads", ablation=vc.effects.Scaled(0.5))
    """

    factor: float
    name: ClassVar[str] = "scaled"

    def __post_init__(self) -> None:
        _require_number("factor", self.factor)

    def settings(self, task: Task, source: Task) -> dict[str, Any]:
        """See `Instead.settings`."""
        return {"ablation": self.name, "scale": float(self.factor), "replacement_digest": _hash(b"scaled")}

    def require(self, lm: Model, task: Task, units: Units) -> None:
        """See `Instead.require`."""
        if units.place == "pattern":
            raise MethodError("A pattern times a factor is no pattern: its weights sum to one. Scale queries or keys.")

    def made(self, lm: Model, task: Task, units: Units, source: Task, cost: Cost) -> list[Replacement]:
        """See `Instead.made`."""
        return [Multiple(float(self.factor))]


@dataclass(frozen=True)
class Noise(Instead):
    """Gaussian noise added to units' activations: a_u ← a_u + sd · σ_u · ε, the mean over `draws`.

    `sd`: in units of σ_u, the standard deviation of the unit's own activations over the reference set (see above). ε
    depends on `seed`, the draw, the pair, the layer and the place (of parts of dictionaries: the part) alone, not on
    which other units were asked for.

    >>> vc.exact(lm, task, units="mlps", ablation=vc.effects.Noise(sd=1.0, draws=8)).draw_stderr
    """

    sd: float = 1.0
    draws: int = 8
    seed: int = 0
    name: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        _require_number("sd", self.sd)
        for what, value, least in (("draws", self.draws, 1), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise MethodError(
                    f"Noise: {what} is a whole number of at least {least}, but this is {kind_and_value(value)}."
                )
        if self.sd < 0:
            raise MethodError(f"Noise: sd is at least 0, but it is {self.sd!r}.")

    def settings(self, task: Task, source: Task) -> dict[str, Any]:
        """See `Instead.settings`."""
        how = {"sd": float(self.sd), "draws": self.draws, "seed": self.seed, "reference": source.describe()}
        how["reference_digest"] = prompts_digest(source)
        return {"ablation": self.name, **how, "replacement_digest": _hash(json.dumps(how).encode())}

    def require(self, lm: Model, task: Task, units: Units) -> None:
        """See `Instead.require`."""
        if units.place == "expert_neurons":
            raise MethodError(
                "Noise is added to whole experts, not to a neuron that is there only where one is chosen."
            )
        if units.place == "pattern":
            raise MethodError(
                "Noise added to a pattern is no pattern: its weights sum to one. Add it to queries, keys or values."
            )

    def tokens(self, lm: Model, source: Task) -> float:
        """See `Instead.tokens`."""
        return float(lm.layers * sum(map(len, source.prompts)))

    def made(self, lm: Model, task: Task, units: Units, source: Task, cost: Cost) -> list[Replacement]:
        """See `Instead.made`."""
        spread = spreads(lm, source, units, cost)
        return [_Noisy(spread, float(self.sd), self.seed, draw) for draw in range(self.draws)]


@dataclass(frozen=True, eq=False)
class _Put:
    sites: Sites

    def rows(self, tape: Tape, place: Place, layer: int, example: Tensor, unit: Tensor | None) -> Tensor:
        """See `Replacement.rows`."""
        like = activation(tape.clean, place, layer)
        return self.sites.rows(tape, layer, example, like)


@dataclass(frozen=True, eq=False)
class _Shift(Moving):
    sites: Sites
    scale: float

    def moves(self, tape: Tape, place: Place, layer: int, example: Tensor) -> Tensor:
        """See `Moving.moves`."""
        return self.scale * self.sites.rows(tape, layer, example, activation(tape.clean, place, layer))


@dataclass(frozen=True, eq=False)
class _Noisy(Moving):
    """`spread[layer]`: σ of each coordinate of the site, [site]."""

    spread: list[Tensor]
    sd: float
    seed: int
    draw: int
    _drawn: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def moves(self, tape: Tape, place: Place, layer: int, example: Tensor) -> Tensor:
        """See `Moving.moves`."""
        like, every = activation(tape.clean, place, layer), [tape.examples[e] for e in example.tolist()]
        found = {pair: self._of_pair(tape, place, layer, pair, like.shape[-1]) for pair in dict.fromkeys(every)}
        drawn = torch.stack([found[pair] for pair in every]).to(like)
        return self.sd * self.spread[layer].to(like) * drawn

    def _of_pair(self, tape: Tape, place: Place, layer: int, pair: int, width: int) -> Tensor:
        """ε of a pair's site, at the tape's positions; of a dictionary's part by part, and 0 of what is no unit."""
        if not is_coded(place):
            key = (self.seed, self.draw, pair, _PLACES.index(place), layer)
            return standard_normal((tape.length, width), *key)[tape.start :]
        code, found = tape.clean.codes[place, layer], torch.zeros(tape.length, width, dtype=torch.float64)
        kind = int.from_bytes(hashlib.sha256(place.encode()).digest()[:6], "big")
        for index in code.told:
            own = code.numbers(index)
            shape = (tape.length, own.stop - own.start)
            found[:, own] = standard_normal(shape, self.seed, self.draw, pair, kind, layer, index)
        return found[tape.start :]


def standard_normal(shape: tuple[int, ...], *key: int) -> Tensor:
    """Draws of N(0, 1) that depend on the key alone, float64."""
    return torch.from_numpy(np.random.default_rng(list(key)).standard_normal(shape))


def spreads(lm: Model, source: Task, units: Units, cost: Cost) -> list[Tensor]:
    """σ of every coordinate of the units' place, layer by layer, [site]: one number for each part; see above."""
    place = units.place
    kind, count = kind_at(place), 0
    having = layers_with(lm, kind)
    layers = max([lm.layers - 1 + (place == "residual"), *having]) + 1
    sums: list[Any] = [0.0] * layers
    squares: list[Any] = [0.0] * layers
    for _, state in recorded(lm, source.prompts, sites_for(place), cost):
        for layer in having if is_coded(place) else range(layers):
            values = activation(state, place, layer).double()
            sums[layer] = sums[layer] + values.sum((0, 1))
            squares[layer] = squares[layer] + values.square().sum((0, 1))
        count += values.shape[0] * values.shape[1]
    found = []
    for layer, (total, square) in enumerate(zip(sums, squares, strict=True)):
        if layer not in having:
            found.append(torch.zeros_like(torch.as_tensor(total)))
            continue
        variance = (square / count - (total / count).square()).clamp_min(0)
        found.append(by_parts(lm, kind, layer, variance).sqrt())
    return found


def _require_number(what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise MethodError(f"{what} is a finite number, but this is {kind_and_value(value)}.")


def _digest(values: Mapping[str, Any]) -> str:
    """A hash of tensors by name."""
    parts = [f"{name} {np.asarray(torch.as_tensor(value).detach().cpu().double()).tolist()}" for name, value
             in sorted(values.items())]  # fmt: skip
    return _hash("\n".join(parts).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

"""What a patched unit is replaced by: the five replacements of a noising run.

* counterfactual: its activation in the corrupted run of the same pair;
* zero: 0;
* mean: its mean over a reference set of prompts, position by position where all prompts of set and task have one
  length, else over all positions of all prompts;
* resample: its activation in another prompt of the set, of the same length, drawn anew for every (seed, example,
  unit), so that a number does not depend on which other units were asked for;
* optimal: the constant that lets the model do best without the unit, learned beforehand (see `optimal_constants`).

The reference set is, unless another task is given, the task's own clean and corrupted prompts.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.dictionaries.words import is_coded
from veracausa.effects.patterns import require_patterns
from veracausa.engine.budget import prompts_per_batch
from veracausa.engine.patches import Place, activation, layers_at, sites_for
from veracausa.engine.recording import record
from veracausa.engine.tape import State, Tape
from veracausa.engine.validate_prompts import require_readable
from veracausa.errors import MethodError
from veracausa.scores.estimands import ABLATIONS, DIRECTIONS, INSTEAD, REFERRING
from veracausa.suggestions import not_known
from veracausa.units.table import Units, per_layer
from veracausa.words import listed

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Donor prompts per length that `resample` draws from; bounds memory, and is fixed so that no number depends on it.
DONORS = 64


class Replacement(Protocol):
    """Values that patched units take, for rows of one bucket at one layer.

    `anywhere`: whether they are the same whatever runs beside a pair; where a class has no such, they are not.
    """

    def rows(
        self, tape: Tape, place: Place, layer: int, example: Int[Tensor, " rows"], unit: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows positions site"]:
        """The whole site's replacement values of each row, at the tape's positions.

        `example[r]` indexes the tape's examples, `unit[r]` the table of units of the call (for draws keyed by what the
        unit is: its layer, index and position). No `unit`: every part of the site is replaced by its own value.
        """
        ...


class Moving(ABC):
    """A replacement that adds to the clean run's activations; in a group, to what earlier members made of them."""

    @abstractmethod
    def moves(self, tape: Tape, place: Place, layer: int, example: Tensor) -> Float[Tensor, "rows positions site"]:
        """What is added to the whole site of each row, at the tape's positions."""

    def rows(self, tape: Tape, place: Place, layer: int, example: Tensor, unit: Tensor | None) -> Tensor:
        """See `Replacement.rows`."""
        return activation(tape.clean, place, layer)[example] + self.moves(tape, place, layer, example)


class Learned(Protocol):
    """Constants of optimal ablation, learned beforehand: an `OptimalConstants`."""

    def require(self, lm: Model, task: Task, units: Units) -> None:
        """Raise unless the constants are of this model and task, and of all these units."""

    def replacement(self, lm: Model) -> Replacement:
        """The constants as a `Replacement`."""
        ...


class Counterfactual:
    """The other run's activations: corrupted when the clean run is patched, clean when the corrupted one is."""

    anywhere = True

    def __init__(self, noising: bool) -> None:
        self.noising = noising

    def rows(self, tape: Tape, place: Place, layer: int, example: Tensor, unit: Tensor | None) -> Tensor:
        """See `Replacement.rows`."""
        return activation(self.state(tape), place, layer)[example]

    def state(self, tape: Tape) -> State:
        """The run that replacements are taken from."""
        return tape.corrupted if self.noising else tape.clean


class Multiple:
    """Each unit's own activation times a factor; in a group, what the members before have made of it times that."""

    anywhere = True

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def rows(self, tape: Tape, place: Place, layer: int, example: Tensor, unit: Tensor | None) -> Tensor:
        """See `Replacement.rows`."""
        return self.factor * activation(tape.clean, place, layer)[example]


class Zero:
    """Zeros."""

    anywhere = True

    def rows(self, tape: Tape, place: Place, layer: int, example: Tensor, unit: Tensor | None) -> Tensor:
        """See `Replacement.rows`."""
        like = activation(tape.clean, place, layer)
        return like.new_zeros(len(example), *like.shape[1:])


class Unmixed(Zero):
    """Stands for values that depend on a pair's own length, where rows are counted before there are any."""

    anywhere = False


class Mean:
    """Means over a reference set; `means[layer]`: [n, site] per position, or [1, site] over positions."""

    anywhere = True  # by position only where all prompts have one length

    def __init__(self, lm: Model, prompts: Sequence[tuple[int, ...]], place: Place, aligned: bool, cost: Cost) -> None:
        totals: dict[int, Tensor] = {}
        count, layers = 0, layers_at(lm.decoder, place)
        for _, state in recorded(lm, prompts, sites_for(place), cost):
            for layer in layers:
                values = activation(state, place, layer).to(torch.promote_types(lm.dtype, torch.float32))
                total = values.sum(0) if aligned else values.sum((0, 1))[None]
                totals[layer] = totals[layer] + total if layer in totals else total
            count += values.shape[0] * (1 if aligned else values.shape[1])
        kind = lm.score_dtype if is_coded(place) else lm.dtype
        self.means = {layer: (total / count).to(kind) for layer, total in totals.items()}

    def rows(self, tape: Tape, place: Place, layer: int, example: Tensor, unit: Tensor | None) -> Tensor:
        """See `Replacement.rows`."""
        mean = self.means[layer]
        positions = mean[tape.start : tape.length] if mean.shape[0] > 1 else mean
        return positions.expand(len(example), tape.length - tape.start, -1)


class Resample:
    """Activations of another prompt of the same length, keyed by (seed, example, unit)."""

    def __init__(
        self, lm: Model, prompts: Sequence[tuple[int, ...]], task: Task, units: Units, seed: int, cost: Cost
    ) -> None:
        self.task, self.seed, place, self.parts = task, seed, units.place, per_layer(lm, units.kind)
        self.keys = units.draws
        self.donors = by_length = donors_of(prompts, seed)
        if (i := without_donor(task, by_length)) is not None:
            raise MethodError(
                f"ablation='resample' needs another prompt of the same length for every example, but there is none "
                f"of {task.lengths[i]} tokens for pair {i} of {task.name!r}. Add pairs, pass reference=another task, "
                "or use ablation='mean'."
            )
        self.activations: dict[int, dict[int, Tensor]] = {}
        for length, donors in by_length.items():
            if length in set(task.lengths):
                states = [state for _, state in recorded(lm, donors, sites_for(place), cost)]
                self.activations[length] = {
                    layer: torch.cat([activation(state, place, layer) for state in states])
                    for layer in layers_at(lm.decoder, place)
                }

    def donor(self, example: int, key: Sequence[int]) -> int:
        """Index of the donor of (example, key of a unit) among those of its length; never a prompt of the pair."""
        donors = self.donors[len(self.task.clean[example])]
        own = (self.task.clean[example], self.task.corrupted[example])
        allowed = [index for index, prompt in enumerate(donors) if prompt not in own]
        draw = np.random.default_rng([self.seed, example, *key]).integers(len(allowed))
        return allowed[int(draw)]

    def numbers(
        self, tape: Tape, layer: int, example: Tensor, keys: Sequence[Sequence[int]], column: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows positions"]:
        """One number of the site for each row, of the donor that its unit's key draws."""
        pairs = [tape.examples[e] for e in example.tolist()]
        donors = torch.tensor([self.donor(e, key) for e, key in zip(pairs, keys, strict=True)], device=example.device)
        return self.activations[tape.length][layer][donors, tape.start :, column]

    def rows(self, tape: Tape, place: Place, layer: int, example: Tensor, unit: Tensor | None) -> Tensor:
        """See `Replacement.rows`."""
        values = self.activations[tape.length][layer][:, tape.start :]
        examples = [tape.examples[e] for e in example.tolist()]
        if unit is not None:
            chosen = [self.donor(e, self.keys[u].tolist()) for e, u in zip(examples, unit.tolist(), strict=True)]
            return values[torch.tensor(chosen, device=example.device)]
        keys = [(layer + 1, part + 1 if self.parts else 0, 0) for part in range(max(1, self.parts))]
        donors = torch.tensor([[self.donor(e, key) for key in keys] for e in examples], device=example.device)
        split = values.unflatten(-1, (len(keys), -1))
        return torch.stack([split[donors[:, part], :, part] for part in range(len(keys))], 2).flatten(2)


@dataclass(frozen=True)
class _Asked:
    """What a replacement is made from: arguments of a call; `source`: the reference set."""

    lm: Model
    task: Task
    units: Units
    direction: str
    source: Task
    seed: int
    cost: Cost

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """The prompts of the reference set."""
        return [*self.source.prompts]

    def mean(self) -> Mean:
        """Means over the reference set."""
        require_patterns([self.units.place], "mean", self.task, self.source)
        aligned = len({len(prompt) for prompt in (*self.prompts, *self.task.prompts)}) == 1
        return Mean(self.lm, self.prompts, self.units.place, aligned, self.cost)

    def resample(self) -> Resample:
        """Draws from the reference set."""
        return Resample(self.lm, self.prompts, self.task, self.units, self.seed, self.cost)


#: Ablation → what makes its replacement; optimal constants are learned beforehand, and handed over.
MAKERS: dict[str, Callable[[_Asked], Replacement]] = {
    "counterfactual": lambda asked: Counterfactual(asked.direction == "noising"),
    "zero": lambda asked: Zero(),
    "mean": _Asked.mean,
    "resample": _Asked.resample,
}


def replacement(
    lm: Model,
    task: Task,
    units: Units,
    ablation: str,
    direction: str,
    reference: Task | None,
    seed: int,
    cost: Cost,
    constants: Learned | None = None,
) -> Replacement:
    """The `Replacement` that a call asks for; `constants`: of optimal ablation, learned on this model and task.

    Raises:
        MethodError: an unknown ablation; denoising with anything but the counterfactual; no donor for resampling; no
            constants for optimal ablation, or those of another model, task or kind of unit.
    """
    require_effect(ablation, direction)
    require_constants(ablation, constants)
    if constants is None and ablation == "optimal":
        raise MethodError("ablation='optimal' needs constants=vc.effects.optimal_constants(lm, task, units=…) here.")
    if constants is not None:
        constants.require(lm, task, units)
        return constants.replacement(lm)
    return MAKERS[ablation](_Asked(lm, task, units, direction, task if reference is None else reference, seed, cost))


def require_constants(ablation: str, constants: Learned | None) -> None:
    """Raise MethodError for constants of another ablation than "optimal"."""
    if constants is not None and ablation != "optimal":
        raise MethodError(
            f"constants= are those of ablation='optimal', but ablation is {ablation!r}. Leave one of them out."
        )


def reference_runs(lm: Model, source: Task, task: Task, ablation: str) -> float:
    """Token-layers of recording the reference set of an ablation: all prompts, or the donors of each length."""
    prompts = source.prompts
    if ablation in ("mean", "optimal"):
        return float(lm.layers * sum(len(prompt) for prompt in prompts))
    if ablation != "resample":
        return 0.0
    different = set(prompts)
    lengths = {n: min(DONORS, sum(len(prompt) == n for prompt in different)) for n in set(task.lengths)}
    return float(lm.layers * sum(n * count for n, count in lengths.items()))


def require_effect(ablation: str, direction: str) -> None:
    """Raise MethodError unless both are known and mean something together; asked before anything is run."""
    if ablation in INSTEAD:
        raise MethodError(
            f"ablation={ablation!r} is made of what you put there: vc.effects.{ablation.capitalize()}(…)."
        )
    for what, value, known in (("ablation", ablation, ABLATIONS), ("direction", direction, DIRECTIONS)):
        if value not in known:
            raise MethodError(not_known(what, value, known))
    if direction == "denoising" and ablation != "counterfactual":
        raise MethodError(
            f"direction='denoising' restores a unit's clean value in the corrupted run; there is nothing that "
            f"ablation={ablation!r} could replace. Use direction='noising', or ablation='counterfactual'."
        )


def require_reference(ablation: object, reference: Task | None) -> None:
    """MethodError for a reference set that the ablation takes nothing from."""
    if reference is not None and isinstance(ablation, str) and ablation not in REFERRING:
        takes = {"counterfactual": "the other prompt of each pair", "optimal": "what is learned on the task"}
        raise MethodError(
            f"reference= is the set that {listed(REFERRING)} take their values from; ablation={ablation!r} takes "
            f"{takes.get(ablation, 'none')}. Leave it out, or name the ablation that you mean."
        )


def require_joint(ablation: object) -> None:
    """MethodError for optimal constants, which are learned for one unit at a time."""
    if ablation == "optimal":
        raise MethodError(
            "ablation='optimal' is the best constant for one unit while all others stay; for several units together, "
            "or with later units held, it is not defined. Use counterfactual, zero, mean or resample."
        )


def donors_of(prompts: Sequence[tuple[int, ...]], seed: int) -> dict[int, list[tuple[int, ...]]]:
    """Length → the prompts that resampling draws from."""
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for prompt in dict.fromkeys(prompts):
        by_length.setdefault(len(prompt), []).append(prompt)
    return {n: sorted(found, key=lambda prompt: _key(seed, prompt))[:DONORS] for n, found in by_length.items()}


def without_donor(task: Task, donors: dict[int, list[tuple[int, ...]]]) -> int | None:
    """The first pair that has no other prompt of its length to draw from, if there is one."""
    for i, (x, y) in enumerate(zip(task.clean, task.corrupted, strict=True)):
        if all(donor in (x, y) for donor in donors.get(len(x), [])):
            return i
    return None


def recorded(
    lm: Model, prompts: Sequence[tuple[int, ...]], sites: Collection[str], cost: Cost
) -> Iterator[tuple[list[int], State]]:
    """Record prompts in batches of equal length, whole prompts from position 0: (indices, state) of each batch."""
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    for length, members in by_length.items():
        most = prompts_per_batch(lm, length, sites)
        for first in range(0, len(members), most):
            batch = members[first : first + most]
            require_readable(lm, [prompts[i] for i in batch])
            ids = torch.tensor([prompts[i] for i in batch], device=lm.device)
            yield batch, record(lm.decoder, ids, sites=sites, cost=cost)[0]


def _key(seed: int, prompt: tuple[int, ...]) -> bytes:
    return hashlib.sha256(f"{seed}:{prompt}".encode()).digest()

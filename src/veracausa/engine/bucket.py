"""A recorded bucket: pairs of one length and first difference, both runs once, held against the bare model.

Every computation on pairs begins here, so no number is given for a bucket that the engine misreads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.engine.inner_maps import require_components
from veracausa.engine.measure import alone, apart, pair_ids, readout
from veracausa.engine.memory import memory_errors
from veracausa.engine.readout import Readout
from veracausa.engine.recording import record_pairs
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.tape import State, Tape
from veracausa.engine.validate import require_run, require_sites

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.engine.patches import Place
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Bucket:
    """Both runs of some pairs (`tape`), the metric of a final residual (`read`), and where runs of them are counted.

    `read` is about the run that is patched; `elsewhere`: how the other one is read, where prompts differ in length.

    >>> bucket = Bucket.record(lm, task, start, (0, 1), cost, sites=("z",), places=("z",))
    >>> bucket.read.of_state(bucket.tape.clean)
    """

    lm: Model
    tape: Tape
    read: Readout
    cost: Cost
    elsewhere: Readout | None = field(default=None, kw_only=True)

    @classmethod
    def record(
        cls,
        lm: Model,
        task: Task,
        start: int,
        examples: tuple[int, ...],
        cost: Cost,
        *,
        sites: Collection[str] = (),
        places: Collection[Place] = (),
        grad: Literal["clean", "corrupted"] | None = None,
        beside_graph: Collection[str] = (),
        noising: bool | None = None,
    ) -> Bucket:
        """Run both prompts of every example from `start` on, and hold the runs against the bare model's.

        `sites`: activations to keep. `places`: where units will be replaced; that they write what the weights say is
        checked there. `grad`: the run that keeps its graph, if any; `beside_graph`: sites that it alone keeps.
        `noising`: of callers who can do with prompts of different lengths, whether the clean run will be patched, or
        (False) the corrupted one.

        Raises:
            ContractError: see `validate` and `validate_whole`. NumericsError, OutOfMemoryError. MethodError: a pair's
                prompts have different lengths.
        """
        if noising is not None and task.uneven & {*examples}:
            return cls._apart(lm, task, examples, cost, sites, places, grad, noising)
        with torch.no_grad():
            ids = pair_ids(lm, task, examples)
            tape = record_pairs(
                lm.decoder, *ids, start, examples=examples, tail=task.tail(examples), sites=sites, grad=grad,
                beside_graph=beside_graph, cost=cost,
            )  # fmt: skip
        for place in places:
            if place not in tape.checked:
                require_sites(lm, tape, place)
                require_components(lm, tape, place)
                tape.checked.add(place)
        return cls(lm, tape, readout(lm, task, tape), cost)

    @classmethod
    def _apart(
        cls,
        lm: Model,
        task: Task,
        examples: tuple[int, ...],
        cost: Cost,
        sites: Collection[str],
        places: Collection[Place],
        grad: Literal["clean", "corrupted"] | None,
        noising: bool,
    ) -> Bucket:
        """Pairs whose prompts have different lengths: the tape is that of the run that is patched."""
        clean, corrupted = apart(lm, task, examples, cost, sites=sites, grad=grad)
        (own, read), (_, elsewhere) = (clean, corrupted) if noising else (corrupted, clean)
        tokens = (clean[0].tokens[0], corrupted[0].tokens[0])
        tape = replace(own, tokens=tokens, clean=clean[0].clean, corrupted=corrupted[0].clean)
        for place in places:
            for recorded in (clean[0], corrupted[0], tape):
                require_sites(lm, recorded, place)
                require_components(lm, recorded, place)
        return cls(lm, tape, read, cost, elsewhere=elsewhere)

    @classmethod
    def record_clean(
        cls, lm: Model, task: Task, examples: tuple[int, ...], cost: Cost, *, sites: Collection[str] = ()
    ) -> Bucket:
        """Run the clean prompts alone, whole; the tape has that run in the corrupted one's place, too."""
        tape = alone(lm, task, examples, cost, sites=sites)
        return cls(lm, tape, readout(lm, task, tape), cost)

    @property
    def index(self) -> Int[Tensor, " examples"]:
        """The pairs' places in the task."""
        return torch.tensor(self.tape.examples)

    @property
    def every(self) -> Int[Tensor, " examples"]:
        """All pairs, by their places in the bucket, on the model's device."""
        return torch.arange(len(self.tape.examples), device=self.lm.device)

    @property
    def positions(self) -> int:
        """Positions that runs of the bucket go through."""
        return self.tape.length - self.tape.start

    def measured(self) -> tuple[Float[Tensor, " examples"], Float[Tensor, " examples"]]:
        """M of the clean and of the corrupted run, each where it is read."""
        tape, reads = self.tape, (self.read, self.elsewhere or self.read)
        clean, corrupted = reads if tape.length == tape.tokens[0].shape[1] else reads[::-1]
        return clean.of_state(tape.clean), corrupted.of_state(tape.corrupted)

    def runs(self, noising: bool) -> tuple[State, State]:
        """The run that is patched, and the one that replacements are taken from."""
        return (self.tape.clean, self.tape.corrupted) if noising else (self.tape.corrupted, self.tape.clean)

    def unpatched(self, base: State) -> Float[Tensor, " examples"]:
        """M of the engine's own run without a patch, checked against the bare model's; effects are differences from it.

        Call it under the attention function of suffix runs, as patched runs are.
        """
        tape, whole = self.tape, Join(0, False, self.every, lambda: base.residual[0])
        which = "clean" if base is tape.clean else "corrupted"
        with memory_errors(f"The unpatched run of {len(tape.examples)} prompts"):
            key = which, tape.tail
            if key not in tape.ends:
                tape.ends[key] = sweep(self.lm.decoder, tape, base, [whole], start=tape.start)
            ours = self.read(tape.ends[key], self.every)
            require_run(self.lm, ours, self.read.of_state(base), tape.clean)
        self.cost.add(len(tape.examples), self.positions * self.lm.layers)
        return ours

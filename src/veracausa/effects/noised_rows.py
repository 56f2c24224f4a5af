"""Rows in a run whose embeddings are noised: units, or windows of layers, get their clean values back; see `rows`.

The corrupted run of a recorded bucket is the model's own run on the noised embeddings of the clean prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.effects.group_rows import GroupRows
from veracausa.effects.instead import standard_normal
from veracausa.effects.plan import Patching
from veracausa.effects.rows import Rows
from veracausa.engine.bucket import Bucket
from veracausa.engine.patches import Place, sites_for
from veracausa.engine.recording import record
from veracausa.engine.validate import require_sites

if TYPE_CHECKING:
    from veracausa.cost import Cost
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: What embeddings' noise is keyed by, where activations' noise has the number of its place.
_EMBEDDINGS = 99


@dataclass(frozen=True)
class Noising:
    """Noise on the embeddings of some positions of every pair: draw by draw another.

    `where[i]`: the positions of pair i. `sd`: of the noise, in the embeddings' own units. `ends[i]`: M of pair i's
    noised run, once it has been run.
    """

    where: tuple[tuple[int, ...], ...]
    sd: float
    seed: int
    draw: int
    ends: dict[int, float] = field(default_factory=dict)

    def record(self, lm: Model, task: Task, examples: tuple[int, ...], cost: Cost, place: Place) -> Patching:
        """Clean and noised run of a bucket, the noised one to be patched."""
        bucket = Bucket.record_clean(lm, task, examples, cost, sites=sites_for(place))
        clean = bucket.tape.clean
        noised, _ = record(
            lm.decoder, None, embeddings=self.embeddings(lm, bucket.tape.tokens[0], examples), sites=sites_for(place),
            cost=cost,
        )  # fmt: skip
        tape = replace(bucket.tape, corrupted=noised, ends={}, checked=set())
        require_sites(lm, tape, place)
        self.ends.update(zip(examples, bucket.read.of_state(noised).tolist(), strict=True))
        return Patching(Bucket(lm, tape, bucket.read, cost), noised, clean)

    def embeddings(self, lm: Model, ids: Tensor, examples: tuple[int, ...]) -> Tensor:
        """The prompts' embeddings with noise on them, [examples, positions, width]."""
        own = lm.decoder.embedded(ids)
        noised = own.clone()
        for row, pair in enumerate(examples):
            drawn = standard_normal(tuple(own.shape[1:]), self.seed, self.draw, pair, _EMBEDDINGS)
            at = torch.tensor(self.where[pair], device=own.device)
            noised[row, at] = own[row, at] + self.sd * drawn.to(own)[at]
        return noised


@dataclass(frozen=True)
class NoisedRows(Rows):
    """All rows (example, unit) of one draw; see `rows.Rows`."""

    noise: Noising | None = None

    @property
    def mixed(self) -> bool:
        """See `Plan.mixed`: noise is drawn for a pair's own positions."""
        return False

    def record(self, start: int, examples: tuple[int, ...]) -> Patching:
        """See `Plan.record`."""
        assert self.noise is not None  # it stands behind a field that may be left out
        return self.noise.record(self.lm, self.task, examples, self.cost, self.units.place)


@dataclass(frozen=True)
class NoisedGroupRows(GroupRows):
    """All rows (example, window of layers) of one draw; see `group_rows.GroupRows`."""

    noise: Noising

    def record(self, start: int, examples: tuple[int, ...]) -> Patching:
        """See `Plan.record`."""
        (place,) = self.units.places
        return self.noise.record(self.lm, self.task, examples, self.cost, place)


def embeddings_sd(lm: Model, task: Task, where: tuple[tuple[int, ...], ...]) -> float:
    """Standard deviation of all entries of the embeddings at some positions of the clean prompts, taken together."""
    tokens = [task.clean[i][at] for i, own in enumerate(where) for at in own]
    with torch.no_grad():
        return float(lm.decoder.embedded(torch.tensor([tokens], device=lm.device)).double().std())

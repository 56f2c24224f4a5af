"""Which layers talk to each other: exact interactions along a chain of layers, and the modules of their parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from veracausa.arguments import shown
from veracausa.cost import Cost
from veracausa.errors import MethodError
from veracausa.interplay.clustering import modules
from veracausa.interplay.interacting import InteractionsWork, interactions
from veracausa.planning.stages import Stage
from veracausa.units.table import layers_with

if TYPE_CHECKING:
    from pathlib import Path

    from veracausa.model import Model
    from veracausa.tasks.task import Task


def chain_of(lm: Model, asked: str | Sequence[str] | None) -> tuple[str, ...]:
    """The sites that a study's `interactions=` names, upward: those of a kind ("heads"), or the ones it lists.

    Raises:
        MethodError: fewer than two. ArchitectureError: no such kind in this model.

    >>> chain_of(lm, "heads")[:2], chain_of(lm, "heads:10,neurons:12")
    (('heads:0', 'heads:1'), ('heads:10', 'neurons:12'))
    """
    if asked is None:
        return ()
    sites = asked.split(",") if isinstance(asked, str) and ("," in asked or ":" in asked) else asked
    if isinstance(sites, str):
        sites = [f"{sites}:{layer}" for layer in layers_with(lm, sites)]
    chain = tuple(site.strip() for site in sites)
    if len(chain) < 2:
        raise MethodError(
            f"interactions={shown(asked)} is one site, and one alone has none to talk to: a kind that several layers "
            "have ('heads'), or a chain of sites, ['heads:10', 'neurons:12']."
        )
    return chain


@dataclass(frozen=True)
class TalkingWork:
    """The stage about a chain of sites; `made` and `found` as of `studies.features.FeatureWork`."""

    lm: Model
    task: Task
    chain: tuple[str, ...]
    seed: int
    pieces: Path | None
    show: bool
    made: Callable[[str, str, float, Callable[[], Cost]], Stage]
    found: Callable[..., Cost]

    def works(self) -> list[InteractionsWork]:
        """Of every site with the next."""
        return [interactions.work(self.lm, self.task, *pair, method="exact") for pair in pairwise(self.chain)]

    def stages(self) -> list[Stage]:
        """All of them, as one."""
        if not self.chain:
            return []
        tokens = sum(work.tokens() for work in self.works())
        what = f"exact interactions of {len(self.chain)} layers, each with the next"
        return [self.made(what, "exact", tokens, self._run)]

    def _run(self) -> Cost:
        cost, every = Cost(), []
        for work in self.works():
            every.append(work.run(self.show, self.pieces))
            cost = cost + every[-1].cost
        self.found(modules(every, seed=self.seed), cost)
        for one in every:
            self.found(one)
        return cost

"""Which of many units a study computes exactly, and what that costs before it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from veracausa.scores.scores import Scores
from veracausa.units.dictionaries import is_beside
from veracausa.units.kinds import KINDS
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Int

    from veracausa.effects.exact import ExactWork


def choose_some(guess: Scores, strongest: int | None, sample: int, seed: int) -> tuple[Units, int]:
    """Which units get exact effects: the strongest by `guess`, then a uniform sample of the rest; and its size.

    What a dictionary leaves out, and writes beside its features, is always among the strongest. All units, and 0, if
    `strongest` is None or covers all.
    """
    every = guess.units
    if strongest is None or strongest >= len(every):
        return every, 0
    ranking = beside_first(guess)
    rest = ranking[strongest:]
    drawn = np.random.default_rng(seed).choice(rest, size=min(sample, len(rest)), replace=False)
    return every[np.concatenate([ranking[:strongest], np.sort(drawn)])], len(drawn)


def beside_first(scores: Scores) -> Int[np.ndarray, " units"]:
    """Units from the strongest on; of dictionaries what stands beside the features before these."""
    ranking, units = np.array(scores.ranking()), scores.units
    if not KINDS[units.kind].coded:
        return ranking
    return ranking[np.argsort(~is_beside(units.index[ranking]), kind="stable")]


def some_of(work: ExactWork, count: int) -> tuple[float, float]:
    """Token-layers of `count` of a work's units that are not known yet: as deep as all on average; at most."""
    costs, beside = work.costs(), work.beside()
    return beside + float(costs.mean()) * count, beside + float(np.sort(costs)[-count:].sum())

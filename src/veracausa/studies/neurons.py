"""Which neurons a study computes exactly, and what that costs before it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from veracausa.scores.scores import Scores
from veracausa.units.resolve import all_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.effects.exact import ExactWork
    from veracausa.model import Model


def choose_neurons(lm: Model, guess: Scores, strongest: int | None, sample: int, seed: int) -> tuple[Units, int]:
    """Which neurons get exact effects: the strongest by `guess`, then a uniform sample of the rest; and its size.

    All neurons, and 0, if `strongest` is None or covers all.
    """
    every = all_units(lm, "neurons")
    if strongest is None or strongest >= len(every):
        return every, 0
    ranking = np.array(guess.ranking())
    rest = ranking[strongest:]
    drawn = np.random.default_rng(seed).choice(rest, size=min(sample, len(rest)), replace=False)
    return every[np.concatenate([ranking[:strongest], np.sort(drawn)])], len(drawn)


def some_of(work: ExactWork, count: int) -> tuple[float, float]:
    """Token-layers of `count` of a work's units that are not known yet: as deep as all on average; at most."""
    costs, beside = work.costs(), work.beside()
    return beside + float(costs.mean()) * count, beside + float(np.sort(costs)[-count:].sum())

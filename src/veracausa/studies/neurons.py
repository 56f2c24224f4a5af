"""Which neurons a study computes exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from veracausa.scores.scores import Scores
from veracausa.units.resolve import all_units
from veracausa.units.table import Units

if TYPE_CHECKING:
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

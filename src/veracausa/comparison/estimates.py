"""Estimates that a study keeps on disk, and which neurons it computes exactly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa import __version__
from veracausa.attribution.estimate import attribute
from veracausa.attribution.files import load_scores
from veracausa.attribution.masks import learn_mask
from veracausa.attribution.scores import Scores
from veracausa.attribution.units import Units, all_units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def kept(
    lm: Model, task: Task, kind: str, method: str, parts: dict[str, Any], pieces: Path | None, show: bool
) -> Scores:
    """An estimate, read from `pieces` if an earlier run of the same study finished it there."""

    def compute() -> Scores:
        if method == "mask":
            return learn_mask(lm, task, units=kind, show_progress=show, **parts)
        return attribute(lm, task, units=kind, method=method, show_progress=show, **parts)

    if pieces is None:
        return compute()
    key = json.dumps([lm.identity, task.digest(), kind, method, parts, __version__], sort_keys=True)
    path = pieces / f"{method}-{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if path.exists():
        return load_scores(path)
    scores = compute()
    scores.save(path)
    return scores


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

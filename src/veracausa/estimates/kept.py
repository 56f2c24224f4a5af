"""Estimates that are kept on disk, so that a killed study does not pay for them twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.estimates.attribute import attribute
from veracausa.estimates.learned.masks import learn_mask
from veracausa.scores.files import confirmed, load_scores
from veracausa.scores.scores import Scores
from veracausa.storage.files import keep
from veracausa.version import __version__

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
        return confirmed(load_scores(path), lm, lm.measure(task), path)
    scores = compute()
    keep(lambda: scores.save(path))
    return scores

"""Estimates that are kept on disk, so that a call that was cut off does not pay for them twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.effects.learned_constants import OptimalConstants
from veracausa.estimates.attribute import attribute
from veracausa.estimates.learned.masks import learn_mask
from veracausa.scores.files import confirmed, load_scores
from veracausa.scores.scores import Scores
from veracausa.storage.files import keep
from veracausa.tasks.task import Task
from veracausa.units.resolve import resolve_units
from veracausa.version import __version__

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.units.table import Units


def kept(
    lm: Model, task: Task, units: str | Units, method: str, parts: dict[str, Any], pieces: Path | None, show: bool
) -> Scores:
    """An estimate, read from `pieces` if an earlier call with the same arguments finished it there.

    `method`: as for `vc.attribute`, or "mask"; `parts`: the other arguments, a reference and constants among them.
    """
    table = resolve_units(lm, units, max(task.lengths))

    def compute() -> Scores:
        if method == "mask":
            return learn_mask(lm, task, units=table, show_progress=show, **parts)
        return attribute(lm, task, units=table, method=method, show_progress=show, **parts)

    if pieces is None:
        return compute()
    said = {name: one.digest() if isinstance(one, Task | OptimalConstants) else one for name, one in parts.items()}
    key = json.dumps([lm.identity, task.digest(), table.digest(), method, said, __version__], sort_keys=True)
    path = pieces / f"{method}-{table.kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if path.exists():
        return confirmed(load_scores(path), lm, lm.measure(task), path)
    scores = compute()
    keep(lambda: scores.save(path))
    return scores

"""Estimates that are kept on disk, so that a call that was cut off does not pay for them twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.effects.laid import laid_units
from veracausa.effects.learned_constants import OptimalConstants
from veracausa.scores.files import confirmed, load_scores
from veracausa.scores.headers import dictionary_settings
from veracausa.scores.scores import Scores
from veracausa.storage.files import keep
from veracausa.tasks.task import Task
from veracausa.version import __version__

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.units.table import Units


def kept(
    estimate: Callable[..., Scores],
    lm: Model,
    task: Task,
    pieces: Path | None,
    show: bool,
    *,
    units: str | Units,
    **options: Any,
) -> Scores:
    """What `estimate(lm, task, units=units, **options)` gives, from `pieces` if an earlier call finished it there.

    >>> kept(attribute, lm, task, folder, True, units="heads", method="ig", nodes=5)
    """
    _, table = laid_units(lm, task, units)
    if pieces is None:
        return estimate(lm, task, units=table, show_progress=show, **options)
    said = {name: one.digest() if isinstance(one, Task | OptimalConstants) else one for name, one in options.items()}
    said |= dictionary_settings(lm, table.kind)
    name = options.get("method", estimate.__name__)
    key = json.dumps([lm.identity, task.digest(), table.digest(), name, said, __version__], sort_keys=True)
    path = pieces / f"{name}-{table.kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if path.exists():
        return confirmed(load_scores(path), lm, lm.measure(task), path)
    scores = estimate(lm, task, units=table, show_progress=show, **options)
    keep(lambda: scores.save(path))
    return scores

"""Rankings of edges by name, made on the same pairs, so that they can be judged side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from veracausa.choices import EdgeScoring
from veracausa.discovery.evaluation import random_ranking
from veracausa.discovery.steps import Scoring
from veracausa.errors import FileError
from veracausa.scores.files import confirmed, load_scores
from veracausa.scores.scores import Scores
from veracausa.storage.files import at, keep, make_folder

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: A ranking that knows nothing; it needs another one, whose edges it draws.
RANDOM = "random"


def rankings(
    lm: Model, task: Task, names: Sequence[str], *, edges: int, seed: int, out: str | Path | None, show: bool
) -> dict[str, Scores]:
    """Scores of all edges by every way of scoring them, and "random"; kept in the folder `out`, and read from there.

    `edges`: the size that "learned" says something of. `seed`: of what is learned and drawn.

    Raises:
        MethodError: an unknown way. FileError: what is kept is of another model, or of other pairs.
    """
    works = {name: Scoring.of(lm, task, _known(name), edges, seed) for name in names if name != RANDOM}
    folder = None if out is None else make_folder(at(out))
    measured, found = lm.measure(task), dict[str, Scores]()
    measured.require_gap(task)
    for name, work in works.items():
        path = None if folder is None else folder / f"scores-{name}.safetensors"
        if path is not None and path.exists():
            found[name] = confirmed(_fitting(load_scores(path), lm, task, path), lm, measured, path)
            continue
        found[name] = scores = work.run(folder, show)
        if path is not None:
            keep(lambda path=path, scores=scores: scores.save(path))  # type: ignore[misc]
    if RANDOM in names:
        drawn = random_ranking(next(iter(found.values())), seed)
        found[RANDOM] = replace(drawn, cost=replace(drawn.cost, forward=0, backward=0, seconds=0.0))
    return {name: found[name] for name in names}


def _known(name: str) -> EdgeScoring:
    return name  # type: ignore[return-value]  # what is none is refused where it is resolved


def _fitting(scores: Scores, lm: Model, task: Task, path: Path) -> Scores:
    if (scores.model["identity"], scores.task["digest"]) != (lm.identity, task.digest()):
        raise FileError(f"{path} is of another model or of other pairs. Choose another folder.")
    return scores

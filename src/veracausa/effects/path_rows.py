"""Rows (example, path): the change of a sender, passed on along some edges alone; see `units.paths` and `rows`.

A chunk of rows is one run of `engine.path_forward`. Rows are sorted by their senders, then by example, so that paths
with the same beginning are run together and what they share is run once. A chunk that begins in the midst of such paths
runs their beginning again, which the forecast leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from veracausa.effects.edge_rows import WriteRows
from veracausa.effects.rows import Patching
from veracausa.engine.path_forward import run_paths
from veracausa.engine.routes import Read, Routes, Stage
from veracausa.engine.writes import moving
from veracausa.units.paths import Part, Path, Paths

#: Longer than any prompt: where positions don't matter.
_LONG = 1 << 40


@dataclass(frozen=True)
class PathRows(WriteRows):
    """All rows (example, path) of one call, and how a bucket of them is run; see `rows.Rows`."""

    units: Paths

    @cached_property
    def _stages(self) -> dict[Stage, Stage]:
        """Every stage that was made, so that paths that begin alike hold the very same."""
        return {}

    @cached_property
    def depth(self) -> np.ndarray:
        """Blocks that each path's row runs alone; what paths share, and their readers, are `beside`."""
        return np.array([self._own(end) for end in (_staged(path, 0, _LONG, {}) for path in self.units.paths)])

    def _own(self, end: Stage) -> int:
        return self.lm.layers - end.begins(self.lm.graph) // 2 if end.live else 0

    def beside(self, share: bool) -> float:
        """See `Plan.beside`: readers, and streams that end at readers, each once for all paths that begin alike."""
        found = 0
        for start, members in self.buckets(share):
            length = len(self.task.clean[members[0]])
            runs = np.flatnonzero(self.starts(start, length, members) < length).tolist()
            ends = [self._end(unit, start, length) for unit in runs]
            shared = Routes.of(self.lm.graph, ends).depth - sum(map(self._own, ends))
            found += len(members) * (length - start) * shared
        return float(found)

    def starts(self, start: int, length: int, examples: tuple[int, ...]) -> np.ndarray:
        """The first position, of all paths that can change something in prompts of that length; `length` of others."""
        runs = [path.exists(length) and _reaches(path, start, length) for path in self.units.paths]
        return np.where(runs, start, length)

    def free(self, patching: Patching, todo: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """Rows (example, path) that cannot change anything, and rows whose positions do not exist."""
        tape, paths, waiting = patching.bucket.tape, self.units.paths, todo.numpy()
        moves: np.ndarray = moving(self.lm.decoder, patching.base, patching.other).cpu().numpy()
        exists = np.array([path.exists(tape.length) for path in paths])
        moved = [_reaches(path, tape.start, tape.length) & _moved(path, moves, tape.start) for path in paths]
        changed = np.stack([np.broadcast_to(one, len(todo)) for one in moved], 1)
        for chosen, effect in ((~exists & waiting, float("nan")), (exists & ~changed & waiting, 0.0)):
            rows = np.argwhere(chosen)
            if len(rows):
                yield rows, effect

    def order(self, chosen: np.ndarray) -> np.ndarray:
        """See `Plan.order`; by sender, then example by example, paths that begin alike side by side."""
        texts = np.array([path.name for path in self.units.paths])
        senders = np.array([text.partition("->")[0] for text in texts])
        example, unit = np.nonzero(chosen)
        order = np.lexsort((texts[unit], example, senders[unit]))
        return np.stack([example, unit], 1)[order]

    def chunk(self, patching: Patching, rows: np.ndarray, start: int) -> Tensor:
        """See `Plan.chunk`."""
        tape, read = patching.bucket.tape, patching.bucket.read
        known = {unit: self._end(unit, start, tape.length) for unit in np.unique(rows[:, 1]).tolist()}
        example = torch.as_tensor(rows[:, 0], device=self.lm.device)
        ends = [known[unit] for unit in rows[:, 1].tolist()]
        last = run_paths(self.lm.decoder, tape, patching.base, patching.other, ends, example, self.cost)
        return read(last, example).to("cpu", self.lm.score_dtype)

    def _end(self, unit: int, start: int, length: int) -> Stage:
        return _staged(self.units.paths[unit], start, length, self._stages)


def _staged(path: Path, start: int, length: int, known: dict[Stage, Stage]) -> Stage:
    """The last stage of a path in prompts of a length, of which the positions from `start` on are run.

    `known`: those made before, of which each is taken again.
    """

    def one(*what: Any) -> Stage:
        made = Stage(*what)
        return known.setdefault(made, made)

    through = [step.through for step in path.steps] + [True]
    sends = [(writer, *_held(part, start, length)) for part in path.sender for writer in part.writes]
    stage = one(None, through[0], tuple(sorted(sent for sent in sends if sent[2] >= 0)))
    for step, live in zip(path.steps, through[1:], strict=True):
        if not step.at_end:
            stage = one(stage, live, (), _reads(step.parts, start, length))
    return stage


def _reads(parts: tuple[Part, ...], start: int, length: int) -> tuple[Read, ...]:
    """The readers of a step, place by place along the stream."""
    places: dict[tuple[int, bool], list[tuple[int, int, int, int]]] = {}
    for part in parts:
        first, last = _held(part, start, length)
        if last >= 0:
            mlp = part.reads[0][1] < 0
            places.setdefault((part.layer, mlp), []).extend((*one, first, last) for one in part.reads)
    return tuple(Read(layer, mlp, tuple(sorted(seen))) for (layer, mlp), seen in sorted(places.items()))


def _held(part: Part, start: int, length: int) -> tuple[int, int]:
    """First and last position of a part, counted from `start`."""
    first, last = part.placed(length)
    return max(first - start, 0), last - start


def _reaches(path: Path, start: int, length: int) -> bool:
    """Whether something of every step lies where the prompts can differ."""
    groups = [path.sender, *(step.parts for step in path.steps)]
    return all(any(part.placed(length)[1] >= start for part in parts) for parts in groups)


def _moved(path: Path, moves: np.ndarray, start: int) -> np.ndarray:
    """Of every example, whether the sender's write differs between the runs where it is read."""
    found = np.zeros(moves.shape[1], dtype=bool)
    for part in path.sender:
        first, last = _held(part, start, start + moves.shape[2])
        if path.steps[0].at_end and not path.steps[0].through:  # read at the last position alone
            first = moves.shape[2] - 1
        found |= moves[list(part.writes), :, first : max(last + 1, 0)].any((0, 2))
    return found

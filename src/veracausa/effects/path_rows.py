"""Rows (example, path): the change of a sender, passed on along some edges alone; see `units.paths` and `rows`.

A chunk of rows is one run of `engine.path_forward`. Rows are sorted by their senders, then by example, so that paths
with the same beginning are run together and what they share is run once. A chunk that begins in the midst of such paths
runs their beginning again, which the forecast leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.graph import MLP
from veracausa.effects.edge_rows import WriteRows
from veracausa.effects.plan import Patching
from veracausa.engine.patches import Place
from veracausa.engine.path_codes import Coded, moving_parts
from veracausa.engine.path_forward import run_paths
from veracausa.engine.routes import Read, Routes, Station
from veracausa.engine.tape import Tape
from veracausa.engine.writes import moving
from veracausa.errors import UnitError
from veracausa.tasks.placing import moved, places
from veracausa.units.path_parts import Part, Path, Spans
from veracausa.units.paths import Paths

if TYPE_CHECKING:
    from veracausa.tasks.task import Task

#: Longer than any prompt: where positions don't matter.
_LONG = 1 << 40


@dataclass(frozen=True)
class PathRows(WriteRows):
    """All rows (example, path) of one call, and how a bucket of them is run; see `rows.Rows`."""

    units: Paths

    @property
    def coded(self) -> list[Place]:
        """See `WriteRows.coded`."""
        return cast("list[Place]", sorted({one.kind for one in self.units.coded}))

    @cached_property
    def _stations(self) -> dict[Station, Station]:
        """Every station that was made, so that paths that begin alike hold the very same."""
        return {}

    @cached_property
    def _ends(self) -> dict[tuple[Any, ...], Station]:
        """The last stations that were made, by path and positions."""
        return {}

    @cached_property
    def depth(self) -> np.ndarray:
        """Blocks that each path's row runs alone; what paths share, and their readers, are `beside`."""
        anywhere = [dict.fromkeys(path.named, (0, 1)) for path in self.units.paths]
        ends = [_end_of(path, 0, _LONG, spans, {}) for path, spans in zip(self.units.paths, anywhere, strict=True)]
        return np.array(list(map(self._own, ends)))

    def _own(self, end: Station) -> int:
        return self.lm.layers - end.begins(self.lm.graph) // 2 if end.live else 0

    @cached_property
    def spans(self) -> list[Spans]:
        """Where each pair's patched prompt has the spans that parts are at."""
        return [places(self.task, i, self.units.named, self.noising) for i in range(len(self.task))]

    def beside(self, share: bool) -> float:
        """See `Plan.beside`: readers, and streams that end at readers, each once for all paths that begin alike."""
        found = 0
        for start, members in self.buckets(share):
            length, alike = len(self.task.clean[members[0]]), not self.units.named
            runs = np.broadcast_to(self.starts(start, length, members) < length, (len(members), len(self.units)))
            for example, own in zip(members[:1] if alike else members, runs, strict=False):
                ends = [self.end(unit, start, length, example) for unit in np.flatnonzero(own).tolist()]
                shared = Routes.of(self.lm.graph, ends).depth - sum(map(self._own, ends))
                found += (len(members) if alike else 1) * (length - start) * shared
        return float(found)

    def starts(self, start: int, length: int, examples: tuple[int, ...]) -> np.ndarray:
        """The first position, of all paths that can change something in a prompt; `length` of others."""
        spans = [self.spans[i] for i in (examples if self.units.named else examples[:1])]
        runs = [
            [path.exists(length, own) and _reaches(path, start, length, own) for path in self.units.paths]
            for own in spans
        ]
        return np.where(runs if self.units.named else runs[0], start, length)

    def free(self, patching: Patching, todo: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """Rows (example, path) that cannot change anything, and rows whose positions do not exist."""
        tape, waiting = patching.bucket.tape, todo.numpy()
        moves: np.ndarray = moving(self.lm.decoder, patching.base, patching.other).cpu().numpy()
        coded = {
            part: moving_parts(patching.base, patching.other, part).cpu().numpy()
            for part in dict.fromkeys(one.coded for path in self.units.paths for one in path.sender if one.coded)
        }
        exists, changed = np.zeros_like(waiting), np.zeros_like(waiting)
        for i, example in enumerate(tape.examples):
            spans = self.spans[example]
            exists[i] = [path.exists(tape.length, spans) for path in self.units.paths]
            changed[i] = [
                _reaches(path, tape.start, tape.length, spans)
                and _moved(path, moves[:, i], {part: own[i] for part, own in coded.items()}, tape, spans)
                for path in self.units.paths
            ]
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
        example = torch.as_tensor(rows[:, 0], device=self.lm.device)
        ends = [self.end(unit, start, tape.length, tape.examples[i]) for i, unit in rows.tolist()]
        last = run_paths(self.lm.decoder, tape, patching.base, patching.other, ends, example, self.cost)
        return read(last, example).to("cpu", self.lm.score_dtype)

    def end(self, unit: int, start: int, length: int, example: int) -> Station:
        """The last station of a path in a pair."""
        path = self.units.paths[unit]
        spans = {name: where for name, where in self.spans[example].items() if name in path.named}
        key = unit, start, length, *spans.items()
        if key not in self._ends:
            self._ends[key] = _end_of(path, start, length, spans, self._stations)
        return self._ends[key]


def _end_of(path: Path, start: int, length: int, spans: Spans, known: dict[Station, Station]) -> Station:
    """The last station of a path in prompts of a length, of which the positions from `start` on are run.

    `known`: those made before, of which each is taken again.
    """

    def one(*what: Any) -> Station:
        made = Station(*what)
        return known.setdefault(made, made)

    through = [step.through for step in path.steps] + [True]
    sends = [(writer, *_held(part, start, length, spans)) for part in path.sender for writer in part.writes]
    coded = [(part.coded, *_held(part, start, length, spans)) for part in path.sender if part.coded]
    sent, sent_coded = (tuple(sorted((s for s in found if s[2] >= 0), key=repr)) for found in (sends, coded))
    station = one(None, through[0], sent, (), sent_coded)
    for step, live in zip(path.steps, through[1:], strict=True):
        if not step.at_end:
            station = one(station, live, (), _reads(step.parts, start, length, spans))
    return station


def _reads(parts: tuple[Part, ...], start: int, length: int, spans: Spans) -> tuple[Read, ...]:
    """The readers of a step, place by place along the stream."""
    places: dict[tuple[int, bool], list[tuple[int, int, int, int]]] = {}
    coded = list[tuple[Coded, int, int]]()
    for part in parts:
        first, last = _held(part, start, length, spans)
        if last >= 0 and part.coded is not None:
            coded.append((part.coded, first, last))
        elif last >= 0:
            mlp = part.reads[0][0] == MLP
            places.setdefault((part.layer, mlp), []).extend((*one, first, last) for one in part.reads)
    if coded:  # of one dictionary, and alone
        return (Read(coded[0][0].layer, False, (), tuple(sorted(coded, key=repr))),)
    return tuple(Read(layer, mlp, tuple(sorted(seen))) for (layer, mlp), seen in sorted(places.items()))


def _held(part: Part, start: int, length: int, spans: Spans) -> tuple[int, int]:
    """First and last position of a part, counted from `start`."""
    first, last = part.placed(length, spans)
    return max(first - start, 0), last - start


def _reaches(path: Path, start: int, length: int, spans: Spans) -> bool:
    """Whether something of every step lies where the prompts can differ."""
    groups = [path.sender, *(step.parts for step in path.steps)]
    return all(any(part.placed(length, spans)[1] >= start for part in parts) for parts in groups)


def _moved(path: Path, moves: np.ndarray, coded: dict[Coded, np.ndarray], tape: Tape, spans: Spans) -> bool:
    """Whether the sender's write differs between a pair's runs where it is read.

    `moves`: [writers, positions]; `coded`: of parts of dictionaries, [positions].
    """
    for part in path.sender:
        first, last = _held(part, tape.start, tape.length, spans)
        if path.steps[0].at_end and not path.steps[0].through:  # read at the tail alone
            first = max(first, moves.shape[1] - tape.tail)
        own = coded[part.coded] if part.coded else moves[list(part.writes)]
        if own[..., first : max(last + 1, 0)].any():
            return True
    return False


def require_still(task: Task, paths: Paths) -> None:
    """UnitError where a sender is at a span that stands at other positions in the other prompt of a pair."""
    for path in paths.paths:
        for part in path.sender:
            if isinstance(part.span, str) and moved(task, (part.span,)):
                raise UnitError(
                    f"{part.name} in {path.name!r}: some pair of {task.name!r} has the span {part.span!r} at other "
                    "tokens in its corrupted prompt, so the sender's two writes there do not correspond. Name the "
                    "span at a reader, or take prompts that have it in one place."
                )

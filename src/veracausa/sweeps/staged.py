"""Studies and discoveries as cells: cut between their stages, which share a folder of pieces.

An item does stages that follow each other; what earlier turns have found it reads from the folder (`planning.stages`).
The last item of a cell makes the very call that one process makes, in a folder where every piece is there already, so
that its numbers are those of one process, and saves the result there, with its page.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.arguments import bytes_of
from veracausa.cost import Step
from veracausa.discovery.discover import DiscoverWork
from veracausa.discovery.results import Discovery
from veracausa.engine.budget import within
from veracausa.engine.guard import shared
from veracausa.storage.files import make_folder, read_json, write_json
from veracausa.studies.results import Study
from veracausa.studies.study import StudyWork
from veracausa.units.kinds import Kind
from veracausa.units.resolve import all_units

if TYPE_CHECKING:
    from veracausa.planning.stages import Stage

#: Where both keep pieces within their folder.
_PIECES = "pieces"
#: Bytes of a page with its figures and tables, about.
_PAGE = 5_000_000


@dataclass(frozen=True)
class Staged:
    """What an item of a study or a discovery has done, step by step; its numbers are in the cell's folder."""

    steps: tuple[Step, ...] = ()

    def save(self, path: Path) -> Path:
        """Write down that it is done, and what each step took."""
        return write_json(path, {"steps": [step.to_dict() for step in self.steps]})


def ranges(stages: Sequence[Stage], steps: Sequence[Step], seconds: float) -> list[tuple[int, tuple[int, int]]]:
    """The turn and the stages of every item: of one turn, not cut before a joined one, up to `seconds` by the forecast.

    Stages whose time is not known are items of their own.

    >>> ranges(work.stages(), timed_steps, 60)
    [(0, (0, 3)), (0, (3, 6)), (1, (6, 9))]
    """
    found: list[tuple[int, tuple[int, int]]] = []
    spent = 0.0
    for at, (stage, step) in enumerate(zip(stages, steps, strict=True)):
        took = float("inf") if step.seconds is None else step.seconds
        if found and (stage.joined or (found[-1][0] == stage.turn and spent + took <= seconds)):
            found[-1] = stage.turn, (found[-1][1][0], at + 1)
            spent += took
        else:
            found.append((stage.turn, (at, at + 1)))
            spent = took
    return found


def done(
    work: StudyWork | DiscoverWork, stages: tuple[int, int] | None, out: Path, memory: float | str | None
) -> Staged:
    """Do some stages in the cell's folder; None, or an empty range: put all together there, and save it."""
    with within(bytes_of(memory)):
        if stages is None or stages[0] == stages[1]:
            _put_together(work, out)
            return Staged()
        with shared(work.lm.decoder):
            every = work.stages(out)
            own = every[slice(*stages)]
            for stage in every:
                if stage.turn < own[0].turn:
                    stage.done()  # read from the folder
            made = Staged(tuple(stage.done() for stage in own))
        made.save(make_folder(out / _PIECES) / f"took-{stages[0]}.json")
        return made


def _put_together(work: StudyWork | DiscoverWork, out: Path) -> None:
    """The result, with the seconds that its stages took where they were done."""
    found: Study | Discovery = work.run(False, out)
    taken = {int(path.stem.rpartition("-")[2]): _read(path) for path in (out / _PIECES).glob("took-*.json")}
    if isinstance(found, Study):
        took = {first + i: step for first, own in taken.items() for i, step in enumerate(own)}
        steps = tuple((plan, took.get(i, step)) for i, (plan, step) in enumerate(found.steps))
        found = replace(found, steps=steps)
    seconds = found.seconds + sum(step.seconds or 0.0 for own in taken.values() for step in own)
    replace(found, seconds=seconds).save(out)
    shutil.rmtree(out / _PIECES, ignore_errors=True)


def _read(path: Path) -> list[Step]:
    return [Step(**step) for step in read_json(path, "what stages took")["steps"]]


def numbers(work: Any) -> int:
    """How many numbers the result holds, about, and its pieces with it; its page counts as if it were numbers, too."""
    lm, pairs = work.lm, len(work.task)
    edges = 3 * pairs * lm.graph.size if isinstance(work, DiscoverWork) or work.circuit else 0
    kinds: tuple[Kind, ...] = ("heads", "mlps", "neurons") if isinstance(work, StudyWork) else ()
    units = sum(len(all_units(lm, kind)) for kind in kinds if kind not in lm.decoder.lacks)
    return edges + 6 * pairs * units + _PAGE // lm.score_dtype.itemsize

"""A scoreboard is filled: every ranking is judged by the same runs on the same pairs, piece by piece."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from veracausa.choices import BoardPart
from veracausa.circuits.attacks.attacking import LARGEST, adversary
from veracausa.circuits.attacks.attacking import SIZES as RESTORED
from veracausa.circuits.attacks.files import load_attack
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.quality.across_tasks import specificity
from veracausa.circuits.quality.cause_curve import cause_curve, load_cause_curve
from veracausa.circuits.quality.curve import SIZES, curve, require_sizes
from veracausa.circuits.quality.files import load_curve
from veracausa.circuits.quality.specificity import load_specificity
from veracausa.circuits.scoreboards.board import Cell, Scoreboard
from veracausa.circuits.scoreboards.columns import PARTS
from veracausa.circuits.scoreboards.filling import of_attack, of_causes, of_curve, of_scores, of_specificity
from veracausa.circuits.selection.select import select
from veracausa.cost import Cost, Step, bounds, told
from veracausa.engine.guard import shared
from veracausa.engine.work import Composed, Work, gives
from veracausa.errors import CircuitError, GapError, MethodError, UnitError
from veracausa.progress import announce
from veracausa.scores.about import require_about
from veracausa.scores.scores import Scores, task_header
from veracausa.storage.files import at, keep, make_folder
from veracausa.storage.origin import require_same_ends
from veracausa.suggestions import not_known
from veracausa.tasks.measurement import Measurement
from veracausa.units.edges import Edges
from veracausa.version import __version__
from veracausa.words import listed

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

_LOADERS: dict[str, Callable[[Path], Any]] = {
    "curve": load_curve, "cause": load_cause_curve, "adversary": load_attack, "specificity": load_specificity,
}  # fmt: skip
#: What may be wrong with one ranking alone.
_OWN = (CircuitError, GapError, MethodError, UnitError)
Piece = tuple[str, str]


@dataclass(frozen=True, eq=False)
class ScoreboardWork(Composed):
    """What `scoreboard` is about to do: a work for every ranking and part that can be made."""

    lm: Model
    task: Task
    others: dict[str, Task]
    rankings: dict[str, tuple[Scores, ...]]
    chosen: tuple[str, ...]
    size: float
    wanted: float
    options: dict[str, dict[str, Any]]
    seed: int
    kind: ClassVar[str] = "circuits"

    @property
    def tasks(self) -> list[Task]:
        """All that are run."""
        return [self.task, *self.others.values()]

    @property
    def what(self) -> str:
        """In words."""
        return f"a scoreboard of {len(self.rankings):,} rankings"

    @property
    def count(self) -> int:
        """Edges of the circuits that are attacked and ablated."""
        return max(1, round(self.size * self.lm.graph.size))

    @cached_property
    def _made(self) -> tuple[dict[Piece, Work], dict[Piece, str]]:
        """The works, and why some cannot be made."""
        works, why = dict[Piece, Work](), dict[Piece, str]()
        for name in self.rankings:
            for part in self.chosen:
                try:
                    works[name, part] = self._work(name, part)
                except _OWN as error:
                    why[name, part] = str(error)
        return works, why

    def _work(self, name: str, part: str) -> Work:
        """One ranking's part."""
        lm, task, scores, how = self.lm, self.task, self.rankings[name][0], self.options[part]
        if part == "curve":
            return curve.work(lm, task, scores, **how)
        if part == "cause":
            return cause_curve.work(lm, task, scores, **how)
        if part == "adversary":
            return adversary.work(lm, task, {name: self._circuit(name)}, seed=self.seed, **how)
        tasks = {task.name: task, **self.others}
        return specificity.work(lm, tasks, {task.name: self._circuit(name)}, seed=self.seed, **how)

    def _circuit(self, name: str) -> Circuit:
        """The circuit of the asked size, strongest by |score|, dead ends dropped."""
        if name not in self._circuits:
            found = select(self.rankings[name][0], n=self.count, how="abs")
            if not len(found):
                raise CircuitError(found.notes[-1])
            self._circuits[name] = found
        return self._circuits[name]

    @cached_property
    def _circuits(self) -> dict[str, Circuit]:
        return {}

    def parts(self, given: Collection[Piece] = ()) -> dict[Piece, Work]:
        """The works that can be made."""
        return {piece: work for piece, work in self._made[0].items() if piece not in given}

    def steps(self) -> list[Step]:
        """What every piece is forecast to cost."""
        whole, found = sum(self.task.lengths) * self.lm.layers, []
        for (name, part), work in self.parts().items():
            tokens = work.tokens()
            step = Step(f"{part} of {name}", work.kind, tokens, tokens / whole, batches=work.batches())
            found.append(replace(step, **bounds(work)))
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """All that the cells depend on, but for model, pairs and rankings."""
        others = {name: one.describe() for name, one in self.others.items()}
        own = {"size": self.size, "edges": self.count, "wanted": self.wanted, "seed": self.seed, "others": others}
        return own | {part: _plain(self.options[part]) for part in self.chosen} | {"ablation": "counterfactual"}

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scoreboard:
        """Run every piece that is not kept in the folder `out`; the board so far is written there after each."""
        folder = None if out is None else make_folder(at(out))
        now = self.lm.measure(self.task)
        now.require_gap(self.task)
        announce(told(self.steps(), "stability of selections"), show_progress)
        filling = _Filling(self, folder, now, show_progress)
        with shared(self.lm.decoder):
            for piece, work in self.parts().items():
                filling.fill(piece, work)
        return filling.board()


@dataclass(eq=False)
class _Filling:
    """A scoreboard on its way. `now`: what the bare model gives."""

    work: ScoreboardWork
    folder: Path | None
    now: Measurement
    show: bool
    cost: Cost = field(default_factory=Cost)
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        work = self.work
        for name, scores in work.rankings.items():
            self.cells[name] = of_scores(scores, work.count, work.seed)
        for (name, part), why in work._made[1].items():
            self.cells[name] |= dict.fromkeys(PARTS[part], Cell(why=why))
        for name, part in work.parts():
            self.cells[name] |= dict.fromkeys(PARTS[part], Cell(why="not run yet"))

    def fill(self, piece: Piece, work: Work) -> None:
        """Run a piece, or read it; then its cells, and the board so far."""
        name, part = piece
        try:
            found = self._found(piece, work)
        except _OWN as error:
            cells = dict.fromkeys(PARTS[part], Cell(why=str(error)))
        else:
            self.cost = self.cost + found.cost
            cells = self._cells(part, found)
        rest = {column: cell for column, cell in self.cells[name].items() if column not in PARTS[part]}
        self.cells[name] = rest | cells
        if self.folder is not None:
            path = self.folder / f"scoreboard-{self.work.task.digest()[:12]}.json"
            keep(lambda: self.board().save(path))

    def _cells(self, part: str, found: Any) -> dict[str, Cell]:
        if part == "curve":
            return of_curve(found, self.work.wanted)
        filled: dict[str, Callable[[Any], dict[str, Cell]]]
        filled = {"cause": of_causes, "adversary": of_attack, "specificity": of_specificity}
        return filled[part](found)

    def _found(self, piece: Piece, work: Work) -> Any:
        """What a piece gives, kept in the folder under a hash of all that it depends on."""
        if self.folder is None:
            return work.run(self.show)
        name, part = piece
        path = self.folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}-{part}-{self._key(piece)}.safetensors"
        if path.exists():
            found = _LOADERS[part](path)
            ends = found.ends[0] if part == "specificity" else (found.signed[0] if part == "curve" else found).measured
            require_same_ends(self.work.lm, _stacked(ends), _stacked(self.now), path)
            return found
        found = work.run(self.show, self.folder)
        keep(partial(found.save, path))
        return found

    def _key(self, piece: Piece) -> str:
        work, scores = self.work, self.work.rankings[piece[0]][0]
        values = hashlib.sha256(scores.values.contiguous().cpu().numpy().tobytes()).hexdigest()
        digests = [one.digest() for one in work.tasks] if piece[1] == "specificity" else [work.task.digest()]
        body = [values, scores.units.digest(), scores.method, piece, digests, work.lm.identity, __version__, work.size]
        asked = json.dumps([*body, _plain(work.options[piece[1]]), work.seed], sort_keys=True, default=str)
        return hashlib.sha256(asked.encode()).hexdigest()[:12]

    def board(self) -> Scoreboard:
        """As far as it is filled."""
        work, seen = self.work, self.work.task.digest()
        notes = [
            f"{name} was scored on these very pairs: it is not judged on held-out ones"
            for name, scores in work.rankings.items()
            if scores[0].task["digest"] == seen
        ]
        cells, header = {name: dict(own) for name, own in self.cells.items()}, task_header(work.task)
        return Scoreboard(tuple(work.rankings), cells, self.cost, work.lm.header(), header, work.settings, tuple(notes))


def _stacked(ends: Measurement) -> torch.Tensor:
    return torch.stack([ends.clean, ends.corrupted])


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them."""
    found: dict[str, Any] = json.loads(json.dumps(dict(options)))
    return found


@gives(Scoreboard)
def scoreboard(
    lm: Model,
    task: Task,
    rankings: Mapping[str, Scores | Sequence[Scores]],
    *,
    parts: Sequence[BoardPart] | None = None,
    tasks: Mapping[str, Task] | None = None,
    size: float = 0.02,
    wanted: float = 0.8,
    sizes: Sequence[float] = SIZES,
    restored: Sequence[int] = RESTORED,
    largest: Sequence[float] = LARGEST,
    draws: int = 2,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> ScoreboardWork:
    """Rankings of edges judged side by side, so that overshoot earns nothing: see `columns.COLUMNS`.

    Args:
        lm: the model.
        task: the pairs that all rankings are judged on, held out from those that they were scored on; the adversary
            sees them.
        rankings: a name for each → scores of all edges, or several of the same method with other seeds: the first is
            judged, their circuits are compared.
        parts: what is run: "curve" (areas of f), "cause" (`cause_curve`), "adversary" (the radius), "specificity";
            default: all, specificity only where there are other `tasks`.
        tasks: other tasks by name, on which the circuits are ablated, too.
        size: share of the edges of the circuits that are attacked and ablated, strongest by |score|, dead ends dropped.
        wanted: how near to 1 f must stay in "edges wanted": |1 − f| ≤ 1 − wanted.
        sizes: shares of the edges at which curves are taken.
        restored, largest: what the adversary may restore, and weigh; `sizes` and `largest` of `vc.circuits.adversary`.
        draws: random circuits of the same layer profile beside each ablated one.
        seed: of all draws.
        out: a folder to keep finished pieces in, and the board so far: an interrupted call goes on from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: say what it will cost, then show progress bars.

    Returns:
        `Scoreboard`. A cell that cannot be filled says why, and the others are filled all the same.

    Raises:
        MethodError: no rankings, an unknown part, an option out of range. UnitError: scores of other units.
        GapError, ContractError, NumericsError, OutOfMemoryError, FileError: as for `vc.exact`.

    Cost: `vc.forecast(vc.circuits.scoreboard, lm, task, rankings=rankings)`; most of it is the adversary's.

    >>> vc.circuits.scoreboard(lm, held_out, {"eap": eap, "eap-ig": eap_ig}, parts=["curve", "cause"])
    """
    given = {name: (one,) if isinstance(one, Scores) else tuple(one) for name, one in rankings.items()}
    _require_rankings(lm, given)
    others = dict(tasks or {})
    if task.name in others:
        raise MethodError(f"tasks= are the others, and {task.name!r} is the one that is judged. Leave it out.")
    chosen = tuple(parts) if parts is not None else tuple(part for part in PARTS if others or part != "specificity")
    for part in chosen:
        if part not in PARTS:
            raise MethodError(not_known("part of a scoreboard", part, PARTS))
    if not chosen or not 0 < size < 1 or not 0 < wanted <= 1:
        raise MethodError(f"parts={list(chosen)}, size={size}, wanted={wanted}: give a part, and shares from 0 to 1.")
    require_sizes(sizes)
    options: dict[str, dict[str, Any]] = {
        "curve": {"sizes": tuple(sizes)},
        "cause": {},
        "adversary": {"budgets": ("sparse", "bounded"), "sizes": tuple(restored), "largest": tuple(largest)},
        "specificity": {"draws": draws},
    }
    options["adversary"]["draws"] = 0  # random weights are no part of the board
    return ScoreboardWork(lm, task, others, given, chosen, size, wanted, options, seed)


def _require_rankings(lm: Model, given: Mapping[str, tuple[Scores, ...]]) -> None:
    """Raise unless there are rankings, each of all edges of this model."""
    if not given or not all(given.values()):
        raise MethodError("There is no ranking to judge: give {'eap-ig': scores, …}.")
    for name, scores in given.items():
        if len(methods := sorted({one.method for one in scores})) > 1:
            raise MethodError(f"{name!r} has scores by {listed(methods)}: several are one method with other seeds.")
        for one in scores:
            require_about(lm, one)
            units = one.units
            if not isinstance(units, Edges) or units.graph != lm.graph or len(units) != lm.graph.size:
                raise UnitError(f"{name!r} must rank all {lm.graph.size:,} edges of {lm.name}; these are {units!r}.")

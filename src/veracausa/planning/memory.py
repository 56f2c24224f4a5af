"""How much memory a call will take, by part: its largest bucket of pairs, recorded, with the chunk that runs beside it.

The numbers of pairs and rows are those that the call itself will take (`engine.budget`), the bytes of each
`engine.footprint`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from veracausa.circuits.runs.run_circuits import CircuitRuns, Judged
from veracausa.circuits.runs.tapes import circuit_buckets
from veracausa.circuits.selection.learned import LearnWork
from veracausa.cost import Cost
from veracausa.effects.exact import ExactWork
from veracausa.effects.group_rows import KIND_AT
from veracausa.engine import circuit_forward, reader_change
from veracausa.engine.budget import examples_per_batch, rows_per_chunk
from veracausa.engine.footprint import Footprint, Memory
from veracausa.engine.patches import sites_for
from veracausa.engine.tape import buckets
from veracausa.engine.work import Composed, Derived, Staged, Work
from veracausa.estimates.attribute import AttributeWork
from veracausa.estimates.learned.masks import MaskWork
from veracausa.estimates.parts import PATHS
from veracausa.estimates.paths import edge_sums
from veracausa.units.edges import Edges
from veracausa.units.groups import Groups
from veracausa.units.paths import Paths

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Rows whose logits over the whole vocabulary are held at once, and how often.
_READ = 64 * 3
#: Bytes of a unit in a table: five columns of whole numbers.
_TABLE = 5 * 8


@dataclass(frozen=True)
class Group:
    """Pairs that are recorded together: how many, how many positions each runs, and how long they are."""

    pairs: int
    positions: int
    length: int

    @property
    def tokens(self) -> int:
        """Positions of all."""
        return self.pairs * self.positions


def peak(work: Work) -> Memory:
    """Bytes that a call takes at most, about, by part.

    >>> peak(vc.exact.work(lm, task, units="neurons")).rows
    """
    return replace(_needed(work), weights=weights(work.lm))


def weights(lm: Model) -> int:
    """Bytes of a model's parameters, each once."""
    return sum(one.nbytes for one in {id(one): one for one in lm.hf.parameters()}.values())


def _needed(work: Any) -> Memory:
    if isinstance(work, Composed):
        return _most([_needed(part) for part in work.parts().values()])
    if isinstance(work, Staged):
        return _staged(work, {step.kind for step in work.steps()}, getattr(work, "scoring", None))
    for kind, needed in _NEEDED.items():
        if isinstance(work, kind):
            return needed(work)
    return _of_kind(work.lm, work.task, work.kind)


def _staged(work: Any, kinds: set[str], scoring: Any) -> Memory:
    """The most that any step takes; `scoring`: the step of a discovery whose work is known."""
    own = [] if scoring is None else [_needed(scoring.work)]
    kinds -= set() if scoring is None else {scoring.work.kind} - {"edges", "circuits"}
    return _most([*own, *(_of_kind(work.lm, work.task, kind) for kind in sorted(kinds))])


def _most(found: Sequence[Memory]) -> Memory:
    return max(found, key=lambda one: one.beside, default=Memory())


def _groups(task: Task, found: Sequence[tuple[int, tuple[int, ...]]]) -> list[Group]:
    longest = [max(max(len(task.clean[i]), len(task.corrupted[i])) for i in own) for _, own in found]
    return [Group(len(own), n - start, n) for (start, own), n in zip(found, longest, strict=True)]


def _scores(lm: Model, pairs: int, units: int) -> int:
    """A number for every pair and unit, found and on its way, and done or not; and the table of units."""
    return pairs * units * (2 * lm.score_dtype.itemsize + 1) + _TABLE * units


def _read(shapes: Footprint, pairs: int) -> int:
    """Logits over the vocabulary where metrics are read."""
    return shapes.wide * shapes.vocabulary * min(_READ, 3 * pairs)


# ---- exact effects ---------------------------------------------------------------------------------------------------


def _exact(work: ExactWork) -> Memory:
    lm, units = work.lm, work.units
    plan, shapes = work.plan(Cost()), Footprint.of(lm)
    if isinstance(units, Edges | Paths):
        sites: tuple[str, ...] = reader_change.SITES
    elif isinstance(units, Groups):
        sites = tuple(site for place in units.places for site in sites_for(place) if place in KIND_AT)
    else:
        sites = sites_for(units.place)
    groups = _groups(plan.task, plan.buckets(work.share))
    found = [_patched(lm, shapes, group, sites, len(units), work.rows) for group in groups]
    return replace(_most(found), scores=_scores(lm, len(work.task), work._draws * len(units)))


def _patched(
    lm: Model, shapes: Footprint, group: Group, sites: tuple[str, ...], units: int, asked: int | None = None
) -> Memory:
    """Rows of patched runs beside the tape; the unpatched run of all its pairs comes first."""
    s, n = group.positions, group.length
    size = min(asked or rows_per_chunk(lm, s, n), group.pairs * units)
    held = shapes.held(sites, n)
    rows = max(size, group.pairs) * s * shapes.row(n) + shapes.mask(s, n)
    return Memory(
        recordings=group.pairs * shapes.pair(s, n, held), rows=max(rows, _whole(shapes, n)) + _read(shapes, group.pairs)
    )


def _whole(shapes: Footprint, length: int) -> int:
    """The bare model's own run of one whole pair, which every call is held against."""
    return 2 * length * shapes.back(length)


# ---- estimates -------------------------------------------------------------------------------------------------------


def _estimated(work: AttributeWork) -> Memory:
    lm, edges = work.lm, isinstance(work.units, Edges)
    shapes, moves = Footprint.of(lm), PATHS[work.method.path].moves
    sites = edge_sums.SITES if edges else sites_for(work.units.place)
    groups = _groups(work.patched, work.groups())
    positional = edges and work.units.positional
    asked = _Asked(lm, shapes, moves, sites, work.method.nodes, work.method.combine != "mean", edges, positional)
    if work.at_sites:
        asked = replace(asked, since=min(site.join for site in work.sums.moved(lm.decoder, work.units)))
    return replace(
        _most([asked.needed(group) for group in groups]), scores=_scores(lm, len(work.task), len(work.units))
    )


@dataclass(frozen=True)
class _Asked:
    """What gradients of an estimate take. `moving`: activations of points are compared, too (increments)."""

    lm: Model
    shapes: Footprint
    moves: str
    sites: tuple[str, ...]
    nodes: int
    moving: bool
    edges: bool
    positional: bool = False
    since: tuple[int, bool] = (0, False)

    def needed(self, group: Group) -> Memory:
        """Of one bucket."""
        shapes, s, n = self.shapes, group.positions, group.length
        tape = group.pairs * shapes.pair(s, n, shapes.held(self.sites, n))
        if self.moves == "nothing":
            return self._told(tape, group, group.tokens, 0)
        if self.moves in ("site", "unit"):
            return self._behind(tape, group)
        size = min(rows_per_chunk(self.lm, s, n, True), group.pairs * self.nodes)
        points = 3 * group.tokens * self.nodes * shapes.width * shapes.item
        return self._told(tape + points, group, size * s, size * shapes.state(s, n, shapes.held(self.sites, n)))

    def _told(self, tape: int, group: Group, tokens: int, state: int) -> Memory:
        """The graph of some tokens; or, behind it, its gradients, what readers get of them, and all writes."""
        shapes, n = self.shapes, group.length
        graph = tokens * shapes.graph(n, prefix=group.positions < n)
        graph += max(tokens * shapes.back(n), _whole(shapes, n) if self.moves == "nothing" else 0)
        if not self.edges:
            return Memory(recordings=tape, rows=state, gradients=graph + _read(shapes, group.pairs))
        writes = group.tokens * shapes.writes + (3 * tokens * shapes.writes if self.moving else 0)
        found = tokens * shapes.item * shapes.layers * (shapes.h + 2 * shapes.g + shapes.width)
        told = found + tokens * shapes.read
        if self.positional:
            told += 2 * tokens * shapes.writers * shapes.readers * shapes.wide
        if self.moves == "nothing" and graph > told + writes:
            return Memory(recordings=tape, rows=state, gradients=graph + _read(shapes, group.pairs))
        return Memory(recordings=tape + writes, rows=state, gradients=max(graph, told))

    def _behind(self, tape: int, group: Group) -> Memory:
        """Rows of single sites with the graph of all blocks behind them, under our own attention function."""
        shapes, s, n = self.shapes, group.positions, group.length
        size = min(rows_per_chunk(self.lm, s, n, True), group.pairs * self.nodes * shapes.layers)
        blocks = shapes.layers - self.since[0]
        past = 2 * shapes.g * n * shapes.item * blocks if s < n else 0
        stream = 2 * blocks * (shapes.width + shapes.g) * shapes.item
        token = shapes.graph(n, True, since=self.since) + stream + shapes.back(n, True)
        unpatched = group.tokens * shapes.row(n) + shapes.mask(s, n)
        writes = group.tokens * shapes.writes if self.edges else 0
        return Memory(recordings=tape + writes, gradients=max(size * (s * token + past), unpatched))


# ---- masks and circuits ----------------------------------------------------------------------------------------------


def _masked(work: MaskWork) -> Memory:
    """Of all pairs the corrupted values and the beginnings are kept; one group at a time runs with its graph."""
    lm, place = work.lm, work.units.place
    shapes, groups = Footprint.of(lm), _groups(work.task, work.groups())
    held = shapes.held((place,))
    kept = sum(
        group.tokens * shapes.layers * held * shapes.item
        + group.pairs * 2 * shapes.layers * shapes.g * (group.length - group.positions) * shapes.item
        + group.pairs * shapes.vocabulary * shapes.wide
        for group in groups
    )  # fmt: skip

    def gated(group: Group) -> int:
        graph = shapes.graph(group.length, prefix=group.positions < group.length) + shapes.state(1, 1, 0)
        own = graph + shapes.back(group.length) + 3 * shapes.layers * held * shapes.item
        return max(group.tokens * own, group.pairs * shapes.pair(group.positions, group.length, held))

    most = max(map(gated, groups))
    return Memory(recordings=kept, gradients=most, scores=_scores(lm, len(work.task), len(work.units)))


def _learned(work: LearnWork) -> Memory:
    """All pairs are recorded at once; weighted circuits keep every reader's input."""
    lm = work.lm
    shapes, groups = Footprint.of(lm), _groups(work.task, work.groups())
    held = shapes.held(circuit_forward.SITES)
    kept = sum(group.pairs * shapes.pair(group.positions, group.length, held) for group in groups)

    def weighted(group: Group) -> int:
        s, n = group.positions, group.length
        size = min(max(1, rows_per_chunk(lm, s, n, True) // 4), group.pairs)
        seen = (shapes.readers + 1) * shapes.width * (shapes.item if shapes.item == shapes.wide else shapes.wide)
        token = shapes.graph(n, True) + shapes.layers * seen + shapes.writes + shapes.back(n, True) + shapes.mixed
        return max(size * s * token, min(rows_per_chunk(lm, s, n), group.pairs) * s * _of_circuit(shapes, n))

    gates = 12 * shapes.wide * len(work.edges)
    return Memory(
        recordings=kept, gradients=max(map(weighted, groups)) + gates,
        scores=_scores(lm, len(work.task), len(work.edges)),
    )  # fmt: skip


def _judged(work: Judged[Any]) -> Memory:
    return _circuits(work.runs)


def _circuits(work: CircuitRuns) -> Memory:
    return _run(work.lm, work.how.pairs, work.groups())


def _run(lm: Model, task: Task, found: Sequence[tuple[int, tuple[int, ...]]]) -> Memory:
    shapes, held = Footprint.of(lm), Footprint.of(lm).held(circuit_forward.SITES)

    def needed(group: Group) -> Memory:
        s, n = group.positions, group.length
        size = min(rows_per_chunk(lm, s, n), group.pairs)
        rows = size * s * _of_circuit(shapes, n) + shapes.mask(s, n) + _read(shapes, _READ)
        return Memory(recordings=group.pairs * shapes.pair(s, n, held), rows=max(rows, _whole(shapes, n)))

    return _most([needed(group) for group in _groups(task, found)])


def _of_circuit(shapes: Footprint, length: int) -> int:
    """A token of a circuit's run: every writer's change, and one block's inputs or attention."""
    return shapes.writes + max(shapes.mixed, shapes.row(length)) + (shapes.h + 2 * shapes.g) * shapes.item


# ---- what has no form of its own -------------------------------------------------------------------------------------


def _of_kind(lm: Model, task: Task, kind: str) -> Memory:
    """Of work that is known by its kind alone; see `Work.kind`."""
    shapes = Footprint.of(lm)
    if kind == "circuits":
        return _run(lm, task, circuit_buckets(lm, task))
    sites: tuple[str, ...] = sites_for("neurons" if kind == "neurons" else "z")
    if kind == "edges":
        sites = reader_change.SITES
    if kind == "edge gradients":
        sites = edge_sums.SITES
    longest = max(map(len, task.prompts))
    groups = _groups(task, buckets(lm.decoder, task, True, examples_per_batch(lm, task, shapes.held(sites, longest))))
    if kind in ("exact", "neurons", "edges"):
        return _most([_patched(lm, shapes, group, sites, 1 << 30) for group in groups])
    moves = {"gradients": "nothing", "edge gradients": "input"}.get(kind, "site")
    asked = _Asked(lm, shapes, moves, sites, 5, False, kind == "edge gradients")
    return _most([asked.needed(group) for group in groups])


#: Work → its memory.
_NEEDED: dict[type, Callable[[Any], Memory]] = {
    ExactWork: _exact, AttributeWork: _estimated, MaskWork: _masked, LearnWork: _learned, CircuitRuns: _circuits,
    Judged: _judged, Derived: lambda work: _needed(work.effects),
}  # fmt: skip

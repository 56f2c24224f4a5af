"""Memory of calls that take gradients: estimates, and learned masks and circuits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from veracausa.circuits.attacks.attacking import AdversaryWork
from veracausa.circuits.selection.learned import LearnWork
from veracausa.circuits.selection.sparse_features import FeatureCircuitWork
from veracausa.circuits.sheaves.finding import RunSheafWork, SheafWork
from veracausa.engine import circuit_forward, reader_gradients
from veracausa.engine.budget import free_memory, rows_per_chunk
from veracausa.engine.footprint import Footprint, Memory
from veracausa.engine.patches import sites_for, where
from veracausa.engine.stretches import at_once
from veracausa.engine.tape import BY_OURS
from veracausa.estimates.attribute import AttributeWork
from veracausa.estimates.edges_of_features import FeatureEdgesWork
from veracausa.estimates.learned.masks import MaskWork
from veracausa.estimates.parts import PATHS
from veracausa.estimates.paths import edge_tapes
from veracausa.estimates.recorded_slopes import read, recorded_sites, told
from veracausa.estimates.run_changes import tokens_at_once
from veracausa.planning.groups import Group, codes, groups_of, logits, most, scores, whole
from veracausa.planning.patched import circuit_rows
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from veracausa.model import Model


def estimates(work: AttributeWork, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """Of estimates of units and of edges."""
    lm, edges = work.lm, isinstance(work.units, Edges)
    sites = edge_tapes.recorded(work.method) if edges else sites_for(work.units.place)
    asked = Gradients(
        lm, shapes, PATHS[work.method.path].moves, sites, work.method.nodes, work.method.combine != "mean", edges,
        edges and work.units.positional, lm.score_dtype.itemsize * len(work.units) * (edges and work.method.drawn),
    )  # fmt: skip
    if work.at_sites:
        asked = replace(asked, since=min(site.join for site in work.sums.moved(lm.decoder, work.units)))
    coded = 0 if edges else codes(lm, work.units.place, {*work.units.layer.tolist()})
    found = most([asked.needed(group).with_recordings(coded * group.tokens) for group in groups])
    sorted_by_reader = 4 * 8 * len(work.units) if asked.positional else 0  # whole numbers beside those of the table
    return replace(found, scores=scores(lm, len(work.task), len(work.units)) + sorted_by_reader)


@dataclass(frozen=True)
class Gradients:
    """What gradients of an estimate take. `moving`: activations of points are compared, too (increments).

    `drawn`: bytes of a row's own scores, where its draws are compared.
    """

    lm: Model
    shapes: Footprint
    moves: str
    sites: tuple[str, ...]
    nodes: int
    moving: bool
    edges: bool
    positional: bool = False
    drawn: int = 0
    since: tuple[int, bool] = (0, False)

    def needed(self, group: Group) -> Memory:
        """Of one bucket."""
        shapes, s, n = self.shapes, group.positions, group.length
        tape = self._tape(group, self.sites)
        if self.moves == "nothing":
            return self._told(tape, group, group.pairs, 0)
        kept = self._tape(group, edge_tapes.held(self.sites)) if self.edges else tape
        if self.moves in ("site", "unit"):
            return most([Memory(recordings=tape), self.behind(kept, group)])
        size = min(rows_per_chunk(self.lm, s, n, True, shapes.told if self.edges else 0), group.pairs * self.nodes)
        points = 3 * group.tokens * self.nodes * shapes.width * shapes.item
        sites = self.sites if not self.edges else edge_tapes.SITES if self.moving else reader_gradients.SITES
        state = size * shapes.state(s, n, shapes.held(sites, n))
        return most([Memory(recordings=tape + points), self._told(kept + points, group, size, state)])

    def _tape(self, group: Group, sites: Collection[str]) -> int:
        """Both runs of a bucket's pairs; where one has its graph, what readers are told by, too."""
        shapes, s, n = self.shapes, group.positions, group.length
        found = group.pairs * shapes.pair(s, n, shapes.held(sites, n))
        if self.edges and self.moves == "nothing":
            held = shapes.held({*sites, *reader_gradients.SITES}, n) - shapes.held(sites, n)
            found += group.tokens * shapes.layers * held * shapes.item
        return found

    def _told(self, tape: int, group: Group, rows: int, state: int) -> Memory:
        """The graph of some rows; or, behind it, its gradients, and for edges what is told of them and of writes."""
        shapes, n, tokens = self.shapes, group.length, rows * group.positions
        ours = not set(BY_OURS).isdisjoint(self.sites)  # it records what attention is given
        graph = tokens * shapes.graph(n, ours, prefix=group.positions < n)
        graph += max(tokens * shapes.back(n), whole(shapes, n) if self.moves == "nothing" else 0)
        if not self.edges:
            return Memory(recordings=tape, rows=state, gradients=graph + logits(shapes, group.pairs))
        kept, told = self._edges(group, rows)
        if self.moves == "nothing":  # what is kept comes behind the graph
            ended = Memory(recordings=tape + kept, gradients=told)
            at_values = shapes.h * shapes.layers * group.tokens * shapes.wide
            again = edge_tapes.patterns_at_once(group.positions) * group.positions * shapes.reread(n)
            patterns = Memory(recordings=tape + kept, rows=again if ours else 0, gradients=at_values if ours else 0)
            return most([Memory(recordings=tape, gradients=graph + logits(shapes, group.pairs)), ended, patterns])
        return Memory(recordings=tape + kept, rows=state, gradients=max(graph, told))

    def _edges(self, group: Group, rows: int) -> tuple[int, int]:
        """What is kept from chunk to chunk beside the tape, and what gradients of edges take beside that."""
        shapes, s, free = self.shapes, group.positions, free_memory(self.lm.device)
        state, found = shapes.state(s, group.length, shapes.held(edge_tapes.SITES)), s * shapes.told
        kept = 0 if self.moving else group.tokens * shapes.writes
        whole = at_once(s, group.pairs * shapes.writes, free) == s
        if self.moving:
            several = rows < group.pairs * self.nodes  # then the last row of the chunk before is kept
            kept, rows, whole = (state + found) * several, rows + several, True
        token = edge_tapes.told_at_once(
            shapes, rows, min(rows, group.pairs), moving=self.moving, positional=self.positional, keeps=whole
        )
        told = rows * (found + self.drawn) + at_once(s, token, free) * token
        return (kept if whole else 0), told

    def behind(self, tape: int, group: Group) -> Memory:
        """Rows of single sites with the graph of all blocks behind them, under our own attention function."""
        shapes, s, n = self.shapes, group.positions, group.length
        size = min(rows_per_chunk(self.lm, s, n, True), group.pairs * self.nodes * shapes.layers)
        blocks = shapes.layers - self.since[0]
        past = 2 * shapes.g * n * shapes.item * blocks if s < n else 0
        stream = 2 * blocks * (shapes.width + shapes.g) * shapes.item
        token = shapes.graph(n, True, since=self.since) + stream + shapes.back(n, True)
        unpatched = group.tokens * shapes.row(n) + shapes.mask(s, n)
        kept, told = self._edges(group, size) if self.edges else (0, 0)
        return Memory(recordings=tape + kept, gradients=max(size * (s * token + past), unpatched, told))


def slopes(work: FeatureEdgesWork, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """Of edges between features: a run with its graph, and slopes of it."""
    return replace(
        most([_sloped(work, work.senders, shapes, group) for group in groups]),
        scores=scores(work.lm, len(work.task), len(work.units)),
    )


def feature_circuit(work: FeatureCircuitWork, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """Of circuits of features: the scores of nodes, or edges between them, the scores of which are left out."""
    found = [_sloped(work, 0, shapes, group) for group in groups]
    for one in work.scorings:
        found.append(estimates(one, shapes, groups_of(one.task, one.groups()) if len(groups) > 1 else groups))
    return most(found)


def _sloped(work: FeatureEdgesWork | FeatureCircuitWork, senders: int, shapes: Footprint, group: Group) -> Memory:
    """Of one bucket; where downstream gradients are averaged, they are before slopes are taken."""
    lm, s, n, sites = work.lm, group.positions, group.length, recorded_sites(work.kinds)
    tape = group.pairs * shapes.pair(s, n, shapes.held(sites, n)) + group.tokens * read(lm, work.kinds)
    graph = group.tokens * shapes.graph(n, True)
    beside = group.tokens * (shapes.back(n, True) + told(shapes, len(work.places), senders))
    if work.runs:  # a row of a sender: a block, what it hands on, and what an encoder makes of it
        kept = group.tokens * (told(shapes, len(work.places), 0) + 2 * read(lm, work.kinds))
        token = shapes.row(n) + 3 * shapes.width * shapes.wide
        beside = max(beside, kept + tokens_at_once(lm, s, n, group.pairs, work.runs) * token)
    own = Memory(recordings=tape, gradients=max(graph + beside, whole(shapes, n)) + logits(shapes, group.pairs))
    if not (work.averaged and work.read):
        return own
    since = min(where(lm.decoder, kind, layer).join for kind, layer in work.read)  # type: ignore[arg-type]
    walk = Gradients(lm, shapes, "site", sites, work.averaged, False, False, since=since)
    return most([own, walk.behind(tape + graph, group)])


def masks(work: MaskWork, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """Of all pairs the corrupted values and the beginnings are kept; one group at a time runs with its graph."""
    lm, held = work.lm, shapes.held((work.units.place,))
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

    largest = max(map(gated, groups))
    return Memory(recordings=kept, gradients=largest, scores=scores(lm, len(work.task), len(work.units)))


def gates(work: LearnWork | AdversaryWork | SheafWork, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """All pairs are recorded at once; weighted circuits keep every reader's input; pairs may have own gates."""
    lm = work.lm
    held = shapes.held(circuit_forward.SITES)
    kept = sum(group.pairs * shapes.pair(group.positions, group.length, held) for group in groups)

    def weighted(group: Group) -> int:
        s, n = group.positions, group.length
        size = min(max(1, rows_per_chunk(lm, s, n, True) // 4), group.pairs)
        seen = (shapes.readers + 1) * shapes.width * (shapes.item if shapes.item == shapes.wide else shapes.wide)
        token = shapes.graph(n, True) + shapes.layers * seen + shapes.writes + 2 * shapes.back(n) + shapes.mixed
        token += max(0, shapes.back(n, True) - shapes.back(n))
        return max(size * s * token, circuit_rows(lm, shapes, group, min(rows_per_chunk(lm, s, n), group.pairs)))

    own = 0
    if isinstance(work, LearnWork) and work.learner.each:  # noise, gates, slopes; by their ends: mask, leaf, gradients
        ends = work.lm.graph.readers * work.lm.graph.writers
        rows = max(sum(len(one) for _, one in work.steps[:1]), work.training.batch)
        own = rows * (len(work.edges) * (24 + 5 * shapes.wide) + 4 * ends * shapes.wide)
    return Memory(
        recordings=kept, gradients=max(map(weighted, groups)) + 12 * shapes.wide * len(work.edges) + own,
        scores=scores(lm, len(work.task), len(work.edges)),
    )  # fmt: skip


def sheaf(work: SheafWork, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """The same as of gates on edges; of every weight its score, noise, gate and gradients, twice as much kept of each
    stage that is kept, and its masked value with the gradient of that."""
    own, weights = gates(work, shapes, groups), len(work.weights)
    learned = weights * (10 * shapes.wide + 2 * shapes.item)
    kept = len(work.stages) * (3 * weights + 3 * len(work.edges)) * (8 + 1)
    return replace(own, gradients=own.gradients + learned, scores=own.scores + kept)


def run_sheaf(work: RunSheafWork, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """All pairs are recorded at once; a run has masked weights beside the model's own."""
    held = shapes.held(circuit_forward.SITES)
    kept = sum(group.pairs * shapes.pair(group.positions, group.length, held) for group in groups)
    size = [min(rows_per_chunk(work.lm, one.positions, one.length), one.pairs) for one in groups]
    rows = max(circuit_rows(work.lm, shapes, one, many) for one, many in zip(groups, size, strict=True))
    return Memory(recordings=kept, rows=rows + len(work.weights) * (2 * shapes.wide + shapes.item))

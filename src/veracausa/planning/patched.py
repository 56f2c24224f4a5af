"""Memory of calls that run rows without a graph: exact effects, and circuits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from veracausa.circuits.runs.run_circuits import CircuitRuns
from veracausa.effects.exact import ExactWork
from veracausa.engine import circuit_forward, reader_change
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.footprint import Footprint, Memory
from veracausa.engine.patches import Place, sites_for
from veracausa.interplay.interacting import InteractionsWork
from veracausa.planning.groups import READ, Group, codes, logits, most, scores, whole
from veracausa.units.edges import Edges
from veracausa.units.groups import Groups
from veracausa.units.paths import Paths
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model


def exact(work: ExactWork, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """Of exact effects."""
    lm, units = work.lm, work.units
    if isinstance(units, Edges | Paths):
        coded = units.coded if isinstance(units, Paths) else []
        more = [site for one in coded for site in sites_for(cast("Place", one.kind))]
        sites: tuple[str, ...] = tuple(dict.fromkeys((*reader_change.SITES, *more)))
    elif isinstance(units, Groups):
        sites = tuple(site for place in units.places for site in sites_for(place))
    else:
        sites = sites_for(units.place)
    read = _read(lm, units)
    found = [
        rows(lm, shapes, group, sites, len(units), work.rows).with_recordings(read * group.tokens) for group in groups
    ]
    draws = getattr(work.ablation, "draws", 1)
    return replace(most(found), scores=scores(lm, len(work.task), draws * len(units)))


def _read(lm: Model, units: Units) -> int:
    """Bytes a token of a pair: dictionaries whose parts are units, members of groups, or ends of edges."""
    if isinstance(units, Groups):
        found = {(str(one.kind), one.layer) for group in units.members for one in group}
    elif isinstance(units, Paths):
        found = {(one.kind, one.layer) for one in units.coded}
    else:
        found = set() if isinstance(units, Edges) else {(str(units.place), layer) for layer in units.layer.tolist()}
    return sum(codes(lm, kind, {layer}) for kind, layer in found)


def rows(
    lm: Model, shapes: Footprint, group: Group, sites: tuple[str, ...], units: int, asked: int | None = None
) -> Memory:
    """Rows of patched runs beside the tape; the unpatched run of all its pairs comes first."""
    s, n = group.positions, group.length
    size = min(asked or rows_per_chunk(lm, s, n), group.pairs * units)
    tape = group.pairs * shapes.pair(s, n, shapes.held(sites, n))
    chunk = max(size, group.pairs) * s * shapes.row(n) + shapes.mask(s, n)
    return Memory(recordings=tape, rows=max(chunk, whole(shapes, n)) + logits(shapes, group.pairs))


def interactions(work: InteractionsWork, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """Of interactions: rows between two sites, and a number for every pair of parts and prompt, three times.

    At least: what products keep of the blocks between is not counted, which is little beside whole recordings.
    """
    ends = work.source.units.place, work.reader.units.place
    sites = tuple(dict.fromkeys(site for place in ends for site in sites_for(place)))
    found = most([rows(work.lm, shapes, group, sites, len(work.source)) for group in groups])
    kept = 3 * len(work.task) * len(work.source) * len(work.reader) * work.lm.score_dtype.itemsize
    return replace(found, scores=kept)


def circuits(work: CircuitRuns, shapes: Footprint, groups: Sequence[Group]) -> Memory:
    """Of circuits that are run."""
    return most([circuit(work.lm, shapes, group) for group in groups])


def circuit(lm: Model, shapes: Footprint, group: Group) -> Memory:
    """The runs of one circuit on one bucket, beside its tape."""
    s, n = group.positions, group.length
    size = min(rows_per_chunk(lm, s, n, beside=shapes.circuit), group.pairs)
    tape = group.pairs * shapes.pair(s, n, shapes.held(circuit_forward.SITES))
    return Memory(
        recordings=tape, rows=max(circuit_rows(lm, shapes, group, size) + logits(shapes, READ), whole(shapes, n))
    )


def circuit_rows(lm: Model, shapes: Footprint, group: Group, size: int) -> int:
    """Some rows of a circuit's run at as many positions as are run at once, and keys and values of those before.

    Every writer's change, and one block's inputs or attention; or, at the end, a copy of these changes at the tail.
    """
    s, n, tokens = group.positions, group.length, circuit_forward.tokens_at_once(lm, group.length)
    at_once = circuit_forward.positions_at_once(size, s, tokens)
    before = 2 * shapes.layers * shapes.g * shapes.item * s if at_once < s else 0
    block, end = at_once * max(shapes.mixed, shapes.row(n)), min(group.tail, at_once) * shapes.writes
    own = at_once * shapes.writes + max(block, end)
    projected = at_once * (shapes.h + 2 * shapes.g) * shapes.item
    return size * (own + projected + before) + shapes.mask(at_once, n)

"""Which interactions of two layers can be asked for at all, and the words for those that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from veracausa.arguments import shown
from veracausa.dictionaries.words import is_coded
from veracausa.engine.passages import Passage
from veracausa.errors import MethodError, UnitError
from veracausa.interplay.sides import Side
from veracausa.interplay.signs import full

if TYPE_CHECKING:
    from veracausa.tasks.task import Task


def said(side: Side) -> str:
    """A side in words: "heads of layer 10"."""
    return f"{side.units.kind} of layer {side.site[1]}{side.units.apart}"


def require_places(task: Task, where: Sequence[tuple[torch.Tensor, torch.Tensor]], source: Side, reader: Side) -> None:
    """UnitError for sources that overlap, and where a source and a reader stand in no prompt together.

    `where`: of every pair, at which positions each place of the sources and of the readers is.
    """
    for i, (sources, _) in enumerate(where if source.places.spans else ()):
        if (both := source.overlap(sources)) is not None:
            one, other = (source.units.names[u] for u in both)
            raise UnitError(
                f"sources: {one} and {other} share tokens in pair {i} of {task.name!r}, so what readers owe to "
                "these would be counted twice. Ask for them in calls of their own."
            )
    both_there = torch.stack([torch.outer(*(each.any(1) for each in pair)) for pair in where]).any(0)
    if not bool(both_there.all()):
        talking, listening = (int(found) for found in (~both_there).nonzero()[0])
        raise UnitError(
            f"No prompt of {task.name!r} has sources at {_at(source, talking)} and readers at {_at(reader, listening)}."
        )


def _at(side: Side, place: int) -> str:
    name = side.places.names[place]
    return f"the span {name!r}" if isinstance(name, str) else f"position {name}"


def require_passage(passage: Passage, source: Side, reader: Side) -> None:
    """UnitError for parts of two layers, and for readers that see nothing of the sources."""
    for place, layer in (source.site, reader.site):
        if is_coded(place) and (code := passage.decoder.codes[place, layer].dictionary).reads.layer != layer:
            raise UnitError(
                f"{code!r} reads {code.reads.name} and writes {code.writes.name}: parts of two layers, not of one site."
            )
    if not passage.possible:
        raise UnitError(
            f"The readers are {said(reader)}, which see nothing of the sources, {said(source)}: readers come behind."
        )


def require_probes(probes: int | None, orthogonal: bool, method: str, mode: str, longest: int) -> None:
    """MethodError for signs where positions are summed exactly, and for numbers of them that mean nothing.

    `longest`: positions times numbers of the largest reader, over which signs are drawn.
    """
    if probes is None:
        if orthogonal:
            raise MethodError("orthogonal=True is about probes=, and there are none.")
        return
    if method == "exact" or mode == "forward":
        raise MethodError(f"probes={probes} are of mode='reverse' (or 'auto'): other ways sum over positions exactly.")
    most = full(longest) if orthogonal else None
    if probes < 1 or (most is not None and probes > most):
        end = f", and at most {most} orthogonal ones." if most else "."
        raise MethodError(f"probes={shown(probes)}: 1 or more{end}")

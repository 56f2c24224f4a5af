"""What runs must hold for scores of edges, and how much of it is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from veracausa.engine import reader_gradients as reads
from veracausa.engine import writes
from veracausa.engine.footprint import Footprint
from veracausa.engine.tape import IN_ATTENTION

if TYPE_CHECKING:
    from veracausa.estimates.method import Method


#: What a run must hold whose steps and gradients are both needed, …
SITES = tuple(dict.fromkeys((*writes.SITES, *reads.SITES)))
#: … and what both recorded runs are held against the modules by.
CHECKED = (*writes.SITES, "q_out", "k_out", "v_out")


def recorded(method: Method) -> tuple[str, ...]:
    """What both runs of a bucket are recorded with."""
    return (*CHECKED, *(IN_ATTENTION if "qk-exact" in method.rule else ()))


def held(sites: Sequence[str]) -> tuple[str, ...]:
    """What is kept of them: some were needed for checks alone."""
    return tuple(site for site in sites if site in (*writes.SITES, *IN_ATTENTION))


def patterns_at_once(positions: int) -> int:
    """Rows whose attention is recomputed at once under qk-exact."""
    return max(1, 1024 // positions)


def told_at_once(shapes: Footprint, rows: int, examples: int, *, moving: bool, positional: bool, keeps: bool) -> int:
    """Bytes of one position: Δ of all writers of some examples, and what gradients become at the readers of a block.

    `moving`: the writes of every row instead, themselves and in their steps. `positional`: products stay by position.
    `keeps`: Δ is there already.
    """
    read = rows * shapes.read
    if positional:  # the products by position, found and listed, and the writes that they are made of once more
        read += (rows if moving else examples) * (2 * shapes.writers * shapes.readers * shapes.wide + shapes.writes)
    return read + (2 * rows if moving else 0 if keeps else examples) * shapes.writes

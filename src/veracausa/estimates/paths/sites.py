"""Paths that move activations at one site, straight from a run's own values to their replacements.

* layer: all that is at one site (a layer's units, the writes of a site) moves together, the rest is computed from it.
  Rows (site, example, node) of all sites share sweeps. The scores of a site sum to the effect of patching the whole
  site (Aumann–Shapley).
* unit: one unit moves alone; the score tends to its exact effect as nodes are added.

One more row per path, at α = 1 and without a gradient, gives what the scores must sum to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.guard import attention_function, hooks
from veracausa.engine.memory import chunks
from veracausa.engine.overrides import Override
from veracausa.engine.rules import applied
from veracausa.engine.suffix import sweep
from veracausa.engine.tape import State
from veracausa.engine.watching import watch
from veracausa.estimates.paths.bucket import Site, SiteRow, SiteRuns, Sums
from veracausa.estimates.paths.grids import grid


def walk_layer(sums: Sums) -> None:
    """All that is at a site together."""
    _walk(sums, [(site, -1) for site in sums.moved(sums.bucket.lm.decoder, sums.units)])


def walk_unit(sums: Sums) -> None:
    """Every unit on its own; `claimed` and `true` are sums over the layer's units of scores and exact effects."""
    tape, units = sums.bucket.tape, sums.units
    sites = {site.name: site for site in sums.moved(sums.bucket.lm.decoder, units)}
    here = (units.position < 0) | ((units.position >= tape.start) & (units.furthest < tape.length))
    order = np.argsort(units.layer, kind="stable")
    _walk(sums, [(sites[int(units.layer[unit])], int(unit)) for unit in order[here[order]]])


def _walk(sums: Sums, paths: list[tuple[Site, int]]) -> None:
    bucket, examples = sums.bucket, range(len(sums.values))
    alphas, weights = grid(bucket.method.grid, bucket.method.nodes, corrupted_at_one=bucket.noising)
    points = list(zip(alphas.tolist(), weights.tolist(), strict=True))
    with attention_function(bucket.lm.decoder, SUFFIX), applied(bucket.lm.decoder, bucket.rule):
        with torch.no_grad():
            before = bucket.unpatched(bucket.base)
        ends = [SiteRow(site, unit, e, 1.0, 1.0) for site, unit in paths for e in examples]

        def compare(rows: list[SiteRow], ran: SiteRuns) -> None:
            for row, metric in zip(rows, ran.metric, strict=True):
                sums.true[row.site.number, row.example] += (metric - before[row.example]).to(sums.true)

        _each(sums, ends, False, compare)
        nodes = [SiteRow(site, unit, e, a, w) for site, unit in paths for e in examples for a, w in points]
        _each(sums, nodes, True, lambda _, ran: sums.add_sites(ran))


def _each(sums: Sums, rows: list[SiteRow], backward: bool, use: Callable[[list[SiteRow], SiteRuns], None]) -> None:
    """Run rows, which are sorted along the stream, as many at a time as fit; `use` each chunk's."""
    bucket = sums.bucket
    size = rows_per_chunk(bucket.lm, bucket.positions, bucket.tape.length, backward)
    for part, ran in chunks(rows, size, partial(_run, sums, backward), f"{bucket.positions} tokens"):
        bucket.advance()
        use(part, ran)
        del ran  # before the next chunk runs


def _run(sums: Sums, backward: bool, rows: list[SiteRow]) -> SiteRuns:
    bucket, lm, device = sums.bucket, sums.bucket.lm, sums.bucket.lm.device
    by_site = [(site, list(members)) for site, members in groupby(rows, key=lambda row: row.site)]
    moves, leaves, joins = [], [], []
    later, first = dict[int, list[Override]](), 0
    for site, members in by_site:
        example = torch.tensor([row.example for row in members], device=device)
        moves.append(sums.move(site, [row.unit for row in members], example))
        share = torch.tensor([row.alpha for row in members], device=device, dtype=moves[-1].dtype)
        leaves.append((share[:, None, None] * moves[-1]).requires_grad_(backward))
        joins.append(sums.join(site, example, leaves[-1]))
        for layer, one in sums.carried(site, torch.arange(first, first + len(members), device=device), leaves[-1]):
            later.setdefault(layer, []).append(one)
        first += len(members)
    state = State(sites={site: [] for site in sums.behind})
    with torch.set_grad_enabled(backward):
        with hooks(*(watch(lm.decoder, state, []) if backward and sums.behind else ())):
            end = sweep(lm.decoder, bucket.tape, bucket.base, joins, start=bucket.tape.start, overrides=later,
                        backward=backward, cost=bucket.cost)  # fmt: skip
        state.residual.append(end)
        metric = bucket.read(end, torch.cat([join.example for join in joins]))
    found: list[Tensor] = []
    if backward:
        wanted = [*sums.wanted_behind(state, by_site[0][0].join), *leaves]
        found = [*torch.autograd.grad(metric.sum(), wanted, allow_unused=True, materialize_grads=True)]
    cut = len(found) - len(leaves)
    return SiteRuns(by_site, metric.detach(), state, found[:cut], moves, found[cut:])

"""Edges scored where their writers move: the path "layer" for edges (eap-ig-activations).

A site is the input, the heads of one block, or one MLP. The writes of one site move together, straight from the patched
run's to the other's, and everything behind is computed from them:

    score(u → v) = Δ_u · Σ_k w_k g_v(α_k)      u in the site that moves; writes behind it follow, those before stay

So an edge gets its score from the passes of its writer's own site, and only from those. (EAP-IG's published code adds
the gradients of the passes of all sites to every edge and divides by their number; its grid is α = k/m, k = 0 … m − 1
from the clean end.) Writes move, not activations: behind a post-norm the two are not the same line.

With the plain rule a site's scores sum to the effect of patching all of its writes, Σ_u Σ_v = M(site patched) − M, up
to the quadrature's error (`Completeness`). Rows (site, example, node) of all sites share sweeps; readers' gradients are
contracted with the own site's writers as they come, so memory does not grow with the edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from veracausa.anatomy import Decoder
from veracausa.anatomy.graph import MLP
from veracausa.engine import reader_gradients as reads
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.guard import attention_function, hooks
from veracausa.engine.memory import memory_errors, shrinking
from veracausa.engine.patches import where
from veracausa.engine.rules import applied
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.tape import State, watch
from veracausa.estimates.paths.bucket import PathBucket, Sums
from veracausa.estimates.paths.grids import grid
from veracausa.progress import Tick
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from veracausa.estimates.paths.edge_sums import EdgeSums


@dataclass(frozen=True)
class Site:
    """Writers that move together: a range of the graph's, and the place of the stream behind them (see `Join`)."""

    number: int
    name: str
    first: int
    count: int
    join: tuple[int, bool]

    def depth(self, layers: int) -> int:
        """Blocks that a row of this site runs."""
        return layers - self.join[0]


@dataclass(frozen=True)
class _Row:
    site: Site
    example: int
    alpha: float
    weight: float


@dataclass(frozen=True)
class _Ran:
    """Rows that were run; M of each, and with gradients the run behind them and ∂M of what readers are told by.

    `totals`, `slopes`: per site, Δ of the whole site of each row and ∂M/∂(stream behind it).
    """

    by_site: list[tuple[Site, list[_Row]]]
    metric: Float[Tensor, " rows"]
    state: State
    found: list[Tensor]
    totals: list[Tensor]
    slopes: list[Tensor]


def sites_of(decoder: Decoder) -> list[Site]:
    """The input, then heads and MLP of every block, as they write."""
    graph = decoder.graph
    sites = [Site(0, "input", 0, 1, (0, False))]
    for layer in range(decoder.layers):
        at = graph.block(layer)
        for name, place, first, count in (
            (f"a{layer}", "z", at.heads.start, graph.heads),
            (f"m{layer}", "mlp", at.mlp, 1),
        ):
            sites.append(Site(len(sites), name, first, count, where(decoder, place, layer).join))  # type: ignore[arg-type]
    return sites


def moved(decoder: Decoder, edges: Edges) -> list[Site]:
    """Sites that have writers of these edges."""
    writers = np.unique(edges.writer)
    return [site for site in sites_of(decoder) if ((writers >= site.first) & (writers < site.first + site.count)).any()]


def walk_sites(bucket: PathBucket, edges: EdgeSums, sums: Sums, tick: Tick) -> None:
    """All sites that have writers of the table, one after the other along the stream."""
    alphas, weights = grid(bucket.method.grid, bucket.method.nodes, corrupted_at_one=bucket.noising)
    points = list(zip(alphas.tolist(), weights.tolist(), strict=True))
    examples, sites = range(len(bucket.every)), moved(bucket.lm.decoder, edges.table)
    sums.complete = bucket.rule.plain
    with attention_function(bucket.lm.decoder, SUFFIX), applied(bucket.lm.decoder, bucket.rule):
        with torch.no_grad():
            before = bucket.unpatched(bucket.base)
        ends = [_Row(site, e, 1.0, 1.0) for site in sites for e in examples]
        for ran in _chunks(bucket, edges, ends, False, tick):
            rows = [row for _, members in ran.by_site for row in members]
            for row, metric in zip(rows, ran.metric, strict=True):
                sums.true[row.site.number, row.example] = (metric - before[row.example]).to(sums.true)
        nodes = [_Row(site, e, alpha, weight) for site in sites for e in examples for alpha, weight in points]
        for ran in _chunks(bucket, edges, nodes, True, tick):
            _add(bucket, edges, ran, sums)


def _chunks(bucket: PathBucket, edges: EdgeSums, rows: list[_Row], backward: bool, tick: Tick) -> Iterator[_Ran]:
    """Run rows, which are sorted along the stream, as many at a time as the budget allows."""
    size = rows_per_chunk(bucket.lm, bucket.positions, bucket.tape.length, backward)
    while rows:

        def attempt(most: int, waiting: list[_Row] = rows) -> _Ran:
            return _run(bucket, edges, waiting[:most], backward)

        ran, size = shrinking(size, attempt, f"{bucket.positions} tokens")
        part, rows = rows[:size], rows[size:]
        tick(sum(row.site.depth(bucket.lm.layers) * bucket.positions * (1 + backward) for row in part))
        yield ran


def _run(bucket: PathBucket, edges: EdgeSums, rows: list[_Row], backward: bool) -> _Ran:
    lm, base, device = bucket.lm, bucket.base, bucket.lm.device
    by_site = [(site, list(members)) for site, members in groupby(rows, key=lambda row: row.site)]
    joins: list[Join] = []
    totals: list[Tensor] = []
    leaves: list[Tensor] = []
    for site, members in by_site:
        example = torch.tensor([row.example for row in members], device=device)
        layer, middle = site.join
        stream = (base.middle if middle else base.residual)[layer][example].detach()
        totals.append(edges.changes(bucket)[example, site.first : site.first + site.count].sum(1))
        share = torch.tensor([row.alpha for row in members], device=device, dtype=totals[-1].dtype)
        leaves.append((share[:, None, None] * totals[-1]).requires_grad_(backward))

        def enter(stream: Tensor = stream, leaf: Tensor = leaves[-1]) -> Tensor:
            return stream + leaf.to(stream.dtype)

        joins.append(Join(layer, middle, example, enter))
    state = State(sites={site: [] for site in reads.SITES})
    with torch.set_grad_enabled(backward):
        with hooks(*(watch(lm.decoder, state, []) if backward else ())):
            last = sweep(lm.decoder, bucket.tape, base, joins, start=bucket.tape.start, backward=backward,
                         cost=bucket.cost)  # fmt: skip
        state.residual.append(last[:, None])
        metric = bucket.read(state.residual[-1][:, 0], torch.cat([join.example for join in joins]))
    found: list[Tensor] = []
    if backward:
        since = by_site[0][0].join
        _align(state, since)
        wanted = [*edges.reads_of(bucket).wanted(state, since), *leaves]
        with memory_errors(f"The backward pass of {len(rows)} prompts"):
            found = [*torch.autograd.grad(metric.sum(), wanted, allow_unused=True, materialize_grads=True)]
    cut = len(found) - len(leaves)
    return _Ran(by_site, metric.detach(), state, found[:cut], totals, found[cut:])


def _align(state: State, since: tuple[int, bool]) -> None:
    """Let the lists of a run that began at `since` count from block 0: what was not run is empty."""
    layer, middle = since
    nothing = state.residual[-1].new_empty(0)
    for into, behind_attention in (
        (state.residual, False),
        (state.middle, True),
        *((into, site == "mlp_in") for site, into in state.sites.items()),
    ):
        into[:0] = [nothing] * (layer + (middle and not behind_attention))


@torch.no_grad()
def _add(bucket: PathBucket, edges: EdgeSums, ran: _Ran, sums: Sums) -> None:
    """Contract the gradients of every site's rows with its own writers."""
    graph, since = bucket.lm.graph, ran.by_site[0][0].join
    for i, (site, members) in enumerate(ran.by_site):
        example, weights = _of(members, sums.values)
        total = (ran.totals[i] * ran.slopes[i]).to(sums.claimed).sum((1, 2)) * weights
        sums.claimed[site.number].index_add_(0, example, total)
    for reader, gradient in edges.reads_of(bucket).gradients(ran.state, ran.found, since):
        place = int(graph.reader_layer[reader]), bool(graph.reader_kind[reader] == MLP)
        first = 0
        for site, members in ran.by_site:
            if site.join > place:
                break
            example, weights = _of(members, gradient)
            mine, row = torch.unique_consecutive(example, return_inverse=True)
            own = gradient[:, first : first + len(members)] * weights[:, None, None]
            summed = gradient.new_zeros(len(gradient), len(mine), *gradient.shape[2:]).index_add_(1, row, own)
            whole = functional.pad(summed, (0, 0, bucket.positions - summed.shape[2], 0))  # read at the last one only
            changes = edges.changes(bucket)[mine, site.first : site.first + site.count]
            edges.add_rows(bucket, reader, changes, whole, mine, torch.ones_like(mine), sums, first=site.first)
            first += len(members)


def _of(members: list[_Row], like: Tensor) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Examples and weights of rows."""
    example = torch.tensor([row.example for row in members], device=like.device)
    return example, torch.tensor([row.weight for row in members], device=like.device, dtype=like.dtype)

"""Scores of edges: what writers add, contracted with the gradients at readers' inputs.

    mean:        Σ_k w_k Δ_u · g_v(γ_k),   Δ_u = write in the other run − write in the patched run
    increments:  Σ_k (w_u(γ_{k+1}) − w_u(γ_k)) · ½(g_v(γ_k) + g_v(γ_{k+1})), the left rule, or tangents, as for units

All edges come from the passes that units take: per block one projection more (`engine.reader_gradients`) and one
[writers] × [readers] product per example and group of readers. Writes and gradients at readers are told from what runs
hold, a stretch of positions at a time where those of all do not fit (`engine.stretches`), so nothing grows with writers
· positions · width, let alone with edges. Summed over a writer's readers, the point path gives attribution
patching of its write; summed over all edges that cross a place of the stream, increments add up to M(x′) − M(x)
(`Completeness`: before each block and before the logits).

With rule qk-exact, queries and keys are recomputed from norm(residual + Δ_u), and the change of the head's value is
contracted with the gradient there: E ≈ (A_patched − A) v · ∂M/∂z. Where one latent vector gives keys and values, both
are recomputed: E ≈ (A_patched v_patched − A v) · ∂M/∂z.

Where writers move (path "layer", eap-ig-activations), a site is the input, the heads of one block, a mixer, or an MLP:

    score(u → v) = Δ_u · Σ_k w_k g_v(α_k)      u in the site that moves; writes behind it follow, those before stay

So an edge gets its score from the passes of its writer's own site, and only from those. (EAP-IG's published code adds
the gradients of the passes of all sites to every edge and divides by their number; its grid is α = k/m, k = 0 … m − 1
from the clean end.) Writes move, not activations: behind a post-norm the two are not the same line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from veracausa.anatomy.graph import KV, MLP, K, Q, V
from veracausa.engine import reader_gradients as reads
from veracausa.engine import writes
from veracausa.engine.attention import SUFFIX
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import free_memory
from veracausa.engine.footprint import Footprint
from veracausa.engine.guard import attention_function
from veracausa.engine.reader_change import Reading
from veracausa.engine.row_sums import RowSums
from veracausa.engine.session import Session
from veracausa.engine.stretches import SHARE, Stretch, at_once, rows_of, stretches
from veracausa.engine.suffix import Join
from veracausa.engine.tape import State
from veracausa.engine.validate_edges import require_edges
from veracausa.engine.watching import blank_sites
from veracausa.estimates.paths.bucket import Graph, Site, SiteRuns, Sums, columns
from veracausa.estimates.paths.edge_products import EdgeProducts
from veracausa.estimates.paths.edge_sites import sites_of, writers_of
from veracausa.estimates.paths.edge_tapes import CHECKED, SITES, held, patterns_at_once, recorded, told_at_once
from veracausa.units.edges import Edges
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.anatomy import Decoder
    from veracausa.estimates.method import Method
    from veracausa.model import Model

#: Kinds of readers that are recomputed under qk-exact; a latent vector gives values beside keys.
_RECOMPUTED = (Q, K, KV)


@dataclass(eq=False)
class EdgeSums(Sums):
    """How one bucket's scores of edges are added up.

    `crossing`: of increments, what went from each block's writers into each block's readers.
    """

    units: Edges
    crossing: Float[Tensor, "examples writer_blocks reader_blocks"] | None = None
    _at_values: dict[int, Tensor] = field(default_factory=dict)

    @staticmethod
    def kept(lm: Model, units: Units, length: int) -> int:
        """See `Sums.kept`."""
        return Footprint.of(lm).held(CHECKED)

    @staticmethod
    def record(
        call: Session,
        units: Units,
        method: Method,
        start: int,
        examples: tuple[int, ...],
        grad: Graph | None,
        noising: bool | None,
    ) -> Bucket:
        """See `Sums.record`; what only the checks needed is let go of."""
        asked, sites = (call.lm, call.task, start, examples, call.cost), recorded(method)
        bucket = Bucket.record(*asked, sites=sites, grad=grad, beside_graph=reads.SITES)
        require_edges(call.lm, bucket.tape, gradients=True)
        kept = {side: {*held(sites), *(reads.SITES if grad == side else ())} for side in get_args(Graph)}
        return replace(bucket, tape=bucket.tape.keeping(kept))

    @staticmethod
    def beside(lm: Model, units: Units, method: Method) -> float:
        """See `Sums.beside`: with qk-exact each writer goes through the attention of the blocks behind it."""
        if "qk-exact" not in method.rule:
            return 0.0
        assert isinstance(units, Edges)
        recomputed = units[np.isin(lm.graph.reader_kind[units.reader], _RECOMPUTED)]
        products, first = EdgeProducts(units, 0), lm.graph.reader_group
        return float(sum(products.seen(reader) for reader in set(first[recomputed.reader].tolist())))

    @staticmethod
    def compared(decoder: Decoder, units: Units, method: Method) -> Sequence[int | str]:
        """Places of the stream, or sites."""
        return [site.name for site in sites_of(decoder)] if method.path == "layer" else range(decoder.layers + 1)

    @cached_property
    def qk_exact(self) -> bool:
        """Whether patterns of queries and keys are recomputed."""
        return "qk-exact" in self.bucket.method.rule

    @cached_property
    def products(self) -> EdgeProducts:
        """How changes and gradients become scores."""
        return EdgeProducts(self.units, self.bucket.tape.start, self.bucket.lm.decoder.passing)

    # ---- what writers add, of all positions or of some ---------------------------------------------------------------

    @cached_property
    def keeps(self) -> bool:
        """Whether Δ of every writer, pair and position is kept for the whole walk, since it fits."""
        bucket = self.bucket
        token = len(bucket.every) * Footprint.of(bucket.lm).writes
        return at_once(bucket.positions, token, free_memory(bucket.lm.device)) == bucket.positions

    @cached_property
    def changes(self) -> Float[Tensor, "examples writers positions width"]:
        """Δ of every writer."""
        decoder, count = self.bucket.lm.decoder, self.units.graph.writers
        with torch.no_grad():
            return writes.differences(decoder, self.bucket.base, self.bucket.other, range(count))

    def stretches(self, rows: int, examples: int = 0) -> list[Stretch]:
        """See `Sums.stretches`."""
        lm, how = self.bucket.lm, {"positional": self.units.positional, "keeps": self.keeps}
        moving = self.bucket.method.combine != "mean"
        token = told_at_once(Footprint.of(lm), rows, examples, moving=moving, **how)
        return stretches(self.bucket.positions, token, free_memory(lm.device))

    def changes_at(
        self, at: Stretch, mine: slice, writers: range | None = None
    ) -> Float[Tensor, "examples writers positions width"]:
        """Δ of (some) writers on neighbouring examples at some positions."""
        count = self.units.graph.writers
        some = range(count) if writers is None else writers
        if self.keeps:
            return at.cut(self.changes[mine, some.start : some.stop], 2).contiguous()
        base, other = (at.state(rows_of(state, mine)) for state in (self.bucket.base, self.bucket.other))
        return writes.differences(self.bucket.lm.decoder, base, other, some)

    def _of_writers(self, layer: int, of: Tensor, writer: Tensor) -> Float[Tensor, "rows positions width"]:
        """Δ of one writer on one example a row, as it arrives in front of a block."""
        decoder, bucket = self.bucket.lm.decoder, self.bucket
        found = self.changes[of, writer] if self.keeps else None
        if found is None:
            found = writes.write_changes(decoder, bucket.base, bucket.other, writer, of)
        return writes.arriving(decoder, layer, writer, found)

    # ---- points of a path over the input ----------------------------------------------------------------------------

    @property
    def sites(self) -> tuple[str, ...]:
        """See `Sums.sites`."""
        if self.bucket.method.combine != "mean":
            return SITES
        return (*reads.SITES, "z") if self.qk_exact else reads.SITES

    @property
    def most(self) -> int | None:
        """Rows at a time, at most: of draws every row's own scores are squared, which stretches give in parts."""
        if self.squares is None:
            return None
        return int(SHARE * free_memory(self.bucket.lm.device) / (self.values.itemsize * len(self.units)))

    @property
    def told(self) -> int:
        """See `Sums.told`."""
        return Footprint.of(self.bucket.lm).told

    @cached_property
    def _reads(self) -> reads.Reads:
        """How gradients come back to readers under the bucket's rule."""
        return reads.Reads(self.bucket.lm.decoder, self.bucket.rule.freeze_norms)

    @property
    def _attending(self) -> list[int]:
        """Blocks whose patterns are recomputed."""
        return self.bucket.lm.decoder.layers_with("attention") if self.qk_exact else []

    def wanted(self, state: State) -> list[Tensor]:
        """What readers are told by; with qk-exact the heads' values, too."""
        return self._reads.wanted(state) + [state.sites["z"][layer] for layer in self._attending]

    def gradients(self, state: State, found: list[Tensor]) -> Iterator[tuple[int, int, Tensor]]:
        """Gradients at the inputs of groups of readers, by their first reader; all readers see the same writes move."""
        for reader, gradient in self._reads.gradients(state, found):
            yield 0, reader, gradient

    def moving(self, state: State) -> list[Tensor]:
        """All writes."""
        written = writes.writes_until(self.bucket.lm.decoder, state, self.units.graph.writers)
        return [written.transpose(0, 1).contiguous()]

    def add(self, key: int, change: Tensor, gradient: Tensor, example: Tensor, weights: Tensor, at: Stretch) -> None:
        """See `Sums.add`; what crosses each place of the stream is what completeness claims."""
        products, graph, blocks = self.products.of(key, change, gradient), self.units.graph, self.bucket.lm.layers + 1
        self._put(key, products, example, weights, at)
        if self.crossing is None:
            self.crossing = self.values.new_zeros(len(self.values), blocks, blocks)
        by_writer = products.to(self.values).flatten(2).sum(2) * weights[:, None]
        block = torch.as_tensor(graph.writer_layer[: by_writer.shape[1]] + 1, device=by_writer.device)
        into = by_writer.new_zeros(len(self.values), blocks)
        rows = by_writer.new_zeros(len(by_writer), blocks).index_add_(1, block, by_writer)
        self.crossing[:, :, int(graph.reader_layer[key])] += into.index_add_(0, example, rows)

    @torch.no_grad()
    def add_mean(self, state: State, found: list[Tensor], example: Tensor, weights: Tensor) -> None:
        """Σ over rows of w · g_v, example by example, times Δ."""
        mine, row = torch.unique_consecutive(example, return_inverse=True)
        own = slice(int(mine[0]), int(mine[-1]) + 1)  # rows are in the examples' order
        sums = RowSums(row, weights, len(mine))
        drawn = None if self.squares is None else self.values.new_zeros(len(example), len(self.units))
        for at in self.stretches(len(example), len(mine)):
            changes, there, told = self.changes_at(at, own), at.state(state), [*map(at.cut, found)]
            for reader, g in self._reads.gradients(there, told, sums=sums if drawn is None else None):
                total = g
                if drawn is not None:
                    self._add_rows(drawn, reader, changes, g, row, at)
                    total = sums.summed(sums.weighted(g.transpose(0, 1))).transpose(0, 1)
                self._put(reader, self.products.of(reader, changes, total), mine, torch.ones_like(mine), at)
        if drawn is not None and self.squares is not None:
            for i, one in enumerate(mine.tolist()):
                self.squares[one] += drawn[row == i].square().sum(0)
        if self.qk_exact:
            for layer, gradient in zip(self._attending, found[len(found) - len(self._attending) :], strict=True):
                z = self.bucket.base.sites["z"][layer]
                at_z = gradient.to(torch.promote_types(z.dtype, torch.float32))  # half types lose what is added up
                kept = self._at_values.setdefault(layer, at_z.new_zeros(z.shape))
                kept.index_add_(0, example, at_z * weights.to(at_z)[:, None, None])

    def close(self) -> None:
        """See `Sums.close`."""
        super().close()
        if self.crossing is not None:
            for cut in range(len(self.claimed)):
                self.claimed[cut] += self.crossing[:, : cut + 1, cut:].sum((1, 2))
        if self.qk_exact:
            self._through_patterns()

    def _put(
        self, reader: int, products: Tensor, example: Tensor, weights: Tensor, at: Stretch, first: int = 0
    ) -> None:
        """Add the listed edges' scores to their examples, row by row."""
        chosen, scores = self.products.listed(reader, products, first, at.first)
        if self.qk_exact:  # queries and keys are recomputed instead
            approximate = np.isin(self.units.graph.reader_kind[self.units.reader[chosen.cpu().numpy()]], _RECOMPUTED)
            chosen, scores = chosen[torch.as_tensor(~approximate)], scores[:, torch.as_tensor(~approximate)]
        scores = scores.to(self.values) * weights[:, None]
        self.values[:, chosen] += self.values.new_zeros(len(self.values), len(chosen)).index_add_(0, example, scores)

    def _add_rows(
        self, drawn: Tensor, reader: int, changes: Tensor, gradient: Tensor, row: Tensor, at: Stretch
    ) -> None:
        """Add every row's own scores; `row`: which of the examples of `changes` each is of."""
        for one in row.unique().tolist():
            rows = torch.nonzero(row == one)[:, 0]
            own = changes[one].expand(len(rows), -1, -1, -1)
            products = self.products.of(reader, own, gradient[:, rows])
            chosen, scores = self.products.listed(reader, products, 0, at.first)
            drawn[rows[:, None], chosen] += scores.to(drawn)

    @torch.no_grad()
    def _through_patterns(self) -> None:
        """(A_patched − A) v · ∂M/∂z for every edge into a query or key, writer by writer."""
        bucket, table = self.bucket, self.units
        lm, graph, reading = bucket.lm, table.graph, Reading(bucket.lm.decoder, bucket.tape, bucket.base)
        most = patterns_at_once(bucket.positions)
        with attention_function(lm.decoder, SUFFIX):
            for layer in self._attending:
                first, counts = graph.block(layer).attention.start, graph.attention_readers(layer)
                counts.pop(V, None)  # behind the others
                listed, seen = self.products.into[first], self.products.seen(first)
                listed = listed[np.isin(graph.reader_kind[table.reader[listed]], _RECOMPUTED)]
                pairs = [(e, w) for e in range(len(bucket.every)) for w in range(seen)] if len(listed) else []
                scores = self.values.new_zeros(len(bucket.every), seen, sum(counts.values()))
                for at in range(0, len(pairs), most):
                    of, writer = torch.tensor(pairs[at : at + most], device=lm.device).T
                    found = reading.value_change(layer, tuple(counts), self._of_writers(layer, of, writer), of)
                    bucket.cost.add(len(of), bucket.positions)
                    gradient = self._at_values[layer][of].unflatten(-1, (lm.heads, -1))
                    by_head = {kind: (found[kind] * gradient).sum((1, 3)) for kind in counts}
                    parts = [by_head[kind].unflatten(-1, (count, -1)).sum(-1) for kind, count in counts.items()]
                    scores[of, writer] = torch.cat(parts, 1).to(scores)
                columns = table.reader[listed] - first
                self.values[:, torch.as_tensor(listed)] += scores[:, table.writer[listed], columns]

    # ---- paths of one site ------------------------------------------------------------------------------------------

    behind = reads.SITES

    @staticmethod
    def moved(decoder: Decoder, units: Units) -> list[Site]:
        """Sites that have writers of these edges."""
        assert isinstance(units, Edges)
        listed = set(units.writer.tolist())
        return [site for site in sites_of(decoder) if listed & set(writers_of(units.graph, site))]

    def move(self, site: Site, units: list[int], example: Tensor) -> Tensor:
        """Δ of the site's writes together, where it joins the stream."""
        times = self.bucket.lm.decoder.passing
        found = self._moved(site, example)
        return found if times is None else found * times[site.join[0], writers_of(self.units.graph, site).start]

    def _moved(self, site: Site, example: Tensor) -> Tensor:
        writers, graph = writers_of(self.units.graph, site), self.units.graph
        if self.keeps:
            return self.changes[example, writers.start : writers.stop].sum(1)
        mine = slice(int(example.min()), int(example.max()) + 1)
        token = (mine.stop - mine.start) * Footprint.of(self.bucket.lm).writes * 2 * len(writers) // graph.writers
        parts = stretches(self.bucket.positions, token, free_memory(self.bucket.lm.device))
        return torch.cat([self.changes_at(at, mine, writers).sum(1) for at in parts], 1)[example - mine.start]

    def join(self, site: Site, example: Tensor, change: Tensor) -> Join:
        """See `Sums.join`."""
        (layer, middle), base = site.join, self.bucket.base
        stream = (base.middle if middle else base.residual)[layer].detach()
        return Join(layer, middle, example, lambda: stream[example] + change.to(stream.dtype))

    def wanted_behind(self, state: State, since: tuple[int, bool]) -> list[Tensor]:
        """What readers are told by; the run's lists then count from block 0, and what was not run is empty."""
        layer, middle = since
        nothing, blocks = state.residual[-1].new_empty(0), self.bucket.lm.decoder.blocks
        for into, site in (
            (state.residual, "attention_in"),
            (state.middle, "mlp_in"),
            *((into, site) for site, into in state.sites.items()),
        ):
            first, ran = layer + (middle and site != "mlp_in"), iter([*into])
            into[:] = [next(ran) if b.layer >= first and site not in blank_sites(b) else nothing for b in blocks]
            into.extend(ran)  # the stream at the end
        return self._reads.wanted(state, since)

    @torch.no_grad()
    def add_sites(self, ran: SiteRuns) -> None:
        """Contract the gradients of every site's rows with its own writers, as they come."""
        since = ran.by_site[0][0].join
        for (site, rows), move, slope in zip(ran.by_site, ran.moves, ran.slopes, strict=True):
            example, weights = columns(rows, self.values)
            total = (move * slope).to(self.claimed).sum((1, 2)) * weights
            self.claimed[site.number].index_add_(0, example, total)
        placed, into, shares, places = list[tuple[Site, Tensor, int]](), list[Tensor](), list[Tensor](), 0
        for site, rows in ran.by_site:
            example, own = columns(rows, self.values)
            mine, row = torch.unique_consecutive(example, return_inverse=True)
            placed.append((site, mine, places))
            into.append(row + places)
            shares.append(own)
            places += len(mine)
        sums, most = RowSums(torch.cat(into), torch.cat(shares), places), max(len(mine) for _, mine, _ in placed)
        for at in self.stretches(len(sums.into), most):
            told = [*map(at.cut, ran.found)]
            for reader, gradient in self._reads.gradients(at.state(ran.state), told, since, sums):
                self._add_reader(placed, reader, gradient, at)

    def _add_reader(
        self,
        placed: list[tuple[Site, Tensor, int]],
        reader: int,
        gradient: Float[Tensor, "readers places positions width"],
        at: Stretch,
    ) -> None:
        """Contract the gradients at some readers with the writes of the sites before them.

        `placed`: of every site its examples, and the first of their places in the gradients.
        """
        graph = self.units.graph
        place = int(graph.reader_layer[reader]), bool(graph.reader_kind[reader] == MLP)
        for site, mine, first in placed:
            if site.join > place:
                break
            own = gradient[:, first : first + len(mine)]
            # the logits are read at the tail only
            whole = functional.pad(own, (0, 0, len(at) - own.shape[2], 0))
            writers = writers_of(graph, site)
            changes = self.changes_at(at, slice(int(mine[0]), int(mine[-1]) + 1), writers)
            self._put(reader, self.products.of(reader, changes, whole, writers.start), mine, torch.ones_like(mine), at,
                      writers.start)  # fmt: skip

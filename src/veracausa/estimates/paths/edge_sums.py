"""Scores of edges on paths over the input: contract what writers add with the gradients at readers' inputs.

    mean:        Σ_k w_k Δ_u · g_v(γ_k),   Δ_u = write in the other run − write in the patched run
    increments:  Σ_k (w_u(γ_{k+1}) − w_u(γ_k)) · ½(g_v(γ_k) + g_v(γ_{k+1})), the left rule, or tangents, as for nodes

All edges come from the passes that nodes take: per block one projection more (`engine.reader_gradients`) and one
[writers] × [readers] product per example and group of readers, so memory is that of the writes, writers · examples ·
positions · width, whatever the number of edges. Summed over a writer's readers, the point path gives attribution
patching of its write; summed over all edges that cross a place of the stream, increments add up to M(x′) − M(x)
(`Completeness`: before each block and before the logits).

With rule qk-exact, queries and keys are recomputed from norm(residual + Δ_u), and the change of the head's value is
contracted with the gradient there: E ≈ (A_patched − A) v · ∂M/∂z.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from veracausa.anatomy.graph import K, Q
from veracausa.engine import reader_gradients as reads
from veracausa.engine import writes
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import free_memory
from veracausa.engine.guard import attention_function
from veracausa.engine.memory import memory_errors
from veracausa.engine.reader_change import Reading
from veracausa.engine.rules import applied
from veracausa.engine.tape import State
from veracausa.estimates.paths.bucket import PathBucket, Sums
from veracausa.estimates.paths.network import Points, chunks, run, true_change
from veracausa.progress import Tick
from veracausa.units.edges import Edges

#: What both runs must hold, and what is needed besides where the pattern is recomputed.
SITES = tuple(dict.fromkeys((*writes.SITES, *reads.SITES)))
PATTERN_SITES = ("queries", "keys", "values")
#: Share of the free memory that the writes of a chunk's points may take.
_SHARE = 0.1

#: First reader of a group, and gradients at its readers' inputs.
Groups = Iterator[tuple[int, Float[Tensor, "readers rows positions width"]]]


@dataclass(eq=False)
class EdgeSums:
    """How one bucket's edge scores are added up."""

    table: Edges
    crossing: Float[Tensor, "examples writer_blocks reader_blocks"] | None = None
    _at_values: dict[int, Tensor] = field(default_factory=dict)
    _differences: Tensor | None = None

    def walk_point(self, bucket: PathBucket, sums: Sums, tick: Tick) -> None:
        """One backward pass through the patched run, which was recorded with its graph."""
        with applied(bucket.lm.decoder, bucket.rule):
            found = self._differentiate(bucket, bucket.base, bucket.every)
        weights = torch.ones(len(bucket.every), dtype=sums.values.dtype, device=sums.values.device)
        self._add_mean(bucket, bucket.base, bucket.every, found, weights, sums)
        self._through_patterns(bucket, sums)
        tick(len(bucket.every) * bucket.positions * bucket.lm.layers)

    def walk_points(self, bucket: PathBucket, points: Points, sums: Sums, tick: Tick) -> None:
        """All points of a path over the input."""
        if bucket.method.combine == "mean":
            self._mean(bucket, points, sums, tick)
            return
        self.crossing = sums.values.new_zeros(len(bucket.every), bucket.lm.layers + 1, bucket.lm.layers + 1)
        sums.complete = bucket.rule.plain
        if points.tangent is None:
            self._increments(bucket, points, sums, tick)
        else:
            self._tangents(bucket, points, sums, tick)
        for i, cut in enumerate(bucket.layers):
            sums.claimed[i] += self.crossing[:, : cut + 1, cut:].sum((1, 2))
        true_change(bucket, sums)

    # ---- walks ------------------------------------------------------------------------------------------------------

    def _mean(self, bucket: PathBucket, points: Points, sums: Sums, tick: Tick) -> None:
        nodes = points.embeddings.shape[1]
        draws = bucket.method.path == "draws" and nodes > 1
        if draws:
            sums.squares = torch.zeros_like(sums.values)
        for row, example, state, found in self._chunks(bucket, points, tick):
            weights = points.weights[row % nodes].to(sums.values)
            self._add_mean(bucket, state, example, found, weights, sums)
            if draws:
                self._add_squares(bucket, state, example, found, sums)
        self._through_patterns(bucket, sums)

    def _increments(self, bucket: PathBucket, points: Points, sums: Sums, tick: Tick) -> None:
        left, nodes = bucket.method.combine == "left-increments", points.embeddings.shape[1]
        last: tuple[Tensor, Tensor, list[Tensor]] | None = None  # row, writes and gradients of the row before a chunk
        for row, example, state, found in self._chunks(bucket, points, tick):
            with torch.no_grad():
                written = writes.writes_until(bucket.lm.decoder, state, bucket.lm.graph.writers)
                if last is not None:
                    row, example = torch.cat([last[0], row]), torch.cat([last[0] // nodes, example])
                    written = torch.cat([last[1], written], 1)
                end: tuple[Tensor, Tensor, list[Tensor]] = (row[-1:], written[:, -1:].clone(), [])
                moved = _steps(written)
                del written  # as large as the rest of the chunk together
                within = (row[:-1] % nodes != nodes - 1).to(sums.values)  # the next row is the example's next point
                for group, (reader, g) in enumerate(self.reads_of(bucket).gradients(state, found)):
                    if last is not None:
                        g = torch.cat([last[2][group], g], 1)
                    end[2].append(g[:, -1:].clone())
                    gradient = g[:, :-1] if left else (g[:, 1:] + g[:, :-1]) / 2
                    self.add_rows(bucket, reader, moved, gradient, example[:-1], within, sums)
                last = end

    def _tangents(self, bucket: PathBucket, points: Points, sums: Sums, tick: Tick) -> None:
        assert points.tangent is not None
        decoder, nodes = bucket.lm.decoder, points.embeddings.shape[1]
        every = points.embeddings.flatten(0, 1)
        for row, example, state, found in self._chunks(bucket, points, tick):
            weights = points.weights[row % nodes].to(sums.values)
            with torch.no_grad():
                groups = list(self.reads_of(bucket).gradients(state, found))
                with forward_ad.dual_level(), attention_function(decoder, SUFFIX):
                    moving = forward_ad.make_dual(every[row].detach(), points.tangent[example])
                    dual = run(bucket, moving, example, sites=writes.SITES, grad=False)
                    bucket.cost.add(len(row), bucket.positions * bucket.lm.layers)  # the tangents' own pass
                    written = writes.writes_until(decoder, dual, decoder.graph.writers)
                    moved = forward_ad.unpack_dual(written).tangent.transpose(0, 1).contiguous()
                for reader, g in groups:
                    self.add_rows(bucket, reader, moved, g, example, weights, sums)

    def _chunks(
        self, bucket: PathBucket, points: Points, tick: Tick
    ) -> Iterator[tuple[Tensor, Tensor, State, list[Tensor]]]:
        lm = bucket.lm
        row_bytes = 4 * lm.graph.writers * bucket.positions * lm.width
        most = None if bucket.method.combine == "mean" else int(_SHARE * free_memory(lm.device) / row_bytes)
        sites = SITES if bucket.method.combine != "mean" else (*reads.SITES, *(("z",) if bucket.qk_exact else ()))
        return chunks(bucket, points, tick, sites, lambda s, e: self._differentiate(bucket, s, e), most)

    # ---- gradients --------------------------------------------------------------------------------------------------

    def reads_of(self, bucket: PathBucket) -> reads.Reads:
        """How gradients come back to readers under the bucket's rule."""
        return reads.Reads(bucket.lm.decoder, bucket.rule.freeze_norms)

    def _differentiate(self, bucket: PathBucket, state: State, example: Tensor) -> list[Tensor]:
        """Gradients of the tensors that readers are told by (and of heads' values, last, for qk-exact)."""
        wanted = self.reads_of(bucket).wanted(state)
        if bucket.qk_exact:
            wanted += state.sites["z"]
        rows, positions = state.residual[0].shape[:2]
        with torch.enable_grad(), memory_errors(f"The backward pass of {rows} prompts"):
            metric = bucket.read(state.last, example).sum()
            found = torch.autograd.grad(metric, wanted, allow_unused=True, materialize_grads=True)
        bucket.cost.backward += rows * positions * bucket.lm.layers
        return list(found)

    # ---- sums -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _add_mean(
        self, bucket: PathBucket, state: State, example: Tensor, found: list[Tensor], weights: Tensor, sums: Sums
    ) -> None:
        """Σ over rows of w · g_v, example by example, times Δ."""
        mine, row = torch.unique_consecutive(example, return_inverse=True)
        for reader, g in self.reads_of(bucket).gradients(state, found):
            total = g.new_zeros(len(g), len(mine), *g.shape[2:]).index_add_(1, row, g * weights.to(g)[:, None, None])
            changes = self.changes(bucket)[int(mine[0]) : int(mine[-1]) + 1]  # rows are in the examples' order
            one = torch.ones(len(mine), dtype=sums.values.dtype, device=g.device)
            self.add_rows(bucket, reader, changes, total, mine, one, sums, self._approximate(bucket, reader))
        if bucket.qk_exact:
            for layer, gradient in enumerate(found[-bucket.lm.layers :]):
                kept = self._at_values.setdefault(layer, torch.zeros_like(bucket.base.sites["z"][layer].detach()))
                kept.index_add_(0, example, gradient * weights.to(gradient)[:, None, None])

    @torch.no_grad()
    def _add_squares(self, bucket: PathBucket, state: State, example: Tensor, found: list[Tensor], sums: Sums) -> None:
        """Squares of every row's own score, for the draws' standard error."""
        assert sums.squares is not None
        for reader, g in self.reads_of(bucket).gradients(state, found):
            for one in example.unique().tolist():
                rows = example == one
                changes = self.changes(bucket)[one].expand(int(rows.sum()), -1, -1, -1)
                products = self._products(bucket, reader, changes, g[:, rows])
                chosen, scores = self._listed_of(bucket, reader, products)
                sums.squares[one, chosen] += scores.to(sums.squares).square().sum(0)

    def add_rows(
        self,
        bucket: PathBucket,
        reader: int,
        changes: Float[Tensor, "rows writers positions width"],
        gradient: Float[Tensor, "readers rows positions width"],
        example: Tensor,
        weights: Float[Tensor, " rows"],
        sums: Sums,
        replaced: np.ndarray | None = None,
        first: int = 0,
    ) -> None:
        """Add change · gradient of one group's edges, row by row; not of readers that are `replaced` otherwise.

        `first`: the writer that `changes` begin with.
        """
        products = self._products(bucket, reader, changes, gradient, first)
        chosen, scores = self._listed_of(bucket, reader, products, first)
        if replaced is not None:
            keep = ~replaced[self.table.reader[chosen.cpu().numpy()] - reader]
            chosen, scores = chosen[torch.as_tensor(keep)], scores[:, torch.as_tensor(keep)]
        scores = scores.to(sums.values) * weights[:, None]
        total = sums.values.new_zeros(len(sums.values), len(chosen)).index_add_(0, example, scores)
        sums.values[:, chosen] += total
        if self.crossing is not None:
            graph = bucket.lm.graph
            by_writer = products.to(sums.values).flatten(2).sum(2) * weights[:, None]
            block = torch.as_tensor(graph.writer_layer[: by_writer.shape[1]] + 1, device=by_writer.device)
            into = by_writer.new_zeros(len(sums.values), bucket.lm.layers + 1)
            rows = by_writer.new_zeros(len(by_writer), bucket.lm.layers + 1).index_add_(1, block, by_writer)
            self.crossing[:, :, int(graph.reader_layer[reader])] += into.index_add_(0, example, rows)

    def _products(
        self, bucket: PathBucket, reader: int, changes: Tensor, gradient: Tensor, first: int = 0
    ) -> Float[Tensor, "rows writers readers *positions"]:
        """Change · gradient of writers from `first` on and a group of readers; by position if the table has them."""
        changes = changes[:, : self._seen(bucket, reader) - first].to(gradient.dtype)
        if self.table.positional:
            return torch.einsum("bwsd,rbsd->bwrs", changes, gradient)
        return changes.flatten(2) @ gradient.transpose(0, 1).flatten(2).transpose(1, 2)

    def _listed_of(
        self, bucket: PathBucket, reader: int, products: Tensor, first: int = 0
    ) -> tuple[Tensor, Float[Tensor, "rows edges"]]:
        """(their indices in the table, scores) of the listed edges among `_products`."""
        table, listed = self.table, self._listed[reader]
        listed = listed[(table.writer[listed] >= first) & (table.writer[listed] < first + products.shape[1])]
        writer = torch.as_tensor(table.writer[listed] - first, device=products.device)
        which = torch.as_tensor(table.reader[listed] - reader, device=products.device)
        chosen = torch.as_tensor(listed, device=products.device)
        if not table.positional:
            return chosen, products[:, writer, which]
        position = torch.as_tensor(table.position[listed] - bucket.tape.start, device=products.device)
        inside = (position >= 0) & (position < products.shape[3])
        scores = products[:, writer, which, position.clamp(0, products.shape[3] - 1)]
        return chosen, torch.where(inside, scores, torch.zeros_like(scores))

    @cached_property
    def _listed(self) -> dict[int, np.ndarray]:
        """First reader of a group → the table's edges into it."""
        graph, reader = self.table.graph, self.table.reader
        block, within = np.divmod(reader, graph.per_layer)
        first = block * graph.per_layer + np.where(within == graph.per_layer - 1, within, 0)
        size = graph.per_layer
        starts = [*range(0, graph.readers, size), *range(size - 1, graph.readers, size)]
        order = np.argsort(first, kind="stable")
        cuts = np.searchsorted(first[order], starts), np.searchsorted(first[order], starts, side="right")
        return {start: order[a:b] for start, a, b in zip(starts, *cuts, strict=True)}

    def _seen(self, bucket: PathBucket, reader: int) -> int:
        """Writers before a reader: the first so many of the graph."""
        graph = bucket.lm.graph
        return int((graph.writer_order <= graph.reader_order[reader]).sum())

    def changes(self, bucket: PathBucket) -> Float[Tensor, "examples writers positions width"]:
        """Δ of every writer."""
        if self._differences is None:
            with torch.no_grad():
                decoder, count = bucket.lm.decoder, bucket.lm.graph.writers
                change = writes.writes_until(decoder, bucket.other, count)
                change -= writes.writes_until(decoder, bucket.base, count)
                self._differences = change.transpose(0, 1).contiguous()
        return self._differences

    # ---- qk-exact ---------------------------------------------------------------------------------------------------

    def _approximate(self, bucket: PathBucket, reader: int) -> np.ndarray | None:
        """Which readers of a group are queries and keys whose patterns are recomputed instead."""
        if not bucket.qk_exact:
            return None
        return np.isin(bucket.lm.graph.reader_kind[reader : reader + bucket.lm.graph.per_layer], (Q, K))

    @torch.no_grad()
    def _through_patterns(self, bucket: PathBucket, sums: Sums) -> None:
        """(A_patched − A) v · ∂M/∂z for every edge into a query or key, writer by writer."""
        if not bucket.qk_exact:
            return
        lm, graph, changes = bucket.lm, bucket.lm.graph, self.changes(bucket)
        reading = Reading(lm.decoder, bucket.tape, bucket.base)
        share = lm.heads // lm.kv_heads
        most = max(1, 1024 // bucket.positions)
        with attention_function(lm.decoder, SUFFIX):
            for layer in range(lm.layers):
                first, seen = layer * graph.per_layer, self._seen(bucket, layer * graph.per_layer)
                listed = self._listed[first]
                listed = listed[np.isin(graph.reader_kind[self.table.reader[listed]], (Q, K))]
                pairs = [(e, w) for e in range(len(bucket.every)) for w in range(seen)] if len(listed) else []
                scores = sums.values.new_zeros(len(bucket.every), seen, lm.heads + lm.kv_heads)
                for at in range(0, len(pairs), most):
                    of, writer = torch.tensor(pairs[at : at + most], device=lm.device).T
                    found = reading.value_change(layer, (Q, K), changes[of, writer], of)
                    bucket.cost.add(len(of), bucket.positions)
                    gradient = self._at_values[layer][of].unflatten(-1, (lm.heads, -1))
                    heads, keys = ((found[kind] * gradient).sum((1, 3)) for kind in (Q, K))
                    both = torch.cat([heads, keys.unflatten(-1, (lm.kv_heads, share)).sum(-1)], 1)
                    scores[of, writer] = both.to(scores)
                columns = self.table.reader[listed] - first
                sums.values[:, torch.as_tensor(listed)] += scores[:, self.table.writer[listed], columns]


def _steps(written: Float[Tensor, "writers rows positions width"]) -> Float[Tensor, "steps writers positions width"]:
    """How every write changes from row to row."""
    rows = written.transpose(0, 1)
    return torch.sub(rows[1:], rows[:-1], out=rows.new_empty(rows[1:].shape))

"""Scores of edges between nodes of a circuit of features: one backward pass for each downstream node, or one run for
each upstream one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from veracausa.circuits.selection.feature_nodes import Edge, Node, parts_of
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function
from veracausa.engine.path_codes import STREAMS, Coded, places_written
from veracausa.engine.routes import Read, Station
from veracausa.engine.session import Session, session
from veracausa.engine.work import recorded_runs
from veracausa.estimates.edges_of_features import Upstream
from veracausa.estimates.mean_slopes import walked
from veracausa.estimates.path_slopes import PathSlopes, stopped
from veracausa.estimates.recorded_slopes import recorded_slopes, slope_buckets
from veracausa.estimates.run_changes import blocks_run, run_changes

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Pairs whose bare metric is compared with the one that kept pieces were made with.
_COMPARED = 2


@dataclass(frozen=True, eq=False)
class SlopesWork:
    """Edges of a circuit; `nodes`: points that the downstream gradient is averaged over (0: at the clean run).

    `zero`: parts are replaced by nothing, else by their values in the corrupted run. `upstream`: see `feature_edges`.
    """

    lm: Model
    task: Task
    edges: Sequence[Edge]
    nodes: int
    zero: bool
    upstream: Upstream
    kind: ClassVar[str] = "gradients"

    @cached_property
    def downs(self) -> dict[Node, dict[int, Node]]:
        """Downstream node → the number of each of its edges, with the upstream node."""
        found = dict[Node, dict[int, Node]]()
        for i, (up, down) in enumerate(self.edges):
            found.setdefault(down, {})[i] = up
        return found

    @property
    def kinds(self) -> set[str]:
        """Of all nodes."""
        return {node.part.kind for edge in self.edges for node in edge}

    @property
    def places(self) -> set[int]:
        """Of the stream, where nodes write."""
        nodes = {node.part for edge in self.edges for node in edge}
        return {place for part in nodes for place in places_written(self.lm.decoder, part)}

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are recorded together."""
        return slope_buckets(self.lm, self.task, not self.zero, self.kinds, len(self.places), 0)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: both runs recorded, a backward pass for the metric, and one for each downstream node, or a run
        of each upstream one (at most: sites that are held cost nothing).
        """
        groups, layers = self.groups(), self.lm.layers
        found = recorded_runs(self.lm, self.task, groups)
        walk = walked(self.lm, self._read, self.nodes) if self.nodes else layers
        for start, examples in groups:
            length = self.task.lengths[examples[0]]
            if self.upstream == "run":
                here = blocks_run(self.lm.graph, [*_ends(self.downs, start, length).values()])
            else:
                here = sum(start <= down.position < length or down.position < 0 for down in self.downs) * layers
            found += len(examples) * (length - start) * (walk + here)
        return found

    @property
    def _read(self) -> set[tuple[str, int]]:
        """Dictionaries, by kind and layer, of downstream nodes."""
        return {(node.part.kind, node.part.layer) for node in self.downs}

    def run(
        self, asked: dict[str, Any], show_progress: bool = True, out: str | Path | None = None
    ) -> tuple[Tensor, Cost]:
        """Scores, [pairs, edges], and what they cost; `asked`: all that they depend on beside model and task."""
        asked = asked | {"edges": [[up.name, down.name] for up, down in self.edges]}
        label = f"{len(self.edges):,} edges between features"
        with session(
            self.lm, self.task, (len(self.task), len(self.edges)), out=out, name="feature-circuit", asked=asked,
            measured=False, compared=_COMPARED, show=show_progress,
        ) as call, call.bar(label, self.tokens()):  # fmt: skip
            call.rest(self.groups(), lambda *bucket: _bucket(call, self, *bucket))
        return call.values, call.cost


def _bucket(call: Session, work: SlopesWork, start: int, examples: tuple[int, ...]) -> None:
    """The scores of a bucket's pairs that are not done: of each downstream node the slopes everywhere before it."""
    index = torch.tensor(examples)
    downs = {down: ups for down, ups in work.downs.items() if not call.done[index[:, None], [*ups]].all()}
    read = {(node.part.kind, node.part.layer) for node in downs} if work.nodes else set()
    with torch.enable_grad(), attention_function(call.lm.decoder, SUFFIX):
        slopes = recorded_slopes(
            call, start, examples, kinds=work.kinds, read=read, noising=True, zero=work.zero, nodes=work.nodes,
            places=work.places,
        )  # fmt: skip
        if not slopes.means:
            slopes.at((True,), slopes.places[0])  # the metric's own slope, which nothing stops
        if work.upstream == "run":
            call.put((index[:, None], [i for ups in downs.values() for i in ups]), _ran(slopes, downs, start))
        for down, ups in downs.items() if work.upstream == "slope" else ():
            call.put((index[:, None], [*ups]), _into(slopes, down, [*ups.values()], start))


def _ran(slopes: PathSlopes, downs: dict[Node, dict[int, Node]], start: int) -> Tensor:
    """Scores of all edges by runs of upstream nodes, [pairs, edges]; NaN where a pair lacks a node's position."""
    lm, length = slopes.bucket.lm, slopes.bucket.tape.length
    held = {(one.behind, one.layer) for one in parts_of(lm) if one.behind not in STREAMS}
    ends = _ends(downs, start, length)
    found = dict(run_changes(slopes, list(dict.fromkeys(ends.values())), held))
    edges = [(up, down) for down, ups in downs.items() for up in ups.values()]
    lacking = torch.tensor([max(up.position, down.position) >= length for up, down in edges])
    return torch.stack([found[ends[edge]] for edge in edges], 1).cpu().masked_fill(lacking, float("nan"))


def _ends(downs: dict[Node, dict[int, Node]], start: int, length: int) -> dict[Edge, Station]:
    """Each edge as the last station of a path; without a reader where one is before the first position that is run."""

    def placed(node: Node) -> tuple[tuple[Coded, int, int], ...]:
        first, last = node.place(start, length)
        return ((node.part, max(first, 0), last),) if last >= 0 else ()

    found = dict[Edge, Station]()
    for down, ups in downs.items():
        seen = placed(down)
        reads = (Read(down.part.layer, False, (), seen),) if seen else ()
        for up in ups.values():
            found[up, down] = Station(Station(None, True, coded=placed(up)), True, reads=reads)
    return found


def _into(slopes: PathSlopes, down: Node, ups: Sequence[Node], start: int) -> Tensor:
    """Scores of the edges into one node, [pairs, upstream nodes]; NaN where a pair lacks a node's position."""
    lm, length = slopes.bucket.lm, slopes.bucket.tape.length
    values = torch.full((len(slopes.bucket.every), len(ups)), float("nan"), dtype=lm.score_dtype)
    first, last = down.place(start, length)
    there = [i for i, up in enumerate(ups) if max(up.position, down.position) < length]
    if last < 0 or not there:  # before the first position that can change
        values[:, there] = 0
        return values
    onward = (True, (Read(down.part.layer, False, (), ((down.part, first, last),)),), True)
    with stopped(_between(slopes, down.part)):
        slopes.at(onward, slopes.places[0])
    found = dict[tuple[str, int], Tensor]()
    for i in there:
        part, (a, b) = ups[i].part, ups[i].place(start, length)
        if (part.kind, part.layer) not in found:
            found[part.kind, part.layer] = slopes.products(onward, part)
        numbers = lm.decoder.codes[part.kind, part.layer].numbers(part.index)
        own = found[part.kind, part.layer][:, max(a, 0) : max(b + 1, 0), numbers]
        values[:, i] = own.flatten(1).sum(1).to("cpu", values.dtype)
    slopes.forget(onward)
    return values


def _between(slopes: PathSlopes, down: Coded) -> list[Tensor]:
    """What stands in the way of gradients: attentions and MLPs of all other dictionaries."""

    def where(one: Coded) -> tuple[str, int]:
        return {"attention": "z", "mlp": "mlp"}.get(one.behind, ""), one.layer

    others = {where(one) for one in parts_of(slopes.bucket.lm)} - {where(down)}
    return [slopes.base.sites[site][layer] for site, layer in sorted(others) if site]

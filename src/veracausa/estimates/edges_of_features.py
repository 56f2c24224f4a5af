"""Estimated edges between parts of dictionaries: gradients in the place of runs (Marks et al. 2403.19647).

    E(u → d) ≈ ∂M/∂d · ∂d/∂u · (u' − u)

`u->d`: the change reaches the downstream encoder along the stream alone, so ∂d/∂u is the encoder's own derivative (with
its MLP's, where it stands behind one) times what u writes. `u->...->d`: ∂d/∂u through all heads and MLPs between. All
of it at the base run: features that a change would switch on or off are not seen, and of TopK the gradient goes through
those that were chosen. One backward pass for the metric, and one for each downstream part, whatever the number of
upstream ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.exact import exact
from veracausa.engine.bucket import Bucket
from veracausa.engine.coded import read_by, site_of
from veracausa.engine.patches import recorded, sites_for
from veracausa.engine.path_codes import Coded, sent_by
from veracausa.engine.reader_change import SITES
from veracausa.engine.session import Session, session
from veracausa.errors import UnitError
from veracausa.scores.scores import Scores, assemble
from veracausa.units.paths import Paths

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.engine.tape import State
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: (Upstream part, downstream part, whether blocks between respond).
Edge = tuple[Coded, Coded, bool]


def feature_edges(
    lm: Model,
    task: Task,
    units: Sequence[str] | Paths,
    *,
    ablation: Literal["counterfactual", "zero"] = "counterfactual",
    direction: Literal["noising", "denoising"] = "noising",
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    show_progress: bool = True,
) -> Scores:
    """Estimates of edges between parts of dictionaries, to be held against `vc.exact` of the same names.

    Args:
        units: edges "f10.12->f20.517" and "f10.12->...->f20.517", also from and to errors, skips and directions, at all
            positions.
        ablation, direction, dictionary: as in `vc.exact`.

    Raises:
        UnitError: something else than such an edge. MethodError, UnitError: as `vc.exact`.

    >>> edges = vc.estimates.feature_edges(lm, task, ["f10.12->f20.517"], dictionary=dictionaries)
    """
    asked = exact.work(lm, task, units=units, ablation=ablation, direction=direction, dictionary=dictionary)
    if not isinstance(asked.units, Paths):
        raise UnitError("feature_edges takes edges between parts of dictionaries: ['f10.12->f20.517'].")
    edges = [_edge(asked.units, i) for i in range(len(asked.units))]
    shape, name = (len(task), len(edges)), "feature-edges"
    with session(asked.lm, task, shape, out=None, name=name, asked={}, show=show_progress) as call:
        if ablation == "counterfactual":
            call.measured.require_gap(task)
        groups = asked.plan(Cost()).buckets(asked.share)
        with call.bar(f"estimates of {len(edges):,} edges between features", 0.0):
            call.rest(groups, partial(_bucket, call, edges, direction == "noising", ablation == "zero"))
    return assemble(
        call,
        call.values,
        asked.units,
        method="atp",
        settings=asked.settings,
        notes=("Gradients at the base run: features that a change switches on or off are not seen.",),
    )


def _edge(table: Paths, i: int) -> Edge:
    """The ends of one path that is an edge between parts of dictionaries."""
    path = table.paths[i]
    if len(path.sender) == len(path.steps) == len(path.steps[0].parts) == 1:
        up, down = path.sender[0], path.steps[0].parts[0]
        if up.coded and down.coded and up.span is None and down.span is None:
            if not path.steps[0].through and down.coded.behind == "attention":
                raise UnitError(f"{path.name}: of encoders behind an attention only '->...->' is estimated.")
            return up.coded, down.coded, path.steps[0].through
    raise UnitError(
        f"{path.name} is no edge between two parts of dictionaries at all positions; other paths are not estimated. "
        "vc.exact runs them."
    )


def _bucket(
    call: Session, edges: Sequence[Edge], noising: bool, zero: bool, start: int, examples: tuple[int, ...]
) -> None:
    """The scores of a bucket's pairs."""
    kinds = sorted({part.kind for edge in edges for part in edge[:2]})
    sites = tuple(dict.fromkeys([*SITES[:3], *(site for kind in kinds for site in sites_for(kind))]))  # type: ignore[arg-type]
    with torch.enable_grad():
        bucket = Bucket.record(
            call.lm, call.task, start, examples, call.cost, sites=sites, grad="clean" if noising else "corrupted"
        )
        base, other = bucket.runs(noising)
        slopes = _Slopes(bucket, base, None if zero else other)
        columns = slopes.scores(edges)
    pairs, units = len(examples), torch.arange(len(edges))
    call.put(
        (bucket.index.repeat_interleave(len(edges)), units.repeat(pairs)),
        torch.stack(columns, 1).flatten().to("cpu", call.lm.score_dtype),
    )


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Gradients of one bucket's base run."""

    bucket: Bucket
    base: State
    other: State | None

    def scores(self, edges: Sequence[Edge]) -> list[Float[Tensor, " examples"]]:
        """Of each edge."""
        downs = list(dict.fromkeys(down for _, down, _ in edges))
        at = [recorded(self.base, down.kind, down.layer) for down in downs]  # type: ignore[arg-type]
        metric = self.bucket.read.of_state(self.base).sum()
        found = torch.autograd.grad(metric, at, retain_graph=True, allow_unused=True, materialize_grads=True)
        self._count()
        into: dict[Edge, Tensor] = {}
        for down, gradient in zip(downs, found, strict=True):
            own = [edge for edge in edges if edge[1] == down]
            into |= self._through(down, gradient, [edge for edge in own if edge[2]])
            into |= self._direct(down, gradient, [edge for edge in own if not edge[2]])
        return [into[edge] for edge in edges]

    def _count(self) -> None:
        bucket = self.bucket
        bucket.cost.backward += len(bucket.tape.examples) * bucket.positions * bucket.lm.layers

    def _weighed(self, down: Coded, gradient: Tensor, seen: tuple[Tensor, Tensor]) -> Tensor:
        """∂M/∂d · d where the encoder sees this."""
        code = self.base.codes[down.kind, down.layer]
        numbers = code.numbers(down.index)
        slope = code.pulled(gradient)[..., numbers].detach()
        return (slope * code.site(*seen)[..., numbers]).sum()

    def _through(self, down: Coded, gradient: Tensor, edges: list[Edge]) -> dict[Edge, Tensor]:
        if not edges:
            return {}
        dictionary = self.base.codes[down.kind, down.layer].dictionary
        seen = read_by(self.base, dictionary.reads), read_by(self.base, dictionary.writes)
        at = [recorded(self.base, up.kind, up.layer) for up, *_ in edges]  # type: ignore[arg-type]
        weighed = self._weighed(down, gradient, seen)
        slopes = torch.autograd.grad(weighed, at, retain_graph=True, allow_unused=True, materialize_grads=True)
        self._count()
        return {edge: self._moved(edge[0], slope) for edge, slope in zip(edges, slopes, strict=True)}

    def _moved(self, up: Coded, slope: Tensor) -> Float[Tensor, " examples"]:
        """What the upstream part's change does along a gradient where it is written."""
        code = self.base.codes[up.kind, up.layer]
        numbers = code.numbers(up.index)
        own = site_of(self.base, up.kind, up.layer)[..., numbers].detach()
        new = 0.0 if self.other is None else site_of(self.other, up.kind, up.layer)[..., numbers].detach()
        return (code.pulled(slope)[..., numbers] * (new - own)).flatten(1).sum(1).detach()

    def _direct(self, down: Coded, gradient: Tensor, edges: list[Edge]) -> dict[Edge, Tensor]:
        if not edges:
            return {}
        mlp, code = down.behind == "mlp", self.base.codes[down.kind, down.layer]
        stream = (self.base.middle if mlp else self.base.residual)[down.layer].detach().requires_grad_()
        seen = stream, stream
        if mlp:
            block = self.bucket.lm.decoder.blocks[down.layer]
            given = block.mlp_norm(stream)
            output = block.run_mlp(given)
            seen = (given if code.dictionary.transcodes else output), output
        (slope,) = torch.autograd.grad(self._weighed(down, gradient, seen), stream)
        found = {}
        for edge in edges:
            share = torch.zeros(len(stream), dtype=slope.dtype, device=slope.device, requires_grad=True)
            change = sent_by(self.bucket.lm.decoder, self.base, self.other, edge[0], self.bucket.every, share)
            (found[edge],) = torch.autograd.grad((change.to(slope.dtype) * slope).sum(), share)
        return found

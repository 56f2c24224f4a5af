"""Estimated edges and paths between parts of dictionaries, heads, MLPs, tokens and logits: gradients in place of runs.

    E(u → d) ≈ ∂M/∂d · ∂d/∂u · (u' − u)                                                    (Marks et al. 2403.19647)

`u->d`: the change reaches the downstream part along the stream alone, so ∂d/∂u is that part's own derivative (of an
encoder behind an attention or MLP with theirs) times what u writes. `u->...->d`: ∂d/∂u through all heads and MLPs
between. Longer paths likewise, arrow by arrow. All of it at the base run: features that a change would switch on or off
are not seen, and of TopK the gradient goes through those that were chosen.

"ig" takes for ∂M/∂d its mean along the way on which the whole site of d goes straight to its replacement, as the node
scores of integrated gradients do; ∂d/∂u stays at the base run, as in the authors' program.

One backward pass for the metric, and one for each downstream part, whatever the number of upstream ones ("ig": and
`nodes` passes for each site of downstream parts).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.graph import MIXER
from veracausa.arguments import shown
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.exact import ExactWork, exact
from veracausa.effects.path_rows import PathRows
from veracausa.engine.attention import SUFFIX
from veracausa.engine.bucket import Bucket
from veracausa.engine.guard import attention_function
from veracausa.engine.patches import sites_for
from veracausa.engine.reader_change import SITES
from veracausa.engine.routes import Station
from veracausa.engine.session import Session, session
from veracausa.errors import MethodError, UnitError
from veracausa.estimates.mean_slopes import mean_slopes
from veracausa.estimates.path_slopes import PathSlopes, detached
from veracausa.scores.scores import Scores, assemble
from veracausa.units.paths import Paths

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

EdgeMethod = Literal["atp", "ig"]
EDGE_METHODS: tuple[EdgeMethod, ...] = ("atp", "ig")


def feature_edges(
    lm: Model,
    task: Task,
    units: Sequence[str] | Paths,
    *,
    method: EdgeMethod = "atp",
    nodes: int = 10,
    ablation: Literal["counterfactual", "zero"] = "counterfactual",
    direction: Literal["noising", "denoising"] = "noising",
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    show_progress: bool = True,
) -> Scores:
    """Estimates of edges and paths with parts of dictionaries, to be held against `vc.exact` of the same names.

    Args:
        units: edges "f10.12->f20.517" and "f10.12->...->f20.517", from and to features, errors, skips, directions,
            heads, MLPs, the input and the logits, and longer paths, at all positions or at some (see `units.paths`).
        method: "atp" (gradients at the base run) or "ig" (the downstream part's gradient averaged along its site's
            straight path; of edges whose downstream end is a part of a dictionary).
        nodes: of "ig", at α = 0, 1/nodes, …; Marks et al. take 10.
        ablation, direction, dictionary: as in `vc.exact`.

    Raises:
        UnitError: something else than such paths, or a reader whose slope is not known here. MethodError, UnitError: as
            `vc.exact`.

    >>> edges = vc.estimates.feature_edges(lm, task, ["f10.12->f20.517", "m9->f10.12"], dictionary=dictionaries)
    """
    if method not in EDGE_METHODS or nodes < 1:
        raise MethodError(
            f"method={shown(method)}, nodes={nodes}: edges with features are estimated by {' or '.join(EDGE_METHODS)}, "
            "with one node or more."
        )
    asked = exact.work(lm, task, units=units, ablation=ablation, direction=direction, dictionary=dictionary)
    require_estimated(asked.units, method)
    shape, name = (len(task), len(asked.units)), "feature-edges"
    with session(asked.lm, task, shape, out=None, name=name, asked={}, show=show_progress) as call:
        if ablation == "counterfactual":
            call.measured.require_gap(task)
        plan = cast("PathRows", asked.plan(call.cost))
        with call.bar(f"estimates of {len(asked.units):,} edges between features", 0.0):
            call.rest(plan.buckets(asked.share), partial(_bucket, call, asked, plan, nodes if method == "ig" else 0))
    more = {"nodes": nodes, "grid": "left"} if method == "ig" else {}
    return assemble(
        call,
        call.values,
        asked.units,
        method=method,
        settings=asked.settings | more,
        notes=("Gradients at the base run: features that a change switches on or off are not seen.",),
    )


def require_estimated(units: Any, method: str = "atp") -> None:
    """UnitError for what is no table of paths, or holds one that cannot be estimated.

    Raises:
        UnitError: says which path, and what to do.
    """
    if not isinstance(units, Paths):
        raise UnitError(
            "feature_edges takes edges and paths with parts of dictionaries, ['f10.12->f20.517']; for edges of the "
            "graph take vc.attribute(…, units='edges', method='eap')."
        )
    for name, path in zip(units.names, units.paths, strict=True):
        for part in (part for step in path.steps for part in step.parts):
            if any(kind == MIXER for kind, _ in part.reads):
                raise UnitError(f"{name}: slopes into a mixer ({part.stem}) are not known. vc.exact runs such paths.")
        if method == "ig" and (len(path.steps) != 1 or not all(part.coded for part in path.steps[0].parts)):
            raise UnitError(
                f"{name}: method='ig' averages the gradient of a part of a dictionary, so it is of edges that end at "
                "one ('f10.12->f20.517', 'm9->...->f10.12'). Take method='atp'."
            )


def _bucket(call: Session, asked: ExactWork, plan: PathRows, nodes: int, start: int, examples: tuple[int, ...]) -> None:
    """The estimates of a bucket's pairs."""
    ends, lacking = _ends(asked.units, plan, start, examples)
    pairs, units = len(examples), torch.arange(len(asked.units))
    with torch.enable_grad(), attention_function(call.lm.decoder, SUFFIX):
        slopes = _slopes(call, asked, start, examples, [*ends], nodes)
        values = torch.full((pairs, len(units)), float("nan"), dtype=call.lm.score_dtype)
        for end, cells in ends.items():
            found = slopes.score(end).detach().to("cpu", call.lm.score_dtype)
            row, unit = np.array(cells).T
            values[row, unit] = found[torch.as_tensor(row)]
    values[lacking] = float("nan")
    index = torch.tensor(examples)
    call.put((index.repeat_interleave(len(units)), units.repeat(pairs)), values.flatten())


def _ends(
    units: Any, plan: PathRows, start: int, examples: tuple[int, ...]
) -> tuple[dict[Station, list[tuple[int, int]]], Tensor]:
    """The last station of each path with its cells (pair of the bucket, path), and where a pair lacks a position."""
    length = plan.patched.lengths[examples[0]]
    found: dict[Station, list[tuple[int, int]]] = {}
    lacking = torch.zeros(len(examples), len(units), dtype=torch.bool)
    for row, example in enumerate(examples):
        for unit, path in enumerate(units.paths):
            lacking[row, unit] = not path.exists(length, plan.spans[example])
            found.setdefault(plan.end(unit, start, length, example), []).append((row, unit))
    return found, lacking


def _slopes(
    call: Session, asked: ExactWork, start: int, examples: tuple[int, ...], ends: Sequence[Station], nodes: int
) -> PathSlopes:
    """Of a bucket; `ends`: the last stations of the paths that slopes are asked for of."""
    graph, stations = call.lm.graph, {station for end in ends for station in end.chain}
    coded = [*(c for one in stations for c in one.coded), *(c for one in stations for r in one.reads for c in r.coded)]
    places = {int(graph.writer_order[writer]) for one in stations for writer, *_ in one.sends}
    places |= {part.written_at(graph) for one in stations for part, *_ in one.coded}
    places |= {reads.seen_from(graph) for one in stations for reads in one.reads}
    read = {(part.kind, part.layer) for end in ends for reads in end.reads for part, *_ in reads.coded}
    return recorded_slopes(
        call, start, examples, kinds={part.kind for part, *_ in coded}, places=places, read=read if nodes else set(),
        noising=asked.direction == "noising", zero=asked.ablation == "zero", nodes=nodes,
    )  # fmt: skip


def recorded_slopes(
    call: Session,
    start: int,
    examples: tuple[int, ...],
    *,
    kinds: Collection[str],
    places: Collection[int],
    read: Collection[tuple[str, int]],
    noising: bool,
    zero: bool,
    nodes: int,
) -> PathSlopes:
    """Both runs of a bucket, the patched one with its graph.

    `kinds`: of the parts of dictionaries that paths name; `places`: of the stream, where slopes are asked for; `read`:
    dictionaries (kind, layer) whose mean gradients at `nodes` points stand for the metric's.
    """
    sites = tuple(dict.fromkeys([*SITES, *(site for kind in sorted(kinds) for site in sites_for(kind))]))  # type: ignore[arg-type]
    grad: Literal["clean", "corrupted"] = "clean" if noising else "corrupted"
    bucket = Bucket.record(call.lm, call.task, start, examples, call.cost, sites=sites, grad=grad)
    base, other = bucket.runs(noising)
    own = detached(base)
    means = mean_slopes(call, _without_graph(bucket, own, noising), read, noising, zero, nodes) if read else {}
    return PathSlopes(bucket, base, own, None if zero else other, tuple(sorted(places)), means)


def _without_graph(bucket: Bucket, own: Any, noising: bool) -> Bucket:
    """A bucket whose patched run is this one; nothing is known of it from runs of the other."""
    tape = bucket.tape
    side = {"clean": own} if noising else {"corrupted": own}
    return replace(bucket, tape=replace(tape, **side, ends={}, checked=set()))

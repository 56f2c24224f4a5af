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

`upstream="run"` integrates ∂d/∂u, too, along the way on which u alone goes to its replacement: that is what d changes
by in a run of the path up to d, which is what is done (`run_changes`). Features that the change switches on or off are
then seen, and only the metric's slope at d is an estimate. One run for each upstream part, whatever the number of
downstream ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.graph import MIXER
from veracausa.arguments import shown
from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.exact import ExactWork, exact
from veracausa.effects.path_rows import PathRows
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function
from veracausa.engine.measure import measured_runs
from veracausa.engine.path_codes import places_written
from veracausa.engine.routes import Station
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives, recorded_runs
from veracausa.errors import MethodError, UnitError
from veracausa.estimates.mean_slopes import walked
from veracausa.estimates.path_slopes import Onward, PathSlopes, onward_of, passes
from veracausa.estimates.recorded_slopes import recorded_slopes, slope_buckets
from veracausa.estimates.run_changes import blocks_run, run_changes
from veracausa.scores.scores import Scores, assemble
from veracausa.units.paths import Paths

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

EdgeMethod = Literal["atp", "ig"]
EDGE_METHODS: tuple[EdgeMethod, ...] = ("atp", "ig")
Upstream = Literal["slope", "run"]
UPSTREAM: tuple[Upstream, ...] = ("slope", "run")
#: What an estimate leaves out, by how the upstream change is told.
_NOTES = {
    "slope": "Gradients at the base run: features that a change switches on or off are not seen.",
    "run": "The downstream part's change was run; what the metric makes of it is told by gradients.",
}
#: The last station of paths → their cells, (pair of the bucket, path).
Ends = dict[Station, list[tuple[int, int]]]


@dataclass(frozen=True, eq=False)
class FeatureEdgesWork:
    """Estimates of a table of paths; see `feature_edges`. `effects`: the exact effects that they are of."""

    effects: ExactWork
    method: EdgeMethod
    nodes: int
    upstream: Upstream
    kind: ClassVar[str] = "gradients"

    @property
    def lm(self) -> Model:
        """The model that is run."""
        return self.effects.lm

    @property
    def task(self) -> Task:
        """The pairs that it is run on."""
        return self.effects.task

    @property
    def units(self) -> Paths:
        """The paths."""
        return self.effects.units  # type: ignore[return-value]

    @property
    def what(self) -> str:
        """In words."""
        return f"estimates of {len(self.units):,} edges between features"

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return self.effects.alone

    @property
    def averaged(self) -> int:
        """Points that the downstream gradient is averaged over; 0: it is taken at the base run."""
        return self.nodes if self.method == "ig" else 0

    @cached_property
    def plan(self) -> PathRows:
        """The rows of the exact effects, which say where paths begin and end in a pair."""
        return self.effects.plan(Cost())  # type: ignore[return-value]

    @cached_property
    def _stations(self) -> list[Station]:
        """All stations of one pair's paths; of others they are at other positions alone."""
        length = max(self.plan.patched.lengths)
        ends = [self.plan.end(unit, 0, length, 0) for unit in range(len(self.units))]
        return [*dict.fromkeys(station for end in ends for station in end.chain)]

    @property
    def kinds(self) -> set[str]:
        """Of the parts of dictionaries that paths name."""
        return {part.kind for part in self.units.coded}

    @property
    def read(self) -> set[tuple[str, int]]:
        """The dictionaries, by kind and layer, whose parts paths end at."""
        return _read(self._stations)

    @property
    def senders(self) -> int:
        """How many writers and parts of dictionaries paths begin with, each of which writes at every position."""
        return len({sent for one in self._stations for sent, *_ in (*one.sends, *one.coded)})

    @property
    def runs(self) -> int:
        """Senders that are run up to readers."""
        return self.senders if self.upstream == "run" else 0

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are recorded together."""
        share, places = self.effects.share, len(self.places)
        return slope_buckets(self.lm, self.plan.task, share, self.kinds, places, self.senders)

    @property
    def places(self) -> set[int]:
        """Of the stream, where slopes are asked for."""
        return places_of(self.lm, self._stations)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: both runs measured and recorded, a backward pass for the metric and each downstream part.

        Where the upstream change is run, those runs in the place of downstream parts' passes; what several chunks of
        longer paths run again is left out.
        """
        groups, lm = self.groups(), self.lm
        found = measured_runs(lm, self.task) + recorded_runs(lm, self.plan.task, groups)
        for start, examples in groups:
            ends = self.ends(start, examples)
            back = self._passes(ends) * lm.layers + (blocks_run(lm.graph, [*ends]) if self.upstream == "run" else 0)
            walk = walked(lm, _read(ends), self.averaged) if self.averaged else 0
            found += len(examples) * (self.plan.patched.lengths[examples[0]] - start) * (back + walk)
        return float(found)

    def _passes(self, ends: Ends) -> int:
        """Backward passes through the base run."""
        if self.upstream == "run":
            return 0 if self.averaged else len(_metric_slopes(ends))
        return passes(map(onward_of, ends), bool(self.averaged))

    def ends(self, start: int, examples: tuple[int, ...]) -> Ends:
        """The last station of each path of a bucket's pairs."""
        length, found = self.plan.patched.lengths[examples[0]], Ends()
        for row, example in enumerate(examples):
            for unit in range(len(self.units)):
                found.setdefault(self.plan.end(unit, start, length, example), []).append((row, unit))
        return found

    def lacking(self, row: int, unit: int, examples: tuple[int, ...]) -> bool:
        """Whether a pair lacks a position that a path names."""
        length = self.plan.patched.lengths[examples[0]]
        return not self.units.paths[unit].exists(length, self.plan.spans[examples[row]])

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """The estimates, resumable."""
        effects, shape = self.effects, (len(self.task), len(self.units))
        settings = effects.settings | {"upstream": self.upstream}
        settings |= {"nodes": self.nodes, "grid": "left"} if self.averaged else {}
        asked = {key: value for key, value in settings.items() if key != "dictionary"}
        asked |= {"units": self.units.digest(), "method": self.method}
        with session(self.lm, self.task, shape, out=out, name="feature-edges", asked=asked, show=show_progress) as call:
            if effects.ablation == "counterfactual":
                call.measured.require_gap(self.task)
            with call.bar(self.what, self.tokens()):
                call.rest(self.groups(), lambda *bucket: _bucket(call, self, *bucket))
        return assemble(
            call,
            call.values,
            self.units,
            method=self.method,
            settings=settings,
            notes=(_NOTES[self.upstream],),
        )


@gives(Scores)
def feature_edges(
    lm: Model,
    task: Task,
    units: Sequence[str] | Paths,
    *,
    method: EdgeMethod = "atp",
    nodes: int = 10,
    upstream: Upstream = "slope",
    ablation: Literal["counterfactual", "zero"] = "counterfactual",
    direction: Literal["noising", "denoising"] = "noising",
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> FeatureEdgesWork:
    """Estimates of edges and paths with parts of dictionaries, to be held against `vc.exact` of the same names.

    Args:
        units: edges "f10.12->f20.517" and "f10.12->...->f20.517", from and to features, errors, skips, directions,
            heads, MLPs, the input and the logits, and longer paths, at all positions or at some (see `units.paths`).
        method: "atp" (gradients at the base run) or "ig" (the downstream part's gradient averaged along its site's
            straight path; of edges whose downstream end is a part of a dictionary).
        nodes: of "ig", at α = 0, 1/nodes, …; Marks et al. take 10.
        upstream: "slope" (∂d/∂u at the base run, one backward pass for each downstream part) or "run" (its integral
            along the way on which u alone goes to its replacement, which is what d changes by in a run of the path up
            to it: one run for each upstream part).
        ablation, direction, dictionary: as in `vc.exact`.
        out: a folder to keep finished pieces in: the same call goes on from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Raises:
        UnitError: something else than such paths, or a reader whose slope is not known here. MethodError, UnitError: as
            `vc.exact`.

    >>> edges = vc.estimates.feature_edges(lm, task, ["f10.12->f20.517", "m9->f10.12"], dictionary=dictionaries)
    """
    require_method(method, nodes, upstream)
    effects = exact.work(lm, task, units=units, ablation=ablation, direction=direction, dictionary=dictionary)
    require_estimated(effects.units, method, upstream)
    return FeatureEdgesWork(effects, method, nodes, upstream)


def require_method(method: str, nodes: int, upstream: str) -> None:
    """MethodError for a way of estimating that there is not."""
    if method not in EDGE_METHODS or nodes < 1:
        raise MethodError(
            f"method={shown(method)}, nodes={nodes}: edges with features are estimated by {' or '.join(EDGE_METHODS)}, "
            "with one node or more."
        )
    if upstream not in UPSTREAM:
        raise MethodError(
            f"upstream={shown(upstream)}: what an upstream part does is told by its 'slope' at the base run, or 'run'."
        )


def require_estimated(units: Any, method: str = "atp", upstream: str = "slope") -> None:
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
        if upstream == "run" and all(step.at_end for step in path.steps):
            raise UnitError(
                f"{name} ends at the logits, so a run of it is its exact effect: take vc.exact, or upstream='slope'."
            )


def _bucket(call: Session, work: FeatureEdgesWork, start: int, examples: tuple[int, ...]) -> None:
    """The estimates of a bucket's pairs that are not done yet: what leads to one place behind its sender together."""
    index = torch.tensor(examples)
    groups: dict[Onward, Ends] = {}
    for end, cells in work.ends(start, examples).items():
        rows, units = torch.tensor(cells).T
        if not call.done[index[rows], units].all():
            groups.setdefault(onward_of(end), Ends())[end] = cells
    todo = {end: cells for ends in groups.values() for end, cells in ends.items()}
    with torch.enable_grad(), attention_function(call.lm.decoder, SUFFIX):
        slopes = _slopes(call, work, start, examples, [*todo])
        for end, found in _ran(slopes, todo) if work.upstream == "run" else _sloped(slopes, groups):
            rows, units = np.array(todo[end]).T
            lacking = torch.tensor([work.lacking(row, unit, examples) for row, unit in todo[end]])
            values = found.detach().to("cpu", call.lm.score_dtype)[torch.as_tensor(rows)]
            at = index[torch.as_tensor(rows)], torch.as_tensor(units)
            call.put(at, values.masked_fill(lacking, float("nan")))


def _sloped(slopes: PathSlopes, groups: dict[Onward, Ends]) -> Iterator[tuple[Station, Tensor]]:
    """Last stations of paths with their estimates by slopes; `groups`: by what comes behind the sender."""
    behind = {tail for onward in groups for tail in _behind(onward)}
    for onward, ends in groups.items():
        for end in ends:
            yield end, slopes.score(end)
        if onward not in behind:
            slopes.forget(onward)


def _ran(slopes: PathSlopes, ends: Ends) -> Iterator[tuple[Station, Tensor]]:
    """The same by runs up to the last readers."""
    for live in () if slopes.means else _metric_slopes(ends):
        slopes.at((live,), slopes.places[0])
    return run_changes(slopes, [*ends])


def _metric_slopes(ends: Collection[Station]) -> set[bool]:
    """Which slopes of the metric are asked for behind last stations: live, or along the stream alone."""
    return {end.live for end in ends if end.reads}


def _behind(onward: Onward) -> list[Onward]:
    """What of it is asked for to know it."""
    return [onward[i:] for i in range(2, len(onward), 2)]


def _slopes(
    call: Session, work: FeatureEdgesWork, start: int, examples: tuple[int, ...], ends: Sequence[Station]
) -> PathSlopes:
    """Of a bucket; `ends`: the last stations of the paths that slopes are asked for of."""
    stations = {station for end in ends for station in end.chain}
    return recorded_slopes(
        call, start, examples, kinds=work.kinds, places=places_of(call.lm, stations),
        read=_read(ends) if work.averaged else set(), noising=work.effects.direction == "noising",
        zero=work.effects.ablation == "zero", nodes=work.averaged, task=work.plan.task,
    )  # fmt: skip


def places_of(lm: Model, stations: Collection[Station]) -> set[int]:
    """Of the stream, where stations write."""
    graph = lm.graph
    places = {int(graph.writer_order[writer]) for one in stations for writer, *_ in one.sends}
    parts = [
        part for one in stations for part, *_ in (*one.coded, *(own for reads in one.reads for own in reads.coded))
    ]
    places |= {place for part in parts for place in places_written(lm.decoder, part)}
    return places | {reads.seen_from(graph) for one in stations for reads in one.reads}


def _read(ends: Collection[Station]) -> set[tuple[str, int]]:
    """The dictionaries, by kind and layer, whose parts paths end at."""
    return {(part.kind, part.layer) for end in ends for reads in end.reads for part, *_ in reads.coded}

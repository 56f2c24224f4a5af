"""Estimates of effects from gradients: one call for every path × rule × combination.

    Ê_u = Σ_positions Δ_u · ḡ_u,   Δ_u = replacement − own value,   ḡ = the path's weighted mean gradient

or, with increments, Σ_k (change of a_u from point to point) · gradient. With the point path this is attribution
patching (2310.10348); with the layer path integrated gradients, whose scores sum over a layer's site to the effect of
patching the whole site (Aumann–Shapley). The paths are in `paths`, the names and what cannot be combined in `methods`.
Beside the two recorded runs, each path costs what `parts.PATHS` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.choices import AllUnits, Baseline, Direction, Estimate, GridName
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.words import is_coded
from veracausa.effects.counterparts import Aligned, require_alike, require_apart
from veracausa.effects.crossing_rows import crosses
from veracausa.effects.laid import laid_units
from veracausa.effects.learned_constants import OptimalConstants, OptimalWork, optimal_constants
from veracausa.effects.replacements import (
    Replacement,
    reference_runs,
    replacement,
    require_constants,
)
from veracausa.engine.batches import buckets
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.coded import widened
from veracausa.engine.footprint import Footprint
from veracausa.engine.patches import RUN_AGAIN, depth_behind
from veracausa.engine.rule import PLAIN
from veracausa.engine.rules import applied
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives, recorded_runs, unpatched_run
from veracausa.errors import MethodError
from veracausa.estimates.flow import FlowWork
from veracausa.estimates.method import Method
from veracausa.estimates.methods import resolve_method
from veracausa.estimates.parts import PATHS
from veracausa.estimates.paths import WALKS
from veracausa.estimates.paths.bucket import Graph, PathBucket, Sums
from veracausa.estimates.paths.edge_sums import EdgeSums
from veracausa.estimates.paths.expert_sums import ExpertSums, NeuronSums
from veracausa.estimates.paths.feature_sums import FeatureSums
from veracausa.estimates.paths.inner_sums import AdapterSums, InnerSums
from veracausa.estimates.paths.unit_sums import UnitSums
from veracausa.estimates.possible import require_known
from veracausa.estimates.span_sums import SpanSumsWork, at_positions, require_sums
from veracausa.scores.completeness import Completeness
from veracausa.scores.convergence import unconverged
from veracausa.scores.estimands import BASELINES
from veracausa.scores.headers import dictionary_settings, reference_settings
from veracausa.scores.scores import Scores, assemble
from veracausa.tasks.placing import elsewhere, moved
from veracausa.tasks.references import Reference, reference_set
from veracausa.units.at_spans import SpanUnits
from veracausa.units.edges import Edges
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class AttributeWork:
    """An estimate of the effects of a table of units; see `attribute`. `learn`: where constants have to be learned.

    `spans`: those whose tokens the other run's values come from, where these are at other positions (`tasks.aligned`).
    """

    lm: Model
    task: Task
    units: Units
    name: str
    method: Method
    direction: str
    reference: Task | None
    constants: OptimalConstants | None
    learn: OptimalWork | None
    spans: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The rate it runs at."""
        if isinstance(self.units, Edges):
            return "edge gradients"
        return "paths" if self.at_sites else "gradients"

    @property
    def ablation(self) -> str:
        """What replaces units in the effect that is estimated."""
        return BASELINES[self.method.baseline]

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return self.ablation != "counterfactual"

    @property
    def aligned(self) -> bool:
        """Whether it can do with pairs whose prompts have different lengths."""
        return bool(self.spans)

    @property
    def patched(self) -> Task:
        """A task whose clean prompts are as long as those that are patched."""
        return self.task.side(self.direction == "noising") if self.task.uneven else self.task

    @property
    def share(self) -> bool:
        """Whether runs begin at the first difference of each pair; not where values may come from before it."""
        here = self.ablation == "counterfactual" and not moved(self.task, self.spans)
        return here and PATHS[self.method.path].shares_prefix

    @property
    def mixed(self) -> bool:
        """Whether pairs of several lengths run together: where neither units nor path nor replacement has positions."""
        positions = self.units.positional or isinstance(self.units, SpanUnits) or self.units.kind == "patterns"
        return PATHS[self.method.path].of_any_length and self.ablation != "resample" and not positions

    @property
    def sums(self) -> type[Sums]:
        """How scores are added up."""
        if isinstance(self.units, Edges):
            return EdgeSums
        if is_coded(self.units.kind):
            return FeatureSums
        if self.units.place in RUN_AGAIN:
            return AdapterSums if self.units.place == "adapters" else InnerSums
        return {"experts": ExpertSums, "expert_neurons": NeuronSums}.get(self.units.kind, UnitSums)

    @property
    def at_sites(self) -> bool:
        """Whether the path moves activations, so that only the blocks behind them run."""
        return PATHS[self.method.path].moves in ("site", "unit")

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are recorded together."""
        lm, task = self.lm, self.task
        shapes, longest = Footprint.of(lm), max(task.lengths)
        point = self.method.path == "point"  # its graph is that of all pairs of a tape
        beside = shapes.graph(longest) + shapes.back(longest) if point else 0
        most = examples_per_batch(lm, task, self.sums.kept(lm, self.units, longest), beside)
        again = 2 * PATHS[self.method.path].passes(self.method) if self.mixed else 0.0
        return buckets(lm.decoder, task, self.share, most, self.mixed, again, again)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: both runs, recorded; the reference set; the passes along the path."""
        return self._own() + (0.0 if self.learn is None else self.learn.tokens())

    def _own(self) -> float:
        """`tokens` without those of learning."""
        lm, task, method = self.lm, self.task, self.method
        source = task if self.reference is None else self.reference
        total = recorded_runs(lm, task, self.groups())
        if self.ablation != "optimal":
            total += reference_runs(lm, source, task, self.ablation)
        if self.at_sites:
            total += unpatched_run(lm, task, self.groups())
        passes, beside = 2 * PATHS[method.path].passes(method), self.sums.beside(lm, self.units, method)
        for start, members in self.groups():
            length = self.patched.lengths[members[0]]
            total += (length - start) * len(members) * (passes * self._depth(start, length) + beside)
        return total

    def _depth(self, start: int, length: int) -> int:
        """Blocks that one pass runs, in all: of the network, or behind each site or each unit that has a position."""
        decoder, layers, units = self.lm.decoder, self.lm.layers, self.units
        if not self.at_sites:
            return layers
        if PATHS[self.method.path].moves == "site":
            return sum(site.depth(layers) for site in self.sums.moved(decoder, units))
        here = (units.position < 0) | ((units.position >= start) & (units.furthest < length))
        return sum(depth_behind(decoder, units.place, layer) for layer in units.layer[here].tolist())

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """Walk every bucket's path and add up the scores."""
        lm, task, table, method = self.lm, self.task, self.units, self.method
        learned = None if self.learn is None else self.learn.run(show_progress, out)
        constants, ablation = self.constants if learned is None else learned, self.ablation
        with session(lm, task, (len(task), len(table)), measured=False, show=show_progress) as call:
            label = f"{self.name} of {len(table):,} {table.kind}"
            with call.bar(label, self._own()):
                source = replacement(
                    lm, task, table, ablation, self.direction, self.reference, method.seed, call.cost, constants
                )
                if self.spans:
                    source = Aligned(source, task, self.spans, self.direction == "noising")
                walks = _Walks.of(call, self, source)
                call.rest(self.groups(), walks.walk)
        if ablation == "counterfactual":
            call.measured.require_gap(task)
        completeness = Completeness(walks.claimed, walks.true) if method.complete else None
        return assemble(
            call,
            call.values,
            table,
            method=self.name,
            settings={
                "direction": self.direction,
                **method.settings(),
                **reference_settings(ablation, task, self.reference),
                **dictionary_settings(lm, table.kind),
                **(constants.settings if constants is not None else {}),
            },
            cost=None if learned is None else call.cost + learned.cost,
            completeness=completeness,
            signed=method.signed,
            draw_stderr=walks.spread if method.drawn else None,
            notes=(
                *_rule_notes(method, table, completeness),
                *((_UNCHOSEN if table.kind == "routers" else _UNSEEN,) if lm.decoder.has_experts else ()),
                *unconverged(completeness, call.measured.gap if task.paired else None, walks.places, method.nodes),
                *(constants.sentences if constants is not None else ()),
            ),
        )


@dataclass(eq=False)
class _Walks:
    """The walks of a call's buckets, one after the other, and what they find beside the scores.

    `places`: where completeness is compared; `claimed`, `true`: both its sides, [places, examples]. `spread`: the
    draws' standard errors [examples, units].
    """

    call: Session
    work: AttributeWork
    source: Replacement
    places: Sequence[int | str]
    spread: Tensor
    claimed: Tensor
    true: Tensor

    @classmethod
    def of(cls, call: Session, work: AttributeWork, source: Replacement) -> _Walks:
        """Nothing walked yet."""
        places = work.sums.compared(call.lm.decoder, work.units, work.method)
        sides = torch.zeros(2, len(places), len(call.task), dtype=call.values.dtype)
        return cls(call, work, source, places, call.values.clone(), *sides)

    def walk(self, start: int, examples: tuple[int, ...]) -> None:
        """Record one bucket, walk its path and write down what is found."""
        call, work, index = self.call, self.work, list(examples)
        units, method, noising = work.units, work.method, work.direction == "noising"
        point = method.path == "point"  # its one gradient is taken through the recorded run
        patched: Graph = "clean" if noising else "corrupted"
        with applied(call.lm.decoder, method.backward if point else PLAIN):
            graph, side = patched if point else None, noising if work.aligned else None
            own = work.sums.record(call, units, method, start, examples, graph, side)
        with torch.no_grad():
            call.measured.put(examples, *own.measured())
        sums = work.sums(PathBucket.of(own, method, noising, call.advance), units, self.source)
        WALKS[method.path](sums)
        sums.values[:, units.furthest >= own.tape.length] = float("nan")
        call.put(index, sums.values.cpu())
        self.claimed[:, index], self.true[:, index] = sums.claimed.cpu(), sums.true.cpu()
        if sums.spread is not None:
            self.spread[index] = sums.spread.cpu()


#: What an estimate of a mixture of experts leaves out.
_UNSEEN = "no gradient sees which experts are chosen: what a unit does by changing the choice is in exact effects alone"

#: … and one of the logits that they are chosen by.
_UNCHOSEN = (
    "the slope of a router's logits is that of the weights of the experts that are chosen: what changes as others are "
    "chosen is in exact effects alone"
)


def _rule_notes(parts: Method, units: Units, completeness: Completeness | None) -> tuple[str, ...]:
    notes = []
    if "qk-exact" in parts.rule and units.kind == "patterns":
        notes.append("the change of a pattern is exact already, so rule qk-exact is plain here")
    elif "qk-exact" in parts.rule and units.kind not in ("queries", "keys", "edges"):
        notes.append(f"{units.kind} have no queries or keys, so rule qk-exact is plain here")
    if completeness is None:
        notes.append("no completeness promised by this rule and combination")
    return tuple(notes)


@gives(Scores)
def attribute(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    method: Estimate | Method = "atp",
    direction: Direction = "noising",
    baseline: Baseline | None = None,
    nodes: int | None = None,
    grid: GridName | None = None,
    steps: int | None = None,
    seed: int | None = None,
    reference: Reference | None = None,
    constants: OptimalConstants | None = None,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> AttributeWork | FlowWork | SpanSumsWork:
    """Estimate the effects that `vc.exact` computes, from gradients, with the same sign.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: as for `vc.exact`, but no groups. At spans estimates are sums over the span's positions.
        method: a preset ("atp", "atp-star", "ig", "eap-ig", "conductance", "ceap", "eap-gp", "gradpath-complete",
            "expected-gradients", "geodesic-ig", "gim", "relp"; of edges "eap" and "qk-exact" for the first two,
            "eap-ig-activations" for "ig", and "ifr", see `estimates.flow`), or a composed
            `vc.Method(path=…, rule=…, combine=…)`.
        direction: "noising" or "denoising", as for `vc.exact`.
        baseline: what units move towards: "corrupted" (estimates the counterfactual effect), "zero", "mean",
            "resample" (another prompt's value, as for `vc.exact` with the same seed), "optimal" (learned constants).
        nodes: points on the path (ig: 16, eap-ig-activations: 5); `steps` is another word for it.
        grid: "gauss", "trapezoid", "midpoint", "left", "right", "published" (EAP-IG's).
        steps: see `nodes`.
        seed: of random draws, which are keyed by (seed, the pair's place in `task`), and of the resample baseline.
        reference: prompts for the mean and resample baselines (default: the task's own).
        constants: of the optimal baseline (default: learned in this call, with `vc.effects.optimal_constants`'
            defaults).
        dictionary: features or directions of a site, or several, as for `vc.exact`.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Scores`, marked "not verified": verify them (`vc.verify`), or compare them with `vc.exact`, before you believe
        them. With the plain rule and increments they report their completeness residual: a layer's scores sum to the
        effect of patching its whole site, a unit path's to the unit's effect, and on a path over the input the same
        increments of the residual stream sum to M(x′) − M(x) at any layer. Other combinations promise no completeness.

    Raises:
        MethodError: the combination means nothing; says why.
        UnitError, GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> estimate = vc.attribute(lm, task, units="heads", method="ig")
    >>> vc.agreement(estimate, vc.exact(lm, task, units="heads"))
    """
    if nodes is not None and steps is not None:
        raise MethodError("nodes= and steps= are the same number; give one of them.")
    over = {"baseline": baseline, "nodes": steps if nodes is None else nodes, "grid": grid, "seed": seed}
    lm, table = laid_units(lm, task, units, dictionary, across=True)
    if method == "ifr" and isinstance(table, Edges):
        if direction != "noising" or reference is not None or any(value is not None for value in over.values()):
            raise MethodError(
                "method='ifr' reads shares off the clean run: it has no direction, path, seed or reference."
            )
        task.require_last("IFR's scores")
        return FlowWork(lm, task, table)
    reference = reference_set(lm, reference)
    name, parts = resolve_method(method, task.metric, direction, isinstance(table, Edges), **over)
    if PATHS[parts.path].moves in ("site", "unit") and crosses(lm, table.kind):
        lm = widened(lm, table.kind)  # what each feature writes to later layers moves with it
    require_known(lm, task, table, name, parts, direction, reference)
    ablation, noising = BASELINES[parts.baseline], direction == "noising"
    require_constants(ablation, constants)
    if isinstance(table, SpanUnits):
        require_sums(parts, table, task)
        singles = at_positions(table, task, noising)
        spans = table.named if ablation == "counterfactual" and elsewhere(task, table.named) else ()
        if spans:
            require_alike(task, table)
            require_apart(task, spans)
        work = AttributeWork(lm, task, singles, name, parts, direction, reference, constants, None, spans)
        return SpanSumsWork(table, work, noising)
    learning = ablation == "optimal" and constants is None
    learn = optimal_constants.work(lm, task, units=table) if learning else None
    return AttributeWork(lm, task, table, name, parts, direction, reference, constants, learn)

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
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from veracausa.effects.replacements import Replacement, replacement
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.patches import depth_behind, site_width, sites_for
from veracausa.engine.rule import PLAIN
from veracausa.engine.rules import applied
from veracausa.engine.session import Session, session
from veracausa.engine.tape import buckets
from veracausa.engine.validate_edges import require_edges
from veracausa.errors import MethodError
from veracausa.estimates.flow import flow_routes
from veracausa.estimates.method import Method
from veracausa.estimates.methods import resolve_method
from veracausa.estimates.parts import PATHS
from veracausa.estimates.paths import WALKS
from veracausa.estimates.paths.bucket import PathBucket
from veracausa.estimates.paths.edge_sums import EdgeSums
from veracausa.estimates.paths.edge_sums import sites as edge_sites
from veracausa.estimates.paths.unit_sums import UnitSums
from veracausa.scores.estimands import BASELINES
from veracausa.scores.headers import reference_settings
from veracausa.scores.scores import Completeness, Scores, assemble
from veracausa.tasks.measurement import Measurement
from veracausa.units.edges import Edges
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.effects.learned_constants import OptimalConstants
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: A completeness residual over this share of the gap is worth a note.
COARSE = 0.01


def attribute(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units = "heads",
    method: str | Method = "atp",
    direction: str = "noising",
    baseline: str | None = None,
    nodes: int | None = None,
    grid: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    reference: Task | None = None,
    constants: OptimalConstants | None = None,
    show_progress: bool = True,
) -> Scores:
    """Estimate the effects that `vc.exact` computes, from gradients, with the same sign.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: as for `vc.exact`.
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
        seed: of random draws, which are keyed by (seed, example), and of the resample baseline.
        reference: prompts for the mean and resample baselines (default: the task's own).
        constants: of the optimal baseline (default: learned in this call, with `vc.effects.optimal_constants`'
            defaults).
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
    table = resolve_units(lm, units, max(task.lengths))
    if method == "ifr" and isinstance(table, Edges):
        if direction != "noising" or reference is not None or any(value is not None for value in over.values()):
            raise MethodError(
                "method='ifr' reads shares off the clean run: it has no direction, path, seed or reference."
            )
        return flow_routes(lm, task, table, show_progress=show_progress)
    name, parts = resolve_method(method, task.metric, direction, isinstance(table, Edges), **over)
    if "graddrop" in parts.rule and lm.layers == 1:
        raise MethodError(
            f"graddrop averages over passes that drop another layer's gradient, but {lm.name} has one layer. Use "
            "rule='plain' or 'qk-exact'."
        )
    ablation = BASELINES[parts.baseline]
    if ablation == "resample" and table.positional:
        raise MethodError("baseline='resample' draws one prompt a unit: at single positions take vc.exact instead.")
    learned = None
    if ablation == "optimal" and constants is None:
        from veracausa.effects.learned_constants import optimal_constants

        constants = learned = optimal_constants(lm, task, units=table, show_progress=show_progress)
    with session(lm, task, (len(task), len(table)), measured=False, show=show_progress) as call:
        source = replacement(lm, task, table, ablation, direction, reference, parts.seed, call.cost, constants)
        walks = _Walks.of(call, table, parts, direction == "noising", source)
        share = ablation == "counterfactual" and PATHS[parts.path].shares_prefix
        groups = buckets(lm.decoder, task.clean, task.corrupted, share, examples_per_batch(lm, task, _kept(lm, table)))
        call.each(f"{name} of {len(table):,} {table.kind}", _total(lm, groups, task, parts, table), groups, walks.walk)
    if ablation == "counterfactual":
        call.measured.require_gap(task)
    completeness = Completeness(walks.claimed, walks.true) if parts.complete else None
    return assemble(
        lm,
        task,
        call.values,
        table,
        call.measured,
        method=name,
        settings={
            "direction": direction,
            **parts.settings(),
            **reference_settings(ablation, task, reference),
            **(constants.settings if constants else {}),
        },
        cost=call.cost if learned is None else call.cost + learned.cost,
        model=call.origin,
        completeness=completeness,
        signed=parts.signed,
        draw_stderr=walks.spread if parts.drawn else None,
        notes=(
            *_rule_notes(parts, table, completeness),
            *_unconverged(completeness, call.measured, walks.layers, parts),
            *(constants.sentences if constants is not None else ()),
        ),
    )


def planned(
    lm: Model, task: Task, *, units: str | Sequence[str] | Units, method: str | Method, **over: object
) -> float:
    """Token-layers that `attribute` will take along the path, without both recorded runs; a MethodError as there."""
    table = resolve_units(lm, units, max(task.lengths))
    if method == "ifr" and isinstance(table, Edges):
        return 0.0  # it reads the recorded run
    _, parts = resolve_method(method, task.metric, "noising", isinstance(table, Edges), **over)
    share = BASELINES[parts.baseline] == "counterfactual" and PATHS[parts.path].shares_prefix
    groups = buckets(lm.decoder, task.clean, task.corrupted, share, examples_per_batch(lm, task, _kept(lm, table)))
    return _total(lm, groups, task, parts, table)


def _kept(lm: Model, table: Units) -> int:
    """Floats a token that a bucket keeps of each layer beside the stream."""
    if isinstance(table, Edges):  # what readers are told by, and the writes of both runs
        return 4 * lm.heads * lm.decoder.head_dim + (2 * (lm.heads + 1) + 3) * lm.width
    return site_width(lm.decoder, table.place) + lm.width


@dataclass(eq=False)
class _Walks:
    """The walks of a call's buckets, one after the other, and what they find beside the scores.

    `layers`: where completeness is compared; `claimed`, `true`: both its sides, [layers, examples]. `spread`: the
    draws' standard errors [examples, units].
    """

    call: Session
    units: Units
    method: Method
    noising: bool
    source: Replacement
    layers: Sequence[int | str]
    spread: Tensor
    claimed: Tensor
    true: Tensor

    @classmethod
    def of(cls, call: Session, units: Units, method: Method, noising: bool, source: Replacement) -> _Walks:
        """Nothing walked yet."""
        decoder = call.lm.decoder
        layers = (EdgeSums if isinstance(units, Edges) else UnitSums).compared(decoder, units, method)
        sides = torch.zeros(2, len(layers), len(call.task), dtype=call.values.dtype)
        return cls(call, units, method, noising, source, layers, call.values.clone(), *sides)

    def walk(self, start: int, examples: tuple[int, ...]) -> None:
        """Record one bucket, walk its path and write down what is found."""
        call, index = self.call, list(examples)
        own = self.record(start, examples)
        with torch.no_grad():
            call.measured.put(examples, own.read.of_state(own.tape.clean), own.read.of_state(own.tape.corrupted))
        bucket = PathBucket.of(own, self.method, self.noising, call.tick)
        units = self.units
        sums = EdgeSums(bucket, units) if isinstance(units, Edges) else UnitSums(bucket, units, self.source)
        WALKS[self.method.path](sums)
        sums.values[:, self.units.position >= own.tape.length] = float("nan")
        call.put(index, sums.values.cpu())
        self.claimed[:, index], self.true[:, index] = sums.claimed.cpu(), sums.true.cpu()
        if sums.spread is not None:
            self.spread[index] = sums.spread.cpu()

    def record(self, start: int, examples: tuple[int, ...]) -> Bucket:
        """Both runs of a bucket, held against the weights; on a point path the patched one with its graph."""
        lm, units, point = self.call.lm, self.units, self.method.path == "point"
        edges = isinstance(units, Edges)
        sites = sites_for(units.place) if not edges else edge_sites(self.method)
        places = () if edges else (units.place,)
        graph: Literal["clean", "corrupted"] = "clean" if self.noising else "corrupted"
        with applied(lm.decoder, self.method.backward if point else PLAIN):
            bucket = Bucket.record(lm, self.call.task, start, examples, self.call.cost, sites=sites, places=places,
                                   grad=graph if point else None)  # fmt: skip
        if edges:
            require_edges(lm, bucket.tape, gradients=True)
        return bucket


def _rule_notes(parts: Method, units: Units, completeness: Completeness | None) -> tuple[str, ...]:
    notes = []
    if "qk-exact" in parts.rule and units.kind not in ("queries", "keys", "edges"):
        notes.append(f"{units.kind} have no queries or keys, so rule qk-exact is plain here")
    if completeness is None:
        notes.append("no completeness promised by this rule and combination")
    return tuple(notes)


def _unconverged(
    completeness: Completeness | None, measured: Measurement, layers: Sequence[int | str], parts: Method
) -> tuple[str, ...]:
    """A note that names the layers whose scores do not sum to what they should: there the grid is too coarse."""
    if completeness is None:
        return ()
    share = completeness.shares(measured.gap)
    coarse = [f"{layer} ({share[i]:.0%})" for i, layer in enumerate(layers) if share[i] > COARSE]
    if not coarse:
        return ()
    what = "sites" if isinstance(layers[0], str) else "layers"
    return (
        f"not converged with {parts.nodes} nodes in {what} {', '.join(coarse)}: scores there miss the site's effect, "
        "pair by pair, by that share of the mean |gap|. A coarse grid is another estimate than the converged "
        "path: raise nodes=",
    )


def _total(lm: Model, groups: list[tuple[int, tuple[int, ...]]], task: Task, parts: Method, units: Units) -> float:
    """Token-layers that the walk along the path will take, for the progress bar."""
    tokens = sum((len(task.clean[members[0]]) - start) * len(members) for start, members in groups)
    path = PATHS[parts.path]
    depth = {
        "nothing": lm.layers,
        "input": lm.layers,
        "site": sum(
            site.depth(lm.layers)
            for site in (EdgeSums if isinstance(units, Edges) else UnitSums).moved(lm.decoder, units)
        ),
        "unit": 0
        if isinstance(units, Edges)
        else sum(depth_behind(lm.decoder, units.place, layer) for layer in units.layer.tolist()),
    }[path.moves]
    return tokens * depth * 2 * path.passes(parts) or 1

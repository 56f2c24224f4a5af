"""The chart of every kind of result: what `result.chart()` draws where a result has no chart of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np

from veracausa.behaviour.foretold import Against
from veracausa.behaviour.results import AblationStudy
from veracausa.causes.curves.responses import Responses
from veracausa.causes.curves.surfaces import Surface
from veracausa.causes.locations import Locations
from veracausa.causes.results import Disagreement
from veracausa.choices import Look
from veracausa.circuits.attacks.attack import Attack
from veracausa.circuits.comparison import CircuitComparison
from veracausa.circuits.featured import FeatureCircuit
from veracausa.circuits.quality.cause_curve import CauseCurve
from veracausa.circuits.quality.completeness import Completeness
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.circuits.quality.hypotheses import CircuitTests
from veracausa.circuits.quality.minimality import Minimality
from veracausa.circuits.quality.part_curve import PartCurve
from veracausa.circuits.quality.specificity import Specificity
from veracausa.circuits.scoreboards.board import Scoreboard
from veracausa.circuits.selection.stability import CircuitStability
from veracausa.circuits.sheaves.found import RUNS, Sheaf
from veracausa.counterfactuals.compared_baselines import Baselines
from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison
from veracausa.counterfactuals.general_units import GeneralPurpose
from veracausa.counterfactuals.roles import ROLES, HeadRoles
from veracausa.counterfactuals.searches import Search
from veracausa.discovery.evaluation import Evaluation
from veracausa.discovery.results import Discovery
from veracausa.effects.learned_constants import OptimalConstants
from veracausa.effects.removals import RemovalCurve
from veracausa.effects.steering_curves import Steering
from veracausa.fitting.qualities import Quality
from veracausa.graphs.checked import GraphCheck
from veracausa.graphs.graph import AttributionGraph
from veracausa.ground_truth.recovered import FIGURES, Recovery
from veracausa.interplay.checked import CheckedInteractions
from veracausa.interplay.module_results import Modules
from veracausa.interplay.results import Interactions
from veracausa.pruning.part_ranking import PartRanking
from veracausa.pruning.pruned import Pruned
from veracausa.reading.activity import Activations
from veracausa.reading.attributions import LogitAttribution
from veracausa.reading.lenses import Lens
from veracausa.receipts.receipts import Receipt
from veracausa.report.chapters.ablation import forecast_figure
from veracausa.report.chapters.registry import CHAPTERS
from veracausa.report.charts.attacks import attack_figure
from veracausa.report.charts.attribution import attribution_part, graph_check_part
from veracausa.report.charts.cause_curves import cause_curve_part
from veracausa.report.charts.charts import alone, together
from veracausa.report.charts.circuit_comparison import circuit_comparison_part
from veracausa.report.charts.circuits import circuit_part
from veracausa.report.charts.comparison import comparison_part
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.faithfulness import curves_part, pairs_view
from veracausa.report.charts.feature_circuits import feature_circuit_part
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.interplay import checked_part, interactions_part
from veracausa.report.charts.maps import STRONGEST
from veracausa.report.charts.matrices import matrix_view
from veracausa.report.charts.modules import modules_part
from veracausa.report.charts.part_curves import part_curve_part
from veracausa.report.charts.pruning import pruned_figure, ranking_part
from veracausa.report.charts.removals import removal_figure
from veracausa.report.charts.scatters import against_exact, padded
from veracausa.report.charts.scoreboards import scoreboard_part
from veracausa.report.charts.specificities import specificity_part
from veracausa.report.charts.steering import steering_part
from veracausa.report.charts.strengths import bars_view, diagonal_view, overlap_view, strips_view
from veracausa.report.charts.theme import Support
from veracausa.report.pages.discovery_figures import receipt_figure
from veracausa.report.pages.page import section_views
from veracausa.scores.agreement import Agreement
from veracausa.scores.comparison import Comparison
from veracausa.scores.scores import METRIC
from veracausa.scores.stable import Stability
from veracausa.studies.results import Study
from veracausa.words import plain

#: The chart of a result is named after what it is about; only its data have names.
_OWN = "result"


def result_chart(
    result: Any,
    *,
    width: float | None = None,
    height: float | None = None,
    font: str | None = None,
    theme: Look | None = None,
) -> Any:
    """See `Result.chart`."""
    drawn = drawing(result)
    if isinstance(drawn, Figure):
        return together(drawn, width=width, height=height, font=font, theme=theme)
    return alone(drawn, width=width, height=height, font=font, theme=theme)


@singledispatch
def drawing(result: Any) -> Part | Figure:
    """What is drawn of a result; each kind has its own."""
    raise TypeError(f"there is no drawing of a {type(result).__name__}")


@drawing.register
def _agreement(found: Agreement) -> Part:
    data = Datasets(inline=True)
    titles = None if found.unit == METRIC else ("exact, share of the gap", f"{found.method}, {found.unit}")
    view = against_exact(data, found, frozenset(), _OWN, padded([found.exact, found.estimate]), titles)
    first, *rest = found.describe().splitlines()
    return Part(f"{found.method} against {found.against}", view, data, first, "\n".join(rest))


@drawing.register
def _comparison(found: Comparison) -> Part:
    return comparison_part(found, _OWN)


@drawing.register
def _circuit_comparison(found: CircuitComparison) -> Part:
    return circuit_comparison_part(found, _OWN)


@drawing.register
def _stability(found: Stability) -> Part:
    data = Datasets(inline=True)
    curves = {"independent sets": found.fresh, "bootstrap": found.bootstrap}
    view = overlap_view(data, _OWN, curves, found.bar)
    heading = f"{found.scores.method}: do other examples name the same {found.top} strongest?"
    said = f"Jaccard {plain(found.jaccard, 2)} between bootstrap draws of {found.n}; dashed: {found.bar:g}"
    return Part(heading, view, data, f"Line chart. {said}", said)


@drawing.register
def _receipt(found: Receipt) -> Figure:
    return receipt_figure(found)


@drawing.register
def _constants(found: OptimalConstants) -> Part:
    data = Datasets(inline=True)
    gain = (found.before - found.after).double().numpy()
    order = np.argsort(-gain, kind="stable")
    view = bars_view(data, _OWN, found.units[order].names, gain[order], "mean KL saved by learning, nats")
    heading = f"Optimal constants of {len(found.units):,} {found.units.kind}"
    return Part(heading, view, data, f"Bar chart. {' '.join(found.sentences)}", "the largest gains over the mean")


@drawing.register
def _faithfulness(found: Faithfulness) -> Part:
    data = Datasets(inline=True)
    first, *rest = found.describe().splitlines()
    said = f"f of every pair; the bar is the ratio of means, {plain(found.f, 2)}"
    return Part(first, pairs_view(data, {"circuit": found}, _OWN), data, said, "\n".join([said, *rest]))


@drawing.register
def _completeness(found: Completeness) -> Part:
    data = Datasets(inline=True)
    full, circuit = (each.mean(1).double().numpy() for each in (found.full, found.circuit))
    names, titles = [" ".join(one) or "nothing" for one in found.sets], ("model without K, M", "circuit without K, M")
    view = diagonal_view(data, _OWN, full, circuit, found.how, titles, names)
    first, *rest = found.describe().splitlines()
    said = "a dot is a set K of nodes; on the diagonal the circuit breaks as the model does"
    return Part(first, view, data, f"Scatter. {said}", "\n".join([said, *rest]))


@drawing.register
def _minimality(found: Minimality) -> Part:
    data, table = Datasets(inline=True), found.table()
    columns = table["loss"].to_numpy(), table["stderr"].to_numpy()
    view = bars_view(data, _OWN, table["name"].tolist(), columns[0], "loss, share of the gap", stderr=columns[1])
    first, *rest = found.describe().splitlines()
    return Part(first, view, data, f"Bar chart. {first}", "\n".join([*rest, "the largest losses"]))


@drawing.register
def _sheaf(found: Sheaf) -> Part:
    data, table = Datasets(inline=True), found.table()
    names = [f"{name}: {RUNS[name]}" for name in table["run"]]
    view = bars_view(data, _OWN, names, table["f"].to_numpy(), "f", stderr=table["stderr"].to_numpy())
    size, *rest = found.sentences
    return Part(
        "What a sheaf does alone", view, data, f"Bar chart. {' '.join(found.sentences)}", "\n".join([size, *rest])
    )


@drawing.register
def _tests(found: CircuitTests) -> Part:
    data = Datasets(inline=True)
    groups = {"edges of the circuit": found.effect, "random edges": found.random_effect}
    view = strips_view(data, _OWN, groups, "|effect| of removing an edge, share of the gap")
    said = "\n".join(found.sentences)
    return Part(f"Tests of a circuit of {found.size:,} edges", view, data, said, said)


@drawing.register
def _circuit_stability(found: CircuitStability) -> Part:
    data, table = Datasets(inline=True), found.table()
    names, shares = table["name"].tolist(), table["probability"].to_numpy()
    view = bars_view(data, _OWN, names, shares, "share of the draws that keep it", domain=(0, 1))
    first, *rest = found.describe().splitlines()
    return Part(first, view, data, f"Bar chart. {first}", "\n".join(rest[:1]))


@drawing.register
def _evaluation(found: Evaluation) -> Part:
    curves = (found.curve, replace(found.random_curve, method="random ranking"))
    return curves_part(Datasets(inline=True), curves, _OWN)


@drawing.register
def _discovery(found: Discovery) -> Part:
    return circuit_part(Datasets(inline=True), found.circuit, _OWN)


@drawing.register(Disagreement)
@drawing.register(Locations)
@drawing.register(Responses)
@drawing.register(Surface)
@drawing.register(AblationStudy)
@drawing.register(CounterfactualComparison)
@drawing.register(Search)
@drawing.register(Baselines)
@drawing.register(GeneralPurpose)
@drawing.register(Lens)
@drawing.register(LogitAttribution)
@drawing.register(Quality)
@drawing.register(Activations)
def _finding(found: Any) -> Figure:
    """The first figure of its chapter in a study."""
    _, draw, _ = CHAPTERS[type(found)]
    return draw.figures(found, _OWN, ())[0]


@drawing.register
def _against(found: Against) -> Figure:
    return forecast_figure(found, _OWN)


@drawing.register
def _roles(found: HeadRoles) -> Part:
    data, known = Datasets(inline=True), np.nan_to_num(found.attention, nan=0.0)
    chosen = np.argsort(-known.max(0), kind="stable")[:STRONGEST]
    names, kinds = found.units[chosen].names, [f"{role} (n = {n})" for role, n in zip(ROLES, found.counts, strict=True)]
    view = matrix_view(data, _OWN, found.attention[:, chosen].T, names, kinds, "mean attention", 1.0, Support.UNSIGNED,
                       angle=-40)  # fmt: skip
    return Part("Where heads look", view, data, " ".join(found.sentences), found.describe().splitlines()[0])


#: Kinds of results that one function draws whole.
_PARTS: dict[type, Callable[[Any, str], Part | Figure]] = {
    Interactions: interactions_part, CheckedInteractions: checked_part, Modules: modules_part,
    AttributionGraph: attribution_part, GraphCheck: graph_check_part, Steering: steering_part,
    PartCurve: part_curve_part, FeatureCircuit: feature_circuit_part, Attack: attack_figure,
    CauseCurve: cause_curve_part, Scoreboard: scoreboard_part, RemovalCurve: removal_figure,
    PartRanking: ranking_part, Pruned: pruned_figure, Specificity: specificity_part,
}  # fmt: skip


def _part(found: Any) -> Part | Figure:
    """A result that one function draws."""
    return _PARTS[type(found)](found, _OWN)


for _kind in _PARTS:
    drawing.register(_kind, _part)


@drawing.register
def _recovery(found: Recovery) -> Part:
    data, row = Datasets(inline=True), found.table().iloc[0]
    names = [name for name in FIGURES if name not in ("units", "true", "of", "n") and row[name] is not None]
    view = bars_view(data, _OWN, names, row[names].to_numpy(dtype=float), "share", domain=(0, 1))
    return Part("What was found of the known circuit", view, data, str(found), str(found))


@drawing.register
def _study(found: Study) -> Figure:
    """What truth costs in the last section; where nothing was estimated, its first figure."""
    view = section_views(found)[-1]
    return [*view.figures, *(figure for panel in view.panels for figure in panel.figures)][0]

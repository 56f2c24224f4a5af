"""Verbs on nouns: the only references that point up the house.

`scores.chart()`, `lm.check()` and `study.save()` are verbs of a later floor that readers look for on the noun. The noun
may not import them, so it names them here, as strings, and calls through. `docs/architecture.md` has the floors; a test
opens every door.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Door → "module:function".
DOORS: dict[str, str] = {
    "Model.identity": "veracausa.engine.identity:identity",
    "Model.measure": "veracausa.engine.measure:measure",
    "Model.reading": "veracausa.engine.coded:codes_of",
    "Model.check": "veracausa.contracts.checks:check",
    "Work.require_fits": "veracausa.planning.fitting:require_fits",
    "Result.chart": "veracausa.report.result_charts:result_chart",
    "Result.beside": "veracausa.studies.laying:beside",
    "Scoreboard.page": "veracausa.report.pages.judging:write_page",
    "Attack.page": "veracausa.report.pages.judging:write_page",
    "Specificity.page": "veracausa.report.pages.judging:write_page",
    "Interactions.page": "veracausa.report.pages.interplay:write_page",
    "Comparison.page": "veracausa.report.pages.comparison:write_page",
    "Paged.frame": "veracausa.report.pages.notebook:framed_page",
    "Scores.save": "veracausa.scores.packed:save_scores",
    "Scores.chart": "veracausa.report.charts.charts:scores_chart",
    "Circuit.chart": "veracausa.report.charts.charts:circuit_chart",
    "Circuit.beside": "veracausa.discovery.laying:beside",
    "CircuitComparison.page": "veracausa.report.pages.circuit_comparison:write_page",
    "Circuit.prune": "veracausa.circuits.quality.faithfulness:faithfulness",
    "Curve.chart": "veracausa.report.charts.charts:curve_chart",
    "AblationStudy.against": "veracausa.behaviour.against:against",
    "AblationStudy.sentences": "veracausa.behaviour.sentences:study_sentences",
    "Dictionary.check": "veracausa.fitting.quality:check",
    "Dictionary.save": "veracausa.loading.dictionaries.own:save",
    "Discovery.save": "veracausa.discovery.files:save_discovery",
    "AttributionGraph.page": "veracausa.report.pages.graphs:graph_page",
    "Discovery.page": "veracausa.report.pages.discovery:write_page",
    "FeatureCircuit.page": "veracausa.report.pages.feature_circuits:write_page",
    "Pruned.page": "veracausa.report.pages.pruning:write_page",
    "Pruned.export": "veracausa.pruning.exporting:export",
    "Study.finding": "veracausa.opening:open",
    "Sweep.page": "veracausa.report.pages.sweeps:write_page",
    "Sweep.result": "veracausa.opening:open",
    "Study.save": "veracausa.report.pages.page:save_study",
}


def through(door: str, *given: Any, **named: Any) -> Any:
    """Call what is behind a door; it is imported now, not before.

    >>> through("Scores.chart", scores, tokens=(), most=200)
    """
    module, _, function = DOORS[door].partition(":")
    return getattr(import_module(module), function)(*given, **named)

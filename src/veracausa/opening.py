"""`vc.open`: any saved result, read by what its own header says it is."""

from __future__ import annotations

import os
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from veracausa.errors import FileError, VersionError
from veracausa.storage.files import at, format_of

#: What a file's header says it is → "module:reader".
READERS: dict[str, str] = {
    "veracausa-ablation-study-2": "behaviour.files:load_ablation_study",
    "veracausa-against-1": "behaviour.files:load_against",
    "veracausa-agreement-1": "scores.result_files:load_agreement",
    "veracausa-attack-1": "circuits.attacks.files:load_attack",
    "veracausa-attribution-graph-1": "graphs.graph:load_attribution_graph",
    "veracausa-baselines-2": "counterfactuals.compared_baselines:load_baselines",
    "veracausa-activations-1": "reading.activity:load_activations",
    "veracausa-cause-curve-1": "circuits.quality.cause_curve:load_cause_curve",
    "veracausa-checked-interactions-1": "interplay.checked:load_checked_interactions",
    "veracausa-circuit-2": "circuits.exchange.files:load_circuit",
    "veracausa-counterfactuals-2": "counterfactuals.compared_corruptions:load_counterfactual_comparison",
    "veracausa-circuit-comparison-1": "circuits.comparison_files:load_circuit_comparison",
    "veracausa-circuit-stability-1": "circuits.selection.stability:load_circuit_stability",
    "veracausa-circuit-tests-1": "circuits.quality.files:load_tests",
    "veracausa-comparison-1": "scores.result_files:load_comparison",
    "veracausa-completeness-1": "circuits.quality.files:load_completeness",
    "veracausa-curve-2": "circuits.quality.files:load_curve",
    "veracausa-dictionary-quality-1": "fitting.qualities:load_quality",
    "veracausa-disagreement-2": "causes.results:load_disagreement",
    "veracausa-evaluation-1": "discovery.evaluation_files:load_evaluation",
    "veracausa-faithfulness-2": "circuits.quality.files:load_faithfulness",
    "veracausa-feature-circuit-1": "circuits.featured:load_feature_circuit",
    "veracausa-general-purpose-2": "counterfactuals.general_units:load_general_purpose",
    "veracausa-graph-check-1": "graphs.checked:load_graph_check",
    "veracausa-head-roles-2": "counterfactuals.roles:load_head_roles",
    "veracausa-interactions-1": "interplay.results:load_interactions",
    "veracausa-lens-1": "reading.lenses:load_lens",
    "veracausa-locations-2": "causes.location_files:load_locations",
    "veracausa-logit-attribution-1": "reading.attributions:load_logit_attribution",
    "veracausa-minimality-1": "circuits.quality.files:load_minimality",
    "veracausa-modules-1": "interplay.module_results:load_modules",
    "veracausa-optimal-constants-2": "effects.learned_constants:load_optimal_constants",
    "veracausa-part-ranking-1": "pruning.part_ranking:load_part_ranking",
    "veracausa-pruned-1": "pruning.pruned:load_pruned",
    "veracausa-part-curve-1": "circuits.quality.part_curve:load_part_curve",
    "veracausa-receipt-2": "receipts.files:load_receipt",
    "veracausa-recovery-1": "ground_truth.recovered:load_recovery",
    "veracausa-removal-curve-1": "effects.removals:load_removal_curve",
    "veracausa-responses-3": "causes.curves.files:load_responses",
    "veracausa-scores-2": "scores.files:load_scores",
    "veracausa-scoreboard-1": "circuits.scoreboards.board:load_scoreboard",
    "veracausa-search-2": "counterfactuals.searches:load_search",
    "veracausa-sheaf-1": "circuits.sheaves.found:load_sheaf",
    "veracausa-specificity-1": "circuits.quality.specificity:load_specificity",
    "veracausa-stability-1": "scores.result_files:load_stability",
    "veracausa-steering-1": "effects.steering_curves:load_steering",
    "veracausa-surface-2": "causes.curves.surfaces:load_surface",
    "veracausa.task": "tasks.task_files:load_task",
    "a discovery's folder": "discovery.files:load_discovery",
    "a study's folder": "studies.files:load_study",
    "a sweep's folder": "sweeps.results:open_sweep",
}


def open(path: str | Path) -> Any:
    """Read any result that `save` wrote to `path`: scores, a receipt, a circuit, a task, the folder of a study, …

    Raises:
        FileError: there is nothing, it is damaged or cut short, or no result of veracausa's. VersionError: this version
            does not read its form.

    >>> vc.open("scores.safetensors").top(5)
    >>> vc.open("out/discovery").circuit
    """
    path = at(path)
    kind = (kind_of_folder(path) or "a discovery's folder") if os.path.isdir(path) else format_of(path)
    if kind not in READERS:
        said = f"{path} is no result that this version of veracausa reads"
        if kind:
            raise VersionError(f"{said}: its header says {kind!r}. Was it written by another version?")
        raise FileError(f"{said}: it has no header.")
    module, _, reader = READERS[kind].partition(":")
    return attrgetter(reader)(import_module(f"veracausa.{module}"))(path)


def kind_of_folder(path: Path) -> str:
    """Which result a folder is, as a whole; "" where it is none, though it may hold some."""
    from veracausa.discovery.files import RUN
    from veracausa.studies.files import STUDY
    from veracausa.sweeps.folder import MANIFEST

    if (path / STUDY).is_file():
        return "a study's folder"
    if (path / MANIFEST).is_file():
        return "a sweep's folder"
    return "a discovery's folder" if (path / RUN).is_file() else ""

"""Which part of this language model causes this, and how sure are we?

>>> import veracausa as vc
>>> lm = vc.load("smollm2-135m")
>>> task = vc.tasks.ioi(lm, n=16)
>>> exact = vc.exact(lm, task, units="heads")
>>> estimate = vc.attribute(lm, task, units="heads", method="atp")
>>> vc.agreement(estimate, exact)
>>> vc.verify(lm, task, estimate)

Names are imported on first use, so that `import veracausa` itself takes no time. Functions so taken refuse arguments of
the wrong type in words, see `veracausa.typed`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public name → where it lives.
_PUBLIC = {
    "AblationStudy": "veracausa.behaviour.results",
    "Agreement": "veracausa.scores.agreement",
    "Baselines": "veracausa.counterfactuals.baselines",
    "Circuit": "veracausa.circuits.circuit",
    "CounterfactualComparison": "veracausa.counterfactuals.corruptions",
    "Disagreement": "veracausa.causes.results",
    "Discovery": "veracausa.discovery.results",
    "Evaluation": "veracausa.discovery.evaluation",
    "GeneralPurpose": "veracausa.counterfactuals.general_purpose",
    "HeadRoles": "veracausa.counterfactuals.head_roles",
    "Learning": "veracausa.effects.optimal_descent",
    "Location": "veracausa.causes.locations",
    "Locations": "veracausa.causes.locations",
    "Method": "veracausa.estimates.paths.method",
    "Model": "veracausa.model",
    "OptimalConstants": "veracausa.effects.optimal_constants",
    "Receipt": "veracausa.receipts.receipts",
    "Response": "veracausa.causes.responses.responses",
    "Responses": "veracausa.causes.responses.responses",
    "Scores": "veracausa.scores.scores",
    "Search": "veracausa.counterfactuals.search",
    "Stability": "veracausa.scores.stability",
    "Surface": "veracausa.causes.responses.surfaces",
    "Task": "veracausa.tasks.task",
    "Units": "veracausa.units.table",
    "Until": "veracausa.receipts.stages",
    "VeracausaError": "veracausa.errors",
    "ablation_study": "veracausa.behaviour.study",
    "acdc": "veracausa.circuits.selection.acdc",
    "agreement": "veracausa.scores.agreement",
    "attribute": "veracausa.estimates.attribute",
    "circuit_tests": "veracausa.circuits.quality.hypotheses",
    "compare": "veracausa.studies.compare",
    "compare_baselines": "veracausa.counterfactuals.baselines",
    "compare_counterfactuals": "veracausa.counterfactuals.corruptions",
    "completeness": "veracausa.circuits.quality.completeness",
    "counterfactual_pool": "veracausa.tasks.pool",
    "counterfactual_search": "veracausa.counterfactuals.search",
    "curve": "veracausa.circuits.quality.curve",
    "direct": "veracausa.effects.site_effects",
    "disagreement": "veracausa.causes.disagreement",
    "discover": "veracausa.discovery.discover",
    "evaluate": "veracausa.discovery.evaluate",
    "exact": "veracausa.effects.exact",
    "faithfulness": "veracausa.circuits.quality.faithfulness",
    "general_purpose": "veracausa.counterfactuals.general_purpose",
    "head_roles": "veracausa.counterfactuals.head_roles",
    "iterate": "veracausa.circuits.selection.iterated",
    "last_in": "veracausa.effects.site_effects",
    "learn_edges": "veracausa.circuits.selection.learned",
    "learn_mask": "veracausa.estimates.learned.masks",
    "load": "veracausa.loading.load",
    "load_ablation_study": "veracausa.behaviour.files",
    "load_circuit": "veracausa.circuits.exchange.files",
    "load_compiled": "veracausa.ground_truth.stored",
    "load_disagreement": "veracausa.causes.results",
    "load_discovery": "veracausa.discovery.files",
    "load_locations": "veracausa.causes.location_files",
    "load_responses": "veracausa.causes.responses.files",
    "load_scores": "veracausa.scores.files",
    "load_surface": "veracausa.causes.responses.surfaces",
    "load_trained": "veracausa.ground_truth.trained",
    "locate": "veracausa.causes.locate",
    "minimality": "veracausa.circuits.quality.minimality",
    "optimal_constants": "veracausa.effects.optimal_constants",
    "recovery": "veracausa.ground_truth.recovery",
    "responses": "veracausa.causes.responses.responses",
    "select": "veracausa.circuits.selection.select",
    "shapley": "veracausa.effects.shapley",
    "stability": "veracausa.scores.stability",
    "study": "veracausa.studies.study",
    "surface": "veracausa.causes.responses.surface",
    "task": "veracausa.tasks",
    "verify": "veracausa.receipts.verify",
}
_MODULES = ("errors", "tasks")

if TYPE_CHECKING:
    from veracausa import errors, tasks
    from veracausa.behaviour.files import load_ablation_study
    from veracausa.behaviour.results import AblationStudy
    from veracausa.behaviour.study import ablation_study
    from veracausa.causes.disagreement import disagreement
    from veracausa.causes.locate import locate
    from veracausa.causes.location_files import load_locations
    from veracausa.causes.locations import Location, Locations
    from veracausa.causes.responses.files import load_responses
    from veracausa.causes.responses.responses import Response, Responses, responses
    from veracausa.causes.responses.surface import surface
    from veracausa.causes.responses.surfaces import Surface, load_surface
    from veracausa.causes.results import Disagreement, load_disagreement
    from veracausa.circuits.circuit import Circuit
    from veracausa.circuits.exchange.files import load_circuit
    from veracausa.circuits.quality.completeness import completeness
    from veracausa.circuits.quality.curve import curve
    from veracausa.circuits.quality.faithfulness import faithfulness
    from veracausa.circuits.quality.hypotheses import circuit_tests
    from veracausa.circuits.quality.minimality import minimality
    from veracausa.circuits.selection.acdc import acdc
    from veracausa.circuits.selection.iterated import iterate
    from veracausa.circuits.selection.learned import learn_edges
    from veracausa.circuits.selection.select import select
    from veracausa.counterfactuals.baselines import Baselines, compare_baselines
    from veracausa.counterfactuals.corruptions import CounterfactualComparison, compare_counterfactuals
    from veracausa.counterfactuals.general_purpose import GeneralPurpose, general_purpose
    from veracausa.counterfactuals.head_roles import HeadRoles, head_roles
    from veracausa.counterfactuals.search import Search, counterfactual_search
    from veracausa.discovery.discover import discover
    from veracausa.discovery.evaluate import evaluate
    from veracausa.discovery.evaluation import Evaluation
    from veracausa.discovery.files import load_discovery
    from veracausa.discovery.results import Discovery
    from veracausa.effects.exact import exact
    from veracausa.effects.optimal_constants import OptimalConstants, optimal_constants
    from veracausa.effects.optimal_descent import Learning
    from veracausa.effects.shapley import shapley
    from veracausa.effects.site_effects import direct, last_in
    from veracausa.errors import VeracausaError
    from veracausa.estimates.attribute import attribute
    from veracausa.estimates.learned.masks import learn_mask
    from veracausa.estimates.paths.method import Method
    from veracausa.ground_truth.recovery import recovery
    from veracausa.ground_truth.stored import load_compiled
    from veracausa.ground_truth.trained import load_trained
    from veracausa.loading.load import load
    from veracausa.model import Model
    from veracausa.receipts.receipts import Receipt
    from veracausa.receipts.stages import Until
    from veracausa.receipts.verify import verify
    from veracausa.scores.agreement import Agreement, agreement
    from veracausa.scores.files import load_scores
    from veracausa.scores.scores import Scores
    from veracausa.scores.stability import Stability, stability
    from veracausa.studies.compare import compare
    from veracausa.studies.study import study
    from veracausa.tasks import task
    from veracausa.tasks.pool import counterfactual_pool
    from veracausa.tasks.task import Task
    from veracausa.units.table import Units

__all__ = [
    "AblationStudy",
    "Agreement",
    "Baselines",
    "Circuit",
    "CounterfactualComparison",
    "Disagreement",
    "Discovery",
    "Evaluation",
    "GeneralPurpose",
    "HeadRoles",
    "Learning",
    "Location",
    "Locations",
    "Method",
    "Model",
    "OptimalConstants",
    "Receipt",
    "Response",
    "Responses",
    "Scores",
    "Search",
    "Stability",
    "Surface",
    "Task",
    "Units",
    "Until",
    "VeracausaError",
    "__version__",
    "ablation_study",
    "acdc",
    "agreement",
    "attribute",
    "circuit_tests",
    "compare",
    "compare_baselines",
    "compare_counterfactuals",
    "completeness",
    "counterfactual_pool",
    "counterfactual_search",
    "curve",
    "direct",
    "disagreement",
    "discover",
    "errors",
    "evaluate",
    "exact",
    "faithfulness",
    "general_purpose",
    "head_roles",
    "iterate",
    "last_in",
    "learn_edges",
    "learn_mask",
    "load",
    "load_ablation_study",
    "load_circuit",
    "load_compiled",
    "load_disagreement",
    "load_discovery",
    "load_locations",
    "load_responses",
    "load_scores",
    "load_surface",
    "load_trained",
    "locate",
    "minimality",
    "optimal_constants",
    "recovery",
    "responses",
    "select",
    "shapley",
    "stability",
    "study",
    "surface",
    "task",
    "tasks",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        if not isinstance(value, type):
            value = importlib.import_module("veracausa.typed").typed(value)
    elif name in _MODULES:
        value = importlib.import_module(f"veracausa.{name}")
    else:
        raise AttributeError(f"module 'veracausa' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

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
    "Agreement": "veracausa.comparison.agreement",
    "Baselines": "veracausa.counterfactuals.baselines",
    "Circuit": "veracausa.circuits.circuit",
    "CounterfactualComparison": "veracausa.counterfactuals.compare",
    "Disagreement": "veracausa.causes.differences",
    "Discovery": "veracausa.circuits.discovery",
    "Evaluation": "veracausa.circuits.evaluation",
    "GeneralPurpose": "veracausa.counterfactuals.general",
    "HeadRoles": "veracausa.counterfactuals.head_roles",
    "Learning": "veracausa.attribution.optimal",
    "Location": "veracausa.causes.locations",
    "Locations": "veracausa.causes.locations",
    "Method": "veracausa.attribution.methods",
    "Model": "veracausa.model",
    "OptimalConstants": "veracausa.attribution.optimal",
    "Receipt": "veracausa.attribution.receipts",
    "Response": "veracausa.attribution.responses",
    "Responses": "veracausa.attribution.responses",
    "Scores": "veracausa.attribution.scores",
    "Search": "veracausa.counterfactuals.search",
    "Stability": "veracausa.comparison.stability",
    "Surface": "veracausa.attribution.surfaces",
    "Task": "veracausa.tasks.task",
    "Units": "veracausa.attribution.units",
    "Until": "veracausa.attribution.stages",
    "VeracausaError": "veracausa.errors",
    "ablation_study": "veracausa.behaviour.study",
    "acdc": "veracausa.circuits.acdc",
    "agreement": "veracausa.comparison.agreement",
    "attribute": "veracausa.attribution.estimate",
    "circuit_tests": "veracausa.circuits.hypotheses",
    "compare": "veracausa.comparison.compare",
    "compare_baselines": "veracausa.counterfactuals.baselines",
    "compare_counterfactuals": "veracausa.counterfactuals.compare",
    "completeness": "veracausa.circuits.completeness",
    "counterfactual_pool": "veracausa.counterfactuals.pool",
    "counterfactual_search": "veracausa.counterfactuals.search",
    "curve": "veracausa.circuits.curve",
    "direct": "veracausa.attribution.site_effects",
    "disagreement": "veracausa.causes.disagreement",
    "discover": "veracausa.circuits.discovery",
    "evaluate": "veracausa.circuits.further",
    "exact": "veracausa.attribution.exact",
    "faithfulness": "veracausa.circuits.faithfulness",
    "general_purpose": "veracausa.counterfactuals.general",
    "head_roles": "veracausa.counterfactuals.head_roles",
    "iterate": "veracausa.circuits.iterated",
    "last_in": "veracausa.attribution.site_effects",
    "learn_edges": "veracausa.circuits.learned",
    "learn_mask": "veracausa.attribution.masks",
    "load": "veracausa.model",
    "load_ablation_study": "veracausa.behaviour.files",
    "load_circuit": "veracausa.circuits.files",
    "load_compiled": "veracausa.circuits.ground_truth.stored",
    "load_disagreement": "veracausa.causes.differences",
    "load_discovery": "veracausa.circuits.discovery_files",
    "load_locations": "veracausa.causes.location_files",
    "load_responses": "veracausa.attribution.response_files",
    "load_scores": "veracausa.attribution.files",
    "load_surface": "veracausa.attribution.surfaces",
    "load_trained": "veracausa.circuits.ground_truth.trained",
    "locate": "veracausa.causes.locate",
    "minimality": "veracausa.circuits.minimality",
    "optimal_constants": "veracausa.attribution.optimal",
    "recovery": "veracausa.circuits.ground_truth.recovery",
    "responses": "veracausa.attribution.responses",
    "select": "veracausa.circuits.select",
    "shapley": "veracausa.attribution.shapley",
    "stability": "veracausa.comparison.stability",
    "study": "veracausa.comparison.run",
    "surface": "veracausa.attribution.surface",
    "task": "veracausa.tasks",
    "verify": "veracausa.attribution.verify",
}
_MODULES = ("errors", "tasks")

if TYPE_CHECKING:
    from veracausa import errors, tasks
    from veracausa.attribution.estimate import attribute
    from veracausa.attribution.exact import exact
    from veracausa.attribution.files import load_scores
    from veracausa.attribution.masks import learn_mask
    from veracausa.attribution.methods import Method
    from veracausa.attribution.optimal import Learning, OptimalConstants, optimal_constants
    from veracausa.attribution.receipts import Receipt
    from veracausa.attribution.response_files import load_responses
    from veracausa.attribution.responses import Response, Responses, responses
    from veracausa.attribution.scores import Scores
    from veracausa.attribution.shapley import shapley
    from veracausa.attribution.site_effects import direct, last_in
    from veracausa.attribution.stages import Until
    from veracausa.attribution.surface import surface
    from veracausa.attribution.surfaces import Surface, load_surface
    from veracausa.attribution.units import Units
    from veracausa.attribution.verify import verify
    from veracausa.behaviour.files import load_ablation_study
    from veracausa.behaviour.results import AblationStudy
    from veracausa.behaviour.study import ablation_study
    from veracausa.causes.differences import Disagreement, load_disagreement
    from veracausa.causes.disagreement import disagreement
    from veracausa.causes.locate import locate
    from veracausa.causes.location_files import load_locations
    from veracausa.causes.locations import Location, Locations
    from veracausa.circuits.acdc import acdc
    from veracausa.circuits.circuit import Circuit
    from veracausa.circuits.completeness import completeness
    from veracausa.circuits.curve import curve
    from veracausa.circuits.discovery import Discovery, discover
    from veracausa.circuits.discovery_files import load_discovery
    from veracausa.circuits.evaluation import Evaluation
    from veracausa.circuits.faithfulness import faithfulness
    from veracausa.circuits.files import load_circuit
    from veracausa.circuits.further import evaluate
    from veracausa.circuits.ground_truth.recovery import recovery
    from veracausa.circuits.ground_truth.stored import load_compiled
    from veracausa.circuits.ground_truth.trained import load_trained
    from veracausa.circuits.hypotheses import circuit_tests
    from veracausa.circuits.iterated import iterate
    from veracausa.circuits.learned import learn_edges
    from veracausa.circuits.minimality import minimality
    from veracausa.circuits.select import select
    from veracausa.comparison.agreement import Agreement, agreement
    from veracausa.comparison.compare import compare
    from veracausa.comparison.run import study
    from veracausa.comparison.stability import Stability, stability
    from veracausa.counterfactuals.baselines import Baselines, compare_baselines
    from veracausa.counterfactuals.compare import CounterfactualComparison, compare_counterfactuals
    from veracausa.counterfactuals.general import GeneralPurpose, general_purpose
    from veracausa.counterfactuals.head_roles import HeadRoles, head_roles
    from veracausa.counterfactuals.pool import counterfactual_pool
    from veracausa.counterfactuals.search import Search, counterfactual_search
    from veracausa.errors import VeracausaError
    from veracausa.model import Model, load
    from veracausa.tasks import task
    from veracausa.tasks.task import Task

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

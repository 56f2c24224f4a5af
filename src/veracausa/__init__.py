"""Which part of this language model causes this, and how sure are we?

>>> import veracausa as vc
>>> lm = vc.load("smollm2-135m")
>>> task = vc.tasks.ioi(lm, n=16)
>>> exact = vc.exact(lm, task, units="heads")
>>> estimate = vc.attribute(lm, task, units="heads", method="atp")
>>> vc.agreement(estimate, exact)
>>> vc.verify(lm, task, estimate)

The first questions are here; more of each kind are in `vc.effects`, `vc.estimates`, `vc.circuits`, `vc.causes`,
`vc.counterfactuals`, `vc.behaviour`, `vc.reading`, `vc.graphs`, `vc.fitting`, `vc.interplay`, `vc.pruning` and
`vc.ground_truth`.
Names are imported on first use, so that `import veracausa` itself takes no time; functions so taken refuse arguments of
the wrong type in words (see `veracausa.typed`).
"""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out
from veracausa.threads import wait_shortly
from veracausa.version import __version__ as __version__

if TYPE_CHECKING:
    from veracausa import anatomy as anatomy
    from veracausa import behaviour as behaviour
    from veracausa import causes as causes
    from veracausa import circuits as circuits
    from veracausa import contracts as contracts
    from veracausa import counterfactuals as counterfactuals
    from veracausa import dictionaries as dictionaries
    from veracausa import discovery as discovery
    from veracausa import effects as effects
    from veracausa import errors as errors
    from veracausa import estimates as estimates
    from veracausa import fitting as fitting
    from veracausa import graphs as graphs
    from veracausa import ground_truth as ground_truth
    from veracausa import interplay as interplay
    from veracausa import planning as planning
    from veracausa import pruning as pruning
    from veracausa import reading as reading
    from veracausa import receipts as receipts
    from veracausa import scores as scores
    from veracausa import studies as studies
    from veracausa import sweeps as sweeps
    from veracausa import tasks as tasks
    from veracausa.circuits.circuit import Circuit as Circuit
    from veracausa.circuits.quality.curve import curve as curve
    from veracausa.circuits.quality.faithfulness import faithfulness as faithfulness
    from veracausa.circuits.selection.select import select as select
    from veracausa.discovery.discover import discover as discover
    from veracausa.effects.exact import exact as exact
    from veracausa.errors import VeracausaError as VeracausaError
    from veracausa.estimates.attribute import attribute as attribute
    from veracausa.estimates.method import Method as Method
    from veracausa.fitting.parts_of_maps import components as components
    from veracausa.interplay.interacting import interactions as interactions
    from veracausa.loading.dictionaries.directions import directions as directions
    from veracausa.loading.dictionaries.read import dictionary as dictionary
    from veracausa.loading.dictionaries.read import transcoders as transcoders
    from veracausa.loading.load import load as load
    from veracausa.model import Model as Model
    from veracausa.opening import open as open
    from veracausa.planning.price import forecast as forecast
    from veracausa.receipts.receipts import Receipt as Receipt
    from veracausa.receipts.verify import verify as verify
    from veracausa.report.pages.own import page_of as page_of
    from veracausa.result import Result as Result
    from veracausa.scores.agreement import agreement as agreement
    from veracausa.scores.scores import Scores as Scores
    from veracausa.studies.compare import compare as compare
    from veracausa.studies.results import Study as Study
    from veracausa.studies.study import study as study
    from veracausa.sweeps.sweep import sweep as sweep
    from veracausa.tasks.custom import task as task
    from veracausa.tasks.task import Task as Task
    from veracausa.units.table import Units as Units

#: Public name → where it lives.
_HOMES = {
    "Circuit": "veracausa.circuits.circuit",
    "Method": "veracausa.estimates.method",
    "Model": "veracausa.model",
    "Receipt": "veracausa.receipts.receipts",
    "Result": "veracausa.result",
    "Scores": "veracausa.scores.scores",
    "Study": "veracausa.studies.results",
    "Task": "veracausa.tasks.task",
    "Units": "veracausa.units.table",
    "VeracausaError": "veracausa.errors",
    "agreement": "veracausa.scores.agreement",
    "attribute": "veracausa.estimates.attribute",
    "compare": "veracausa.studies.compare",
    "components": "veracausa.fitting.parts_of_maps",
    "curve": "veracausa.circuits.quality.curve",
    "dictionary": "veracausa.loading.dictionaries.read",
    "transcoders": "veracausa.loading.dictionaries.read",
    "directions": "veracausa.loading.dictionaries.directions",
    "discover": "veracausa.discovery.discover",
    "exact": "veracausa.effects.exact",
    "faithfulness": "veracausa.circuits.quality.faithfulness",
    "forecast": "veracausa.planning.price",
    "interactions": "veracausa.interplay.interacting",
    "load": "veracausa.loading.load",
    "open": "veracausa.opening",
    "page_of": "veracausa.report.pages.own",
    "select": "veracausa.circuits.selection.select",
    "study": "veracausa.studies.study",
    "sweep": "veracausa.sweeps.sweep",
    "task": "veracausa.tasks",
    "verify": "veracausa.receipts.verify",
}
#: Packages of further questions, and of what they take.
_PACKAGES = (
    "anatomy",
    "behaviour",
    "causes",
    "circuits",
    "contracts",
    "counterfactuals",
    "dictionaries",
    "discovery",
    "effects",
    "errors",
    "estimates",
    "fitting",
    "graphs",
    "ground_truth",
    "interplay",
    "planning",
    "pruning",
    "reading",
    "receipts",
    "scores",
    "studies",
    "sweeps",
    "tasks",
)
__all__ = ["__version__", *_HOMES, *_PACKAGES]

wait_shortly()

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES, _PACKAGES)

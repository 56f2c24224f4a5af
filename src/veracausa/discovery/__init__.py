"""Discovery: from a task to a circuit that is judged on other pairs, every step kept."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.discovery.evaluation import Evaluation as Evaluation
    from veracausa.discovery.laying import beside as beside
    from veracausa.discovery.other_tasks import evaluate as evaluate
    from veracausa.discovery.results import Discovery as Discovery

#: Public name → where it lives.
_HOMES = {
    "Discovery": "veracausa.discovery.results",
    "Evaluation": "veracausa.discovery.evaluation",
    "beside": "veracausa.discovery.laying",
    "evaluate": "veracausa.discovery.other_tasks",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

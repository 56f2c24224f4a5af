"""What ablated models answer: greedy generation with units replaced, task accuracy, and its tests."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.behaviour.foretold import Against as Against
    from veracausa.behaviour.foretold import Forecast as Forecast
    from veracausa.behaviour.results import AblationStudy as AblationStudy
    from veracausa.behaviour.results import Outcome as Outcome
    from veracausa.behaviour.study import ablation_study as ablation_study

#: Public name → where it lives.
_HOMES = {
    "AblationStudy": "veracausa.behaviour.results",
    "Against": "veracausa.behaviour.foretold",
    "Forecast": "veracausa.behaviour.foretold",
    "Outcome": "veracausa.behaviour.results",
    "ablation_study": "veracausa.behaviour.study",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

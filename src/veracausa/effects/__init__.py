"""Exact effects: what happens to the metric when parts of the model are replaced, by running it."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.effects.instead import Added as Added
    from veracausa.effects.instead import Noise as Noise
    from veracausa.effects.instead import Own as Own
    from veracausa.effects.instead import Scaled as Scaled
    from veracausa.effects.interacting import interactions as interactions
    from veracausa.effects.learned_constants import OptimalConstants as OptimalConstants
    from veracausa.effects.learned_constants import optimal_constants as optimal_constants
    from veracausa.effects.optimal_descent import Learning as Learning
    from veracausa.effects.removals import RemovalCurve as RemovalCurve
    from veracausa.effects.removing import removal_curve as removal_curve
    from veracausa.effects.shapley_values import shapley as shapley
    from veracausa.effects.site_effects import direct as direct
    from veracausa.effects.site_effects import last_in as last_in
    from veracausa.effects.steered import steering as steering
    from veracausa.effects.steering_curves import Steering as Steering
    from veracausa.effects.tracing import causal_tracing as causal_tracing

#: Public name → where it lives.
_HOMES = {
    "Added": "veracausa.effects.instead",
    "Learning": "veracausa.effects.optimal_descent",
    "Noise": "veracausa.effects.instead",
    "OptimalConstants": "veracausa.effects.learned_constants",
    "Own": "veracausa.effects.instead",
    "RemovalCurve": "veracausa.effects.removals",
    "Scaled": "veracausa.effects.instead",
    "Steering": "veracausa.effects.steering_curves",
    "causal_tracing": "veracausa.effects.tracing",
    "interactions": "veracausa.effects.interacting",
    "direct": "veracausa.effects.site_effects",
    "last_in": "veracausa.effects.site_effects",
    "optimal_constants": "veracausa.effects.learned_constants",
    "removal_curve": "veracausa.effects.removing",
    "steering": "veracausa.effects.steered",
    "shapley": "veracausa.effects.shapley_values",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

"""Estimates of effects: paths × backward rules × combinations, and learned masks; not what they are worth."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.estimates.edges_of_features import feature_edges as feature_edges
    from veracausa.estimates.learned.learner import Learner as Learner
    from veracausa.estimates.learned.masks import learn_mask as learn_mask
    from veracausa.estimates.output_norms import output_norm as output_norm

#: Public name → where it lives.
_HOMES = {
    "Learner": "veracausa.estimates.learned.learner",
    "feature_edges": "veracausa.estimates.edges_of_features",
    "learn_mask": "veracausa.estimates.learned.masks",
    "output_norm": "veracausa.estimates.output_norms",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

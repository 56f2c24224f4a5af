"""Whether scores are about the model that they are used on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from veracausa.engine.identity import difference
from veracausa.errors import MethodError

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.scores.scores import Scores


def require_about(lm: Model, scores: Scores) -> None:
    """Raise MethodError if scores are about another model, or another state of it, than the one that they rank."""
    found = scores.model.get("identity", "")
    if found and (differing := difference(found, lm.identity)):
        raise MethodError(
            f"The scores are about {scores.model['source']}, but this model, {lm.source}, now has other {differing}. "
            "Score this one; to try a circuit of the other here, take vc.Circuit.from_names(lm, circuit.names)."
        )

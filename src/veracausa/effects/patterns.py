"""Replacements that attention patterns do not have, as wide as their prompts are long, and routers do not."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from veracausa.errors import MethodError

if TYPE_CHECKING:
    from veracausa.engine.patches import Place
    from veracausa.tasks.task import Task


def require_patterns(places: Collection[Place], ablation: str, task: Task, source: Task) -> None:
    """Raise MethodError for learned constants, and for means over prompts of several lengths; for a router at zero.

    `source`: the reference set. Places that are not named here have all replacements.
    """
    if "router" in places and ablation in ("zero", "optimal"):
        raise MethodError(
            "Logits of 0 leave it to chance which experts a router chooses, and no descent sees the choice, so there "
            f"is no ablation={ablation!r} of routers. Use counterfactual, mean or resample."
        )
    if "expert_neurons" in places and ablation == "optimal":
        raise MethodError(
            "A neuron of an expert is there only where the expert is chosen, so no one constant is learned for it with "
            "ablation='optimal'. Use counterfactual, zero, mean or resample, or whole experts."
        )
    if {"state", "taps"} & {*places} and ablation not in ("counterfactual", "zero", "resample"):
        raise MethodError(
            f"What a mixer carries is taken from a run that made it, and no run made a {ablation!r} of several. Use "
            "counterfactual, zero or resample."
        )
    if {"adapters", "gate"} & {*places} and ablation == "optimal":
        raise MethodError(
            "ablation='optimal' learns constants of what is written to the stream; adapters and gates act inside their "
            "block. Use zero, counterfactual, mean or resample."
        )
    if "pattern" not in places or ablation not in ("mean", "optimal"):
        return
    if ablation == "optimal":
        raise MethodError(
            "A pattern has as many weights as its prompt has positions, so there is no one constant to learn for "
            "ablation='optimal'. Use counterfactual, zero, mean or resample."
        )
    lengths = sorted({len(prompt) for prompt in (*source.prompts, *task.prompts)})
    if len(lengths) > 1:
        raise MethodError(
            f"The mean of patterns is taken cell by cell, so all prompts must have one length; these have {lengths[0]} "
            f"to {lengths[-1]} tokens. Choose pairs (and a reference) of one length, or another ablation."
        )

"""Ways of selecting edges by their scores, in words; a plain table. What each does exactly says `select`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """What a way of selecting ranks by where nothing else is asked for, and what it takes."""

    by: str
    description: str


#: `how` → the way of selecting.
HOW = {
    "connected": Way("abs_mean", "from the strongest on, each edge with the best way through it from input to logits"),
    "top": Way("importance", "the edges that support the behaviour most"),
    "abs": Way("abs_mean", "the strongest edges, helpful or harmful"),
    "greedy": Way("abs_mean", "from the logits backwards, the strongest edge into what is there already (as EAP-IG)"),
    "optimal": Way("importance", "the connected circuit of the largest total importance, as an integer program"),
}

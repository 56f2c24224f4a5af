"""Ways of scoring edges for a discovery, by name; a plain table."""

from __future__ import annotations

from veracausa.estimates.presets import EDGE_PRESETS

#: Beside the presets of edges: name → what is done.
FURTHER = {
    "ifr": "shares of what each reader sees, in the clean run (information flow routes)",
    "iterated": "gradients, taken anew in the shrinking circuit",
    "balanced": "the same, and f of the circuit is brought to 1 at every size",
    "settled": "the same down to the circuit's size, where edges return until it comes to rest",
    "guarded": "the same, each round also where an adversary has restored some of the others",
    "learned": "gates for all sizes, learned by descent",
    "matryoshka": "the same, as what suffices and as the cause; overshoot earns nothing (2609.25518)",
    "bottleneck": "noise on edges, priced by what comes through (after 2001.00396)",
    "adversarial": "gates for one size, with an adversary in every step",
    "edge-pruning": "gates for one size, on edges and nodes (Edge Pruning, 2406.16778)",
    "ugs": "a price for every edge, constants learned along (UGS, 2409.09951)",
    "discogp": "a price for every edge, zero ablation, nothing left without it (DiscoGP, 2407.03779)",
    "exact": "the exact effect of every edge",
}
#: Every way of scoring edges.
SCORED_BY = (*EDGE_PRESETS, *FURTHER)

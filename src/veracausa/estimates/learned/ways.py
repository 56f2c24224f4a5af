"""Ways of learning masks, by name; a plain table, so that the command line can ask for it."""

from __future__ import annotations

#: Name → in words, with its paper.
LEARNED_BY = {
    "share": "one size, by a multiplier on a log scale: ours, after Edge Pruning",
    "top-k": "all sizes in one run, by competition for k places: ours",
    "matryoshka": "all sizes in one run, both as what suffices and as the cause: 2609.25518",
    "adversarial": "one size, with an adversary in every step: ours",
    "edge-pruning": "one size, edges and nodes: Edge Pruning, 2406.16778",
    "ugs": "a price for every edge, constants learned along: UGS, 2409.09951",
    "discogp": "a price for every edge, zero ablation, nothing left without it: DiscoGP, 2407.03779",
    "bottleneck": "a price for every nat that comes through noise: information bottleneck, after 2001.00396",
    "node-pruning": "one size of nodes, by a Lagrangian as in Edge Pruning",
    "subnetwork-probing": "a price for every node: Cao, Sanh, Rush 2021, 2104.03514",
}

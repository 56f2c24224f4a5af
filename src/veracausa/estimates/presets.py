"""Published methods by name, as compositions of `parts`; plain tables, nothing that runs."""

from __future__ import annotations

from veracausa.estimates.method import Method

#: Published methods by name, on nodes.
PRESETS: dict[str, Method] = {
    "atp": Method(path="point"),
    "atp-star": Method(path="point", rule="qk-exact+graddrop"),
    "ig": Method(path="layer", combine="increments"),
    "eap-ig": Method(path="inputs", grid="published", nodes=5),
    "conductance": Method(path="inputs", combine="increments", grid="trapezoid", nodes=6),
    "ceap": Method(path="inputs", combine="left-increments", grid="trapezoid", nodes=6),
    "eap-gp": Method(path="gradpath", nodes=5),
    "gradpath-complete": Method(path="gradpath-complete", combine="increments", nodes=5),
    "expected-gradients": Method(path="draws", nodes=5),
    "geodesic-ig": Method(path="geodesic", combine="increments", nodes=5),
    "gim": Method(path="point", rule="gim"),
    "relp": Method(path="point", rule="relp"),
}

#: Every estimate of nodes by name: the presets, and the learned mask (`learned.masks`).
ESTIMATES = (*PRESETS, "mask")

#: Presets that score edges only → what to take for nodes.
EDGES_ONLY = {"eap": "atp", "eap-ig-activations": "ig", "ifr": "atp"}

#: Published methods by name, on edges.
EDGE_PRESETS: dict[str, Method] = {
    "eap": Method(path="point"),
    "qk-exact": Method(path="point", rule="qk-exact"),
    "eap-ig-activations": Method(path="layer", nodes=5),
    **{
        name: PRESETS[name]
        for name in (
            *("eap-ig", "conductance", "ceap", "eap-gp", "gradpath-complete", "expected-gradients", "geodesic-ig"),
            *("gim", "relp"),
        )
    },
}
#: Presets of nodes → what to take for edges.
NODES_ONLY = {"atp": "eap", "atp-star": "qk-exact", "ig": "eap-ig-activations"}

#: Method → who published it.
PAPERS = {
    "atp": "Nanda 2023; Syed et al. 2023, 2310.10348",
    "atp-star": "Kramár et al. 2024, 2403.00745",
    "ig": "Sundararajan et al. 2017, 1703.01365",
    "eap-ig": "Hanna et al. 2024, 2403.17806",
    "conductance": "Dhamdhere et al. 2018, 1805.12233",
    "ceap": "2606.16920",
    "eap-gp": "2502.06852",
    "gradpath-complete": "ours: GradPath that ends at the other prompt",
    "expected-gradients": "Erion et al. 2019, 1906.10670",
    "geodesic-ig": "2502.12108",
    "gim": "2505.17630",
    "relp": "2508.21258",
    "mask": "learned gates, Louizos et al. 2017, 1712.01312",
    "eap": "Syed et al. 2023, 2310.10348",
    "qk-exact": "Kramár et al. 2024, 2403.00745",
    "eap-ig-activations": "Hanna et al. 2024, 2403.17806",
    "ifr": "Ferrando & Voita 2024, 2403.00824",
}

"""Every preset's cost in token-layers equals what its definition says (the table in docs/methods.md)."""

import pytest

import veracausa as vc
from veracausa.estimates.parts import PATHS
from veracausa.estimates.presets import EDGE_PRESETS, PRESETS

# One pair of n = 6 tokens, L = 3 blocks, first difference at position 2: the suffix has S = 4 positions.
N, L, START = 6, 3, 2
S = N - START
RECORDED, UNSHARED = START * L + 2 * S * L, 2 * N * L


@pytest.fixture(scope="module")
def pair():
    return vc.Task("hand", ((1, 2, 3, 4, 5, 6),), ((1, 2, 9, 4, 5, 6),), ((7,),), ((8,),))


def passes(count, tokens=S):
    """Forward and backward token-layers of whole passes over `tokens` positions."""
    return count * tokens * L


M = 5
DESCENT = PRESETS["geodesic-ig"].descent
#: preset → (forward, backward), m = 5 points or steps where the preset has them.
COSTS = {
    "atp": (RECORDED, passes(1)),
    "gim": (RECORDED, passes(1)),
    "relp": (RECORDED, passes(1)),
    # the slope, the stream's gradients, and from each block's input down to the first
    "atp-star": (RECORDED, passes(2) + S * L * (L - 1) // 2),
    "ig": (RECORDED + passes(1) + S * (3 + 2 + 1) * (M + 1), S * (3 + 2 + 1) * M),
    "eap-ig": (RECORDED + passes(M), passes(M)),
    "expected-gradients": (RECORDED + passes(M), passes(M)),
    "conductance": (RECORDED + passes(M), passes(M)),
    "ceap": (RECORDED + passes(M), passes(M)),
    # the target's outputs once, then a pass for each direction and one for each point
    "eap-gp": (UNSHARED + passes(1 + 2 * M, N), passes(2 * M, N)),
    "gradpath-complete": (RECORDED + passes(1 + (M - 1) + (M + 1)), passes((M - 1) + (M + 1))),
    # a descent step: forward, gradient, and that gradient's own backward (2); then the points
    "geodesic-ig": (
        UNSHARED + passes((M + 1) * (1 + DESCENT) + (M + 1), N),
        passes(3 * (M + 1) * (1 + DESCENT) + (M + 1), N),
    ),
}


def test_every_preset_has_a_definition():
    assert set(COSTS) == set(PRESETS)


@pytest.mark.parametrize("name", COSTS)
def test_cost_in_token_layers(tiny, pair, name):
    nodes = M if PRESETS[name].path != "point" else None
    cost = vc.attribute(tiny("llama"), pair, method=name, nodes=nodes, show_progress=False).cost
    assert (cost.forward, cost.backward) == COSTS[name]
    assert vc.attribute.work(tiny("llama"), pair, method=name, nodes=nodes).tokens() == sum(COSTS[name])


def test_gauss_increments_pay_for_their_tangents(tiny, pair):
    method = vc.Method(path="inputs", combine="increments", grid="gauss", nodes=M)
    cost = vc.attribute(tiny("llama"), pair, method=method, show_progress=False).cost
    assert (cost.forward, cost.backward) == (RECORDED + 3 * passes(M), passes(M))
    assert vc.attribute.work(tiny("llama"), pair, method=method).tokens() == cost.token_layers


def test_a_unit_path_pays_for_every_unit(tiny, pair):
    cost = vc.attribute(tiny("llama"), pair, method=vc.Method(path="unit", nodes=M), units=["a0.h1", "a2.h3"],
                        show_progress=False).cost  # fmt: skip
    assert (cost.forward, cost.backward) == (RECORDED + passes(1) + S * (3 + 1) * (M + 1), S * (3 + 1) * M)


def test_every_path_says_what_it_costs():
    assert all(path.passes(vc.Method(path=name)) > 0 for name, path in PATHS.items())


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", EDGE_PRESETS)
def test_edges_cost_what_is_planned(tiny, task_of, name):
    lm, task, nodes = tiny("llama"), task_of((5, 7), n=3), {} if EDGE_PRESETS[name].path == "point" else {"nodes": 2}
    scores = vc.attribute(lm, task, units="edges", method=name, show_progress=False, **nodes)
    assert vc.attribute.work(lm, task, units="edges", method=name, **nodes).tokens() == scores.cost.token_layers


@pytest.mark.parametrize("path", ["layer", "unit"])
def test_units_at_positions_and_references_cost_what_is_planned(tiny, task_of, path):
    lm, task = tiny("llama"), task_of((6, 8), n=6)
    for units, baseline in (("heads@positions", "corrupted"), ("heads", "mean"), ("heads", "resample")):
        asked = {"units": units, "method": vc.Method(path=path, nodes=2, baseline=baseline)}
        scores = vc.attribute(lm, task, show_progress=False, **asked)
        assert vc.attribute.work(lm, task, **asked).tokens() == scores.cost.token_layers

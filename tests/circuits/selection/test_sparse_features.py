"""Circuits of features by Marks et al.'s definitions: against autograd on the plain model, and what is refused."""

import pytest
import torch
from laid_features import asked, dictionary, part_of, task_of
from naive_feature_circuit import Circuit
from tiny_models import VOCAB, mostly_slow, pairs

import veracausa as vc
from veracausa.errors import VeracausaError

QUIET = {"show_progress": False}


def laid(lm):
    """Dictionaries of two streams and of all that is between them, and one before: name → (ours, plain)."""
    sites = {"low": "m0", "stream": "r1", "att": "a1", "mlp": "m1", "top": "r2"}
    return {
        name: dictionary(lm.width, site, "relu", seed=5 + i, name=name) for i, (name, site) in enumerate(sites.items())
    }


def names_of(name):
    stem, _, at = name.partition("@")
    return stem.split(".")[1], part_of(name), int(at) if at else None


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", mostly_slow(["llama", "gpt_neox"], fast=("llama",)))
@pytest.mark.parametrize(
    ("method", "positions", "ablation", "upstream"),
    [
        ("ig", False, "counterfactual", "slope"), ("atp", True, "zero", "slope"), ("ig", True, "counterfactual", "run"),
        pytest.param("atp", False, "zero", "run", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_nodes_and_edges_are_those_of_the_definitions(family, method, positions, ablation, upstream):
    hf, lm, found, task = asked(family)
    pairs = laid(lm)
    lm = lm.reading(*(ours for ours, _ in pairs.values()))
    plain, nodes = {name: theirs for name, (_, theirs) in pairs.items()}, 3 if method == "ig" else 0
    how = {"method": method, "nodes": nodes or 1, "positions": positions, "ablation": ablation, "upstream": upstream}
    circuit = vc.circuits.feature_circuit(lm, task, node_threshold=1.0, edge_threshold=0.0, **how, **QUIET)
    naive = [Circuit(hf, family, pair, plain, nodes, ablation == "zero") for pair in found]
    for scores in circuit.nodes:
        for column, name in enumerate(scores.units.names):
            wanted = [one.node(*names_of(name)) for one in naive]
            # float64, a few blocks: rounding of logits of size 10 and less
            assert scores.values[:, column].tolist() == pytest.approx(wanted, abs=1e-8), name
    edges = dict(zip(zip(circuit.upstream, circuit.downstream, strict=True), circuit.values.T, strict=True))
    assert len(circuit.parts) > 5 and len(edges) > 10
    kept = circuit.parts[:8]
    for up in kept:
        for down in kept:
            (a, u, i), (b, d, j) = names_of(up), names_of(down)
            if a == b:
                continue
            edge = "run_edge" if upstream == "run" else "edge"
            wanted = [getattr(one, edge)(a, u, b, d, (i, j)) for one in naive]
            if (up, down) in edges:
                assert edges[up, down].tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-8), (up, down)
            else:  # against the stream, or past a dictionary of it
                assert wanted == pytest.approx([0, 0], abs=1e-12), (up, down)
    to_logits = [up for up, down in edges if down == "logits"]
    assert to_logits and all(".top." in up for up in to_logits)


def test_where_all_between_has_dictionaries_edges_go_along_the_stream_alone():
    _, lm, _, task = asked("llama")
    lm = lm.reading(*(ours for ours, _ in laid(lm).values()))
    circuit = vc.circuits.feature_circuit(lm, task, method="atp", node_threshold=0.5, edge_threshold=0, **QUIET)
    every = zip(circuit.upstream, circuit.downstream, strict=True)
    edges = [(u, d) for u, d in every if ".stream." in u and ".top." in d]
    direct = vc.estimates.feature_edges(lm, task, [f"{u}->{d}" for u, d in edges], **QUIET).values
    ends = [*zip(circuit.upstream, circuit.downstream, strict=True)]
    assert edges
    torch.testing.assert_close(circuit.values[:, [ends.index(edge) for edge in edges]], direct, rtol=0, atol=1e-8)


def test_the_circuit_is_run_by_part_curve_and_refusals():
    _, lm, _, task = asked("llama")
    bare, lm = lm, lm.reading(dictionary(lm.width, "r1", "relu", name="one")[0], dictionary(lm.width, "r2", "relu")[0])
    circuit = vc.circuits.feature_circuit(lm, task, method="atp", node_threshold=0.3, **QUIET)
    curve = vc.circuits.part_curve(lm, task, circuit, **QUIET)
    assert curve.sizes == (len(circuit.parts),) and set(curve.ranked[: len(circuit.parts)]) == {*circuit.parts}
    nothing = vc.circuits.feature_circuit(lm, task, method="atp", node_threshold=1e6, **QUIET)
    assert nothing.parts == () and not len(nothing.table()) and "0 parts of" in nothing.sentences[0]
    other = lm.reading(dictionary(lm.width, "n1", "relu", "m2", name="far")[0])
    for model, how, said in (
        (bare, {}, "No dictionary"), (lm, {"method": "eap"}, "ig"), (lm, {"nodes": 0}, "one node"),
        (lm, {"node_threshold": -1.0}, "0 or more"), (other, {}, "no edge leads"),
    ):  # fmt: skip
        with pytest.raises(VeracausaError, match=said):
            vc.circuits.feature_circuit(model, task, **how, **QUIET)


@pytest.mark.slow
def test_pairs_of_several_lengths_and_positions_are_those_of_each_alone():
    _, lm, found, _ = asked("llama")
    every = [*found, *pairs(VOCAB, 1, 8, 4)]
    lm = lm.reading(dictionary(lm.width, "r1", "relu", name="one")[0], dictionary(lm.width, "r2", "relu")[0])
    how = {"node_threshold": 0.0, "edge_threshold": 0, "method": "ig", "nodes": 2, **QUIET}
    both = vc.circuits.feature_circuit(lm, task_of(every), positions=True, **how)
    ends = [*zip(both.upstream, both.downstream, strict=True)]
    for i, pair in enumerate(every):
        alone = vc.circuits.feature_circuit(lm, task_of([pair]), positions=True, **how)
        own = dict(zip(zip(alone.upstream, alone.downstream, strict=True), alone.values[0].tolist(), strict=True))
        row = dict(zip(ends, both.values[i].tolist(), strict=True))
        assert own and all(row[edge] == pytest.approx(value, abs=1e-9) for edge, value in own.items())
        lacking = [edge for edge in ends if i < 2 and any(name.endswith(("@6", "@7")) for name in edge)]
        assert all(row[edge] != row[edge] for edge in lacking)  # NaN: the short pairs have no such positions


def test_a_curve_has_a_forecast():
    _, lm, _, task = asked("llama")
    lm = lm.reading(dictionary(lm.width, "r1", "relu")[0])
    scores = vc.attribute(lm, task, units="features", **QUIET)
    price = vc.forecast(vc.circuits.part_curve, lm, task, scores=scores, sizes=(2, 4))
    curve = vc.circuits.part_curve(lm, task, scores, sizes=(2, 4), **QUIET)
    assert price.token_layers == curve.cost.token_layers

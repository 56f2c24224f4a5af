"""Integrated gradients and circuits of features that write to several layers, against autograd on the bare model."""

import naive_cross_layer as plain
import pytest
import torch
from bridges import as_model
from tiny_models import VOCAB, make, mostly_slow, pairs
from transcoders import cross_layer, random_task

import veracausa as vc

QUIET = {"show_progress": False}
#: Family, where it is read, the place behind a post-norm where it is written.
CASES = [("llama", "n", ""), ("gpt2", "mid", ""), ("gemma2", "mid", ".post")]
NAMES = ["f0.3", "f1.2", "f1.error", "f2.7", "f0.error", "f0.7"]


def case(family, reads, post, **how):
    hf = make(family)
    lm = as_model(hf, family)
    own, theirs = cross_layer(lm.width, lm.layers, reads=reads, post=post)
    found = pairs(VOCAB, 2, 6, 3)
    return lm.reading(*own), [plain.Ways(hf, family, pair, theirs, reads, bool(post), **how) for pair in found]


def part(name):
    stem, _, at = name.partition("@")
    own = stem.split(".")[1]
    return int(stem[1]), own if own == "error" else int(own), *([int(at)] if at else [])


@pytest.mark.cases(1)
@pytest.mark.parametrize("of", mostly_slow(CASES, fast=CASES[:2]))
@pytest.mark.parametrize("how", [{}, {"zero": True}, {"noising": False}])
def test_paths_of_a_layer_and_of_single_features(of, how):
    """float64, three blocks: rounding of scores of 20 and less."""
    lm, naive = case(*of, **how)
    if how.get("noising", True):
        points, asked = [(k / 3, 1 / 3) for k in range(3)], {"baseline": "zero" if how else "corrupted"}
    else:  # "left" is the end of the other run
        points, asked = [(k / 3, 1 / 3) for k in range(1, 4)], {"direction": "denoising"}
    for path, names in (("layer", NAMES), ("unit", NAMES), ("layer", ["f0.5@4", "f1.error@5"])):
        method = vc.Method(path=path, grid="left" if how.get("noising", True) else "right", nodes=3)
        found = vc.attribute(lm, random_task(), units=names, method=method, **asked, **QUIET).values
        wanted = [[one.score(*part(n)[:2], points, *part(n)[2:], alone=path == "unit") for n in names] for one in naive]
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=found.dtype), rtol=0, atol=1e-10)
        assert float(found.abs().max()) > 1e-2


@pytest.mark.parametrize("baseline", ["corrupted", "mean"])
def test_scores_of_a_layer_add_up_to_what_all_of_it_does(baseline):
    lm, naive = case(*CASES[1])
    found = vc.attribute(lm, random_task(), units="features", method="ig", nodes=64, baseline=baseline, **QUIET)
    how = {"units": "features", "method": "ig", "nodes": 64, "baseline": baseline}
    assert vc.forecast(vc.attribute, lm, random_task(), measure=False, **how).token_layers == found.cost.token_layers
    both = found.completeness
    torch.testing.assert_close(both.claimed, both.true, rtol=0, atol=1e-3)  # of 4: kinks at 64 Gauss points
    if baseline == "corrupted":
        wanted = [[one.added(one.whole(layer)) - one.added({}) for one in naive] for layer in range(3)]
        torch.testing.assert_close(both.true, torch.tensor(wanted, dtype=both.true.dtype), rtol=0, atol=1e-10)
    few = vc.attribute(lm, random_task(), units=NAMES, method="ig", nodes=64, baseline=baseline, **QUIET)
    same = [found.units.names.index(name) for name in NAMES if name in found.units.names]
    kept = [i for i, name in enumerate(NAMES) if name in found.units.names]
    torch.testing.assert_close(few.values[:, kept], found.values[:, same], rtol=0, atol=1e-10)


def test_increments_along_the_input_encode_anew():
    lm, naive = case(*CASES[0])
    method = vc.Method(path="inputs", combine="increments", grid="trapezoid", nodes=4)
    found = vc.attribute(lm, random_task(), units=NAMES, method=method, **QUIET).values
    wanted = [[one.along_input(*part(name), 3) for name in NAMES] for one in naive]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=found.dtype), rtol=0, atol=1e-10)


@pytest.mark.parametrize("of", mostly_slow(CASES, fast=CASES[:1]))
@pytest.mark.parametrize(
    ("method", "upstream", "ablation"),
    [("ig", "slope", "counterfactual"), ("ig", "run", "zero"), ("atp", "slope", "zero")],
)
def test_circuits_are_those_of_the_definitions(of, method, upstream, ablation):
    """MLPs, which all have a part of the transcoder, give what they gave; attentions between answer."""
    lm, naive = case(*of, zero=ablation == "zero")
    how, nodes = {"upstream": upstream, "ablation": ablation, "most": 12}, 3 if method == "ig" else 0
    circuit = vc.circuits.feature_circuit(
        lm, random_task(), node_threshold=0.02, edge_threshold=0, method=method, nodes=nodes or 1, **how, **QUIET
    )
    edges = dict(zip(zip(circuit.upstream, circuit.downstream, strict=True), circuit.values.T, strict=True))
    inner = [(u, d) for u, d in edges if d != "logits"]
    assert len(inner) > 10 and not any("error" in d for _, d in inner)
    assert {u for u, d in edges if d == "logits"} <= {name for name in circuit.parts if name[1] == "2"}
    for u, d in inner[::3]:
        wanted = [one.edge(part(u), part(d), nodes, run_it=upstream == "run") for one in naive]
        assert edges[u, d].tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-10), (u, d)
    curve = vc.circuits.part_curve(lm, random_task(), circuit, **QUIET)
    assert curve.sizes[0] == len(circuit.parts)


def test_mean_slopes_of_the_reader_of_an_edge():
    lm, naive = case(*CASES[1])
    names = ["f0.3->...->f1.2", "f0.error->...->f2.7", "f0.6->...->f1.6", "f1.3->...->f2.0"]
    found = vc.estimates.feature_edges(lm, random_task(), names, method="ig", nodes=3, **QUIET).values
    ends = [[part(end) for end in name.split("->...->")] for name in names]
    wanted = [[one.edge(up, down, 3, live="everything") for up, down in ends] for one in naive]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=found.dtype), rtol=0, atol=1e-10)
    assert int((found.abs() > 1e-3).sum()) > 1

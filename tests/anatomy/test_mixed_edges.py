"""Edges with mixers against runs put together by hand, write by write (`naive_mixed_edges`)."""

import naive_mixed_edges as naive
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.anatomy.graph import Graph
from veracausa.circuits.exchange.eap_json import write_eap_json
from veracausa.circuits.exchange.neuronpedia import write_neuronpedia
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.circuits.wiring import nodes_of
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import CircuitError, UnitError
from veracausa.tasks.task import Task

QUIET = {"show_progress": False}
FAMILIES = list(naive.LAYOUTS)
FAST = ("mamba", "mamba2", "nemotron_h", "falcon_h1")
#: Scans of heads compute in float32, whatever the model is in.
CLOSE = 1e-6


@pytest.fixture(scope="module", params=tiny_models.mostly_slow(FAMILIES, FAST))
def both(request):
    """(model, task, edges by hand)."""
    return made(request.param)


def made(family, length=9, **over):
    lm = as_model(tiny_models.make(family, seed=1, **over), family)
    pair = tiny_models.pairs(family, 1, length)[0]
    by_hand = naive.NaiveEdges(naive.Naive(lm.hf, family, lm.decoder.mixer_heads), *pair)
    task = Task("t", (tuple(pair.clean),), (tuple(pair.corrupted),), ((pair.correct,),), ((pair.incorrect,),))
    return lm, task, by_hand


def numbers(scores, table):
    return scores.values[0], torch.tensor([table[name] for name in scores.units.names], dtype=torch.float64)


@pytest.mark.cases(2)
def test_graphs_hold_the_same_edges_and_effects_are_theirs(both):
    lm, task, by_hand = both
    scores = vc.exact(lm, task, units="edges", **QUIET)
    assert scores.units.names == by_hand.naive.edges
    ours, true = numbers(scores, {name: by_hand.effect(name) for name in by_hand.naive.edges})
    assert true.abs().max() > 0.5 and torch.allclose(ours, true, atol=CLOSE)


@pytest.mark.parametrize(("method", "grid"), [("eap", [0.0]), ("eap-ig", [1.0, 0.8, 0.6, 0.4, 0.2])])
def test_gradient_estimates(both, method, grid):
    """The difference is (corrupted − clean) everywhere; gradients are taken from the corrupted end on."""
    lm, task, by_hand = both
    table = by_hand.slopes(dict.fromkeys(grid, 1 / len(grid)))
    ours, true = numbers(vc.attribute(lm, task, units="edges", method=method, **QUIET), table)
    assert true.abs().max() > 0.5 and torch.allclose(ours, true, atol=CLOSE)


def test_circuits_carry_the_corrupted_writes_elsewhere(both):
    lm, task, by_hand = both
    graph, rng = lm.graph, np.random.default_rng(0)
    masks = [all_edges_mask(graph) & (rng.random((graph.readers, graph.writers)) < share) for share in (0.5, 0.8, 0.95)]
    ours = run_circuits(lm, task, masks, **QUIET).metric[:, 0].tolist()
    names, (writer, reader) = by_hand.naive.edges, graph.edges
    true = [by_hand.circuit({name for name, kept in zip(names, mask[reader, writer], strict=True) if kept})
            for mask in masks]  # fmt: skip
    assert ours == pytest.approx(true, abs=CLOSE)
    ends = run_circuits(lm, task, [all_edges_mask(graph), np.zeros_like(masks[0])], **QUIET).metric[:, 0].tolist()
    assert ends == pytest.approx([float(by_hand.metric(run)) for run in (by_hand.clean, by_hand.other)], abs=CLOSE)


def test_edges_at_positions_add_up_to_the_estimate_and_stay_there(both):
    """Estimates sum over positions; an edge into a mixer at one position lets the reader see the change there alone."""
    lm, task, by_hand = both
    whole = vc.attribute(lm, task, units="edges", method="eap", **QUIET)
    parts = vc.attribute(lm, task, units="edges@positions", method="eap", **QUIET)
    summed = parts.values[0].nan_to_num().reshape(len(whole.units), -1).sum(1)
    assert torch.allclose(summed, whole.values[0], atol=CLOSE)
    one = next(part for part in by_hand.naive.parts if part.kind == "mixer")
    edge, at = f"input->{one.readers[0]}", next(i for i in range(9) if task.clean[0][i] != task.corrupted[0][i])
    change = torch.zeros_like(by_hand.embedded)
    change[:, at] = (by_hand.other.writes["input"] - by_hand.embedded)[:, at]

    def see(reader, place, stream, writes):
        return stream + change if reader == one.readers[0] else stream

    with torch.no_grad():
        true = by_hand.metric(by_hand.naive.run(by_hand.embedded, see)) - by_hand.metric(by_hand.clean)
    ours = float(vc.exact(lm, task, units=[f"{edge}@{at}"], **QUIET).values)
    assert abs(float(true)) > 1e-3 and ours == pytest.approx(float(true), abs=CLOSE)


def alone(by_hand, changes):
    """What readers' writers write otherwise where each of `changes` (reader → change of its input) alone is seen."""

    def see(reader, place, stream, writes):
        return stream + changes.get(reader, 0.0)

    with torch.no_grad():
        return by_hand.naive.run(by_hand.embedded, see)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(("mamba", "mamba2", "bamba", "nemotron_h"), ("mamba2",)))
def test_paths_through_mixers(family):
    """A chain hands on what each mixer writes otherwise, and nothing else; along `...` everything behind sees it."""
    lm, task, by_hand = made(family)
    mixers = [part for part in by_hand.naive.parts if part.kind == "mixer"]
    first, last = mixers[0], mixers[-1]
    sender, base = first.writers[-1], by_hand.clean
    sent = by_hand.other.writes[sender] - base.writes[sender]
    seen = alone(by_hand, {last.readers[0]: sent})
    written = written_by(seen, base, last)
    end = alone(by_hand, {"logits": written})
    ours = vc.exact(lm, task, units=[f"{sender}->{last.readers[0]}->logits"], **QUIET)
    assert float(ours.values) == pytest.approx(float(by_hand.metric(end) - by_hand.metric(base)), abs=CLOSE)
    # through everything, up to the last mixer; and what it writes otherwise goes into the logits alone
    running = streamed(by_hand, by_hand.naive.parts.index(first), sent)
    place = by_hand.naive.parts.index(last)
    seen = alone(by_hand, {last.readers[0]: running.streams[place] + sent - base.streams[place]})
    written = written_by(seen, base, last)
    ends = running, alone(by_hand, {"logits": written})
    asked = [f"{sender}->...->logits", f"{sender}->...->{last.readers[0]}->logits"]
    ours = vc.exact(lm, task, units=asked, **QUIET).values[0].tolist()
    assert ours == pytest.approx([float(by_hand.metric(one) - by_hand.metric(base)) for one in ends], abs=CLOSE)
    # along one edge to the last mixer, and from there through everything
    path = f"{sender}->{last.readers[0]}->...->logits"
    joined = streamed(by_hand, place, written_by(alone(by_hand, {last.readers[0]: sent}), base, last))
    ours = float(vc.exact(lm, task, units=[path], **QUIET).values)
    assert ours == pytest.approx(float(by_hand.metric(joined) - by_hand.metric(base)), abs=CLOSE)


def written_by(run, base, part):
    """What a sublayer writes otherwise."""
    return sum(run.writes[name] - base.writes[name] for name in part.writers)


def streamed(by_hand, place, change):
    """A run in which the stream behind a sublayer is changed for everything behind it."""
    embedded, naive_run = by_hand.embedded, by_hand.naive

    def see(reader, at, stream, writes):
        return stream + change if at > place else stream

    with torch.no_grad():
        return naive_run.run(embedded, see)


def test_paths_of_mixers_that_cannot_be(task_of):
    lm = made("mamba2")[0]
    for path, words in {
        "x0->x1.h2->logits": r"x1\.h2 reads nothing \(the mixer reads as a whole: x1\)",
        "x0.h4->x1->logits": "a mixer has 4 heads that write apart",
        "a0.h1->x1->logits": "there is no a0.h1; block 0 has no attention",
        "x0->m1->logits": "there is no m1; block 1 has no MLP",
        "x1->x0->logits": "writes to the stream only behind what x0 reads",
    }.items():
        with pytest.raises(UnitError, match=words):
            vc.exact(lm, task_of(6), units=[path], **QUIET)


@pytest.mark.cases(2)
def test_circuits_are_found_kept_and_drawn(both, tmp_path):
    lm, task, by_hand = both
    scores = vc.attribute(lm, task, units="edges", method="eap", **QUIET)
    n = max(7, len(scores.units) // 3)
    for how in ("top", "greedy", "connected", "optimal"):
        circuit = vc.select(scores, n=n, how=how, by="abs_mean")
        assert len(circuit) and set(circuit.names) <= set(by_hand.naive.edges)
        assert by_hand.circuit(set(circuit.names)) == pytest.approx(
            float(run_circuits(lm, task, [circuit.mask], **QUIET).metric), abs=CLOSE
        )
    writers = {name for part in by_hand.naive.parts for name in part.writers} | {"input", "logits"}
    assert set(nodes_of(circuit.graph, circuit.mask)) <= writers
    assert vc.open(circuit.save(tmp_path / "circuit.json")).names == circuit.names
    assert vc.open(scores.save(tmp_path / "scores.safetensors")).units.graph == lm.graph
    assert circuit.prune().names and vc.faithfulness(lm, task, circuit, **QUIET).f is not None
    assert circuit.chart() is not None and len(circuit.to_networkx()) <= len(writers)
    with pytest.raises(CircuitError, match=r"has mixers, for which it has no word"):
        write_neuronpedia(lm, tmp_path / "np.json", circuit=circuit, task=task)
    with pytest.raises(CircuitError, match=r"has mixers, for which it has no word"):
        write_eap_json(lm, tmp_path / "eap.json", circuit=circuit)


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", ["eap-ig", "iterated"])
def test_discoveries_hold_what_runs_by_hand_give(both, method):
    """The circuit that is found restores what a run put together by hand restores; a ranking by iteration has all."""
    lm, task, by_hand = both
    n = len(lm.graph.edges[0]) // 2
    found = vc.discover(lm, task, method=method, edges=n, sizes=[0.5, 1.0], top=2, sample=2, **QUIET)
    clean, other = (float(by_hand.metric(run)) for run in (by_hand.clean, by_hand.other))
    theirs = (by_hand.circuit(set(found.circuit.names)) - other) / (clean - other)
    assert vc.faithfulness(lm, task, found.circuit, **QUIET).f == pytest.approx(theirs, abs=CLOSE)
    assert set(found.circuit.names) <= set(by_hand.naive.edges)


@pytest.mark.cases(1)
@pytest.mark.parametrize("ablation", ["zero", "mean", "optimal"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(("mamba2", "nemotron_h"), ("nemotron_h",)))
def test_constants_stand_in_the_place_of_edges(family, ablation, task_of):
    lm, task = made(family)[0], task_of(8, n=3)
    whole = all_edges_mask(lm.graph)
    found = run_circuits(lm, task, [whole, np.zeros_like(whole)], ablation=ablation, **QUIET)
    assert torch.allclose(found.metric[0], lm.measure(task).clean.to(found.metric), atol=1e-5)
    assert float(found.metric[1].std()) == pytest.approx(0, abs=1e-6 if ablation == "zero" else 10)


def test_zeros_in_the_place_of_edges(both):
    lm, task, by_hand = both
    graph, names = lm.graph, by_hand.naive.edges
    mask = all_edges_mask(graph) & (np.random.default_rng(1).random((graph.readers, graph.writers)) < 0.8)
    kept = {name for name, one in zip(names, mask[graph.edges[1], graph.edges[0]], strict=True) if one}
    ours = float(run_circuits(lm, task, [mask], ablation="zero", **QUIET).metric)
    assert ours == pytest.approx(by_hand.circuit(kept, zero=True), abs=CLOSE)


def test_graphs_of_several_shapes():
    graph = Graph(4, 2, 1, mixer_heads=2, blocks=("x", "m", "a", "xm"))
    assert graph.writer_names == ["input", "x0.h0", "x0.h1", "m1", "a2.h0", "a2.h1", "x3.h0", "x3.h1", "m3"]
    assert graph.reader_names == ["x0", "m1", "a2.h0<q>", "a2.h1<q>", "a2.kv0<k>", "a2.kv0<v>", "x3", "m3", "logits"]
    assert [int((graph.writer_order <= order).sum()) for order in graph.reader_order] == [1, 3, 4, 4, 4, 4, 6, 8, 9]
    whole = all_edges_mask(graph)
    assert graph.reached(whole).all() and graph.leading(whole).all()
    lonely = np.zeros_like(whole)
    lonely[graph.reader_names.index("x3"), graph.writer_names.index("m1")] = True
    assert not graph.leading(lonely)[:-1].any() and graph.reached(lonely).sum() == 1


@pytest.mark.parametrize("family", tiny_models.mostly_slow(("mamba2", "bamba", "nemotron_h"), ("nemotron_h",)))
def test_gradients_where_a_site_moves(family):
    """eap-ig-activations: all writers of a sublayer move together, and everything behind them follows."""
    lm, task, by_hand = made(family)
    nodes, weights = np.polynomial.legendre.leggauss(5)
    ours = vc.attribute(lm, task, units="edges", method="eap-ig-activations", **QUIET)
    true = dict.fromkeys(ours.units.names, 0.0)
    for place, part in [(-1, None), *enumerate(by_hand.naive.parts)]:
        writers = ["input"] if part is None else part.writers
        changes = {name: by_hand.other.writes[name] - by_hand.clean.writes[name] for name in writers}
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            gradients = moved_gradients(by_hand, place, node * sum(changes.values()))
            for edge in true:
                writer, reader = edge.split("->")
                if writer in changes:
                    true[edge] += float(weight * (gradients[reader] * changes[writer]).sum())
    ours, wanted = numbers(ours, true)
    assert wanted.abs().max() > 0.5 and torch.allclose(ours, wanted, atol=CLOSE)


def moved_gradients(by_hand, place, change):
    """∂M/∂(what each reader sees) where the stream behind a sublayer is changed."""
    leaves = {}

    def see(reader, at, stream, writes):
        leaves[reader] = torch.zeros_like(stream, requires_grad=True)
        return stream + leaves[reader] + (change if at > place else 0.0)

    run = by_hand.naive.run(by_hand.embedded, see)
    return dict(zip(leaves, torch.autograd.grad(by_hand.metric(run), [*leaves.values()]), strict=True))


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", ["qk-exact", "ifr", "ceap", "eap-gp", "expected-gradients", "geodesic-ig"])
def test_other_estimates_take_mixers(method, task_of):
    """All edges get a number; what is recomputed of patterns is that of attention, and edges into mixers are eap's."""
    lm, task = made("nemotron_h")[0], task_of([7, 8], n=3)
    scores = vc.attribute(lm, task, units="edges", method=method, **QUIET)
    some = (scores.values != 0).any(0).double().mean()  # a share of the input is never below zero, and may be clipped
    assert torch.isfinite(scores.values).all() and some == 1 if method != "ifr" else some > 0.9
    if method == "qk-exact":
        plain = vc.attribute(lm, task, units="edges", method="eap", **QUIET)
        other = np.array([not name.endswith(("<q>", "<k>")) for name in scores.units.names])
        assert torch.allclose(scores.values[:, other], plain.values[:, other])
        assert not torch.allclose(scores.values[:, ~other], plain.values[:, ~other])

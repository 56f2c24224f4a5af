"""ACDC against the plain loop over whole circuits, and what never changes its answer."""

from functools import cache

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import CircuitError, MethodError, NumericsError
from veracausa.ground_truth import load_compiled


def search(lm, task, **options):
    return vc.circuits.acdc(lm, task, **({"tau": 0.02, "show_progress": False} | options))


@pytest.fixture(scope="module")
def small(tiny):
    """`small(family)`: a model of two layers with two heads each."""

    @cache
    def build(family):
        layers = {"layer_types": ["sliding_attention", "full_attention"]} if family.startswith("gemma") else {}
        return tiny(family, num_attention_heads=2, hidden_size=16, num_hidden_layers=2, **layers)

    return build


def plainly(lm, task, tau, loss="kl", order="late", edges=None):
    """Names kept, in the graph's order, by one run of `run_circuits` per edge.

    `edges`: those to begin with, (reader, writer) as they are tried.
    """
    graph = lm.graph

    def value(mask):
        found = run_circuits(lm, task, [mask], show_progress=False)
        if loss == "kl":
            return float(found.kl[0].mean())
        return -float(found.metric[0].mean() / found.measured.gap.mean())

    mask = all_edges_mask(graph)
    if edges is not None:
        mask[:] = False
        mask[tuple(np.transpose(edges))] = True
    here = value(mask)
    if edges is None:
        writers = range(graph.writers)[:: -1 if order == "late" else 1]
        edges = [(r, w) for r in reversed(range(graph.readers)) for w in writers if graph.sees(r, w)]
    for reader, writer in edges:
        mask[reader, writer] = False
        there = value(mask)
        if there - here < tau:
            here = there
        else:
            mask[reader, writer] = True
    names = [f"{graph.writer_names[w]}->{graph.reader_names[r]}" for r, w in np.argwhere(mask)]
    return names, here


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("family", "loss", "order", "tau"),
    [
        ("llama", "kl", "late", 0.02),
        ("gpt_neox", "metric", "early", 0.05),
        pytest.param("gemma3", "kl", "early", 0.02, marks=pytest.mark.slow),
    ],
)
def test_the_circuit_is_that_of_the_plain_loop(small, task_of, family, loss, order, tau):
    lm, task = small(family), task_of((5, 6), n=2, seed=4)
    ours = search(lm, task, tau=tau, loss=loss, order=order, prune=False)
    names, value = plainly(lm, task, tau, loss, order)
    assert ours.names == names
    assert 0 < len(ours) < lm.graph.size
    assert f"{value:.4g} with the edges taken" in " ".join(ours.notes)
    assert (ours.importance >= tau).all()


@pytest.mark.parametrize("loss", ["kl", "metric"])
@pytest.mark.parametrize(
    "name",
    [
        *("frac_prevs", "histogram", "pair_balance"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("sort", "reverse", "double_histogram")),
    ],
)
def test_the_true_edges_of_a_compiled_program_and_no_others(name, loss):
    """τ far above rounding and far below the effect of a true edge, half of the gap."""
    lm, program = load_compiled(name)
    assert set(search(lm, program.task(n=24), tau=1e-3, loss=loss).names) == program.edges


def test_it_may_begin_within_a_circuit(small, task_of):
    """Of the whole graph's circuit nothing is lost by beginning with it; of a random one only own edges are kept."""
    lm, task = small("llama"), task_of((5, 6), n=2)
    whole = search(lm, task, prune=False)
    assert search(lm, task, prune=False, start=vc.Circuit.of(lm.graph, *lm.graph.edges)).names == whole.names
    some = np.sort(np.random.default_rng(0).permutation(lm.graph.size)[:40])
    start = vc.Circuit.of(lm.graph, lm.graph.edges[0][some], lm.graph.edges[1][some])
    inside = search(lm, task, start=start, tau=1e-6, prune=False)
    assert set(inside.names) <= set(start.names) and inside.settings["begun"] == 40
    other = small("gpt_neox")
    with pytest.raises(CircuitError):
        search(other, task, start=start)


def test_order_changes_the_answer_and_is_said(small, task_of):
    lm, task = small("llama"), task_of(6, n=1)
    late, early = (search(lm, task, order=order) for order in ("late", "early"))
    assert late.names != early.names
    assert late.settings["order"] == "late" and "latest writer first" in repr(late)


@pytest.mark.cases(1)
@pytest.mark.parametrize("order", ["random", "weakest"])
def test_all_edges_in_one_order_are_the_plain_loop_over_them(small, task_of, order):
    lm, task = small("llama"), task_of(6, n=1, seed=4)
    some = np.sort(np.random.default_rng(2).permutation(lm.graph.size)[: lm.graph.size // 2])
    importance = np.random.default_rng(3).normal(size=len(some))
    start = vc.Circuit.of(lm.graph, lm.graph.edges[0][some], lm.graph.edges[1][some], importance=importance)
    ours = search(lm, task, order=order, seed=5, start=start, tau=0.002, prune=False)
    if order == "weakest":
        tried = np.argsort(np.abs(start.importance), kind="stable")
    else:
        tried = np.random.default_rng(5).permutation(len(some))
    ends = [(int(start.edges.reader[i]), int(start.edges.writer[i])) for i in tried]
    assert ours.names == plainly(lm, task, 0.002, edges=ends)[0]
    assert 0 < len(ours) < len(some) and ours.settings.get("seed") == (5 if order == "random" else None)


def test_another_order_does_not_go_on_from_kept_pieces(small, task_of, tmp_path):
    lm, task = small("llama"), task_of(6, n=1)
    writer, reader = lm.graph.edges
    one, other = (
        vc.Circuit.of(lm.graph, writer, reader, importance=np.random.default_rng(seed).normal(size=len(writer)))
        for seed in (0, 1)
    )
    search(lm, task, order="weakest", start=one, out=tmp_path)
    again = search(lm, task, order="weakest", start=other, out=tmp_path)
    assert again.names == search(lm, task, order="weakest", start=other).names


def test_a_circuit_like_any_other(small, task_of, tmp_path):
    lm, task = small("llama"), task_of((5, 6), n=2)
    circuit = search(lm, task, tau=0.05)
    assert circuit.method == "acdc" and "forward passes" in repr(circuit)
    found = vc.faithfulness(lm, task, circuit, show_progress=False)
    assert 0 < found.edges < lm.graph.size
    assert vc.open(circuit.save(tmp_path / "acdc.json")).names == circuit.names
    tight = search(lm, task, tau=1e-6)
    assert len(tight) > len(circuit)  # a lower bar drops less


def test_an_interrupted_search_goes_on(small, task_of, tmp_path, monkeypatch):
    from veracausa.circuits.selection import acdc

    lm, task = small("llama"), task_of((5, 6), n=2)
    whole, attempt, left = search(lm, task), acdc._Search.attempt, [40]

    def stop(self, edge, tau):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return attempt(self, edge, tau)

    with monkeypatch.context() as patch:
        patch.setattr(acdc._Search, "attempt", stop)
        with pytest.raises(KeyboardInterrupt):
            search(lm, task, out=tmp_path)
    tried = []
    with monkeypatch.context() as patch:
        patch.setattr(acdc._Search, "attempt", lambda self, edge, tau: tried.append(edge) or attempt(self, edge, tau))
        again = search(lm, task, out=tmp_path)
    assert again.names == whole.names and len(tried) == lm.graph.size - 39
    assert again.importance == pytest.approx(whole.importance)


def test_chunks_change_nothing(small, task_of, monkeypatch):
    lm, task = small("gemma2"), task_of(6, n=2)
    before = search(lm, task)
    monkeypatch.setattr("veracausa.circuits.runs.recorded.rows_per_chunk", lambda *_: 1)
    assert search(lm, task).names == before.names


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"tau": 0}, "tau=0"),
        ({"tau": float("inf")}, "tau=inf"),
        ({"loss": "mse"}, "mse"),
        ({"order": "luck"}, "luck"),
        ({"order": "weakest"}, "start="),
    ],
)
def test_what_means_nothing_is_refused(tiny, task_of, options, word):
    with pytest.raises(MethodError, match=word):
        search(tiny("llama"), task_of(6), **options)


def test_nan_is_an_error(tiny, task_of):
    lm, task = tiny("llama", fresh=True), task_of(6)
    with torch.no_grad():
        lm.decoder.blocks[1].mlp_out.weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="block 1"):
        search(lm, task)

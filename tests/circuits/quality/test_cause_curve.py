"""Cause curves: against the naive reference, against circuits' own runs, and on answers that are known."""

from dataclasses import replace

import naive_circuit
import numpy as np
import pytest
import torch
from flipping import flipping

import veracausa as vc
from veracausa.circuits.ranked import Ranked
from veracausa.cost import Cost
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import GapError, MethodError, UnitError
from veracausa.tasks.measurement import Measurement

QUIET = {"show_progress": False}


def scored(lm, task, units="edges"):
    return vc.attribute(lm, task, units=units, method="eap" if units == "edges" else "atp", **QUIET)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_metrics_are_those_of_the_naive_reference(tiny, task_of, agree, family):
    """1e-9 of the gap in float64 (conftest.EXACT); edges, and nodes with all their edges out."""
    lm = tiny(family)
    task = flipping(lm, task_of((5, 6), n=2))
    for scores, sizes in ((scored(lm, task), (3, 40)), (scored(lm, task, "mlps"), (1, 2))):
        found = vc.circuits.cause_curve(lm, task, scores, sizes=sizes, inputs=True, **QUIET)
        for size, metric in zip(sizes, found.metric, strict=True):
            mask = np.array(all_edges_mask(lm.graph))
            for i in np.argsort(-scores.importance().numpy(), kind="stable")[:size]:
                name = scores.units.names[i]
                if "->" in name:
                    writer, reader = name.split("->")
                    mask[lm.graph.reader_names.index(reader), lm.graph.writer_names.index(writer)] = False
                else:
                    mask[:, lm.graph.writer_names.index(name)] = False
            agree(metric, naive_circuit.metrics(lm, task, mask), found.measured.gap)


def test_every_size_is_faithfulness_of_the_other_edges_and_ends_are_the_bare_runs(tiny, task_of):
    lm = tiny("llama")
    task = flipping(lm, task_of((5, 6), n=3))
    scores = scored(lm, task)
    found = vc.circuits.cause_curve(lm, task, scores, inputs=True, **QUIET)
    assert found.sizes[:3] == (1, 2, 5) and found.sizes[-1] == found.of == lm.graph.size
    rest = np.array(scores.ranking("importance"))[found.sizes[2] :]
    circuit = vc.Circuit.of(lm.graph, scores.units.writer[rest], scores.units.reader[rest])
    assert torch.equal(found.metric[2], vc.faithfulness(lm, task, circuit, **QUIET).metric)
    assert torch.equal(found.metric[-1], found.measured.corrupted) and float(found.flipped[-1]) == 1
    assert found.can_flip.all() and found.reach(0.5).at <= found.reach(0.9).at <= found.of


def test_edges_out_of_the_input_stay_clean_unless_asked_for(tiny, task_of):
    """All other edges patched: the circuit of the input's edges alone."""
    lm = tiny("llama")
    task = flipping(lm, task_of(6, n=2))
    found = vc.circuits.cause_curve(lm, task, scored(lm, task), **QUIET)
    assert found.of == lm.graph.size - int(all_edges_mask(lm.graph)[:, 0].sum())
    own = vc.faithfulness(lm, task, vc.Circuit.of_nodes(lm, ["input"]), **QUIET)
    assert torch.equal(found.metric[-1], own.metric)


def made(metric, clean=1.0, corrupted=-1.0, sizes=(1, 10, 100)):
    """A curve whose metrics are given, [sizes, pairs]."""
    metric = torch.tensor(metric, dtype=torch.float64)
    ones = torch.ones(metric.shape[1], dtype=torch.float64)
    header = {"name": "made", "description": "made", "digest": "", "metric": "logit_diff", "n": metric.shape[1]}
    ends = Measurement(ones * torch.tensor(clean), ones * torch.tensor(corrupted))
    origin = {"name": "", "source": "", "identity": ""}
    return vc.circuits.CauseCurve(
        "made", "edges", sizes[-1], sizes, metric, ends, Cost(), origin, header, {"ablation": "counterfactual"}
    )


def test_flips_are_counted_among_pairs_that_can_flip():
    """Two of four pairs flip at 10, all at 100; a fifth prefers the same answer in both runs and counts for nothing."""
    rows = [[1.0, 2.0, 0.5, 0.1, -5.0], [-1.0, -0.1, 0.1, 0.1, -5.0], [-1.0, -1.0, -1.0, -1.0, -5.0]]
    found = made(rows, clean=[1.0, 1.0, 1.0, 1.0, -1.0])
    assert found.flipped.tolist() == [0, 0.5, 1] and int(found.can_flip.sum()) == 4
    assert found.reach(0.5) == (1, 10, None) and found.reach(0.9) == (10, 100, None)
    assert found.area == pytest.approx(0.5 * (0.25 + 0.75))  # two equal steps of log k, trapezoids 0–½ and ½–1
    assert made(rows[:2], sizes=(1, 10)).reach(0.9).at is None
    assert "at no size up to 10" in made([row[:4] for row in rows[:2]], sizes=(1, 10)).sentences[0]
    inverted = made([[-1.0], [1.0]], clean=-1.0, corrupted=1.0, sizes=(1, 2))
    assert inverted.flipped.tolist() == [0, 1]  # from the wrong answer to the right one is a flip, too


def test_a_reach_has_an_interval_over_draws_of_pairs():
    """20 pairs, of which the first 11 flip at 1 and the others at 100: in many draws fewer than half have flipped."""
    first = [-1.0] * 11 + [1.0] * 9
    found = made([first, first, [-1.0] * 20]).reach(0.5)
    assert found.at == 1 and found.interval == (1, 100)


def test_an_interrupted_curve_goes_on(tiny, task_of, tmp_path, monkeypatch):
    """The second call runs the buckets that were not finished, and gives the same numbers."""
    lm = tiny("llama")
    task = flipping(lm, task_of((5, 9), n=4))
    scores, how = scored(lm, task), {"sizes": (1, 10), **QUIET}
    whole = vc.circuits.cause_curve(lm, task, scores, **how)
    from veracausa.circuits.runs import run_circuits

    done, bucket = [], run_circuits._bucket

    def counted(*given):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(given)
        return bucket(*given)

    monkeypatch.setattr(run_circuits, "circuit_buckets", lambda *_, **__: [(0, (0, 2)), (0, (1, 3))])
    monkeypatch.setattr(run_circuits, "_bucket", counted)
    with pytest.raises(KeyboardInterrupt):
        vc.circuits.cause_curve(lm, task, scores, out=tmp_path, **how)
    done[:] = []
    again = vc.circuits.cause_curve(lm, task, scores, out=tmp_path, **how)
    assert len(done) == 1
    torch.testing.assert_close(again.metric, whole.metric, rtol=0, atol=1e-9)  # other buckets than the whole call's
    torch.testing.assert_close(again.measured.clean, whole.measured.clean, rtol=0, atol=1e-9)
    third = vc.circuits.cause_curve(lm, task, scores, out=tmp_path, **how)
    assert len(done) == 1 and torch.equal(third.metric, again.metric)
    assert third.cost.token_layers == again.cost.token_layers


def test_it_costs_what_was_forecast(tiny, task_of):
    lm = tiny("llama")
    task = flipping(lm, task_of(6, n=2))
    scores = scored(lm, task)
    price = vc.forecast(vc.circuits.cause_curve, lm, task, scores=scores, measure=False)
    assert price.token_layers == vc.circuits.cause_curve(lm, task, scores, **QUIET).cost.token_layers


def agreeing(lm, task):
    """The task with answers between which both runs of every pair choose alike."""
    chosen = []
    for clean, corrupted in zip(task.clean, task.corrupted, strict=True):
        both = sum(lm.hf(torch.tensor([list(ids)])).logits[0, -1] for ids in (clean, corrupted))
        chosen.append((int(both.argmax()), int(both.argmin())))
    return replace(task, correct=tuple((a,) for a, _ in chosen), incorrect=tuple((b,) for _, b in chosen))


def test_what_cannot_be_asked_is_refused(tiny, task_of):
    lm = tiny("llama")
    task = flipping(lm, task_of(6, n=2))
    scores = scored(lm, task)
    for sizes in ((), (0, 1), (2, 1), (1, 10**9)):
        with pytest.raises(MethodError, match="rising numbers of parts"):
            vc.circuits.cause_curve(lm, task, scores, sizes=sizes, **QUIET)
    with pytest.raises(MethodError, match="does not set right against wrong"):
        vc.circuits.cause_curve(lm, replace(task, metric="logprob"), scores, **QUIET)
    with pytest.raises(GapError, match="no answer can flip"):
        vc.circuits.cause_curve(lm, agreeing(lm, task), scores, **QUIET)
    with pytest.raises(UnitError, match="no edge and no node"):
        Ranked.of(lm, scored(lm, task, "neurons"))
    with pytest.raises(UnitError, match="at all positions"):
        Ranked.of(lm, vc.attribute(lm, task, units="edges@positions", method="eap", **QUIET))

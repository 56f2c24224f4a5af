"""Circuits ablated on several tasks: against the naive reference and circuits' own runs, and what is refused."""

from dataclasses import replace

import naive_circuit
import numpy as np
import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.circuits.random_circuits import profiled
from veracausa.cost import Cost
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import CircuitError, MethodError, TaskError, UnitError
from veracausa.tasks.measurement import Measurement

QUIET = {"show_progress": False}


def scored(lm, task, units="edges"):
    return vc.attribute(lm, task, units=units, method="eap" if units == "edges" else "atp", **QUIET)


def rest_of(lm, circuit):
    """The circuit of all other edges."""
    reader, writer = np.nonzero(np.asarray(all_edges_mask(lm.graph)) & ~circuit.mask)
    return vc.Circuit.of(lm.graph, writer, reader)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_damage_is_that_of_the_naive_reference(tiny, task_of, agree, family):
    """1e-9 of the gap in float64 (conftest.EXACT); tasks of other lengths; the strongest nodes of a ranking, too."""
    lm = tiny(family)
    tasks = {"short": task_of(5, n=2), "long": task_of((6, 8), n=2, seed=3)}
    scores = scored(lm, tasks["short"], "mlps")
    circuit = vc.select(scored(lm, tasks["short"]), n=25, how="abs", prune=False)
    found = vc.circuits.specificity(lm, tasks, {"short": circuit, "mlps": scores}, n=1, draws=0, **QUIET)
    strongest = lm.graph.writer_names.index(scores.units.names[scores.ranking()[0]])
    masks = [np.array(all_edges_mask(lm.graph)) for _ in range(2)]
    masks[0][circuit.mask] = False
    masks[1][:, strongest] = False
    for task, metric, ends in zip(tasks.values(), found.metrics, found.ends, strict=True):
        for mask, ours in zip(masks, metric[:, 0], strict=True):
            agree(ours, naive_circuit.metrics(lm, task, mask), ends.gap)


def test_its_diagonal_is_faithfulness_of_the_other_edges(tiny, task_of):
    """M bit for bit, damage and its error to rounding: 1 − f of the complement; random circuits keep the profile."""
    lm = tiny("llama")
    tasks = {"a": task_of((5, 6), n=3), "b": task_of(7, n=2, seed=4)}
    circuits = {name: vc.select(scored(lm, task), n=30, how="abs") for name, task in tasks.items()}
    found = vc.circuits.specificity(lm, tasks, circuits, draws=2, **QUIET)
    for i, circuit in enumerate(circuits.values()):
        for j, task in enumerate(tasks.values()):
            own = vc.faithfulness(lm, task, rest_of(lm, circuit), **QUIET)
            assert torch.equal(found.metrics[j][i, 0], own.metric)
            assert float(found.damage[i, j]) == pytest.approx(1 - own.f, abs=1e-12)
            assert float(found.stderr[i, j]) == pytest.approx(own.stderr(), abs=1e-12, nan_ok=True)
    mask = profiled(lm.graph, circuits["b"].mask, np.random.default_rng([0, 1, 1]))
    assert mask.sum() == len(circuits["b"])
    reader, writer = np.nonzero(mask)
    own = vc.faithfulness(lm, tasks["a"], rest_of(lm, vc.Circuit.of(lm.graph, writer, reader)), **QUIET)
    assert torch.equal(found.metrics[0][1, 2], own.metric)
    price = vc.forecast(vc.circuits.specificity, lm, tasks, circuits=circuits, draws=2, measure=False)
    assert price.token_layers == found.cost.token_layers


def made(names=("a", "b")):
    """Two circuits, each taking .8 of its own gap and .1 of the other's; a random one takes .2 everywhere."""
    ends = Measurement(torch.ones(4).double(), torch.zeros(4).double())
    metric = (
        torch.tensor([[[0.2, 0.8], [0.9, 0.8]], [[0.9, 0.8], [0.2, 0.8]]]).double()[..., None].expand(-1, -1, -1, 4)
    )
    header = {"name": "made", "description": "made", "digest": "", "metric": "logit_diff", "n": 4}
    return vc.circuits.Specificity(
        names, (10, 20), {"a": header, "b": header}, tuple(metric), (ends, ends), Cost(),
        {"name": "", "source": "", "identity": ""}, {"ablation": "counterfactual"},
    )  # fmt: skip


def test_what_it_says():
    found = made()
    assert found.damage.tolist() == [[pytest.approx(0.8), pytest.approx(0.1)], [pytest.approx(0.1), pytest.approx(0.8)]]
    assert found.margin(0) == pytest.approx(0.7) and found.own(1) == 1
    assert made(("a", "other")).own(1) is None and np.isnan(made(("a", "other")).margin(1))
    said = found.sentences[1]
    assert said.startswith("Without b (20 edges) 0.800 ± 0.000 of b's gap and 0.100 ± 0.000 of a's gap is gone")
    assert said.endswith("random circuits of its layer profile take 0.20 and 0.20.")
    table = found.table()
    assert table.random.tolist() == pytest.approx([0.2] * 4) and table.random_sd.isna().all()


def test_what_cannot_be_asked_is_refused(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    scores = scored(lm, task)
    with pytest.raises(TaskError, match="no task"):
        vc.circuits.specificity(lm, {}, {"a": scores}, n=3)
    with pytest.raises(CircuitError, match="no circuit to ablate"):
        vc.circuits.specificity(lm, {"a": task}, {})
    for n in (None, 0, 10**9):
        with pytest.raises(MethodError, match="say how many"):
            vc.circuits.specificity(lm, {"a": task}, {"a": scores}, n=n)
    with pytest.raises(MethodError, match="learns constants for every circuit"):
        vc.circuits.specificity(lm, {"a": task}, {"a": scores}, n=3, ablation="optimal")


def test_sets_of_components_that_one_mode_uses_damage_that_mode_alone():
    """On the model of known parts: taking a mode's two parts out leaves nothing of its gap, and all of the others'."""
    lm, truth = vc.ground_truth.load_gated(dtype=torch.float64)
    tiny_models.compute_in_float64(lm.hf)
    lm = lm.reading(*vc.components(lm, truth.map, factors=truth.factors))
    modes = ("sum", "or", "and", "saturated")
    tasks = {mode: truth.task(modes=[mode]) for mode in modes}
    names = [f"{truth.map}.own{i}" for i in range(10)]
    rankings = {}
    for at, mode in enumerate(modes):
        exact = vc.exact(lm, tasks[mode], units=names, ablation="zero", show_progress=False)
        if mode == "or":  # one by one neither shows: the ranking is given by hand
            exact = replace(exact, values=torch.eye(10, dtype=torch.float64)[2 * at : 2 * at + 2].repeat(2, 1))
        rankings[mode] = exact
    how = {"n": 2, "ablation": "zero", "show_progress": False}
    found = vc.circuits.specificity(lm, tasks, rankings, draws=2, **how)
    # closed form, to the rounding of norms that do nothing
    torch.testing.assert_close(found.damage, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-9)
    for i, mode in enumerate(modes):
        assert found.margin(i) == pytest.approx(1) and float(found.random[i, :, i].abs().max()) < 1e-9
        assert f"Without {mode} (2 components.down.own)" in found.sentences[i] and "random sets" in found.sentences[i]
    asked = {"circuits": rankings, "draws": 2, "n": 2, "ablation": "zero", "measure": False}
    price = vc.forecast(vc.circuits.specificity, lm, tasks, **asked)
    assert price.token_layers == found.cost.token_layers
    with pytest.raises(MethodError, match="too few for random sets"):
        vc.circuits.specificity(lm, tasks, rankings, **{**how, "n": 6})
    with pytest.raises(UnitError, match="of one kind"):
        heads = vc.exact(lm, tasks["sum"], show_progress=False)
        vc.circuits.specificity(lm, tasks, {**rankings, "heads": heads}, **how)

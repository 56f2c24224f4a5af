"""Faithfulness and curves: both ends, formulas by hand, areas in closed form, what is refused."""

import naive_circuit
import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.anatomy.graph import Graph
from veracausa.attribution.edges import Edges
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.curve import SIZES, area
from veracausa.circuits.faithfulness import ratio_stderr
from veracausa.errors import MethodError, UnitError, VeracausaError


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def task(task_of):
    return task_of((5, 7), n=4)


@pytest.fixture(scope="module")
def effects(lm, task):
    return vc.exact(lm, task, units="edges", show_progress=False)


def some(lm, count, seed=0):
    names = np.array(vc.exact(lm, vc.Task("x", ((1, 2),), ((3, 2),), ((4,),), ((5,),)), units="edges",
                              show_progress=False).units.names)  # fmt: skip
    return Circuit.from_names(lm, sorted(np.random.default_rng(seed).permutation(names)[:count].tolist()))


def test_both_ends(lm, task):
    every = some(lm, lm.graph.size)
    found = vc.faithfulness(lm, task, every, show_progress=False)
    assert found.f == pytest.approx(1, abs=1e-9) and found.ndf.tolist() == pytest.approx([1] * 4)
    assert found.kl.abs().max() < 1e-9 and found.share == 1
    nothing = vc.faithfulness(lm, task, some(lm, 1), show_progress=False)
    assert nothing.f == pytest.approx(0, abs=1e-9) and (nothing.kl > 0).all()  # a single edge leads nowhere


def test_formulas_by_hand(lm, task):
    circuit = some(lm, 120)
    found = vc.faithfulness(lm, task, circuit, show_progress=False)
    metric = naive_circuit.metrics(lm, task, circuit.mask)
    measured = lm.measure(task)
    clean, corrupted = measured.clean.double(), measured.corrupted.double()
    torch.testing.assert_close(found.metric.double(), metric, rtol=0, atol=1e-9)
    assert found.f == pytest.approx(float((metric - corrupted).mean() / (clean - corrupted).mean()))
    assert found.per_example.tolist() == pytest.approx(((metric - corrupted) / (clean - corrupted)).tolist())
    ndf = [1 - min(abs(c - m) / abs(c - b), 1) for c, m, b in zip(clean, metric, corrupted, strict=True)]
    assert found.ndf.tolist() == pytest.approx([float(one) for one in ndf])
    assert "120 edges" in repr(found) and "4 pairs" in repr(found)
    assert found.cost.token_layers > 0 and found.stderr() > 0


def test_the_standard_error_of_a_ratio():
    generator = torch.Generator().manual_seed(0)
    below = 5 + torch.randn(400, generator=generator)
    above = 0.5 * below + 0.3 * torch.randn(400, generator=generator)
    # delta method: sd(above − f · below) / (√n · mean(below)); the bootstrap of 1,000 draws is within 10% of it
    assert ratio_stderr(above, below) == pytest.approx(0.3 / 20 / 5, rel=0.1)
    assert ratio_stderr(above[:1], below[:1]) != ratio_stderr(above[:1], below[:1])


def test_areas_in_closed_form():
    assert area(SIZES, [1.0] * 10) == pytest.approx(0.999) and area(SIZES, [0.7] * 10, log=True) == pytest.approx(0.7)
    assert area([0.01, 0.1, 1], [0, 1, 1], log=True) == pytest.approx(0.75)
    # METHODS 6: nothing works before all edges are there
    last = [0.0] * 9 + [1.0]
    assert area(SIZES, last) == pytest.approx(0.25) and area(SIZES, [1 - f for f in last]) == pytest.approx(0.749)


def test_curve(lm, task, effects):
    sizes = (0.05, 0.3, 1.0)
    curve = vc.curve(lm, task, effects, sizes=sizes, show_progress=False)
    table = curve.table()
    assert table["edges"].tolist() == [round(s * lm.graph.size) for s in sizes] * 2
    assert (table["living"] <= table["edges"]).all() and table["living"].tolist()[2] == lm.graph.size
    for found, by in ((curve.signed, "importance"), (curve.absolute, "abs_mean")):
        ranking = effects.ranking(by)
        for one, size in zip(found, sizes, strict=True):
            names = [effects.units.names[i] for i in ranking[: round(size * lm.graph.size)]]
            alone = vc.faithfulness(lm, task, Circuit.from_names(lm, names), show_progress=False)
            assert one.f == pytest.approx(alone.f, abs=1e-9)
        assert found[-1].f == pytest.approx(1, abs=1e-9)
    f, g = ([one.f for one in found] for found in (curve.signed, curve.absolute))
    assert curve.cpr == pytest.approx(0.25 * (f[0] + f[1]) / 2 + 0.7 * (f[1] + f[2]) / 2)
    assert curve.cmd == pytest.approx(0.25 * (abs(1 - g[0]) + abs(1 - g[1])) / 2 + 0.7 * (abs(1 - g[1]) + 0) / 2)
    assert "CPR" in repr(curve) and "log axis" in repr(curve)


def test_what_is_refused(lm, task, effects):
    with pytest.raises(UnitError, match="all 190 edges"):
        vc.curve(lm, task, vc.exact(lm, task, units=["a0.h0->m1"], show_progress=False), show_progress=False)
    with pytest.raises(UnitError, match="heads"):
        vc.curve(lm, task, vc.exact(lm, task, show_progress=False), show_progress=False)
    for sizes in ((), (0.5, 0.1), (0, 1), (0.5, 1.5)):
        with pytest.raises(MethodError, match="rising"):
            vc.curve(lm, task, effects, sizes=sizes, show_progress=False)
    foreign = Graph(5, 2, 2)
    strange = Circuit(Edges.of(foreign, np.array([0]), np.array([0])), effects.model, effects.task, "hand", {})
    with pytest.raises(VeracausaError):
        vc.faithfulness(lm, task, strange, show_progress=False)

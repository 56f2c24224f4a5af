"""Faithfulness and curves: both ends, formulas by hand, areas in closed form, what is refused."""

import math

import naive_circuit
import numpy as np
import pytest
import torch
from made_up import about

import veracausa as vc
from veracausa.anatomy.graph import Graph
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.quality.curve import SIZES, Curve, area
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.cost import Cost
from veracausa.errors import MethodError, UnitError, VeracausaError
from veracausa.tasks.measurement import Measurement
from veracausa.units.edges import Edges


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
    # gaps of these four pairs scatter around 0, so their mean is no measure with an error
    assert found.cost.token_layers > 0 and math.isnan(found.stderr()) and "not told apart from 0" in repr(found)


def _outcome(metric, gap, edges=1):
    zero = torch.zeros_like(gap)
    return Faithfulness(edges, 0.1, metric, zero, Measurement(gap, zero), Cost(), **about(len(gap)))


def test_the_standard_error_of_f_and_of_its_areas():
    """First order against a long bootstrap of f and of the areas themselves."""
    generator = torch.Generator().manual_seed(0)
    gap = 5 + torch.randn(200, generator=generator).double()
    metric = [share * gap + 0.3 * torch.randn(200, generator=generator).double() for share in (0.2, 0.7, 1.1)]
    curve = Curve("m", (0.01, 0.1, 1.0), *(tuple(_outcome(m, gap) for m in metric) for _ in range(2)), {})
    rest = metric[1] - curve.signed[1].f * gap
    assert curve.signed[1].stderr() == pytest.approx(float(rest.std() / gap.mean()) / 200**0.5)
    which = torch.randint(200, (4000, 200), generator=generator)
    f = torch.stack([m[which].mean(1) / gap[which].mean(1) for m in metric], 1).numpy()
    drawn = {"cpr": [area(curve.sizes, one) for one in f], "cmd": [area(curve.sizes, abs(1 - one)) for one in f]}
    drawn["cmd_log"] = [area(curve.sizes, abs(1 - one), log=True) for one in f]
    for name, values in drawn.items():
        # 4,000 draws know a standard deviation to 1.1%; first order is good to 1/200
        assert curve.stderr()[name] == pytest.approx(np.std(values), rel=0.06)


def test_no_error_where_the_gap_is_not_told_from_zero():
    gap = torch.tensor([2.0, -1.0, 1.0, -2.0, 1.5, -1.2])
    found = _outcome(0.5 * gap + 0.1, gap)
    assert math.isnan(found.stderr()) and "not told apart from 0 by 6 pairs" in repr(found)
    curve = Curve("m", (0.1, 1.0), (found, found), (found, found), {"signed": (1, 1), "abs": (1, 1)})
    assert all(math.isnan(error) for error in curve.stderr().values())
    assert "±" not in repr(curve).split("\n")[0] and "not told apart" in repr(curve)
    assert "wrong answer on 3 of 6" not in repr(found)  # not on most
    assert "the gap is inverted" in repr(_outcome(gap, -gap.abs()))


def test_headers_say_what_changes_a_number(lm, task):
    """Ablation, reference set, seed and learning; curves of other headers are not drawn together."""
    circuit = vc.Circuit.from_names(lm, ["input->logits"])
    options = {"mean": {}, "resample": {"seed": 3}, "zero": {}, "counterfactual": {}}
    found = {name: vc.faithfulness(lm, task, circuit, ablation=name, **o) for name, o in options.items()}
    other = vc.faithfulness(lm, task, circuit, ablation="mean", reference=task[:1])
    assert found["mean"].settings["reference_digest"] != other.settings["reference_digest"]
    assert found["resample"].settings["seed"] == 3 and "reference" not in found["zero"].settings
    assert {one.task["digest"] for one in found.values()} == {task.digest()}
    curves = [Curve(name, (1.0,), (one,), (one,), {"signed": (1,), "abs": (1,)}) for name, one in
              (("a", found["mean"]), ("b", other))]  # fmt: skip
    with pytest.raises(MethodError, match="reference"):
        curves[0].chart(curves[1])


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

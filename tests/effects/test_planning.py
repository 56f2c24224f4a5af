"""What is planned beforehand is what is counted."""

import pytest

import veracausa as vc


@pytest.mark.parametrize("units", ["heads", "mlps", "heads@positions"])
@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean", "resample"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_exact(tiny, task_of, family, ablation, units):
    """rows, both recorded runs, the unpatched run and the reference set are all counted."""
    lm, task = tiny(family), task_of((6, 8), n=6)
    found = vc.exact(lm, task, units=units, ablation=ablation, show_progress=False)
    planned = vc.exact.work(lm, task, units=units, ablation=ablation).tokens()
    assert planned == pytest.approx(found.cost.token_layers, rel=1e-9)


@pytest.mark.parametrize("units", ["edges", "edges@positions"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_edges_cost_at_most_what_is_planned(tiny, task_of, family, units):
    """Writes that do not differ between the runs cost nothing; here all do where anything can."""
    lm, task = tiny(family), task_of((6, 7), n=2)
    found = vc.exact(lm, task, units=units, show_progress=False).cost.token_layers
    planned = vc.exact.work(lm, task, units=units).tokens()
    assert found <= planned * (1 + 1e-9) and planned < 1.2 * found


def test_what_is_learned_on_the_way_is_counted_at_most(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=3)
    for verb, method in ((vc.exact, {"ablation": "optimal"}), (vc.attribute, {"baseline": "optimal", "method": "ig"})):
        planned = verb.work(lm, task, units=["a0.h0", "a1.h1"], **method).tokens()
        found = verb(lm, task, units=["a0.h0", "a1.h1"], show_progress=False, **method).cost.token_layers
        assert found <= planned

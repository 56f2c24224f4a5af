"""What is planned beforehand is what is counted."""

import pytest

import veracausa as vc
from veracausa.effects.planning import planned_exact


@pytest.mark.parametrize("units", ["heads", "mlps", "heads@positions"])
@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean", "resample"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_exact(tiny, task_of, family, ablation, units):
    """rows, both recorded runs, the unpatched run and the reference set are all counted."""
    lm, task = tiny(family), task_of((6, 8), n=6)
    found = vc.exact(lm, task, units=units, ablation=ablation, show_progress=False)
    assert planned_exact(lm, task, units=units, ablation=ablation) == pytest.approx(found.cost.token_layers, rel=1e-9)

"""Every effect and estimate on models whose metric is a formula: what is computed is what the formula says.

Tolerance: closed_forms.CLOSE, from its norms; of integrated gradients also the quadrature, said where it is.
"""

import closed_forms
import pytest
import torch
from closed_forms import CLOSE, HEADS

import veracausa as vc
from veracausa.attribution.site_effects import direct, last_in


@pytest.fixture(scope="module", params=list(closed_forms.FORMS))
def form(request):
    return closed_forms.FORMS[request.param]()


def heads(scores):
    """Values of layer 0's heads [pairs, heads]."""
    return scores.values[:, :HEADS]


def same(ours, theirs, within=CLOSE):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=within * float(theirs.abs().max().clamp_min(1)))


def test_the_model_is_its_formula(form):
    measured = form.lm.measure(form.task)
    same(measured.clean, form.formula(form.clean))
    same(measured.corrupted, form.formula(form.corrupted))


def test_effects(form):
    for function, theirs in ((vc.exact, form.exact), (last_in, form.last_in), (direct, form.direct)):
        same(heads(function(form.lm, form.task, show_progress=False)), theirs)
    same(heads(vc.attribute(form.lm, form.task, show_progress=False)), form.atp)


def test_integrated_gradients(form):
    """256 Gauss nodes and 20,000 midpoints: a kink at a place that neither knows costs each 1/nodes of the jump."""
    scores = vc.attribute(form.lm, form.task, method="ig", nodes=256, show_progress=False)
    same(heads(scores), form.ig(), within=1e-2)

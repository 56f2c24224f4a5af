"""Every effect and estimate on models whose metric is a formula: what is computed is what the formula says.

Tolerance: closed_forms.CLOSE, from its norms; of integrated gradients also the quadrature, said where it is.
"""

import closed_forms
import pytest
import torch
from closed_forms import CLOSE, HEADS

import veracausa as vc
from veracausa.effects.site_effects import direct, last_in


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


@pytest.mark.cases(2)
def test_integrated_gradients(form):
    """256 Gauss nodes and 20,000 midpoints: a kink at a place that neither knows costs each 1/nodes of the jump."""
    scores = vc.attribute(form.lm, form.task, method="ig", nodes=256, show_progress=False)
    same(heads(scores), form.ig(), within=1e-2)


# ---- what is said of them -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said():
    """The disagreement of each form, computed once."""
    done = {}

    def of(name):
        if name not in done:
            form = closed_forms.FORMS[name]()
            options = {"nodes": 256, "zero_nodes": 256, "shapley": 4, "show_progress": False}
            done[name] = form, vc.causes.disagreement(form.lm, form.task, **options)
        return done[name]

    return of


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", list(closed_forms.FORMS))
def test_figures_of_a_disagreement(said, name):
    """Scores and their differences are those of the formula; quadrature of integrals as above."""
    form, found = said(name)
    zero = torch.zeros_like(form.clean)
    theirs = {"exact": form.exact, "atp": form.atp, "last-in": form.last_in, "direct": form.direct,
              "shapley": form.shapley, "curvature": form.exact - form.atp, "pairwise": (form.last_in - form.exact) / 2,
              "downstream": form.exact - form.direct}  # fmt: skip
    for figure, values in theirs.items():
        same(heads(found.difference(figure)), values)
    integrals = {"ig": form.ig(), "ig-zero": form.ig(zero), "interaction": form.ig() - form.exact,
                 "baseline": form.ig(zero) - form.ig()}  # fmt: skip
    for figure, values in integrals.items():
        same(heads(found.difference(figure)), values, within=1e-2)
    gap = form.formula(form.clean) - form.formula(form.corrupted)
    table = found.table()
    assert table["curvature"][0] == pytest.approx(float((theirs["curvature"][:, 0]).mean() / gap.mean()), abs=1e-5)
    assert (table["n"] == 3).all()


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("name", "unit", "method", "cause"),
    [
        ("product", "a0.h0", "atp", "none clear"),  # bilinear: no curvature
        ("product", "a0.h0", "ig", "redundancy"),  # the other factor is larger in the corrupted run
        ("maximum", "a0.h0", "atp", "curvature"),
        ("maximum", "a0.h0", "ig", "redundancy"),
        ("maximum", "a0.h1", "direct", "backup"),  # M itself takes the other one instead
        ("softmax", "a0.h0", "atp", "curvature"),
        ("softmax", "a0.h0", "direct", "mediation"),
        ("softmax", "a0.h0", "ig-zero", "baseline"),  # σ(0) = ½ is not what the corrupted run has
        ("either", "a0.h0", "ig-zero", "redundancy"),
        ("backup", "a0.h0", "atp", "curvature"),
        ("backup", "a0.h0", "direct", "backup"),
        ("either", "a0.h0", "ig", "redundancy"),
        ("both", "a0.h0", "ig", "synergy"),
    ],
)
def test_the_cause_named_is_the_right_one(said, name, unit, method, cause):
    _, found = said(name)
    assert found.cause(unit, method).cause == cause


def test_the_backup_is_told_to_be_one_behind_the_slope(said):
    """AtP sees s_0 alone (its direct effect); that the later head makes up for it is said with the numbers."""
    form, found = said("backup")
    text = str(found.cause("a0.h0", "atp"))
    assert "backup" in text and "n = 3" in text
    share = float(form.atp[:, 0].mean() / (form.formula(form.clean) - form.formula(form.corrupted)).mean())
    assert f"{share:+.3f}".replace("-", "−") in text
    assert "backup" not in str(said("softmax")[1].cause("a0.h0", "atp"))


def test_pairs_of_units_explain_a_product_and_not_a_maximum(said):
    assert "100% of the difference" in str(said("product")[1].cause("a0.h0", "ig"))
    assert "½ (F − E)" in str(said("maximum")[1].cause("a0.h0", "ig"))


def test_saturation_is_said(said):
    assert "saturation" in str(said("softmax")[1].cause("a0.h0", "atp"))


def test_outliers_get_their_causes(said):
    """Sixteen heads of which one moves: it is the outlier of every method that misses it."""
    _, found = said("softmax")
    causes = {(cause.unit, cause.method): cause.cause for cause in found.causes}
    assert causes["a0.h0", "atp"] == "curvature" and causes["a0.h0", "direct"] == "mediation"

"""`vc.causes.disagreement` on tiny models: its figures from naive runs, known scores, files, costs, refusals."""

from types import SimpleNamespace

import closed_forms
import naive
import naive_coalitions
import numpy as np
import pytest
import torch
from bridges import smooth
from scipy import stats

import veracausa as vc
from veracausa.causes.differences import FLOOR
from veracausa.errors import FileError, MethodError, UnitError


def decomposed(lm, task, **options):
    return vc.causes.disagreement(lm, task, show_progress=False, **options)


@pytest.fixture(scope="module")
def found(task_of):
    """Heads of a small Llama with smooth responses, four pairs, everything asked for."""
    lm, task = smooth("llama"), task_of((6, 8), n=4)
    return SimpleNamespace(lm=lm, task=task, all=decomposed(lm, task, nodes=16, zero_nodes=16, shapley=4))


def test_figures_are_differences_of_naive_scores(found, reference, agree):
    """Tolerance 1e-9 of the gap (conftest.EXACT): both walk the same 16 Gauss nodes."""
    lm, task, units = found.lm, found.task, found.all.units
    theirs = {name: reference(function, lm, task, units, **options) for name, function, options in (
        ("exact", naive.exact, {}), ("atp", naive.atp, {}), ("ig", naive.ig_layer, {}),
        ("ig-zero", naive.ig_layer, {"ablation": "zero"}), ("direct", naive_coalitions.direct, {}),
    )}  # fmt: skip
    for name, (of, minus) in {
        "curvature": ("exact", "atp"),
        "interaction": ("ig", "exact"),
        "baseline": ("ig-zero", "ig"),
        "downstream": ("exact", "direct"),
    }.items():
        agree(found.all.difference(name).values, theirs[of] - theirs[minus], found.all.scores["exact"].gap)


def test_shares_are_means_over_the_mean_gap(found):
    for name in found.all.figures:
        shares = found.all.shares(name)
        theirs = found.all.difference(name).scaled().numpy()
        np.testing.assert_allclose([s.value for s in shares], theirs, atol=1e-9)


def test_table_and_words(found):
    table = found.all.table()
    assert len(table) == len(found.all.units) and (table["n"] == 4).all()
    assert {f"stderr: {name}" for name in found.all.figures} <= set(table.columns)
    np.testing.assert_allclose(table["curvature"], table["exact"] - table["atp"], atol=1e-12)
    redundant = table["site"] == "redundancy"
    assert (table["last-in"].abs() > table["exact"].abs())[redundant].all()
    assert (table["direct"] * table["downstream"] < 0)[table["backup"]].all()
    assert "n = 4" in found.all.sentences[0] and "Shapley" in " ".join(found.all.sentences)
    assert "noising" in found.all.describe()
    for cause in found.all.causes:
        assert cause.sentences and "n = 4" in cause.sentences[0] and cause.unit in cause.sentences[0]
        assert cause.unit in found.all.outliers(cause.method)


def test_one_pair_says_so(task_of):
    found = decomposed(smooth("llama"), task_of(7), zero_nodes=None)
    assert "One pair" in found.sentences[-1] and "ig-zero" not in found.scores
    assert "one pair: no error known" in found.cause(found.units.names[0]).sentences[0]


def test_a_coarse_grid_is_named_before_an_interaction(tiny, task_of):
    """With one node the layers' sums miss by more than half of some unit's error."""
    coarse = decomposed(tiny("llama"), task_of(7), nodes=1, zero_nodes=None)
    for unit in coarse.units.names:
        cause, interaction = coarse.cause(unit, "ig").cause, coarse.share("interaction", unit).value
        assert (cause == "quadrature") == (abs(coarse.residual("ig", unit)) >= abs(interaction) / 2)
    assert any(coarse.cause(unit, "ig").cause == "quadrature" for unit in coarse.units.names)


def test_a_location_is_woven_in():
    """What `vc.causes.locate` finds stands in the cause of a clear curvature, here the softmax of the closed form."""
    form = closed_forms.softmax()
    places = vc.causes.locate(form.lm, form.task, units=["a0.h0"], show_progress=False)
    found = decomposed(form.lm, form.task, zero_nodes=None, locations=places)
    cause = found.cause("a0.h0", "atp")
    assert (cause.cause, cause.where) == ("curvature", "softmax")
    assert cause.sentences[0] == places["a0.h0"].sentence and "saturation" in cause.sentences[1]
    assert found.cause("a0.h0", "direct").where == ""


def test_noise_is_no_cause(found):
    """Not told from 0 at 95% by Student, or under the floor, nothing is named (the gap is not told from 0 here)."""
    for unit in found.all.units.names:
        share = found.all.share("curvature", unit)
        values = found.all.difference("curvature").values[:, found.all.place(unit)].numpy()
        unclear = abs(share.value) <= FLOOR or stats.ttest_1samp(values, 0).pvalue >= 0.05
        assert (found.all.cause(unit, "atp").cause == "none clear") == unclear


def test_known_scores_are_not_paid_twice(found, tmp_path):
    known = {name: found.all.scores[name] for name in ("exact", "atp", "ig", "last-in")}
    again = decomposed(found.lm, found.task, known=known, zero_nodes=None, units=["a2.h2", "a1.h3"], out=tmp_path)
    assert again.units.names == ["a2.h2", "a1.h3"]
    for name in again.figures:
        for unit in again.units.names:
            one, other = again.share(name, unit), found.all.share(name, unit)
            assert tuple(one) == pytest.approx(tuple(other), abs=1e-9, nan_ok=True)
    assert again.residual("ig", "a2.h2") == pytest.approx(found.all.residual("ig", "a2.h2"), abs=1e-12)
    only = vc.effects.direct(found.lm, found.task, show_progress=False).cost.token_layers
    assert again.cost.token_layers == only


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", ["heads", "mlps", "neurons"])
def test_the_forecast_is_the_count(found, kind, tmp_path):
    units = [f"m{layer}.n{n}" for layer in range(3) for n in (1, 5)] if kind == "neurons" else kind
    options = {"units": units, "nodes": 3, "zero_nodes": 4}
    if kind != "neurons":
        options["shapley"] = 2
    spent = decomposed(found.lm, found.task, out=tmp_path, **options).cost.token_layers
    assert vc.causes.disagreement.work(found.lm, found.task, **options).tokens() == pytest.approx(spent, rel=0.01)
    if kind != "neurons":
        continued = decomposed(found.lm, found.task, out=tmp_path, **options)
        assert continued.cost.token_layers == spent  # read back, with what they cost


def test_saved_and_read_back(found, tmp_path):
    place = SimpleNamespace(cause="MLP", sentence="Told.")
    one = vc.causes.Disagreement(found.all.scores, found.all.cost, {"a1.h1": place})
    back = vc.open(one.save(tmp_path / "found.safetensors"))
    assert back.sentences == one.sentences and [str(c) for c in back.causes] == [str(c) for c in one.causes]
    assert back.locations["a1.h1"].sentence == "Told." and back.describe() == one.describe()
    assert torch.equal(back.scores["shapley"].draw_stderr, one.scores["shapley"].draw_stderr)
    for unit in back.units.names:
        assert back.residual("ig", unit) == one.residual("ig", unit)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "found.safetensors").read_bytes()[:900])
    for name in ("cut.safetensors", "absent.safetensors"):
        with pytest.raises(FileError):
            vc.open(tmp_path / name)


def test_refused(found, task_of):
    lm, task = found.lm, found.task
    with pytest.raises(MethodError, match="single positions"):
        decomposed(lm, task, units="heads@positions")
    with pytest.raises(MethodError, match="edges"):
        decomposed(lm, task, units="edges")
    with pytest.raises(UnitError, match=r"a2\.h0"):
        decomposed(lm, task, units=["a2.h0"], known={"exact": vc.exact(lm, task, units=["a1.h0"])})
    with pytest.raises(UnitError, match="mlps"):
        decomposed(lm, task, known={"exact": vc.exact(lm, task, units="mlps")})
    with pytest.raises(MethodError, match="tasks"):
        other = vc.attribute(lm, task_of((6, 8), n=4, seed=9), show_progress=False)
        decomposed(lm, task, known={"exact": found.all.scores["exact"], "atp": other})
    with pytest.raises(MethodError, match="last-in"):
        found.all.cause("a0.h0", "last-in")
    with pytest.raises(MethodError, match="slope"):
        found.all.shares("slope")
    with pytest.raises(UnitError, match=r"a9\.h0"):
        found.all.cause("a9.h0")

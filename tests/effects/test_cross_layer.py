"""Features that write to several layers: exact effects alone and in groups, against hooks on whole runs."""

from dataclasses import replace

import naive_cross_layer as plain
import pytest
import torch
from bridges import as_model
from tiny_models import VOCAB, make, pairs
from transcoders import cross_layer, random_task

import veracausa as vc
from veracausa.errors import MethodError, UnitError

#: Family, where it is read, the place behind a post-norm where it is written.
CASES = [("llama", "n", ""), ("gpt2", "mid", ""), ("gemma2", "mid", ".post")]


def case(family, reads, post, kind="jumprelu"):
    hf = make(family)
    lm = as_model(hf, family)
    own, theirs = cross_layer(lm.width, lm.layers, kind, reads=reads, post=post)
    return hf, lm, own, theirs, pairs(VOCAB, 2, 6, 3)


@pytest.mark.parametrize(("family", "reads", "post"), CASES)
@pytest.mark.parametrize("new", ["other", "zero"])
def test_one_by_one_they_are_hooked_runs(family, reads, post, new):
    hf, lm, own, theirs, prompts = case(family, reads, post)
    how = {"ablation": "counterfactual" if new == "other" else "zero", "show_progress": False}
    for units in (["f0.3", "f1.2", "f1.error", "f2.7"], ["f0.5@4", "f2.error@5"]):
        found = vc.exact(lm, random_task(), units=units, dictionary=own, **how)
        assert found.units.names == units
        compare(hf, family, prompts, theirs, new, found, units, reads, post)


def compare(hf, family, prompts, theirs, new, found, units, reads, post):
    for k, name in enumerate(units):
        stem, _, at = name.partition("@")
        part = stem.split(".")[1]
        taken = [(int(stem[1]), part if part == "error" else int(part), int(at) if at else None)]
        for i in range(2):
            wanted = plain.effect(hf, family, prompts[i], theirs, taken, new, reads=reads, post=bool(post))
            assert float(found.values[i, k]) == pytest.approx(wanted, abs=1e-9), name


@pytest.mark.parametrize(("family", "reads", "post"), CASES)
def test_sets_over_layers_are_hooked_runs(family, reads, post):
    hf, lm, own, theirs, prompts = case(family, reads, post)
    sets = {
        "ways": ["f0.1", "f1.4@5", "f2.6"], "errors": ["f0.2", "f1.error", "f0.error@4", "f2.error"],
        "alone": ["f1.error"], "behind": ["f0.2@3", "f1.error@4", "f2.error@5"], "late": ["f2.1", "f2.error"],
    }  # fmt: skip
    found = vc.exact(lm, random_task(), units=sets, dictionary=own, ablation="zero", show_progress=False)
    for k, members in enumerate(sets.values()):
        taken = []
        for name in members:
            stem, _, at = name.partition("@")
            part = stem.split(".")[1]
            taken.append((int(stem[1]), part if part == "error" else int(part), int(at) if at else None))
        for i in range(2):
            wanted = plain.effect(hf, family, prompts[i], theirs, taken, "zero", reads=reads, post=bool(post))
            assert float(found.values[i, k]) == pytest.approx(wanted, abs=1e-9), members


@pytest.mark.parametrize(("family", "reads"), [("llama", "n"), ("gpt2", "mid"), ("gpt_neox", "n")])
def test_all_features_and_errors_are_the_patch_of_all_mlps(family, reads):
    lm = as_model(make(family), family)
    own, _ = cross_layer(lm.width, lm.layers, "relu", reads=reads)
    task, size = random_task(), own[0].size
    whole = [f"f{layer}.{i}" for layer in range(lm.layers) for i in (*range(size), "error")]
    found = vc.exact(lm, task, units={"all": whole}, dictionary=own, show_progress=False).values
    wanted = vc.exact(lm, task, units={"all": [f"m{i}" for i in range(lm.layers)]}, show_progress=False).values
    assert torch.allclose(found, wanted, rtol=0, atol=1e-9)
    assert float(wanted.abs().min()) > 1e-3


def test_a_kind_is_run_for_active_features_alone_and_still_ones_cost_nothing():
    _, lm, own, _, _ = case("llama", "n", "")
    task = random_task()
    every = vc.exact(lm, task, units="features", dictionary=own, show_progress=False)
    names = set(every.units.names)
    assert {"f0.error", "f1.error", "f2.error"} <= names and len(names) < sum(one.size + 1 for one in own)
    some = vc.exact(lm, task, units=["f0.3", "f1.2"], dictionary=own, show_progress=False)
    for name in ("f0.3", "f1.2"):
        here, there = (found.values[:, found.units.names.index(name)] for found in (every, some))
        assert torch.allclose(here, there, rtol=0, atol=1e-10)
    seen = vc.reading.activations(lm, task, units=["f0.3"], dictionary=own, show_progress=False)
    assert "f0.3" in seen.units.names


def test_the_mean_and_denoising_are_those_of_a_dictionary_of_one_layer_where_it_is_the_last():
    """Features of the last layer write there alone, so that only the error depends on the other layers."""
    _, lm, own, _, _ = case("llama", "n", "")
    bare, task = replace(own[2], onward=None), random_task()
    for how in ({"ablation": "mean"}, {"direction": "denoising"}):
        found, wanted = (
            vc.exact(lm, task, units=["f2.7", "f2.3"], dictionary=of, show_progress=False, **how).values
            for of in (own, bare)
        )
        assert torch.allclose(found, wanted, rtol=0, atol=1e-10) and float(wanted.abs().max()) > 1e-4


@pytest.mark.parametrize(("family", "reads", "post"), CASES)
@pytest.mark.parametrize("new", ["other", "zero"])
def test_slopes_are_differences_of_hooked_runs(family, reads, post, new):
    """Central differences of step h err by h² (1e-8 of the slope): features of the row's own layer do not move."""
    hf, lm, own, theirs, prompts = case(family, reads, post)
    names, h = ["f0.3", "f1.2", "f1.error", "f2.7", "f0.5@4"], 1e-4
    how = {"baseline": "corrupted" if new == "other" else "zero", "show_progress": False, "dictionary": own}
    for units in (names[:-1], names[-1:]):
        found = vc.attribute(lm, random_task(), units=units, **how).values
        for k, name in enumerate(units):
            stem, _, at = name.partition("@")
            part = stem.split(".")[1]
            taken = [(int(stem[1]), part if part == "error" else int(part), int(at) if at else None)]
            for i in range(2):
                ends = [
                    plain.effect(hf, family, prompts[i], theirs, taken, new, reads=reads, post=bool(post), share=share)
                    for share in (h, -h)
                ]
                assert float(found[i, k]) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-8), name


def test_slopes_along_the_input_are_means_of_slopes_of_its_points():
    """Two nodes of a closed path are the slopes at both ends; those at the other end are denoising ones."""
    _, lm, own, _, _ = case("llama", "n", "")
    names, how = ["f0.3", "f1.2", "f2.7"], {"dictionary": own, "show_progress": False}
    path = vc.Method(path="inputs", nodes=2, grid="trapezoid")
    found = vc.attribute(lm, random_task(), units=names, method=path, **how).values
    here, there = (
        vc.attribute(lm, random_task(), units=names, direction=direction, **how).values
        for direction in ("noising", "denoising")
    )
    assert torch.allclose(found, (here - there) / 2, rtol=0, atol=1e-10) and float(here.abs().max()) > 1e-3


def test_an_estimate_is_verified_like_others():
    _, lm, own, _, _ = case("llama", "n", "")
    task = random_task()
    estimate = vc.attribute(lm, task, units="features", dictionary=own, show_progress=False)
    exact = vc.exact(lm, task, units="features", dictionary=own, show_progress=False)
    assert estimate.units.names == exact.units.names and vc.agreement(estimate, exact).r > 0.5
    receipt = vc.verify(lm.reading(*own), task, estimate=estimate, top=3, sample=3, show_progress=False)
    assert set(receipt.exact.units.names) <= set(estimate.units.names)


#: Ends of edges; which follow directly, or through all between.
EDGES = {
    "f0.{a}->f2.{c}": ((0, "a"), (2, "c"), False), "f0.{a}->...->f2.{c}": ((0, "a"), (2, "c"), True),
    "f0.{a}->f1.{b}": ((0, "a"), (1, "b"), False), "f0.{a}->...->f1.{b}": ((0, "a"), (1, "b"), True),
    "f0.error->...->f2.{c}": ((0, "error"), (2, "c"), True), "f0.error->f1.{b}": ((0, "error"), (1, "b"), False),
    "m0->f1.{b}->logits": (("mlp", 0), (1, "b"), False, True), "m0->...->f1.{b}": (("mlp", 0), (1, "b"), True),
    "f0.{a}->m2": ((0, "a"), ("mlp", 2), False), "f0.{a}->...->m1": ((0, "a"), ("mlp", 1), True),
    "f1.{b}->logits": ((1, "b"), "logits", False), "f0.{a}->...->logits": ((0, "a"), "logits", True),
}  # fmt: skip


def edges_of(lm, task, own):
    """Names and ends of edges of features that move in every pair."""
    scores = vc.exact(lm, task, units="features", dictionary=own, show_progress=False)
    moving = [name for name, value in zip(scores.units.names, scores.values.abs().amin(0), strict=True) if value > 1e-6]
    parts = [int(next(n for n in moving if n[1] == str(at) and "error" not in n)[3:]) for at in range(3)]
    of = dict(zip("abc", parts, strict=True))
    filled = lambda end: (end[0], of.get(end[1], end[1])) if isinstance(end, tuple) else end  # noqa: E731
    return {name.format(**of): (filled(a), filled(b), *more) for name, (a, b, *more) in EDGES.items()}


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "reads", "post"), CASES)
def test_edges_are_hooked_runs(family, reads, post):
    """Exact ones, and their estimates by slopes (central differences of step h err by h²) and by runs."""
    hf, lm, own, theirs, prompts = case(family, reads, post, "relu")
    task, h = random_task(), 1e-5
    edges = {
        name: ends for name, ends in edges_of(lm, task, own).items()
        if not (post and "m" in name)  # an MLP is told in front of the norm behind which these write
    }  # fmt: skip
    how = {"dictionary": own, "show_progress": False}
    for more, noising, zero in (({}, True, False), ({"direction": "denoising"}, False, False),
                                ({"ablation": "zero"}, True, True)):  # fmt: skip
        asked = [name for name in edges if not (zero and name[0] == "m")]
        exact = vc.exact(lm, task, units=asked, **how, **more).values
        slope = vc.estimates.feature_edges(lm, task, asked, **how, **more).values
        inner = [name for name in asked if edges[name][1] != "logits" and not name.endswith("logits")]
        run = vc.estimates.feature_edges(lm, task, inner, upstream="run", **how, **more).values
        assert exact.abs().max() > 1e-3
        for i, pair in enumerate(prompts):
            naive = plain.Edges(hf, family, pair, theirs, reads, bool(post), noising, zero)
            for k, name in enumerate(asked):
                assert float(exact[i, k]) == pytest.approx(naive.effect(*edges[name]), abs=1e-9), (name, more)
                ends = [naive.effect(*edges[name], share=share) for share in (h, -h)]
                assert float(slope[i, k]) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-7), name
            for k, name in enumerate(inner):
                ends = [naive.effect(*edges[name], end_share=share) for share in (h, -h)]
                assert float(run[i, k]) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-7), name


def test_every_way_to_the_logits_is_the_effect():
    _, lm, own, _, _ = case("llama", "n", "")
    names, how = ["f0.3", "f1.2", "f0.error"], {"dictionary": own, "show_progress": False}
    ways = [f"{name}->...->logits" for name in names]
    exact, slope = (call(lm, random_task(), units=names, **how).values for call in (vc.exact, vc.attribute))
    assert torch.allclose(vc.exact(lm, random_task(), units=ways, **how).values, exact, rtol=0, atol=1e-10)
    found = vc.estimates.feature_edges(lm, random_task(), ways, **how).values
    assert torch.allclose(found, slope, rtol=0, atol=1e-9)


def test_what_follows_one_layer_only_refuses_them():
    _, lm, own, _, _ = case("llama", "n", "")
    task = random_task()
    for call in (
        lambda: vc.exact(lm, task, units=["f0.3->f1.error"], dictionary=own),
        lambda: vc.causes.locate(lm, task, units=["f0.3"], dictionary=own),
        lambda: own[0].check(lm, task),
    ):
        with pytest.raises((MethodError, UnitError), match=r"cross-layer|other layers"):
            call()
    gemma = case("gemma2", "mid", "")
    for call in (
        lambda: vc.exact(gemma[1], task, units=["f0.3->f1.2"], dictionary=gemma[2]),
        lambda: vc.circuits.feature_circuit(gemma[1], task, dictionary=gemma[2]),
    ):
        with pytest.raises(MethodError, match=r"writes? to later layers goes through it"):
            call()
    with pytest.raises(MethodError, match="which m0 does not change"):
        vc.attribute(lm, task, units=["f0.3"], dictionary=own, method=vc.Method(path="encoded", combine="increments"))
    with pytest.raises(MethodError, match="'resample'"):
        vc.exact(lm, task, units=["f0.3"], dictionary=own, ablation="resample")
    with pytest.raises(UnitError, match=r"set the same activation"):
        vc.exact(lm, task, units=[("f0.3", "m2")], dictionary=own)

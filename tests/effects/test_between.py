"""Dictionaries on the stream between attention and MLP: against whole runs of the plain model with hooks."""

import naive_features as plain
import pytest
import torch
from laid_features import SIZE, asked, by_name, dictionary, identity, part_of
from naive_feature_edges import Edges
from tiny_models import mostly_slow

import veracausa as vc

QUIET = {"show_progress": False}
FAMILIES = ["llama", "gpt2", "gemma2", "olmo2", "granite", "bloom", "gpt_neox-sequential", "gemma3", "gemma4",
            "gemma4-experts", "gemma4-own-inputs"]  # fmt: skip


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", mostly_slow(FAMILIES, fast=("llama", "gemma2")))
@pytest.mark.parametrize("layer", [1, 2])
def test_effects_and_slopes_are_those_of_whole_runs(family, layer):
    hf, lm, found, task = asked(family)
    ours, theirs = dictionary(lm.width, f"r{layer}.mid", "topk")
    lm = lm.reading(ours)
    exact = by_name(vc.exact(lm, task, units="features", **QUIET))
    back = by_name(vc.exact(lm, task, units="features", direction="denoising", **QUIET))
    zero = by_name(vc.exact(lm, task, units=[*exact], ablation="zero", **QUIET))
    slope = by_name(vc.attribute(lm, task, units="features", method="atp", **QUIET))
    at = by_name(vc.exact(lm, task, units=[f"f{layer}.error@4"], **QUIET))[f"f{layer}.error@4"]
    assert max(abs(value) for values in exact.values() for value in values) > 1e-4  # else anything agrees
    for i, pair in enumerate(found):
        for name in exact:
            given = (hf, family, pair, theirs, part_of(name))
            # float64, a few blocks: rounding of logits of size 10 and less
            assert exact[name][i] == pytest.approx(plain.effect(*given, "other"), abs=1e-9), name
            assert back[name][i] == pytest.approx(plain.effect(*given, "other", False), abs=1e-9), name
            assert zero[name][i] == pytest.approx(plain.effect(*given, "zero"), abs=1e-9), name
            assert slope[name][i] == pytest.approx(plain.atp(*given), abs=1e-9), name
        wanted = plain.effect(hf, family, pair, theirs, "error", "other", position=4)
        assert at[i] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, fast=("llama", "gemma2")))
def test_sets_are_replaced_in_the_run_that_is_going_on(family):
    """With what writes in front of them in the same block, and what reads behind them there."""
    hf, lm, found, task = asked(family)
    sites = ["r1", "a1", "r1.mid", "m1", "r2.mid"]
    kinds = [dictionary(lm.width, at, seed=5 + i, name=f"n{i}") for i, at in enumerate(sites)]
    plains = [theirs for _, theirs in kinds]
    lm = lm.reading(*(ours for ours, _ in kinds))
    layers = [ours.writes.layer for ours, _ in kinds]
    parts = [(3, "error"), (2, "error"), (1, 4, 5, "error"), (2, "error"), (3, 6, "error")]
    names = [
        [f"f{layer}.n{i}.{part}" for part in own] for i, (layer, own) in enumerate(zip(layers, parts, strict=True))
    ]
    chosen = [(2,), (0, 1, 2, 4)]
    if family != "gemma4-experts":  # no one module gives its MLP's output
        chosen += [(1, 2, 3), (0, 1, 2, 3, 4)]
    for direction in ("noising", "denoising"):
        units = [tuple(name for i in some for name in names[i]) for some in chosen]
        values = vc.exact(lm, task, units=units, direction=direction, **QUIET).values
        for row, pair in enumerate(found):
            bare = plain.group_run(hf, family, pair, [], direction == "noising")
            for column, some in enumerate(chosen):
                members = [(plains[i], parts[i]) for i in some]
                wanted = plain.group_run(hf, family, pair, members, direction == "noising") - bare
                assert values[row, column] == pytest.approx(wanted, abs=1e-9), some


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_all_parts_are_the_stream_there(family):
    """All features and the error together: the run goes on with the other run's stream, whatever the dictionary."""
    hf, lm, found, task = asked(family)
    ours, _ = dictionary(lm.width, "r1.mid")
    names = tuple(f"f1.{part}" for part in (*range(SIZE), "error"))
    for direction in ("noising", "denoising"):
        how = {"direction": direction, **QUIET}
        group = vc.exact(lm, task, units=[names], dictionary=ours, **how).values[:, 0]
        alike = vc.exact(lm, task, units=[tuple(f"f1.{i}" for i in range(lm.width))],
                         dictionary=identity(lm.width, "r1.mid"), **how).values[:, 0]  # fmt: skip
        added = vc.attribute(lm, task, units="features", method="ig", nodes=96, dictionary=ours, **how)
        for i, pair in enumerate(found):
            base, other = (pair.clean, pair.corrupted) if direction == "noising" else (pair.corrupted, pair.clean)
            seen = []
            with torch.no_grad():
                plain.run(hf, family, other, [(("mid", 1), lambda x, seen=seen: seen.append(x) or x)])
                new, old = (
                    plain.run(hf, family, base, edits) for edits in ([(("mid", 1), lambda x, seen=seen: seen[0])], [])
                )
            wanted = float((new - old)[pair.correct] - (new - old)[pair.incorrect])
            assert group[i] == pytest.approx(wanted, abs=1e-9)
            assert alike[i] == pytest.approx(wanted, abs=1e-9)
            assert added.values[i].sum() == pytest.approx(wanted, abs=1e-9)  # 24 Gauss nodes leave 3e-4, 96 nothing


@pytest.mark.cases(3)
@pytest.mark.parametrize("family", mostly_slow(FAMILIES[:4], fast=("llama", "gemma2")))
@pytest.mark.parametrize(("up", "down"), [("r1.mid", "r2"), ("r1", "r1.mid"), ("r0.mid", "r2.mid"), ("a1", "r1.mid"),
                                          ("r1.mid", "m1"), ("r1.mid", "a2")])  # fmt: skip
def test_edges_are_those_of_whole_runs(family, up, down):
    """Exact, and estimated: by slopes, and by runs up to the downstream part."""
    hf, lm, found, task = asked(family)
    a, theirs = dictionary(lm.width, up, "relu", seed=5, name="up")
    b, those = dictionary(lm.width, down, "relu", seed=8, name="down")
    lm = lm.reading(a, b)
    first, last = a.writes.layer, b.writes.layer
    fires = vc.exact(lm, task, units="features.up", **QUIET).top(3)["name"]
    one = next(part_of(name) for name in fires if not name.endswith("error"))
    edges = {
        f"f{first}.up.{u}{arrow}f{last}.down.{d}": (u, d, "..." in arrow)
        for u, d in ((one, "error"), ("error", 3)) for arrow in ("->", "->...->")
    }  # fmt: skip
    exact = {
        how: by_name(vc.exact(lm, task, units=[*edges], direction=how, **QUIET)) for how in ("noising", "denoising")
    }
    run, slope = (
        by_name(vc.estimates.feature_edges(lm, task, [*edges], upstream=how, **QUIET)) for how in ("run", "slope")
    )
    assert max(abs(value) for values in exact["noising"].values() for value in values) > 1e-4
    for i, pair in enumerate(found):
        both = {how: Edges(hf, family, lm.layers, pair, how == "noising") for how in exact}
        shares = [Edges(hf, family, lm.layers, pair, share=share) for share in (1e-5, -1e-5)]
        for name, (u, d, through) in edges.items():
            ends = (theirs, u), (those, d)
            for how, naive in both.items():
                assert exact[how][name][i] == pytest.approx(naive.effect(*ends, through), abs=1e-9), (how, name)
            # rounding 1e-16 · 10 / h, h² · third derivatives
            if not (family in ("gemma2", "olmo2") and down in ("m1", "a2")):  # there slopes are those behind the norm
                assert run[name][i] == pytest.approx(both["noising"].estimate(*ends, through), rel=1e-6, abs=1e-6), name
            ahead, behind = (one.effect(*ends, through) for one in shares)
            assert slope[name][i] == pytest.approx((ahead - behind) / 2e-5, rel=1e-5, abs=1e-6), name

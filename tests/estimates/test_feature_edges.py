"""Estimated edges between features: as the paper defines them, by autograd on the plain model, and what is refused."""

import numpy as np
import pytest
import torch
from laid_features import asked, dictionary, part_of
from naive_features import both, run

import veracausa as vc
from veracausa.errors import VeracausaError

QUIET = {"show_progress": False}


def naive(hf, family, pair, up, down, a, b, through):
    """∇_d m · ∇_u d · (u' − u): d's value is followed back to what u writes, or along the stream alone."""
    own, there = (up.parts(*both(hf, family, ids, up))[a] for ids in (pair.clean, pair.corrupted))
    behind = torch.zeros_like(own, requires_grad=True)
    logits = run(hf, family, pair.clean, [(down.writes, lambda x: x + behind)])
    (g,) = torch.autograd.grad(logits[pair.correct] - logits[pair.incorrect], behind)
    extra, seen = torch.zeros_like(own, requires_grad=True), {}

    def keep(x):
        seen["x"] = x
        return x

    run(hf, family, pair.clean, [(up.writes, lambda x: x + extra), (down.reads, keep)])
    x = seen["x"] if through else seen["x"].detach() + extra
    written = down.parts(x, x)[b]
    (slope,) = torch.autograd.grad((g.detach() * written).sum(), extra)
    return float((slope * (there - own)).sum())


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("sites", [("r1", "r2"), ("m0", "r2")])
def test_scores_are_those_of_the_definition(family, sites):
    hf, lm, found, task = asked(family)
    kinds = "relu", "topk"
    (a, up), (b, down) = (
        dictionary(lm.width, site, kind, seed=seed, name=f"n{seed}")
        for site, kind, seed in zip(sites, kinds, (5, 6), strict=True)
    )
    lm = lm.reading(a, b)
    parts = [
        vc.exact(lm, task, units=f"features.n{seed}", **QUIET).top(3)["name"].tolist() for seed in (5, 6)
    ]  # fmt: skip
    # behind a post-norm the stream has another change than what the MLP gives, which only the whole run above tells
    arrows = ["->...->"] if family == "gemma2" and sites[0] == "m0" else ["->", "->...->"]
    edges = {f"{u}{arrow}{d}": (u, d, "..." in arrow) for u in parts[0] for d in parts[1] for arrow in arrows}
    scores = vc.estimates.feature_edges(lm, task, [*edges], **QUIET)
    assert scores.values.abs().max() > 1e-4
    for column, (name, (u, d, through)) in enumerate(edges.items()):
        for i, pair in enumerate(found):
            wanted = naive(hf, family, pair, up, down, part_of(u), part_of(d), through)
            assert scores.values[i, column] == pytest.approx(wanted, abs=1e-9), name
    exact = vc.exact(lm, task, units=[*edges], **QUIET)
    assert vc.agreement(scores, exact).r > 0


def test_directly_into_an_mlp_the_attention_between_keeps_its_output():
    hf, lm, found, task = asked("llama")
    a, up = dictionary(lm.width, "r1", "relu", seed=5, name="up")
    b, down = dictionary(lm.width, "m1", "linear", seed=6, name="down")
    lm = lm.reading(a, b)
    edges = ["f1.up.error->f1.down.3", "f1.up.error->...->f1.down.3"]
    values = vc.estimates.feature_edges(lm, task, edges, **QUIET).values
    for i, pair in enumerate(found):
        own, there = (up.parts(*both(hf, "llama", ids, up))["error"] for ids in (pair.clean, pair.corrupted))
        extra, behind, seen = torch.zeros_like(own, requires_grad=True), torch.zeros_like(own, requires_grad=True), {}
        logits = run(hf, "llama", pair.clean, [(down.writes, lambda x, behind=behind: x + behind)])
        (g,) = torch.autograd.grad(logits[pair.correct] - logits[pair.incorrect], behind)
        run(hf, "llama", pair.clean, [
            (up.writes, lambda x, extra=extra: x + extra), (("attn_out", 1), lambda x: x.detach()),
            (("mlp", 1), lambda x, seen=seen: seen.setdefault("y", x)),
        ])  # fmt: skip
        (slope,) = torch.autograd.grad((g * down.parts(seen["y"], seen["y"])[3]).sum(), extra)
        assert values[i, 0] == pytest.approx(float((slope * (there - own)).sum()), abs=1e-9)
    assert not np.allclose(values[:, 0], values[:, 1])


@pytest.mark.parametrize(
    ("units", "said"),
    [
        (["f1.up.3->m2->logits"], "no edge between two parts"),
        (["f1.up.3@2->f2.down.3"], "no edge between two parts"),
        (["f1.up.3->m2"], "no edge between two parts"),
    ],
)
def test_what_is_refused(units, said):
    _, lm, _, task = asked("llama")
    lm = lm.reading(dictionary(lm.width, "r1", name="up")[0], dictionary(lm.width, "r2", name="down")[0])
    with pytest.raises(VeracausaError, match=said):
        vc.estimates.feature_edges(lm, task, units, **QUIET)


@pytest.mark.parametrize("site", ["m1", "m1.post"])
def test_where_nothing_lies_between_directly_is_through(site):
    """Behind a post-norm, too, whose slope counts: a part of block 1's MLP, and what enters block 2."""
    _, lm, _, task = asked("gemma2")
    a, _ = dictionary(lm.width, site, "relu", seed=5, name="up")
    b, _ = dictionary(lm.width, "r2", "relu", seed=6)
    lm = lm.reading(a, b)
    names = vc.exact(lm, task, units="features", **QUIET).top(3)["name"].tolist()
    edges = [f"f1.up.error{arrow}{name}" for arrow in ("->", "->...->") for name in names]
    values = vc.estimates.feature_edges(lm, task, edges, **QUIET).values
    torch.testing.assert_close(values[:, :3], values[:, 3:], rtol=0, atol=1e-9)
    assert values.abs().max() > 1e-3


def test_a_receipt_checks_them():
    _, lm, _, task = asked("llama")
    a, _ = dictionary(lm.width, "r1", "relu", seed=5, name="up")
    b, _ = dictionary(lm.width, "r2", "relu", seed=6)
    lm = lm.reading(a, b)
    edges = [f"f1.up.{i}->f2.{j}" for i in (0, 1, 2) for j in (3, 4)]
    scores = vc.estimates.feature_edges(lm, task, [*edges, "f1.up.error->...->f2.error"], **QUIET)
    receipt = vc.verify(lm, task, scores, top=2, sample=2, **QUIET)
    assert receipt.missed >= 0 and len(receipt.exact) == 4

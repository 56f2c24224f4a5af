"""Estimated edges between features: as the paper defines them, by autograd on the plain model, and what is refused."""

import numpy as np
import pytest
import torch
from bridges import as_model
from laid_features import asked, by_name, dictionary, part_of, task_of
from naive import PATHS
from naive_feature_edges import Edges
from naive_features import both, run
from tiny_models import FAMILIES, VOCAB, make, mostly_slow, pairs

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
    # Gemma 4 scales the stream behind block 1, between both sites
    x = (
        seen["x"]
        if through
        else seen["x"].detach() + extra * getattr(hf.get_submodule(PATHS[family][0])[1], "layer_scalar", 1)
    )
    written = down.parts(x, x)[b]
    (slope,) = torch.autograd.grad((g.detach() * written).sum(), extra)
    return float((slope * (there - own)).sum())


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "gemma2", pytest.param("gemma4", marks=pytest.mark.slow), "gpt_neox"])
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
    arrows = ["->...->"] if family.startswith("gemma") and sites[0] == "m0" else ["->", "->...->"]
    edges = {f"{u}{arrow}{d}": (u, d, "..." in arrow) for u in parts[0] for d in parts[1] for arrow in arrows}
    scores = vc.estimates.feature_edges(lm, task, [*edges], **QUIET)
    assert scores.values.abs().max() > 1e-4
    for column, (name, (u, d, through)) in enumerate(edges.items()):
        for i, pair in enumerate(found):
            wanted = naive(hf, family, pair, up, down, part_of(u), part_of(d), through)
            assert scores.values[i, column] == pytest.approx(wanted, abs=1e-9), name
    exact = vc.exact(lm, task, units=[*edges], **QUIET)
    if family != "gemma4":  # whose curvature is larger than its slopes, from block 0 on
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


def slope(hf, family, lm, pair, ends, through, end_frozen=False, h=1e-5):
    """dM/dα of whole runs with hooks, α the share of the way that the sender goes: central differences, error O(h²)."""
    up, down = (Edges(hf, family, lm.layers, pair, share=share) for share in (h, -h))
    return (up.effect(*ends, through, end_frozen) - down.effect(*ends, through, end_frozen)) / (2 * h)


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, fast=("llama", "gemma2")))
def test_heads_mlps_tokens_and_logits_are_ends_too(family):
    hf, lm, found, task = asked(family)
    a, up = dictionary(lm.width, "r1", "relu", seed=5, name="up")
    b, down = dictionary(lm.width, "m1", "relu", seed=6, name="down")
    c, att = dictionary(lm.width, "a2", "relu", seed=7, name="att")
    lm, dim = lm.reading(a, b, c), lm.decoder.head_dim
    one, other, third = (up, 3), (down, "error"), (att, "error")
    head, mlp, tokens = ("head", 2, 1, dim), ("mlp", 2), ("resid", 0)
    early = ("mlp_post" if family.startswith("gemma") else "mlp", 0)  # a sender is the change of what it writes
    edges = {
        "f1.up.3->m2": (one, mlp, False), "f1.up.3->...->m2": (one, mlp, True),
        "f1.up.3->a2.h1": (one, head, False), "f1.up.3->...->a2.h1": (one, head, True),
        "f1.up.3->logits": (one, "logits", False), "f1.up.3->...->logits": (one, "logits", True),
        "m0->f1.up.error": (early, (up, "error"), False), "m0->...->f1.down.error": (early, other, True),
        "input->f1.up.3": (tokens, one, False), "input->...->f1.down.error": (tokens, other, True),
        "m0->...->f1.down.error->logits": (early, other, True, True),
        "f1.up.error->f2.att.error": ((up, "error"), third, False),
        "f1.up.error->...->f2.att.error": ((up, "error"), third, True),
    }  # fmt: skip
    if not family.startswith("gemma"):  # behind a post-norm a head's write is its share of the norm
        edges["a0.h1->...->f1.down.error"] = ("head", 0, 1, dim), other, True
        edges["a0.h1->f1.up.error"] = ("head", 0, 1, dim), (up, "error"), False
    scores = by_name(vc.estimates.feature_edges(lm, task, [*edges], **QUIET))
    assert sum(abs(values[0]) > 1e-4 for values in scores.values()) > 5
    for name, (start, end, through, *frozen) in edges.items():
        for i, pair in enumerate(found):
            wanted = slope(hf, family, lm, pair, (start, end), through, *frozen)
            assert scores[name][i] == pytest.approx(wanted, rel=1e-6, abs=1e-6), name  # h² · third derivatives near 10³


@pytest.mark.parametrize("family", ["opt", "llama", "bloom"])
def test_every_way_to_the_logits_is_attribution_patching(family):
    lm, (_, _, found, _) = as_model(make(family), family), asked("llama")
    names, task = ["a1.h1", "a0.h2", "m1"], task_of(found)
    ways = vc.estimates.feature_edges(lm, task, [f"{name}->...->logits" for name in names], **QUIET)
    slopes = [vc.attribute(lm, task, units=[name], **QUIET).values[:, 0] for name in names]
    torch.testing.assert_close(ways.values, torch.stack(slopes, 1), rtol=0, atol=1e-9)


def test_positions_add_up_and_chains_follow_their_arrows():
    _, lm, _, task = asked("llama")
    lm = lm.reading(dictionary(lm.width, "r1", "relu", name="up")[0], dictionary(lm.width, "r2", "relu", seed=6)[0])
    length = task.lengths[0]
    sent = [f"f1.up.error@{i}->...->f2.error" for i in range(length)]
    seen = [f"f1.up.error->...->a2.h1<v>@{i}" for i in range(length)]
    rest = ["f1.up.error->...->f2.error", "f1.up.error->...->a2.h1<v>"]
    scores = by_name(vc.estimates.feature_edges(lm, task, [*sent, *seen, *rest], **QUIET))
    whole, value = (np.array(scores[name]) for name in rest)
    chain, edge = (
        vc.estimates.feature_edges(lm, task, [f"f1.up.error->f2.error{more}"], **QUIET).values
        for more in ("->...->logits", "")
    )
    np.testing.assert_allclose(sum(np.array(scores[name]) for name in sent), whole, rtol=0, atol=1e-9)
    np.testing.assert_allclose(sum(np.array(scores[name]) for name in seen), value, rtol=0, atol=1e-9)
    np.testing.assert_allclose(chain, edge, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_integrated_gradients_average_the_downstream_gradient(family):
    """ḡ_d · ∇_u d · (u′ − u), ḡ_d the mean gradient at d as its whole site goes straight to the other run's value."""
    hf, lm, found, task = asked(family)
    a, up = dictionary(lm.width, "r1", "relu", seed=5, name="up")
    b, down = dictionary(lm.width, "r2", "relu", seed=6)
    lm, nodes = lm.reading(a, b), 4
    edges = {f"f1.up.{u}->...->f2.{d}": (u, d) for u in (3, "error") for d in (5, "error")}
    for direction in ("noising", "denoising"):
        how = {"method": "ig", "nodes": nodes, "direction": direction}
        scores = by_name(vc.estimates.feature_edges(lm, task, [*edges], **how, **QUIET))
        for i, pair in enumerate(found):
            base, other = (pair.clean, pair.corrupted) if direction == "noising" else (pair.corrupted, pair.clean)
            own, there = (both(hf, family, ids, down)[1] for ids in (base, other))
            grads = []
            for k in range(nodes):
                extra = (k / nodes * (there - own)).requires_grad_()
                logits = run(hf, family, base, [(down.writes, lambda x, extra=extra: x + extra)])
                grads += torch.autograd.grad(logits[pair.correct] - logits[pair.incorrect], extra)
            mean = sum(grads) / nodes
            for name, (u, d) in edges.items():
                before, after = (up.parts(*both(hf, family, ids, up))[u] for ids in (base, other))
                extra, seen = torch.zeros_like(before, requires_grad=True), {}
                keep = lambda x, seen=seen: seen.setdefault("x", x)  # noqa: E731
                run(hf, family, base, [(up.writes, lambda x, extra=extra: x + extra), (down.reads, keep)])
                written = down.parts(seen["x"], seen["x"])[d]
                (jacobian,) = torch.autograd.grad((mean * written).sum(), extra)
                assert scores[name][i] == pytest.approx(float((jacobian * (after - before)).sum()), abs=1e-9), name


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, fast=("llama", "gemma2")))
def test_run_upstream_changes_are_those_of_whole_runs(family):
    """The metric's slope at d times what d changes by where u alone, and what is live between, does."""
    hf, lm, found, task = asked(family)
    a, up = dictionary(lm.width, "r1", "topk", seed=5, name="up")
    b, down = dictionary(lm.width, "r2", "jumprelu", seed=6)
    c, mlp = dictionary(lm.width, "m1", "relu", seed=7, name="mlp")
    d, att = dictionary(lm.width, "a2", "relu", seed=8, name="att")
    lm, post = lm.reading(a, b, c, d), family.startswith("gemma")
    firing = vc.exact(lm, task, units="features.up", **QUIET).top(3)["name"]
    up_3 = next(part_of(name) for name in firing if not name.endswith("error"))
    one, three, last = (up, up_3), ((up, "error")), ("mlp_post" if post else "mlp", 2)
    edges = {
        f"f1.up.{up_3}->f2.error": (one, (down, "error"), False),
        f"f1.up.{up_3}->...->f2.error": (one, (down, "error"), True),
        "f1.up.error->f2.4": (three, (down, 4), False), "f1.up.error->...->f2.4": (three, (down, 4), True),
        "f1.up.error->m2": (three, last, False), "f1.up.error->...->m2": (three, last, True),
        "input->...->f2.error->logits": (("resid", 0), (down, "error"), True, True),
    }  # fmt: skip
    if not post:  # there slopes are those behind the norm
        edges |= {
            "f1.up.error->...->f1.mlp.error": (three, (mlp, "error"), True),
            "f1.up.error->f1.mlp.error": (three, (mlp, "error"), False),
            "f1.up.error->...->f2.att.error": (three, (att, "error"), True),
            "f1.up.error->...->a2.h1": (three, ("head", 2, 1, lm.decoder.head_dim), True),
            "f1.up.error->a2.h1": (three, ("head", 2, 1, lm.decoder.head_dim), False),
        }
    for how in ({}, {"direction": "denoising"}, {"ablation": "zero"}):
        own = {name: ends for name, ends in edges.items() if not how.get("ablation") or name[0] == "f"}
        scores = by_name(vc.estimates.feature_edges(lm, task, [*own], upstream="run", **how, **QUIET))
        assert sum(abs(values[0]) > 1e-4 for values in scores.values()) > len(own) / 2
        for i, pair in enumerate(found):
            naive = Edges(hf, family, lm.layers, pair, "direction" not in how, "ablation" in how)
            for name, ends in own.items():
                wanted = naive.estimate(*ends)
                assert scores[name][i] == pytest.approx(wanted, rel=1e-6, abs=1e-6), (
                    name,
                    how,
                )  # rounding 1e-16 · 10 / h, h² · third derivatives


def test_run_upstream_changes_and_averaged_metrics_tend_to_the_exact_edge():
    """Where d's site goes all its way because of u the path of "ig" is u's own: errors of its left grid halve."""
    _, lm, _, task = asked("llama")
    never = dictionary(lm.width, "r1", "jumprelu", seed=5, name="up")[0], dictionary(lm.width, "r2", seed=6)[0]
    for one in never:  # no feature fires: the error is the whole stream
        one.encoder.bias.fill_(-1e3)
    lm, edge = lm.reading(*never), ["f1.up.error->...->f2.error"]
    exact = vc.exact(lm, task, units=edge, **QUIET).values
    found = [
        vc.estimates.feature_edges(lm, task, edge, method="ig", nodes=nodes, upstream="run", **QUIET).values - exact
        for nodes in (16, 32)
    ]
    torch.testing.assert_close(found[1] / found[0], torch.full_like(exact, 0.5), rtol=0.1, atol=0)
    assert (found[1] - found[0] / 2).abs().max() < 0.01 * exact.abs().max()


def test_where_the_metric_is_linear_run_upstream_changes_are_exact():
    """No norms, and nothing behind d: features that u switches are seen, which slopes do not see."""
    lm, truth = vc.ground_truth.load_superposed(dtype=torch.float64)
    own = [dictionary(lm.width, f"r{lm.layers - i}", "jumprelu", seed=5 + i, name="up" * i)[0] for i in (1, 0)]
    lm, task = lm.reading(*own), truth.task(n=2)
    edges = [f"f{lm.layers - 1}.up.error{arrow}f{lm.layers}.{i}" for arrow in ("->", "->...->") for i in range(14)]
    exact = vc.exact(lm, task, units=edges, **QUIET).values
    run, slope = (vc.estimates.feature_edges(lm, task, edges, upstream=how, **QUIET).values for how in ("run", "slope"))
    torch.testing.assert_close(run, exact, rtol=0, atol=1e-9)
    assert (slope - exact).abs().max() > 1e-3 and exact.abs().max() > 1e-3


def test_run_upstream_changes_cost_a_run_of_each_sender():
    _, lm, found, _ = asked("llama")
    task = task_of([*found, *pairs(VOCAB, 2, 8, 4)])
    lm = lm.reading(dictionary(lm.width, "r1", "relu", name="up")[0], dictionary(lm.width, "m2", "relu", seed=6)[0])
    few = [f"f1.up.{i}->...->f2.{j}" for i in (3, 5) for j in (1, 2, 4)]
    for method in ("atp", "ig"):
        more = [] if method == "ig" else ["m0@7->...->m1->f2.error->logits", "f1.up.3->...->m2", "f1.up.3->m2"]
        costs = []
        for edges in (few, few + [f"f1.up.{i}->...->f2.9" for i in (3, 5)], few + more):
            how = {"method": method, "upstream": "run", "nodes": 2}
            scores = vc.estimates.feature_edges(lm, task, edges, **how, **QUIET)
            price = vc.forecast(vc.estimates.feature_edges, lm, task, measure=False, units=edges, **how)
            assert price.token_layers == scores.cost.token_layers
            costs.append(price.token_layers)
        assert costs[0] == costs[1] and scores.settings["upstream"] == "run"  # another reader costs no run
        alone = [vc.estimates.feature_edges(lm, task_of([pair]), few, **how, **QUIET).values for pair in found]
        torch.testing.assert_close(scores.values[:2, :6], torch.cat(alone), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("units", "how", "said"),
    [
        (["a0.h0->m2"], {}, "units='edges'"),
        (["f1.up.3->m2"], {"method": "ig"}, "ends at|end at"),
        (["f1.up.3->f2.down.3->logits"], {"method": "ig"}, "end at"),
        (["f1.up.3->f2.down.3"], {"method": "ig", "nodes": 0}, "one node"),
        (["f1.up.3->f2.down.3"], {"method": "eap"}, "atp or ig"),
        (["f1.up.3->f2.down.3"], {"ablation": "mean"}, "counterfactual, zero"),
        (["f1.up.3->f2.down.3"], {"upstream": "exact"}, "'slope'"),
        (["f1.up.3->...->logits"], {"upstream": "run"}, "exact effect"),
    ],
)
def test_what_is_refused(units, how, said):
    _, lm, _, task = asked("llama")
    lm = lm.reading(dictionary(lm.width, "r1", name="up")[0], dictionary(lm.width, "r2", name="down")[0])
    with pytest.raises(VeracausaError, match=said):
        vc.estimates.feature_edges(lm, task, units, **how, **QUIET)


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


def test_pairs_of_several_lengths_are_those_of_each_alone():
    _, lm, found, _ = asked("llama")
    longer = pairs(VOCAB, 2, 8, 4)
    lm = lm.reading(dictionary(lm.width, "r1", "relu", name="up")[0], dictionary(lm.width, "m2", "relu", seed=6)[0])
    edges = ["f1.up.3->...->f2.5", "f1.up.error->f2.error", "m0@7->...->f2.error"]
    for how in ({}, {"direction": "denoising"}, {"ablation": "zero"}):
        every = vc.estimates.feature_edges(lm, task_of([*found, *longer]), edges, **how, **QUIET).values
        alone = [vc.estimates.feature_edges(lm, task_of([pair]), edges[:2], **how, **QUIET).values for pair in found]
        torch.testing.assert_close(every[:2, :2], torch.cat(alone), rtol=0, atol=1e-9)
        assert every[:2, 2].isnan().all() and not every[2:].isnan().any()  # the short ones have no position 7

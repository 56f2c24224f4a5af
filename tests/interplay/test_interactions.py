"""Interactions of two layers against a triple loop over readers, positions and nodes on the bare model."""

import naive_features as features
import naive_interactions as plain
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from two_layers import QUIET, asked

import veracausa as vc
from veracausa.dictionaries import Dictionary, Encoder
from veracausa.errors import VeracausaError
from veracausa.interplay.interacting import InteractionsWork

SIZE = 10


def two_sided(width, site, kind, writes=None, seed=5):
    """The same dictionary for both sides: ours, and plain tensors."""
    g = torch.Generator().manual_seed(seed)
    w_enc, w_dec = torch.randn(width, SIZE, generator=g).double(), torch.randn(SIZE, width, generator=g).double() / 4
    b_enc, b_dec = torch.randn(SIZE, generator=g).double() / 4, torch.randn(width, generator=g).double()
    threshold = torch.rand(SIZE, generator=g).double()
    own = {"jumprelu": {"threshold": threshold}, "topk": {"k": 4}}.get(kind, {})
    ours = Dictionary.of(Encoder(w_enc, b_enc, kind, **own), w_dec, b_dec, site=site, writes=writes)
    named = {"r": "resid", "m": "mlp", "n": "mlp_in", "r.mid": "mid"}
    sites = [(named[one[0] + one[2:]], int(one[1])) for one in (site, writes or site)]
    return ours, features.Plain(kind, w_enc, b_enc, w_dec, b_dec, *sites, threshold=threshold, k=4)


def groups(lm, asked_for):
    """(site, layer) and the numbers of every part."""
    kind, layer = asked_for.split(":")
    width = {"heads": lm.decoder.head_dim, "mlps": lm.width, "residual": lm.width}.get(kind, 1)
    count = {"heads": lm.heads, "neurons": lm.neurons}.get(kind, 1)
    site = {"heads": "z", "neurons": "neurons", "mlps": "mlp", "residual": "resid"}[kind]
    return (site, int(layer)), [slice(k * width, (k + 1) * width) for k in range(count)]


FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma2", "gpt_neox-sequential", "mpt")
ENDS = [("heads:0", "neurons:2"), ("neurons:0", "heads:2"), ("mlps:0", "residual:3"), ("residual:1", "mlps:1")]


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("sources", "readers"), ENDS)
def test_integrated_gradients_are_those_of_a_triple_loop(family, sources, readers):
    hf, lm, task = asked(family)
    (source, of), (reader, by) = groups(lm, sources), groups(lm, readers)
    ours = {
        mode: vc.interactions(lm, task, sources, readers, nodes=3, mode=mode, **QUIET)
        for mode in ("forward", "reverse")
    }
    for example in range(len(task)):
        own, other = (plain.values(hf, family, side[example], source) for side in (task.clean, task.corrupted))
        squares, means = plain.kept(plain.ig(hf, family, task.clean[example], source, own, other, reader, of, 3), by)
        for found in ours.values():
            assert torch.allclose(found.squares[example], squares, atol=1e-9 * float(squares.max()))
            if not bool(found.means.isnan().any()):
                assert torch.allclose(found.means[example], means, atol=1e-9 * float(means.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("sources", "readers"), ENDS)
def test_exact_interactions_are_whole_runs_without_a_source(family, sources, readers):
    hf, lm, task = asked(family)
    (source, of), (reader, by) = groups(lm, sources), groups(lm, readers)
    ours = vc.interactions(lm, task, sources, readers, method="exact", ablation="zero", **QUIET)
    for example, ids in enumerate(task.clean):
        own = plain.values(hf, family, ids, source)
        squares, means = plain.kept(plain.exact(hf, family, ids, source, own, 0 * own, reader, of), by)
        assert torch.allclose(ours.squares[example], squares, atol=1e-9 * float(squares.max()))
        assert ours.residual >= 0
        if not bool(ours.means.isnan().any()):
            assert torch.allclose(ours.means[example], means, atol=1e-9 * float(means.abs().max()))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_direct_interaction_is_what_the_reader_makes_of_the_source_s_write(family):
    """Of a linear reader that is next to its source, both ways are one; of one behind blocks they are not."""
    _, lm, task = asked(family)
    near = [
        vc.interactions(lm, task, "neurons:0", "residual:1", method=method, way=way, **QUIET)
        for method in ("ig", "exact")
        for way in ("whole", "direct")
    ]
    for other in near[1:]:
        linear = family != "gemma2"  # whose post-norm stands between
        if linear or other.method == near[0].method:
            assert torch.allclose(other.squares, near[0].squares, rtol=1e-9)
    far = [
        vc.interactions(lm, task, "neurons:0", "heads:2", method="exact", way=way, **QUIET)
        for way in ("whole", "direct")
    ]
    assert not torch.allclose(far[0].squares, far[1].squares, rtol=0.1)


def test_a_linear_layer_s_interaction_is_the_mean_of_weight_times_value_squared():
    hf, lm, task = asked("llama", count=3, length=[5, 7, 5])
    basis = vc.directions(
        lm, {f"e{i}": row for i, row in enumerate(torch.eye(lm.width, dtype=torch.float64))}, site="r2"
    )
    of_basis = [f"d2.e{i}" for i in range(lm.width)]
    weight = hf.model.layers[1].mlp.down_proj.weight.detach()  # [width, neurons]
    total, sums, positions = 0.0, 0.0, 0
    for ids in task.clean:
        j = weight[:, None] * plain.values(hf, "llama", ids, ("neurons", 1))  # [width, positions, neurons]
        total, sums, positions = total + (j**2).sum(1), sums + j.sum(1), positions + len(ids)
    for method, way in (("ig", "whole"), ("gradient", "direct"), ("exact", "whole")):
        how = {"method": method, "way": way, "ablation": "zero", "dictionary": basis}
        found = vc.interactions(lm, task, "neurons:1", of_basis, **how, **QUIET)
        assert np.allclose(found.strength**2, (total / positions).numpy(), rtol=1e-8, atol=1e-14)
        assert np.allclose(found.mean, (sums / positions).numpy(), rtol=1e-8, atol=1e-12)
        assert found.residual < 1e-9


def same(one, other, tolerance=1e-9):
    scale = float(one.squares.max())
    assert torch.allclose(one.squares, other.squares, atol=tolerance * scale)
    assert torch.allclose(one.means, other.means, atol=tolerance * scale**0.5, equal_nan=True)


@pytest.mark.parametrize("readers", [pytest.param("neurons:2", marks=pytest.mark.slow), "heads:2"])
def test_orthogonal_signs_give_the_sum_and_random_ones_come_near(readers):
    _, lm, task = asked("llama")
    exact = vc.interactions(lm, task, "heads:0", readers, nodes=2, **QUIET)
    numbers = 1 if readers == "neurons:2" else lm.decoder.head_dim
    most = 1 << (6 * numbers - 1).bit_length()
    how = {"nodes": 2, "mode": "reverse", **QUIET}
    whole = vc.interactions(lm, task, "heads:0", readers, probes=most, orthogonal=True, **how)
    same(exact, whole)
    assert not whole.stderr.any()  # all signs that there are: nothing is left to chance
    some = vc.interactions(lm, task, "heads:0", readers, probes=400, **how)
    off = (some.strength - exact.strength) / some.stderr
    assert 0.5 < np.sqrt(np.nanmean(off**2)) < 1.6  # standard errors are those of what was drawn
    assert np.abs(some.strength / exact.strength - 1).max() < 0.3
    few, again = (vc.interactions(lm, task, "heads:0", readers, probes=9, **how) for _ in range(2))
    assert torch.equal(again.squares, few.squares)
    one = vc.interactions(lm, task[[1]], "heads:0", readers, probes=9, **how)
    assert not torch.equal(one.squares[0], few.squares[1])  # another example's draw: keyed by its place in the task


@pytest.mark.cases(1)
@pytest.mark.parametrize("how", [{}, {"mode": "reverse"}, {"method": "exact"}, {"way": "direct", "ablation": "zero"},
                                 {"ablation": "mean", "method": "gradient"}])  # fmt: skip
def test_batches_change_nothing_and_the_model_is_left_as_it_was(how):
    hf, lm, task = asked("gemma2", count=4, length=[6, 8])
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    reference = {"reference": task} if how.get("ablation") == "mean" else {}
    every = vc.interactions(lm, task, "neurons:0", "heads:1", nodes=2, **how, **QUIET)
    for example in range(len(task)):
        one = vc.interactions(lm, task[[example]], "neurons:0", "heads:1", nodes=2, **how, **reference, **QUIET)
        assert torch.allclose(one.squares[0], every.squares[example], rtol=1e-9, atol=1e-18)
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in hf.modules())
    assert not any(parameter.grad is not None for parameter in hf.parameters())


def test_the_sum_over_sources_is_the_whole_change_within_quadrature():
    _, lm, task = asked("gpt2")
    found = [vc.interactions(lm, task, "neurons:0", "neurons:2", nodes=m, **QUIET) for m in (1, 4, 32)]
    rest = [one.residual for one in found]
    assert rest[0] > rest[1] > rest[2] and rest[2] < 1e-3
    some = vc.interactions(lm, task, ["m0.n3", "m0.n5"], "neurons:2", nodes=32, **QUIET)
    assert some.residual == pytest.approx(rest[2], rel=1e-6)  # what is not asked for is counted in it
    assert torch.allclose(some.squares, found[2].squares[:, :, [3, 5]])


@pytest.mark.slow
def test_what_is_counted_beforehand_is_what_is_run():
    _, lm, task = asked("llama", count=3, length=[6, 8, 6])
    for how in ({}, {"mode": "reverse"}, {"method": "exact"}, {"mode": "reverse", "probes": 3}, {"way": "direct"},
                {"ablation": "mean"}):  # fmt: skip
        work = vc.interactions.work(lm, task, "heads:0", "neurons:2", nodes=2, **how)
        assert (
            vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, **how, **QUIET).cost.token_layers
            == work.tokens()
        )
    assert vc.interactions.work(lm, task, "heads:0", "neurons:2").chosen == "forward"
    assert vc.interactions.work(lm, task, "neurons:0", ["m2.n1"]).chosen == "reverse"


@pytest.mark.slow
def test_a_model_without_products_forward_is_read_backward():
    hf, lm, task = asked("bloom")
    (source, of), (reader, by) = groups(lm, "heads:0"), groups(lm, "neurons:2")
    assert vc.interactions.work(lm, task, "heads:0", "neurons:2").chosen == "forward"
    found = vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, **QUIET)
    assert found.settings["mode"] == "reverse"
    for example, pair in enumerate(zip(task.clean, task.corrupted, strict=True)):
        own, other = (plain.values(hf, "bloom", ids, source) for ids in pair)
        squares, _ = plain.kept(plain.ig(hf, "bloom", pair[0], source, own, other, reader, of, 2), by)
        assert torch.allclose(found.squares[example], squares, atol=1e-9 * float(squares.max()))
    with pytest.raises(VeracausaError, match="mode='reverse'"):
        vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, mode="forward", **QUIET)
    assert vc.interactions(lm, task, "heads:0", "neurons:2", method="exact", **QUIET).exact


def test_features_and_directions_talk_and_listen():
    """Of a dictionary that is the identity, parts are the stream's numbers; of others everything adds up."""
    _, lm, task = asked("llama")
    basis = {f"e{i}": row for i, row in enumerate(torch.eye(lm.width, dtype=torch.float64))}
    laid = lm.reading(vc.directions(lm, basis, site="r1"), vc.directions(lm, basis, site="m2", name="out"))
    found = vc.interactions(laid, task, "directions:1", "directions.out:2", nodes=4, **QUIET)
    whole = vc.interactions(lm, task, ["r1"], ["m2"], nodes=4, **QUIET)
    own = torch.as_tensor([name != "d1.error" for name in found.sources])
    j = found.means[:, :-1][:, :, own].sum(-1)
    assert found.readers[-1] == "d2.out.error" and found.sources[-1] == "d1.error"
    assert float(found.squares[:, -1].max()) < 1e-18 and float(found.squares[:, :, -1].max()) < 1e-18
    assert j.shape == (2, lm.width) and whole.squares.shape == (2, 1, 1)
    pca = laid.reading(vc.fitting.pca(lm, task, "r2", k=3, name="pca"))
    seen = vc.interactions(pca, task, "directions:1", "directions.pca:2", nodes=4, **QUIET)
    assert [*seen.readers] == ["d2.pca.pc0", "d2.pca.pc1", "d2.pca.pc2", "d2.pca.error"]


def test_what_means_nothing_is_refused_in_words():
    _, lm, task = asked("llama")
    for sources, readers, how, said in (
        ("neurons:2", "heads:1", {}, "come behind"), ("heads:0", "heads:0", {}, "come behind"),
        ("heads@0", "heads:1", {}, "'heads:10'"), ("heads:7", "neurons:8", {}, "layers 0, 1, 2"),
        ("queries:0", "heads:1", {}, "not queries"), (["a0.h0", "a1.h0"], "neurons:2", {}, "one layer's"),
        (["a0.h0@1", "a0.h1"], "neurons:2", {}, "at all positions"),
        ("heads:0", "neurons:2", {"nodes": 0}, "at least one"),
        ("heads:0", "neurons:2", {"probes": 4, "mode": "forward"}, "exactly"),
        ("heads:0", "neurons:2", {"orthogonal": True}, "probes"),
        ("heads:0", "neurons:2", {"probes": 9, "orthogonal": True, "mode": "reverse"}, "at most 8"),
        ("heads:0", "neurons:2", {"reference": task}, "Leave it out"),
    ):  # fmt: skip
        with pytest.raises(VeracausaError, match=said):
            vc.interactions(lm, task, sources, readers, **how, **QUIET)


def test_a_result_is_read_as_it_was_written(tmp_path):
    _, lm, task = asked("llama")
    for how in ({}, {"mode": "reverse", "probes": 3}):
        found = vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, **how, **QUIET)
        again = vc.open(found.save(tmp_path / "found.safetensors"))
        assert torch.equal(again.squares, found.squares) and repr(again) == repr(found)
        assert again.table().equals(found.table()) and again.spread().equals(found.spread())


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("kind", "reads", "writes"),
    [("topk", "r2", None), ("jumprelu", "m2", None), ("relu", "n2", "m2"), ("topk", "r2.mid", None)],
)
@pytest.mark.parametrize("method", ["ig", "exact"])
def test_features_are_those_of_encoders_written_out_anew(kind, reads, writes, method):
    hf, lm, task = asked("llama")
    mine, theirs = two_sided(lm.width, "r1", "topk", seed=1)
    far, there = two_sided(lm.width, reads, kind, writes)
    laid = lm.reading(mine, far)
    sides = [*(f"f1.{j}" for j in range(SIZE)), "f1.error"], [f"f2.{i}" for i in range(SIZE)]
    found = vc.interactions(laid, task, *sides, method=method, nodes=3, **QUIET)
    for example, (clean, corrupted) in enumerate(zip(task.clean, task.corrupted, strict=True)):
        own, other = (theirs.parts(*features.both(hf, "llama", ids, theirs)) for ids in (clean, corrupted))
        delta = torch.stack([own[part] - other[part] for part in (*range(SIZE), "error")])  # [parts, n, width]
        start = features.both(hf, "llama", clean, theirs)[1]

        def read(y, ids=clean):
            seen = []
            features.run(hf, "llama", ids, [(theirs.writes, lambda a: y), (there.reads, lambda a: seen.append(a) or a)])
            return there.encode(seen[0])

        j = torch.zeros(SIZE, len(clean), len(delta), dtype=torch.float64)
        if method == "exact":
            with torch.no_grad():
                j = torch.stack([(read(start) - read(start - one)).T for one in delta], -1)
        else:
            for alpha, weight in plain.naive.gauss_legendre(3):
                y = (start - (1 - float(alpha)) * delta.sum(0)).requires_grad_(True)
                f = read(y)
                for i in range(SIZE):
                    for t in range(len(clean)):
                        (g,) = torch.autograd.grad(f[t, i], y, retain_graph=True)
                        j[i, t] += float(weight) * (g * delta).sum((1, 2))
        squares, means = plain.kept(j, [slice(i, i + 1) for i in range(SIZE)])
        assert torch.allclose(found.squares[example], squares, atol=1e-9 * float(squares.max()))
        assert torch.allclose(found.means[example], means, atol=1e-9 * float(means.abs().max()))


def test_what_cannot_fit_is_refused_before_it_runs():
    _, lm, task = asked("llama")
    how = {"sources": "heads:0", "readers": "neurons:2", **QUIET}
    with pytest.raises(VeracausaError, match="beside the weights even with one pair"):
        vc.interactions(lm, task, memory="1kB", **how)
    same(vc.interactions(lm, task, **how), vc.interactions(lm, task, memory="20MB", **how))
    del how["show_progress"]
    told = [vc.forecast(vc.interactions, lm, task, measure=False, memory=size, **how).memory.beside
            for size in ("20MB", "20GB")]  # fmt: skip
    assert 0 < told[0] <= told[1]


def test_what_was_done_before_a_kill_is_not_done_again(tmp_path, monkeypatch):
    """Pieces are kept pair by pair, under a name that says all that the numbers depend on."""
    _, lm, task = asked("llama")
    whole = vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, **QUIET)
    row, seen = InteractionsWork._row, []

    def interrupted(work, example, kept):
        if seen:
            raise KeyboardInterrupt
        seen.append(example)
        return row(work, example, kept)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(InteractionsWork, "_row", interrupted)
        vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, out=tmp_path, **QUIET)
    (kept,) = (load_file(path)["done"] for path in tmp_path.glob("interactions-*.pieces.safetensors"))
    assert kept.all(1).tolist() == [i == seen[0] for i in range(len(task))]
    monkeypatch.setattr(InteractionsWork, "_row", lambda work, i, kept: seen.append(i) or row(work, i, kept))
    resumed = vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, out=tmp_path, **QUIET)
    for name in ("squares", "means", "rest", "change"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name))
    del seen[:]
    vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, out=tmp_path, **QUIET)
    assert not seen
    for other in ({"ablation": "zero"}, {"nodes": 3}, {"way": "direct"}, {"method": "gradient"}):
        vc.interactions(lm, task, "heads:0", "neurons:2", **{"nodes": 2} | other, out=tmp_path, **QUIET)
        assert len(seen) == len(task), other
        del seen[:]

"""Features of dictionaries: exact effects and estimates against whole runs of the plain model with hooks."""

import hashlib

import naive_features as plain
import numpy as np
import pytest
import torch
from bridges import as_model
from laid_features import SIZE, asked, by_name, dictionary, identity, part_of, task_of
from tiny_models import FAMILIES, VOCAB, make, mostly_slow, pairs

import veracausa as vc
from veracausa.dictionaries import Dictionary, Encoder
from veracausa.errors import VeracausaError
from veracausa.units import resolve

CASES = [
    ("r1", None, "topk", False), ("r0", None, "jumprelu", False), ("r3", None, "relu", False),
    ("m1", None, "relu", False), ("a1", None, "topk", False), ("z2", None, "jumprelu", False),
    ("n1", "m1", "topk", True), ("r1", "m1", "relu", True),
]  # fmt: skip


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", mostly_slow(FAMILIES, fast=("llama", "gpt_neox", "gemma2", "gpt2")))
@pytest.mark.parametrize(("site", "writes", "kind", "skip"), CASES)
def test_effects_and_slopes_are_those_of_whole_runs(family, site, writes, kind, skip):
    hf, lm, found, task = asked(family)
    width = lm.heads * lm.decoder.head_dim if site[0] == "z" else lm.width
    ours, theirs = dictionary(width, site, kind, writes, skip)
    lm = lm.reading(ours)
    exact = by_name(vc.exact(lm, task, units="features", show_progress=False))
    back = by_name(vc.exact(lm, task, units="features", direction="denoising", show_progress=False))
    zero = by_name(vc.exact(lm, task, units="features", ablation="zero", show_progress=False))
    slope = by_name(vc.attribute(lm, task, units="features", method="atp", show_progress=False))
    layer = ours.writes.layer
    assert {f"f{layer}.error"} | ({f"f{layer}.skip"} if skip else set()) <= set(exact)
    for i, pair in enumerate(found):
        for name in exact:
            given = (hf, family, pair, theirs, part_of(name))
            # float64, a few blocks: rounding of logits of size 10 and less
            assert exact[name][i] == pytest.approx(plain.effect(*given, "other"), abs=1e-9), name
            assert back[name][i] == pytest.approx(plain.effect(*given, "other", False), abs=1e-9), name
            assert zero[name][i] == pytest.approx(plain.effect(*given, "zero"), abs=1e-9), name
            assert slope[name][i] == pytest.approx(plain.atp(*given), abs=1e-9), name
        # what is no candidate does nothing
        for feature in set(range(SIZE)) - {part_of(name) for name in exact}:
            assert plain.effect(hf, family, pair, theirs, feature, "other") == 0


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_positions(family):
    hf, lm, found, task = asked(family, count=1)
    ours, theirs = dictionary(lm.width, "m1")
    exact = by_name(vc.exact(lm, task, units="features@positions", dictionary=ours, show_progress=False))
    slope = by_name(vc.attribute(lm, task, units="features@positions", dictionary=ours, show_progress=False))
    whole = by_name(vc.attribute(lm, task, units="features", dictionary=ours, show_progress=False))
    assert set(exact) == set(slope)
    for name in exact:
        at = int(name.partition("@")[2])
        wanted = plain.effect(hf, family, found[0], theirs, part_of(name), "other", position=at)
        assert exact[name][0] == pytest.approx(wanted, abs=1e-9), name
    for stem, value in whole.items():
        summed = sum(each[0] for name, each in slope.items() if name.startswith(f"{stem}@"))
        assert summed == pytest.approx(value[0], abs=1e-9)


def test_an_identity_gives_what_the_coordinates_are():
    """The parts of a site by another door: z's coordinates of a head add up as the head's own values do."""
    _, lm, _, task = asked("llama")
    width = lm.heads * lm.decoder.head_dim
    slopes = vc.attribute(lm.reading(identity(width, "z1")), task, units="features", show_progress=False)
    heads = by_name(vc.attribute(lm, task, units="heads", show_progress=False))
    values = by_name(slopes)
    for head in range(lm.heads):
        own = range(head * lm.decoder.head_dim, (head + 1) * lm.decoder.head_dim)
        summed = np.sum([values[f"f1.{i}"] for i in own if f"f1.{i}" in values], 0)
        np.testing.assert_allclose(summed, heads[f"a1.h{head}"], rtol=0, atol=1e-10)
    wide = lm.decoder.head_dim
    sets = {f"a1.h{head}": [f"f1.{head * wide + i}" for i in range(wide)] for head in range(lm.heads)}
    together = by_name(vc.exact(lm.reading(identity(width, "z1")), task, units=sets, show_progress=False))
    alone = by_name(vc.exact(lm, task, units=[*sets], show_progress=False))
    for head in sets:
        np.testing.assert_allclose(together[head], alone[head], rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["ig", "conductance", vc.Method(path="unit", nodes=3)])
def test_paths_that_promise_it_add_up(method):
    """All features and the error are the site: their scores sum to its effect, whatever is left out of the table."""
    _, lm, _, task = asked("gpt2")
    for site, kind, writes, skip in (("r1", "jumprelu", None, False), ("n1", "topk", "m1", True)):
        ours, _ = dictionary(lm.width, site, kind, writes, skip)
        lm = lm.reading(ours)
        found = vc.attribute(lm, task, units="features", method=method, nodes=24, show_progress=False)
        few = vc.attribute(lm, task, units=found.units.names[:3], method=method, nodes=24, show_progress=False)
        np.testing.assert_allclose(few.values, found.values[:, :3], rtol=0, atol=1e-9)
        whole = vc.exact(lm, task, units=["r1" if writes is None else "m1"], show_progress=False)
        if method == "ig":  # 24 Gauss nodes on smooth tiny models
            np.testing.assert_allclose(found.values.sum(1), whole.values[:, 0], rtol=0, atol=1e-7)


def test_bad_dictionaries_are_refused():
    _, lm, _, task = asked("llama")
    ours, _ = dictionary(lm.width, "r1")
    for call, said in (
        (lambda: vc.exact(lm, task, units="features"), "lm.reading"),
        (lambda: vc.exact(lm, task, units=["f1.3"]), "lm.reading"),
        (lambda: vc.exact(lm, task, units=["f1.99"], dictionary=ours), "14 features"),
        (lambda: vc.exact(lm, task, units=["f2.1"], dictionary=ours), "f1 with"),
        (lambda: vc.exact(lm, task, units=["f1.skip"], dictionary=ours), "f1 with"),
        (lambda: lm.reading(ours, ours), "names"),
        (lambda: lm.reading(dictionary(lm.width, "r9")[0]), "layers"),
        (lambda: lm.reading(dictionary(lm.width + 1, "r1")[0]), "wide"),
        (lambda: lm.reading("sae"), "vc.dictionary"),
    ):
        with pytest.raises(VeracausaError, match=said):
            call()


def test_named_dictionaries_and_directions():
    hf, lm, found, task = asked("llama", count=1)
    stream, theirs = dictionary(lm.width, "r1")
    mlp, of_mlp = dictionary(lm.width, "m1", "relu", name="mlp")
    labels = tuple(f"way{i}" for i in range(SIZE))
    ways, _ = dictionary(lm.width, "r1", "linear", labels=labels)
    lm = lm.reading(stream, mlp, ways)
    assert by_name(vc.exact(lm, task, units=["f1.mlp.error"], show_progress=False))["f1.mlp.error"][0] == pytest.approx(
        plain.effect(hf, "llama", found[0], of_mlp, "error", "other"), abs=1e-9
    )
    names = vc.exact(lm, task, units="directions", show_progress=False).units.names
    assert names == [*(f"d1.way{i}" for i in range(SIZE)), "d1.error"]
    one = vc.exact(lm, task, units=["d1.way3"], show_progress=False)
    linear = plain.Plain("linear", theirs.w_enc, theirs.b_enc, theirs.w_dec, theirs.b_dec, theirs.reads, theirs.writes)
    assert one.values[0, 0] == pytest.approx(plain.effect(hf, "llama", found[0], linear, 3, "other"), abs=1e-9)


def test_means_and_donors():
    hf, lm, found, task = asked("llama", count=3)
    ours, theirs = dictionary(lm.width, "r1")
    lm = lm.reading(ours)
    mean = vc.exact(lm, task, units=["f1.3", "f1.error"], ablation="mean", show_progress=False)
    every = [plain.both(hf, "llama", ids, theirs) for pair in found for ids in (pair.clean, pair.corrupted)]
    for column, part in enumerate((3, "error")):
        average = torch.stack([theirs.parts(*each)[part] for each in every]).mean(0)
        for i, pair in enumerate(found):
            own = theirs.parts(*plain.both(hf, "llama", pair.clean, theirs))[part]
            with torch.no_grad():
                new, old = (
                    plain.run(hf, "llama", pair.clean, [(theirs.writes, lambda a, d=d: a + d)])
                    for d in (average - own, torch.zeros_like(own))
                )
            wanted = (new - old)[pair.correct] - (new - old)[pair.incorrect]
            assert mean.values[i, column] == pytest.approx(float(wanted), abs=1e-9)
    again = [vc.exact(lm, task, units="features", ablation="resample", seed=s, show_progress=False) for s in (0, 0, 1)]
    assert torch.equal(again[0].values, again[1].values) and not torch.equal(again[0].values, again[2].values)


def test_results_go_to_files_and_back(tmp_path):
    _, lm, _, task = asked("llama")
    mlp, _ = dictionary(lm.width, "m1", "relu", name="mlp")
    ways, _ = dictionary(lm.width, "r1", "linear", labels=tuple(f"way{i}" for i in range(SIZE)))
    for units in ("features.mlp", "directions", "features.mlp@positions", ["f1.mlp.error"]):
        found = vc.exact(lm, task, units=units, dictionary=[mlp, ways], show_progress=False)
        path = tmp_path / f"{len(found)}.safetensors"
        found.save(path)
        again = vc.open(path)
        assert again.units.names == found.units.names
        assert torch.equal(again.values, found.values)
        assert again.settings["dictionary"] == found.settings["dictionary"]
        assert list(again.units.table()["name"]) == found.units.names


def test_estimates_are_compared_and_verified_with_their_own_dictionary(tmp_path):
    _, lm, _, task = asked("llama", count=4)
    ours, _ = dictionary(lm.width, "r1", "relu")
    other, _ = dictionary(lm.width, "r1", "relu", seed=6)
    exact = vc.exact(lm, task, units="features", dictionary=ours, out=tmp_path, show_progress=False)
    slopes = vc.attribute(lm, task, units="features", dictionary=ours, show_progress=False)
    assert len(vc.agreement(slopes, exact).names) == len(exact.units)
    receipt = vc.verify(lm, task, slopes, top=3, sample=4, dictionary=ours, show_progress=False)
    shared = [exact.units.find(name) for name in receipt.exact.units.names]
    # chunks of other sizes: rounding
    np.testing.assert_allclose(receipt.exact.values, exact.values[:, shared], rtol=0, atol=1e-10)
    elsewhere = vc.exact(lm, task, units="features", dictionary=other, out=tmp_path, show_progress=False)
    assert elsewhere.settings["dictionary_digest"] != exact.settings["dictionary_digest"]
    with pytest.raises(VeracausaError, match="different dictionaries"):
        vc.agreement(slopes, elsewhere)
    for wrong in (None, other):
        with pytest.raises(VeracausaError, match="dictionar"):
            vc.verify(lm, task, slopes, top=3, sample=4, dictionary=wrong, show_progress=False)


def test_spans_and_nothing_active():
    _, lm, _, task = asked("llama")
    encoder = Encoder(torch.zeros(lm.width, SIZE), torch.full((SIZE,), -1.0), "relu")
    silent = Dictionary.of(encoder, torch.ones(SIZE, lm.width), site="r1")
    found = vc.exact(lm, task, units="features", dictionary=silent, show_progress=False)
    whole = vc.exact(lm, task, units=["r1"], show_progress=False)
    assert found.units.names == ["f1.error"]
    np.testing.assert_allclose(found.values, whole.values, rtol=0, atol=1e-10)


def test_half_precision():
    hf, found = make("llama", dtype=torch.bfloat16), pairs(VOCAB, 2, 6, 3)
    lm, task = as_model(hf, "llama"), task_of(found)
    ours, _ = dictionary(lm.width, "r1")
    low = vc.exact(lm, task, units="features", dictionary=ours, show_progress=False)
    assert low.values.dtype == torch.float32 and torch.isfinite(low.values).all()
    slopes = vc.attribute(lm, task, units="features", dictionary=ours, method="ig", show_progress=False)
    assert torch.isfinite(slopes.values).all()


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, fast=("llama", "gpt_neox", "gemma2", "gpt2")))
@pytest.mark.parametrize("where", [("r0", "m1"), ("z0", "a1"), ("n0", "r3")])
def test_sets_of_features_are_replaced_in_the_run_that_is_going_on(family, where):
    hf, lm, found, task = asked(family)
    dictionaries, plains = [], []
    for at, name in zip(where, ("one", "two"), strict=True):
        width = lm.heads * lm.decoder.head_dim if at[0] == "z" else lm.width
        writes = f"m{at[1:]}" if at[0] == "n" else None
        out = None if at[0] == "z" else lm.width
        ours, theirs = dictionary(width, at, "topk", writes, at[0] == "n", out=out, name=name)
        dictionaries.append(ours)
        plains.append(theirs)
    first, second = (d.writes.layer for d in dictionaries)
    parts = [(3, 5, "error"), (2, 7, 8, "error")]
    group = tuple(
        f"f{layer}.{name}.{part}"
        for layer, name, each in zip((first, second), ("one", "two"), parts, strict=True)
        for part in each
    )
    for direction in ("noising", "denoising"):
        units = [group, (*group[:2], "a1.h0")]
        both = vc.exact(lm, task, units=units, dictionary=dictionaries, direction=direction, show_progress=False)
        for i, pair in enumerate(found):
            bare = plain.group_run(hf, family, pair, [], direction == "noising")
            wanted = plain.group_run(hf, family, pair, list(zip(plains, parts, strict=True)), direction == "noising")
            assert both.values[i, 0] == pytest.approx(wanted - bare, abs=1e-9)


def test_all_features_and_the_error_are_the_site():
    """The contract of METHODS 12: the sum of a dictionary's parts is the site's own patch."""
    _, lm, _, task = asked("gemma2")
    for site, writes, unit in (("r1", None, "r1"), ("m1", None, "m1"), ("n1", "m1", "m1"), ("r3", None, "r3")):
        ours, _ = dictionary(lm.width, site, "topk", writes, writes is not None)
        layer = ours.writes.layer
        every = [*(f"f{layer}.{i}" for i in range(SIZE)), f"f{layer}.error"] + [f"f{layer}.skip"] * (writes is not None)
        for direction in ("noising", "denoising"):
            asked_for = {"direction": direction, "show_progress": False}
            whole = vc.exact(lm, task, units=[unit], **asked_for)
            group = vc.exact(lm, task, units=[tuple(every)], dictionary=ours, **asked_for)
            np.testing.assert_allclose(group.values, whole.values, rtol=0, atol=1e-9)


def test_members_that_groups_share_are_looked_up_once(monkeypatch):
    """Curves ask for sets of thousands of features, each in all larger ones: names are read once."""
    _, lm, _, task = asked("llama")
    lm, read, known = lm.reading(dictionary(lm.width, "r1")[0]), [], resolve.parse_name
    monkeypatch.setattr(resolve, "parse_name", lambda lm, name: read.append(name) or known(lm, name))
    groups = [tuple(f"f1.{i}" for i in range(size)) for size in range(1, SIZE)]
    vc.exact.work(lm, task, units=groups)
    assert len(read) == SIZE - 1
    with pytest.raises(VeracausaError, match="14 features"):
        vc.exact(lm, task, units=[*groups, ("f1.2", "f1.99")])


def test_groups_that_set_an_activation_twice_are_refused():
    _, lm, _, task = asked("llama")
    stream, _ = dictionary(lm.width, "r1")
    ways, _ = dictionary(lm.width, "r1", "linear", labels=tuple(f"way{i}" for i in range(SIZE)))
    for group in (("f1.3", "r1"), ("f1.3", "d1.way2"), ("f1.3", "f1.3")):
        with pytest.raises(VeracausaError, match=r"same activation|twice"):
            vc.exact(lm, task, units=[group], dictionary=[stream, ways])


@pytest.mark.cases(1)
@pytest.mark.parametrize(("site", "writes"), [("m1.post", None), ("a1.post", None), ("n2", "m2.post")])
def test_behind_post_norms(site, writes):
    """Where a norm stands behind the MLP or the attention, a dictionary may explain what that gives."""
    hf, lm, found, task = asked("gemma2")
    ours, theirs = dictionary(lm.width, site, "topk", writes, writes is not None)
    exact = vc.exact(lm, task, units="features", dictionary=ours, show_progress=False)
    slope = vc.attribute(lm, task, units="features", dictionary=ours, show_progress=False)
    every = tuple(exact.units.names)
    group = vc.exact(lm, task, units=[every, every[2:4]], dictionary=ours, show_progress=False)
    for i, pair in enumerate(found):
        for column, name in enumerate(every):
            given = (hf, "gemma2", pair, theirs, part_of(name))
            assert exact.values[i, column] == pytest.approx(plain.effect(*given, "other"), abs=1e-9), name
            assert slope.values[i, column] == pytest.approx(plain.atp(*given), abs=1e-9), name
        for column, parts in enumerate((every, every[2:4])):
            members = [(theirs, [part_of(name) for name in parts])]
            wanted = plain.group_run(hf, "gemma2", pair, members) - plain.group_run(hf, "gemma2", pair, [])
            assert group.values[i, column] == pytest.approx(wanted, abs=1e-9)


def test_coalitions_of_features():
    """Shapley values, last-in effects and responses of parts of a dictionary hang together with exact effects."""
    _, lm, _, task = asked("llama")
    lm = lm.reading(dictionary(lm.width, "r1", "topk")[0])
    shown = {"show_progress": False}
    exact = vc.exact(lm, task, units="features", **shown)
    site = vc.exact(lm, task, units=["r1"], **shown).values[:, 0]
    shapley = vc.effects.shapley(lm, task, units="features", permutations=2, **shown)
    assert shapley.units.names == exact.units.names
    # what orders add up telescopes: rounding
    np.testing.assert_allclose(shapley.values.sum(1), site, rtol=0, atol=1e-9)
    last = vc.effects.last_in(lm, task, units="features", **shown)
    names = exact.units.names
    for u in (0, len(names) - 1):
        others = tuple(name for name in names if name != names[u])
        without = vc.exact(lm, task, units=[others], **shown).values[:, 0]
        np.testing.assert_allclose(last.values[:, u], site - without, rtol=0, atol=1e-9)
    found = vc.causes.responses(lm, task, units=[names[0], "f1.error"], alphas=[0.5], **shown)
    gap = float((exact.clean - exact.corrupted).mean())
    for name in (names[0], "f1.error"):
        own = float(exact.values[:, exact.units.find(name)].mean()) / gap
        assert found[name].alphas[-1] == 1 and found[name].values[-1] == pytest.approx(own, abs=1e-9)


def test_features_that_are_the_same_in_both_runs_cost_nothing():
    """Token-layers of the call are those of the rows whose feature moves, each its blocks × its positions."""
    hf, lm, found, task = asked("llama", count=3)
    ours, theirs = dictionary(lm.width, "r1", "topk")
    lm, saved = lm.reading(ours), 0
    table = vc.exact(lm, task, units="features", show_progress=False).units
    for pair in found:
        alone = task_of([pair])
        f, g = (theirs.encode(plain.both(hf, "llama", ids, theirs)[0]) for ids in (pair.clean, pair.corrupted))
        start = next(i for i, (a, b) in enumerate(zip(pair.clean, pair.corrupted, strict=True)) if a != b)
        moving = int((f != g)[start:].any(0).sum())
        every, error = (
            vc.exact(lm, alone, units=units, show_progress=False).cost.token_layers for units in (table, ["f1.error"])
        )
        assert every - error == moving * (lm.layers - 1) * (len(pair.clean) - start)
        saved += len(table) - 1 - moving
    assert saved > 0


def test_estimates_that_are_kept_are_those_of_their_dictionary(tmp_path):
    """Two dictionaries have units of the same names: a folder of pieces tells them apart."""
    _, lm, _, task = asked("llama")
    names = ["f1.1", "f1.2", "f1.error"]
    found = {}
    for seed in (5, 6):
        own = lm.reading(dictionary(lm.width, "r1", "relu", seed=seed)[0])
        found[seed] = vc.causes.disagreement(own, task, units=names, out=tmp_path, show_progress=False)
        alone = vc.causes.disagreement(own, task, units=names, show_progress=False)
        for name, scores in found[seed].scores.items():
            assert torch.equal(scores.values, alone.scores[name].values), name
    assert not torch.equal(found[5].scores["atp"].values, found[6].scores["atp"].values)


@pytest.mark.parametrize(("reads", "writes"), [("n1", "m2"), ("n1", "r3"), ("n1", "a1"), ("n2", "m1"), ("r1", "m1")])
def test_sets_are_of_one_site_or_one_mlp(reads, writes):
    """Of other transcoders single features are right, and sets are refused."""
    hf, lm, found, task = asked("llama", count=1)
    ours, theirs = dictionary(lm.width, reads, "relu", writes)
    layer = ours.writes.layer
    one = vc.exact(lm, task, units=[f"f{layer}.3"], dictionary=ours, show_progress=False)
    assert one.values[0, 0] == pytest.approx(plain.effect(hf, "llama", found[0], theirs, 3, "other"), abs=1e-9)
    with pytest.raises(VeracausaError, match="groups"):
        vc.exact(lm, task, units=[(f"f{layer}.3", f"f{layer}.4")], dictionary=ours, show_progress=False)


def test_sets_take_no_donors_and_readings_add_up():
    _, lm, _, task = asked("llama", count=3)
    with pytest.raises(VeracausaError, match="resample"):
        vc.exact(lm, task, units=[("f1.3", "f1.4")], ablation="resample", dictionary=dictionary(lm.width, "r1")[0])
    both = lm.reading(dictionary(lm.width, "r1")[0]).reading(dictionary(lm.width, "m2", "relu")[0])
    assert set(vc.exact(both, task, units="features", show_progress=False).units.layer) == {1, 2}


@pytest.mark.parametrize(("family", "site"), [("llama", "r1"), ("gemma2", "m1")])
def test_noise_is_added_to_parts_in_units_of_their_own_spread(family, site):
    """Drawn anew part by part, added by hooks on whole runs; a part's draws don't depend on what else is asked for."""
    hf, lm, found, task = asked(family)
    ours, theirs = dictionary(lm.width, site, "relu")
    noise = vc.effects.Noise(sd=0.5, draws=2, seed=4)
    lm = lm.reading(ours)
    scores = vc.exact(lm, task, units=["f1.3", "f1.error"], ablation=noise, show_progress=False)
    alone = vc.exact(lm, task, units=["f1.error"], ablation=noise, show_progress=False)
    group = vc.exact(lm, task, units=[("f1.3", "f1.error")], ablation=noise, show_progress=False)
    np.testing.assert_allclose(alone.values[:, 0], scores.values[:, 1], rtol=0, atol=1e-12)
    both = [plain.both(hf, family, ids, theirs) for pair in found for ids in (pair.clean, pair.corrupted)]
    f, error = torch.cat([theirs.encode(x) for x, _ in both]), torch.cat([theirs.parts(*one)["error"] for one in both])
    spread = f[:, 3].std(correction=0), error.var(0, correction=0).mean().sqrt()
    place = int.from_bytes(hashlib.sha256(b"features").digest()[:6], "big")
    for i, pair in enumerate(found):
        n, sums = len(pair.clean), np.zeros(3)
        for draw in range(2):
            normal = [
                torch.from_numpy(np.random.default_rng([4, draw, i, place, 1, index]).standard_normal(shape))
                for index, shape in ((3, (n, 1)), (1 << 40, (n, lm.width)))
            ]
            moves = [0.5 * spread[0] * normal[0] * theirs.w_dec[3], 0.5 * spread[1] * normal[1]]
            for column, move in enumerate((*moves, sum(moves))):
                for sign, edits in ((1, [(theirs.writes, lambda a, move=move: a + move)]), (-1, [])):
                    with torch.no_grad():
                        logits = plain.run(hf, family, pair.clean, edits)
                    sums[column] += sign * float(logits[pair.correct] - logits[pair.incorrect]) / 2
        wanted = [*scores.values[i].tolist(), float(group.values[i, 0])]
        assert wanted == pytest.approx(sums.tolist(), abs=1e-9)


def test_slopes_where_a_block_adds_a_bias_to_its_attention():
    """The last block of this family adds one behind the attention's module: the gradient is taken with it."""
    hf, lm, found, task = asked("gpt_neox_japanese")
    ours, theirs = dictionary(lm.width, "a2", "relu")
    bias = hf.gpt_neox_japanese.layers[2].attention.dense_bias.detach()  # a hook on the module sees what lacks it
    theirs.b_enc, theirs.b_dec = theirs.b_enc + bias @ theirs.w_enc, theirs.b_dec - bias
    slope = by_name(vc.attribute(lm, task, units=["f2.3", "f2.error"], dictionary=ours, show_progress=False))
    for name, values in slope.items():
        wanted = [plain.atp(hf, "gpt_neox_japanese", pair, theirs, part_of(name)) for pair in found]
        assert values == pytest.approx(wanted, abs=1e-9) and any(wanted)

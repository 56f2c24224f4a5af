"""Edges and paths through parts of dictionaries: against whole runs with hooks, closed forms, and what is refused."""

import numpy as np
import pytest
import torch
from laid_features import SIZE, asked, by_name, dictionary, identity, part_of
from naive_feature_edges import Edges
from tiny_models import FAMILIES, mostly_slow

import veracausa as vc
from veracausa.dictionaries import Dictionary, Encoder
from veracausa.errors import VeracausaError

QUIET = {"show_progress": False}
#: Sites of the upstream and of the downstream dictionary, and what they write.
CASES = [("r1", None, "r2", None), ("m0", None, "r1", None), ("r0", None, "m1", None), ("n0", "m0", "n1", "m1"),
         ("r1", None, "z2", None), ("a0", None, "a2", None), ("z0", None, "r3", None)]  # fmt: skip


def width_of(lm, site):
    return lm.heads * lm.decoder.head_dim if site[0] == "z" else lm.width


def both(lm, up, up_writes, down, down_writes, kind="topk"):
    """Two dictionaries laid on a model, and their plain forms."""
    ours, theirs = dictionary(width_of(lm, up), up, "relu", up_writes, bool(up_writes), name="up")
    more, those = dictionary(width_of(lm, down), down, kind, down_writes, seed=8, name="down")
    return lm.reading(ours, more), theirs, those


def strongest(lm, task, kind, count=2):
    """Some parts that move, the error among them."""
    scores = vc.exact(lm, task, units=kind, **QUIET)
    names = [name for name in scores.top(len(scores.units))["name"] if not name.endswith("error")]
    return [*names[:count], next(name for name in scores.units.names if name.endswith("error"))]


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", mostly_slow(FAMILIES, fast=("llama", "gemma2")))
@pytest.mark.parametrize(("up", "up_writes", "down", "down_writes"), CASES)
def test_edges_are_what_hooks_on_whole_runs_give(family, up, up_writes, down, down_writes):
    hf, lm, found, task = asked(family)
    lm, theirs, those = both(lm, up, up_writes, down, down_writes)
    senders, readers = strongest(lm, task, "features.up", 1), strongest(lm, task, "features.down", 1)
    edges = {f"{a}{arrow}{b}": (a, b, "..." in arrow) for a in senders for b in readers for arrow in ("->", "->...->")}
    noising = by_name(vc.exact(lm, task, units=[*edges], **QUIET))
    back = by_name(vc.exact(lm, task, units=[*edges], direction="denoising", **QUIET))
    zero = by_name(vc.exact(lm, task, units=[*edges], ablation="zero", **QUIET))
    assert max(abs(value) for values in noising.values() for value in values) > 1e-4  # else anything agrees
    for i, pair in enumerate(found):
        naive = [Edges(hf, family, lm.layers, pair, *how) for how in ((), (False,), (True, True))]
        for name, (a, b, through) in edges.items():
            ends = (theirs, part_of(a)), (those, part_of(b))
            for values, one in zip((noising, back, zero), naive, strict=True):
                assert values[name][i] == pytest.approx(one.effect(*ends, through), abs=1e-9), name


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, fast=("llama", "gpt_neox", "gemma2")))
def test_features_beside_other_parts(family):
    hf, lm, found, task = asked(family)
    lm, theirs, those = both(lm, "r1", None, "m1", None)
    up, down = (strongest(lm, task, f"features.{name}")[0] for name in ("up", "down"))
    one, other = (theirs, part_of(up)), (those, part_of(down))
    head, dim = ("head", 2, 1, lm.decoder.head_dim), lm.decoder.head_dim
    asked_for = {
        f"{up}->m2": (one, ("mlp", 2), False), f"{up}->...->m2": (one, ("mlp", 2), True),
        f"{up}->a2.h1": (one, head, False), f"{up}->...->a2.h1": (one, head, True),
        f"{up}->logits": (one, "logits", False), f"{up}->...->logits": (one, "logits", True),
        f"m0->{up}": (("mlp", 0), one, False), f"m0->...->{down}": (("mlp", 0), other, True),
        f"m0->{up}->logits": (("mlp", 0), one, False, True),
        f"m0->...->{down}->logits": (("mlp", 0), other, True, True),
    }  # fmt: skip
    if not family.startswith("gemma"):  # behind a post-norm a head's write is its share of the norm
        asked_for[f"a0.h1->...->{down}"] = ("head", 0, 1, dim), other, True
        asked_for[f"a0.h1->{up}"] = ("head", 0, 1, dim), one, False
    values = by_name(vc.exact(lm, task, units=[*asked_for], **QUIET))
    for i, pair in enumerate(found):
        naive = Edges(hf, family, lm.layers, pair)
        for name, ends in asked_for.items():
            assert values[name][i] == pytest.approx(naive.effect(*ends), abs=1e-9), name
    whole = by_name(vc.exact(lm, task, units=[up], **QUIET))[up]
    np.testing.assert_allclose(values[f"{up}->...->logits"], whole, rtol=0, atol=1e-10)


def test_behind_post_norms():
    hf, lm, found, task = asked("gemma2")
    lm, theirs, those = both(lm, "m0.post", None, "a2.post", None)
    senders, readers = strongest(lm, task, "features.up", 1), strongest(lm, task, "features.down", 1)
    edges = [f"{a}{arrow}{b}" for a in senders for b in readers for arrow in ("->", "->...->")]
    values = by_name(vc.exact(lm, task, units=edges, **QUIET))
    for i, pair in enumerate(found):
        naive = Edges(hf, "gemma2", lm.layers, pair)
        for name in edges:
            a, *_, b = name.split("->")
            wanted = naive.effect((theirs, part_of(a)), (those, part_of(b)), "..." in name)
            assert values[name][i] == pytest.approx(wanted, abs=1e-9), name


def linear_model():
    """A tiny model whose blocks write nothing, so that all between two sites is linear."""
    hf, lm, found, task = asked("llama")
    with torch.no_grad():
        for block in hf.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return hf, lm, found, task


def test_an_identity_reads_and_writes_the_stream():
    """All parts of a site that reads with the identity, joined, hand on the upstream change as it is."""
    _, lm, _, task = asked("llama")
    ours, _ = dictionary(lm.width, "r1", "relu", name="up")
    lm = lm.reading(ours, identity(lm.width, "r2").named("all"))
    every = "+".join(f"f2.all.{i}" for i in range(lm.width))
    up = strongest(lm, task, "features.up", 1)[0]
    paths = [f"{up}->...->{every}", f"{up}->{every}->logits", f"{up}->logits", f"{up}->...->logits"]
    values = by_name(vc.exact(lm, task, units=paths, **QUIET))
    through, direct, alone, whole = values.values()
    np.testing.assert_allclose(through, whole, rtol=0, atol=1e-10)
    np.testing.assert_allclose(direct, alone, rtol=0, atol=1e-10)


def test_all_parts_of_a_site_are_the_site():
    """All upstream parts and the error together give a downstream part what the other run's input gives it."""
    _, lm, _, task = linear_model()
    ours, _ = dictionary(lm.width, "r1", "topk", name="up")
    ways, _ = dictionary(lm.width, "r2", "linear", name="down")
    lm = lm.reading(ours, ways)
    parts = vc.exact(lm, task, units="features.up", **QUIET).units.names
    joined = vc.exact(lm, task, units=[f"{'+'.join(parts)}->...->f2.down.3", "input->...->f2.down.3"], **QUIET).values
    np.testing.assert_allclose(joined[:, 0], joined[:, 1], rtol=0, atol=1e-10)


def test_positions_and_batches():
    _, lm, _, task = asked("llama")
    lm, *_ = both(lm, "r1", None, "r2", None)
    up, down = strongest(lm, task, "features.up", 1), strongest(lm, task, "features.down", 1)
    length = task.lengths[0]
    names = [f"{a}->...->{b}" for a in up for b in down]
    at = [f"{up[0]}@{i}->{down[0]}->logits" for i in range(length)]
    every = vc.exact(lm, task, units=[*names, *at], **QUIET)
    for column, name in enumerate(every.units.names[:5]):
        alone = vc.exact(lm, task, units=[name], rows=1, share_prefix=False, **QUIET)
        np.testing.assert_allclose(alone.values[:, 0], every.values[:, column], rtol=0, atol=1e-10)


def test_what_does_not_change_costs_nothing():
    _, lm, _, task = asked("llama", count=1)
    width = lm.width
    silent = Dictionary.of(
        Encoder(torch.zeros(width, SIZE), torch.full((SIZE,), -1.0), "relu"), torch.ones(SIZE, width), site="r1",
        name="silent",
    )  # fmt: skip
    lm, *_ = both(lm, "r0", None, "r2", None)
    lm = lm.reading(silent)
    up = strongest(lm, task, "features.up", 1)[0]
    active = vc.exact(lm, task, units=[f"{up}->...->f2.down.error"], **QUIET)
    sender = vc.exact(lm, task, units=["f1.silent.3->...->f2.down.error"], **QUIET)
    reader = vc.exact(lm, task, units=[f"{up}->f1.silent.3"], **QUIET)
    assert not sender.values.any() and active.values.any() and float(reader.values.abs().max()) < 1e-12
    assert sender.cost.forward == reader.cost.forward < active.cost.forward


def test_edges_go_to_files_and_back(tmp_path):
    _, lm, _, task = asked("llama")
    lm, *_ = both(lm, "n0", "m0", "r2", None)
    found = vc.exact(lm, task, units={"one": "f0.up.3->f2.down.error", "two": "f0.up.skip->...->m2"}, **QUIET)
    found.save(tmp_path / "edges.safetensors")
    again = vc.open(tmp_path / "edges.safetensors")
    assert again.units.names == ["one", "two"] and torch.equal(again.values, found.values)
    assert again.units.laid == found.units.laid and "r2" in again.settings["dictionary"]
    np.testing.assert_allclose(vc.exact(lm, task, units=again.units, **QUIET).values, found.values, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("units", "said"),
    [
        (["f1.up.3->f1.up.4"], "cannot exist"),
        (["f2.down.3->f1.up.4"], "cannot exist"),
        (["f1.up.3->f2.down.99"], "14 features"),
        (["f1.up.3->f2.7"], "no such dictionary"),
        (["f1.up.3->f2.down.1+m2"], "only parts of one dictionary"),
        (["f1.up.3->f2.down.1+f2.down.1"], "twice"),
        (["f1.up.3->f2.far.1"], "only be a sender"),
        (["f1.up.3->...->f2.down.1", "f1.up.3"], "mixes paths"),
    ],
)
def test_what_cannot_be_is_refused(units, said):
    _, lm, _, task = asked("llama")
    lm, *_ = both(lm, "r1", None, "r2", None)
    lm = lm.reading(dictionary(lm.width, "r1", "relu", "m2", name="far")[0])
    with pytest.raises(VeracausaError, match=said):
        vc.exact(lm, task, units=units, **QUIET)


def test_other_ablations_are_refused():
    _, lm, _, task = asked("llama")
    lm, *_ = both(lm, "r1", None, "r2", None)
    with pytest.raises(VeracausaError, match="Known: counterfactual, zero"):
        vc.exact(lm, task, units=["f1.up.3->f2.down.1"], ablation="mean", **QUIET)
    with pytest.raises(VeracausaError, match=r"lm\.reading"):
        vc.exact(asked("llama")[1], task, units=["f1.up.3->f2.down.1"], **QUIET)

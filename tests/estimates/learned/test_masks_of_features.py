"""Gates and masks on parts of dictionaries: against whole runs with hooks, and their slopes by differences."""

import naive_features as plain
import numpy as np
import pytest
import torch
from laid_features import SIZE, asked, dictionary, part_of

import veracausa as vc
from veracausa.cost import Cost
from veracausa.engine.bucket import Bucket
from veracausa.engine.coded_gates import CodedPairs
from veracausa.engine.patches import sites_for
from veracausa.errors import VeracausaError

QUIET = {"show_progress": False}


def naive(hf, family, pair, laid, gates):
    """M of a run in which each part goes 1 − g of the way to what it is in the other run; `gates`: part → g."""
    edits, read = [], {}
    for theirs, own in zip(laid, gates, strict=True):
        there = theirs.parts(*plain.both(hf, family, pair.corrupted, theirs))

        def edit(y, theirs=theirs, own=own, there=there):
            here = theirs.parts(read.get(theirs.reads, y), y)
            return y + sum((1 - g) * (there[part] - here[part]) for part, g in own.items())

        if theirs.reads != theirs.writes:
            edits.append((theirs.reads, lambda x, at=theirs.reads: read.setdefault(at, x)))
        edits.append((theirs.writes, edit))
    with torch.no_grad():
        logits = plain.run(hf, family, pair.clean, edits)
    return float(logits[pair.correct] - logits[pair.incorrect])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("sites", [(("r1", None), ("m2", None)), (("n0", "m0"), ("z2", None)),
                                   (("r1.mid", None), ("m2", None))])  # fmt: skip
def test_gated_runs_and_their_slopes(family, sites):
    hf, lm, found, task = asked(family)
    width = [lm.heads * lm.decoder.head_dim if site[0] == "z" else lm.width for site, _ in sites]
    each = enumerate(zip(width, sites, strict=True))
    pairs = [dictionary(w, at, "relu", writes, seed=5 + i) for i, (w, (at, writes)) in each]
    lm = lm.reading(*(ours for ours, _ in pairs))
    layers = [ours.writes.layer for ours, _ in pairs]
    names = [f"f{layer}.{part}" for layer in layers for part in (2, 3, 5, "error")]
    lm, table = vc.exact.work(lm, task, units=names).lm, vc.exact.work(lm, task, units=names).units
    with torch.no_grad():
        bucket = Bucket.record(lm, task, 0, (0, 1), Cost(), sites=sites_for("features"))
    gated = CodedPairs.on(lm.decoder, "features", bucket.tape, bucket.tape.tokens[0], table.layer, table.index)
    gates = torch.from_numpy(np.random.default_rng(0).uniform(size=(2, len(names)))).requires_grad_()
    metric = bucket.read(gated.run(gates, bucket.every), bucket.every)
    (slope,) = torch.autograd.grad(metric.sum(), gates)

    def wanted(i, values):
        of = dict(zip(names, values, strict=True))
        split = [{part_of(n): g for n, g in of.items() if n.startswith(f"f{layer}.")} for layer in layers]
        return naive(hf, family, found[i], [theirs for _, theirs in pairs], split)

    for i in range(2):
        own = gates[i].tolist()
        assert float(metric[i]) == pytest.approx(wanted(i, own), abs=1e-9)
        for u in (0, 3, 7):
            ends = [wanted(i, [g + h * (k == u) for k, g in enumerate(own)]) for h in (1e-5, -1e-5)]
            assert float(slope[i, u]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-6)


def test_masks_say_what_is_left_of_the_metric_without_all_others():
    hf, lm, found, task = asked("llama", count=3)
    ours, theirs = dictionary(lm.width, "r1", "relu")
    how = {"units": "features", "steps": 40, "dictionary": ours, **QUIET}
    mask = vc.estimates.learn_mask(lm, task, keep=4, **how)
    again = vc.estimates.learn_mask(lm, task, keep=4, **how)
    assert mask.method == "mask" and "dictionary_digest" in mask.settings and torch.equal(mask.values, again.values)
    kept = [mask.units.names[i] for i in mask.ranking()[:4]]
    closed = {part_of(name): 0.0 for name in mask.units.names if name not in kept}
    left = np.mean([naive(hf, "llama", pair, [theirs], [closed]) for pair in found])
    assert f"metric {left:+.3f}" in mask.notes[1]
    assert 0 < len(mask.units) <= SIZE + 1


def test_what_is_refused():
    _, lm, _, task = asked("llama")
    for units, dic, said in (
        ("features@positions", dictionary(lm.width, "r1")[0], "single positions"),
        ("features", dictionary(lm.width, "n1", "relu", "m2")[0], "one layer's MLP"),
    ):
        with pytest.raises(VeracausaError, match=said):
            vc.estimates.learn_mask(lm, task, units=units, dictionary=dic, **QUIET)

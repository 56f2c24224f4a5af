"""Learned constants of features: losses and effects against whole runs with hooks, files, and whose they are."""

import naive_features as plain
import numpy as np
import pytest
import torch
from laid_features import asked, dictionary, part_of

import veracausa as vc
from veracausa.errors import VeracausaError

QUIET = {"show_progress": False}
UNITS = ["f1.2", "f1.error", "f2.3", "f2.5", "f2.error"]


def patched(hf, family, ids, theirs, part, value):
    """Logits of a run whose part is a constant at every position."""
    with torch.no_grad():
        own = theirs.parts(*plain.both(hf, family, ids, theirs))[part]
        new = value if part == "error" else value * theirs.w_dec[part]
        return plain.run(hf, family, ids, [(theirs.writes, lambda a: a + new - own)])


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_losses_and_effects_are_those_of_runs_with_hooks(family, tmp_path):
    hf, lm, found, task = asked(family, count=3)
    (a, one), (b, two) = dictionary(lm.width, "r1", "relu"), dictionary(lm.width, "m2", "relu", seed=8)
    lm, plains = lm.reading(a, b), {"f1": one, "f2": two}
    learning = vc.effects.Learning(steps=12, rate=0.1)
    constants = vc.effects.optimal_constants(lm, task, units=UNITS, learning=learning, floor=0.0, **QUIET)
    assert (constants.after <= constants.before).all() and (constants.after < constants.before - 1e-4).any()
    path = constants.save(tmp_path / "constants.safetensors")
    own = vc.exact.work(lm, task, units=UNITS).lm.decoder.codes
    for chosen in (UNITS, UNITS[2:4]):  # of fewer units the dictionaries tell fewer apart
        scores = vc.exact(lm, task, units=chosen, ablation="optimal", constants=vc.open(path), **QUIET)
        for column, name in enumerate(chosen):
            layer, part = int(name[1]), part_of(name)
            index = part if part != "error" else 1 << 40
            value = constants.sites[layer, own["features", layer].numbers(index)]
            kl = []
            for i, pair in enumerate(found):
                with torch.no_grad():
                    bare = plain.run(hf, family, pair.clean)
                logits = patched(hf, family, pair.clean, plains[name[:2]], part, value)
                effect = [float(each[pair.correct] - each[pair.incorrect]) for each in (logits, bare)]
                assert scores.values[i, column] == pytest.approx(effect[0] - effect[1], abs=1e-9), name
                old, new = bare.log_softmax(-1), logits.log_softmax(-1)
                kl.append(float((old.exp() * (old - new)).sum()))
            assert float(constants.after[UNITS.index(name)]) == pytest.approx(np.mean(kl), abs=1e-9), name


def test_constants_are_of_one_dictionary(tmp_path):
    _, lm, _, task = asked("llama")
    how = {"units": ["f1.2", "f1.error"], "learning": vc.effects.Learning(steps=1), "out": tmp_path, **QUIET}
    one, other = (lm.reading(dictionary(lm.width, "r1", "relu", seed=seed)[0]) for seed in (5, 6))
    first, second = (vc.effects.optimal_constants(each, task, **how) for each in (one, other))
    assert first.dictionary != second.dictionary and not torch.equal(first.sites, second.sites)
    with pytest.raises(VeracausaError, match="another dictionary"):
        vc.exact(other, task, units=["f1.2"], ablation="optimal", constants=first, **QUIET)
    alone = vc.exact(one, task, units=["f1.2"], ablation="optimal", **QUIET)
    assert torch.isfinite(alone.values).all() and alone.settings["constants"]

"""The norm over outputs: against the gradient of each logit by the map's own weight, on the bare model."""

import naive_weights as plain
import numpy as np
import pytest
import torch
from laid_features import asked

import veracausa as vc
from veracausa.errors import MethodError

QUIET = {"show_progress": False}


def naive(hf, ids, own, part, tokens):
    """sqrt(mean over tokens of ⟨∂logit/∂W, P⟩²) by autograd on the weight itself."""
    weight = own.module.weight
    weight.requires_grad_(True)
    logits = hf(torch.tensor([list(ids)])).logits[0, -1]
    found = []
    for token in tokens:
        (slope,) = torch.autograd.grad(logits[token], weight, retain_graph=True)
        found.append(float((slope * torch.from_numpy(part).T).sum()))
    weight.requires_grad_(False)
    return np.sqrt(np.mean(np.square(found)))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_it_is_the_root_mean_square_of_slopes_by_the_weight(family):
    hf, lm, found, task = asked(family)
    own = plain.Map(hf, family, 1, "down", lm.heads, lm.kv_heads)
    parts, names = plain.directions(own.weight), ["m1.down.c0", "m1.down.c5"]
    ours = vc.estimates.output_norm(lm, task, units=names, **QUIET)
    drawn = vc.estimates.output_norm(lm, task, units=names, outputs=5, seed=3, **QUIET)
    vocabulary = np.sort(np.random.default_rng(3).choice(hf.config.vocab_size, 5, replace=False))
    for i, pair in enumerate(found):
        for j, c in enumerate((0, 5)):
            # float64; another order of the same sums
            wanted = naive(hf, pair.clean, own, parts[c], (pair.correct, pair.incorrect))
            assert float(ours.values[i, j]) == pytest.approx(wanted, rel=1e-8)
            wanted = naive(hf, pair.clean, own, parts[c], vocabulary)
            assert float(drawn.values[i, j]) == pytest.approx(wanted, rel=1e-8)
    assert not ours.signed and ours.settings["outputs"] == "answers" and ours.task["digest"] == task.digest()
    price = vc.forecast(vc.estimates.output_norm, lm, task, units=names, measure=False)
    assert price.token_layers == ours.cost.token_layers


def test_what_is_refused():
    _, lm, _, task = asked("llama", count=1)
    for how, said in (({"outputs": 0}, "how many of the"), ({"outputs": "all"}, "how many of the"),
                      ({"units": "edges"}, "scores nodes")):  # fmt: skip
        with pytest.raises(MethodError, match=said):
            vc.estimates.output_norm(lm, task, **how)

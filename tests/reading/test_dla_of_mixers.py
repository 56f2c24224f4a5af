"""Direct logit attribution with mixers against writes put together by hand; and what is learned for mixers."""

import naive_mixed_edges as naive
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.errors import UnitError
from veracausa.tasks.task import Task

QUIET = {"show_progress": False}


def made(family):
    lm = as_model(tiny_models.make(family, seed=1), family)
    pair = tiny_models.pairs(family, 1, 8)[0]
    task = Task("t", (tuple(pair.clean),), (tuple(pair.corrupted),), ((pair.correct,),), ((pair.incorrect,),))
    return lm, task, naive.NaiveEdges(naive.Naive(lm.hf, family, lm.decoder.mixer_heads), *pair)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(naive.LAYOUTS, ("mamba", "nemotron_h")))
def test_contributions_are_writes_along_the_frozen_norm(family):
    """The norm's output is linear in the stream once its denominator is held: a write through it, along the answers."""
    lm, task, by_hand = made(family)
    found = vc.reading.dla(lm, task, **QUIET)
    final, end = by_hand.naive.final, by_hand.clean.streams[-1][:, -1]
    gain = (final(end) / end).detach()  # gain / s, coordinate by coordinate
    towards = lm.hf.lm_head.weight[task.correct[0][0]] - lm.hf.lm_head.weight[task.incorrect[0][0]]
    scale = float(getattr(lm.hf.config, "logits_scaling", 1.0))
    true = {name: float((write[:, -1] * gain * towards).sum().detach()) / scale
            for name, write in by_hand.clean.writes.items()}  # fmt: skip
    ours = dict(zip(found.names, found.values[0, 0].tolist(), strict=True))
    assert set(true) <= set(ours) and {name: ours[name] for name in true} == pytest.approx(true, abs=1e-6)
    assert all(name.endswith("bias") for name in set(ours) - set(true))
    assert sum(ours.values()) == pytest.approx(float(found.total[0, 0]), abs=1e-6)
    assert "mixers" in found.kinds and "mixers" in found.sums() and "mixers" in found.sentences[0]


def test_by_position_mixers_stand_where_they_are_read():
    lm, task, _ = made("nemotron_h")
    found = vc.reading.dla(lm, task, positions=True, neurons=[1], **QUIET)
    assert torch.allclose(found.where.nansum(-1), found.values, atol=1e-9)
    for name in ("x0.h1", "x3.h3", "input"):
        assert int(found.where[0, 0, found.names.index(name)].abs().argmax()) == 7
    assert (found.where[0, 0, found.names.index("a2.h1")].abs() > 0).sum() > 1
    with pytest.raises(UnitError, match="block 2 of nemotron_h has no MLP"):
        vc.reading.dla(lm, task, neurons=[2], **QUIET)


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("family", "units"),
    [("mamba2", ["x0.h1", "x2.h3"]), ("mamba", ["x1"]), ("nemotron_h", ["a2.h1"]), ("nemotron_h", ["m1"]),
     ("bamba", ["x2"])],
)  # fmt: skip
def test_learned_constants_are_no_worse_than_means(family, units, task_of):
    """Of heads in a hybrid, of mixers and of their heads; and they are what `exact` puts in."""
    lm, task = made(family)[0], task_of(7, n=4)
    learning = vc.effects.Learning(steps=8)
    found = vc.effects.optimal_constants(lm, task, units=units, learning=learning, floor=0.0, **QUIET)
    assert found.learned.all() and (found.after <= found.before).all() and (found.after < found.before).any()
    scores = vc.exact(lm, task, units=units, ablation="optimal", constants=found, **QUIET)
    means = vc.exact(lm, task, units=units, ablation="mean", **QUIET)
    assert torch.isfinite(scores.values).all() and not torch.allclose(scores.values, means.values)

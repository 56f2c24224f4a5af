"""Learned masks: the gates' distribution, what is learned, and what never changes a number."""

import dataclasses
import math

import pytest
import tiny_models
import torch
from bridges import as_model
from no_norms import random_compiled

import veracausa as vc
from veracausa.engine.gates import GatedPairs
from veracausa.errors import GapError, MethodError, NumericsError, OutOfMemoryError, UnitError
from veracausa.estimates.learned.gates import hard_concrete, open_probability
from veracausa.estimates.learned.learner import Learner
from veracausa.estimates.learned.training import Training
from veracausa.units.every_unit import all_units


def learn(lm, task, **options):
    return vc.estimates.learn_mask(lm, task, **({"steps": 8, "show_progress": False} | options))


# ---- gates ----------------------------------------------------------------------------------------------------------


def naive_gate(log_alpha, uniform):
    """One number at a time, by the formula."""
    s = 1 / (1 + math.exp(-(math.log(uniform) - math.log(1 - uniform) + log_alpha) / (2 / 3)))
    return min(1.0, max(0.0, s * 1.2 - 0.1))


def test_gates_and_their_gradients_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    log_alpha = 3 * torch.randn(40, dtype=torch.float64, generator=generator)
    uniform = torch.rand(7, 40, dtype=torch.float64, generator=generator)
    gates = hard_concrete(log_alpha.requires_grad_(), uniform)
    slope = torch.autograd.grad(gates.sum(), log_alpha)[0]
    h = 1e-6
    for unit in range(40):
        a, column = log_alpha[unit].item(), uniform[:, unit].tolist()
        assert gates[:, unit].tolist() == pytest.approx([naive_gate(a, u) for u in column], abs=1e-12)
        difference = sum(naive_gate(a + h, u) - naive_gate(a - h, u) for u in column) / (2 * h)
        assert float(slope[unit]) == pytest.approx(difference, abs=1e-5)
    assert (gates == 0).any() and (gates == 1).any() and ((gates > 0) & (gates < 1)).any()


def test_the_share_of_open_gates_is_their_probability():
    log_alpha = torch.linspace(-6, 6, 13, dtype=torch.float64)
    uniform = torch.rand(40_000, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = (hard_concrete(log_alpha, uniform) > 0).double().mean(0)
    assert found.tolist() == pytest.approx(open_probability(log_alpha).tolist(), abs=0.01)


# ---- what is learned ------------------------------------------------------------------------------------------------


def planted(family="llama", layer=1, head=2):
    """A model in which one head alone writes anything of note."""
    hf = tiny_models.make(family, seed=1)
    lm = as_model(hf, family)
    with torch.no_grad():
        for block in lm.decoder.blocks:
            for other in range(lm.heads):
                if (block.layer, other) != (layer, head):
                    size = lm.decoder.head_dim
                    block.head_weights[other * size : (other + 1) * size] *= 1e-3
    return lm


@pytest.mark.cases(1)
@pytest.mark.parametrize("loss", ["kl", "metric"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])  # a post-norm would blow the quiet heads up again
def test_a_planted_head_is_found(task_of, family, loss):
    lm, task = planted(family), task_of((5, 6), n=4, seed=4)
    if loss == "metric":
        task = task[:1]  # effects on several pairs may cancel
    exact = vc.exact(lm, task, show_progress=False)
    best = exact.ranking()[0]
    assert best == exact.units.find("a1.h2")
    supports = bool(exact.scaled()[best] < 0)
    mask = learn(lm, task, keep=1, steps=100, loss=loss)
    if loss == "kl" or supports:
        assert mask.ranking()[0] == best and mask.mean()[best] > 0.9
    else:  # what works against the metric is not kept
        assert mask.mean()[best] < 0.1


@pytest.mark.parametrize(
    "units", ["heads", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mlps", "attention", "neurons"))]
)
def test_the_wanted_share_is_reached(tiny, task_of, units):
    mask = learn(tiny("llama"), task_of(5, n=2, seed=4), units=units, keep=0.34, steps=300)
    assert float(mask.mean().mean()) == pytest.approx(0.34, rel=0.3)
    assert ((mask.values >= 0) & (mask.values <= 1)).all() and (mask.values == mask.values[0]).all()


def test_the_note_tells_what_the_kept_units_alone_give(tiny, task_of):
    """Against the naive reference: all other heads patched at once."""
    import naive
    from bridges import naive_metric

    lm, task = tiny("llama"), task_of((5, 6), n=2, seed=4)
    mask = learn(lm, task, keep=3)
    kept, values = mask.ranking()[:3], []
    for i in range(2):
        corrupted = naive.activations(lm.hf, "llama", task.corrupted[i])["z"]
        size = lm.decoder.head_dim
        patches = [
            ("heads", layer, head, None, corrupted[layer][:, head * size : (head + 1) * size])
            for layer in range(3) for head in range(4) if layer * 4 + head not in kept
        ]  # fmt: skip
        values.append(naive_metric(lm, task, i)(naive.run_patched(lm.hf, "llama", task.clean[i], patches)[-1]))
    assert f"metric {sum(values) / 2:+.3f}" in mask.notes[1]


def test_what_it_says_of_itself(tiny, task_of):
    mask = learn(tiny("llama"), task_of((5, 6), n=2), keep=0.25)
    assert (mask.method, mask.signed, mask.verified, mask.direction) == ("mask", False, "not verified", "noising")
    assert mask.settings["keep"] == 3 and mask.settings["loss"] == "kl" and mask.cost.backward > 0
    assert mask.importance().tolist() == mask.mean().tolist()
    assert "magnitudes only" in repr(mask) and "KL to the clean output" in repr(mask)
    with pytest.raises(MethodError, match="same score"):
        vc.scores.stability(mask, top=3)


def test_it_is_compared_and_saved_like_any_other(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((5, 6), n=2)
    mask = learn(lm, task)
    found = vc.agreement(mask, vc.exact(lm, task, show_progress=False))
    assert not found.signed and -1 <= found.r <= 1
    again = vc.open(mask.save(tmp_path / "mask.safetensors"))
    assert torch.equal(again.values, mask.values) and again.settings == mask.settings and again.notes == mask.notes


def test_a_warm_start_is_taken(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=2)
    exact = vc.exact(lm, task, show_progress=False)
    mask = learn(lm, task, steps=1, lr=1e-6, start=exact)
    assert mask.ranking() == exact.ranking() and mask.settings["start"] == "exact"
    few = vc.exact(lm, task, units=["a0.h0", "a1.h1"], show_progress=False)
    with pytest.raises(UnitError, match="same units"):
        learn(lm, task, start=few)


# ---- what never changes a number ------------------------------------------------------------------------------------


def test_reproducible_by_seed(tiny, task_of):
    lm, task = tiny("gpt2"), task_of((5, 6), n=4)
    one, same, other = (learn(lm, task, batch=2, seed=seed).values for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_smaller_batches_where_memory_is_short(tiny, task_of, monkeypatch):
    lm, task = tiny("gemma3"), task_of(6, n=8, seed=4)
    whole, run, refused = learn(lm, task), GatedPairs.run, []

    def short(self, gates, rows, cost=None):
        if len(rows) > 1:
            refused.append(len(rows))
            raise OutOfMemoryError("too many")
        return run(self, gates, rows, cost)

    monkeypatch.setattr(GatedPairs, "run", short)
    assert refused == []
    torch.testing.assert_close(learn(lm, task).values, whole.values, rtol=0, atol=1e-8)
    assert refused


def test_names_and_what_is_not_named_stays_open(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=2)
    mask = learn(lm, task, units=["a1.h1", "a0.h3", "a2.h0"], keep=1)
    assert mask.units.names == ["a1.h1", "a0.h3", "a2.h0"] and mask.values.shape == (2, 3)


def test_every_group_is_visited_before_any_twice(tiny):
    def schedule(sizes, steps, batch):
        return Training.of(
            all_units(tiny("llama"), "heads"), Learner(steps=steps), 0.5, batch, None, 0
        ).schedule(sizes)

    planned = schedule([2, 1, 1, 2], 6, 2)
    visited = [group for step in planned for group in step]
    assert all(sum([2, 1, 1, 2][group] for group in step) >= 2 for step in planned)
    for first in range(0, len(visited) - 3, 4):
        assert sorted(visited[first : first + 4]) == [0, 1, 2, 3]
    assert schedule([2, 1], 3, 99)[0] in ([0, 1], [1, 0])


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"units": "heads@positions"}, "at single positions"),
        ({"units": "residual"}, "residual"),
        ({"keep": 0.0}, "keep=0.0"),
        ({"keep": 1.0}, "keep=1.0"),
        ({"keep": 12}, "from 1 to 11"),
        ({"keep": True}, "keep is .* but this is bool: True"),
        ({"loss": "mse"}, "loss='mse'"),
        ({"steps": 0}, "steps=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_what_means_nothing_is_refused(tiny, task_of, options, word):
    with pytest.raises(MethodError, match=word):
        learn(tiny("llama"), task_of((5, 6), n=2), **options)


def test_no_gap_is_an_error(task_of):
    hf, task = tiny_models.make("llama", seed=1), task_of(6)
    ends = {"clean": ((*task.clean[0][:-1], 0),), "corrupted": ((*task.clean[0][:-1], 1),)}
    with torch.no_grad():
        hf.model.embed_tokens.weight[1] = hf.model.embed_tokens.weight[0]  # the model cannot tell the prompts apart
    with pytest.raises(GapError, match="does not separate"):
        learn(as_model(hf, "llama"), dataclasses.replace(task, **ends))


def test_nan_names_the_layer(task_of):
    hf = tiny_models.make("llama", seed=1)
    hf.get_submodule("model.layers.1.mlp.down_proj").weight.data.fill_(float("nan"))
    with pytest.raises(NumericsError, match="block 1"):
        learn(as_model(hf, "llama"), task_of(6))


@pytest.mark.parametrize("steps", [1, 4])
def test_the_plan_is_what_it_costs(tiny, task_of, steps):
    lm, task, mask = tiny("llama"), task_of((5, 6), n=4), vc.estimates.learn_mask
    plan = mask.work(lm, task, steps=steps, batch=2)
    assert plan.tokens() == learn(lm, task, steps=steps, batch=2).cost.token_layers
    with pytest.raises(MethodError, match="single positions"):
        mask.work(lm, task, units="heads@positions")


def test_on_a_model_that_is_linear_the_order_is_that_of_exact_effects():
    """Neurons of the last MLP, whose writes the logits read without a norm; some never fire, and stay in the middle."""
    lm = random_compiled()
    task = vc.Task(
        "late", ((1, 2, 3, 4, 5), (6, 7, 8, 9)), ((1, 2, 3, 4, 15), (6, 7, 18, 9)), ((0,), (1,)), ((2,), (3,))
    )
    names = [name for name in all_units(lm, "neurons").names if name.startswith("m1.")]
    effects = vc.exact(lm, task, units=names, show_progress=False).importance().double()
    together = vc.exact(lm, task, units={"all": names}, show_progress=False).importance().double()
    torch.testing.assert_close(effects.sum(), together[0])  # they add up
    mask = learn(lm, task, units=names, how="matryoshka", loss="metric", keep=3, steps=120)
    moving = (effects.abs() > 1e-9).nonzero().flatten()
    assert len(moving) == 12
    assert torch.equal(mask.mean()[moving].argsort(), effects[moving].argsort())
    assert (mask.mean()[effects > 1e-9].min() > mask.mean()[effects.abs() < 1e-9].max())

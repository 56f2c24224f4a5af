"""Shapley values against enumeration over orders of naive runs, and by what they must satisfy.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT) unless a comparison is between samples.
"""

import itertools
import math

import closed_forms
import numpy as np
import pytest
import tiny_models
import torch
from naive_coalitions import coalition_runs

import veracausa as vc
from veracausa.effects import shapley_values as module
from veracausa.effects.shapley_values import shapley
from veracausa.effects.site_effects import last_in
from veracausa.errors import MethodError

#: Sites of nine heads, more than are enumerated by themselves.
NINE = {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 9, "num_hidden_layers": 2}


def values_of(lm, task, **options):
    return shapley(lm, task, show_progress=False, **options)


def by_orders(lm, task, layer, players, **options):
    """φ of every head of a layer: the mean over all orders, v from whole-model runs."""
    sets = [s for n in range(1, players + 1) for s in itertools.combinations(range(players), n)]
    weights = np.array([[float(u in s) for u in range(players)] for s in sets])
    worth = dict(zip(sets, coalition_runs(lm, task, "heads", [layer] * len(sets), weights, **options).T, strict=True))
    worth[()] = torch.zeros(len(task), dtype=torch.float64)
    found = torch.zeros(len(task), players, dtype=torch.float64)
    for order in itertools.permutations(range(players)):
        for i, unit in enumerate(order):
            before, after = (tuple(sorted(order[:n])) for n in (i, i + 1))
            found[:, unit] += (worth[after] - worth[before]) / math.factorial(players)
    return found


@pytest.mark.parametrize("options", [{}, {"direction": "denoising"}, {"ablation": "zero"}], ids=str)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
def test_exact_is_the_mean_over_all_orders(tiny, task_of, agree, family, options):
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = values_of(lm, task, units=["a1.h0", "a1.h1", "a1.h2", "a1.h3"], **options)
    agree(scores.values, by_orders(lm, task, 1, 4, **options), scores.gap)
    assert (scores.draw_stderr == 0).all() and scores.settings["permutations"] == "all"


def test_eight_units_are_enumerated_and_nine_are_not(tiny, task_of):
    eight = tiny("llama", num_attention_heads=8, num_key_value_heads=4, num_hidden_layers=1)
    assert values_of(eight, task_of(6)).settings["permutations"] == "all"
    nine = tiny("llama", **NINE)
    assert values_of(nine, task_of(6), permutations=4).settings["permutations"] == 4
    # 64 · 8 + 1 rows would be no fewer than all 511 coalitions
    assert values_of(nine, task_of(6), permutations=64).settings["permutations"] == "all"


@pytest.mark.parametrize("permutations", [2, 6, 64])
def test_efficiency_for_any_permutations(tiny, task_of, agree, permutations):
    """The values of a site add up to the effect of patching it, with whatever permutations."""
    lm, task = tiny("llama", **NINE), task_of((6, 8), n=2)
    scores = values_of(lm, task, permutations=permutations)
    site = vc.exact(lm, task, units="attention", show_progress=False)
    agree(scores.values.unflatten(1, (2, 9)).sum(2), site.values, scores.gap)
    agree(scores.completeness.true.T, site.values, scores.gap)
    assert scores.completeness.relative(scores.gap) < 1e-12


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_identical_heads_share_alike_and_a_dummy_gets_nothing(tiny, task_of, agree, family):
    """Heads 0 and 1 of layer 1 made the same head; head 2's output weights set to zero."""
    lm, task = tiny(family, fresh=True), task_of((6, 8), n=2)
    d, block = lm.decoder.head_dim, lm.decoder.blocks[1]
    _copy_head(lm, family, 0, 1)
    with torch.no_grad():
        rows = block.head_weights[2 * d : 3 * d]
        rows.zero_()
    assert not block.head_weights[2 * d : 3 * d].any(), "head_weights is no view of the model's weights"
    scores = values_of(lm, task, units=[f"a1.h{h}" for h in range(4)])
    agree(scores.values[:, 0], scores.values[:, 1], scores.gap)
    agree(scores.values[:, 2], torch.zeros(2), scores.gap)
    assert scores.values[:, [0, 3]].abs().min() > 1e-4


def _copy_head(lm, family, source, target):
    """Give one head of layer 1 the weights of another (of the same key/value group, where there are groups)."""
    attention, d = lm.decoder.blocks[1].attention, lm.decoder.head_dim
    with torch.no_grad():
        if family == "gpt2":  # columns q | k | v
            for part in range(3):
                for tensor in (attention.c_attn.weight, attention.c_attn.bias):
                    at = part * 4 * d
                    tensor[..., at + target * d : at + (target + 1) * d] = tensor[
                        ..., at + source * d : at + (source + 1) * d
                    ]
        elif family == "gpt_neox":  # rows head by head: q, k, v
            for tensor in (attention.query_key_value.weight, attention.query_key_value.bias):
                tensor[target * 3 * d : (target + 1) * 3 * d] = tensor[source * 3 * d : (source + 1) * 3 * d]
        else:
            tensor = attention.q_proj.weight
            tensor[target * d : (target + 1) * d] = tensor[source * d : (source + 1) * d]
        weights = lm.decoder.blocks[1].head_weights
        weights[target * d : (target + 1) * d] = weights[source * d : (source + 1) * d]


def test_samples_agree_with_the_exact_values_within_their_error(tiny, task_of):
    """Of 2 pairs × 18 heads, z = (sampled − exact)/SE has a spread of about 1 (t with 15 degrees of freedom)."""
    lm, task = tiny("llama", **NINE), task_of((6, 8), n=2)
    exact = values_of(lm, task, permutations=64)
    sampled = values_of(lm, task, permutations=32, seed=3)
    z = (sampled.values - exact.values) / sampled.draw_stderr
    assert z.abs().max() < 4.5 and 0.5 < z.square().mean().sqrt() < 1.6  # 36 draws: χ gives 1 ± 0.25 at two SE
    plain = _independent(lm, task, exact, sampled)
    assert sampled.draw_stderr.mean() < plain  # the reverse of an order balances it


def _independent(lm, task, exact, sampled):
    """The mean standard error of as many independent orders, from the spread of single orders."""
    game = module._Game.of(lm, "heads", 32)
    spread = []
    for layer in (0, 1):
        orders = game.orders(3, len(task), layer)
        table, (columns,) = game.table("heads", [layer], [orders], len(task))
        found = vc.exact(lm, task, units=table, show_progress=False).values
        worth = torch.cat([torch.zeros(len(task), 1).to(found), found], 1)
        gathered = worth[torch.arange(len(task))[:, None, None], torch.as_tensor(columns)]
        added = torch.zeros(orders.shape, dtype=worth.dtype).scatter_(2, torch.as_tensor(orders), gathered.diff(dim=2))
        spread.append(added[:, ::2].std(1) / 32**0.5)
    return torch.stack(spread).mean()


@pytest.mark.parametrize("name", ["product", "maximum", "either", "both"])
def test_closed_forms(name):
    form = closed_forms.FORMS[name]()
    scores = values_of(form.lm, form.task, units=[f"a0.h{h}" for h in range(closed_forms.HEADS)])
    torch.testing.assert_close(scores.values, form.shapley, rtol=0, atol=closed_forms.CLOSE)


def test_two_players_stand_between_first_and_last(tiny, task_of, agree):
    """With two units φ = ½(E + F)."""
    lm, task = tiny("llama", num_attention_heads=2, num_key_value_heads=2), task_of((6, 8), n=2)
    first, last = vc.exact(lm, task, show_progress=False), last_in(lm, task, show_progress=False)
    agree(values_of(lm, task).values, (first.values + last.values) / 2, first.gap)


@pytest.mark.parametrize("kind", ["mlps", "neurons", "keys"])
def test_other_kinds(tiny, task_of, agree, kind):
    lm, task = tiny("llama", intermediate_size=10), task_of((6, 8), n=2)
    scores = values_of(lm, task, units=kind, permutations=4)
    site = {"mlps": "mlps", "neurons": "mlps"}.get(kind)
    if site:
        whole = vc.exact(lm, task, units=site, show_progress=False)
        agree(scores.values.unflatten(1, (3, -1)).sum(2), whole.values, scores.gap)
    assert scores.completeness.relative(scores.gap) < 1e-12


def test_draws_depend_on_seed_example_and_layer_only(tiny, task_of, agree, tmp_path):
    lm, task = tiny("llama", **NINE), task_of((6, 8), n=4)
    scores = values_of(lm, task, permutations=4, seed=1, out=tmp_path)
    one = values_of(lm, task, units=["a1.h3", "a1.h0"], permutations=4, seed=1)
    agree(one.values, scores.values[:, [12, 9]], scores.gap)
    agree(values_of(lm, task[:2], permutations=4, seed=1).values, scores.values[:2], scores.gap)
    assert (values_of(lm, task, permutations=4, seed=2).values - scores.values).abs().max() > 1e-4
    again = values_of(lm, task, permutations=4, seed=1, out=tmp_path)
    torch.testing.assert_close(again.values, scores.values, rtol=0, atol=0)
    assert again.cost.token_layers == scores.cost.token_layers


def test_cost_groups_and_files(tiny, task_of, agree, tmp_path, monkeypatch):
    """The forecast is the count; groups of layers change no number; saved and read back."""
    lm, task = tiny("llama", **NINE), task_of((6, 8), n=2)
    scores = values_of(lm, task, permutations=4)
    assert shapley.work(lm, task, permutations=4).tokens() == scores.cost.token_layers
    back = vc.open(scores.save(tmp_path / "shapley.safetensors"))
    assert torch.equal(back.draw_stderr, scores.draw_stderr) and back.settings == scores.settings
    monkeypatch.setattr(module, "_ENTRIES", 1)
    agree(values_of(lm, task, permutations=4).values, scores.values, scores.gap)


@pytest.mark.parametrize("options", [{"permutations": 3}, {"permutations": 0}, {"units": "edges"}], ids=str)
def test_refused(tiny, task_of, options):
    with pytest.raises(MethodError):
        values_of(tiny("llama"), task_of(6), **options)

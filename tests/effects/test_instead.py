"""Own tensors, steering and noise in a unit's place, against plain hooks on the whole model."""

from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from bridges import naive_metric, naive_units
from tiny_models import mostly_slow

import veracausa as vc
from veracausa.errors import MethodError, UnitError

QUIET = {"show_progress": False}
UNITS = {
    "heads": ["a0.h1", "a2.h3"], "mlps": ["m0", "m2"], "attention": ["a1"], "neurons": ["m0.n3", "m2.n5"],
    "residual": ["r1", "r3"],
}  # fmt: skip
FAMILIES = ["llama", "gpt_neox", "gemma2", "gpt2", "qwen3"]


def alone(task):
    """The same prompts without a counterpart."""
    return replace(task, corrupted=(), paired=False)


def width(lm, kind):
    residual = {"heads": lm.decoder.head_dim, "attention": lm.heads * lm.decoder.head_dim, "neurons": 1}
    return residual.get(kind, lm.width)


def tensors(lm, kind, *shape, seed=0):
    made = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*shape, width(lm, kind), generator=made, dtype=torch.float64) for name in UNITS[kind]}


def by_hooks(lm, task, units, new):
    """Effects of putting new(pair, unit, own activation [n, width]) in a unit's place, run by run."""
    found = torch.zeros(len(task), len(units), dtype=torch.float64)
    for i in range(len(task)):
        own, metric = naive.activations(lm.hf, lm.name, task.clean[i]), naive_metric(lm, task, i)
        with torch.no_grad():
            base = metric(lm.hf(torch.tensor([task.clean[i]])).logits[0, -1])
        for u, (kind, layer, index, position) in enumerate(naive_units(units)):
            site = own[naive.SITE_OF[kind]][layer]
            columns = naive.where(lm.hf, kind, index, None, site.shape[1])[1]
            value = new(i, u, site[:, columns])
            logits = naive.run_patched(lm.hf, lm.name, task.clean[i], [(kind, layer, index, position, value)])
            found[i, u] = metric(logits[-1]) - base
    return found


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("family", mostly_slow(FAMILIES))
def test_own_tensors_and_added_vectors(tiny, task_of, family, kind):
    lm, task = tiny(family), alone(task_of(7, n=2))
    for shape in [(), (7,), (2, 1), (2, 7)]:
        given = tensors(lm, kind, *shape)

        def value(i, u, own, given=given, shape=shape):
            one = given[UNITS[kind][u]]
            one = one[i] if len(shape) == 2 else one
            return one.expand(own.shape)

        ours = vc.exact(lm, task, units=UNITS[kind], ablation=vc.effects.Own(given), **QUIET)
        theirs = by_hooks(lm, task, ours.units, value)
        torch.testing.assert_close(ours.values, theirs, rtol=0, atol=1e-9)
        assert theirs.abs().max() > 1e-4
        ours = vc.exact(lm, task, units=UNITS[kind], ablation=vc.effects.Added(given, scale=-0.7), **QUIET)
        theirs = by_hooks(lm, task, ours.units, lambda i, u, own, value=value: own - 0.7 * value(i, u, own))
        torch.testing.assert_close(ours.values, theirs, rtol=0, atol=1e-9)
        assert ours.settings["ablation"] == "added" and ours.settings["scale"] == -0.7


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_at_positions_and_over_several_lengths(tiny, task_of, family):
    lm, task = tiny(family), alone(task_of((6, 8), n=2))
    given = tensors(lm, "mlps")
    ours = vc.exact(lm, task, units=["m0@2", "m2@5"], ablation=vc.effects.Added(given), **QUIET)
    theirs = by_hooks(lm, task, ours.units, lambda i, u, own: own + given[UNITS["mlps"][u]])
    torch.testing.assert_close(ours.values, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_groups_add_to_what_earlier_members_made(tiny, task_of, family):
    """Hooks that add at two places of one run; and own tensors at two places."""
    lm, task = tiny(family), alone(task_of(7, n=2))
    given = tensors(lm, "mlps") | tensors(lm, "residual", seed=1) | tensors(lm, "heads", seed=2)
    members = [("mlps", 0, None, "m0"), ("resid", 1, None, "r1"), ("heads", 2, 3, "a2.h3")]
    for added in (True, False):
        how = vc.effects.Added(given, scale=0.5) if added else vc.effects.Own(given)
        ours = vc.exact(lm, task, units=[("m0", "r1", "a2.h3")], ablation=how, **QUIET)
        for i in range(len(task)):
            metric, ids = naive_metric(lm, task, i), task.clean[i]
            with torch.no_grad():
                base = metric(lm.hf(torch.tensor([ids])).logits[0, -1])

            def edit(kind, index, name, added=added):
                def put(a):
                    a, columns = a.clone(), naive.where(lm.hf, kind, index, None, a.shape[1])[1]
                    a[:, columns] = a[:, columns] + 0.5 * given[name] if added else given[name]
                    return a

                return put

            edits = [(naive.SITE_OF[k], layer, edit(k, index, name)) for k, layer, index, name in members]
            with torch.no_grad():
                logits = naive._run(lm.hf, lm.name, ids, edits)
            torch.testing.assert_close(ours.values[i, 0], metric(logits[-1]) - base, rtol=0, atol=1e-9)


@pytest.mark.cases(2)
@pytest.mark.parametrize("kind", ["heads", "mlps", "residual", "neurons"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_noise(tiny, task_of, family, kind):
    """σ by its definition, and the mean and standard error over draws that are made here."""
    lm, task = tiny(family), alone(task_of((6, 7), n=2))
    noise = vc.effects.Noise(sd=0.8, draws=3, seed=4)
    ours = vc.exact(lm, task, units=UNITS[kind], ablation=noise, **QUIET)
    rows = naive_units(ours.units)
    runs = [naive.activations(lm.hf, lm.name, ids) for ids in task.clean]
    place = {"heads": 0, "neurons": 1, "mlps": 2, "residual": 3}[kind]
    draws = []
    for draw in range(3):

        def value(i, u, own, draw=draw):
            unit, layer, index, _ = rows[u]
            site = torch.cat([run[naive.SITE_OF[unit]][layer] for run in runs])
            columns = naive.where(lm.hf, unit, index, None, site.shape[1])[1]
            sigma = site[:, columns].var(0, correction=0).mean().sqrt()
            drawn = np.random.default_rng([4, draw, i, place, layer]).standard_normal((len(own), site.shape[1]))
            return own + 0.8 * sigma * torch.from_numpy(drawn)[:, columns]

        draws.append(by_hooks(lm, task, ours.units, value))
    each = torch.stack(draws)
    torch.testing.assert_close(ours.values, each.mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.draw_stderr, each.std(0) / 3**0.5, rtol=0, atol=1e-9)
    assert ours.settings["draws"] == 3 and ours.settings["sd"] == 0.8
    grouped = vc.exact(lm, task, units=[(name,) for name in UNITS[kind]], ablation=noise, **QUIET)
    torch.testing.assert_close(grouped.values, ours.values, rtol=0, atol=1e-9)
    some = vc.exact(lm, task, units=UNITS[kind][1:], ablation=noise, **QUIET)  # the same draws, whoever else is asked
    torch.testing.assert_close(some.values, ours.values[:, 1:], rtol=0, atol=1e-12)


def test_a_whole_attention_layer_is_noised_head_by_head(tiny, task_of):
    lm, task = tiny("gemma2"), alone(task_of(6, n=2))
    noise = vc.effects.Noise(draws=2)
    layer = vc.exact(lm, task, units=["a1"], ablation=noise, **QUIET)
    heads = vc.exact(
        lm, task, units=[tuple(f"a1.h{head}" for head in range(lm.heads)), ("a1",)], ablation=noise, **QUIET
    )
    torch.testing.assert_close(heads.values, layer.values.expand(-1, 2), rtol=0, atol=1e-9)
    with pytest.raises(UnitError, match="no tensor for a1"):
        vc.exact(lm, task, units=[("a1", "m0")], ablation=vc.effects.Own({"m0": torch.zeros(lm.width)}), **QUIET)


def test_resuming_saving_and_forecasts(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), alone(task_of(7, n=2))
    one, other = (vc.effects.Own(tensors(lm, "mlps", seed=seed)) for seed in (0, 1))
    kept = vc.exact(lm, task, units=UNITS["mlps"], ablation=one, out=tmp_path, **QUIET)
    again = vc.exact(lm, task, units=UNITS["mlps"], ablation=one, out=tmp_path, **QUIET)
    assert torch.equal(kept.values, again.values) and again.cost.token_layers == kept.cost.token_layers
    new = vc.exact(lm, task, units=UNITS["mlps"], ablation=other, out=tmp_path, **QUIET)
    assert not torch.equal(kept.values, new.values)
    doubled = vc.effects.Added(one.values, scale=2.0)
    added = vc.exact(lm, task, units=UNITS["mlps"], ablation=doubled, out=tmp_path, **QUIET)
    assert torch.equal(added.values, vc.exact(lm, task, units=UNITS["mlps"], ablation=doubled, **QUIET).values)
    with pytest.raises(MethodError, match="replacements of your own"):
        vc.agreement(kept, new)
    noise = vc.effects.Noise(draws=2)
    found = vc.exact(lm, task, units="mlps", ablation=noise, out=tmp_path, **QUIET)
    saved = vc.open(found.save(tmp_path / "noise.safetensors"))
    assert torch.equal(saved.draw_stderr, found.draw_stderr) and saved.settings == found.settings
    price = vc.forecast(vc.exact, lm, task, units="mlps", ablation=noise, measure=False)
    assert price.token_layers == found.cost.token_layers


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ({"m0": torch.zeros(5)}, MethodError, r"m0 are \[5\], but the unit is 24 wide"),
        ({"m0": torch.full((24,), float("nan"))}, MethodError, "NaN"),
        ({"m9": torch.zeros(24)}, UnitError, "m9"),
        ({"m0@3": torch.zeros(24)}, UnitError, "whole units"),
        ({"m1": torch.zeros(24)}, UnitError, "no tensor for m0"),
        ({"m0": "much"}, MethodError, "numbers"),
        ({"m0": torch.zeros(24, dtype=torch.complex64)}, MethodError, "real numbers"),
        ({"m0": torch.zeros(3, 24)}, MethodError, "pairs, positions, width"),
        ({}, MethodError, "unit → tensor"),
        ({"m0": torch.zeros(2, 9, 24)}, MethodError, "2 pairs of 7 tokens"),
    ],
)
def test_tensors_that_do_not_fit(tiny, task_of, values, error, says):
    lm, task = tiny("llama"), task_of(7, n=2)
    with pytest.raises(error, match=says):
        vc.exact(lm, task, units=["m0"], ablation=vc.effects.Own(values), **QUIET)


def test_what_means_nothing(tiny, task_of):
    lm, task = tiny("llama"), task_of(2, n=2)
    own = vc.effects.Own({"m0": torch.zeros(2, 24)})
    with pytest.raises(MethodError, match="clear which"):
        vc.exact(lm, task, units=["m0"], ablation=own, **QUIET)
    for how in ({"sd": -1.0}, {"draws": 0}, {"seed": -1}, {"sd": float("nan")}):
        with pytest.raises(MethodError):
            vc.effects.Noise(**how)
    with pytest.raises(MethodError, match="scale"):
        vc.effects.Added({}, scale=float("inf"))
    good = vc.effects.Own({"m0": torch.zeros(24)})
    with pytest.raises(MethodError, match="noising"):
        vc.exact(lm, task, units=["m0"], ablation=good, direction="denoising", **QUIET)
    with pytest.raises(MethodError, match="no pattern"):
        vc.exact(lm, task, units="patterns", ablation=vc.effects.Noise(), **QUIET)
    with pytest.raises(MethodError, match="edges"):
        vc.exact(lm, task, units="edges", ablation=good, **QUIET)

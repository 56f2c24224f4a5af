"""Own tensors, vectors and noise in direct, last-in, joint and Shapley effects, against whole-model runs with hooks."""

from dataclasses import replace
from itertools import permutations

import naive
import numpy as np
import pytest
import torch
from bridges import naive_metric
from tiny_models import mostly_slow

import veracausa as vc
from veracausa.errors import MethodError, UnitError
from veracausa.units.every_unit import all_units

QUIET = {"show_progress": False}
HOW = {"own": (), "added": (), "noise": (0, 1, 2)}
FAMILIES = mostly_slow(["llama", "gemma2", "gpt_neox"])
PLACE = {"heads": 0, "mlps": 2}


@pytest.fixture
def setting(tiny, task_of):
    """(model, prompts without a counterpart, tensors of all heads and MLPs) of a family."""

    def of(family):
        lm, made = tiny(family), torch.Generator().manual_seed(0)
        names = {"heads": lm.decoder.head_dim, "mlps": lm.width}
        values = {
            name: torch.randn(wide, generator=made, dtype=torch.float64)
            for kind, wide in names.items() for name in all_units(lm, kind).names
        }  # fmt: skip
        return lm, replace(task_of((6, 7), n=2), corrupted=(), paired=False), values

    return of


def given(how, values):
    return {
        "own": vc.effects.Own(values), "added": vc.effects.Added(values, -0.6), "noise": vc.effects.Noise(0.7, 3, 5)
    }[how]  # fmt: skip


class Naive:
    """Runs of whole prompts with units set by hooks: what a unit (kind, layer, index) becomes, and M then."""

    def __init__(self, lm, task, how, values):
        self.lm, self.task, self.how, self.values = lm, task, how, values
        self.own = [naive.activations(lm.hf, lm.name, ids) for ids in task.clean]

    def columns(self, unit, wide):
        return naive.where(self.lm.hf, unit[0], unit[2], None, wide)[1]

    def sigma(self, unit):
        site = torch.cat([one[naive.SITE_OF[unit[0]]][unit[1]] for one in self.own])
        return site[:, self.columns(unit, site.shape[1])].var(0, correction=0).mean().sqrt()

    def become(self, i, unit, draw, a):
        """The site `a` with the unit set."""
        a, columns = a.clone(), self.columns(unit, a.shape[1])
        name = f"a{unit[1]}.h{unit[2]}" if unit[0] == "heads" else f"m{unit[1]}"
        if self.how == "noise":
            drawn = np.random.default_rng([5, draw, i, PLACE[unit[0]], unit[1]]).standard_normal(tuple(a.shape))
            a[:, columns] += 0.7 * self.sigma(unit) * torch.from_numpy(drawn)[:, columns]
        elif self.how == "added":
            a[:, columns] += -0.6 * self.values[name]
        else:
            a[:, columns] = self.values[name]
        return a

    def effect(self, i, units, draw=None, held=()):
        """M with all units set, less M."""
        lm, metric, ids = self.lm, naive_metric(self.lm, self.task, i), self.task.clean[i]
        edits = [
            (naive.SITE_OF[unit[0]], unit[1], lambda a, unit=unit: self.become(i, unit, draw, a)) for unit in units
        ]
        edits += [(site, layer, lambda a, site=site, layer=layer: self.own[i][site][layer]) for site, layer in held]
        with torch.no_grad():
            return metric(naive._run(lm.hf, lm.name, ids, edits)[-1]) - metric(naive._run(lm.hf, lm.name, ids, [])[-1])

    def over_draws(self, worked):
        """Means over draws and standard errors, [pairs, units], of worked(pair, draw) → effects of units."""
        draws = HOW[self.how] or (None,)
        each = torch.stack([torch.stack([worked(i, draw) for i in range(len(self.task))]) for draw in draws])
        return each.mean(0), each.std(0) / len(draws) ** 0.5 if len(draws) > 1 else None


def agreed(scores, theirs, how):
    values, spread = theirs
    torch.testing.assert_close(scores.values, values, rtol=0, atol=1e-9)
    assert values.abs().max() > 1e-4
    if how == "noise":
        torch.testing.assert_close(scores.draw_stderr, spread, rtol=0, atol=1e-9)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_direct(setting, family, how):
    """Later attention layers and MLPs are held at what they were."""
    lm, task, values = setting(family)
    runs = Naive(lm, task, how, values)
    for kind, units in (
        ("heads", [("heads", 1, 2), ("heads", 2, 0)]),
        ("mlps", [("mlps", 0, None), ("mlps", 2, None)]),
    ):

        def held(unit):
            z, mlp = runs.own[0]["z"], runs.own[0]["mlp"]
            own = [("z", later) for later in z if later > unit[1]]
            return own + [
                ("mlp", later) for later in mlp if later > unit[1] or (later == unit[1] and unit[0] == "heads")
            ]

        names = [f"a{layer}.h{index}" if kind == "heads" else f"m{layer}" for _, layer, index in units]
        ours = vc.effects.direct(lm, task, units=names, ablation=given(how, values), **QUIET)
        agreed(ours, runs.over_draws(
            lambda i, draw, units=units: torch.stack([runs.effect(i, [unit], draw, held(unit)) for unit in units])
        ), how)  # fmt: skip


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_interactions(setting, family, how):
    lm, task, values = setting(family)
    runs, pair = Naive(lm, task, how, values), [("heads", 0, 1), ("mlps", 1, None)]

    def worked(i, draw):
        return (runs.effect(i, pair, draw) - sum(runs.effect(i, [one], draw) for one in pair))[None]

    ours = vc.effects.interactions(lm, task, units=["a0.h1+m1"], ablation=given(how, values), **QUIET)
    agreed(ours, runs.over_draws(worked), how)


@pytest.mark.cases(1)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_last_in_and_shapley(setting, family, how):
    """The mean over all orders of a layer's heads, each order run head by head."""
    lm, task, values = setting(family)
    runs, heads = Naive(lm, task, how, values), range(lm.heads)
    known: dict = {}

    def worth(i, draw, chosen):
        key = (i, draw, frozenset(chosen))
        if key not in known:
            known[key] = runs.effect(i, [("heads", 1, head) for head in sorted(chosen)], draw)
        return known[key]

    def last(i, draw):
        return torch.stack([worth(i, draw, heads) - worth(i, draw, set(heads) - {head}) for head in heads])

    def value(i, draw):
        found = torch.zeros(lm.heads, dtype=torch.float64)
        orders = list(permutations(heads))
        for order in orders:
            for place, head in enumerate(order):
                found[head] += (worth(i, draw, order[: place + 1]) - worth(i, draw, order[:place])) / len(orders)
        return found

    units, ablation = [f"a1.h{head}" for head in heads], given(how, values)
    agreed(vc.effects.last_in(lm, task, units=units, ablation=ablation, **QUIET), runs.over_draws(last), how)
    ours = vc.effects.shapley(lm, task, units=units, ablation=ablation, seed=2, **QUIET)
    agreed(ours, runs.over_draws(value), how)
    whole = runs.over_draws(lambda i, draw: worth(i, draw, heads)[None])[0]
    torch.testing.assert_close(ours.values.sum(1, keepdim=True), whole, rtol=0, atol=1e-9)
    if how == "noise":
        assert ours.settings["seed"] == 2 and ours.settings["noise_seed"] == 5


def test_orders_that_are_drawn(setting):
    """Of 40 neurons: each order's differences add up to the whole layer's effect; errors hold the noise's, too."""
    lm, task, _ = setting("llama")
    units = [f"m1.n{index}" for index in range(40)]
    noise = vc.effects.Noise(0.7, 2, 5)
    ours = vc.effects.shapley(lm, task, units=units, permutations=4, ablation=noise, **QUIET)
    whole = vc.exact(lm, task, units=[tuple(units)], ablation=noise, **QUIET)
    torch.testing.assert_close(ours.values.sum(1, keepdim=True), whole.values, rtol=0, atol=1e-9)
    assert ours.settings["permutations"] == 4 and (ours.draw_stderr > 0).all()
    price = vc.forecast(vc.effects.shapley, lm, task, units=units, permutations=4, ablation=noise, measure=False)
    assert price.token_layers == ours.cost.token_layers


def test_saving_and_resuming(setting, tmp_path):
    lm, task, values = setting("llama")
    for how in HOW:
        for verb, units in ((vc.effects.direct, "heads"), (vc.effects.shapley, "heads"),
                            (vc.effects.interactions, ["m0+m1"])):  # fmt: skip
            kept = verb(lm, task, units=units, ablation=given(how, values), out=tmp_path / how, **QUIET)
            again = verb(lm, task, units=units, ablation=given(how, values), out=tmp_path / how, **QUIET)
            assert torch.equal(kept.values, again.values)
            if how != "noise":  # whose reference set is recorded again
                assert again.cost.token_layers == kept.cost.token_layers
            saved = vc.open(kept.save(tmp_path / "scores.safetensors"))
            assert torch.equal(saved.values, kept.values) and saved.settings == kept.settings


def test_what_means_nothing(setting, task_of):
    lm, task, values = setting("llama")
    some = vc.effects.Own({"a1.h0": values["a1.h0"]})
    for verb in (vc.effects.last_in, vc.effects.shapley):
        with pytest.raises(UnitError, match=r"no tensor for a1\.h1.*every unit that is replaced"):
            verb(lm, task, units=["a1.h0"], ablation=some, **QUIET)
    pairs = task_of(6, n=2)
    for verb in (vc.effects.direct, vc.effects.shapley):
        with pytest.raises(MethodError, match="direction='denoising'"):
            verb(lm, pairs, ablation=given("added", values), direction="denoising", **QUIET)
    with pytest.raises(MethodError, match="name the unit whole"):
        vc.exact(lm, pairs, units=["a0.h0->m1"], ablation=some, **QUIET)
    with pytest.raises(MethodError, match=r"vc\.effects\.Noise"):
        vc.exact(lm, pairs, ablation="noise", **QUIET)


def test_where_it_is_refused_it_is_said_where_it_is_taken(setting, task_of):
    lm, values = setting("llama")[0], setting("llama")[2]
    task, own = task_of(6, n=2), given("own", values)
    circuit = vc.select(vc.attribute(lm, task, units="edges", method="eap", **QUIET), n=5)
    calls = (
        lambda: vc.faithfulness(lm, task, circuit, ablation=own),
        lambda: vc.attribute(lm, task, baseline=own),
        lambda: vc.behaviour.ablation_study(lm, task, units=["a0.h0"], ablations=[own]),
    )
    for call in calls:
        with pytest.raises(MethodError, match=r"Own.*is taken by vc\.exact and by vc\.effects\.direct"):
            call()

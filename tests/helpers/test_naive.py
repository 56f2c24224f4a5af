"""Self-checks of the reference: nothing here uses the library."""

from functools import cache, partial

import naive
import pytest
import torch
from tiny_models import FAMILIES, make, pairs

N_HEADS = 4
_pair = pairs(60, 1, 7, seed=2)[0]
CLEAN, CORRUPTED = _pair.clean, _pair.corrupted
METRIC = naive.logit_difference(_pair.correct, _pair.incorrect)
UNITS = [
    ("heads", 0, 1, None), ("mlps", 1, None, None), ("neurons", 0, 7, None), ("heads", 1, 3, 6),
    ("attn", 2, None, None), ("resid", 1, None, 6),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def model_of(family):
    return make(family, seed=1).requires_grad_(False)


@pytest.fixture(params=FAMILIES)
def at(request):
    """(model, family)"""
    return model_of(request.param), request.param


def call(function, at, *args, **options):
    return function(*at, CLEAN, CORRUPTED, METRIC, *args, **options)


def bare(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def close(a, b, atol):
    torch.testing.assert_close(a, b, rtol=atol, atol=atol)


def test_own_values_change_nothing(at):
    model, family = at
    own = naive.activations(model, family, CLEAN)
    patches = [(kind, i, None, None, own[site][i]) for kind, site in naive.SITE_OF.items() for i in range(3)]
    patches += [("heads", 1, 2, 3, own["z"][1][3].view(N_HEADS, -1)[2])]
    patches += [("neurons", 2, 5, None, own["neurons"][2][:, 5:6]), ("resid", 3, None, None, own["resid"][3])]
    assert torch.equal(naive.run_patched(model, family, CLEAN, patches), bare(model, CLEAN))


def test_sites_have_their_shapes_and_are_what_they_say(at):
    model, family = at
    own = naive.activations(model, family, CLEAN)
    width = model.config.hidden_size
    assert [len(own[site]) for site in ("z", "neurons", "mlp", "resid")] == [3, 3, 3, 4]
    assert own["resid"][0].shape == own["mlp"][0].shape == (7, width) and own["neurons"][0].shape[1] >= 40
    head_dim = 8 if width == 24 and family != "gpt2" else width // N_HEADS
    assert own["z"][0].shape == (7, N_HEADS * head_dim)
    assert torch.equal(own["attn"][2], own["z"][2])
    logits = model.lm_head(model.get_submodule(naive.PATHS[family][1])(own["resid"][3]))
    close(logits.argmax(-1), bare(model, CLEAN).argmax(-1), 0)  # soft caps keep the order


def test_whole_residual_stream_gives_the_corrupted_run(at):
    model, family = at
    other = naive.activations(model, family, CORRUPTED)["resid"]
    for layer in range(4):
        logits = naive.run_patched(model, family, CLEAN, [("resid", layer, None, None, other[layer])])
        close(logits, bare(model, CORRUPTED), 1e-12)
    gap = METRIC(bare(model, CLEAN)[-1]) - METRIC(bare(model, CORRUPTED)[-1])
    unit = [("resid", 0, None, None)]
    close(call(naive.exact, at, unit), -gap[None], 1e-12)
    close(call(naive.exact, at, unit, direction="denoising"), gap[None], 1e-12)


def test_patching_parts_together_is_patching_the_whole(at):
    model, family = at
    other = naive.activations(model, family, CORRUPTED)
    z = other["z"][1].view(len(CLEAN), N_HEADS, -1)
    heads = [("heads", 1, head, None, z[:, head]) for head in range(N_HEADS)]
    whole = naive.run_patched(model, family, CLEAN, [("attn", 1, None, None, other["z"][1])])
    close(naive.run_patched(model, family, CLEAN, heads), whole, 1e-12)
    neurons = [("neurons", 1, None, p, other["neurons"][1][p]) for p in range(len(CLEAN))]
    whole = naive.run_patched(model, family, CLEAN, [("mlps", 1, None, None, other["mlp"][1])])
    close(naive.run_patched(model, family, CLEAN, neurons), whole, 1e-11)
    own = naive.activations(model, family, CLEAN)
    assert all((own[site][1] - other[site][1])[-1].abs().min() > 0 for site in ("z", "mlp"))


OPTIONS = {
    "noising": {}, "denoising": {"direction": "denoising"}, "zero": {"ablation": "zero"},
    "mean": {"ablation": "mean", "reference": [CLEAN, CORRUPTED, CLEAN[::-1]]},
    "mean over positions": {"ablation": "mean", "reference": [CLEAN, CORRUPTED[:4]]},
    "resample": {"ablation": "resample", "reference": [CLEAN[i:] + CLEAN[:i] for i in range(1, 7)]},
}  # fmt: skip


# the ablations share their code: two families will do for all but the default
CASES = [(family, "noising") for family in FAMILIES]
CASES += [(family, name) for family in ("gpt2", "gemma2") for name in OPTIONS if name != "noising"]


@pytest.mark.cases(4)
@pytest.mark.parametrize(("at", "name"), CASES, indirect=["at"])
def test_atp_is_the_slope(at, name):
    slopes = call(naive.atp, at, UNITS, **OPTIONS[name])
    close(slopes, call(naive.central_difference, at, UNITS, **OPTIONS[name]), 1e-6)
    effects = call(naive.exact, at, UNITS, **OPTIONS[name])
    assert effects.abs().max() > 0.1 and (slopes - effects).abs().max() > 1e-3


@pytest.mark.cases(4)
@pytest.mark.parametrize(("at", "name"), CASES, indirect=["at"])
def test_unit_ig_is_the_exact_effect(at, name):
    grid = naive.graded(8, 6) if name == "zero" else 32
    options = dict(OPTIONS[name])
    if name == "resample":
        options["reference"] = options["reference"][:2]
    close(call(naive.ig_unit, at, UNITS[:2], nodes=grid, **options), call(naive.exact, at, UNITS[:2], **options), 1e-4)


@pytest.mark.cases(4)
@pytest.mark.parametrize(("at", "name"), [case for case in CASES if case[1] != "resample"], indirect=["at"])
def test_a_layers_ig_sums_to_the_effect_of_its_site(at, name):
    grid = naive.graded(8, 6) if (name, at[1]) == ("zero", "gemma2") else 24  # zero and a post-norm
    run = partial(call, at=at, **OPTIONS[name])
    heads = run(naive.ig_layer, units=[("heads", 1, head, None) for head in range(N_HEADS)], nodes=grid)
    close(heads.sum(), run(naive.exact, units=[("attn", 1, None, None)])[0], 1e-4)
    if name == "noising":
        width = naive.activations(*at, CLEAN)["neurons"][1].shape[1]
        units = [("neurons", 1, j, p) for j in range(width) for p in range(len(CLEAN))]
        close(run(naive.ig_layer, units=units).sum(), run(naive.exact, units=[("neurons", 1, None, None)])[0], 1e-3)


def test_curve_runs_from_clean_to_patched(at):
    unit = ("heads", 1, 2, None)
    curve = call(naive.alpha_curve, at, unit, [0.0, 1.0, 0.5, -0.5])
    before = METRIC(bare(at[0], CLEAN)[-1])
    close(curve[0], before, 1e-12)
    close(curve[1] - before, call(naive.exact, at, [unit])[0], 1e-12)
    assert len(set(curve.tolist())) == 4


def test_means_over_a_reference_set():
    at = make("llama"), "llama"
    unit = [("mlps", 1, None, None)]
    only = call(naive.exact, at, unit, ablation="mean", reference=[CORRUPTED])
    close(only, call(naive.exact, at, unit), 1e-12)
    one_token = naive.activations(*at, CLEAN[:1])["mlp"][1][0]
    logits = naive.run_patched(*at, CLEAN, [("mlps", 1, None, None, one_token)])
    expected = METRIC(logits[-1]) - METRIC(bare(at[0], CLEAN)[-1])
    close(call(naive.exact, at, unit, ablation="mean", reference=[CLEAN[:1]])[0], expected, 1e-12)


def test_hooks_are_gone_afterwards(at):
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in at[0].modules())
    assert all(weight.grad is None for weight in at[0].parameters())


def test_pairs_are_pairs():
    made = pairs("llama", 50, [2, 5, 9], seed=3)
    assert {len(pair.clean) for pair in made} == {2, 5, 9}
    for clean, corrupted, correct, incorrect in made:
        differing = [i for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b]
        assert clean[0] == corrupted[0] and 1 <= len(differing) <= 3 and correct != incorrect
        assert all(0 <= token < 60 for token in (*clean, *corrupted, correct, incorrect))
    assert made == pairs(60, 50, [2, 5, 9], seed=3) != pairs(60, 50, [2, 5, 9], seed=4)

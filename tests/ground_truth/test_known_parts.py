"""Models of which the parts of a map are known: bare runs with changed weights do what the closed form says."""

import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.errors import MethodError, TaskError

LOADERS = ("load_gated", "load_bottleneck", "load_compressed")
#: The norms leave x · (1 − mean x² / 2·10¹²), and a model turned in the stream rounds in float64.
CLOSE = {"rtol": 0, "atol": 1e-9}


@pytest.fixture(scope="module", params=LOADERS)
def toy(request):
    lm, truth = getattr(vc.ground_truth, request.param)(dtype=torch.float64)
    tiny_models.compute_in_float64(lm.hf)
    return lm, truth


def weight_of(lm, truth):
    mlp = lm.hf.model.layers[0].mlp
    return mlp.down_proj.weight if truth.map == "m0.down" else mlp.gate_proj.weight


def logits(lm, prompts):
    with torch.no_grad():
        return lm.hf(torch.tensor(prompts)).logits[:, -1]


def test_the_map_is_the_sum_of_its_parts_and_the_model_computes_what_it_says(toy):
    lm, truth = toy
    torch.testing.assert_close(truth.left @ truth.right, weight_of(lm, truth).detach(), rtol=0, atol=1e-12)
    task = truth.task()
    for prompts in (task.clean, task.corrupted):
        torch.testing.assert_close(truth.logits(prompts, truth.codes(prompts)), logits(lm, prompts), **CLOSE)
    gap = lm.measure(task).gap
    assert float(gap.mean()) > 0.3


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_parts_taken_out_of_the_weights_do_what_the_closed_form_says(toy, share):
    lm, truth = toy
    task, weight = truth.task(), weight_of(lm, truth)
    sets = [[0], [3], [2, 3], list(range(len(truth.names)))]
    whole, start = weight.detach().clone(), lm.measure(task).clean
    said = truth.effects(task, sets, share)
    for own, expected in zip(sets, said.T, strict=True):
        with torch.no_grad():
            weight -= (1 - share) * truth.left[:, own] @ truth.right[own]
        found = lm.measure(task).clean - start
        with torch.no_grad():
            weight.copy_(whole)
        torch.testing.assert_close(found, expected, **CLOSE)
    assert said.abs().max() > 0.3


def test_exact_effects_and_slopes_of_the_parts_as_units_are_the_closed_forms(toy):
    lm, truth = toy
    task, many = truth.task(), len(truth.names)
    lm = lm.reading(*vc.components(lm, truth.map, factors=truth.factors))
    names, how = [f"{truth.map}.own{i}" for i in range(many)], {"show_progress": False}
    exact = vc.exact(lm, task, units=names, ablation="zero", **how)
    torch.testing.assert_close(exact.values, truth.effects(task, [[i] for i in range(many)]), **CLOSE)
    slopes = vc.attribute(lm, task, units=names, method=vc.Method(baseline="zero"), **how)
    torch.testing.assert_close(slopes.values, truth.slopes(task), **CLOSE)
    if many > 10:
        return
    curve = vc.effects.removal_curve(lm, task, exact, sizes=(2, 5), pairs=4, **how)
    order = [names.index(name) for name in curve.ranked]
    sets = truth.effects(task, [order[:2], order[:5], order[2:], order[5:]])
    torch.testing.assert_close(curve.values("together"), sets[:, :2], **CLOSE)
    torch.testing.assert_close(curve.values("rest"), sets[:, 2:], **CLOSE)


def test_modes_part_gradients_singles_and_sets():
    """The closed form of each mode, by hand, at x = y = 1 and beyond."""
    lm, truth = vc.ground_truth.load_gated(dtype=torch.float64)
    expected = {  # both numbers 1: E of each, slope of each, E of both
        "sum": ([-1, -1], [-1, -1], -2),
        "or": ([0, 0], [0, 0], -1),
        "and": ([-0.5, -0.5], [-1, -1], -0.5),
        "saturated": ([-1, -1], [0, 0], -2),
        "cancel": ([-1, 1], [-1, 1], 0),
    }
    for at, (mode, (single, slope, both)) in enumerate(expected.items()):
        one = truth.task(modes=[mode])[:1]
        assert one.clean_text == (f"{mode} x1 y1 read",)
        pair = [2 * at, 2 * at + 1]
        assert truth.effects(one, [[pair[0]], [pair[1]], pair])[0].tolist() == [*single, both]
        assert truth.slopes(one)[0, pair].tolist() == slope
        others = [i for i in range(10) if i not in pair]
        assert not truth.effects(one, [others]).any() and not truth.slopes(one)[0, others].any()
    attention = lm.hf.model.layers[0].self_attn
    for head, name in enumerate(("a0.h0", "a0.h1")):
        own = slice(8 * head, 8 * head + 8)
        left, right = truth.heads[name]
        product = attention.o_proj.weight[:, own] @ attention.v_proj.weight[own]
        torch.testing.assert_close(left @ right, product.detach(), rtol=0, atol=1e-12)
        assert left.shape[1] == len(truth.head_names[name])


def test_no_singular_direction_and_no_neuron_is_a_part(toy):
    lm, truth = toy
    u, s, _ = torch.linalg.svd(weight_of(lm, truth).detach(), full_matrices=False)
    unit = truth.left / truth.left.norm(dim=0)
    cosines = (unit.T @ u[:, s > 1e-9]).abs().max(1).values
    assert float(cosines.mean()) < 0.95
    if truth.map == "m0.down" and len(truth.names) == 10:
        assert ((truth.right.abs() > 1e-3).sum(1) > 4).all()


def test_exact_effects_of_neurons_and_heads_are_of_the_formula():
    """Zeroing all x-neurons is taking out all parts that read x; zeroing a head that copies x and y takes out all."""
    lm, truth = vc.ground_truth.load_gated(dtype=torch.float64)
    tiny_models.compute_in_float64(lm.hf)
    task = truth.task()
    units = {"x": [f"m0.n{i}" for i in range(8)], "numbers": ["a0.h1"]}
    found = vc.exact(lm, task, units=units, ablation="zero", show_progress=False).values
    expected = truth.effects(task, [range(0, 10, 2), range(10)])
    torch.testing.assert_close(found, expected, **CLOSE)


def test_what_is_refused():
    _, truth = vc.ground_truth.load_gated()
    for call, error, said in (
        (lambda: truth.task(21), TaskError, "There are 20 pairs"),
        (lambda: truth.task(modes=["xor"]), MethodError, "'xor' is no mode"),
        (lambda: vc.ground_truth.load_gated(dtype=torch.bfloat16), MethodError, "float32 or float64"),
        (lambda: vc.ground_truth.load_bottleneck(3), MethodError, "at least 5 features"),
    ):
        with pytest.raises(error, match=said):
            call()

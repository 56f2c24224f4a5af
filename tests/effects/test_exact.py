"""Exact effects against the naive reference, for every family, kind of unit, direction and ablation.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT): rounding leaves 1e-13, any wrong wiring far more than 1e-9.
"""

import naive
import numpy as np
import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.errors import GapError, MethodError, UnitError
from veracausa.tasks.metrics import METRICS
from veracausa.units.every_unit import all_units

KINDS = ("heads", "mlps", "attention", "neurons", "residual")
FAMILIES = tiny_models.FAMILIES
#: Families whose anatomies differ most, for what does not depend on the family: sequential, parallel, post-norms.
FEW = ("llama", "gpt_neox", "gemma2")


def some(lm, kind, positions=0):
    """One head a layer, four neurons, and all units of the other kinds; per position a seventh of those of all."""
    units = all_units(lm, kind, positions)
    step = {"heads": 5, "neurons": 31}.get(kind, 1)
    if positions:
        step = {"heads": 7, "neurons": 101, "residual": 5}.get(kind, 1)
    return units[np.arange(0, len(units), step)]


def exact(lm, task, units, **options):
    return vc.exact(lm, task, units=units, show_progress=False, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_counterfactual(tiny, task_of, reference, agree, family, direction, kind):
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = exact(lm, task, some(lm, kind), direction=direction)
    theirs = reference(naive.exact, lm, task, scores.units, direction=direction)
    agree(scores.values, theirs, scores.gap)
    assert theirs.abs().max() > 1e-3  # otherwise anything agrees


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_zero(tiny, task_of, reference, agree, family, kind):
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = exact(lm, task, some(lm, kind), ablation="zero")
    agree(scores.values, reference(naive.exact, lm, task, scores.units, ablation="zero"), scores.gap)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_mean(tiny, task_of, reference, agree, family, kind, aligned):
    """Position by position where all prompts have one length, else over all positions of all prompts."""
    lm, task = tiny(family), task_of(7 if aligned else (6, 8), n=2)
    scores = exact(lm, task, some(lm, kind), ablation="mean")
    prompts = [*task.clean, *task.corrupted]
    theirs = reference(naive.exact, lm, task, scores.units, ablation="mean", reference=prompts)
    agree(scores.values, theirs, scores.gap)


@pytest.mark.parametrize("family", FEW)
def test_mean_over_another_task(tiny, task_of, reference, agree, family):
    lm, task, other = tiny(family), task_of(7), task_of(7, n=2, seed=5)
    scores = exact(lm, task, "heads", ablation="mean", reference=other)
    prompts = [*other.clean, *other.corrupted]
    agree(scores.values, reference(naive.exact, lm, task, scores.units, ablation="mean", reference=prompts), scores.gap)
    longer = task_of(9, n=1, seed=5)  # another length than the task's: over positions
    scores = exact(lm, task, "heads", ablation="mean", reference=longer)
    prompts = [*longer.clean, *longer.corrupted]
    agree(scores.values, reference(naive.exact, lm, task, scores.units, ablation="mean", reference=prompts), scores.gap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_resample_is_the_activation_of_another_prompt(tiny, task_of, reference, family, kind):
    """Every number is the naive effect for one of the allowed donors: the set's prompts but the pair's own."""
    lm, task = tiny(family), task_of(5, n=2)
    units = some(lm, kind)
    scores = exact(lm, task, units, ablation="resample", seed=3)
    count = len(scores.units)
    used = set()
    for i in range(2):
        donors = [task.clean[1 - i], task.corrupted[1 - i]]
        one = task[i]
        theirs = torch.stack(
            [
                reference(naive.exact, lm, one, scores.units, ablation="resample", reference=[donor] * count)[0]
                for donor in donors
            ]
        )
        errors = (theirs - scores.values[i]).abs()
        assert errors.min(0).values.max() < 1e-9 * scores.gap.abs().mean()
        used |= {(i, int(d)) for d in errors.argmin(0)[(theirs[0] - theirs[1]).abs() > 1e-6]}
    assert len(used) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_per_position(tiny, task_of, reference, agree, family, kind):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    units = some(lm, kind, positions=6)
    scores = exact(lm, task, units)
    theirs = reference(naive.exact, lm, task, units)
    agree(scores.values, theirs, scores.gap)
    for i, first in enumerate(task.first_difference):
        position = units.position
        assert (scores.values[i, position < first] == 0).all()  # exactly: nothing before it can change
        assert scores.values[i, position >= task.lengths[i]].isnan().all()
    assert (units.position < max(task.first_difference)).any() and (units.position >= 5).any()


@pytest.mark.parametrize("options", [{"direction": "denoising"}, {"ablation": "zero"}, {"ablation": "mean"}])
@pytest.mark.parametrize("family", FEW)
def test_per_position_otherwise(tiny, task_of, reference, agree, family, options):
    lm, task = tiny(family), task_of(6, n=2, seed=4)
    units = all_units(lm, "heads", 6)[np.arange(0, 72, 5)]
    scores = exact(lm, task, units, **options)
    prompts = [*task.clean, *task.corrupted] if options.get("ablation") == "mean" else None
    agree(scores.values, reference(naive.exact, lm, task, units, reference=prompts, **options), scores.gap)


def test_kinds_per_position_by_name(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=2, seed=4)
    scores = exact(lm, task, "mlps@positions")
    assert scores.units.names[:7] == [*(f"m0@{p}" for p in range(6)), "m1@0"]
    torch.testing.assert_close(
        scores.values, exact(lm, task, all_units(lm, "mlps", 6)).values, rtol=0, atol=0, equal_nan=True
    )


# ---- one computation, many ways to run it ---------------------------------------------------------------------------

WAYS = [{}, {"direction": "denoising"}, {"ablation": "zero"}, {"ablation": "mean"}, {"ablation": "resample", "seed": 1}]


@pytest.mark.cases(3)
@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("kind", ["heads", "neurons"])
@pytest.mark.parametrize("family", FEW)
def test_rows_and_prefix_change_nothing(tiny, task_of, agree, family, kind, options):
    lm, task = tiny(family), task_of((6, 7), n=4)
    if "ablation" not in options:
        task = task[:2]
    units = some(lm, kind)
    scores = exact(lm, task, units, **options)
    for way in ({"rows": 1}, {"rows": 3}, {"share_prefix": False}, {"rows": 3, "share_prefix": False}):
        agree(exact(lm, task, units, **options, **way).values, scores.values, scores.gap)


@pytest.mark.cases(2)
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_subset_or_another_order_of_units_gives_the_same_numbers(tiny, task_of, agree, options):
    lm, task = tiny("llama"), task_of((6, 7), n=4)
    scores = exact(lm, task, "heads", **options)
    names = scores.units.names
    for chosen in (names[3:7], names[::-1], ["a2.h3"], ["a1.h1", "a0.h0", "a2.h2"]):
        theirs = scores.values[:, [names.index(name) for name in chosen]]
        agree(exact(lm, task, chosen, **options).values, theirs, scores.gap)


@pytest.mark.parametrize("options", WAYS[:3], ids=str)
def test_examples_do_not_depend_on_each_other(tiny, task_of, agree, options):
    lm, task = tiny("mistral"), task_of((6, 8), n=4)
    scores = exact(lm, task, "mlps", **options)
    for i in range(4):
        agree(exact(lm, task[i], "mlps", **options).values[0], scores.values[i], scores.gap)
    agree(exact(lm, task[[3, 1]], "mlps", **options).values, scores.values[[3, 1]], scores.gap)


def test_resample_depends_on_its_seed(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=4)
    one, same, other = (exact(lm, task, "heads", ablation="resample", seed=seed).values for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert (one - other).abs().max() > 1e-3


@pytest.mark.cases(4)
@pytest.mark.parametrize("family", FAMILIES)
def test_eager_and_sdpa(tiny, task_of, agree, family):
    if family == "gemma2":
        pytest.skip("sdpa has no soft caps: transformers refuses it for gemma2")
    task = task_of((6, 8), n=2)
    effects = {}
    for name in ("eager", "sdpa"):
        lm = tiny(family, fresh=True, attn_implementation=name)
        effects[name] = exact(lm, task, "heads")
        assert lm.hf.config._attn_implementation == name
    agree(effects["eager"].values, effects["sdpa"].values, effects["sdpa"].gap)


# ---- ends that are known without a reference ------------------------------------------------------------------------


@pytest.mark.cases(4)
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_residual_stream_is_the_gap(tiny, task_of, agree, family):
    """All of the stream replaced, at any layer, is the corrupted run; restored, the clean one."""
    lm, task = tiny(family), task_of((6, 8), n=2)
    measured = lm.measure(task)
    noised, denoised = (exact(lm, task, "residual", direction=d).values for d in ("noising", "denoising"))
    assert noised.shape == (2, lm.layers + 1)
    for layer in range(lm.layers + 1):
        agree(noised[:, layer], -measured.gap, measured.gap)
        agree(denoised[:, layer], measured.gap, measured.gap)


@pytest.mark.parametrize("family", FEW)
def test_the_final_stream_is_read_at_the_last_position_only(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of(6)
    scores = exact(lm, task, [f"r{lm.layers}@{p}" for p in range(6)])
    agree(scores.values[0, -1], -scores.gap[0], scores.gap)
    assert (scores.values[0, :-1].abs() < 1e-12).all()


def test_attention_layer_is_all_its_heads(tiny, task_of, reference, agree):
    lm, task = tiny("gemma3"), task_of(6)
    whole = exact(lm, task, ["a1"])
    heads = exact(lm, task, [f"a1.h{h}" for h in range(4)])
    assert abs(float(whole.values.sum() - heads.values.sum())) > 1e-3  # effects of parts do not add up
    agree(whole.values, reference(naive.exact, lm, task, whole.units), whole.gap)


# ---- metrics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("metric", [name for name in METRICS if name not in ("logit_diff", "logit_diff_lse")])
@pytest.mark.parametrize("family", FEW)
def test_metrics(tiny, task_of, reference, family, metric, direction):
    lm, task = tiny(family), task_of((6, 8), n=2, metric=metric)
    scores = exact(lm, task, "heads", direction=direction)
    theirs = reference(naive.exact, lm, task, scores.units, direction=direction)
    torch.testing.assert_close(scores.values, theirs, rtol=1e-9, atol=1e-11)
    assert theirs.abs().max() > 1e-4
    if METRICS[metric].compared:
        # JS adds a probability to itself and halves it, which rounds
        assert scores.clean.abs().max() <= (1e-15 if metric == "neg_js" else 0) and (scores.corrupted < 0).all()


def test_several_answers(tiny, task_of, reference, agree):
    lm, task = tiny("llama"), task_of(6)
    several = vc.Task("several", task.clean, task.corrupted, ((3, 4, 5),), ((6, 7),))
    scores = exact(lm, several, "heads")
    agree(scores.values, reference(naive.exact, lm, several, scores.units), scores.gap)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ablation": "optimum"}, ["optimum", "counterfactual", "zero", "mean", "resample"]),
        ({"direction": "backwards"}, ["backwards", "noising", "denoising"]),
        ({"direction": "denoising", "ablation": "zero"}, ["denoising", "zero", "counterfactual"]),
        ({"direction": "denoising", "ablation": "mean"}, ["denoising", "mean"]),
        ({"direction": "denoising", "ablation": "resample"}, ["denoising", "resample"]),
        ({"ablation": "resample"}, ["resample", "same length", "pair 0", "reference="]),
    ],
)
def test_meaningless_options(tiny, task_of, options, words):
    with pytest.raises(MethodError) as caught:
        exact(tiny("llama"), task_of(6), "heads", **options)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("rows", [0, -1, -5])
def test_rows_must_be_positive(tiny, task_of, rows):
    with pytest.raises(MethodError, match="rows"):
        exact(tiny("llama"), task_of(6), "heads", rows=rows)


def test_a_zero_gap(tiny, task_of):
    """Two pairs whose gaps cancel: mean gap zero."""
    task = task_of(6)
    both = vc.Task("cancel", task.clean + task.corrupted, task.corrupted + task.clean, task.correct * 2,
                   task.incorrect * 2)  # fmt: skip
    with pytest.raises(GapError) as caught:
        exact(tiny("llama"), both, "heads")
    assert all(word in str(caught.value) for word in ("cancel", "clean", "corrupted", "gap"))
    with pytest.raises(GapError):
        vc.attribute(tiny("llama"), both, show_progress=False)


def test_a_position_that_no_prompt_has(tiny, task_of):
    with pytest.raises(UnitError, match="99"):
        exact(tiny("llama"), task_of(6), ["a0.h0@99"])


def test_a_table_of_another_model(tiny, task_of):
    """Units of a larger model: an error that names one of them, not an index error."""
    larger = tiny("llama", num_hidden_layers=5)
    with pytest.raises(UnitError, match=r"a[34]\.h"):
        exact(tiny("llama"), task_of(6), all_units(larger, "heads"))

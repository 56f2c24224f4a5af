"""Pairs of unequal lengths and first differences in one batch: the numbers of each pair alone, to rounding."""

import dataclasses

import pytest
import torch
from tiny_models import FAMILIES, mostly_slow

import veracausa as vc
from veracausa import errors
from veracausa.circuits.runs.tapes import circuit_buckets
from veracausa.cost import Cost
from veracausa.engine import batches, mixing
from veracausa.engine.batches import buckets

LENGTHS = (5, 6, 7, 9, 11, 14)
#: float64; rounding leaves 1e-14, a token that is read behind a prompt's end changes the first digits.
EXACT = 1e-11


def groups(lm, task):
    return buckets(lm.decoder, task, True, 64, mixed=True)


def test_small_groups_are_joined_and_the_longest_comes_first():
    own = [(2, (0,)), (3, (1,)), (2, (2, 3))]
    found = mixing.joined(own, [9, 10, 8, 8], 1024)
    assert found == [(2, (1, 0, 2, 3))]
    assert mixing.joined(own, [9, 10, 8, 8], 16) == [(2, (2, 3)), (2, (0,)), (3, (1,))], "a batch holds 16 tokens"


def test_what_is_too_far_apart_stays_alone():
    """A long prompt costs more to run twice than a short one's pass takes to begin."""
    found = mixing.joined([(0, (0,)), (0, tuple(range(1, 9)))], [600, *[8] * 8], 10_000)
    assert sorted(found) == [(0, (0,)), (0, tuple(range(1, 9)))]


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", mostly_slow(FAMILIES))
@pytest.mark.parametrize(
    ("units", "method", "metric"),
    [("heads", "atp", "logit_diff"), ("edges", "eap-ig", "neg_kl"), ("mlps", "conductance", "logprob")],
)
def test_estimates_are_those_of_each_pair_alone(tiny, task_of, family, units, method, metric):
    lm, task = tiny(family), task_of(LENGTHS, n=9, metric=metric)
    found = vc.attribute(lm, task, units=units, method=method, show_progress=False)
    if lm.decoder.anatomy.causal:
        assert len(groups(lm, task)) < len(LENGTHS)
        assert found.cost.token_layers == pytest.approx(
            vc.attribute.work(lm, task, units=units, method=method).tokens()
        )
    for i in range(0, len(task), 2):
        alone = vc.attribute(lm, task[i], units=units, method=method, show_progress=False)
        torch.testing.assert_close(found.values[i : i + 1], alone.values, rtol=0, atol=EXACT)
        torch.testing.assert_close(found.clean[i : i + 1], alone.clean, rtol=0, atol=EXACT)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", mostly_slow(FAMILIES))
@pytest.mark.parametrize(
    ("units", "ablation"), [("heads", "counterfactual"), ("mlps", "zero"), ("neurons", "zero"), ("residual", "mean")]
)
def test_exact_effects_are_those_of_each_pair_alone(tiny, task_of, monkeypatch, family, units, ablation):
    """Also where a batch is worth so much that all are joined."""
    lm, task = tiny(family), task_of(LENGTHS, n=8)
    asked = {"units": units, "ablation": ablation}
    monkeypatch.setattr(batches, "begin", lambda decoder: 50_000.0)
    if lm.decoder.anatomy.causal:
        assert len(vc.exact.work(lm, task, **asked).plan(Cost()).buckets(True)) == 1
    found = vc.exact(lm, task, **asked, show_progress=False)
    assert found.cost.token_layers == vc.exact.work(lm, task, **asked).tokens()
    for i in range(0, len(task), 2):
        alone = vc.exact(lm, task[i], **asked, reference=task if ablation == "mean" else None, show_progress=False)
        torch.testing.assert_close(found.values[i : i + 1], alone.values, rtol=0, atol=EXACT)


@pytest.mark.cases(2)
@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean", "resample", "optimal"])
@pytest.mark.parametrize("verb", [vc.exact, vc.effects.last_in, vc.effects.direct, vc.effects.shapley])
def test_what_is_run_is_what_was_counted(tiny, task_of, monkeypatch, verb, ablation):
    """Whatever replaces units, rows are counted in the batches that they are run in."""
    if ablation == "optimal" and verb is not vc.exact:
        pytest.skip("learned constants are of single units")
    lm, task = tiny("llama"), task_of((6, 6, 8, 8, 7, 7), n=6)
    monkeypatch.setattr(batches, "begin", lambda decoder: 50_000.0)
    asked = {"units": ["a0.h0", "a2.h1"], "ablation": ablation}
    asked |= {"permutations": 2} if verb is vc.effects.shapley else {}
    found = verb(lm, task, **asked, show_progress=False)
    assert found.cost.token_layers == verb.work(lm, task, **asked).tokens()


@pytest.mark.parametrize("family", mostly_slow(FAMILIES))
@pytest.mark.parametrize(("ablation", "metric"), [("counterfactual", "neg_kl"), ("zero", "logit_diff")])
def test_circuits_are_those_of_each_pair_alone(tiny, task_of, family, ablation, metric):
    lm, task = tiny(family), task_of(LENGTHS, n=8, metric=metric)
    if lm.decoder.anatomy.causal:
        assert len(circuit_buckets(lm, task)) == 1
    edges = vc.attribute(lm, task, units="edges", method="eap-ig", show_progress=False)
    circuit = vc.select(edges, n=20, how="abs")
    asked = {"ablation": ablation, "show_progress": False}
    found = vc.faithfulness(lm, task, circuit, **asked)
    for i in range(0, len(task), 2):
        alone = vc.faithfulness(lm, task[i], circuit, **asked)
        torch.testing.assert_close(found.metric[i : i + 1], alone.metric, rtol=0, atol=EXACT)
        torch.testing.assert_close(found.kl[i : i + 1], alone.kl, rtol=0, atol=EXACT)


def test_a_mask_goes_on_with_steps_of_as_many_pairs_as_asked_for(tiny, task_of):
    """Pairs of several lengths make steps of at most so many more than asked for as there are in a batch."""
    lm, task = tiny("llama"), task_of(LENGTHS, n=12)
    asked = {"units": "heads", "steps": 4, "batch": 5, "show_progress": False}
    work = vc.estimates.learn_mask.work(lm, task, units="heads", steps=4, batch=5)
    assert len(work.groups()) < len(LENGTHS) and max(len(members) for _, members in work.groups()) <= 5
    found = vc.estimates.learn_mask(lm, task, **asked)
    assert found.cost.token_layers == pytest.approx(work.tokens())


def test_read_anywhere(tiny, task_of):
    lm, task = tiny("llama"), task_of(LENGTHS, n=6)
    task = dataclasses.replace(task, read=tuple((1, n // 2, -1) for n in task.lengths))
    measured = lm.measure(task)
    for i in range(len(task)):
        alone = lm.measure(task[i])
        assert float(measured.clean[i]) == pytest.approx(float(alone.clean[0]), abs=EXACT)
        assert float(measured.corrupted[i]) == pytest.approx(float(alone.corrupted[0]), abs=EXACT)


def test_positions_and_donors_keep_lengths_apart(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 7), n=4)
    for units, baseline in (("heads@positions", "corrupted"), ("heads", "resample")):
        work = vc.attribute.work(lm, task, units=units, method="atp", baseline=baseline)
        assert not work.mixed and len(work.groups()) >= 2
    assert vc.attribute.work(lm, task, units="heads", method="atp").mixed


def test_a_model_whose_encoding_depends_on_the_length_is_not_mixed(tiny, task_of, monkeypatch):
    lm, task = tiny("llama", fresh=True), task_of(LENGTHS, n=6)
    assert len(groups(lm, task)) < len(LENGTHS)
    rotary = lm.decoder.backbone.rotary_emb
    usual = type(rotary).forward

    def by_length(self, x, position_ids):
        cos, sin = usual(self, x, position_ids)
        return cos * (1 + 0.01 * position_ids.shape[-1]), sin

    monkeypatch.setattr(type(rotary), "forward", by_length)
    assert len(groups(tiny("llama", fresh=True), task)) >= len(LENGTHS)


def test_what_looks_behind_a_prompts_end_is_refused(tiny, task_of):
    """The guard runs the short prompt by itself: it does not take for granted that nothing looks ahead."""
    lm, task = tiny("llama", fresh=True), task_of(LENGTHS, n=6)
    norm = lm.decoder.blocks[0].attention_norm
    handle = norm.register_forward_hook(lambda _, __, output: output + 0.1 * output[:, -1:])
    try:
        with pytest.raises(errors.ContractError):
            lm.measure(task)
    finally:
        handle.remove()


def test_a_prompt_that_is_too_long_is_named_beside_a_short_one(tiny):
    clean, corrupted = ((1,) * 65, (1, 2)), ((2,) * 65, (2, 2))
    task = vc.Task("long", clean, corrupted, ((3,), (3,)), (), metric="logprob")
    with pytest.raises(errors.PromptError, match="has 65 tokens, but gpt2 takes 64 positions"):
        tiny("gpt2").measure(task)


@pytest.mark.cases(2)
@pytest.mark.parametrize("units", ["heads", ["m1.n2@4", "m0.n1@6", "m2.n0@8"], ["a0.h1->m1", "m0->a1.kv0<v>"]])
def test_where_passes_begin_slowly_pairs_that_differ_later_run_with_others_of_their_length(
    tiny, task_of, monkeypatch, units
):
    """As on a GPU, on any machine: fewer batches, the same effects, and the cost that the forecast says."""
    lm, task = tiny("llama"), task_of((7, 9), n=12)
    alone = vc.exact(lm, task, units=units, show_progress=False)
    before = buckets(lm.decoder, task, True, 64)
    monkeypatch.setattr(batches, "begin", lambda decoder: 50_000.0)
    assert len(buckets(lm.decoder, task, True, 64)) == 2 < len(before)
    found = vc.exact(lm, task, units=units, show_progress=False)
    torch.testing.assert_close(found.values, alone.values, rtol=0, atol=EXACT, equal_nan=True)
    assert found.cost.token_layers == vc.exact.work(lm, task, units=units).tokens()


def test_pairs_that_are_run_often_are_joined_less():
    """A pair whose positions behind the start are run a thousand times waits for no other that starts earlier."""
    own = [(2, (0,)), (8, (1,))]
    assert mixing.joined(own, [10, 10], 1024, 1_000.0) == [(2, (0, 1))]
    assert sorted(mixing.joined(own, [10, 10], 1024, 1_000.0, rows=1_000.0)) == own

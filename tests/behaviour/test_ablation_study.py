"""Ablation studies: metric and greedy answers against naive runs, `vc.exact` and Hugging Face's `generate`."""

from functools import cache

import naive
import naive_generation
import pytest
import tiny_models
import torch
from bridges import naive_metric

import veracausa as vc
from veracausa.errors import AnswerError, FileError, MethodError, UnitError

#: One unit of every kind, in all three layers of the tiny models, as names and as the naive reference's units.
UNITS = {
    "a0.h1": ("heads", 0, 1),
    "a2.h3": ("heads", 2, 3),
    "a1": ("attn", 1, None),
    "m0": ("mlps", 0, None),
    "m2.n5": ("neurons", 2, 5),
}
#: float64: rounding leaves 1e-13; a wrong wiring changes the third digit or earlier.
EXACT = 1e-9
QUIET = {"show_progress": False}
FAMILIES = tiny_models.mostly_slow(tiny_models.FAMILIES)


@cache
def naive_values(lm, prompts, name, family):
    return naive_generation.values(lm.hf, family, prompts, *UNITS[name])


def edits(lm, task, i, names, ablation, family):
    """What the naive reference puts in the units' places in prompt i: [n, columns] each."""
    found, length = [], task.lengths[i]
    for name in names:
        if ablation == "counterfactual":
            new = naive_values(lm, (task.corrupted[i],), name, family)
        else:
            new = naive_values(lm, task.clean + task.corrupted, name, family)
            aligned = len(set(task.lengths)) == 1
            new = new.unflatten(0, (-1, length)).mean(0) if aligned else new.mean(0).expand(length, -1)
            new = torch.zeros_like(new) if ablation == "zero" else new
        found.append((*UNITS[name], new))
    return found


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("family", "lengths"),
    [("llama", 7), *(pytest.param(*one.values, (5, 7), marks=one.marks) for one in FAMILIES)],
)
def test_every_condition_is_the_naive_run(tiny, task_of, family, lengths):
    lm, task = tiny(family), task_of(lengths, 3)
    ablations = ("zero", "mean", "counterfactual")
    study = vc.behaviour.ablation_study(lm, task, units=list(UNITS), ablations=ablations, **QUIET)
    assert len(study.conditions) == 1 + len(ablations) * (len(UNITS) + 1)
    for c, condition in enumerate(study.conditions):
        for i in range(len(task)):
            patches = [(kind, layer, index, None, new) for kind, layer, index, new in
                       edits(lm, task, i, condition.units, condition.ablation, family)]  # fmt: skip
            logits = naive.run_patched(lm.hf, family, task.clean[i], patches)[-1]
            wanted = float(naive_metric(lm, task, i)(logits))
            assert float(study.metric[c, i]) == pytest.approx(wanted, abs=EXACT), condition
            assert int(study.tokens[c, i, 0]) == int(logits.argmax()), condition


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_tokens_are_those_of_generate_with_hooks(tiny, task_of, family):
    lm, task = tiny(family), task_of((5, 6), 3)
    ablations = ("zero", "mean", "counterfactual") if family == "llama" else ("mean",)
    study = vc.behaviour.ablation_study(lm, task, units=["a0.h1", "m2.n5"], ablations=ablations, new_tokens=3, **QUIET)
    for c, condition in enumerate(study.conditions):
        for i in range(len(task)):
            own = edits(lm, task, i, condition.units, condition.ablation, family)
            wanted = naive_generation.generate(lm.hf, family, task.clean[i], own, 3)
            assert [t for t in study.tokens[c, i].tolist() if t >= 0] == wanted, condition


def test_first_token_and_metric_do_not_depend_on_how_many_tokens_follow(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 7), 4)
    one, more = (
        vc.behaviour.ablation_study(
            lm,
            task,
            units=list(UNITS),
            ablations=("zero", "resample"),
            reference=task_of((5, 7), 8, 3),
            new_tokens=count,
            **QUIET,
        )
        for count in (1, 3)
    )
    torch.testing.assert_close(one.metric, more.metric, rtol=0, atol=EXACT)
    assert torch.equal(one.tokens[..., 0], more.tokens[..., 0])


def test_a_continuation_ends_where_generate_ends(tiny, task_of):
    lm, task = tiny("llama", fresh=True), task_of(6, 4)
    plain = vc.behaviour.ablation_study(lm, task, units=["a0.h1"], new_tokens=3, **QUIET)
    lm.hf.generation_config.eos_token_id = int(plain.tokens[0, 0, 1])
    study = vc.behaviour.ablation_study(lm, task, units=["a0.h1"], new_tokens=3, **QUIET)
    assert study.tokens[0, 0].tolist() == [*plain.tokens[0, 0, :2].tolist(), -1]
    for i in range(len(task)):
        wanted = naive_generation.generate(lm.hf, "llama", task.clean[i], [], 3)
        assert [t for t in study.tokens[0, i].tolist() if t >= 0] == wanted


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample", "counterfactual"])
def test_a_units_change_is_its_exact_effect(tiny, task_of, ablation):
    lm, task = tiny("gemma2"), task_of((5, 7), 6)
    study = vc.behaviour.ablation_study(
        lm, task, units=["a0.h1", "a1.h2", "a2.h3"], ablations=[ablation], seed=3, **QUIET
    )
    exact = vc.exact(lm, task, units=["a0.h1", "a1.h2", "a2.h3"], ablation=ablation, seed=3, **QUIET)
    torch.testing.assert_close((study.metric[1:4] - study.metric[0]).T, exact.values, rtol=0, atol=EXACT)
    assert study["a1.h2", ablation].change == pytest.approx(float(exact.mean()[1]), abs=EXACT)
    assert study["a1.h2", ablation].stderr == pytest.approx(float(exact.stderr()[1]), rel=1e-6)


@pytest.mark.parametrize("metric", ["prob", "logprob", "prob_diff", "neg_kl"])
def test_other_metrics_are_read_off_the_same_logits(tiny, task_of, metric):
    lm, task = tiny("llama"), task_of(6, 3, metric=metric)
    study = vc.behaviour.ablation_study(lm, task, units=["a0.h1"], ablations=["zero"], **QUIET)
    exact = vc.exact(lm, task, units=["a0.h1"], ablation="zero", **QUIET)
    torch.testing.assert_close((study.metric[1] - study.metric[0])[:, None], exact.values, rtol=0, atol=EXACT)


def test_batches_and_chunks_do_not_matter(tiny, task_of, monkeypatch):
    lm, task = tiny("llama"), task_of((5, 6, 9), 7)
    whole = vc.behaviour.ablation_study(lm, task, units=list(UNITS), ablations=("zero", "counterfactual"), **QUIET)
    monkeypatch.setattr("veracausa.behaviour.runs.rows_per_chunk", lambda *_: 2)
    monkeypatch.setattr("veracausa.behaviour.study.examples_per_batch", lambda *_: 2)
    parts = vc.behaviour.ablation_study(lm, task, units=list(UNITS), ablations=("zero", "counterfactual"), **QUIET)
    torch.testing.assert_close(whole.metric, parts.metric, rtol=0, atol=EXACT)
    assert torch.equal(whole.tokens, parts.tokens)


def test_half_precision_answers_are_those_of_generate(tiny, task_of):
    lm, task = tiny("llama", dtype=torch.bfloat16, fresh=True), task_of((5, 6), 6)
    study = vc.behaviour.ablation_study(lm, task, units=["a0.h1", "m2.n5"], ablations=["zero"], **QUIET)
    same = 0
    for c, condition in enumerate(study.conditions):
        for i in range(len(task)):
            own = [(kind, layer, index, torch.zeros(task.lengths[i], 1, dtype=torch.bfloat16))
                   for kind, layer, index in (UNITS[name] for name in condition.units)]  # fmt: skip
            same += [int(study.tokens[c, i, 0])] == naive_generation.generate(lm.hf, "llama", task.clean[i], own, 1)
    # two logits that are equal in bfloat16 (three digits) may change places: our last sum is in float32
    assert same >= study.tokens.shape[0] * len(task) - 2


@pytest.mark.parametrize("ablations", [("zero", "mean"), ("counterfactual",), ("counterfactual", "resample", "zero")])
@pytest.mark.parametrize("new_tokens", [1, 3])
def test_planned_cost_is_what_is_counted(tiny, task_of, ablations, new_tokens):
    lm, task = tiny("llama"), task_of((5, 7), 8)
    how = {"units": list(UNITS), "ablations": ablations, "new_tokens": new_tokens}
    lm.hf.generation_config.eos_token_id = None  # nothing ends early
    study = vc.behaviour.ablation_study(lm, task, **how, **QUIET)
    assert vc.behaviour.ablation_study.work(lm, task, **how).tokens() == study.cost.token_layers


def test_answers_of_several_tokens(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, 3)
    study = vc.behaviour.ablation_study(lm, task, units=["a0.h1"], new_tokens=3, **QUIET)
    said = study.tokens[0].tolist()
    answers = [[said[0][:2]], [[1, 2, 3], said[1]], [[said[2][0], said[2][1] + 1]]]
    found = vc.behaviour.ablation_study(lm, task, units=["a0.h1"], new_tokens=3, answers=answers, **QUIET)
    assert found.right[0].tolist() == [True, True, False]
    with pytest.raises(MethodError, match="an answer has 3 tokens"):
        vc.behaviour.ablation_study(lm, task, units=["a0.h1"], new_tokens=2, answers=answers, **QUIET)


def test_one_prompt_has_answers_but_no_standard_errors(tiny, task_of):
    study = vc.behaviour.ablation_study(tiny("llama"), task_of(6, 1), units=["a0.h1"], **QUIET)
    assert study.n == 1 and study["a0.h1", "zero"].p == 1.0
    assert study.table()["stderr"].isna().all()
    assert study.sentences


def test_scores_and_agreements_name_the_units(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, 4)
    exact, atp = vc.exact(lm, task, **QUIET), vc.attribute(lm, task, **QUIET)
    study = vc.behaviour.ablation_study(lm, task, units=exact, top=2, ablations=["zero"], **QUIET)
    assert [one.condition.units for one in study.outcomes[:2]] == [(name,) for name in exact.top(2)["name"]]
    agreement = vc.agreement(atp, exact)
    wanted = agreement.outliers[:6]
    study = vc.behaviour.ablation_study(lm, task, units=agreement, ablations=["zero"], together=False, **QUIET)
    assert [one.condition.name for one in study.outcomes] == wanted


def test_files_read_back(tiny, task_of, tmp_path):
    study = vc.behaviour.ablation_study(tiny("llama"), task_of(6, 4), units=["a0.h1", "m0"], **QUIET)
    found = vc.open(study.save(tmp_path / "study.safetensors"))
    assert found.table().equals(study.table()) and torch.equal(found.tokens, study.tokens)
    assert repr(found) == repr(study) and found.sentences == study.sentences
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "study.safetensors").read_bytes()[:-40])
    with pytest.raises(FileError):
        vc.open(tmp_path / "cut.safetensors")


def test_an_interrupted_study_continues(tiny, task_of, tmp_path, monkeypatch):
    lm, task = tiny("llama"), task_of((5, 7), 6)
    how = {"units": ["a0.h1", "m0"], "ablations": ("zero", "counterfactual"), **QUIET}
    whole = vc.behaviour.ablation_study(lm, task, **how)
    seen = []

    def stops(*arguments):
        seen.append(1)
        if len(seen) > 2:
            raise KeyboardInterrupt
        return original(*arguments)

    from veracausa.behaviour import runs, study

    original = runs._answers
    monkeypatch.setattr(runs, "_answers", stops)
    with pytest.raises(KeyboardInterrupt):
        vc.behaviour.ablation_study(lm, task, **how, out=tmp_path)
    assert not any(block.attention_out._forward_pre_hooks for block in lm.decoder.blocks)
    monkeypatch.setattr(runs, "_answers", original)
    again = vc.behaviour.ablation_study(lm, task, **how, out=tmp_path)
    torch.testing.assert_close(again.metric, whole.metric, rtol=0, atol=0)
    monkeypatch.setattr(study, "recorded", None)  # nothing is left to run
    torch.testing.assert_close(
        vc.behaviour.ablation_study(lm, task, **how, out=tmp_path).metric, whole.metric, rtol=0, atol=0
    )


def test_the_model_is_left_as_it_was_when_a_run_raises(tiny, task_of, monkeypatch):
    lm, task = tiny("llama", fresh=True), task_of(6, 2)
    lm.hf.train()
    before = lm.hf.config._attn_implementation

    def fails(*_):
        raise RuntimeError("as a hook of the user's would")

    monkeypatch.setattr("veracausa.behaviour.runs._answers", fails)
    with pytest.raises(RuntimeError, match="as a hook"):
        vc.behaviour.ablation_study(lm, task, units=["a0.h1", "m0"], **QUIET)
    assert lm.hf.training and lm.hf.config._attn_implementation == before
    assert all(parameter.requires_grad for parameter in lm.hf.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.hf.modules())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"units": ["a0.h9"]}, UnitError, "a0.h9"),
        ({"units": ["what"]}, UnitError, "not the name of a unit"),
        ({"units": ["a0.h1@3"]}, UnitError, "every position"),
        ({"units": ["r1"]}, UnitError, "every position"),
        ({"units": ["a0.h1", "a0.h1"]}, UnitError, "twice"),
        ({"units": []}, UnitError, "no unit"),
        ({"ablations": ["none"]}, MethodError, "counterfactual"),
        ({"ablations": []}, MethodError, "at least one"),
        ({"ablations": ["zero", "zero"]}, MethodError, "once"),
        ({"new_tokens": 0}, MethodError, "new_tokens=0"),
        ({"alpha": 1.0}, MethodError, "alpha"),
        ({"answers": [[[1]]]}, AnswerError, "1 entries"),
        ({"answers": [[[1]], []]}, AnswerError, "Pair 1"),
    ],
)
def test_bad_input_says_what_is_wrong(tiny, task_of, options, error, words):
    with pytest.raises(error, match=words):
        vc.behaviour.ablation_study(tiny("llama"), task_of(6, 2), **({"units": ["a0.h1"]} | options), **QUIET)

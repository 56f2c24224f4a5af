"""Direct logit attribution against plain hooks, its sums, and what it has to do with direct effects."""

from __future__ import annotations

import naive_lens
import pytest
import torch
from bridges import as_model
from tiny_models import FAMILIES, make

import veracausa as vc
from veracausa.errors import MethodError, UnitError
from veracausa.tasks.task import Task

QUIET = {"show_progress": False}


def _naive(lm, task, i: int, corrupted: bool = False) -> dict[str, float]:
    """Contributions to the mean or sum over the places."""
    found: dict[str, float] = {}
    for place in task.places[i]:
        direction = torch.zeros(lm.hf.config.vocab_size, dtype=lm.dtype)
        direction[list(task.correct[i])] += 1 / len(task.correct[i])
        if task.metric == "logit_diff":
            direction[list(task.incorrect[i])] -= 1 / len(task.incorrect[i])
        direction /= len(task.places[i]) if task.over == "mean" else 1
        ids = (task.corrupted if corrupted else task.clean)[i]
        for name, value in naive_lens.contributions(lm.hf, lm.name, ids, direction, place).items():
            found[name] = found.get(name, 0.0) + value
    return found


def _uncapped(lm, task, i: int, corrupted: bool = False) -> float:
    logits = naive_lens.seen(lm.hf, (task.corrupted if corrupted else task.clean)[i]).logits[-1]
    if cap := getattr(lm.hf.config, "final_logit_softcapping", None):
        logits = cap * torch.atanh(logits / cap)
    return float(logits[task.correct[i][0]] - logits[task.incorrect[i][0]])


@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_are_what_hooks_give_and_add_up_to_the_logit_difference(tiny, task_of, family):
    lm, task = tiny(family), task_of([7, 9, 7], 3)
    found = vc.reading.dla(lm, task, **QUIET)
    split = vc.reading.dla(lm, task, neurons=[0, 2], **QUIET)
    for run in (0, 1):
        for i in range(3):
            wanted = _naive(lm, task, i, run == 1)
            for one in (found, split):
                values = dict(zip(one.names, one.values[run, i].tolist(), strict=True))
                assert values == pytest.approx({name: wanted[name] for name in values}, abs=1e-9)
                assert sum(values.values()) == pytest.approx(_uncapped(lm, task, i, run == 1), abs=1e-9)
    torch.testing.assert_close(found.values.sum(-1), found.total, rtol=0, atol=1e-9)
    bare = lm.measure(task)
    torch.testing.assert_close(found.metric, torch.stack([bare.clean, bare.corrupted]), rtol=0, atol=1e-9)
    if family != "gemma2":
        torch.testing.assert_close(found.total, found.metric, rtol=0, atol=1e-9)
    neurons = [split.names.index(name) for name in split.names if name.startswith("m2.")]
    torch.testing.assert_close(split.values[..., neurons].sum(-1), found.of("m2"), rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_of_a_head_add_up_to_it(tiny, task_of, family):
    lm, task = tiny(family), task_of([7, 9], 2)
    found = vc.reading.dla(lm, task, positions=True, neurons=[1], **QUIET)
    assert found.where.isnan().equal(
        torch.tensor([[False] * 7 + [True] * 2, [False] * 9])[None, :, None].expand_as(found.where)
    )
    torch.testing.assert_close(found.where.nansum(-1), found.values, rtol=0, atol=1e-9)
    for name in ("input", "m0", "m1.n3"):  # read where the metric is
        assert [int(found.where[0, i, found.names.index(name)].nan_to_num().abs().argmax()) for i in (0, 1)] == [6, 8]


def test_a_key_s_share_is_what_its_value_brings(tiny, task_of):
    """Attention of gpt2 by hand: the weight of the last query, times the key's value through W_O."""
    lm, task = tiny("gpt2", attn_implementation="eager"), task_of(7, 1)
    found = vc.reading.dla(lm, task, positions=True, **QUIET)
    run = naive_lens.seen(lm.hf, task.clean[0])
    with torch.no_grad():
        pattern = lm.hf(torch.tensor(task.clean), output_attentions=True).attentions[1][0, 2, -1]
    block, size = lm.hf.transformer.h[1], 6
    values = run.outputs["transformer.h.1.attn.c_attn"].split(24, -1)[2][:, 2 * size : 3 * size]
    writes = pattern[:, None] * values @ block.attn.c_proj.weight[2 * size : 3 * size]
    x = run.inputs["transformer.ln_f"][-1]
    towards = lm.hf.lm_head.weight[task.correct[0][0]] - lm.hf.lm_head.weight[task.incorrect[0][0]]
    by_key = [float((naive_lens.normed(lm.hf.transformer.ln_f, write, x) @ towards).detach()) for write in writes]
    assert found.where[0, 0, found.names.index("a1.h2")].tolist() == pytest.approx(by_key, abs=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
@pytest.mark.parametrize(("metric", "over"), [("logit_diff", "mean"), ("logit", "sum")])
def test_several_positions_and_answers(tiny, task_of, family, metric, over):
    lm, task = tiny(family), task_of([7, 9], 2)
    correct = tuple((*own, (own[0] + 7) % 60) for own in task.correct)
    incorrect = tuple(((own[0] + 3) % 60,) for own in task.correct)
    read = Task("t", task.clean, task.corrupted, correct, incorrect, metric, read=((2, -1), (5,)), over=over)
    found = vc.reading.dla(lm, read, positions=True, **QUIET)
    for run in (0, 1):
        for i in range(2):
            wanted, values = _naive(lm, read, i, run == 1), found.values[run, i].tolist()
            assert values == pytest.approx([wanted[name] for name in found.names], abs=1e-9)
    torch.testing.assert_close(found.values.sum(-1), found.metric, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.where.nansum(-1), found.values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen2"])
def test_a_direct_effect_is_a_contribution_but_for_the_norm(tiny, task_of, family):
    """D = s/s′ (T − C) − T, T being M without its constants: see `reading.attributing`."""
    lm, task = tiny(family), task_of(7, 1)
    found = vc.reading.dla(lm, task, **QUIET)
    direct = vc.effects.direct(lm, task, units="heads", ablation="zero", **QUIET)
    path = lm.decoder.final_norm
    blocks = naive_lens.PATHS[family]
    run = naive_lens.seen(lm.hf, task.clean[0])
    x, worst = run.inputs[blocks[1]][-1], 0.0
    constants = sum(float(found.of(name)[0, 0]) for name in found.names if name in ("norm.bias", "unembedding.bias"))
    for name, effect in zip(direct.units.names, direct.values[0].tolist(), strict=True):
        layer, head = (int(part[1:]) for part in name.split("."))
        projection = lm.hf.get_submodule(f"{blocks[0]}.{layer}.{blocks[2]}")
        weight = projection.weight if family == "gpt2" else projection.weight.T
        size = len(weight) // lm.heads
        own = slice(head * size, (head + 1) * size)
        write = run.inputs[f"{blocks[0]}.{layer}.{blocks[2]}"][-1, own] @ weight[own]
        with_it, without = (_spread(path, one) for one in (x, x - write))
        total, share = float(found.total[0, 0]) - constants, float(found.of(name)[0, 0])
        assert effect == pytest.approx(with_it / without * (total - share) - total, abs=1e-9)
        worst = max(worst, abs(effect + share))
    assert worst > 1e-3  # the live norm is another question


def _spread(norm, x) -> float:
    if isinstance(norm, torch.nn.LayerNorm):
        return float((x.detach().var(unbiased=False) + norm.eps).sqrt())
    return float((x.detach().square().mean() + norm.variance_epsilon).sqrt())


def test_without_a_norm_a_direct_effect_is_minus_the_contribution():
    lm, program = vc.ground_truth.load_compiled("sort")
    task = program.task(n=4, seed=0)
    found = vc.reading.dla(lm, task, **QUIET)
    direct = vc.effects.direct(lm, task, units="heads", ablation="zero", **QUIET)
    own = torch.stack([found.of(name)[0] for name in direct.units.names], 1)
    assert float(own.abs().max()) > 0.1
    torch.testing.assert_close(direct.values, -own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_tokens_that_a_write_raises_are_those_of_hooks(tiny, task_of, family, tmp_path):
    lm, task = tiny(family), task_of([7, 9], 2)
    found = vc.reading.dla(lm, task, tokens=3, **QUIET)
    size = lm.hf.config.vocab_size
    every = [
        naive_lens.contributions(lm.hf, lm.name, task.clean[1], row, -1) for row in torch.eye(size, dtype=lm.dtype)
    ]
    assert "m2" in found.writers and "a0.h1" in found.writers and "input" not in found.writers
    for i, name in enumerate(found.writers):
        logits = torch.tensor([one[name] for one in every])
        torch.testing.assert_close(logits[found.tokens[1, i]], logits.topk(3).values, rtol=0, atol=1e-9)  # ties
    m2 = [found.vocabulary[t] for t in found.tokens[1, found.writers.index("m2")].tolist()]
    again = vc.open(found.save(tmp_path / "dla.safetensors"))
    assert again.raised("m2", 1) == found.raised("m2", 1) == m2
    split = vc.reading.dla(lm, task, tokens=3, neurons=[2], **QUIET)
    assert "m2" not in split.writers and split.raised("m1") == found.raised("m1")
    with pytest.raises(MethodError, match="tokens=5"):
        vc.reading.dla(lm, task, **QUIET).raised("m2")
    with pytest.raises(UnitError, match="no 'a0"):
        found.raised("a0.h9")


def test_one_run_without_a_counterpart(tiny, task_of):
    lm, task = tiny("llama"), task_of([7, 9], 2)
    alone = Task("alone", task.clean, (), task.correct, task.incorrect)
    found, both = vc.reading.dla(lm, alone, positions=True, **QUIET), vc.reading.dla(lm, task, **QUIET)
    assert found.runs == ("clean",) and found.said == "clean"
    torch.testing.assert_close(found.values[0], both.values[0], rtol=0, atol=1e-9)
    assert "difference" not in found.table() and len(found.top(3)) == 3
    assert found.cost.token_layers == sum(task.lengths) * lm.layers


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_half_precision_adds_up_to_rounding(task_of, family):
    lm, task = as_model(make(family, seed=1, dtype=torch.bfloat16), family), task_of(7, 2)
    found = vc.reading.dla(lm, task, positions=True, neurons=[0], **QUIET)
    assert found.values.dtype == torch.float32
    scale = float(found.values.abs().sum(-1).max())
    torch.testing.assert_close(found.values.sum(-1), found.total, rtol=0, atol=0.02 * scale)


def test_the_forecast_is_the_cost(tiny, task_of):
    lm, task = tiny("llama"), task_of([7, 9, 7], 3)
    price = vc.forecast(vc.reading.dla, lm, task, measure=False)
    assert price.token_layers == vc.reading.dla(lm, task, **QUIET).cost.token_layers


@pytest.mark.parametrize("metric", ["prob", "logprob", "logit_diff_lse", "logit_diff_max", "entropy", "neg_kl"])
def test_metrics_that_are_no_sum_of_logits_are_refused(tiny, task_of, metric):
    with pytest.raises(MethodError, match=rf"The metric {metric} is no sum of logits.*with_metric\('logit_diff'"):
        vc.reading.dla(tiny("llama"), task_of(7, 1).with_metric(metric), **QUIET)


def test_bad_input(tiny, task_of):
    lm, task = tiny("llama"), task_of(7, 1)
    with pytest.raises(MethodError, match="is no sum of logits"):
        vc.reading.dla(lm, task.with_metric(lambda logits: logits[..., 0]), **QUIET)
    with pytest.raises(UnitError, match=r"has no layer 3; its layers are 0 … 2"):
        vc.reading.dla(lm, task, neurons=[3], **QUIET)
    found = vc.reading.dla(lm, task, **QUIET)
    with pytest.raises(UnitError, match=r"no 'a0.h9' among these 16 writes"):
        found.of("a0.h9")
    with pytest.raises(MethodError, match=r"positions=True"):
        found.by_position("a0.h1")
    with pytest.raises(MethodError, match=r"no run 'dirty' here: there are clean and corrupted"):
        vc.reading.dla(lm, task, positions=True, **QUIET).by_position("a0.h1", "dirty")

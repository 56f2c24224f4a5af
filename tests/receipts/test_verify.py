"""Receipts on tiny models: their numbers against exact effects of all units, and what they say in words."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.errors import FileError, MethodError
from veracausa.receipts import verify as module
from veracausa.receipts.files import load_receipt
from veracausa.scores.files import load_scores

FEW = ("llama", "gpt_neox", "gemma2")


def attribute(lm, task, units="neurons", **options):
    return vc.attribute(lm, task, units=units, show_progress=False, **options)


def exact(lm, task, units="neurons", **options):
    return vc.exact(lm, task, units=units, show_progress=False, **options)


def verify(lm, task, estimate, **options):
    return vc.verify(lm, task, estimate, show_progress=False, **options)


@pytest.fixture(scope="module")
def case(tiny, task_of):
    """A tiny Llama, three pairs of two lengths, an estimate of its 120 neurons, and the truth."""
    lm, task = tiny("llama"), task_of((5, 7), n=3)
    return lm, task, attribute(lm, task), exact(lm, task)


def missed(receipt, truth):
    """How many units outside the receipt are strong."""
    known = set(receipt.exact.units.names)
    size = truth.scaled().abs()
    return sum(float(size[i]) > receipt.tau for i, name in enumerate(truth.units.names) if name not in known)


def same_numbers(receipt, truth):
    where = [truth.units.find(name) for name in receipt.exact.units.names]
    torch.testing.assert_close(receipt.exact.values, truth.values[:, where], rtol=0, atol=1e-12, equal_nan=True)


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_the_receipt_holds_the_exact_effects_of_the_top_and_of_a_sample(case):
    lm, task, estimate, truth = case
    receipt = verify(lm, task, estimate, top=10, sample=30)
    same_numbers(receipt, truth)
    assert receipt.exact.n == 3 and len(receipt) == 40 and receipt.exact.verified == "exact effects"
    assert receipt.top.tolist() == estimate.ranking()[:10]
    assert len(receipt.drawn) == 30 and not set(receipt.drawn) & set(receipt.top)
    assert receipt.rest == 110 and receipt.unverified == 80
    size = receipt.exact.scaled().abs()
    assert receipt.strong == int((size > 0.01).sum())
    names = [estimate.units.names[i] for i in receipt.drawn]
    strong = [name for name in names if float(size[receipt.exact.units.find(name)]) > 0.01]
    assert set(receipt.surprises) == set(strong) and receipt.outcomes[-1].found == len(strong)
    assert 0 < missed(receipt, truth) <= receipt.missed <= 80
    assert receipt.recall == receipt.strong / (receipt.strong + receipt.missed)


def test_agreement_over_all_and_over_the_sample(case):
    lm, task, estimate, truth = case
    receipt = verify(lm, task, estimate, top=10, sample=30)
    part = exact(lm, task, receipt.exact.units)
    assert receipt.agreement.r == pytest.approx(vc.agreement(estimate, part).r)
    drawn = exact(lm, task, estimate.units[np.sort(receipt.drawn)])
    assert receipt.sample_agreement.r == pytest.approx(vc.agreement(estimate, drawn).r)
    assert sorted(receipt.sample_agreement.names) == sorted(drawn.units.names)
    everything = verify(lm, task, estimate, top=120)
    assert everything.agreement.r == pytest.approx(vc.agreement(estimate, truth).r)


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize(
    "options",
    [{}, {"direction": "denoising"}, {"baseline": "zero", "method": "ig", "nodes": 3}, {"baseline": "mean"}],
    ids=["noising", "denoising", "zero", "mean"],
)
def test_exact_effects_are_those_that_the_estimate_estimates(tiny, task_of, family, options):
    lm, task = tiny(family), task_of(6, n=2)
    estimate = attribute(lm, task, "heads", **options)
    receipt = verify(lm, task, estimate, top=3, sample=4)
    ablation = {"zero": "zero", "mean": "mean"}.get(options.get("baseline", ""), "counterfactual")
    truth = exact(lm, task, "heads", ablation=ablation, direction=options.get("direction", "noising"))
    same_numbers(receipt, truth)
    assert missed(receipt, truth) <= receipt.missed
    assert receipt.exact.settings["ablation"] == ablation


def test_a_mean_over_another_set_of_prompts(tiny, task_of):
    lm, task, other = tiny("llama"), task_of(6), task_of(6, n=3, seed=8)
    estimate = attribute(lm, task, "heads", baseline="mean", reference=other)
    receipt = verify(lm, task, estimate, top=3, sample=4, reference=other)
    same_numbers(receipt, exact(lm, task, "heads", ablation="mean", reference=other))


def test_units_at_positions(tiny, task_of):
    """Some pairs lack the late positions; units before the first difference have no effect."""
    lm, task = tiny("llama"), task_of((5, 6), n=2, seed=4)
    estimate = attribute(lm, task, "heads@positions")
    receipt = verify(lm, task, estimate, top=10, sample=30)
    truth = exact(lm, task, "heads@positions")
    same_numbers(receipt, truth)
    assert missed(receipt, truth) <= receipt.missed
    assert receipt.exact.values.isnan().any()


def test_magnitudes_only(case):
    """A method without signs is ranked and compared by |E|."""
    lm, task, estimate, _ = case
    sizes = replace(estimate, values=estimate.values.mean(0, keepdim=True).abs().expand(3, -1), signed=False)
    signed, unsigned = (verify(lm, task, one, top=10, sample=30) for one in (estimate, sizes))
    assert unsigned.top.tolist() == signed.top.tolist() and unsigned.missed == signed.missed
    assert unsigned.agreement.sign_errors == 0 and (unsigned.agreement.exact >= 0).all()
    assert "sign errors" not in repr(unsigned) and "sign errors" in repr(signed)


def test_the_sample_depends_on_the_seed_only(case):
    lm, task, estimate, _ = case
    first, again, other = (verify(lm, task, estimate, top=5, sample=20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.drawn, again.drawn) and torch.equal(first.exact.values, again.exact.values)
    assert set(first.drawn) != set(other.drawn)
    larger = verify(lm, task, estimate, top=5, sample=40, seed=1)
    assert np.array_equal(larger.drawn[:20], first.drawn)  # one order, fixed beforehand


def looked_up(monkeypatch, truth):
    """Exact effects from a table instead of a model; returns the list of all units that were asked for."""
    asked, rows = [], {name: i for i, name in enumerate(truth.units.names)}

    def lookup(work, chosen, show_progress, out):
        units = work.estimate.units[chosen]
        where = [rows[name] for name in units.names]
        asked.extend(units.names)
        return replace(truth, values=truth.values[:, where], units=units)

    monkeypatch.setattr(module.VerifyWork, "effects_of", lookup)
    return asked


@pytest.mark.slow
def test_coverage_on_a_real_population(case, monkeypatch):
    """600 seeds on the tiny model's true effects: each claim fails in at most 5% + 3 √(.05 · .95 / 600) = 7.7%."""
    lm, task, estimate, truth = case
    looked_up(monkeypatch, truth)
    size = truth.scaled().abs().numpy()
    fails = {"fixed": 0, "until": 0, "ceiling": 0}
    for seed in range(600):
        fixed = verify(lm, task, estimate, top=10, sample=50, seed=seed, tau=0.05)
        fails["fixed"] += missed(fixed, truth) > fixed.missed
        hidden = np.setdiff1d(np.arange(120), np.concatenate([fixed.top, fixed.drawn]))
        fails["ceiling"] += int((size[hidden] > fixed.ceiling.tau).sum()) > fixed.ceiling.missed
        until = verify(lm, task, estimate, top=4, sample=12, seed=seed, until=vc.receipts.Until(missed=10, tau=0.05))
        fails["until"] += missed(until, truth) > until.missed
        assert until.reached
    assert all(count / 600 <= 0.077 for count in fails.values()), fails


# ---- the smallest threshold -----------------------------------------------------------------------------------------


def test_one_percent_needs_a_large_sample(case):
    lm, task, estimate, _ = case
    receipt = verify(lm, task, estimate, top=10, sample=30)
    ceiling = receipt.ceiling
    sample = receipt.exact.scaled().abs()[[receipt.exact.units.find(estimate.units.names[i])
                                               for i in receipt.drawn]]  # fmt: skip
    assert ceiling.tau == pytest.approx(float(sample.max())) and ceiling.share == ceiling.missed / 110 > 0.01
    assert 30 < ceiling.needed <= 110
    assert f"1% would need {ceiling.needed} drawn units" in repr(receipt)
    enough = verify(lm, task, estimate, top=10, sample=ceiling.needed)
    assert enough.ceiling.needed is None and enough.ceiling.missed == 1 and enough.ceiling.share <= 0.01
    assert "at most 1% of the 110 outside the top are unchecked" in repr(enough)
    assert verify(lm, task, estimate, top=10, sample=0).ceiling is None
    assert verify(lm, task, estimate, top=120).ceiling.tau == 0


# ---- stopping -------------------------------------------------------------------------------------------------------


def test_until_nothing_is_missed_verifies_everything(case, monkeypatch):
    lm, task, estimate, truth = case
    asked = looked_up(monkeypatch, truth)
    receipt = verify(lm, task, estimate, top=5, sample=15, until=vc.receipts.Until(missed=0))
    assert receipt.missed == 0 and receipt.unverified == 0 and receipt.reached
    assert sorted(asked) == sorted(truth.units.names)  # each once
    assert torch.equal(receipt.exact.values, truth.values)
    assert "no unit is unchecked" in repr(receipt)


def test_until(case):
    lm, task, estimate, truth = case
    receipt = verify(lm, task, estimate, top=5, sample=15, until=vc.receipts.Until(missed=40, tau=0.1))
    same_numbers(receipt, truth)
    assert missed(receipt, truth) <= receipt.missed <= 40 and receipt.reached and receipt.tau == 0.1
    assert receipt.unverified > 0
    assert "at most 40 missed is certified" in repr(receipt)
    strict = verify(lm, task, estimate, top=5, sample=15, until=vc.receipts.Until(missed=40, tau=0.1, confidence=0.999))
    assert len(strict) > len(receipt) and "with 99.9% confidence" in repr(strict)


@pytest.mark.parametrize("budget", [0.5, 0.8])
def test_the_budget_ends_first(tiny, task_of, budget):
    """Some tens of pairs would drown the overhead; with one, recordings are a sixth of the cost, and still counted."""
    lm, task = tiny("llama"), task_of(7)
    estimate, truth = attribute(lm, task), exact(lm, task)
    receipt = verify(lm, task, estimate, top=5, sample=15, until=vc.receipts.Until(missed=1, tau=0.001), budget=budget)
    assert not receipt.reached and receipt.unverified > 0
    assert missed(receipt, truth) <= receipt.missed
    assert 0.6 * budget < receipt.cost_share <= budget
    assert receipt.whole == truth.cost.token_layers
    assert receipt.cost_share == receipt.exact.cost.token_layers / truth.cost.token_layers
    said = f"the budget of {100 * budget:g}% ended before at most 1 missed could be certified"
    assert said in repr(receipt)


@pytest.mark.cases(2)
@pytest.mark.parametrize("options", [{}, {"direction": "denoising"}, {"baseline": "zero"}, {"baseline": "mean"}])
def test_no_budget_is_overrun(tiny, task_of, options):
    lm, task = tiny("gpt_neox"), task_of((6, 8), n=4)
    estimate = attribute(lm, task, **options)
    for until in (None, vc.receipts.Until(missed=20), vc.receipts.Until(missed=0)):
        receipt = verify(lm, task, estimate, top=5, sample=15, until=until, budget=0.6)
        assert 0 < receipt.cost_share <= 0.6


def test_a_budget_alone_is_one_stage_as_large_as_it_pays_for(case):
    lm, task, estimate, _ = case
    receipt = verify(lm, task, estimate, top=10, sample=30, budget=0.7)
    assert len(receipt.outcomes) == 1 and receipt.outcomes[0].alpha == pytest.approx(0.05)
    assert len(receipt.drawn) == pytest.approx(3 * len(receipt.top), abs=3)
    assert len(receipt) > 40 and "after 1 stage, which spent the budget of 70%" in repr(receipt)


# ---- sizes at the ends ----------------------------------------------------------------------------------------------


def test_more_than_there_is(case):
    lm, task, estimate, truth = case
    for options in ({"top": 500}, {"top": 120, "sample": 0}, {"top": 10, "sample": 500}, {"top": 0, "sample": 120}):
        receipt = verify(lm, task, estimate, **options)
        assert torch.equal(receipt.exact.values, truth.values) and receipt.exact.units.names == truth.units.names
        assert receipt.missed == 0 and receipt.unverified == 0 and receipt.recall in (1.0,)
        assert receipt.cost_share == 1.0
    assert verify(lm, task, estimate, top=500).sample_agreement is None  # the rest is empty


def test_only_the_top_or_only_a_sample(case):
    lm, task, estimate, truth = case
    top = verify(lm, task, estimate, top=7, sample=0)
    assert top.missed == 113 and top.sample_agreement is None and top.surprises == []
    assert "nothing was drawn at random, so nothing is known about the others" in repr(top)
    sample = verify(lm, task, estimate, top=0, sample=30)
    assert missed(sample, truth) <= sample.missed and sample.rest == 120 and "strongest" not in repr(sample)
    one = verify(lm, task, estimate, top=1, sample=0)
    assert len(one) == 1 and math.isnan(one.agreement.r) and "checked exactly, no r; " in one.sentence


def test_nothing_strong_anywhere(case):
    lm, task, estimate, _ = case
    receipt = verify(lm, task, estimate, top=120, tau=50.0)
    assert receipt.strong == 0 and math.isnan(receipt.recall)


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"top": -1}, "top=-1: it is 0 or more"),
        ({"sample": -3}, "sample=-3"),
        ({"seed": -1}, "seed=-1"),
        ({"top": 0, "sample": 0}, "nothing would be verified"),
        ({"tau": 0.0}, "tau=0.0: a threshold is a positive share"),
        ({"tau": -0.1}, "tau=-0.1"),
        ({"tau": float("inf")}, "tau=inf"),
        ({"budget": 0}, "budget=0: a share"),
        ({"budget": 1.5}, "budget=1.5: a share"),
        ({"budget": 1e-6}, "does not pay for one unit"),
        ({"until": vc.receipts.Until(tau=0.02), "tau": 0.01}, "differ. With until=, leave tau out"),
        ({"until": vc.receipts.Until(missed=3), "sample": 0}, "without a random sample nothing can be certified"),
    ],
)
def test_options_that_mean_nothing(case, options, match):
    lm, task, estimate, _ = case
    with pytest.raises(MethodError, match=match):
        verify(lm, task, estimate, **options)


def test_the_same_tau_twice_is_no_contradiction(case):
    lm, task, estimate, _ = case
    assert verify(lm, task, estimate, top=5, sample=9, tau=0.2, until=vc.receipts.Until(missed=90, tau=0.2)).tau == 0.2


def test_estimates_of_something_else(case, tiny, task_of):
    lm, task, estimate, truth = case
    with pytest.raises(MethodError, match="of another task"):
        verify(lm, task_of((5, 7), n=3, seed=9), estimate)
    with pytest.raises(MethodError, match="of another task"):
        verify(lm, task.with_metric("prob"), estimate)
    with pytest.raises(MethodError, match="of another model"):
        verify(lm, task, replace(estimate, model=estimate.model | {"identity": "another"}))
    with pytest.raises(MethodError, match="exact effects already"):
        verify(lm, task, truth)
    for settings in ({"baseline": "median"}, {"baseline": None, "ablation": "median"}, {"baseline": None}):
        with pytest.raises(MethodError, match="for which there is no exact effect to compare with"):
            verify(lm, task, replace(estimate, settings=estimate.settings | settings))


def test_scores_that_name_an_ablation_instead_of_a_baseline(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    estimate = attribute(lm, task, "heads")
    estimate = replace(estimate, method="mask", settings={"direction": "noising", "ablation": "zero"}, signed=False)
    receipt = verify(lm, task, estimate, top=3, sample=4)
    same_numbers(receipt, exact(lm, task, "heads", ablation="zero"))


# ---- words and files ------------------------------------------------------------------------------------------------


def test_it_reads_as_a_receipt(case):
    lm, task, estimate, _ = case
    receipt = verify(lm, task, estimate, top=10, sample=30)
    text = repr(receipt)
    for words in (
        "atp · 120 neurons", "path point", lm.source, "3 pairs",
        "40 of 120 units exactly: the 10 strongest by |score| and 30 drawn at random from the other 110 (seed 0)",
        f"with 95% confidence at most {receipt.missed} of the 80 unchecked units have |E| over 1% of the gap",
        f"all 40 checked: r {receipt.agreement.r:+.3f}", "the 30 drawn at random: r ", "Jaccard@10",
        f"{receipt.exact.cost.token_layers:,} token-layers, {receipt.cost_share:.2%} of exact effects of all units",
    ):  # fmt: skip
        assert words in text, words
    assert "stopped" not in text  # nothing but what was asked for
    html = replace(receipt, estimate=replace(estimate, method="<b>"))._repr_html_()
    assert "&lt;b&gt;" in html and "<b>" not in html and html.count("<tr>") == 10


def test_the_scores_carry_the_receipt(case):
    lm, task, estimate, _ = case
    receipt = verify(lm, task, estimate, top=10, sample=30)
    scores = receipt.scores
    assert torch.equal(scores.values, estimate.values) and estimate.verified == "not verified"
    assert scores.verified == receipt.sentence and "\n" not in receipt.sentence
    assert receipt.sentence.startswith("40 of 120 units checked exactly, r ")
    assert f"trust   {receipt.sentence}" in scores.describe()


@pytest.mark.parametrize("options", [{}, {"until": vc.receipts.Until(missed=60), "budget": 0.9}, {"top": 0}])
def test_saved_and_read_again(case, tmp_path, options):
    lm, task, estimate, _ = case
    receipt = verify(lm, task, estimate, **({"top": 10, "sample": 30} | options))
    read = load_receipt(receipt.save(tmp_path / "deep" / "receipt.safetensors"))
    assert repr(read) == repr(receipt) and read.outcomes == receipt.outcomes and read.until == receipt.until
    assert torch.equal(read.exact.values, receipt.exact.values) and read.ceiling == receipt.ceiling
    assert torch.equal(read.scores.values, estimate.values) and read.surprises == receipt.surprises


def test_files_that_are_no_receipts(case, tmp_path):
    lm, task, estimate, _ = case
    receipt = verify(lm, task, estimate, top=10, sample=30)
    with pytest.raises(FileError, match="no file"):
        load_receipt(tmp_path / "none.safetensors")
    with pytest.raises(FileError, match="not a veracausa-receipt"):
        load_receipt(estimate.save(tmp_path / "scores.safetensors"))
    path = receipt.save(tmp_path / "receipt.safetensors")
    with pytest.raises(FileError, match="not a veracausa-scores"):
        load_scores(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="damaged or cut short"):
        load_receipt(path)
    from veracausa.storage.files import write_tensors

    write_tensors(path, "veracausa-receipt-2", {"tau": 0.01}, {"top": torch.zeros(1)})
    with pytest.raises(FileError, match="lacks 'estimate'"):
        load_receipt(path)


def test_it_continues_from_finished_pieces(case, tmp_path):
    lm, task, estimate, _ = case
    options = {"top": 5, "sample": 15, "until": vc.receipts.Until(missed=40, tau=0.1)}
    whole = verify(lm, task, estimate, **options)
    first = verify(lm, task, estimate, out=tmp_path, **options)
    assert len(list(tmp_path.glob("exact-neurons-*.pieces.safetensors"))) == len(first.outcomes)
    again = verify(lm, task, estimate, out=tmp_path, **options)
    for one in (first, again):
        assert torch.equal(one.exact.values, whole.exact.values) and one.outcomes == whole.outcomes
    more = again.exact.cost.token_layers - first.exact.cost.token_layers
    assert more <= module.overhead(lm, task) * len(first.outcomes)  # recordings, no unit


def test_the_plan_is_what_it_costs(case):
    lm, task, estimate, _ = case
    for options in ({"top": 5, "sample": 15}, {"top": 2, "sample": 9, "budget": 0.3}):
        receipt = verify(lm, task, estimate, **options)
        work = vc.verify.work(lm, task, estimate, **options)
        assert work.tokens() == receipt.exact.cost.token_layers
        assert work.units.names == receipt.exact.units.names
    with pytest.raises(MethodError, match="top=-1"):
        vc.verify.work(lm, task, estimate, top=-1)

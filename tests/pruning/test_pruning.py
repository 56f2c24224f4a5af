"""Pruning: the joint check against whole runs of the bare model under hooks; sizes, pieces, files, what is refused."""

import math
from dataclasses import replace

import every_result
import naive_pruning
import numpy as np
import pytest
import torch
from scipy import stats

import veracausa as vc
from veracausa.errors import FileError, MethodError
from veracausa.pruning.cutting import cut_of

QUIET = {"show_progress": False}
TEXT = ["The old keys to cabinet are is", "The key to is old keys The The to cabinet", "is are old key key to " * 40]


@pytest.fixture(scope="module")
def setting():
    return every_result.setting()


def prune(setting, **how):
    lm, task = setting
    return vc.pruning.prune(lm, task, **{"text": TEXT, "units": "neurons", "share": 0.3, **how}, **QUIET)


def masks(lm, found, gone):
    cut = cut_of(lm, found.parts, gone)
    z = {layer: torch.from_numpy(one.z) for layer, one in enumerate(cut)}
    neurons = {layer: torch.from_numpy(one.neurons) for layer, one in enumerate(cut)}
    return (z, neurons, [layer for layer, one in enumerate(cut) if one.mlp])


@pytest.mark.cases(2)
@pytest.mark.parametrize("units", ["neurons", "kv_groups+mlps", "layers"])
def test_every_figure_is_that_of_whole_runs_under_hooks(setting, units):
    lm, task = setting
    found = prune(setting, units=units, share=0.4, sizes=[0.6], how=["fgp", "magnitude"], held_out=task)
    rows = [np.zeros(len(found.parts), dtype=bool), *found.gone.reshape(-1, len(found.parts))]
    ids = vc.pruning.pruner.rows_of(lm, TEXT, 4096, 0).ids
    assert len({len(row) for row in ids}) == 1 and all(row[0] == lm.tokenizer.bos_token_id for row in ids)
    with torch.no_grad():
        full = lm.hf(torch.tensor(ids)).logits[:, :-1].log_softmax(-1)
    for at, gone in enumerate(rows):
        with torch.no_grad(), naive_pruning.without(lm.hf, "llama", *masks(lm, found, gone)):
            for i, prompt in enumerate(task.clean):
                last = lm.hf(torch.tensor([prompt])).logits[0, -1]
                metric = last[task.correct[i][0]] - last[task.incorrect[i][0]]
                # float64: only the order of sums differs
                assert abs(float(metric - found.metric[0][at, i])) < 1e-9
                assert float(found.right[0][at, i]) == float(int(last.argmax()) in task.correct[i])
            said = lm.hf(torch.tensor(ids)).logits[:, :-1].log_softmax(-1)
        entropy = -said.gather(-1, torch.tensor(ids)[:, 1:, None])[..., 0].mean(1)
        kl = torch.nn.functional.kl_div(said, full, log_target=True, reduction="none").sum(-1).mean(1)
        assert torch.allclose(found.text[at], torch.stack([kl, entropy]), atol=1e-9)
        assert math.isclose(found.on_text(at)["perplexity"], math.exp(float(entropy.mean())))
    table = found.table()
    assert table.groupby("on").size().tolist() == [5, 5] and (table["parameters"] <= 0.6 * found.parts.total).all()


def test_the_interval_of_a_change_is_that_of_the_differences_of_pairs(setting):
    """Against scipy's paired interval: a gap that varies between pairs widens the level's, and not the change's."""
    found = prune(setting, share=0.4, held_out=setting[1])
    n = found.metric[0].shape[1]
    apart = torch.linspace(-50, 50, n, dtype=found.metric[0].dtype)
    found = replace(found, metric=(found.metric[0] + apart,))
    full, cut = found.metric[0].numpy()
    own, paired = found.figures(1, 0), stats.ttest_rel(cut, full).confidence_interval(0.95)
    np.testing.assert_allclose([own["change"], own["change_low"], own["change_high"]],
                               [(cut - full).mean(), paired.low, paired.high], rtol=1e-9)  # fmt: skip
    assert own["high"] - own["low"] > 10 * (own["change_high"] - own["change_low"])
    assert f"by {own['change']:+.2f} (95% {own['change_low']:+.3f} to".replace("-", "−") in found.sentences[1]
    before, after = found.text[:, 1].numpy()
    paired, on = stats.ttest_rel(after, before).confidence_interval(0.95), found.on_text(1)
    times = np.exp([(after - before).mean(), paired.low, paired.high])
    np.testing.assert_allclose([on["times"], on["times_low"], on["times_high"]], times, rtol=1e-9)


def test_a_mean_is_one_vector_of_all_positions_that_were_ranked_on(setting):
    lm, task = setting
    found = prune(setting, units="heads", ablation="mean", share=0.5, held_out=task, how="random", text=None)
    means, kept = {}, {}
    for layer, (_, out, _, _) in enumerate(naive_pruning.blocks(lm.hf, "llama")):
        kept[layer] = []
        out.register_forward_pre_hook(lambda _, args, layer=layer: kept[layer].append(args[0][0]))
    with torch.no_grad():
        for prompt in task.clean:
            lm.hf(torch.tensor([prompt]))
    for layer, (_, out, _, _) in enumerate(naive_pruning.blocks(lm.hf, "llama")):
        out._forward_pre_hooks.clear()
        means["z", layer] = torch.cat(kept[layer]).mean(0)
    with torch.no_grad(), naive_pruning.without(lm.hf, "llama", *masks(lm, found, found.chosen), means=means):
        for i, prompt in enumerate(task.clean):
            last = lm.hf(torch.tensor([prompt])).logits[0, -1]
            assert abs(float(last[task.correct[i][0]] - last[task.incorrect[i][0]] - found.metric[0][1, i])) < 1e-9


def test_it_ranks_on_one_half_and_judges_on_the_other(setting):
    lm, task = setting
    found = prune(setting, text=None)
    ranked, held = task.split(0.5, 0)
    assert found.task["digest"] == held.digest() and found.settings["ranked_digest"] == [ranked.digest()]
    expected = vc.pruning.rank(lm, ranked, units="neurons", **QUIET).cut(0.3)
    assert np.array_equal(found.chosen, expected) and not found.notes
    seen = prune(setting, text=None, held_out=task)
    assert seen.notes and "ranked on, too" in seen.sentences[-1]
    each = prune(setting, text=None, per_layer=True)
    assert len({*each.chosen.reshape(lm.layers, -1).sum(1).tolist()}) == 1


def test_an_interrupted_call_goes_on(setting, tmp_path, monkeypatch):
    whole = prune(setting, how=["fgp", "random"])
    monkeypatch.setattr("veracausa.storage.pieces._KEEP_EVERY", 0.0)
    first = prune(setting, how=["fgp", "random"], out=tmp_path)
    monkeypatch.setattr("veracausa.pruning.judging.measure", None)  # nothing is run again
    monkeypatch.setattr("veracausa.pruning.judging.run", None)
    again = prune(setting, how=["fgp", "random"], out=tmp_path)
    for found in (first, again):
        assert torch.equal(found.metric[0], whole.metric[0]) and torch.equal(found.text, whole.text)


def test_what_cannot_be_is_refused(setting, tmp_path):
    for wrong, error in (
        ({"how": []}, MethodError), ({"how": ["fgp", "fgp"]}, MethodError), ({"sizes": [1.0]}, MethodError),
        ({"units": "layers", "share": 0.1}, MethodError), ({"text": tmp_path / "none.txt"}, FileError),
        ({"text": ["The"]}, MethodError),
    ):  # fmt: skip
        with pytest.raises(error):
            prune(setting, **wrong)


def test_a_forecast_counts_what_is_run(setting):
    lm, task = setting
    how = {"how": ["fgp", "wanda"], "sizes": [0.1], "text": TEXT, "units": "neurons", "ablation": "zero"}
    price = vc.forecast(vc.pruning.prune, lm, task, measure=False, **how)
    assert price.token_layers == vc.pruning.prune(lm, task, **how, **QUIET).cost.token_layers


def test_the_library_s_own_text_is_there(setting):
    found = prune(setting, text="python", tokens=600)
    assert found.text.shape[2] > 1 and "documentation" in found.said and np.isfinite(found.on_text(1)["kl_high"])

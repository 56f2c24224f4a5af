"""Causal tracing against hooks on the model: noise on the embedding module's output, states put back one by one."""

from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from bridges import naive_metric
from tiny_models import mostly_slow

import veracausa as vc
from veracausa.errors import MethodError, TaskError

QUIET = {"show_progress": False}
SITE = {"residual": "resid", "mlps": "mlp", "attention": "z"}
FAMILIES = ["llama", "gpt_neox", "gemma2", "gemma3", "gpt2"]


def by_hooks(lm, task, units, where, window, times, draws, seed):
    """Per pair and draw: M of the noised run [pairs, draws], and of it with states restored [pairs, draws, states]."""
    embedding = lm.hf.get_input_embeddings()
    with torch.no_grad():
        entries = torch.cat([embedding(torch.tensor(task.clean[i]))[list(where[i])] for i in range(len(task))])
    sigma, layers = entries.std(), units.layer.max() + 1
    noised = torch.full((len(task), draws), float("nan"), dtype=torch.float64)
    restored = torch.full((len(task), draws, len(units)), float("nan"), dtype=torch.float64)
    for i, ids in enumerate(task.clean):
        own, metric, n = naive.activations(lm.hf, lm.name, ids), naive_metric(lm, task, i), len(ids)
        for draw in range(draws):
            drawn = np.random.default_rng([seed, draw, i, 99]).standard_normal((n, embedding.weight.shape[1]))
            noise = torch.zeros(n, embedding.weight.shape[1], dtype=torch.float64)
            noise[list(where[i])] = times * sigma * torch.from_numpy(drawn)[list(where[i])]
            handle = embedding.register_forward_hook(lambda _, __, output, noise=noise: output + noise)
            try:
                with torch.no_grad():
                    noised[i, draw] = metric(lm.hf(torch.tensor([ids])).logits[0, -1])
                for u, (layer, at) in enumerate(zip(units.layer.tolist(), units.position.tolist(), strict=True)):
                    if at >= n:
                        continue
                    near = [k for k in range(layers) if layer - window // 2 <= k < layer + (window + 1) // 2]
                    site = SITE[units.kind]
                    kind = {"resid": "resid", "mlp": "mlps", "z": "attn"}[site]
                    patches = [(kind, k, None, at, own[site][k]) for k in near]
                    logits = naive.run_patched(lm.hf, lm.name, ids, patches)
                    restored[i, draw, u] = metric(logits[-1])
            finally:
                handle.remove()
    return noised, restored


@pytest.mark.cases(2)
@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("kind", SITE)
@pytest.mark.parametrize("family", mostly_slow(FAMILIES))
def test_effects_are_what_hooks_give(tiny, task_of, family, kind, window):
    lm, task = tiny(family), replace(task_of((5, 6), n=2), corrupted=(), paired=False)
    ours = vc.effects.causal_tracing(lm, task, span=[1, 2], units=kind, window=window, sd=2.0, draws=2, seed=3, **QUIET)
    noised, restored = by_hooks(lm, task, ours.units, [(1, 2)] * 2, window, 2.0, 2, 3)
    each = restored - noised[..., None]
    torch.testing.assert_close(ours.corrupted, noised.mean(1), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.values, each.mean(1), rtol=0, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(ours.draw_stderr, each.std(1) / 2**0.5, rtol=0, atol=1e-9, equal_nan=True)
    assert each.nan_to_num().abs().max() > 1e-3


def test_named_spans_and_pairs(tiny, task_of):
    """A span by its name is its positions in the clean prompt; of pairs the clean prompts are taken."""
    lm, task = tiny("llama"), task_of(6, n=2)
    named = replace(task, spans=({"subject": (1, 3)}, {"subject": (2, 4)}))
    ours = vc.effects.causal_tracing(lm, named, draws=2, **QUIET)
    noised, restored = by_hooks(lm, task, ours.units, [(1, 2), (2, 3)], 1, 3.0, 2, 0)
    torch.testing.assert_close(ours.values, (restored - noised[..., None]).mean(1), rtol=0, atol=1e-9)
    assert ours.settings["span"] == "subject" and "spans_digest" in ours.settings
    # all of the last block's input at the last position is all there is: the whole effect comes back
    end = ours.units.find(f"r{lm.layers}@5")
    torch.testing.assert_close(ours.values[:, end], ours.gap, rtol=0, atol=1e-9)
    assert ours.values[:, ours.units.find("r0@0")].abs().max() < 1e-12  # before the span nothing is noised


def test_saving_resuming_forecasts_and_charts(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((5, 6), n=2)
    how = {"span": -3, "units": "mlps", "draws": 2}
    found = vc.effects.causal_tracing(lm, task, **how, out=tmp_path, **QUIET)
    again = vc.effects.causal_tracing(lm, task, **how, out=tmp_path, **QUIET)
    assert torch.equal(found.values.nan_to_num(), again.values.nan_to_num())
    assert again.cost.token_layers == found.cost.token_layers and torch.equal(found.corrupted, again.corrupted)
    other = vc.effects.causal_tracing(lm, task, **how, seed=1, out=tmp_path, **QUIET)
    assert not torch.equal(found.corrupted, other.corrupted)
    saved = vc.open(found.save(tmp_path / "traced.safetensors"))
    assert torch.equal(saved.draw_stderr.nan_to_num(), found.draw_stderr.nan_to_num())
    assert saved.settings == found.settings and "noise of" in str(saved)
    price = vc.forecast(vc.effects.causal_tracing, lm, task, **how, measure=False)
    assert price.token_layers == found.cost.token_layers
    for window in (1, 2):
        price = vc.forecast(vc.effects.causal_tracing, lm, task, window=window, **how, measure=False)
        assert price.token_layers > 0
    drawn = found.chart(tokens=["The", "Eiffel", "Tower", "is", "in", "the"]).to_json()
    assert "1 Eiffel" in drawn and "1 Eiffel" not in found.chart().to_json()


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"span": "object"}, TaskError, "span"),
        ({"span": "subject"}, TaskError, "Pair 1"),
        ({"span": []}, TaskError, "positions"),
        ({"span": 9}, TaskError, "shortest has 6"),
        ({"span": 1, "units": "heads"}, MethodError, "residual"),
        ({"span": 1, "window": 0}, MethodError, "window"),
        ({"span": 1, "draws": 0}, MethodError, "draws"),
        ({"span": 1, "sd": 0.0}, MethodError, "above 0"),
    ],
)
def test_what_cannot_be_traced(tiny, task_of, how, error, says):
    task = replace(task_of(6, n=2), spans=({"subject": (1, 3)}, {}))
    with pytest.raises(error, match=says):
        vc.effects.causal_tracing(tiny("llama"), task, **how, **QUIET)

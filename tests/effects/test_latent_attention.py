"""Queries, keys and values of latent attention as units, against whole runs of the plain model.

They are what the attention function is given: of a head its query and its key, rotated and not rotated parts side by
side, and its value. The part of the keys that is rotated is one for all heads; as a unit a head's key has its own copy.
"""

from contextlib import contextmanager

import naive_experts as naive
import pytest
import torch
from bridges import as_model
from tiny_models import make, pairs
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import veracausa as vc

KINDS = ("queries", "keys", "values")


@contextmanager
def attention(hf, change):
    """The plain model with `change(layer, [query, key, value])` in front of its own attention function."""
    own = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def function(module, *given, **settings):
        parts = change(module.layer_idx, [part.clone() for part in given[:3]])
        return own(module, *parts, *given[3:], **settings)

    ALL_ATTENTION_FUNCTIONS.register("changed_attention", function)
    before, hf.config._attn_implementation = hf.config._attn_implementation, "changed_attention"
    try:
        yield
    finally:
        hf.config._attn_implementation = before


def seen(hf, ids):
    """Layer → query, key and value of a run, [1, heads, positions, _]."""
    found = {}
    with attention(hf, lambda layer, parts: found.setdefault(layer, parts)):
        naive.logits(hf, ids)
    return found


@pytest.mark.parametrize(
    "over", [pytest.param({}, id="compressed"), pytest.param({"q_lora_rank": None}, id="whole", marks=pytest.mark.slow)]
)
def test_effects_are_those_of_whole_runs(over, task_of):
    hf, (pair,) = make("deepseek_v3", seed=1, **over), pairs(60, 1, 7, 2)
    lm, task = as_model(hf, "deepseek_v3"), task_of(7)
    ours = {kind: vc.exact(lm, task, units=kind, show_progress=False).values[0] for kind in KINDS}
    end = vc.exact(lm, task, units=["a1.h2<q>@end", "a1.h3<q>@end"], show_progress=False).values[0]
    other, bare = seen(hf, pair.corrupted), naive.metric(hf, pair.clean, pair)

    def patched(layer, part, head, at=slice(None), share=1.0):
        def change(own_layer, parts):
            if own_layer == layer:
                own = parts[part][:, head, at]
                parts[part][:, head, at] = own + share * (other[layer][part][:, head, at] - own)
            return parts

        with attention(hf, change):
            return naive.metric(hf, pair.clean, pair)

    for part, kind in enumerate(KINDS):
        for unit, (layer, head) in enumerate((layer, head) for layer in range(3) for head in range(4)):
            assert float(ours[kind][unit]) == pytest.approx(patched(layer, part, head) - bare, abs=1e-9)
        assert ours[kind].abs().max() > 1e-3
    assert end.tolist() == pytest.approx([patched(1, 0, head, slice(6, 7)) - bare for head in (2, 3)], abs=1e-9)
    slopes = vc.attribute(lm, task, units=["a2.h1<q>", "a2.h2<q>"], method="atp", show_progress=False).values[0]
    steps = [(patched(2, 0, head, share=1e-5) - patched(2, 0, head, share=-1e-5)) / 2e-5 for head in (1, 2)]
    torch.testing.assert_close(slopes, torch.tensor(steps, dtype=slopes.dtype), atol=1e-5, rtol=0)

"""What is recorded, how pairs are grouped, and how bad numbers are reported."""

import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.engine.batches import buckets
from veracausa.engine.recording import record
from veracausa.errors import NumericsError


def test_buckets_hold_one_length_and_one_start(tiny):
    decoder = tiny("llama").decoder
    clean = [(1, 2, 3), (1, 2, 3, 4), (5, 2, 3), (1, 2, 9), (7, 7, 1)]
    corrupted = [(1, 8, 3), (1, 8, 3, 4), (5, 8, 3), (1, 2, 8), (7, 6, 2)]
    task = vc.Task("t", clean, corrupted, ((0,),) * 5, ((11,),) * 5)
    assert buckets(decoder, task, True, 9) == [(1, (0, 2, 4)), (1, (1,)), (2, (3,))]
    assert buckets(decoder, task, True, 2) == [(1, (0, 2)), (1, (4,)), (1, (1,)), (2, (3,))]
    assert buckets(decoder, task, False, 9) == [(0, (0, 2, 3, 4)), (0, (1,))]


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_recorded_with_and_without_a_prefix(tiny, family):
    lm, ids = tiny(family), torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 5, 8]])
    whole, _ = record(lm.decoder, ids, sites=("z", "neurons", "attention", "mlp"))
    prefix, _ = record(lm.decoder, ids[:, :3])
    rest, _ = record(lm.decoder, ids[:, 3:], prefix=prefix, sites=("z", "neurons"))
    for ours, theirs in zip(rest.residual, whole.residual, strict=True):
        torch.testing.assert_close(ours, theirs[:, 3:], rtol=0, atol=1e-11)
    for site in ("z", "neurons"):
        for ours, theirs in zip(rest.sites[site], whole.sites[site], strict=True):
            torch.testing.assert_close(ours, theirs[:, 3:], rtol=0, atol=1e-11)
    assert [tuple(k.shape) for k in rest.keys] == [(2, lm.kv_heads, 6, lm.decoder.head_dim)] * 3
    assert len(whole.residual) == 4 and len(whole.middle) == 3 and len(whole.sites["attention"]) == 3


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_logits_of_the_recorded_end_are_the_models(tiny, family):
    lm, ids = tiny(family), torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 5, 8]])
    state, _ = record(lm.decoder, ids)
    with torch.no_grad():
        bare = lm.hf(ids).logits[:, -1]
        torch.testing.assert_close(lm.decoder.logits(state.last), bare, rtol=0, atol=1e-12)
        few = lm.decoder.logits(state.last, torch.tensor([[3, 4], [50, 0]]))
    torch.testing.assert_close(few, bare.gather(1, torch.tensor([[3, 4], [50, 0]])), rtol=0, atol=1e-12)


# ---- NaN ------------------------------------------------------------------------------------------------------------

CALLS = {
    "measure": lambda lm, task: lm.measure(task),
    "exact": lambda lm, task: vc.exact(lm, task, show_progress=False),
    "atp": lambda lm, task: vc.attribute(lm, task, show_progress=False),
    "ig": lambda lm, task: vc.attribute(lm, task, method="ig", nodes=2, show_progress=False),
}
PLACES = {
    "model.embed_tokens": "the embeddings", "model.layers.0.self_attn.q_proj": "block 0",
    "model.layers.1.mlp.down_proj": "block 1", "model.layers.2.self_attn.o_proj": "block 2",
}  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", PLACES)
@pytest.mark.parametrize("call", CALLS)
def test_nan_weights_name_the_layer(task_of, call, part, value):
    hf = tiny_models.make("llama", seed=1)
    hf.get_submodule(part).weight.data.fill_(value)
    with pytest.raises(NumericsError, match=PLACES[part]):
        CALLS[call](as_model(hf, "llama"), task_of(6))


@pytest.mark.parametrize("part", ["model.norm", "lm_head"])
@pytest.mark.parametrize("call", CALLS)
def test_nan_behind_the_last_block_is_named_too(task_of, call, part):
    hf = tiny_models.make("llama", seed=1)
    hf.get_submodule(part).weight.data.fill_(float("nan"))
    with pytest.raises(NumericsError, match=r"norm|unembedding|logits"):
        CALLS[call](as_model(hf, "llama"), task_of(6))


def test_a_patch_that_overflows_is_named(task_of):
    """Zeroing the whole stream behind a norm without ε gives 0/0 there."""
    hf = tiny_models.make("llama", seed=1, rms_norm_eps=0.0)
    with pytest.raises(NumericsError, match=r"r[0-3]") as caught:
        vc.exact(as_model(hf, "llama"), task_of(6), units="residual", ablation="zero", show_progress=False)
    assert "pair 0" in str(caught.value) and "tiny" in str(caught.value)

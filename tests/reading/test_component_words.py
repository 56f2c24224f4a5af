"""What components read and write: against products of the plain model's own matrices."""

import numpy as np
import pytest
import torch
from laid_features import asked

import veracausa as vc
from veracausa.errors import MethodError, UnitError


@torch.no_grad()
def test_words_are_products_with_the_models_own_matrices():
    hf, lm, *_ = asked("llama", count=1)
    block, heads = hf.model.layers[1], lm.heads
    final, unembedding = hf.model.norm.weight, hf.lm_head.weight
    embeddings = torch.nn.functional.normalize(hf.model.embed_tokens.weight, dim=-1)

    def ends(values, named=str):
        largest = values.argsort(descending=True)
        return ", ".join(map(named, largest[:2].tolist())), ", ".join(map(named, largest.flip(0)[:2].tolist()))

    found = vc.reading.component_words(lm, ["m1.down.c0", "m1.down.c3"], tokens=2)
    for row, c in zip(found.to_dict("records"), (0, 3), strict=True):
        u, s, v = torch.linalg.svd(block.mlp.down_proj.weight)
        sign = torch.sign(v[c][v[c].abs().argmax()])  # the largest entry of v is positive
        assert row["size"] == pytest.approx(float(s[c]))
        assert (row["writes"], row["lowers"]) == ends(unembedding @ (final * u[:, c] * sign))
        assert (row["reads"], row["reads_against"]) == ends(v[c] * sign, lambda n: f"m1.n{n}")

    found = vc.reading.component_words(lm, ["m1.gate.c1"], tokens=2).iloc[0]
    u, s, v = torch.linalg.svd(block.mlp.gate_proj.weight)
    sign = torch.sign(v[1][v[1].abs().argmax()])
    read = embeddings @ (block.post_attention_layernorm.weight * v[1] * sign)
    assert (found["reads"], found["reads_against"]) == ends(read)

    found, head, size = vc.reading.component_words(lm, ["a1.h3.ov0"], tokens=2).iloc[0], 3, lm.decoder.head_dim
    own = slice(head * size, (head + 1) * size)
    group = head // (heads // lm.kv_heads)
    w_v = block.self_attn.v_proj.weight[group * size : (group + 1) * size]
    u, s, v = torch.linalg.svd(block.self_attn.o_proj.weight[:, own] @ w_v)
    for sign in (1, -1):  # which of both is a convention
        if ends(unembedding @ (final * u[:, 0] * sign))[0] == found["writes"]:
            read = embeddings @ (block.input_layernorm.weight * v[0] * sign)
            assert found["reads"] == ends(read)[0]
            break
    else:
        raise AssertionError("it writes neither direction")
    assert np.isfinite(found["size"])


def test_what_is_refused():
    _, lm, *_ = asked("llama", count=1)
    for units, how, error, said in (
        (["a0.h1"], {}, UnitError, "no component of a map"),
        (["m1.down"], {}, UnitError, "no single component"),
        (["m1.down.c0"], {"tokens": 0}, MethodError, "at least 1"),
    ):
        with pytest.raises(error, match=said):
            vc.reading.component_words(lm, units, **how)

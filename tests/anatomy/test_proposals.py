"""An anatomy read off a model's modules has the parts that its family's own entry names."""

import pytest
import tiny_models
import torch

from veracausa.anatomy import FAMILIES, NoNorm, decoder_of, proposals
from veracausa.errors import ArchitectureError

PARTS = (
    *("attention", "attention_out", "projections", "mlp", "down", "acting", "up", "up_fused", "attention_norm", "qkv"),
    *("mlp_norm", "attention_post_norm", "mlp_post_norm", "qk_norms", "parallel", "attention_factor", "mlp_factor"),
)


def parts_of(decoder):
    """Modules and flags of the first block, and the ends."""
    block = decoder.blocks[0]
    ends = (decoder.backbone, decoder.embeddings, decoder.final_norm, decoder.unembedding)
    numbers = (decoder.logit_softcap, decoder.logit_scale, decoder.positions, decoder.anatomy.attention_gives)
    parts = {part: getattr(block, part) for part in PARTS}
    parts = {part: None if isinstance(one, NoNorm) else one for part, one in parts.items()}
    return parts | {"ends": ends, "numbers": numbers}


@pytest.mark.parametrize(
    "family",
    [
        *("gpt2", "llama", "gpt_neox", "gpt_neox-sequential", "gemma2", "gemma3", "qwen3", "phi", "phi3", "cohere"),
        *("glm4", "granite", "granite_swa", "olmo", "olmo2", "stablelm", "gpt_bigcode"),
    ],
)
def test_one_of_them_is_the_familys_own(family):
    hf = tiny_models.make(family, seed=1, dtype=torch.float32)
    known, found = parts_of(decoder_of(hf)), [parts_of(decoder_of(hf, own)) for own in proposals(hf)]
    assert 1 <= len(found) <= 3
    assert known in found, [
        {part: (one[part], known[part]) for part in known if one[part] != known[part]} for one in found
    ]


@pytest.mark.parametrize(
    ("family", "part"), [("mixtral", "MLP of Mixtral"), ("deepseek_v3", "2 linear maps"), ("opt", "MLP of OPT")]
)
def test_what_cannot_be_told_is_named(family, part):
    with pytest.raises(ArchitectureError, match=part):
        proposals(tiny_models.make(family, seed=1, dtype=torch.float32))


def test_only_what_differs_from_llama_is_said():
    (own,) = proposals(tiny_models.make("qwen3", seed=1, dtype=torch.float32))
    assert own == {"like": "llama"}
    assert set(own) <= {"like", *vars(FAMILIES["llama"])}


def test_the_model_is_left_as_it_was():
    hf = tiny_models.make("llama", seed=1, dtype=torch.float32)
    before = {name: weight.clone() for name, weight in hf.named_parameters()}
    proposals(hf)
    assert not any(one._forward_hooks for one in hf.modules())
    assert all(torch.equal(weight, before[name]) for name, weight in hf.named_parameters())

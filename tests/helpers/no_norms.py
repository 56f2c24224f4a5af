"""A random model of the compiled family: no norms, so that the logits read the stream linearly."""

from __future__ import annotations

import torch

from veracausa.anatomy import decoder_of
from veracausa.ground_truth.compiled import CompiledConfig, CompiledForCausalLM
from veracausa.model import Model


def random_compiled(seed: int = 0) -> Model:
    """A model of this family whose every weight matters, and which is no program."""
    config = CompiledConfig(
        vocab_size=30, outputs=5, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        head_dim=6, attn_implementation="sdpa",
    )  # fmt: skip
    hf = CompiledForCausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return Model(hf, None, "random", "random weights", decoder_of(hf))

"""Tiny models whose positions depend on the prompt's length."""

import tiny_models
from bridges import as_model

ORIGINAL, LENGTH, FIRST = 32, 64, 20
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": ORIGINAL,
    "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
KINDS = {
    "longrope": ("llama", {"rope_parameters": LONGROPE, "max_position_embeddings": LENGTH}),
    "dynamic": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": ORIGINAL}),
    "qwen3 dynamic": ("qwen3", {"rope_parameters": DYNAMIC, "max_position_embeddings": ORIGINAL}),
    # two rotary embeddings: only that of the global layers depends on the length
    "gemma3 longrope": ("gemma3", {
        "rope_parameters": {"sliding_attention": PLAIN, "full_attention": LONGROPE}, "sliding_window": 40,
    }),
}  # fmt: skip


def long_model(kind):
    family, settings = KINDS[kind]
    return as_model(tiny_models.make(family, seed=1, **settings), family)

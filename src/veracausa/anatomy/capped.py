"""Attention scores that have a cap, as in Gemma 2: c · tanh(scores / c), which sdpa does not compute."""

from __future__ import annotations

from typing import Any

from veracausa.errors import MethodError


def has_cap(config: Any) -> bool:
    """Whether attention scores are capped."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def require_cap(config: Any, title: str, chosen: str | None) -> None:
    """Check that capped scores are not left to sdpa: `chosen`, the attention function.

    Newer transformers refuse it for such models; older ones leave the cap out without a word.

    Raises:
        MethodError: they are.
    """
    if chosen == "sdpa" and has_cap(config):
        raise MethodError(
            f"{title} has a cap on its attention scores, which sdpa leaves out: that is another model. "
            "Load it with attn_implementation='eager', or call set_attn_implementation('eager') on it."
        )

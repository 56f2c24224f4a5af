"""Attention modules that attend by themselves, family by family: each with a bridge to a function chosen by name.

What a bridge computes is compared with the module's own forward by every contract, since bare runs are of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from veracausa.anatomy.bridges import Attend, Bridge
from veracausa.errors import ArchitectureError


def within(settings: Callable[[Any], dict[str, Any]]) -> Bridge:
    """Of modules that attend in a method `_attn(query, key, value, attention_mask)`: only that is stood in for.

    Their scores are in float32 at least. `settings(module)`: of the attention function.
    """

    def bridge(module: Any, attend: Attend, own: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        reached = False

        def attended(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
            nonlocal reached
            reached, wide = True, torch.promote_types(value.dtype, torch.float32)
            return attend(query.to(wide), key.to(wide), value, **settings(module)).transpose(1, 2), None

        before = vars(module).get("_attn")
        vars(module)["_attn"] = attended
        try:
            output: tuple[Any, ...] = own(*args, **kwargs)
        finally:
            if before is None:
                vars(module).pop("_attn", None)
            else:
                vars(module)["_attn"] = before
        if not reached:
            raise ArchitectureError(
                f"{type(module).__name__} attends by a kernel that has no inside. Load the model with "
                "attn_implementation='eager'."
            )
        return output

    return bridge


def _gpt_neo_settings(module: Any) -> dict[str, Any]:
    """Scores are not scaled; a local layer sees a window."""
    local = module.attention_type == "local"
    return {"scaling": 1.0, "sliding_window": module.config.window_size if local else None}


gpt_neo = within(_gpt_neo_settings)

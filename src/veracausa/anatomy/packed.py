"""4-bit weights of bitsandbytes stay as they are while a model is borrowed.

On a CPU with bfloat16 instructions their first run without gradients packs them anew, in place: no gradient passes
through what is packed (an estimate would be 0), and unpacking, which saving them does, gives other weights back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from veracausa.errors import ArchitectureError

#: bitsandbytes' switch for it, on each of its linear maps.
SWITCH = "support_avx512bf16_for_cpu"


def require_unpacked(hf: nn.Module) -> None:
    """Check that no run has packed weights anew; before they are read, which would change them.

    Raises:
        ArchitectureError: one has; names the first module.
    """
    for name, module in hf.named_modules():
        state: Any = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ArchitectureError(
                f"A run without gradients has packed the 4-bit weights of {name} anew for this CPU, and bitsandbytes "
                f"has no way back. Load the model again and, before it runs, set {SWITCH} = False on all its modules "
                "that have it (veracausa's own runs do), or use a GPU."
            )


@contextmanager
def unpacked(hf: nn.Module) -> Iterator[None]:
    """Let nothing be packed inside."""
    packing = [module for module in hf.modules() if vars(module).get(SWITCH)]
    try:
        for module in packing:
            vars(module)[SWITCH] = False
        yield
    finally:
        for module in packing:
            vars(module)[SWITCH] = True

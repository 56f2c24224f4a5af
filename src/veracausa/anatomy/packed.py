"""Packed weights: what passes through a linear map that has some, and 4-bit weights stay as they are in a call.

A packed map may give its values without a gradient. Exact effects need none; estimates would miss all that goes through
it, without a word, so they are refused.

On a CPU with bfloat16 instructions the first run of bitsandbytes' 4-bit weights without gradients packs them anew, in
place: no gradient passes through what is packed, and unpacking, which saving them does, gives other weights back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from veracausa.anatomy.linear import is_plain, linear_shape
from veracausa.errors import ArchitectureError, MethodError
from veracausa.placed import home_of

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


def passed_by(module: Any, shape: tuple[int, int], hf: nn.Module) -> str:
    """What passes through a linear map of [outputs, inputs]: "gradients", "values" alone, "rounded" ones, or "".

    ("": it does not run.) Without the user's hooks on it; a value or a gradient that is not finite does not pass.
    """
    dtype = next(hf.parameters()).dtype
    with torch.inference_mode(False), torch.enable_grad():
        given = torch.ones(1, 1, shape[1], dtype=dtype, device=home_of(hf), requires_grad=True)
        try:
            output = module.forward(given)
        except Exception:
            return ""
        real = output.shape[-1] == shape[0] and output.is_floating_point()
        if not real or not bool(output.isfinite().all()):
            return ""
        if _rounds(module, given.detach()):
            return "rounded"
        try:
            (gradient,) = torch.autograd.grad(output.sum(), given)
        except Exception:
            return "values"
    return "gradients" if bool(gradient.isfinite().all()) else "values"


@torch.no_grad()
def _rounds(module: Any, like: torch.Tensor) -> bool:
    """Whether a map loses small numbers beside a large one: it rounds what it is given, token by token.

    One input is 1, all others are 2⁻¹⁰, each with the sign of its weight to the first output: eight bits drop them all.
    """
    inputs = like.shape[-1]
    zero, unit = torch.zeros_like(like), torch.eye(inputs, dtype=like.dtype, device=like.device)
    weight = (module.forward(unit[:, None]) - module.forward(zero))[:, 0, 0].double()
    small = weight.sign() * 2.0**-10
    one = int(weight.abs().argmin())
    small[one] = 1.0
    added = (module.forward(small.to(like)[None, None]) - module.forward(zero))[0, 0, 0].double() - weight[one]
    small[one] = 0.0
    return bool((added - weight @ small).abs() > 0.5 * (weight @ small).abs())


def without_gradient(hf: nn.Module) -> list[tuple[str, nn.Module]]:
    """Packed linear maps through which no gradient passes, by name; one of each class is run."""
    told: dict[tuple[type, type], str] = {}
    found = []
    for name, module in hf.named_modules():
        shape, weight = linear_shape(module), getattr(module, "weight", None)
        if shape is None or weight is None or is_plain(weight):
            continue
        kind = type(module), type(getattr(weight, "data", weight))
        if kind not in told:
            told[kind] = passed_by(module, shape, hf)
        if told[kind] == "values":
            found.append((name, module))
    return found


@contextmanager
def without_estimates(hf: nn.Module) -> Iterator[None]:
    """Inside, a run that wants a gradient through a map that passes none raises MethodError."""

    def refusing(name: str, module: nn.Module) -> Any:
        def refuse(_: Any, args: tuple[Any, ...]) -> None:
            if torch.is_grad_enabled() and any(getattr(one, "requires_grad", False) for one in args):
                raise MethodError(
                    f"No gradient passes through {name} ({type(module).__name__}, packed weights), so estimates and "
                    "all else that follows gradients would miss what goes through it. Ask for exact effects "
                    "(vc.exact), or load the model unquantised."
                )

        return module.register_forward_pre_hook(refuse)

    handles = [refusing(*one) for one in without_gradient(hf)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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

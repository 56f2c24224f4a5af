"""The linear map that a module is, as it runs: y = x W + b.

Edges, neurons and circuits are told by weights (a head writes z W_O, a gradient comes back through W_Vᵀ). A plain
`nn.Linear` or GPT-2 `Conv1D` has them. Of any other module (an adapter beside a weight, a hook that scales, a quantised
layer) they are read off what it does: W by running it on the unit vectors, b at zero, and random inputs of two sizes
tell whether it is such a map at all.

Cost of reading a map: one run of the module over as many tokens as it has inputs, once a call and only if it is asked
for; that of a plain module nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from veracausa.anatomy.found import Found
from veracausa.placed import weight_of

if TYPE_CHECKING:
    from jaxtyping import Float

#: Unit vectors times this are run, so that W is not lost in the rounding of a larger b; a power of two.
_SIZE = 2.0**8
#: Rows that are run at once, and sizes of the random inputs.
_ROWS, _PROBES = 512, (1.0, 30.0)
#: How far off a map may be, as a share of its largest output, by the bits of its outputs.
_OFF = {64: 1e-6, 32: 1e-4}


@dataclass(frozen=True)
class LinearMap:
    """`weight` W, `bias` b; `off`: how far the module is from such a map, or None if it is one."""

    weight: Float[Tensor, "inputs outputs"]
    bias: Float[Tensor, " outputs"] | None
    off: float | None = None


def linear_map(found: Found, module: nn.Module, inputs: int, before: bool) -> LinearMap:
    """The map of a module with so many inputs; `before`: its pre-hooks belong to it (see `found`)."""
    conv = (type(module).__name__, type(module).__module__) == ("Conv1D", "transformers.pytorch_utils")
    if (conv or type(module) is nn.Linear) and is_plain(module.weight) and found.untouched(module):
        weight, bias = (weight_of(module, name, found.home) for name in ("weight", "bias"))
        assert weight is not None
        return LinearMap(weight if conv else weight.T, bias)

    def run(x: Tensor) -> Tensor:
        return found.run(module, x[:, None], before=before)[:, 0]

    def read() -> LinearMap:
        own = getattr(module, "weight", None)
        like = own if own is not None and is_plain(own) else found.like
        return _read(run, inputs, torch.empty(0, dtype=like.dtype, device=found.home or like.device))

    made: LinearMap = found.remembered("linear map", module, read)
    return made


def is_plain(weight: object) -> bool:
    """Whether a weight is a floating-point tensor of at least 16 bits, whole: not packed, not spread."""
    if not isinstance(weight, Tensor) or type(weight.data) is not Tensor:
        return False
    return weight.is_floating_point() and weight.element_size() >= 2


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """[outputs, inputs] of a module that says how many it has, whatever its weight looks like; None of another."""
    for outputs, inputs in (("out_features", "in_features"), ("outfeatures", "infeatures")):
        shape = getattr(module, outputs, None), getattr(module, inputs, None)
        if isinstance(shape[0], int) and isinstance(shape[1], int):
            return shape[0], shape[1]
    return None


def numbers_of(module: nn.Module) -> int:
    """How many weights a linear map has, also where they are packed."""
    shape = linear_shape(module)
    return int(module.weight.numel()) if shape is None else shape[0] * shape[1]  # type: ignore[operator]


@torch.no_grad()
def _read(run: Callable[[Tensor], Tensor], inputs: int, like: Tensor) -> LinearMap:
    bias = run(like.new_zeros(1, inputs))[0]
    rows = []
    for part in torch.arange(inputs, device=like.device).split(_ROWS):
        unit = like.new_zeros(len(part), inputs)
        unit[torch.arange(len(part), device=like.device), part] = _SIZE
        rows.append((run(unit) - bias) / _SIZE)
    weight = torch.cat(rows)
    drawn = torch.randn(len(_PROBES), 2, inputs, generator=torch.Generator().manual_seed(0))
    probes = (drawn * torch.tensor(_PROBES)[:, None, None]).flatten(0, 1).to(like)
    output, wide = run(probes), torch.promote_types(like.dtype, torch.float32)
    error = (probes.to(wide) @ weight.to(wide) + bias.to(wide) - output).abs().amax(-1)
    off = float((error / output.to(wide).abs().amax(-1).clamp_min(1e-30)).max())
    info = torch.finfo(output.dtype)
    return LinearMap(weight, bias, None if off <= _OFF.get(info.bits, 8 * info.eps) else off)

"""LoRA adapters on the linear maps of a block: what each adds to its map's output.

    y = W x + Σ_i s_i B_i A_i x

The sum is over the adapters that are active; it is the map's *contribution*, and a layer's contributions side by side,
in the order of its modules, are one site. They are read, and set, at what the B_i give, so that the map itself and its
module's own code stay as they are. Which adapters are active is asked anew in every call.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from veracausa.anatomy.block import Block
from veracausa.errors import ArchitectureError
from veracausa.module_names import module_index

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class AdaptedMap:
    """A linear map with active adapters.

    `name`: its own within the block, with that of what it is in where a block has several of the name; `index`: that
    name as a number. `width`: of its output. `adding`: the maps B of its adapters, each with its scale s.
    """

    name: str
    index: int
    module: Any
    width: int
    adding: tuple[tuple[nn.Module, float], ...]


@dataclass(frozen=True, eq=False)
class Adapted:
    """The adapted maps of one block, side by side.

    >>> adapted_of(block).numbers(module_index("q_proj"))
    """

    layer: int
    maps: tuple[AdaptedMap, ...]

    @property
    def width(self) -> int:
        """Numbers of the site at one position."""
        return sum(one.width for one in self.maps)

    @property
    def slices(self) -> list[slice]:
        """Which of the site's numbers each map's are."""
        ends = [0, *accumulate(one.width for one in self.maps)]
        return [slice(a, b) for a, b in pairwise(ends)]

    def parts(self, index: Int[np.ndarray, " units"]) -> Int[np.ndarray, " units"]:
        """Which of the maps each unit is."""
        known = [one.index for one in self.maps]
        return np.array([known.index(int(one)) for one in index], dtype=np.int64)

    def numbers(self, index: int) -> slice:
        """Which of the site's numbers one unit is; all of the layer's adapters together (−1)."""
        return slice(self.width) if index < 0 else self.slices[int(self.parts(np.array([index]))[0])]

    def spread(self, share: Float[Tensor, "rows parts"]) -> Float[Tensor, "rows site"]:
        """Shares of maps as shares of the site's numbers; one column is of all of them."""
        if share.shape[1] == 1 and len(self.maps) != 1:
            return share.expand(-1, self.width)
        widths = torch.tensor([one.width for one in self.maps], device=share.device)
        return share[:, : len(self.maps)].repeat_interleave(widths, 1)


def adapted_of(block: Block) -> Adapted:
    """The adapted maps of a block as they are now; none of what is switched off.

    Raises:
        ArchitectureError: an adapter of another kind, or one that no unit can be; names it and says why.
    """
    found: list[AdaptedMap] = []
    experts = block.mixture.experts if block.mixture is not None else None
    inside = set() if experts is None else set(experts.modules())
    counts = Counter(_own_names(block.module))
    for path, module in block.module.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if "BaseTunerLayer" not in kinds or bool(getattr(module, "disable_adapters", False)):
            continue
        active = [one for one in module.active_adapters if one in getattr(module, "lora_A", ())]
        if "LoraLayer" in kinds and not active:
            continue
        why = _why_not(module, kinds, active) or ("it is on experts" if module in inside else "")
        owner, _, own = path.rpartition(".")
        name = own if counts[own] == 1 else f"{owner.rpartition('.')[2]}.{own}"
        index = module_index(name)
        if why or index is None or any(one.index == index for one in found):
            raise ArchitectureError(
                f"The adapter on `{path}` of block {block.layer} is no unit: {why or f'{name!r} is no name for one'}. "
                "Merge it (model.merge_and_unload()) to ask for others, or switch it off there and measure, as "
                "docs/wrapped.md shows."
            )
        lora: Any = module
        adding = tuple((lora.lora_B[one], float(lora.scaling[one])) for one in active if float(lora.scaling[one]))
        if adding:
            found.append(AdaptedMap(name, index, lora, int(lora.out_features), adding))
    return Adapted(block.layer, tuple(found))


def _own_names(module: nn.Module) -> list[str]:
    """The last names of the modules in a block, without what is in adapters."""
    beside = (".base_layer", ".lora_")
    paths = [path for path, _ in module.named_modules() if not any(part in f".{path}" for part in beside)]
    return [path.rpartition(".")[2] for path in paths]


def _why_not(module: Any, kinds: set[str], active: list[str]) -> str:
    """Why an adapter is no unit; "" if it is one."""
    what = f"{type(module).__module__.rpartition('.')[0].rpartition('.')[2]} {type(module).__name__}"
    if "LoraLayer" not in kinds or "AdaLoraLayer" in kinds or "ParamWrapper" in kinds:
        return f"it is a {what}, and only what a LoRA adds to a linear map's output is told"
    if getattr(module, "merged", False):
        return "it is merged into the weights"
    if not hasattr(module, "lora_B") or not all(one in module.lora_B for one in active):
        return f"a {what} adds nothing to a linear map's output"
    variants = [type(module.lora_variant[one]).__name__ for one in active if one in getattr(module, "lora_variant", ())]
    return f"it does more than add s · B(A x) ({variants[0]})" if variants else ""

"""Names of LoRA adapters as units: `lora3.q_proj`, or `lora3.mlp.c_proj` where a block has two maps of the name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from veracausa.module_names import NAME, module_index
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model

_ADAPTER = re.compile(rf"lora(0|[1-9][0-9]{{0,9}})\.({NAME})")


def parse_adapter(stem: str) -> tuple[str, int, int] | None:
    """("adapters", layer, index) of a name without a position, if it is an adapter's."""
    match = _ADAPTER.fullmatch(stem)
    index = module_index(match[2]) if match else None
    return None if match is None or index is None else ("adapters", int(match[1]), index)


def all_adapters(lm: Model) -> Units:
    """Every adapter, layer by layer, in the order of its modules."""
    lm.decoder.require("adapters")
    rows = [(layer, one.index) for layer, found in lm.decoder.adapters.items() for one in found.maps]
    layer, index = np.array(rows, dtype=np.int64).T
    return Units("adapters", layer, index, np.full(len(layer), -1))


def lacking_adapters(lm: Model, layer: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Which units no layer has; of coalitions (below 0) it is not asked."""
    known = {(at, one.index) for at, found in lm.decoder.adapters.items() for one in found.maps}
    return np.array([i >= 0 and (at, i) not in known for at, i in zip(layer.tolist(), index.tolist(), strict=True)])


def adapters_told(lm: Model) -> str:
    """ "its adapters are lora0 on q_proj, v_proj; …", for messages."""
    found = lm.decoder.adapters
    told = [f"lora{layer} on {', '.join(one.name for one in each.maps)}" for layer, each in [*found.items()][:3]]
    more = f" and {len(found) - 3} more layers" if len(found) > 3 else ""
    return f"its adapters are {'; '.join(told)}{more}"

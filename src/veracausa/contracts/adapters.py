"""What must hold of LoRA adapters: switched off all together they leave the model without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.effects.exact import exact
from veracausa.engine.guard import borrowed, hooks
from veracausa.engine.measure import pair_ids
from veracausa.engine.readout import Readout
from veracausa.engine.recording import record
from veracausa.errors import ArchitectureError

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def has_adapters(lm: Model) -> bool:
    """Whether the model has adapters that are units."""
    try:
        return bool(lm.decoder.adapters)
    except ArchitectureError:
        return False


def all_off_is_the_model_without(lm: Model, task: Task) -> float:
    """The effect of all adapters of all layers together at zero, against a bare run of the maps that they are on."""
    decoder, layers = lm.decoder, lm.decoder.adapters
    ours = exact(
        lm, task, units=["+".join(f"lora{layer}" for layer in layers)] if len(layers) > 1 else "layer_adapters",
        ablation="zero", show_progress=False,
    )  # fmt: skip
    ids = pair_ids(lm, task, (0,))[0]

    def inside(module: Any, args: tuple[Tensor, ...], _: Tensor) -> Tensor:
        output: Tensor = module.base_layer(*args)
        return output

    maps = [one.module for found in layers.values() for one in found.maps]
    with borrowed(decoder), torch.no_grad():
        state, _ = record(decoder, ids)
        with hooks(*(module.register_forward_hook(inside) for module in maps)):
            without, _ = record(decoder, ids)
    read = Readout.of(lm, task, (0,), state)
    return float((read.of_state(without) - read.of_state(state) - ours.values[0, 0].to(lm.device)).abs().max())

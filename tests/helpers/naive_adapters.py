"""LoRA adapters by whole runs of the plain PEFT model with hooks: what one adds is its module's output less that of the
map inside. Nothing here knows veracausa."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


def adapters(block: nn.Module) -> dict[str, nn.Module]:
    """Path within the block → the module of each adapter that is on."""
    found = block.named_modules()
    return {path: one for path, one in found if hasattr(one, "lora_A") and not one.disable_adapters}


def run(model, ids: Sequence[int], *hooked: tuple[nn.Module, object]) -> Tensor:
    """Logits of the last position, with forward hooks."""
    with ExitStack() as stack, torch.no_grad():
        for module, hook in hooked:
            stack.callback(module.register_forward_hook(hook).remove)
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


def added(model, ids: Sequence[int], module: nn.Module) -> Tensor:
    """What an adapter adds in a run."""
    kept: list[Tensor] = []
    run(model, ids, (module, lambda m, args, output: kept.append(output - m.base_layer(*args))))
    return kept[-1]


def setting(new: Tensor | None, positions=slice(None)):
    """A hook under which an adapter adds something else at some positions: `new`, or nothing."""

    def hook(module, args, output):
        base = module.base_layer(*args)
        now = (base if new is None else base + new.view_as(base)).reshape(1, -1, base.shape[-1])
        own = output.clone().reshape(now.shape)
        own[:, positions] = now[:, positions]
        return own.view_as(output)

    return hook


@contextmanager
def without(modules: Sequence[nn.Module]):
    """B of these adapters is zero inside, in place."""
    kept: Mapping[nn.Module, Tensor] = {
        part.weight: part.weight.detach().clone() for module in modules for part in module.lora_B.values()
    }
    try:
        for weight in kept:
            weight.data.zero_()
        yield
    finally:
        for weight, values in kept.items():
            weight.data.copy_(values)

"""Borrow the user's model and give it back as it was, also after an exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from veracausa.anatomy import Decoder
from veracausa.engine.precision import precision_of
from veracausa.engine.uncompiled import uncompiled


@contextmanager
def borrowed(decoder: Decoder) -> Iterator[None]:
    """Evaluation mode and frozen parameters inside; training modes and `requires_grad` restored after.

    Parameters are frozen so that gradients flow to activations only (half the cost of a usual backward pass).
    Autocast is switched off: a run's precision is the model's own. The caller's inference mode is left, since gradients
    are impossible in it. How the user left each part is written down (`anatomy.found`), and so is the precision in
    which the model computes (`precision`). What the user compiled in place is run as it is written (`uncompiled`).
    """
    hf: nn.Module = decoder.hf
    training = {module for module in hf.modules() if module.training}
    trainable = [parameter for parameter in hf.parameters() if parameter.requires_grad]
    device = next(hf.parameters()).device.type
    try:
        hf.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        with (
            uncompiled(hf),
            torch.autocast(device, enabled=False),
            torch.inference_mode(False),
            decoder.found.kept(decoder.parts),
        ):
            precision_of(decoder)
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def attention_function(decoder: Decoder, name: str) -> Iterator[None]:
    """Let the blocks use the attention function called `name`; the user's choice is restored after."""
    configs: list[Any] = list({id(block.attention.config): block.attention.config for block in decoder.blocks}.values())
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


@contextmanager
def hooks(*handles: Any) -> Iterator[None]:
    """Forward hooks that are gone when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

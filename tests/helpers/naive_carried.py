"""What mixers carry, exchanged by hand in the model's own cache: plain Hugging Face runs, nothing of veracausa.

The first tokens of a prompt are run with a cache, one layer's state (or taps) in it is exchanged, and the rest is run
on from there, token by token, as `generate` would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class Cached:
    """A run that stopped behind `position`, with what it carries."""

    def __init__(self, hf: Any, tokens: Sequence[int], position: int) -> None:
        self.hf, self.tokens, self.position, self.run = hf, tokens, position, 0
        self.cache = DynamicCache(config=hf.config)
        self.name = "cache_params" if hf.config.model_type in ("mamba", "mamba2", "falcon_mamba") else "past_key_values"
        self._run(tokens[: position + 1])

    def _run(self, tokens: Sequence[int]) -> Tensor:
        call: dict[str, Any] = {self.name: self.cache, "input_ids": torch.tensor([tokens])}
        if self.name == "past_key_values":  # Bamba asks its first layer's cache, a mixer's, how many tokens there were
            call["position_ids"] = torch.arange(self.run, self.run + len(tokens))[None]
        with torch.no_grad():
            found = self.hf(use_cache=True, **call)
        self.run += len(tokens)
        return found.logits[0, -1]

    def carried(self, layer: int, what: str) -> dict[int, Tensor]:
        """The state, or the taps, of a layer's mixer."""
        own = self.cache.layers[layer]
        return own.recurrent_states if what == "state" else own.conv_states

    def exchange(self, layer: int, what: str, other: Cached | None) -> None:
        """Another run's in its place, or zeros."""
        mine = self.carried(layer, what)
        for number in mine:
            mine[number] = torch.zeros_like(mine[number]) if other is None else other.carried(layer, what)[number]

    def rest(self) -> Tensor:
        """Logits of the last position."""
        for token in self.tokens[self.position + 1 :]:
            logits = self._run([token])
        return logits


class Recurrent(Cached):
    """The same of RecurrentGemma, whose modules keep what they carry as attributes, for one run at a time."""

    def __init__(self, hf: Any, tokens: Sequence[int], position: int) -> None:
        super().__init__(hf, tokens, position)
        self.kept = [vars(m).copy() for m in hf.modules()]
        self.blocks = [layer.temporal_block for layer in hf.model.layers]

    def _at(self, layer: int, what: str) -> tuple[Any, str]:
        block = self.blocks[layer]
        return (block.rg_lru, "recurrent_states") if what == "state" else (block, "conv1d_state")

    def carried(self, layer: int, what: str) -> dict[int, Tensor]:
        module, name = self._at(layer, what)
        return {0: self.kept[[*self.hf.modules()].index(module)][name]}

    def exchange(self, layer: int, what: str, other: Cached | None) -> None:
        for module, kept in zip(self.hf.modules(), self.kept, strict=True):  # both runs went through the same modules
            vars(module).update({name: kept[name] for name in ("recurrent_states", "conv1d_state") if name in kept})
        module, name = self._at(layer, what)
        mine = self.carried(layer, what)[0]
        setattr(module, name, torch.zeros_like(mine) if other is None else other.carried(layer, what)[0].clone())


def _kind(hf: Any) -> type[Cached]:
    return Recurrent if hf.config.model_type == "recurrent_gemma" else Cached


def whole(hf: Any, tokens: Sequence[int]) -> Tensor:
    """Logits of the last position, without a cache."""
    with torch.no_grad():
        return hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]


def rounding(hf: Any, tokens: Sequence[int], position: int) -> float:
    """How far a cached run is from a whole one: its steps take decays in float32, and sum in another order."""
    return float((_kind(hf)(hf, tokens, position).rest() - whole(hf, tokens)).abs().max())


def exchanged(
    hf: Any, clean: Sequence[int], other: Sequence[int] | None, layer: int, what: str, position: int
) -> Tensor:
    """Logits of `clean`'s last position where a layer carries away from `position` what it carries in `other`."""
    kind = _kind(hf)
    source = None if other is None else kind(hf, other, position)
    run = kind(hf, clean, position)
    run.exchange(layer, what, source)
    return run.rest()

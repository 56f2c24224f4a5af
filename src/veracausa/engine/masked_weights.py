"""The weights of attention and MLPs as one row of numbers, and other ones in their places for the time of a run.

Counted are the matrices and biases of all linear maps in blocks' attentions and MLPs; embeddings, norms, the
unembedding and other parameters are not. A tensor that stands in a weight's place may carry a graph, so that a run's
gradient reaches what it was made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from veracausa.anatomy import Decoder
from veracausa.anatomy.linear import is_plain
from veracausa.errors import ArchitectureError

if TYPE_CHECKING:
    from jaxtyping import Float

_NAMES = ("weight", "bias")


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of a decoder: `places`, name → the module and which of its parameters; in the model's order.

    >>> weights = Weights.of(lm.decoder)
    >>> with weights.standing({"model.layers.0.mlp.up_proj.weight": other}): lm.measure(task)
    """

    decoder: Decoder
    places: Mapping[str, tuple[nn.Module, str]]
    kind: str = "weights"

    @classmethod
    def of(cls, decoder: Decoder) -> Weights:
        """All weights of linear maps in blocks' attentions and MLPs.

        Raises:
            ArchitectureError: some cannot be told one by one: of mixers, experts, adapters, packed or offloaded ones.
        """
        _require_dense(decoder)
        names = {id(one): name for name, one in decoder.hf.named_parameters()}
        places: dict[str, tuple[nn.Module, str]] = {}
        for block in decoder.blocks:
            parts = (block.attention, *(block.mlp_modules if block.has_mlp else ()))
            for module in (inner for part in parts for inner in part.modules() if _linear(inner)):
                for name in _NAMES:
                    own = getattr(module, name)
                    if own is not None:
                        _require_whole(decoder, module, own)
                        places[names[id(own)]] = (module, name)
        return cls(decoder, places)

    @cached_property
    def values(self) -> dict[str, Float[Tensor, ...]]:
        """Name → the weight."""
        return {name: getattr(module, own).detach() for name, (module, own) in self.places.items()}

    @cached_property
    def counts(self) -> list[int]:
        """How many numbers each has."""
        return [one.numel() for one in self.values.values()]

    def __len__(self) -> int:
        return sum(self.counts)

    def digest(self) -> str:
        """A hash of names and shapes."""
        told = [f"{name} {list(one.shape)}" for name, one in self.values.items()]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]

    def cut(self, row: Tensor) -> dict[str, Tensor]:
        """Name → its part of a row that has a number for every weight, in its shape."""
        parts = zip(self.values.items(), row.split(self.counts), strict=True)
        return {name: own.view(one.shape).to(one.device) for (name, one), own in parts}

    def times(self, gates: Float[Tensor, " weights"]) -> dict[str, Tensor]:
        """Name → its values times gates."""
        return {name: self.values[name] * own.to(self.values[name].dtype) for name, own in self.cut(gates).items()}

    @contextmanager
    def standing(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Let other values stand in the places of weights. What was read off the model's parts is read anew."""
        found, modules = self.decoder.found, {self.places[name][0] for name in values}
        read = found.read
        found.read = {key: one for key, one in read.items() if not (isinstance(key, tuple) and key[1] in modules)}
        own = {name: self.places[name][0]._parameters[self.places[name][1]] for name in values}
        try:
            self._put(values)
            yield
        finally:
            self._put(own)
            found.read = read

    def _put(self, values: Mapping[str, Tensor | None]) -> None:
        for name, value in values.items():
            module, own = self.places[name]
            module._parameters[own] = value  # type: ignore[assignment]  # any tensor serves a forward


def _linear(module: nn.Module) -> bool:
    """Whether a module is a plain linear map: `nn.Linear`, or GPT-2's transposed one."""
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def _require_whole(decoder: Decoder, module: nn.Module, weight: Tensor) -> None:
    if not is_plain(weight) or weight.is_meta or not decoder.found.untouched(module):
        raise ArchitectureError(
            f"A weight of {type(decoder.hf).__name__} ({type(module).__name__}) is packed, offloaded or has a hook on "
            "its module, so single weights cannot be closed. Load the model plainly, in one place."
        )


def _require_dense(decoder: Decoder) -> None:
    """ArchitectureError for decoders whose blocks do not consist of an attention and an MLP of linear maps."""
    name = type(decoder.hf).__name__
    if decoder.has_mixers or decoder.has_experts:
        what = "mixers" if decoder.has_mixers else "experts"
        raise ArchitectureError(f"{name} has {what}, whose weights cannot be closed one by one yet.")
    other = [part for block in decoder.blocks for part in block.linear_parts if not _linear(part)]
    if other:
        raise ArchitectureError(
            f"{name} has a {type(other[0]).__name__} where a plain linear map is needed for single weights to be "
            "closed. Merge adapters, and load weights unpacked."
        )


def gates_of(masks: Mapping[str, Tensor], weights: Weights) -> Float[Tensor, " weights"]:
    """One row of 0 and 1 of masks by name."""
    return torch.cat([masks[name].flatten().to(weights.decoder.hf.dtype) for name in weights.places])

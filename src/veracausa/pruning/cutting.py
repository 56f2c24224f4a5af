"""Parts cut out of a model's weights, for as long as a block of code runs.

Zero: a cut part writes nothing. Its columns of the output projection (heads) or of the down projection (neurons) are 0;
of an MLP that is cut the whole down projection and its bias; of a layer both maps and their biases, so that the block
passes the stream on. The bias of an output projection stays where its attention alone is cut, since z is what is 0.

Mean: a cut part writes what it writes on average, c = E[a_u]: its columns are 0 as well, and W c is added to the bias
(one is put there where the map has none). c is the mean over all positions of all prompts that the parts were ranked
on, so it is one vector, and not one for each position as in `vc.exact(…, ablation="mean")` on prompts of one length.

No number of the user's weights is written to: other matrices stand in their place, and the own ones are put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from veracausa.anatomy.beside import NormedMLPs, TwoMLPs
from veracausa.anatomy.block import Block
from veracausa.effects.replacements import Mean
from veracausa.engine.guard import alone
from veracausa.errors import ArchitectureError
from veracausa.pruning.parts import Parts, neurons_of
from veracausa.pruning.weights import given_to, matrix, stored

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from veracausa.cost import Cost
    from veracausa.model import Model

#: What cut parts write: layer → (means of z, of the neurons and of the MLP's output); empty: nothing.
Constants = dict[tuple[str, int], Tensor]


@dataclass
class BlockCut:
    """What is cut of one block: flags of the numbers of z and of the neurons; the whole MLP; the whole block."""

    z: Bool[np.ndarray, " numbers"]
    neurons: Bool[np.ndarray, " neurons"]
    mlp: bool = False
    layer: bool = False

    @property
    def touched(self) -> bool:
        """Whether anything is cut."""
        return bool(self.z.any() or self.neurons.any() or self.mlp or self.layer)


def cut_of(lm: Model, parts: Parts, gone: Bool[np.ndarray, " parts"]) -> list[BlockCut]:
    """What is cut of every block."""
    found = [_whole(block) for block in lm.decoder.blocks]
    for at in np.flatnonzero(gone).tolist():
        kind, layer, index = parts.kinds[parts.kind[at]], int(parts.layer[at]), int(parts.index[at])
        own, block = found[layer], lm.decoder.blocks[layer]
        if kind == "neurons":
            own.neurons[index] = True
        elif kind == "mlps":
            own.mlp = True
        elif kind == "layers":
            own.z[:], own.mlp, own.layer = True, True, True
        else:
            count = {"heads": block.heads, "kv_groups": block.kv_heads, "attention": 1}[kind]
            size = len(own.z) // count
            own.z[max(index, 0) * size : (max(index, 0) + 1) * size] = True
    return found


def _whole(block: Block) -> BlockCut:
    """Nothing cut."""
    neurons = neurons_of(block) if block.has_mlp and not block.has_experts else 0
    return BlockCut(np.zeros(block.heads * block.head_dim, dtype=bool), np.zeros(neurons, dtype=bool))


def require_cuttable(lm: Model, parts: Parts) -> None:
    """Check that the parts can be cut out of the weights; see the module.

    Raises:
        ArchitectureError: weights that are packed, shared, or not where they can be changed; says which.
    """
    blocks = [lm.decoder.blocks[layer] for layer in np.unique(parts.layer).tolist()]
    maps = [one for block in blocks for one in _outputs(block, parts.kinds)]
    for module in maps:
        weight, _ = stored(module)
        if weight.device.type == "meta":
            raise ArchitectureError("Some weights are on the disk or on another device's hook; load the model whole.")
    if len({id(one) for one in maps}) < len(maps):
        raise ArchitectureError("Blocks of this model share weights, so a part of one cannot be cut out alone.")
    for block in blocks:
        _require_alone(block, parts.kinds)


def _outputs(block: Block, kinds: Sequence[str]) -> list[nn.Module]:
    """The maps that cut parts write through."""
    attention = any(kind in ("heads", "kv_groups", "attention", "layers") for kind in kinds)
    mlp = any(kind in ("neurons", "mlps", "layers") for kind in kinds)
    found = [block.attention_out] if attention and block.mixing == "attention" else []
    if mlp and block.has_mlp:
        found.append(block.mlp_out)
        given_to(block)
    return found


def _require_alone(block: Block, kinds: Sequence[str]) -> None:
    """ArchitectureError where something beside a cut part would go on in its place."""
    if ("mlps" in kinds or "layers" in kinds) and isinstance(block.mlp, (TwoMLPs, NormedMLPs)):
        raise ArchitectureError(f"Block {block.layer} has two MLPs beside each other. Cut neurons, or heads.")
    if "layers" not in kinds:
        return
    norms = [norm for norm in (block.attention_post_norm, block.mlp_post_norm) if norm is not None]
    if block.stream_scale != 1 or block.own_inputs is not None or block.attention_bias is not None:
        raise ArchitectureError(f"Block {block.layer} changes the stream beside its parts, so it cannot be cut whole.")
    if any(getattr(norm, "bias", None) is not None for norm in norms):
        raise ArchitectureError(f"A norm behind a part of block {block.layer} adds a bias, so it cannot be cut whole.")


def constants_of(lm: Model, parts: Parts, prompts: Sequence[tuple[int, ...]], cost: Cost) -> Constants:
    """Means of what the parts' sites hold, over all positions of prompts."""
    places = [place for place in ("z", "neurons", "mlp") if any(place in _AT[kind] for kind in parts.kinds)]
    found: Constants = {}
    for place in places:
        means = Mean(lm, prompts, place, False, cost).means  # type: ignore[arg-type]
        found |= {(place, layer): mean[0] for layer, mean in means.items()}
    return found


_AT = {"heads": ("z",), "kv_groups": ("z",), "attention": ("z",), "neurons": ("neurons",), "mlps": ("mlp",),
       "layers": ("z", "mlp")}  # fmt: skip


@dataclass(frozen=True)
class Changed:
    """A linear map's other weight, as [outputs, inputs], and bias."""

    module: nn.Module
    weight: Float[Tensor, "outputs inputs"]
    bias: Float[Tensor, " outputs"] | None


def changed(block: Block, cut: BlockCut, constants: Constants) -> list[Changed]:
    """The output maps of a block as they are with parts cut out."""
    found = []
    if cut.z.any():
        own = _without(block.attention_out, cut.z, constants.get(("z", block.layer)))
        none = None if own.bias is None or not cut.layer or constants else torch.zeros_like(own.bias)
        found.append(own if none is None else Changed(own.module, own.weight, none))
    if cut.mlp:
        down, mean = block.mlp_out, constants.get(("mlp", block.layer))
        weight, bias = torch.zeros_like(matrix(down)), getattr(down, "bias", None)
        constant = mean / block.down_scale if mean is not None else None if bias is None else torch.zeros_like(bias)
        found.append(Changed(down, weight, constant))
    elif cut.neurons.any():
        found.append(_without(block.mlp_out, cut.neurons, constants.get(("neurons", block.layer))))
    return found


def _without(module: nn.Module, gone: Bool[np.ndarray, " inputs"], mean: Tensor | None) -> Changed:
    """A map without some of its inputs, which then are 0, or constant."""
    own, bias = matrix(module).detach(), getattr(module, "bias", None)
    at = torch.from_numpy(gone).to(own.device)
    weight = own.masked_fill(at, 0)
    if mean is None:
        return Changed(module, weight, None if bias is None else bias.detach())
    wide = torch.promote_types(own.dtype, torch.float32)
    constant = own[:, at].to(wide) @ mean[at.to(mean.device)].to(own.device, wide)
    return Changed(module, weight, (constant if bias is None else constant + bias.detach().to(wide)).to(own.dtype))


@dataclass(eq=False)
class _Swap:
    """Parameters that stand in the place of others, and those."""

    own: list[tuple[nn.Module, str, Any]] = field(default_factory=list)

    def put(self, one: Changed) -> None:
        """Put other weights in place."""
        weight = one.weight.T.contiguous() if stored(one.module)[1] else one.weight
        for name, value in (("weight", weight), ("bias", one.bias)):
            self.own.append((one.module, name, one.module._parameters.get(name)))
            one.module._parameters[name] = None if value is None else nn.Parameter(value, requires_grad=False)

    def restore(self) -> None:
        """Put the own ones back, the last first."""
        while self.own:
            module, name, value = self.own.pop()
            module._parameters[name] = value


@contextmanager
def cut_out(lm: Model, cut: Sequence[BlockCut], constants: Constants) -> Iterator[None]:
    """The model without some parts, inside; no other thread has it meanwhile. Not within a call that has borrowed it.

    >>> with cut_out(lm, cut_of(lm, parts, ranking.cut(0.2)), {}):
    ...     lm.measure(task)
    """
    swap = _Swap()
    with alone(lm.decoder):
        try:
            for block, own in zip(lm.decoder.blocks, cut, strict=True):
                for one in changed(block, own, constants):
                    swap.put(one)
            yield
        finally:
            swap.restore()

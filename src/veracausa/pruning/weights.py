"""Sums over the weights of parts: |W|, and |W| times the norm of what each weight is given (Wanda, 2306.11695).

    Σ_ij |W_ij| ‖x_j‖₂,   ‖x_j‖₂ = sqrt(Σ_t x_jt²) over all tokens of some prompts; magnitude: without ‖x_j‖₂

Of a projection's outputs the sum over their own inputs; of an output projection's inputs the sum over all outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from veracausa.anatomy.block import Block
from veracausa.anatomy.linear import is_plain
from veracausa.engine.guard import borrowed, hooks
from veracausa.errors import ArchitectureError
from veracausa.fitting.sites import batches, run
from veracausa.pruning.parts import Parts, neurons_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.cost import Cost
    from veracausa.model import Model


def stored(module: Any) -> tuple[Tensor, bool]:
    """The weight of a linear map and whether it lies as [inputs, outputs] (GPT-2's) and not as [outputs, inputs].

    Raises:
        ArchitectureError: it is packed, or no plain linear map.
    """
    lying = (type(module).__name__, type(module).__module__) == ("Conv1D", "transformers.pytorch_utils")
    if not (lying or type(module) is nn.Linear) or not is_plain(module.weight):
        raise ArchitectureError(
            f"A {type(module).__name__} holds its weights otherwise than as a plain matrix (packed, or beside an "
            "adapter), so parts of it cannot be cut out. Load the model unquantised, and merge adapters."
        )
    return module.weight, lying


def matrix(module: nn.Module) -> Float[Tensor, "outputs inputs"]:
    """The weight of a linear map; see `stored`."""
    weight, lying = stored(module)
    return weight.T if lying else weight


def given_to(block: Block) -> tuple[list[nn.Module], list[nn.Module]]:
    """Linear maps that read for a block's attention, and for its neurons.

    Raises:
        ArchitectureError: the MLP has others than from the stream to neurons, once or twice as many.
    """
    reads = list(dict.fromkeys(block.projections))
    ups = []
    if block.has_mlp and not block.has_experts:
        inside = [one for module in block.mlp_modules for one in module.modules()]
        ups = [one for one in dict.fromkeys(inside) if one is not block.mlp_out and not [*one.children()]]
        ups = [one for one in ups if getattr(one, "weight", None) is not None]
        for one in ups:
            if matrix(one).shape[0] % neurons_of(block):
                raise ArchitectureError(f"The MLP of block {block.layer} has a {type(one).__name__} that is not "
                                        "neuron by neuron, so neurons cannot be cut out. Cut mlps.")  # fmt: skip
    return reads, ups


def weight_sums(
    lm: Model, parts: Parts, prompts: Sequence[tuple[int, ...]] | None, cost: Cost
) -> Float[np.ndarray, " parts"]:
    """The sum of every part; see the module. `prompts`: where norms are taken; None: magnitudes alone."""
    found = np.zeros(len(parts))
    norms = {} if prompts is None else _norms(lm, prompts, cost)
    for at, kind in enumerate(parts.kinds):
        for layer in np.unique(parts.layer[parts.kind == at]).tolist():
            own = (parts.kind == at) & (parts.layer == layer)
            found[own] = _of_block(lm.decoder.blocks[layer], kind, norms).cpu().numpy()
    return found


def _of_block(block: Block, kind: str, norms: dict[nn.Module, Tensor]) -> Float[Tensor, " parts"]:
    heads = _of_heads(block, norms, kind == "heads") if kind not in ("neurons", "mlps") else None
    neurons = _of_neurons(block, norms) if kind in ("neurons", "mlps", "layers") else None
    if kind in ("heads", "neurons"):
        return heads if heads is not None else neurons  # type: ignore[return-value]
    if kind == "kv_groups":
        assert heads is not None
        return heads
    return torch.stack([one.sum() for one in (heads, neurons) if one is not None]).sum()[None]


def _of_heads(block: Block, norms: dict[nn.Module, Tensor], single: bool) -> Float[Tensor, " parts"]:
    """Of every head, or (not `single`) of every group: keys and values count where they are the part's alone."""
    out = _weighed(block.attention_out, norms).sum(0).unflatten(-1, (block.heads, -1)).sum(-1)
    rows = [_weighed(part, norms).sum(1) for part in block.projections]
    sizes = (block.key_dim, block.key_dim, block.head_dim)
    counts = (block.heads, block.kv_heads, block.kv_heads)
    q, k, v = (
        block.layout.projected(kind, rows[kind], counts[kind], sizes[kind]).flatten(1).sum(-1) for kind in range(3)
    )
    found = out + q
    if single:
        return found + k + v if block.kv_heads == block.heads else found
    return found.unflatten(0, (block.kv_heads, -1)).sum(-1) + k + v


def _of_neurons(block: Block, norms: dict[nn.Module, Tensor]) -> Float[Tensor, " neurons"]:
    found = _weighed(block.mlp_out, norms).sum(0)
    for up in given_to(block)[1]:
        found = found + _weighed(up, norms).sum(1).unflatten(0, (-1, neurons_of(block))).sum(0)
    return found


def _weighed(module: nn.Module, norms: dict[nn.Module, Tensor]) -> Float[Tensor, "outputs inputs"]:
    """|W_ij| ‖x_j‖₂ in float64."""
    size = matrix(module).detach().abs().double()
    return size * norms[module] if norms else size


def _norms(lm: Model, prompts: Sequence[tuple[int, ...]], cost: Cost) -> dict[nn.Module, Tensor]:
    """‖x_j‖₂ of what every linear map of the blocks is given, over all tokens of some prompts."""
    squares: dict[nn.Module, Tensor] = {}

    def watching(module: nn.Module) -> Any:
        def add(_: Any, args: tuple[Tensor, ...]) -> None:
            own = args[0].detach().double().flatten(0, -2).square().sum(0)
            squares[module] = squares[module] + own if module in squares else own

        return module.register_forward_pre_hook(add)

    watched = [
        one
        for block in lm.decoder.blocks
        for one in (*dict.fromkeys((*block.projections, block.attention_out)), *given_to(block)[1], *_down(block))
    ]
    with borrowed(lm.decoder), torch.no_grad(), hooks(*map(watching, watched)):
        for rows in batches(prompts):
            run(lm, rows)
            cost.add(len(rows), len(rows[0]) * lm.layers)
    return {module: own.sqrt() for module, own in squares.items()}


def _down(block: Block) -> list[nn.Module]:
    return [block.mlp_out] if block.has_mlp and not block.has_experts else []

"""An ordinary smaller model, made of one whose parts are cut out: the same family, the same logits.

A config has one number of heads, of key/value heads and of neurons for all layers. A layer keeps as many as the one
that keeps most, its own in front; what it has beyond them is there and writes 0 (padding: it saves nothing). Heads are
kept by group: every kept group has as many query heads as the one that keeps most. A block that writes nothing at all
is dropped. Where the number of heads is not free (`shapes`) all stay, and those that are cut write 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from veracausa.anatomy.block import Block
from veracausa.errors import ArchitectureError
from veracausa.pruning.cutting import BlockCut, Changed, Constants, changed
from veracausa.pruning.parts import neurons_of
from veracausa.pruning.shapes import Shape, shape_of, with_biases
from veracausa.pruning.weights import given_to, matrix, stored

if TYPE_CHECKING:
    from jaxtyping import Int

    from veracausa.model import Model


@dataclass(frozen=True, eq=False)
class Kept:
    """Of every layer that stays: its number, the rows of q, of k and v (in heads), and its neurons, in order."""

    layers: tuple[int, ...]
    heads: tuple[Int[np.ndarray, " heads"], ...]
    groups: tuple[Int[np.ndarray, " groups"], ...]
    neurons: tuple[Int[np.ndarray, " neurons"], ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many a checkpoint has of each."""
        sizes = {"heads": len(self.heads[0]), "kv_heads": len(self.groups[0]), "neurons": len(self.neurons[0])}
        return {"layers": len(self.layers), **sizes}


def kept_of(lm: Model, cut: Sequence[BlockCut], outputs: Sequence[Sequence[Changed]], shape: Shape) -> Kept:
    """What stays of every layer; see the module.

    Raises:
        ArchitectureError: no layer writes anything.
    """
    blocks = lm.decoder.blocks
    stay = [block for block in blocks if not _silent(block, cut[block.layer], outputs[block.layer])]
    if not stay:
        raise ArchitectureError("Nothing is left of this model: every block writes nothing. Cut less.")
    neurons = [_left(cut[block.layer]) for block in stay]
    heads = [np.asarray(~cut[block.layer].z.reshape(block.heads, -1).all(1) | (not shape.heads)) for block in stay]
    of_groups = [one.reshape(block.kv_heads, -1) for one, block in zip(heads, stay, strict=True)]
    within = max(1, max(int(one.sum(1).max()) for one in of_groups))
    groups = _filled([np.asarray(one.any(1)) for one in of_groups])
    width = [block.heads // block.kv_heads for block in stay]
    rows = [
        np.concatenate([g * n + _first(own[g], within) for g in chosen])
        for own, chosen, n in zip(of_groups, groups, width, strict=True)
    ]
    return Kept(tuple(block.layer for block in stay), tuple(rows), tuple(groups), tuple(_filled(neurons)))


def _left(cut: BlockCut) -> np.ndarray:
    """Which neurons a layer keeps."""
    return np.zeros(len(cut.neurons), dtype=bool) if cut.mlp else np.logical_not(cut.neurons)


def _filled(kept: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Indices of what each layer keeps, as many as the one that keeps most: its own, then others that fill up."""
    most = max(1, max(int(one.sum()) for one in kept))
    return [_first(one, most) for one in kept]


def _first(kept: np.ndarray, count: int) -> np.ndarray:
    """So many indices, the kept ones before the others, then in their order."""
    return np.sort(np.argsort(~kept, kind="stable")[:count])


def _silent(block: Block, cut: BlockCut, outputs: Sequence[Changed]) -> bool:
    """Whether a block without its parts writes nothing, whatever it is given."""
    norms = [norm for norm in (block.attention_post_norm, block.mlp_post_norm) if norm is not None]
    if any(getattr(norm, "bias", None) is not None for norm in norms) or block.attention_bias is not None:
        return False
    whole = cut.z.all() and (cut.mlp or cut.neurons.all())
    biases = [one.bias for one in outputs if one.bias is not None]
    return bool(whole and len(outputs) == 2 and not any(bool(bias.any()) for bias in biases))


@torch.no_grad()
def smaller(lm: Model, cut: Sequence[BlockCut], constants: Constants) -> tuple[Any, Kept]:
    """A model of transformers without the parts, of the same class, and what it keeps.

    Raises:
        ArchitectureError: see `shapes` and `kept_of`.
    """
    shape, blocks = shape_of(lm), lm.decoder.blocks
    outputs = [changed(block, own, constants) for block, own in zip(blocks, cut, strict=True)]
    kept = kept_of(lm, cut, outputs, shape)
    biased = [
        any(
            one.bias is not None and one.module is out(blocks[layer]) for layer in kept.layers for one in outputs[layer]
        )
        for out in (lambda block: block.attention_out, lambda block: block.mlp_out)
    ]
    made = _blank(lm, _settings(lm, kept, shape) | with_biases(lm, shape, *biased))
    state = _state(lm, kept, outputs)
    wanted = made.state_dict()
    for name in wanted.keys() - state.keys():
        if not name.endswith(".bias"):
            raise ArchitectureError(f"The smaller model has {name}, which nothing of {lm.name} is.")
        state[name] = torch.zeros_like(wanted[name])  # a flag gives biases to more maps than need one
    made.load_state_dict({name: value for name, value in state.items() if name in wanted}, strict=True)
    made.generation_config = getattr(lm.hf, "generation_config", None)
    return made.eval(), kept


def _settings(lm: Model, kept: Kept, shape: Shape) -> dict[str, Any]:
    """What the smaller model's config says otherwise."""
    counts, config = kept.counts, lm.hf.config
    found: dict[str, Any] = {shape.layers: counts["layers"], shape.neurons: counts["neurons"]}
    if shape.heads:
        found |= {"num_attention_heads": counts["heads"], "num_key_value_heads": counts["kv_heads"]}
        found["head_dim"] = lm.decoder.head_dim
    for name, value in config.to_dict().items():  # one entry a layer
        if isinstance(value, list) and len(value) == lm.layers and name != "architectures":
            found[name] = [value[layer] for layer in kept.layers]
    return found


def _blank(lm: Model, settings: dict[str, Any]) -> Any:
    """A model of the same class with other numbers, whatever its weights."""
    own = lm.hf.config
    body = {name: value for name, value in own.to_dict().items() if name != "quantization_config"}
    with torch.random.fork_rng(devices=[]):
        config = type(own).from_dict(body | settings)
        made = AutoModelForCausalLM.from_config(config, attn_implementation=own._attn_implementation, dtype=lm.dtype)
    if type(made) is not type(lm.hf):
        raise ArchitectureError(
            f"{type(lm.hf).__name__} would be read as {type(made).__name__}, so it is not exported."
        )
    return made.to(lm.device)


def _state(lm: Model, kept: Kept, outputs: Sequence[Sequence[Changed]]) -> dict[str, Tensor]:
    """Names and weights of the smaller model."""
    names = {module: name for name, module in lm.hf.named_modules()}
    inner = {names[block.module]: block for block in lm.decoder.blocks}
    new = {layer: at for at, layer in enumerate(kept.layers)}
    found: dict[str, Tensor] = {}
    pieces: dict[str, Tensor] = {}
    for at, layer in enumerate(kept.layers):
        for module, weight, bias in _sliced(lm.decoder.blocks[layer], kept, at, outputs[layer]):
            pieces[f"{names[module]}.weight"] = weight
            if bias is not None:
                pieces[f"{names[module]}.bias"] = bias
    for name, value in (lm.hf.state_dict() | pieces).items():
        home = next((one for one in inner if name.startswith(f"{one}.")), None)
        if home is None:
            found[name] = value
        elif inner[home].layer in new:
            stem, _, _ = home.rpartition(".")
            found[f"{stem}.{new[inner[home].layer]}{name[len(home) :]}"] = pieces.get(name, value)
    return found


def _sliced(
    block: Block, kept: Kept, at: int, outputs: Sequence[Changed]
) -> list[tuple[nn.Module, Tensor, Tensor | None]]:
    """The maps of a layer with what is kept of them: (module, weight as it is stored, bias)."""
    other = {one.module: one for one in outputs}
    heads, groups, neurons = (torch.from_numpy(one[at]) for one in (kept.heads, kept.groups, kept.neurons))
    found = [_columns(block.attention_out, other, _spread(heads, block.head_dim))]
    found.append(_columns(block.mlp_out, other, neurons))
    if len(heads) < block.heads:
        for part, rows, size in zip(
            block.projections, (heads, groups, groups), (block.key_dim, block.key_dim, block.head_dim), strict=True
        ):
            found.append(_rows(part, _spread(rows, size)))
    count = neurons_of(block)
    for up in given_to(block)[1]:
        times = matrix(up).shape[0] // count
        found.append(_rows(up, torch.cat([neurons + k * count for k in range(times)])))
    return found


def _spread(chosen: Tensor, size: int) -> Int[Tensor, " numbers"]:
    """Numbers of so many parts, each of a size."""
    return (chosen[:, None] * size + torch.arange(size)).flatten()


def _columns(module: nn.Module, other: dict[nn.Module, Changed], chosen: Tensor) -> tuple[nn.Module, Tensor, Any]:
    own = other.get(module) or Changed(module, matrix(module), getattr(module, "bias", None))
    return module, _as_stored(module, own.weight[:, chosen.to(own.weight.device)]), own.bias


def _rows(module: nn.Module, chosen: Tensor) -> tuple[nn.Module, Tensor, Tensor | None]:
    weight, bias = matrix(module), getattr(module, "bias", None)
    at = chosen.to(weight.device)
    return module, _as_stored(module, weight[at]), None if bias is None else bias[at]


def _as_stored(module: nn.Module, weight: Tensor) -> Tensor:
    return (weight.T if stored(module)[1] else weight).contiguous()

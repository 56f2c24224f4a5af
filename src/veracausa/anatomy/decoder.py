"""A Hugging Face decoder seen as a residual stream that blocks write to.

`Decoder` and `Block` hold references to the model's own modules and say how they are glued together
(pre-norms, post-norms, parallel blocks). The contracts (`lm.check()`) compare the glue with the bare model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from veracausa.anatomy.adapters import Adapted, adapted_of
from veracausa.anatomy.anatomy import Anatomy, part_of
from veracausa.anatomy.block import Block
from veracausa.anatomy.found import Found
from veracausa.anatomy.graph import Graph, graph_of
from veracausa.anatomy.linear import LinearMap, linear_map
from veracausa.anatomy.mixture import Mixture
from veracausa.anatomy.own_inputs import sources
from veracausa.dictionaries.code import Code
from veracausa.dictionaries.words import is_coded
from veracausa.errors import ArchitectureError, ContractError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


#: Activations with a corner, in themselves or in their slope.
_CORNERED = ("ReLU", "ReLUSquaredActivation", "XIELUActivation")


@dataclass(frozen=True, eq=False)
class Decoder:
    """A whole decoder: blocks, the ends of the stream, and its sizes.

    `neurons`: of one MLP; 0 where it has none of its own. `channels`, `mixer_heads`, `states`: of a mixer its channels,
    its heads and the numbers in a channel's state; 0 where there is none. `joint`: kinds of readers that the heads of a
    block share (see `graph`). `lacks`: kinds of units that it has not, and why. `codes`: dictionaries of features that
    were laid on it, by the kind of units that these are, and layer.
    """

    anatomy: Anatomy
    hf: Any
    backbone: Any
    blocks: tuple[Block, ...]
    embeddings: nn.Module
    final_norm: nn.Module
    unembedding: nn.Module
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    neurons: int
    channels: int
    mixer_heads: int
    states: int
    logit_softcap: float | None
    logit_scale: float = 1.0
    embedding_scale: float = 1.0
    joint: tuple[str, ...] = ()
    lacks: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[tuple[str, int], Code] = field(default_factory=dict)
    found: Found = field(default_factory=Found)

    @property
    def parts(self) -> list[nn.Module]:
        """Every module that is asked what it does: linear maps, norms, activations and gates, experts, unembedding."""
        blocks = [part for b in self.blocks for part in (*b.linear_parts, b.acting, b.up) if part is not None]
        experts = [part for m in self.mixtures.values() for part in (m.experts, m.router)]
        return [*dict.fromkeys([*blocks, *experts, *self.norms, self.unembedding])]

    def embedded(self, ids: Int[Tensor, "*rows positions"]) -> Float[Tensor, "*rows positions width"]:
        """The embeddings of tokens, as the backbone takes them in the place of these."""
        found: Tensor = self.embeddings(ids)
        return found if self.embedding_scale == 1 else found * self.embedding_scale

    @property
    def mixtures(self) -> dict[int, Mixture]:
        """Layer → the experts of its MLP, where it has some."""
        return {block.layer: block.mixture for block in self.blocks if block.mixture is not None}

    @property
    def experts(self) -> int:
        """Experts of one MLP that is made of some, without a shared one; 0 where none is."""
        return next((mixture.count for mixture in self.mixtures.values()), 0)

    def require(self, kind: str) -> None:
        """Refuse a kind of units that this decoder has not.

        Raises:
            ArchitectureError: says which part does not fit.
        """
        if is_coded(kind) and not any(kind == known for known, _ in self.codes):
            here = f" Here are {', '.join(sorted({known for known, _ in self.codes}))}." if self.codes else ""
            if kind.startswith("components"):
                raise ArchitectureError(
                    f"No {kind} are laid on {type(self.hf).__name__}: name them (units=['m5.down.c*', 'a9.h6.ov0']), "
                    f"or take lm = lm.reading(*vc.components(lm, 'm5.down', …)).{here}"
                )
            raise ArchitectureError(
                f"No dictionary of {kind} is laid on {type(self.hf).__name__}: take lm = lm.reading(dictionary), or "
                f"give the call dictionary=… (--dictionary on the command line).{here}"
            )
        if kind in ("adapters", "layer_adapters") and not self.adapters:
            raise ArchitectureError(
                f"{type(self.hf).__name__} has no LoRA of PEFT on linear maps of its blocks that is switched on and "
                "unmerged, so there are no adapters to tell. (An embedding's or an unembedding's is in no layer.)"
            )
        if kind in self.lacks:
            name = type(self.hf).__name__
            what = {"shared": "shared experts", "expert_neurons": "neurons of experts"}.get(kind, kind)
            raise ArchitectureError(f"{name} has no {what} that veracausa could tell: {self.lacks[kind]}")

    @property
    def adapters(self) -> dict[int, Adapted]:
        """Layer → its adapted linear maps, as they are now; see `adapters`.

        Raises:
            ArchitectureError: an adapter that no unit can be.
        """
        return {found.layer: found for found in map(adapted_of, self.blocks) if found.maps}

    def require_stream_alone(self, what: str) -> None:
        """Refuse what takes a block's writes to follow from the stream in front of it alone.

        Raises:
            ArchitectureError: blocks have inputs of their own, or read keys and values of earlier ones.
        """
        own = any(block.own_inputs is not None for block in self.blocks)
        if own or self.shares_keys:
            why = "each of its blocks has an input of its own" if own else "blocks read keys and values of earlier ones"
            raise ArchitectureError(
                f"{type(self.hf).__name__} gives its blocks more than the stream ({why} beside it), which {what} can't "
                "follow. Take exact effects (vc.exact), or estimates by gradients at the clean run (method='atp')."
            )

    @property
    def shares_keys(self) -> bool:
        """Whether some blocks read keys and values of earlier ones."""
        return any(block.reads_keys for block in self.blocks)

    @cached_property
    def key_sources(self) -> list[int]:
        """For each block the one whose keys and values it reads."""
        return sources(self.blocks)

    @property
    def positions(self) -> int | None:
        """Positions that the model has embeddings for; None if it encodes any number of them (rotary)."""
        table = part_of(self.backbone, self.anatomy.position_table)
        if table is None:
            most = part_of(self.hf.config, self.anatomy.most_positions)
            return None if most is None else int(most)
        return int(table.weight.shape[0]) - self.anatomy.position_offset

    @property
    def key_dim(self) -> int:
        """Width of a query and of a key; of latent attention another one than that of a value."""
        return max(block.key_dim for block in self.blocks)

    @property
    def caches_latents(self) -> bool:
        """Whether a cache holds something else than the keys and values that the attention function is given."""
        return self.anatomy.qkv == "latent"

    @property
    def shares_prefixes(self) -> bool:
        """Whether a run can go on from the keys and values of the positions before it."""
        return self.anatomy.causal and not self.caches_latents and not self.has_mixers

    @property
    def has_mixers(self) -> bool:
        """Whether some blocks have a mixer, in the place of attention or beside it."""
        return any(block.mixer is not None for block in self.blocks)

    @property
    def clips(self) -> bool:
        """Whether its attention clips what projections give it (in some families in place)."""
        return bool(part_of(self.hf.config, self.anatomy.clips))

    @property
    def cached_heads(self) -> int:
        """Heads of the keys and values in the model's own cache: more than there are where it repeats each."""
        flag = self.anatomy.repeats_keys
        return self.heads if flag is not None and getattr(self.hf.config, flag) else self.kv_heads

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def has_corners(self) -> bool:
        """Whether the model has corners (ReLU, its square, clipping): along a path no grid integrates them exactly."""
        return self.clips or any(type(block.acting).__name__ in _CORNERED for block in self.blocks)

    @property
    def has_experts(self) -> bool:
        """Whether some MLP is a mixture of experts, whose choice no gradient sees."""
        return any(block.has_experts for block in self.blocks)

    @property
    def graph(self) -> Graph:
        """Its writers, readers and edges.

        Raises:
            ArchitectureError: it reads the stream in ways that edges do not name.
        """
        self.require("edges")
        return self.structure

    @cached_property
    def structure(self) -> Graph:
        """Its writers and readers, also where edges cannot be told."""
        letters = {"attention": "a", "mixer": "x"}
        blocks = tuple(
            "".join(letters[one.mixing] for one in block.mixers) + "m" * block.has_mlp for block in self.blocks
        )
        usual = set(blocks) == {"am"}
        sizes = self.layers, self.heads, self.kv_heads, self.blocks[0].parallel
        attending = [block for block in self.blocks if block.mixing == "attention"]
        differ = len({block.kv_heads for block in attending}) > 1
        return graph_of(
            *(*sizes, *((0, ()) if usual else (self.mixer_heads, blocks)), self.joint),
            kv_by_block=tuple(block.kv_heads for block in self.blocks) if differ else (),
            keys_are_values=tuple(block.layer for block in attending if block.keys_are_values),
        )

    def scale_between(self, first: int, last: int) -> float:
        """What the stream in front of block `first` is multiplied by until it is in front of block `last` (L: the end).

        1 but in families that scale the stream itself, block by block.
        """
        return math.prod(block.stream_scale for block in self.blocks[first:last])

    def writers_of(self, part: Block) -> int:
        """How many writers an attention has (its heads), or a mixer (its heads, or one); see `Block.mixers`."""
        return self.heads if part.mixing == "attention" else max(1, self.mixer_heads)

    @cached_property
    def passing(self) -> Float[np.ndarray, "places writers"] | None:
        """How many times each write the stream holds in front of each block, and at the end; None where always once."""
        if all(block.stream_scale == 1 for block in self.blocks):
            return None
        writers = self.structure.writer_layer.clip(0).tolist()
        return np.array([[self.scale_between(first, at) for first in writers] for at in range(self.layers + 1)])

    @property
    def norms(self) -> list[nn.Module]:
        """Every norm of the model: before and behind attention and MLP, of queries and keys, and the final one."""
        found = [
            norm
            for block in self.blocks
            for norm in (
                *(block.attention_norm, block.attention_post_norm, block.mlp_norm, block.mlp_post_norm),
                *block.qk_norms,
            )
            if norm is not None
        ]
        return [*dict.fromkeys([*found, self.final_norm])]

    def layers_with(self, part: str) -> list[int]:
        """Blocks that have an "attention", a "mixer", an "mlp", "experts" or "adapters"; "stream": all, and the end."""
        if part == "adapters":
            return [*self.adapters]
        if part == "experts":
            return [*self.mixtures]
        if part == "stream":
            return [*range(self.layers + 1)]
        if part == "mlp":
            return [block.layer for block in self.blocks if block.has_mlp]
        return [block.layer for block in self.blocks if any(one.mixing == part for one in block.mixers)]

    @property
    def unembedding_map(self) -> LinearMap:
        """The unembedding, from what the final norm gives to logits (before any factor and cap of theirs).

        Raises:
            ContractError: it is no linear map (see `linear`).
        """
        read = linear_map(self.found, self.unembedding, self.width, before=True)
        if read.off is not None:
            raise ContractError(
                f"The unembedding ({type(self.unembedding).__name__}) is not linear as it runs (off by {read.off:.2g} "
                "of its output), so logits cannot be read off it and nothing is returned. Remove the hook on it."
            )
        return read

    def logits(
        self, residual: Float[Tensor, "rows width"], tokens: Int[Tensor, "rows answers"] | None = None
    ) -> Float[Tensor, "rows logits"]:
        """Logits of a final residual: all of the vocabulary, or only `tokens` of each row ("only what is read").

        Computed in float32 at least, also for a bf16 model, because effects are small differences of logits.

        Raises:
            ContractError: the unembedding is no linear map (see `linear`).
        """
        return self.unembedded(self.final_norm(residual), tokens)

    def unembedded(
        self, hidden: Float[Tensor, "rows width"], tokens: Int[Tensor, "rows answers"] | None = None
    ) -> Float[Tensor, "rows logits"]:
        """`logits` of what the final norm gave."""
        read = self.unembedding_map
        weight, bias = read.weight.T, read.bias
        exact = torch.promote_types(hidden.dtype, torch.float32)
        hidden = hidden.to(exact)
        if tokens is None:
            logits = nn.functional.linear(hidden, weight.to(exact), None if bias is None else bias.to(exact))
        else:
            logits = torch.einsum("rw,raw->ra", hidden, weight[tokens].to(exact))
            if bias is not None:
                logits = logits + bias[tokens].to(exact)
        if self.logit_scale != 1:
            logits = logits * self.logit_scale
        if self.logit_softcap is not None:
            logits = torch.tanh(logits / self.logit_softcap) * self.logit_softcap
        return logits

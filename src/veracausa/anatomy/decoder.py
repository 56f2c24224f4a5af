"""A Hugging Face decoder seen as a residual stream that blocks write to.

`Decoder` and `Block` hold references to the model's own modules and say how they are glued together
(pre-norms, post-norms, parallel blocks). Nothing of a module's forward code is re-implemented here: attention and
MLP modules are called as they are, and the contracts (`lm.check()`) compare the glue with the bare model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from veracausa.anatomy.families import FAMILIES, WRAPPERS, Anatomy, Layout
from veracausa.anatomy.found import Found
from veracausa.anatomy.graph import Graph, graph_of
from veracausa.anatomy.linear import LinearMap, linear_map
from veracausa.errors import ArchitectureError, ContractError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Block:
    """One block: the modules of layer `layer` and the order in which they read and write the residual stream."""

    layer: int
    module: nn.Module
    attention: nn.Module
    attention_out: nn.Module
    projections: tuple[nn.Module, nn.Module, nn.Module]
    qkv: Layout
    attention_norm: nn.Module
    attention_post_norm: nn.Module | None
    mlp: nn.Module
    mlp_out: nn.Module
    activation: nn.Module
    up: nn.Module | None
    mlp_norm: nn.Module
    mlp_post_norm: nn.Module | None
    qk_norms: tuple[nn.Module, ...]
    parallel: bool
    width: int
    found: Found = field(default_factory=Found)

    @property
    def linear_parts(self) -> tuple[nn.Module, ...]:
        """The modules that are read as linear maps: query, key and value projection, and those of the outputs."""
        return (*dict.fromkeys(self.projections), self.attention_out, self.mlp_out)

    @property
    def head_map(self) -> LinearMap:
        """The attention's output projection, from heads' values z; see `linear`.

        Raises:
            ContractError: it is no linear map.
        """
        return self._behind("attention output", self.attention_out)

    @property
    def head_weights(self) -> Float[Tensor, "heads_x_dim width"]:
        """W_O as [heads · head_dim, width]: rows h·d … (h+1)·d map head h's value z to its write."""
        return self.head_map.weight

    @property
    def neuron_map(self) -> LinearMap:
        """The down projection, from neurons' activations; see `head_map`."""
        return self._behind("down", self.mlp_out)

    @property
    def neuron_weights(self) -> Float[Tensor, "neurons width"]:
        """The down projection as [neurons, width]: row n is what neuron n adds to the MLP's output."""
        return self.neuron_map.weight

    def projection(self, kind: int) -> LinearMap:
        """The query (0), key (1) or value (2) projection, from the norm's output; see `linear`.

        Raises:
            ContractError: it is no linear map.
        """
        part = self.projections[kind]
        what = ("query", "key", "value")[kind] if self.qkv == "separate" else "fused query, key and value"
        return self._required(what, linear_map(self.found, part, self.width, before=True), part)

    def projection_weights(self, kind: int, heads: int, head_dim: int) -> Float[Tensor, "width heads head_dim"]:
        """Weights of the query (0), key (1) or value (2) projection, head by head."""
        return self.projected(kind, self.projection(kind).weight, heads, head_dim)

    def _behind(self, what: str, part: nn.Module) -> LinearMap:
        """The map of an output projection, whose outputs are as wide as the stream."""
        weight: Tensor = part.weight  # type: ignore[assignment]
        return self._required(what, linear_map(self.found, part, weight.numel() // self.width, before=False), part)

    def _required(self, what: str, found: LinearMap, part: nn.Module) -> LinearMap:
        if found.off is not None:
            raise ContractError(
                f"The {what} projection of block {self.layer} ({type(part).__name__}) is not linear as it runs (off by "
                f"{found.off:.2g} of its output), so what goes through it cannot be told by weights and nothing is "
                "returned. Is there a hook or an adapter on it that does more than scale, mix or shift? Remove it."
            )
        return found

    def projected(self, kind: int, output: Tensor, heads: int, head_dim: int) -> Float[Tensor, "*rows heads head_dim"]:
        """A projection's output (or a gradient of it), split into the heads of its kind: `Anatomy.qkv` says how."""
        if self.qkv == "separate":
            return output.unflatten(-1, (heads, head_dim))
        if self.qkv == "fused-thirds":
            return output.unflatten(-1, (3, heads, head_dim))[..., kind, :, :]
        return output.unflatten(-1, (heads, 3, head_dim))[..., kind, :]

    def fused(self, parts: Sequence[Float[Tensor, "*rows heads head_dim"]]) -> list[Tensor]:
        """The inverse of `projected`: outputs of the three projections (one and the same if a family fuses them)."""
        if self.qkv == "separate":
            return [part.flatten(-2) for part in parts]
        return [torch.stack(list(parts), -3 if self.qkv == "fused-thirds" else -2).flatten(-3)] * 3

    def attention_write(self, attention_output: Tensor) -> Tensor:
        """What the attention adds to the stream, given the output of its output projection."""
        return attention_output if self.attention_post_norm is None else self.attention_post_norm(attention_output)

    def mlp_write(self, mlp_output: Tensor) -> Tensor:
        """What the MLP adds to the stream, given the output of the MLP module."""
        return mlp_output if self.mlp_post_norm is None else self.mlp_post_norm(mlp_output)

    def attend(self, residual: Float[Tensor, "rows positions width"], call: dict[str, Any]) -> Tensor:
        """The attention's write for a block input, `call` being the module's keyword arguments at these positions."""
        return self.attention_write(self.attention(self.attention_norm(residual), **call)[0])

    def feed_forward(self, residual: Float[Tensor, "rows positions width"]) -> Tensor:
        """The MLP's write for the residual that it reads."""
        return self.mlp_write(self.mlp(self.mlp_norm(residual)))


@dataclass(frozen=True, eq=False)
class Decoder:
    """A whole decoder: blocks, the ends of the stream, and its sizes."""

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
    logit_softcap: float | None
    found: Found = field(default_factory=Found)

    @property
    def parts(self) -> list[nn.Module]:
        """Every module that is asked what it does: linear maps, norms, activations and gates, the unembedding."""
        blocks = [
            part for b in self.blocks for part in (*b.linear_parts, b.activation, *(() if b.up is None else (b.up,)))
        ]
        return [*dict.fromkeys([*blocks, *self.norms, self.unembedding])]

    @property
    def positions(self) -> int | None:
        """Positions that the model has learned embeddings for; None if it encodes them otherwise (rotary)."""
        table = getattr(self.backbone, "wpe", None)
        return None if table is None else int(table.weight.shape[0])

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def has_corners(self) -> bool:
        """Whether MLPs have corners (ReLU): along a path no grid integrates them exactly."""
        return isinstance(self.blocks[0].activation, nn.ReLU)

    @property
    def graph(self) -> Graph:
        """Its writers, readers and edges."""
        return graph_of(self.layers, self.heads, self.kv_heads, self.blocks[0].parallel)

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

    @property
    def unembedding_map(self) -> LinearMap:
        """The unembedding, from what the final norm gives to logits (before any cap).

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
        if self.logit_softcap is not None:
            logits = torch.tanh(logits / self.logit_softcap) * self.logit_softcap
        return logits


def _get(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name, None)
        if root is None:
            return None
    return root


def _missing_parts(hf: Any, anatomy: Anatomy) -> list[str]:
    backbone = _get(hf, anatomy.backbone)
    ends = {"backbone": backbone, "unembedding": _get(hf, anatomy.unembedding)}
    if backbone is not None:
        ends |= {role: _get(backbone, getattr(anatomy, role)) for role in ("blocks", "final_norm", "embeddings")}
    missing = [f"{role} (`{getattr(anatomy, role)}`)" for role, module in ends.items() if module is None]
    if ends.get("blocks"):
        block = ends["blocks"][0]
        missing += [f"{role} (`{path}`)" for role, path in anatomy.block_parts().items() if _get(block, path) is None]
    return missing


def _anatomy_for(hf: Any, family: str | None) -> Anatomy:
    model_type = getattr(getattr(hf, "config", None), "model_type", None)
    known = ", ".join(FAMILIES)
    if family is not None:
        if family not in FAMILIES:
            raise ArchitectureError(f"anatomy={family!r} is not a known family. Known: {known}.")
        return FAMILIES[family]
    if model_type in WRAPPERS:
        raise ArchitectureError(
            f"{type(hf).__name__} ({model_type}) is a multimodal wrapper; veracausa needs {WRAPPERS[model_type]}."
        )
    if model_type not in FAMILIES:
        lacks = _missing_parts(hf, FAMILIES["llama"])
        hint = (
            f"Seen as a Llama-like decoder it lacks {', '.join(lacks)}."
            if lacks
            else "It has the parts of a Llama-like decoder: try load(…, anatomy='llama') and let lm.check() judge."
        )
        raise ArchitectureError(
            f"The architecture {model_type!r} ({type(hf).__name__}) is not among the families that veracausa knows "
            f"({known}). {hint}"
        )
    return FAMILIES[model_type]


def decoder_of(hf: Any, family: str | None = None) -> Decoder:
    """Bind the anatomy of a Hugging Face causal LM.

    `family` overrides the lookup by `config.model_type` (for models that share a known layout under another name).

    Raises:
        ArchitectureError: an unknown family, a missing part (named), cross-attention, a bidirectional decoder.
    """
    anatomy = _anatomy_for(hf, family)
    missing = _missing_parts(hf, anatomy)
    if missing:
        raise ArchitectureError(
            f"{type(hf).__name__} is not a complete {anatomy.family} causal LM: it lacks {', '.join(missing)}. "
            "Pass the …ForCausalLM model, not its backbone, and unmodified."
        )
    config = hf.config
    for flag, what in (("add_cross_attention", "cross-attention"), ("use_bidirectional_attention", "bidirectional")):
        if getattr(config, flag, False):
            raise ArchitectureError(f"{type(hf).__name__} has {flag}=True; veracausa knows no {what} decoders.")
    backbone = _get(hf, anatomy.backbone)
    modules = _get(backbone, anatomy.blocks)
    parallel = bool(anatomy.parallel and getattr(config, anatomy.parallel))

    embeddings, found = _get(backbone, anatomy.embeddings), Found()
    width = int(embeddings.weight.shape[1])

    def optional(block: nn.Module, path: str | None) -> nn.Module | None:
        return None if path is None else _get(block, path)

    blocks = tuple(
        Block(
            layer=layer,
            module=block,
            attention=_get(block, anatomy.attention),
            attention_out=_get(block, anatomy.attention_out),
            projections=(_get(block, anatomy.q), _get(block, anatomy.k), _get(block, anatomy.v)),
            qkv=anatomy.qkv,
            attention_norm=_get(block, anatomy.attention_norm),
            attention_post_norm=optional(block, anatomy.attention_post_norm),
            mlp=_get(block, anatomy.mlp),
            mlp_out=_get(block, anatomy.mlp_out),
            activation=_get(block, anatomy.activation),
            up=optional(block, anatomy.up),
            mlp_norm=_get(block, anatomy.mlp_norm),
            mlp_post_norm=optional(block, anatomy.mlp_post_norm),
            qk_norms=tuple(norm for path in anatomy.qk_norms if (norm := _get(block, path)) is not None),
            parallel=parallel,
            width=width,
            found=found,
        )
        for layer, block in enumerate(modules)
    )
    heads = config.num_attention_heads
    inner, neurons = (part.weight.numel() // width for part in (blocks[0].attention_out, blocks[0].mlp_out))  # type: ignore
    return Decoder(
        anatomy=anatomy,
        hf=hf,
        backbone=backbone,
        blocks=blocks,
        embeddings=embeddings,
        final_norm=_get(backbone, anatomy.final_norm),
        unembedding=_get(hf, anatomy.unembedding),
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=inner // heads,
        width=width,
        neurons=neurons,
        logit_softcap=getattr(config, anatomy.logit_softcap, None) if anatomy.logit_softcap else None,
        found=found,
    )

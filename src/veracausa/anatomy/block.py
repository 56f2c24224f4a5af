"""One block of a decoder: its modules, and how its attention and its MLP read the residual stream and write to it.

Nothing of a module's forward code is re-implemented here: attention and MLP modules are called as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from veracausa.anatomy.anatomy import Layout, Mixing
from veracausa.anatomy.beside import NormedMLPs, TwoMLPs, Unflattened
from veracausa.anatomy.found import Found
from veracausa.anatomy.linear import LinearMap, linear_map, numbers_of
from veracausa.anatomy.mixers import NoSublayer
from veracausa.anatomy.mixture import Mixture
from veracausa.anatomy.own_inputs import OwnInputs
from veracausa.anatomy.reader_layout import ReaderLayout
from veracausa.errors import ArchitectureError, ContractError

if TYPE_CHECKING:
    from jaxtyping import Float


class NoNorm(nn.Identity):
    """Stands where a block has no norm: its sublayer reads the stream as it is. It is no module of the model."""


class OwnMLP(nn.Sequential):
    """The parts of an MLP that a block calls one by one, to be run as one. It is no module of the model."""


@dataclass(frozen=True, eq=False)
class Block:
    """One block: the modules of layer `layer` and the order in which they read and write the residual stream.

    `mixing`: what mixes the positions; a mixer stands in the place of the attention (see `mixers`), and so does
    `NoSublayer` in a block that is an MLP alone. `mlp_start`, `mlp_end`: the modules whose input and output are the
    MLP's. `down`, `acting`: its down projection and its activation; None where it has several (experts), or (`acting`)
    calls a function. `attention_bias`: what is added behind the output projection, a part of the attention's output.
    `projections`: of queries, keys and values, if it has them.
    `up`, `up_fused`: see `Anatomy`.
    `own_inputs`: see the module of that name; `reads_keys`: it has queries alone, and reads the keys and values of the
    last block of its own kind, `keys_named`, that has some.
    `gate`, `gate_behind`: see `Mixer.gate`; `goes_on`: see `Mixer`.
    `attention_factor`, `mlp_factor`: what a write is multiplied by on its way to the stream; `stream_scale`: what the
    whole stream is multiplied by behind them; `given_scale`: what the attention is given, behind the norm;
    `down_scale`: what the down projection gives, within the MLP. `float32_stream`: see `Anatomy`. `heads`,
    `kv_heads`: how many an attention has. `beside`: the mixer that stands beside its attention, as a block of its own
    that has no MLP.
    """

    layer: int
    module: nn.Module
    mixing: Mixing
    attention: nn.Module
    attention_out: nn.Module
    attention_bias: Tensor | None
    projections: tuple[nn.Module, ...]
    qkv: Layout
    attention_norm: nn.Module
    attention_post_norm: nn.Module | None
    mlp: nn.Module
    mlp_start: nn.Module
    mlp_end: nn.Module
    down: nn.Module | None
    acting: nn.Module | None
    up: nn.Module | None
    up_fused: bool
    mlp_norm: nn.Module
    mlp_post_norm: nn.Module | None
    qk_norms: tuple[nn.Module, ...]
    parallel: bool
    attention_factor: float
    mlp_factor: float
    stream_scale: float
    given_scale: float
    down_scale: float
    float32_stream: bool
    heads: int
    kv_heads: int
    width: int
    mixture: Mixture | None = None
    gate: nn.Module | None = None
    gate_behind: int = 0
    goes_on: str | None = None
    beside: Block | None = None
    own_inputs: OwnInputs | None = None
    reads_keys: bool = False
    keys_named: str | None = None
    found: Found = field(default_factory=Found)

    @property
    def layout(self) -> ReaderLayout:
        """How outputs of the query, key and value projections hold what each reader gives."""
        return ReaderLayout(self.qkv, self.heads, self.kv_heads)

    @property
    def keys_are_values(self) -> bool:
        """Whether one projection of its own gives keys that are values, too."""
        return self.qkv == "separate" and len(self.projections) == 3 and self.projections[1] is self.projections[2]

    @property
    def linear_parts(self) -> tuple[nn.Module, ...]:
        """The modules that are read as linear maps: query, key and value projection, and those of the outputs."""
        beside = () if self.beside is None else (self.beside.attention_out,)
        parts = (*self.projections, self.attention_out, *beside, self.down)
        return tuple(dict.fromkeys(part for part in parts if part is not None and not isinstance(part, NoSublayer)))

    @property
    def mixer(self) -> Block | None:
        """The block as one of a mixer: itself, or what stands `beside` its attention; None where there is no mixer."""
        return self if self.mixing == "mixer" else self.beside

    @property
    def mixers(self) -> tuple[Block, ...]:
        """All that mixes positions: an attention, a mixer, or both; nothing in a block that is an MLP alone."""
        return tuple(one for one in (self, self.beside) if one is not None and one.mixing != "nothing")

    @property
    def head_dim(self) -> int:
        """Width of a head's value; 0 where there is no attention."""
        return numbers_of(self.attention_out) // self.width // self.heads if self.mixing == "attention" else 0

    @property
    def key_dim(self) -> int:
        """Width of a query and of a key; of some families another one than that of a value."""
        own = getattr(self.attention, "qk_head_dim", None)
        if own is None and self.qkv == "separate" and len(self.projections) > 1:
            own = numbers_of(self.projections[1]) // self.width // self.kv_heads
        return self.head_dim if own is None else int(own)

    @property
    def gate_numbers(self) -> slice:
        """Which of the numbers that `gate` gives are those of the gate, one a channel."""
        channels = numbers_of(self.attention_out) // self.width
        return slice(self.gate_behind * channels, (1 + self.gate_behind) * channels)

    @property
    def has_mlp(self) -> bool:
        """Whether it has an MLP."""
        return not isinstance(self.mlp, NoSublayer)

    @property
    def before_mlp(self) -> nn.Module:
        """The module that is given the stream between attention and MLP: the MLP's norm, or the MLP without one."""
        return self.mlp_start if isinstance(self.mlp_norm, NoNorm) else self.mlp_norm

    @property
    def has_experts(self) -> bool:
        """Whether its MLP is a mixture of experts."""
        return self.has_mlp and self.down is None

    @property
    def mlp_out(self) -> nn.Module:
        """The down projection.

        Raises:
            ArchitectureError: the MLP has not one.
        """
        return self._one(self.down, "down projection")

    @property
    def activation(self) -> nn.Module:
        """The MLP's activation function; see `mlp_out`."""
        return self._one(self.acting, "activation function")

    def require_single(self) -> None:
        """Refuse an MLP whose activation and gate are not single modules; see `mlp_out`."""
        self._one(self.acting, "activation function")

    def _one(self, part: nn.Module | None, what: str) -> nn.Module:
        if not self.has_mlp:
            raise ArchitectureError(
                f"Block {self.layer} has no MLP, so no {what}. Take a method that follows plain gradients, or units of "
                "blocks that have one."
            )
        if part is None:
            raise ArchitectureError(
                f"The MLP of block {self.layer} ({type(self.mlp).__name__}) has no single {what}: it is made of "
                "experts, or has none as a module. Ask for whole MLPs, or for a method that follows plain gradients."
            )
        return part

    @property
    def attention_scale(self) -> float:
        """What the attention's output is multiplied by on its way to the stream; 1 where a norm stands between."""
        return self.attention_factor if self.attention_post_norm is None else 1.0

    @property
    def mlp_scale(self) -> float:
        """What the MLP's output is multiplied by on its way to the stream; see `attention_scale`."""
        return self.mlp_factor if self.mlp_post_norm is None else 1.0

    @property
    def neuron_scale(self) -> float:
        """What the down projection's output is multiplied by on its way to the stream; see `attention_scale`."""
        return self.mlp_scale * self.down_scale

    @property
    def mlp_modules(self) -> tuple[nn.Module, ...]:
        """The MLP as the block calls it: one module, two beside each other, or the parts one by one."""
        if isinstance(self.mlp, TwoMLPs):
            return self.mlp.first, self.mlp.second
        if isinstance(self.mlp, Unflattened):
            return (self.mlp.mlp,)
        if isinstance(self.mlp, NormedMLPs):
            return self.mlp.mlp, self.mlp.router, self.mlp.experts
        return tuple(self.mlp) if isinstance(self.mlp, OwnMLP) else (self.mlp,)

    @property
    def one_norm(self) -> bool:
        """Whether one norm serves attention and MLP."""
        return self.attention_norm is self.mlp_norm

    @property
    def head_map(self) -> LinearMap:
        """From heads' values z to the stream: the attention's output projection, times `attention_scale`; see `linear`.

        Under a post-norm it goes to what that norm is given.

        Raises:
            ContractError: it is no linear map.
        """
        found = self._behind("attention output", self.attention_out, self.attention_scale)
        if self.attention_bias is None:
            return found
        bias = self.attention_bias * self.attention_scale
        return replace(found, bias=bias if found.bias is None else found.bias + bias)

    @property
    def head_weights(self) -> Float[Tensor, "heads_x_dim width"]:
        """W_O as [heads · head_dim, width]: rows h·d … (h+1)·d map head h's value z to its write."""
        return self.head_map.weight

    @property
    def neuron_map(self) -> LinearMap:
        """From neurons' activations to the stream: the down projection, times `neuron_scale`; see `head_map`."""
        return self._behind("down", self.mlp_out, self.neuron_scale)

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
        return self._required(self.projection_name(kind), linear_map(self.found, part, self.width, before=True), part)

    def projection_name(self, kind: int) -> str:
        """What the query (0), key (1) or value (2) projection is called in messages."""
        if self.qkv == "latent":
            return "latent key and value" if kind else "query"
        return ("query", "key", "value")[kind] if self.qkv == "separate" else "fused query, key and value"

    def projection_weights(self, kind: int, parts: int, head_dim: int) -> Float[Tensor, "width parts numbers"]:
        """Weights of the query (0), key (1) or value (2) projection, head by head; see `ReaderLayout`."""
        return self.layout.projected(kind, self.projection(kind).weight, parts, head_dim)

    def _behind(self, what: str, part: nn.Module, scale: float) -> LinearMap:
        """The map of an output projection, whose outputs are as wide as the stream, times a factor."""
        inputs = numbers_of(part) // self.width
        own = self._required(what, linear_map(self.found, part, inputs, before=False), part)
        if scale == 1:
            return own
        scaled: LinearMap = self.found.remembered(
            "scaled map", part, lambda: LinearMap(own.weight * scale, None if own.bias is None else own.bias * scale)
        )
        return scaled

    def _required(self, what: str, found: LinearMap, part: nn.Module) -> LinearMap:
        if found.off is not None:
            raise ContractError(
                f"The {what} projection of block {self.layer} ({type(part).__name__}) is not linear as it runs (off by "
                f"{found.off:.2g} of its output), so what goes through it cannot be told by weights and nothing is "
                "returned. Is there a hook or an adapter on it that does more than scale, mix or shift? Remove it."
            )
        return found

    def up_part(self, output: Tensor) -> Tensor:
        """What the activation is multiplied with, of the output of `up`."""
        return output.chunk(2, -1)[1] if self.up_fused else output

    def attention_write(self, attention_output: Tensor) -> Tensor:
        """What the attention adds to the stream, given the output of its output projection."""
        return _written(attention_output, self.attention_post_norm, self.attention_factor)

    def mlp_write(self, mlp_output: Tensor) -> Tensor:
        """What the MLP adds to the stream, given the output of the MLP module."""
        return _written(mlp_output, self.mlp_post_norm, self.mlp_factor)

    def attend(self, residual: Float[Tensor, "rows positions width"], call: dict[str, Any]) -> Tensor:
        """The attention's write for a block input, `call` being the module's keyword arguments at these positions."""
        return self.attention_write(self.attended(residual, call))

    def attended(self, residual: Float[Tensor, "rows positions width"], call: Mapping[str, Any]) -> Tensor:
        """The attention's (or mixer's) output for a block input; see `attend`."""
        output = self.attention(self.given(residual), **call)
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found

    def given(self, residual: Tensor) -> Tensor:
        """What the attention (or mixer) is given for a block input."""
        normed = self.normed(self.attention_norm, residual)
        return normed if self.given_scale == 1 else normed * self.given_scale

    def mix(
        self,
        before: Float[Tensor, "rows earlier width"],
        rows: Float[Tensor, "rows positions width"],
        call: dict[str, Any],
    ) -> Tensor:
        """A mixer's write at the last positions, given what it has read `before` them and reads there."""
        return self.attention_write(self.mixed(before, rows, call))

    def mixed(
        self,
        before: Float[Tensor, "rows earlier width"],
        rows: Float[Tensor, "rows positions width"],
        call: Mapping[str, Any],
    ) -> Tensor:
        """A mixer's output at the last positions; see `mix`."""
        return self.attended(torch.cat([before, rows], 1), call)[:, before.shape[1] :]

    def normed(self, norm: nn.Module, residual: Tensor) -> Tensor:
        """The stream behind a norm; one that is carried in float32 is rounded to the weights' precision before."""
        found: Tensor = norm(self.rounded(norm, residual))
        return found

    def rounded(self, norm: nn.Module, residual: Tensor) -> Tensor:
        """The stream as a norm is given it; see `normed`."""
        return residual.to(norm.weight.dtype) if self.float32_stream else residual  # type: ignore[arg-type]

    def added(self, residual: Tensor, write: Tensor) -> Tensor:
        """The stream behind a write."""
        return (residual.to(torch.float32) if self.float32_stream else residual) + write

    def behind(self, stream: Tensor) -> Tensor:
        """A part or a change of the stream behind the block, given that behind its last write."""
        return stream if self.stream_scale == 1 else stream * self.stream_scale

    def ended(self, stream: Tensor, given: Tensor | None) -> Tensor:
        """The stream behind the block, given that behind its MLP, and the block's own input if it has one."""
        if self.own_inputs is not None:
            assert given is not None
            stream = stream + self.own_inputs(stream, given)
        return self.behind(stream)

    def run_mlp(self, normed: Float[Tensor, "rows positions width"]) -> Tensor:
        """The MLP module's output, without what some mixtures of experts give beside it."""
        output = self.mlp(normed.contiguous())  # some ask for a view of what may be a stream's last positions
        return output[0] if isinstance(output, tuple) else output

    def feed_forward(self, residual: Float[Tensor, "rows positions width"]) -> Tensor:
        """The MLP's write for the residual that it reads."""
        if not self.has_mlp:
            return residual.new_zeros(residual.shape)
        return self.mlp_write(self.run_mlp(self.mlp_norm(residual)))


def _written(output: Tensor, norm: nn.Module | None, factor: float) -> Tensor:
    """What an output adds to the stream: behind a norm, if there is one, and times a factor."""
    normed: Tensor = output if norm is None else norm(output)
    return normed if factor == 1 else normed * factor

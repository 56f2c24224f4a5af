"""The tape: what the clean and the corrupted run did, for pairs that can share one batch (`recording` makes it).

A `State` holds one run at positions start … n − 1. Its tensors carry gradients if it was recorded with `grad=True`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from veracausa.anatomy import Block, Decoder
from veracausa.dictionaries.code import Code

if TYPE_CHECKING:
    from jaxtyping import Float


#: What a tape can hold of each layer beside the residual stream and the keys and values.
#: z: input of the output projection (heads' values); neurons: input of the down projection;
#: attention, mlp: outputs of the attention's output projection and of the MLP module, before any post-norm.
#: queries, keys, values: what the attention function is given, [B, heads, …, head_dim], behind rotation and norms;
#: keys and values with the prefix; pattern: its softmax, [B, heads, S, keys], keys with the prefix. All four are
#: recorded by our own attention function (see `attention.suffix_attention`).
#: attention_in, mlp_in: outputs of the norms before attention and MLP; q_out, k_out, v_out: outputs of the projections,
#: up_out, gate_out: of the first maps of an MLP (one and the same tensor where a family fuses them).
#: experts: what each chosen expert adds to the MLP's output, [B, S, chosen, width] (chosen 0 where there are none), and
#: choice: which experts these are, [B, S, chosen]; both are recorded together, without a graph. router: the
#: router's logits, [B, S, experts] (none where there is no router). inside, weights: the activations of the chosen
#: experts' neurons, [B, S, chosen, neurons], and what the experts' outputs are weighted with, [B, S, chosen].
#: adapters: what LoRA adapters add to the outputs of a block's maps, side by side; adapted: see `adapted`. mlp_beside:
#: the stream that experts beside an MLP read, as a tensor of its own in the graph (an empty list where none do).
#: Of a mixer: channels, mixed: input and output of its output projection, in the place of z and attention; mixer_in:
#: what it is given; gate: what its channels are gated with, before any activation.
Site = Literal[
    "z", "neurons", "attention", "mlp", "queries", "keys", "values", "pattern",
    "attention_in", "mlp_in", "q_out", "k_out", "v_out", "experts", "choice", "router", "inside", "weights",
    "adapters", "adapted", "channels", "mixed", "mixer_in", "gate", "mlp_beside", "up_out", "gate_out",
]  # fmt: skip
#: In a recorded call of an attention: that of the mixer beside it.
BESIDE = "beside"

IN_ATTENTION = ("queries", "keys", "values")
#: All that our attention function records.
BY_OURS = (*IN_ATTENTION, "pattern")


@dataclass
class State:
    """Activations of one run at positions start … n − 1 of B examples.

    `residual[l]`: input of block l, and of the final norm for l = L, each [B, S, width]. `middle[l]`: what block l's
    MLP norm reads. `sites[site][l]`: [B, S, …]. `keys[l]`, `values[l]`: [B, kv_heads, n, head_dim], prefix included.
    `attention[l]`: settings of the attention function (scaling, …), kept with queries, keys and values. `logits`: the
    bare model's own at the last position, [B, vocabulary], if they were asked for. `given[l]`: block l's own input,
    [B, S, own], where blocks have some (see `anatomy.own_inputs`). `experts`: how many an MLP has.
    `codes`: dictionaries laid on the model, and `coded`: what was read by them (see `coded`).
    """

    residual: list[Tensor] = field(default_factory=list)
    middle: list[Tensor] = field(default_factory=list)
    sites: dict[str, list[Tensor]] = field(default_factory=dict)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    attention: list[dict[str, Any]] = field(default_factory=list)
    logits: Tensor | None = None
    given: list[Tensor] = field(default_factory=list)
    experts: int = 0
    codes: Mapping[tuple[str, int], Code] = field(default_factory=dict)
    coded: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @property
    def last(self) -> Float[Tensor, "examples width"]:
        """The final residual at the last position."""
        return self.residual[-1][:, -1]

    def own_input(self, layer: int, example: Tensor | slice, positions: int) -> Tensor | None:
        """A block's own input of some examples at that many last positions; None where it has none."""
        return self.given[layer][example, -positions:] if self.given else None

    def end(self, positions: int) -> Float[Tensor, "examples tail width"]:
        """The final residual at that many last positions."""
        return self.residual[-1][:, -positions:]

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        lists = [self.residual, self.middle, self.keys, self.values, self.given, *self.sites.values()]
        return sum(tensor.nbytes for tensors in lists for tensor in tensors)


@dataclass
class Tape:
    """Clean and corrupted run of B pairs of one length n that first differ at `start`.

    Where their prompts have different lengths, both runs are whole, and n and `tail` are those of the run that is
    patched (see `measure.apart`).

    `examples`: their indices in the task. `tokens`: clean and corrupted ids, [B, n] each. `calls[l]`: keyword arguments
    of layer l's attention module for the positions start … n − 1, and under `BESIDE` of the mixer that stands beside
    it, if one does (see `call`). `prefix`: keys and values of the positions before
    `start`. `tail`: last positions from the first on at which the metric of any pair is read; what runs of the bucket
    give back. Known of this very recording, so that calls that share it don't ask twice: `checked`: the places whose
    writes are what the weights say (`validate`); `ends`: the final residual of the engine's own run, by run and tail;
    `restarts`: layers whose mixers go on from what they carry, or don't (`restart`).
    """

    examples: tuple[int, ...]
    tokens: tuple[Tensor, Tensor]
    start: int
    length: int
    clean: State
    corrupted: State
    calls: list[dict[str, Any]]
    prefix: State | None = None
    tail: int = 1
    checked: set[str] = field(default_factory=set)
    ends: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    restarts: dict[int, bool] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(state.nbytes for state in (self.clean, self.corrupted, self.prefix) if state is not None)

    def call(self, block: Block) -> dict[str, Any]:
        """How a block's attention or mixer was called; of a mixer beside an attention: how that was."""
        own = self.calls[block.layer]
        if BESIDE in own and block.mixing == "mixer":
            found: dict[str, Any] = own[BESIDE]
            return found
        return {name: value for name, value in own.items() if name != BESIDE}

    def keeping(self, sites: Mapping[str, Collection[str]]) -> Tape:
        """The same with some sites of its runs alone; run ("clean", "corrupted") → what it keeps."""

        def of(side: str, state: State) -> State:
            return replace(state, sites={site: state.sites[site] for site in sites[side]})

        return replace(self, clean=of("clean", self.clean), corrupted=of("corrupted", self.corrupted))


def slice_call(call: dict[str, Any], start: int, behind: int | None = None) -> dict[str, Any]:
    """A recorded attention call for its positions from `start` on (dimension 1 of every position-wise tensor).

    `behind`: the first position that is left out again, if any.
    """

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim >= 2:
            return value[:, start:behind]
        if isinstance(value, tuple):
            return tuple(cut(part) for part in value)
        return value

    return call if start == 0 and behind is None else {name: cut(value) for name, value in call.items()}


def whole_middles(decoder: Decoder, middle: list[Tensor], stream: list[Tensor]) -> list[Tensor]:
    """Gradients of the stream between attention and MLP, of those of a run's `middle` and `residual`.

    Where a block joins rows and positions for its MLP, `middle` stands in the graph beside the stream, and its gradient
    is what comes through the MLP alone.
    """
    return [m + s for m, s in zip(middle, stream[1:], strict=True)] if decoder.anatomy.joins_rows else middle

"""Run the clean prompt with a gate on every unit of a kind, in all layers at once, so that gradients reach the gates.

    a_u ← g_u · a_u + (1 − g_u) · a_u(x′)

a_u is what this very run computes, so a unit sees what the gates before it have changed; a_u(x′) is its activation in
the corrupted run, or 0 (`to_zero`). All gates open is the clean run; one gate closed is that unit's exact effect of
counterfactual (zero) ablation. The run is the model's own forward with hooks, from the first differing position on,
behind the clean keys and values of the prefix: up to there both prompts agree, so no gate can change anything (towards
0 the run is whole).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy import Block, Decoder
from veracausa.cost import Cost
from veracausa.engine.guard import changing, hooks
from veracausa.engine.patches import Place
from veracausa.engine.recording import record
from veracausa.engine.sharing import from_rest
from veracausa.engine.tape import State, Tape

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class GatedPairs:
    """The pairs of one bucket, ready to be run with gates again and again.

    `examples`: their indices in the task. `ids`: clean tokens from the first differing position on. `keys`, `values`:
    those of the prefix, layer by layer, [B, kv_heads, start, head_dim]. `closed[l]`: the corrupted run's activations at
    `place`, which a closed gate lets through, [B, S, site width].
    """

    decoder: Decoder
    place: Place
    examples: tuple[int, ...]
    ids: Int[Tensor, "examples positions"]
    keys: list[Tensor]
    values: list[Tensor]
    closed: list[Tensor]
    tail: int

    @classmethod
    def of(cls, decoder: Decoder, place: Place, tape: Tape, clean: Int[Tensor, "examples length"]) -> GatedPairs:
        """What of a tape the gated runs need; `clean`: the clean prompts, whole."""
        start = tape.start
        return cls(
            decoder,
            place,
            tape.examples,
            clean[:, start:],
            [keys[:, :, :start].contiguous() for keys in tape.clean.keys],
            [values[:, :, :start].contiguous() for values in tape.clean.values],
            tape.corrupted.sites[place],
            tape.tail,
        )

    def __len__(self) -> int:
        return len(self.examples)

    def to_zero(self) -> GatedPairs:
        """The same pairs with gates that hold 0 where they are closed; of whole prompts, since 0 is no prefix's own.

        Parts of dictionaries are 0 where their codes are.
        """
        return replace(self, closed=[torch.zeros_like(site) for site in self.closed])

    def run(
        self, gates: Float[Tensor, "rows layers parts"], rows: Int[Tensor, " rows"], cost: Cost | None = None
    ) -> Float[Tensor, "rows tail width"]:
        """Final residual at the tail of the pairs `rows`, each under its own gates.

        `parts` divides the site's width: its heads, its neurons, or 1 for an MLP or a whole attention layer. The result
        carries the gates' graph, if they have one.

        Raises:
            NumericsError, OutOfMemoryError: see `recording.record`.
        """
        prefix = None
        if self.keys[0].shape[2]:
            prefix = State(keys=[keys[rows] for keys in self.keys], values=[values[rows] for values in self.values])
        with from_rest(self.decoder), self.mixing(gates, rows):
            state, _ = record(self.decoder, self.ids[rows], prefix=prefix, grad=gates.requires_grad, cost=cost)
        if cost is not None and gates.requires_grad:
            cost.backward += len(rows) * self.ids.shape[1] * self.decoder.layers
        return state.end(self.tail)

    def mixing(
        self, gates: Float[Tensor, "rows layers parts"], rows: Int[Tensor, " rows"]
    ) -> AbstractContextManager[None]:
        """Runs inside of the pairs `rows` are under these gates."""
        gate = [gates[:, block.layer] for block in self.decoder.blocks]
        closed = [values[rows] for values in self.closed]
        return hooks(*map(_gate, self.decoder.blocks, [self.place] * len(gate), gate, closed))


def _gate(block: Block, place: Place, gate: Float[Tensor, "rows parts"], closed: Tensor) -> Any:
    """A hook that mixes the activations at `place` of a block with `closed`."""

    def mix(activation: Tensor) -> Tensor:
        if activation.ndim == 2:  # rows and positions joined by the block for its MLP
            return mix(activation.unflatten(0, closed.shape[:2])).flatten(0, 1)
        split = (gate.shape[1], activation.shape[-1] // gate.shape[1])
        share = gate.to(activation.dtype)[:, None, :, None]
        return (closed + ((activation - closed).unflatten(-1, split) * share).flatten(-2)).to(activation.dtype)

    if place == "mlp":
        return changing(block.mlp_end, mix)
    module = block.attention_out if place == "z" else block.mlp_out
    return module.register_forward_pre_hook(lambda _, args: (mix(args[0]), *args[1:]))


def layer_gates(
    flat: Float[Tensor, "rows units"], layer: Int[Tensor, " units"], part: Int[Tensor, " units"], size: tuple[int, int]
) -> Float[Tensor, "rows layers parts"]:
    """Gates of a table of units as `GatedPairs.run` takes them; what is not in the table stays open."""
    gates = flat.new_ones(len(flat), *size)
    return gates.index_put((torch.arange(len(flat), device=flat.device)[:, None], layer, part), flat)

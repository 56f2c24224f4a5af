"""First-order expansions: a run in which chosen kinds of nonlinear parts are replaced by their tangents.

    f(x) → f(x₀) + J_f(x₀) (x − x₀),   x₀: the part's input in the recorded base run

Everything of a decoder but these parts is linear, so with all of them expanded a patched run gives attribution
patching, exactly, and with none the exact effect; what lies between tells whose curvature the difference is.

* softmax: the attention function, queries, keys, values → heads' values (scores, soft cap, softmax, mixing of values);
* norm: all norms, those of queries and keys, post-norms and the final one included;
* MLP: the activation, and its product with the other branch of a gated MLP;
* metric: what makes a number of the final norm's output, a soft cap of the logits included.

The tangents are forward-mode derivatives of the modules' own functions, the user's hooks on them included, so no
family's formula is written down here.
An expanded run costs what a run costs: matrix products are not doubled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from veracausa.anatomy import Block, Decoder
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX, Past, suffix_attention
from veracausa.engine.guard import attention_function, hooks
from veracausa.engine.readout import Readout
from veracausa.engine.tape import State, Tape
from veracausa.errors import ArchitectureError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: The kinds of nonlinear parts.
KINDS = ("softmax", "norm", "MLP", "metric")
#: What a tape must hold of the base run.
SITES = ("queries", "keys", "values")
#: The name under which transformers knows the expanded attention.
_EXPANDED = "veracausa_expanded"


def kinds_of(decoder: Decoder, metric: str) -> tuple[str, ...]:
    """The kinds that a run with this metric has: a plain logit difference is linear."""
    return KINDS[:-1] if metric == "logit_diff" and decoder.logit_softcap is None else KINDS


@dataclass(eq=False)
class Expansion:
    """Tangents around the base run of a bucket.

    `ends`: input and output of every norm, activation and gate branch in the base run, at all positions of the tape.
    """

    decoder: Decoder
    tape: Tape
    base: State
    ends: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def around(cls, decoder: Decoder, tape: Tape, base: State, cost: Cost) -> Expansion:
        """Run each block once on the base run's own stream and keep what its parts see.

        Raises:
            ArchitectureError: blocks share a norm or an activation module, or the attention clips queries, keys and
                values.
        """
        if decoder.clips:
            raise ArchitectureError(
                f"{type(decoder.hf).__name__} clips queries, keys and values, which is none of the parts that are made "
                "linear here, so what they explain would not add up."
            )
        made = cls(decoder, tape, base)
        parts = [*decoder.norms, *(part for block in decoder.blocks for part in _gate(block))]
        shared = {block.mlp_norm for block in decoder.blocks if block.one_norm}

        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if module in made.ends and not (module in shared and torch.equal(args[0], made.ends[module][0])):
                raise ArchitectureError(
                    f"{type(module).__name__} stands in several places of this model, so what it sees in each cannot "
                    "be told apart. Give every block a module of its own."
                )
            made.ends[module] = (args[0], output)

        with (
            torch.no_grad(),
            attention_function(decoder, SUFFIX),
            hooks(*[part.register_forward_hook(keep) for part in parts]),
        ):
            for block in decoder.blocks:
                block.attend(base.residual[block.layer], made.call(block.layer, None))
                block.feed_forward(base.middle[block.layer])
            decoder.final_norm(base.end(tape.tail))
        cost.add(len(tape.examples), (tape.length - tape.start) * decoder.layers)
        return made

    def call(self, layer: int, example: Int[Tensor, " rows"] | None) -> dict[str, Any]:
        """Keyword arguments of a block's attention for rows of these examples (None: one row an example)."""
        start = self.tape.start
        past = Past(self.base.keys[layer][:, :, :start], self.base.values[layer][:, :, :start], example)
        return self.tape.call(self.decoder.blocks[layer]) | {"attention_mask": None, "past": past}

    @contextmanager
    def expanded(self, kinds: Collection[str], example: Int[Tensor, " rows"]) -> Iterator[None]:
        """Parts of these kinds are their tangents inside.

        `example[r]`: row r's example; a module that is given fewer rows is given the first ones, as in a sweep whose
        other rows have not joined yet. Fewer positions are the last ones.
        """
        functions: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
        if "norm" in kinds:
            functions |= {norm: self._tangent(norm, example) for norm in self.decoder.norms}
        if "MLP" in kinds:
            functions |= {b.activation: self._tangent(b.activation, example) for b in self.decoder.blocks}
        with ExitStack() as stack:
            stack.enter_context(self.decoder.found.standing_in(functions))
            if "MLP" in kinds:
                products = [handle for b in self.decoder.blocks for handle in self._product(b, example)]
                stack.enter_context(hooks(*products))
            if "softmax" in kinds:
                stack.enter_context(attention_function(self.decoder, _EXPANDED))
                stack.enter_context(hooks(*(self._attention(b, example) for b in self.decoder.blocks)))
            yield

    def metric(
        self,
        read: Readout,
        last: Float[Tensor, "rows tail width"],
        example: Int[Tensor, " rows"],
        kinds: Collection[str],
    ) -> Float[Tensor, " rows"]:
        """M of rows whose parts of these kinds, the metric perhaps among them, are tangents; call it in `expanded`."""
        if "metric" not in kinds:
            return read(last, example)
        final = self.decoder.final_norm
        before, now = self.ends[final][1][example], final(last)
        with self.decoder.found.standing_in({final: lambda hidden: hidden}):
            return _first_order(lambda hidden: read(hidden, example), (before,), (now,))

    def _tangent(self, module: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        found, before = self.decoder.found, self.ends[module][0]
        return lambda x: _first_order(partial(found.run, module), (_rows(before, example, x),), (x,))

    def _attention(self, block: Block, example: Tensor) -> Any:
        """A hook that lets a block's attention function be its tangent."""
        layer = block.layer
        kept = [self.base.sites[site][layer] for site in SITES]
        settings = self.base.attention[layer]

        def expand(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            before = [site[example[: len(query)]] for site in kept]
            before[0] = before[0][:, :, -query.shape[2] :]
            return _first_order(
                lambda q, k, v: suffix_attention(None, q, k, v, None, **settings)[0], tuple(before), (query, key, value)
            )

        return block.attention.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "expand": expand}), with_kwargs=True
        )

    def _product(self, block: Block, example: Tensor) -> list[Any]:
        """Hooks that make neurons = a · u to first order: a u₀ + a₀ u − a₀ u₀ (nothing to do without a gate)."""
        if block.up is None:
            return []
        now: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, _: Any, output: Tensor) -> None:
            now[module] = output

        def multiply(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            a, u = (now.pop(part) for part in _gate(block))
            a0, u0 = (_rows(self.ends[part][1], example, a) for part in _gate(block))
            u, u0 = block.up_part(u), block.up_part(u0)
            return (a * u0 + a0 * (u - u0), *args[1:])

        return [
            *(part.register_forward_hook(keep) for part in _gate(block)),
            block.mlp_out.register_forward_pre_hook(multiply),
        ]


def _gate(block: Block) -> list[nn.Module]:
    """The activation, and the branch that it is multiplied with, if there is one."""
    return [block.activation] if block.up is None else [block.activation, block.up]


def _rows(before: Tensor, example: Tensor, like: Tensor) -> Tensor:
    """What the base run had for the rows and positions of `like`."""
    return before[example[: len(like)]][:, -like.shape[1] :]


def _first_order(function: Callable[..., Tensor], before: tuple[Tensor, ...], now: tuple[Tensor, ...]) -> Tensor:
    """f(before) + J (now − before)."""
    moves = tuple(new - old for new, old in zip(now, before, strict=True))
    try:
        value, change = torch.func.jvp(function, before, moves)[:2]
    except RuntimeError as error:
        if "autograd.Function" not in str(error):
            raise
        value, change = _by_two_backward_passes(function, before, moves)
    return value + change


@torch.enable_grad()
def _by_two_backward_passes(
    function: Callable[..., Tensor], before: tuple[Tensor, ...], moves: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """f(before) and J moves of a part with a backward pass of its own making (BLOOM's activation): Jᵀu is linear in u,
    and what u's gradient is for these moves is J moves.
    """
    inputs = tuple(one.detach().requires_grad_() for one in before)
    value = function(*inputs)
    u = torch.zeros_like(value, requires_grad=True)
    pulled = torch.autograd.grad(value, inputs, u, create_graph=True)
    (change,) = torch.autograd.grad(pulled, u, moves)
    return value.detach(), change


def _expanded_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *, expand: Any, past: Past, **_: Any
) -> tuple[Tensor, None]:
    return expand(query, past.before(key, "keys"), past.before(value, "values")), None


ALL_ATTENTION_FUNCTIONS.register(_EXPANDED, _expanded_attention)

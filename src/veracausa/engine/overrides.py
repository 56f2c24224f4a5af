"""Activations that running rows take in the place of their own: several parts of one row, in several blocks.

A row with one patch joins the stream behind it (`patches.join`). A row with several runs from the first on, and takes
the values of the others when it gets there, whatever the earlier ones have made of its own: as hooks on a whole run do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy import Block
from veracausa.anatomy.adapters import adapted_of
from veracausa.anatomy.beside import NormedMLPs
from veracausa.anatomy.found import Found
from veracausa.anatomy.maps import at_map
from veracausa.anatomy.mixture import Mixture
from veracausa.dictionaries.code import Code
from veracausa.engine.coded import INSIDE, OF_STREAM, output_of, written_at
from veracausa.engine.guard import changing, giving, hooks
from veracausa.engine.routed import Routed
from veracausa.engine.tape import IN_ATTENTION

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Override:
    """What some rows take at a place of one layer.

    `rows`: which rows of the sweep. `taken`: where they take other values, part by part of the place (heads,
    neurons, or the whole), or the share of the way that each goes from its own. `values()`: these values, asked for
    when the sweep gets there. `added`: they are added to their own. `code`: of a dictionary, whose site it is then;
    `taken` are its numbers. `inside`: experts and neurons that the parts are, of places within experts.
    """

    place: str
    rows: Int[Tensor, " rows"]
    taken: Bool[Tensor, "rows positions parts"] | Float[Tensor, "rows positions parts"]
    values: Callable[[], Float[Tensor, "rows positions site"]]
    added: bool = False
    code: Code | None = None
    inside: tuple[Int[Tensor, " parts"], Int[Tensor, " parts"]] | None = None

    @property
    def at(self) -> str:
        """Where it acts: its place, or where what a dictionary explains is written."""
        return self.place if self.code is None else written_at(self.code)

    def of_stream(self, own: Float[Tensor, "all positions width"]) -> Tensor:
        """`of` of the residual stream, or of what a dictionary reads and explains at one site."""
        return self.of(own) if self.code is None else self.of_code(own, own)

    def of_code(
        self, read: Float[Tensor, "all positions read"], explained: Float[Tensor, "all positions width"]
    ) -> Float[Tensor, "all positions width"]:
        """What a dictionary explains, of all rows, where some of its parts are taken in the run that is going on."""
        assert self.code is not None
        site = self.code.site(read[self.rows], explained[self.rows], posted=False)
        positions = site.shape[1]
        new = self.values()[:, -positions:].to(site.dtype)
        taken = self.taken[:, -positions:].to(site.device)
        moved = new if self.added else new - site
        change = self.code.change(moved * taken if taken.is_floating_point() else torch.where(taken, moved, 0))
        out = explained.clone()
        out[self.rows] += change.to(out.dtype)
        return out

    def of(self, own: Float[Tensor, "all positions site"]) -> Tensor:
        """The activations of all rows, those of these rows replaced.

        `own` may hold the last positions only, or earlier ones, too: those that a mixer reads again stay as they are.
        """
        positions = own.shape[1]
        new = self.values()[:, -positions:].to(own.dtype)
        taken = self.taken[:, -positions:].repeat_interleave(own.shape[-1] // self.taken.shape[-1], -1)
        out, early = own.clone(), positions - new.shape[1]
        here = own[self.rows, early:]
        if taken.is_floating_point():
            out[self.rows, early:] = here + taken.to(here) * (new - here)
        else:
            out[self.rows, early:] = torch.where(taken, here + new if self.added else new, here)
        return out

    def of_experts(
        self, mixture: Mixture, found: Found, rows: int, args: Sequence[Tensor], output: Float[Tensor, "tokens width"]
    ) -> Float[Tensor, "tokens width"]:
        """The same for the output of a mixture's experts, called with `args` for that many rows.

        Experts that are taken add what they are given in the place of what they add here, whatever is chosen here.
        """
        tokens, choice, weights = (one.unflatten(0, (rows, -1))[self.rows] for one in args)
        flat = (one.flatten(0, 1) for one in (tokens, choice, weights))
        slots = mixture.contributions(found, *flat).unflatten(0, choice.shape[:2])
        taken = self.taken[:, -tokens.shape[1] :]
        values = self.values()[:, -tokens.shape[1] :].to(output.dtype).unflatten(-1, (mixture.count, -1))
        change = (values * taken[..., None]).sum(2)
        if not self.added:
            change = change - Routed(slots, choice, mixture.count).taken(taken)
        out = output.unflatten(0, (rows, -1)).clone()
        out[self.rows] += change / mixture.scale
        return out.flatten(0, 1)

    def of_neurons(
        self, mixture: Mixture, found: Found, rows: int, args: Sequence[Tensor], output: Float[Tensor, "tokens width"]
    ) -> Float[Tensor, "tokens width"]:
        """The same for neurons within the experts: they take their values where their expert is chosen in this run."""
        assert self.inside is not None
        tokens, choice, weights = (one.unflatten(0, (rows, -1))[self.rows] for one in args)
        flat = (one.flatten(0, 1) for one in (tokens, choice, weights))
        activations = mixture.activations(found, *flat).unflatten(0, choice.shape[:2])
        expert, neuron = self.inside
        chosen = choice[..., None] == expert
        own, weight = (activations[..., neuron] * chosen).sum(2), (weights[..., None] * chosen).sum(2)
        positions = tokens.shape[1]
        new, taken = self.values()[:, -positions:], self.taken[:, -positions:]
        change = torch.where(taken, (new - own) * weight, 0)
        out = output.unflatten(0, (rows, -1)).clone()
        out[self.rows] += (change @ mixture.written(expert, neuron).to(change) / mixture.scale).to(out.dtype)
        return out.flatten(0, 1)

    def of_heads(self, own: Float[Tensor, "all heads positions _"]) -> Tensor:
        """The same for queries, keys, values or patterns as the attention function has them."""
        flat = self.of(own.transpose(1, 2).flatten(2))
        return flat.unflatten(-1, (own.shape[1], own.shape[3])).transpose(1, 2)


def _at_experts(block: Block, found: Sequence[Override]) -> list[Any]:
    """Hooks for experts, the shared expert and the router, whatever order they were asked in."""
    places = ("experts", "expert_neurons", "shared", "router")
    experts, neurons, shared, routers = ([one for one in found if one.place == place] for place in places)
    mixture = block.mixture
    if mixture is None or not (experts or neurons or shared or routers):
        return []
    rows: list[int] = []
    routed: list[Tensor] = []

    def called(_: Any, args: tuple[Tensor, ...]) -> None:
        rows[:] = [len(args[0])]

    def logits(own: Tensor) -> Tensor:
        return routers[0].of(own.reshape(rows[0], -1, mixture.count)).reshape_as(own)

    def adding(_: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], given: Tensor) -> Tensor:
        called, output = [one.flatten(0, -2) for one in (*args, *kwargs.values())], given.flatten(0, -2)
        for one in neurons:  # some families' experts are given tokens one by one, others' by prompt
            output = one.of_neurons(mixture, block.found, rows[0], called, output)
        for one in experts:
            output = one.of_experts(mixture, block.found, rows[0], called, output)
        routed[:] = [output.unflatten(0, (rows[0], -1)) * mixture.scale]
        return output.view_as(given)

    def sharing(output: Tensor) -> Tensor:
        return routed[0] + shared[0].of(output - routed[0])

    handles = [
        block.mlp_start.register_forward_pre_hook(called),
        mixture.experts.register_forward_hook(adding, with_kwargs=True),
        *(mixture.routing(logits) if routers else ()),
    ]
    return [*handles, changing(block.mlp_end, sharing)] if shared else handles


def _at_code(block: Block, one: Override) -> list[Any]:
    """Hooks for the parts of a dictionary that explains an output of the block; the stream itself is the sweep's."""
    if one.code is None or one.at in OF_STREAM:
        return []
    if one.code.dictionary.map:
        return [_at_components(block, one)]
    if one.at == "z":
        return [block.attention_out.register_forward_pre_hook(lambda _, args: (one.of_stream(args[0]), *args[1:]))]
    read: list[Tensor] = []

    def keep(_: Any, args: tuple[Tensor, ...]) -> None:
        read[:] = [args[0]]

    module, shift, scale = _explained(block, one.at)

    def taken(output: Tensor) -> Tensor:
        y = (output + shift) * scale
        return one.of_code(read[0] if read else y, y) / scale - shift

    transcodes = one.code.dictionary.transcodes
    reads = block.before_mlp if one.code.dictionary.reads.kind == "mid" else block.mlp_start
    return [*([reads.register_forward_pre_hook(keep)] if transcodes else []), changing(module, taken)]


def _at_components(block: Block, one: Override) -> Any:
    """A hook for components: on the module of their map, whose input they read whatever else has changed that."""
    assert one.code is not None
    own = at_map(block, output_of(one.code.dictionary))
    shift, scale = (
        (block.attention_bias if own.name == "o" else None),
        (block.down_scale if own.name == "down" else 1.0),
    )

    def taken(_: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        y = own.own(output) * scale if scale != 1 else own.own(output)
        y = y if shift is None else y + shift
        new = one.of_code(args[0], y)
        new = new if shift is None else new - shift
        return own.put(output, new / scale if scale != 1 else new)

    return own.module.register_forward_hook(taken)


def _at_map(block: Block, one: Override) -> Any:
    """A hook for the output of a map inside the block."""
    own = at_map(block, one.place.removesuffix("_out"))
    return changing(own.module, lambda output: own.put(output, one.of(own.own(output))))


def _explained(block: Block, at: str) -> tuple[torch.nn.Module, Tensor | float, float]:
    """(module, shift, scale): what a dictionary explains of a block is (the module's output + shift) · scale."""
    bias = 0.0 if block.attention_bias is None else block.attention_bias
    if at in ("attention", "mlp"):
        return (block.attention_out, bias, 1.0) if at == "attention" else (block.mlp_end, 0.0, 1.0)
    if at == "behind attention":
        norm, end, factor = block.attention_post_norm, (block.attention_out, bias), block.attention_factor
    else:
        norm, end, factor = block.mlp_post_norm, (block.mlp_end, 0.0), block.mlp_factor
    return (*end, factor) if norm is None else (norm, 0.0, factor)


def between(block: Block, change: Callable[[Tensor], Tensor]) -> list[Any]:
    """Hooks that change the stream between a block's attention and its MLP while the model's own forward runs.

    No module gives that stream: it is what the MLP reads, and goes on beside it. So what reads it is given another, and
    the difference is added to what the MLP writes. Other hooks there see the changed stream, and the MLP's own write.
    """
    moved: list[Tensor] = []

    def given(x: Tensor) -> Tensor:
        new = change(x)
        moved[:] = [new - x]
        return new

    module, _, scale = _explained(block, "behind mlp")
    also = [block.mlp.router, block.mlp.before] if isinstance(block.mlp, NormedMLPs) else []
    return [
        block.before_mlp.register_forward_pre_hook(giving(given), with_kwargs=True, prepend=True),
        *(
            part.register_forward_pre_hook(giving(lambda x: x + moved[0].view_as(x)), with_kwargs=True, prepend=True)
            for part in also
        ),
        changing(module, lambda output: output + moved[0] / scale),
    ]


def _behind_mlp(block: Block, one: Override) -> Any:
    """A hook for what the MLP writes straight to the stream, behind a post-norm."""
    module, shift, scale = _explained(block, "behind mlp")
    return changing(module, lambda output: one.of((output + shift) * scale) / scale - shift)


def _at_gate(block: Block, one: Override) -> Any:
    """A hook for what a mixer's channels are gated with."""
    assert block.gate is not None
    own = block.gate_numbers

    def taken(output: Tensor) -> Tensor:
        return torch.cat([output[..., : own.start], one.of(output[..., own]), output[..., own.stop :]], -1)

    return changing(block.gate, taken)


def _at_adapters(block: Block, one: Override) -> list[Any]:
    """Hooks for contributions that rows take in the place of their own; the first map B gives them, others nothing."""
    found, rows = adapted_of(block), list[int]()

    def called(_: Any, args: tuple[Tensor, ...]) -> None:
        rows[:] = [len(args[0])]

    def given(part: slice, scale: float, first: bool) -> Callable[[Any, Any, Tensor], Tensor]:
        def values() -> Float[Tensor, "rows positions width"]:
            new = one.values()[..., part]
            return new / scale if first else torch.zeros_like(new)

        own = replace(one, taken=one.taken[..., part], values=values)

        def put(_: Any, __: Any, output: Tensor) -> Tensor:
            whole = output if output.ndim == 3 else output.unflatten(0, (rows[0], -1))
            return own.of(whole).reshape(output.shape)

        return put

    handles = [block.mlp_start.register_forward_pre_hook(called)] if block.has_mlp else []
    for each, part in zip(found.maps, found.slices, strict=True):
        chosen = [(at, scale, not i) for i, (at, scale) in enumerate(each.adding) if not (i and one.added)]
        handles += [at.register_forward_hook(given(part, scale, first)) for at, scale, first in chosen]
    return handles


@contextmanager
def overriding(block: Block, found: Sequence[Override]) -> Iterator[dict[str, Any]]:
    """A block whose rows take other values at these places; gives what its attention is called with beside."""

    def input_of(part: torch.nn.Module, one: Override) -> Any:
        return part.register_forward_pre_hook(lambda _, args: (one.of(args[0]), *args[1:]))

    handles = _at_experts(block, found) + [handle for one in found for handle in _at_code(block, one)]
    inside = {one.place: one for one in found if one.place in IN_ATTENTION}
    for one in found:
        if one.place == "z":
            handles.append(input_of(block.attention_out, one))
        elif one.place == "channels" and block.mixer is not None:
            handles.append(input_of(block.mixer.attention_out, one))
        elif one.place == "gate" and block.mixer is not None:
            handles.append(_at_gate(block.mixer, one))
        elif one.place == "adapters":
            handles += _at_adapters(block, one)
        elif one.place == "neurons":
            handles.append(input_of(block.mlp_out, one))
        elif one.place in INSIDE and one.code is None:
            handles.append(_at_map(block, one))
        elif one.place == "mlp":
            handles.append(changing(block.mlp_end, one.of))
        elif one.place == "behind mlp":
            handles.append(_behind_mlp(block, one))

    def change(*parts: Tensor) -> tuple[Tensor, ...]:
        named = zip(IN_ATTENTION, parts, strict=True)
        return tuple(inside[site].of_heads(own) if site in inside else own for site, own in named)

    patterns = [one for one in found if one.place == "pattern"]
    with hooks(*handles):
        yield ({"change": change} if inside else {}) | ({"look": patterns[0].of_heads} if patterns else {})

"""How a changed activation enters the residual stream.

Each kind of unit lives at one *site* of a block. A patch is a change `delta` of that site's activations,
[rows, S, site width]; the output projection turns it into a change of the attention's or the MLP's output, the
post-norm (Gemma) is taken anew, and the row joins the stream right behind that write. Blocks are linear there, so
nothing before the patch is run again and a patch of zero changes nothing, bit for bit, where there is no post-norm.
A change of queries, keys or values is first carried through that one layer's attention to a change of z, and one of an
attention pattern is a change of z once it is multiplied with the run's own values. Experts add up to the MLP's output,
so a change of theirs is given as that of their sum, [rows, S, width]; a change of a router's logits is carried through
the MLP, run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from veracausa.anatomy import Block, Decoder
from veracausa.dictionaries.words import is_coded
from veracausa.engine.attention import mixed, suffix_attention
from veracausa.engine.coded import INSIDE, OF_STREAM, SITES, site_of, sites_of_components, written_at, written_change
from veracausa.engine.guard import hooks
from veracausa.engine.routed import Routed, inside_site
from veracausa.engine.suffix import Join
from veracausa.engine.tape import BY_OURS, IN_ATTENTION, State

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.engine.coded import Written

#: Where a unit's activation is: a recorded site, or the residual stream before a block.
Place = Literal[
    "z", "channels", "neurons", "mlp", "residual", "queries", "keys", "values", "pattern", "experts", "shared",
    "router", "expert_neurons", "features", "directions", "components", "adapters", "gate",
    "state", "taps",
]  # fmt: skip
#: What mixers carry away from a position (`carried`): its activation stands for it, the stream that a mixer reads.
CARRIED = ("state", "taps")
#: Places whose changes are carried through their own block, run again (`suffix.through`).
RUN_AGAIN = ("adapters", "gate", *CARRIED)
#: Parts of the MLP's output, which they add up to: so is the gradient there theirs.
OF_MLP = ("experts", "shared", "expert_neurons")


@dataclass(frozen=True)
class Where:
    """A place in one layer: what is patched there, and where its rows join the stream.

    `join`: (layer, middle) as in `suffix.Join`.
    """

    place: Place
    layer: int
    join: tuple[int, bool]


def where(decoder: Decoder, place: Place, layer: int) -> Where:
    """Where rows with a patch at `place` of `layer` join the stream."""
    at = written_at(decoder.codes[place, layer]) if is_coded(place) else place
    if at in OF_STREAM:
        return Where(place, layer, (layer, at == "middle"))
    if in_attention(place, decoder, layer) and not decoder.blocks[layer].parallel:
        return Where(place, layer, (layer, True))
    return Where(place, layer, (layer + 1, False))


def layers_at(decoder: Decoder, place: Place) -> list[int]:
    """Layers whose activations at a place are asked for together: all, or those that have a dictionary of that kind."""
    if place == "adapters":
        return [*decoder.adapters]
    if place == "expert_neurons":
        return [*decoder.mixtures]
    if is_coded(place):
        return sorted(layer for kind, layer in decoder.codes if kind == place)
    return [*range(decoder.layers + (place == "residual"))]


def depth_behind(decoder: Decoder, place: Place, layer: int) -> int:
    """Blocks that a row with a patch at `place` of `layer` runs; a router's MLP, run again, counts as one.

    So does the block of adapters, of gates, of what mixers carry, and of components of maps inside it.
    """
    again = place == "router" or place in RUN_AGAIN or acts_inside(decoder, place, layer)
    return decoder.layers - where(decoder, place, layer).join[0] + again


def acts_inside(decoder: Decoder, place: Place, layer: int) -> bool:
    """Whether what a dictionary explains is the output of a map inside a block, which is run again."""
    return is_coded(place) and written_at(decoder.codes[place, layer]) in INSIDE


def in_attention(place: Place, decoder: Decoder | None = None, layer: int = 0) -> bool:
    """Whether a place is a part of the attention, or of the mixer in its place (else of the MLP, or the stream).

    Of a dictionary the decoder says it, layer by layer.
    """
    if decoder is not None and is_coded(place):
        return written_at(decoder.codes[place, layer]) in ("z", "attention", "behind attention")
    return place in ("z", "channels") or place in BY_OURS


def written_by(block: Block, place: Place) -> Block:
    """A block as one of its mixer, for channels; as it is for all other places."""
    return block.mixer if place == "channels" and block.mixer is not None else block


def recorded(state: State, place: Place, layer: int) -> Tensor:
    """The tensor of a run's graph that holds the activations at a place (see `as_site` for its shape).

    Of experts that is what they add up to; of a dictionary, what it explains; of adapters, what was added to them.
    """
    if place == "adapters":
        return state.sites["adapted"][layer]
    if is_coded(place):
        return recorded_at(state, written_at(state.codes[place, layer]), layer)
    if place == "residual" or place in CARRIED:
        return state.residual[layer]
    return state.sites["mlp" if place in OF_MLP else place][layer]


def recorded_at(state: State, at: Written, layer: int) -> Tensor:
    """The same of what a dictionary of a layer explains, written there."""
    if at in ("z", "attention", "mlp", *INSIDE):
        return state.sites[at][layer]
    if at in ("middle", "behind attention"):
        return state.middle[layer]
    return state.residual[layer + (at == "behind mlp")]


def as_site(values: Tensor, place: Place, positions: int) -> Float[Tensor, "examples positions site"]:
    """What `recorded` holds, or a gradient of it, as [B, S, site width]: heads side by side, own positions only.

    A pattern's site is each head's weights of all keys, [B, S, heads · keys]: its width grows with the prompt.
    """
    return values[:, :, -positions:].transpose(1, 2).flatten(2) if place in BY_OURS else values


def activation(state: State, place: Place, layer: int) -> Float[Tensor, "examples positions site"]:
    """A run's activations at a place, [B, S, site width]."""
    if is_coded(place):
        return site_of(state, place, layer)
    if place == "adapters":
        return state.sites["adapters"][layer]
    if place == "experts":
        return Routed.of(state, layer).site()
    if place == "expert_neurons":
        return inside_site(state, layer)
    if place == "shared":
        return state.sites["mlp"][layer] - state.sites["experts"][layer].sum(2)
    return as_site(recorded(state, place, layer), place, state.residual[0].shape[1])


def sites_for(place: Place) -> tuple[str, ...]:
    """What a tape must hold so that `place` can be patched (see `tape.Site`)."""
    if is_coded(place):
        return sites_of_components(place) or SITES
    if place in RUN_AGAIN:
        return {"adapters": ("adapters", "adapted"), "gate": ("gate",)}.get(place, ())
    if place in IN_ATTENTION:
        return ("z", "attention", *IN_ATTENTION)
    if place == "pattern":
        return ("z", "attention", "pattern")
    if place in OF_MLP:
        return ("mlp", "experts", "choice", *(("inside", "weights") if place == "expert_neurons" else ()))
    if place == "router":
        return ("mlp", "mlp_in", "router")
    if place == "channels":
        return ("channels", "mixed")
    if in_attention(place):
        return ("z", "attention")
    return {"neurons": ("neurons", "mlp"), "mlp": ("mlp",), "residual": ()}[place]


def site_width(decoder: Decoder, place: Place, length: int = 0, layer: int | None = None) -> int:
    """Size of a place's activations at one position, in one layer (None: the largest).

    `length`: of the prompt, which only patterns depend on.
    """
    heads = decoder.heads if layer is None or layer >= decoder.layers else decoder.blocks[layer].heads
    head_dim = decoder.head_dim if layer is None or layer >= decoder.layers else decoder.blocks[layer].head_dim
    key_dim = decoder.key_dim if layer is None or layer >= decoder.layers else decoder.blocks[layer].key_dim
    if place == "adapters":
        return max(found.width for found in decoder.adapters.values())
    if is_coded(place):
        return max(code.width for (kind, _), code in decoder.codes.items() if kind == place)
    if place == "expert_neurons":
        return decoder.experts * max(mixture.neurons for mixture in decoder.mixtures.values())
    return {
        "pattern": decoder.heads * length,
        "z": heads * head_dim,
        "channels": decoder.channels,
        "gate": decoder.channels,
        "neurons": decoder.neurons,
        "mlp": decoder.width,
        "residual": decoder.width,
        **dict.fromkeys(CARRIED, decoder.width),
        "queries": decoder.heads * key_dim,
        "keys": decoder.kv_heads * key_dim,
        "values": decoder.kv_heads * head_dim,
        "experts": decoder.experts * decoder.width,
        "shared": decoder.width,
        "router": decoder.experts,
    }[place]


def kept_width(decoder: Decoder, place: Place, length: int = 0) -> int:
    """Floats that a tape holds of a place at one position: of experts those that are chosen alone."""
    if place in OF_MLP:
        neurons = 1 + max(mixture.neurons for mixture in decoder.mixtures.values())
        each = decoder.width + 1 + (neurons if place == "expert_neurons" else 0)
        return max(mixture.chosen for mixture in decoder.mixtures.values()) * each
    if is_coded(place):  # what it is read from, and all features of some tokens at once
        inner = 3 * decoder.neurons if place.startswith("components.") else 0
        return site_width(decoder, place) + decoder.heads * decoder.head_dim + 3 * decoder.width + inner
    beside = decoder.width if place == "router" else 0  # what the MLP is given, to run it again
    return site_width(decoder, place, length) + beside


def output_change(
    decoder: Decoder,
    base: State,
    at: Where,
    example: Int[Tensor, " rows"],
    offset: int,
    delta: Float[Tensor, "rows positions site"],
) -> Float[Tensor, "rows positions width"]:
    """Change of what the attention or the MLP writes for a change at its site: W_O or W_down, or the change itself.

    Under a post-norm it is the change of what that norm is given.
    """
    place, block = at.place, decoder.blocks[min(at.layer, decoder.layers - 1)]
    if is_coded(place):
        code = decoder.codes[place, at.layer]
        return written_change(decoder, code, code.change(delta), base.residual[at.layer])
    if place == "pattern":
        delta = mixing_change(decoder, base, at, example, delta)
    elif place in IN_ATTENTION:
        delta = value_change(decoder, base, at, example, offset, delta)
    if in_attention(place):
        return delta @ written_by(block, place).head_weights
    if place == "router":
        delta = rerouted(block, base, example, offset, delta)
    if place == "neurons":
        return delta @ block.neuron_weights
    return delta * block.mlp_scale if place in ("mlp", "router", *OF_MLP) and block.mlp_scale != 1 else delta


def value_change(
    decoder: Decoder,
    base: State,
    at: Where,
    example: Int[Tensor, " rows"],
    offset: int,
    delta: Float[Tensor, "rows positions site"],
) -> Float[Tensor, "rows positions values"]:
    """Change of the heads' values z for a change of the layer's queries, keys or values: attention, run again.

    Positions before `offset` keep what they have; a key or value changes all query heads of its group.
    """
    parts = {site: base.sites[site][at.layer][example] for site in IN_ATTENTION}
    changed = parts[at.place]
    heads = delta.unflatten(-1, (changed.shape[1], changed.shape[3])).transpose(1, 2)
    kept = changed.shape[2] - heads.shape[2]
    parts[at.place] = torch.cat([changed[:, :, :kept], changed[:, :, kept:] + heads], 2)
    query = parts["queries"][:, :, offset:]
    new, _ = suffix_attention(None, query, parts["keys"], parts["values"], None, **base.attention[at.layer])
    given = decoder.found.given(decoder.blocks[at.layer].attention_out, new.flatten(2))
    return given - base.sites["z"][at.layer][example, offset:]


def rerouted(
    block: Block,
    base: State,
    example: Int[Tensor, " rows"],
    offset: int,
    delta: Float[Tensor, "rows positions experts"],
) -> Float[Tensor, "rows positions width"]:
    """Change of an MLP's output for a change of its router's logits: the MLP, run again on what it was given."""
    assert block.mixture is not None
    given, logits, output = (base.sites[site][block.layer][example, offset:] for site in ("mlp_in", "router", "mlp"))
    new = logits + delta.to(logits.dtype)
    with hooks(*block.mixture.routing(new.reshape_as)):
        return block.run_mlp(given) - output


def mixing_change(
    decoder: Decoder, base: State, at: Where, example: Int[Tensor, " rows"], delta: Float[Tensor, "rows positions site"]
) -> Float[Tensor, "rows positions values"]:
    """Change of the heads' values z for a change of the layer's patterns: that change times the run's own values.

    z is linear in the pattern, so nothing is run again but hooks of the user's own before the output projection. Bound
    by one product: 2 · heads · keys · head_dim operations a position, a fraction of those of the blocks behind it.
    """
    out, values = decoder.blocks[at.layer].attention_out, base.values[at.layer][example]
    rows, groups, keys, _ = values.shape
    positions = delta.shape[1]

    def z(pattern: Tensor) -> Tensor:
        return mixed(pattern.reshape(rows * groups, -1, keys), values, positions).flatten(2)

    change = z(delta.unflatten(-1, (-1, keys)).transpose(1, 2))
    if decoder.found.untouched(out):
        return change
    own = z(base.sites["pattern"][at.layer][example, :, -positions:])
    return decoder.found.given(out, own + change) - decoder.found.given(out, own)


def enter(
    decoder: Decoder,
    base: State,
    at: Where,
    example: Int[Tensor, " rows"],
    offset: int,
    change: Float[Tensor, "rows positions width"],
) -> Float[Tensor, "rows positions width"]:
    """The residual stream of rows whose write at `at` changes by `change` (see `output_change`).

    `offset`: first position of the rows, counted from the tape's start.
    """
    joined, middle = at.join
    after = (base.middle[joined] if middle else base.residual[joined])[example, offset:]
    return after + stream_change(decoder, base, at, example, offset, change)


def stream_change(
    decoder: Decoder,
    base: State,
    at: Where,
    example: Int[Tensor, " rows"],
    offset: int,
    change: Float[Tensor, "rows positions width"],
) -> Float[Tensor, "rows positions width"]:
    """What a change of a write (see `output_change`) changes of the stream where it joins, `at.join`.

    Through a post-norm, where there is one, and scaled with the stream where that is scaled before the rows join.
    """
    block = decoder.blocks[at.layer] if at.layer < decoder.layers else None
    if at.place == "residual" or block is None:
        return change
    written = _write_change(decoder, block, base, at, example, offset, change)
    if at.join[0] == at.layer:
        return written
    if block.own_inputs is None:
        return block.behind(written)
    # what the block adds for its own input reads the stream behind the MLP
    before = base.middle[at.layer][example, offset:] + block.mlp_write(base.sites["mlp"][at.layer][example, offset:])
    given = base.own_input(at.layer, example, before.shape[1])
    return block.ended(before + written, given) - block.ended(before, given)


def _write_change(
    decoder: Decoder, block: Block, base: State, at: Where, example: Tensor, offset: int, change: Tensor
) -> Tensor:
    if _straight(decoder, at):
        return change
    attention = in_attention(at.place, decoder, at.layer)
    block = written_by(block, at.place)
    write = block.attention_write if attention else block.mlp_write
    if (block.attention_post_norm if attention else block.mlp_post_norm) is None:
        return change
    site = "mixed" if at.place == "channels" else "attention" if attention else "mlp"
    output = base.sites[site][at.layer][example, offset:]
    return write(output + change) - write(output)


def _straight(decoder: Decoder, at: Where) -> bool:
    """Whether what a dictionary explains is the stream itself, or what a post-norm has given it."""
    if not is_coded(at.place):
        return False
    return written_at(decoder.codes[at.place, at.layer]) in (*OF_STREAM, "behind attention", "behind mlp")


def join(
    decoder: Decoder,
    base: State,
    at: Where,
    example: Int[Tensor, " rows"],
    offset: int,
    change: Callable[[], Float[Tensor, "rows positions width"]],
) -> Join:
    """A `suffix.Join` of rows with one kind of patch; `change` is computed when the sweep gets there."""

    def entered() -> Tensor:
        return enter(decoder, base, at, example, offset, change())

    return Join(at.join[0], at.join[1], example, entered)


def neuron_change(
    block: Block, neuron: Int[Tensor, " rows"], delta: Float[Tensor, "rows positions"]
) -> Float[Tensor, "rows positions width"]:
    """`output_change` of one neuron a row: a multiple of that neuron's row of W_down, at a fraction of the cost."""
    return torch.einsum("rs,rw->rsw", delta, block.neuron_weights[neuron])

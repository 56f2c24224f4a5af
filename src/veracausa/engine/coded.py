"""Dictionaries laid on a model: what they read in a recorded run, and where they write.

A code's site (`dictionaries.code`) is a place like any other: a patch changes it, and the change of what the dictionary
explains enters the stream where that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from veracausa.anatomy.maps import BlockMap, map_of
from veracausa.arguments import kind_and_value
from veracausa.dictionaries.code import Code
from veracausa.dictionaries.components import SINGULAR, kind_of_set
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.site import Site
from veracausa.errors import MethodError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.anatomy import Block, Decoder
    from veracausa.engine.tape import State
    from veracausa.model import Model

#: What a tape must hold so that any dictionary can read it.
SITES = ("z", "attention", "mlp", "mlp_in")
#: Kind of a site, but for the stream → what a tape holds of it.
_READ = {"a": "attention", "m": "mlp", "z": "z", "n": "mlp_in", "hidden": "neurons", "read": "attention_in",
         "q": "q_out", "k": "k_out", "v": "v_out", "up": "up_out", "gate": "gate_out"}  # fmt: skip
#: Where what a dictionary explains is written; "behind": straight to the stream, behind a post-norm.
Written = Literal[
    "residual", "middle", "z", "attention", "mlp", "behind attention", "behind mlp",
    "q_out", "k_out", "v_out", "up_out", "gate_out",
]  # fmt: skip
#: Of these, the stream itself: in front of a block, and between its attention and its MLP.
OF_STREAM: tuple[Written, ...] = ("residual", "middle")
#: Those from which a change goes on within its block, not straight to the stream.
INSIDE = ("q_out", "k_out", "v_out", "up_out", "gate_out")


def kind_of(dictionary: Dictionary) -> str:
    """The kind of units, and the place, that a dictionary's parts are: "features", "directions", "features.mlp"."""
    if dictionary.map:
        return kind_of_set(dictionary.map, dictionary.name or SINGULAR)
    slot = "directions" if dictionary.labels else "features"
    return f"{slot}.{dictionary.name}" if dictionary.name else slot


def codes_of(lm: Model, dictionaries: Iterable[Dictionary]) -> dict[tuple[str, int], Code]:
    """Dictionaries by kind and layer, on the model's device and in the precision of its scores; see `Model.reading`."""
    found: dict[tuple[str, int], Code] = {}
    for dictionary in dictionaries:
        if not isinstance(dictionary, Dictionary):
            raise MethodError(
                f"lm.reading takes dictionaries, as vc.dictionary makes them; this is {kind_and_value(dictionary)}."
            )
        _require_fits(lm, dictionary)
        key = kind_of(dictionary), dictionary.writes.layer
        if key in found:
            raise MethodError(
                f"Two sets of components of layer {key[1]} are both {key[0]!r}. Give them names."
                if dictionary.map
                else f"Two dictionaries of layer {key[1]} are both called {key[0]!r}. Give them names: "
                "vc.dictionary(…, name='mlp') (on the command line PATH@m10:mlp) has units f10.mlp.1234."
            )
        posted = _done_to(lm.decoder, dictionary.writes)
        own = dictionary.to(lm.device, lm.score_dtype)
        found[key] = Code(own, posted=posted, digest=dictionary.digest())
    return found


def _done_to(decoder: Decoder, site: Site) -> Callable[[Tensor], Tensor] | None:
    """What is done to what a run has recorded, before it is what a dictionary explains."""
    if f"{site.kind}_out" in INSIDE:
        return map_of(decoder, site.layer, site.kind).own
    return partial(_posted, decoder.blocks[site.layer], site.kind) if site.post else None


def _posted(block: Block, kind: str, output: Tensor) -> Tensor:
    """What is written of an output of attention or MLP, by the norm as the user left it, whatever watches it now."""
    if kind == "m":
        norm, factor = block.mlp_post_norm, block.mlp_factor
    else:
        norm, factor = block.attention_post_norm, block.attention_factor
    return (output if norm is None else block.found.run(norm, output)) * factor


def _require_fits(lm: Model, dictionary: Dictionary) -> None:
    decoder = lm.decoder
    if dictionary.map:
        _require_map(lm, dictionary)
        return
    if dictionary.transcodes and dictionary.reads.post:
        raise MethodError(
            f"A dictionary that reads {dictionary.reads.name} writes there, too; this one writes "
            f"{dictionary.writes.name}. Transcoders read the stream (r), or what the MLP reads (n)."
        )
    for site, width in (
        (dictionary.reads, dictionary.encoder.weight.shape[0]),
        (dictionary.writes, dictionary.weight.shape[1]),
    ):
        last = lm.layers - (site.kind != "r")
        if site.layer > last:
            raise MethodError(f"The dictionary is of {site.name}, but the layers of {lm.name} are 0 … {last}.")
        own = decoder.heads * decoder.blocks[site.layer].head_dim if site.kind == "z" else lm.width
        if width != own:
            raise MethodError(
                f"The dictionary is {width} wide at {site.name}, where {lm.name} is {own} wide: it was made for "
                "another model, or another site."
            )
        if site.layer < lm.layers:
            block = decoder.blocks[site.layer]
            if site.post and site.kind == "m" and (block.stream_scale != 1 or block.own_inputs is not None):
                raise MethodError(
                    f"Block {site.layer} of {lm.name} changes the whole stream behind its MLP's write, so {site.name} "
                    "is not what reaches it. Take a dictionary of the stream, or of the MLP's own output."
                )
            if site.post and block.parallel:
                raise MethodError(f"Block {site.layer} of {lm.name} writes once, so it has no {site.name} of its own.")
            if site.kind == "mid" and (block.parallel or not block.has_mlp):
                raise MethodError(f"Block {site.layer} of {lm.name} has no stream between an attention and an MLP.")
            between = site == dictionary.writes and (site.kind == "mid" or (site.kind == "a" and site.post))
            if between and decoder.anatomy.joins_rows:
                raise MethodError(
                    f"Blocks of {lm.name} give their MLPs all rows and positions as one dimension, so that slopes at "
                    f"{site.name} are not known. Take one of r{site.layer}, a{site.layer} or r{site.layer + 1}."
                )
            if (site.kind in "mn" and not block.has_mlp) or (site.kind in "az" and block.mixing != "attention"):
                raise MethodError(f"Block {site.layer} of {lm.name} has no {site.name} that a dictionary could read.")


def _require_map(lm: Model, dictionary: Dictionary) -> None:
    """MethodError unless components are as wide as the map that they are of."""
    layer = dictionary.writes.layer
    if layer >= lm.layers:
        raise MethodError(f"{dictionary!r}: the layers of {lm.name} are 0 … {lm.layers - 1}.")
    if (one := mapped(lm.decoder, dictionary)) is None:
        return
    own, given = tuple(one.linear.weight.shape), (dictionary.encoder.weight.shape[0], dictionary.weight.shape[1])
    if own != given:
        raise MethodError(
            f"{dictionary!r} is of a map from {given[0]} to {given[1]} numbers; {one.name} of block {layer} of "
            f"{lm.name} goes from {own[0]} to {own[1]}. It was made for another model."
        )


def mapped(decoder: Decoder, dictionary: Dictionary) -> BlockMap | None:
    """The map that components are parts of; None of products of two maps, and of no components."""
    name = dictionary.map
    return None if name in ("", "ov", "qk") else map_of(decoder, dictionary.writes.layer, name)


def output_of(dictionary: Dictionary) -> str:
    """The map at whose output components are changed: theirs, of a head's products that of its outputs or queries."""
    return {"ov": "o", "qk": "q"}.get(dictionary.map, dictionary.map)


def written_at(code: Code) -> Written:
    """Where in its layer what a dictionary explains is written."""
    site = code.dictionary.writes
    if (inside := f"{site.kind}_out") in INSIDE:
        return inside  # type: ignore[return-value]
    if site.post:
        return "behind mlp" if site.kind == "m" else "behind attention"
    return {"r": "residual", "mid": "middle", "z": "z", "a": "attention", "m": "mlp"}[site.kind]  # type: ignore[return-value]


def site_of(state: State, place: str, layer: int) -> Float[Tensor, "examples positions site"]:
    """The site of a code in a recorded run, read once."""
    key = place, layer
    if key not in state.coded:
        code = state.codes[key]
        read, explained = (read_by(state, site) for site in (code.dictionary.reads, code.dictionary.writes))
        state.coded[key] = code.site(read, explained, before=written_before(state, place, layer))
    return state.coded[key]


def written_before(state: State, place: str, layer: int) -> Float[Tensor, "examples positions width"] | None:
    """What features of earlier layers' dictionaries write to a layer, of one kind; None where none of them can."""
    found = [
        written_onward(state, place, earlier)[layer]
        for (kind, earlier), code in state.codes.items()
        if kind == place and earlier < layer and layer in code.dictionary.layers
    ]
    return sum(found[1:], found[0]) if found else None


def written_onward(state: State, place: str, layer: int) -> dict[int, Float[Tensor, "examples positions width"]]:
    """Later layer → what features of a cross-layer transcoder write there in a recorded run, read once."""
    dictionary = state.codes[place, layer].dictionary
    keys = {later: (f"{place} of {layer}", later) for later in dictionary.layers[1:]}
    if keys and not all(key in state.coded for key in keys.values()):
        f = dictionary.encode(read_by(state, dictionary.reads).to(dictionary.weight.dtype))
        state.coded.update({key: dictionary.written(f, later) for later, key in keys.items()})
    return {later: state.coded[key] for later, key in keys.items()}


def read_by(state: State, site: Site) -> Tensor:
    """What a dictionary reads or explains; a post-norm is the code's to take."""
    if site.kind in ("r", "mid"):
        return (state.residual if site.kind == "r" else state.middle)[site.layer]
    return state.sites[_READ[site.kind]][site.layer]


def read_at(codes: Iterable[Code]) -> tuple[str, ...]:
    """What a tape must hold so that some dictionaries can encode."""
    kinds = (one.dictionary.reads.kind for one in codes)
    return tuple(dict.fromkeys(_READ[kind] for kind in kinds if kind in _READ))


def sites_of_components(place: str) -> tuple[str, ...]:
    """What a tape must hold so that components of a kind of map can be read and patched; nothing of other places."""
    slot, _, name = place.partition(".")
    beside = ("values", "v_out", "pattern")  # by which `inner_maps` sees whether heads give what they mix
    of = {
        "o": ("z", "attention"), "ov": ("z", "attention", *beside), "down": ("neurons", "mlp"),
        **{one: ("mlp_in", f"{one}_out") for one in ("up", "gate")},
        **{one: ("attention_in", f"{one}_out") for one in "qkv"},
        "qk": ("attention_in", "q_out", "k_out", "queries", "keys"),
    }  # fmt: skip
    return of[name.partition(".")[0]] if slot == "components" and name else ()


def narrowed(lm: Model, kind: str, layer: Int[np.ndarray, " units"], index: Int[np.ndarray, " units"]) -> Model:
    """A model whose dictionaries of a kind tell apart those of their features alone that a table of units names."""
    codes = {
        (slot, at): code.of(index[layer == at]) if slot == kind else code
        for (slot, at), code in lm.decoder.codes.items()
    }
    return replace(lm, decoder=replace(lm.decoder, codes=codes))


def widened(lm: Model, kind: str) -> Model:
    """A model whose dictionaries of a kind tell all of their features apart."""
    codes = {
        (slot, at): replace(code, chosen=None) if slot == kind else code
        for (slot, at), code in lm.decoder.codes.items()
    }
    return replace(lm, decoder=replace(lm.decoder, codes=codes))


def written_change(
    decoder: Decoder, code: Code, change: Float[Tensor, "rows positions width"], like: Tensor
) -> Float[Tensor, "rows positions width"]:
    """The change of what the attention or the MLP writes for one of what a dictionary explains.

    `like`: the stream, in whose precision it is. See `patches.output_change`.

    Raises:
        MethodError: its features write to later layers, too, which one change is not all of (see `crossing`).
    """
    if code.dictionary.onward is not None:
        raise MethodError(f"{code.dictionary!r} writes to several layers, which this call does not follow.")
    return own_change(decoder, code, change, like)


def own_change(
    decoder: Decoder, code: Code, change: Float[Tensor, "rows positions width"], like: Tensor
) -> Float[Tensor, "rows positions width"]:
    """`written_change` in the dictionary's own layer, wherever else its features write."""
    at, layer = written_at(code), code.dictionary.writes.layer
    if at == "z":
        weights = decoder.blocks[layer].head_weights
        return change.to(weights.dtype) @ weights
    scale = 1.0
    if at in ("mlp", "attention"):
        scale = decoder.blocks[layer].mlp_scale if at == "mlp" else decoder.blocks[layer].attention_scale
    return change.to(like.dtype) * scale if scale != 1 else change.to(like.dtype)

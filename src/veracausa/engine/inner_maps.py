"""Components of weights at work: rows whose map gives something else, and whether maps are what they are taken for.

A component of a map inside a block (queries, keys, values, the first maps of an MLP) changes what that map gives; what
becomes of it is told by the block, run again. In front of the map all is as it was, so the change is known beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.anatomy.maps import at_map, map_of
from veracausa.dictionaries.components import FACTORS
from veracausa.engine.attention import mixed
from veracausa.engine.coded import mapped, read_by, sites_of_components, written_at
from veracausa.engine.guard import borrowed, precision_of
from veracausa.engine.overrides import Override
from veracausa.engine.recording import record
from veracausa.engine.validate import misread, rounding
from veracausa.errors import ArchitectureError, ContractError
from veracausa.weights.parts import map_name, weights_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float

    from veracausa.anatomy import Decoder
    from veracausa.dictionaries.code import Code
    from veracausa.engine.patches import Where
    from veracausa.engine.tape import State, Tape
    from veracausa.model import Model

#: Tokens of the run in which two maps are seen at work: a rotation does nothing at the first position alone.
_TOKENS = 4


def changed_map(decoder: Decoder, at: Where, change: Float[Tensor, "rows positions outputs"]) -> Override:
    """What rows take whose map inside a block gives this much more; see `suffix.through`."""
    every = torch.arange(len(change), device=change.device)
    taken = torch.ones(*change.shape[:2], 1, dtype=torch.bool, device=change.device)
    return Override(written_at(decoder.codes[at.place, at.layer]), every, taken, lambda: change, added=True)


@torch.no_grad()
def require_components(lm: Model, tape: Tape, place: str) -> None:
    """Maps are those whose parts were laid on the model, gave x W + b in both recorded runs, and heads mix values as
    they are.

    Raises:
        ContractError: names the block and the map. ArchitectureError: something stands between two maps whose product
            was taken apart.
    """
    for (kind, layer), code in lm.decoder.codes.items():
        if kind != place or not code.dictionary.map:
            continue
        if weights_digest(lm.decoder, layer, code.dictionary.map) != code.dictionary.weights:
            name = map_name(layer, code.dictionary.map)
            raise ContractError(
                f"The weights of {name} of {lm.name} were changed since its components were laid on the model (or its "
                f"adapters switched, or scaled otherwise). Lay them anew: lm.reading(*vc.components(lm, {name!r}))."
            )
        for run in (tape.clean, tape.corrupted):
            error, scale = _off(lm.decoder, code, run)
            if not error <= rounding(precision_of(lm.decoder).dtype, scale):
                raise ContractError(misread(lm, f"The map {code.dictionary.map}", lm.decoder.blocks[layer], error))
            _require_product(lm, run, layer, code.dictionary.map)


@torch.no_grad()
def require_products(lm: Model, maps: Iterable[tuple[int, str]]) -> None:
    """Between two maps whose product is to be taken apart, (layer, "ov" or "qk"), nothing stands: seen in a run of
    four tokens, before anything is computed for their components.

    Raises:
        ArchitectureError: something does, or a block has no such maps; says where, and what to take instead.
    """
    products = [one for one in maps if one[1] in FACTORS]
    if not products:
        return
    for layer, name in products:
        for own in FACTORS[name]:
            map_of(lm.decoder, layer, own)
    sites = {site for _, name in products for site in sites_of_components(f"components.{name}")}
    ids = torch.arange(_TOKENS, device=lm.device)[None] % lm.decoder.unembedding_map.weight.shape[1]
    with borrowed(lm.decoder):
        run, _ = record(lm.decoder, ids, sites=sites)
    for layer, name in products:
        _require_product(lm, run, layer, name)


def _require_product(lm: Model, run: State, layer: int, name: str) -> None:
    """The same of one map, in a run; of maps that are no products nothing is asked."""
    if name == "ov":
        _require_values(lm, run, layer)
    if name == "qk":
        _require_straight(lm, run, layer)


def _off(decoder: Decoder, code: Code, run: State) -> tuple[float, float]:
    """How far a map's outputs are from x W + b, and how large they are."""
    dictionary = code.dictionary
    x, y = (read_by(run, site) for site in (dictionary.reads, dictionary.writes))
    y = y if code.posted is None else code.posted(y)
    x, y = x.to(dictionary.weight.dtype), y.to(dictionary.weight.dtype)
    one = mapped(decoder, dictionary)
    given = dictionary.encode(x) @ dictionary.weight if one is None else x @ one.linear.weight.to(x)
    return float((given + dictionary.bias - y).abs().max()), float(y.abs().max()) + 1e-6


def _require_values(lm: Model, run: State, layer: int) -> None:
    """What heads mix is what the value map gives, and what they give is that, mixed by a pattern that sums to one."""
    block, late = lm.decoder.blocks[layer], run.residual[layer].shape[1]
    made = at_map(block, "v").own(run.sites["v_out"][layer])
    values, pattern = run.sites["values"][layer], run.sites["pattern"][layer]
    own = values[:, :, -late:].transpose(1, 2).flatten(2)
    z = mixed(pattern.reshape(len(values) * values.shape[1], -1, pattern.shape[-1]), values, late)
    allowed = rounding(precision_of(lm.decoder).dtype, float(values.abs().max()) + 1e-6)
    off = max(
        float((own - made).abs().max()), float((z.flatten(2) - run.sites["z"][layer]).abs().max()),
        float((pattern.sum(-1) - 1).abs().max() * values.abs().max()),
    )  # fmt: skip
    if not off <= allowed:
        raise ArchitectureError(
            f"In block {layer} of {lm.name} a head's output is not its pattern times its value map (off by {off:.3g}: "
            "a norm, a gate, a clip or a sink stands between), so there are no components of both maps. Take those of "
            f"one map: a{layer}.v, a{layer}.o."
        )


def _apart(heads: Tensor, made: Tensor) -> float:
    """How far queries or keys are from a multiple of what their map gave, as a share of the largest."""
    if heads.shape != made.shape:
        return float("inf")
    factor = (heads * made).sum() / made.square().sum().clamp_min(1e-30)
    return float((heads - factor * made).abs().max() / heads.abs().max().clamp_min(1e-30))


def _require_straight(lm: Model, run: State, layer: int) -> None:
    """Queries and keys are what their maps give, and their products go into a softmax as they are."""
    block, settings = lm.decoder.blocks[layer], run.attention[layer]
    late, off = run.residual[layer].shape[1], 0.0
    for name, site in (("q", "queries"), ("k", "keys")):
        made = at_map(block, name).own(run.sites[f"{name}_out"][layer])
        heads = run.sites[site][layer][:, :, -late:].transpose(1, 2).flatten(2)
        off = max(off, _apart(heads, made))
    if (
        off > rounding(precision_of(lm.decoder).dtype, 1.0)
        or settings.get("softcap")
        or settings.get("s_aux") is not None
    ):
        raise ArchitectureError(
            f"In block {layer} of {lm.name} what stands between the query and key maps (a rotation by position, a "
            "norm, a cap of scores, a sink) makes their product another one for every pair of positions, so it has no "
            f"components. Take those of one map: a{layer}.q.c0 changes the query before the rotation, a{layer}.k.c0 "
            "the key."
        )

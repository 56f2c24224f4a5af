"""`vc.components`: parts of linear maps' weights as units, of every kind that can be had."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from veracausa.anatomy.maps import map_of
from veracausa.arguments import kind_and_value, shown, texts
from veracausa.dictionaries.components import BY_HEAD, MAPS, SET, SINGULAR, STEP, WEIGHTS
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.engine.inner_maps import require_products
from veracausa.errors import MethodError
from veracausa.loading.dictionaries.files import tensors_of
from veracausa.loading.dictionaries.plain import tensor_of
from veracausa.model import Model
from veracausa.suggestions import not_known
from veracausa.weights.parts import adapters_of, differing, layers_with_map, map_name, of_map, single_weights, singular

if TYPE_CHECKING:
    from jaxtyping import Float

#: What components may be made of, beside factors and another model.
Of = Literal["singular", "lora"]
_NAMES = [*MAPS["a"], *MAPS["m"], *BY_HEAD]
_MAP = re.compile(rf"([am])([0-9]{{1,4}}|\*)\.({'|'.join(_NAMES)})")


def components(
    lm: Model,
    maps: str | Sequence[str],
    *,
    of: Of = "singular",
    factors: Any = None,
    against: Model | None = None,
    weights: Sequence[tuple[int, int]] | None = None,
    name: str | None = None,
) -> list[Dictionary]:
    """Parts of linear maps' weights, W = Σ_c v_c u_cᵀ + Δ: one dictionary a map, to be laid on the model.

    A component writes a_c u_c with a_c = v_c · x, x what the map reads. Whatever features can be asked, they can:
    taking one out (`ablation="zero"`) is taking v_c u_cᵀ out of W. A map's bias is in no component. All of a map are
    units="components.down", of other sets "components.down.lora", ".diff", ".own" and ".weights". They are of the
    weights as they are now: where these are changed afterwards calls end in a ContractError.

    Args:
        lm: the model.
        maps: "m5.down", or several, "m*.down" for all layers: `q`, `k`, `v`, `o` of an attention, `gate`, `up`, `down`
            of an MLP (`up` where there is no gate), and head by head `ov` (value map times output map) and `qk` (query
            map times key map, where nothing stands between them: no rotation, no norm).
        of: "singular", singular directions (`m5.down.c0`, …); "lora", the ranks of the adapters that are active
            (`m5.down.lora0`, …).
        factors: your own, U [components, outputs] and V [inputs, components], so that V U is (a part of) W as x W has
            it: a pair (U, V) for one map, {"m5.down": (U, V), …}, or a .safetensors, .npz or .pt file with
            "m5.down.U", "m5.down.V", …. They are `m5.down.own0`, … .
        against: another checkpoint of the same architecture. Components are the singular directions of W − W′, W′
            the other's; all of them taken out (`m5.down.diff`), the map is the other's, but for its bias.
        weights: (output, input) of single weights, `m5.down[output,input]`.
        name: of the set, small letters, in the place of "lora", "own" or "diff".

    Raises:
        MethodError: no such map, factors that do not fit, or no adapter on it. ArchitectureError: a block has no such
            map that is told apart, it is not linear as it runs, or something stands between the two of a product.

    >>> lm = lm.reading(*vc.components(lm, "m5.down"))
    >>> vc.exact(lm, task, units="components.down", ablation="zero")
    """
    _require_one(of, factors, against, weights)
    chosen = _set_name(of, factors, against, name)
    found = _maps(lm, maps)
    require_products(lm, found)
    given = None if factors is None else _factors(lm, factors, found)
    made = []
    for layer, one in found:
        if one in BY_HEAD and (given, against, weights, of) != (None, None, None, "singular"):
            raise MethodError(f"{map_name(layer, one)} is a product of two maps, which has singular directions alone.")
        if given is not None:
            v, u = given[map_name(layer, one)]
            made.append(_own(lm, layer, one, v, u, chosen))
        elif against is not None:
            source = f"singular directions of {map_name(layer, one)} less that of {against.name}"
            made.append(differing(lm.decoder, against.decoder, layer, one, chosen, source))
        elif weights is not None:
            made.append(single_weights(lm.decoder, layer, one, [row * STEP + column for row, column in weights]))
        elif of == "lora":
            made.append(adapters_of(lm.decoder, layer, one, chosen))
        else:
            made.append(singular(lm.decoder, layer, one))
    return made


def _require_one(of: str, factors: Any, against: Any, weights: Any) -> None:
    """MethodError unless components are said to be made of one thing."""
    if of not in ("singular", "lora"):
        raise MethodError(not_known("of", of, ("singular", "lora")))
    asked = [
        what for what, value in (("factors", factors), ("against", against), ("weights", weights)) if value is not None
    ]
    asked += [] if of == "singular" else [f"of={of!r}"]
    if len(asked) > 1:
        raise MethodError(
            f"{' and '.join(asked)} say different things about what the components are; give one of them."
        )
    if against is not None and not isinstance(against, Model):
        raise MethodError(f"against= is a model, as vc.load gives it; this is {kind_and_value(against)}.")


def _set_name(of: str, factors: Any, against: Any, name: str | None) -> str:
    """What a set is called."""
    default = "own" if factors is not None else "diff" if against is not None else of
    if name is None:
        return default
    if default == "singular" or not SET.fullmatch(name) or name in (SINGULAR, WEIGHTS, "rest", *_NAMES):
        raise MethodError(
            f"name={shown(name)}: a set of components is called by one to twelve small letters, neither like a map nor "
            f"{SINGULAR!r}, {WEIGHTS!r} or 'rest'; singular directions and single weights have no name of their own."
        )
    return name


def _maps(lm: Model, maps: str | Sequence[str]) -> list[tuple[int, str]]:
    """(layer, map) of names; "*" of all layers that have the map.

    Raises:
        MethodError: a name that is none, or twice the same.
    """
    found: list[tuple[int, str]] = []
    for one in [maps] if isinstance(maps, str) else texts(maps, "maps", MethodError):
        match = _MAP.fullmatch(one)
        known = match is not None and match[3] in (MAPS[match[1]] if match[3] not in BY_HEAD else BY_HEAD)
        if match is None or not known or (match[1] == "m" and match[3] in BY_HEAD):
            raise MethodError(
                f"maps={shown(one)} is no linear map. Maps are a9.q, a9.k, a9.v, a9.o, a9.ov, a9.qk, m5.gate, m5.up, "
                "m5.down; m*.down is that of all layers."
            )
        layers = layers_with_map(lm.decoder, match[3]) if match[2] == "*" else [int(match[2])]
        if layers[-1] >= lm.layers:
            raise MethodError(f"{one!r} is not in {lm.name}: its layers are 0 … {lm.layers - 1}.")
        found += [(layer, match[3]) for layer in layers]
    if len(set(found)) < len(found) or not found:
        raise MethodError(f"maps={shown(maps)} names {'a map twice' if found else 'no map'}.")
    return found


def _factors(lm: Model, given: Any, maps: Sequence[tuple[int, str]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Map → V and U."""
    names = [map_name(*one) for one in maps]
    if isinstance(given, (str, Path)):
        tensors = tensors_of(Path(given), lm.score_dtype).found
        lacking = [f"{name}.{part}" for name in names for part in "UV" if f"{name}.{part}" not in tensors]
        if lacking:
            raise MethodError(f"{given} has no {lacking[0]!r}; it has {', '.join(sorted(tensors)[:6])}.")
        return {name: (tensors[f"{name}.V"], tensors[f"{name}.U"]) for name in names}
    pairs = given if isinstance(given, Mapping) else {names[0]: given} if len(names) == 1 else None
    if pairs is None or any(name not in pairs or len(pairs[name]) != 2 for name in names):
        raise MethodError(
            f"factors= of {', '.join(names)} are a pair (U, V) of each, {{'{names[0]}': (U, V), …}}, or a file with "
            f"'{names[0]}.U' and '{names[0]}.V'."
        )
    return {one: (tensor_of(f"V of {one}", pairs[one][1]), tensor_of(f"U of {one}", pairs[one][0])) for one in names}


def _own(
    lm: Model,
    layer: int,
    name: str,
    v: Float[Tensor, "inputs components"],
    u: Float[Tensor, "components outputs"],
    chosen: str,
) -> Dictionary:
    """Components by factors of the user's."""
    one = map_of(lm.decoder, layer, name)
    inputs, outputs = one.linear.weight.shape
    if v.ndim != 2 or u.ndim != 2 or v.shape[0] != inputs or u.shape[1] != outputs or v.shape[1] != len(u):
        raise MethodError(
            f"{map_name(layer, name)} goes from {inputs} to {outputs} numbers, so V is [{inputs}, components] and U is "
            f"[components, {outputs}]; these are {list(v.shape)} and {list(u.shape)}. Was a matrix transposed?"
        )
    for part in (v, u):
        if not torch.isfinite(part).all():
            raise MethodError(f"The factors of {map_name(layer, name)} have NaN or infinite numbers.")
    source = f"{len(u)} factors of {map_name(layer, name)}"
    return of_map(lm.decoder, one, v.to(lm.device), u.to(lm.device), name=chosen, source=source)

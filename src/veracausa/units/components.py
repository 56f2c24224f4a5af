"""Units that are components: patterns spelled out, and the parts that names speak of laid on a model.

    m5.down.c*, m5.down.c0-31      all singular directions, or the first 32, one by one
    a9.h*.ov0, m*.down.c0          of all heads, of all layers that have the map

Singular directions and single weights need no more than their names; of other sets the model must have been given them
(`vc.components`, `Model.reading`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from veracausa.arguments import is_list, shown
from veracausa.dictionaries.components import (
    BY_HEAD,
    MAPS,
    SINGULAR,
    WEIGHTS,
    component_name,
    kind_of_set,
    parse_component,
)
from veracausa.dictionaries.words import ERROR
from veracausa.errors import UnitError
from veracausa.units.groups import window
from veracausa.weights.parts import layers_with_map, single_weights, singular, size_of

if TYPE_CHECKING:
    from veracausa.dictionaries.dictionary import Dictionary
    from veracausa.model import Model

_N = r"[0-9]{1,6}"
_SOME = rf"{_N}-{_N}|\*|{_N}"
_PATTERN = re.compile(
    rf"([am])({_N}|\*)\.(?:h({_SOME})\.(ov|qk)({_SOME})|({'|'.join([*MAPS['a'], *MAPS['m']])})(?:\.([a-z]+)({_SOME}))?)"
)


def spelled(lm: Model, units: Any) -> Any:
    """What `units=` names, with patterns of components written out; all else as it is.

    Raises:
        UnitError: a pattern that no component fits.
    """
    if isinstance(units, str):
        found = _spelled(lm, units)
        return units if found == [units] else found
    if isinstance(units, Mapping):
        return {name: _grouped(lm, entry) for name, entry in units.items()}
    if not is_list(units):
        return units
    names: list[Any] = []
    for one in units:
        names += [tuple(_grouped(lm, one))] if is_list(one) else _spelled(lm, one) if isinstance(one, str) else [one]
    return names


def _grouped(lm: Model, entry: Any) -> Any:
    """The same of a group's members."""
    if isinstance(entry, str):
        return "+".join(_spelled(lm, entry))
    return [one for name in entry for one in (_spelled(lm, name) if isinstance(name, str) else [name])]


def is_pattern(stem: str) -> bool:
    """Whether a name without a position is a pattern of components.

    >>> is_pattern("m5.down.c*"), is_pattern("m5.down.c3")
    (True, False)
    """
    match = _PATTERN.fullmatch(stem)
    return match is not None and any(one and ("*" in one or "-" in one) for one in match.groups())


def _spelled(lm: Model, name: str) -> list[str]:
    if "+" in name:
        return ["+".join(one for part in name.split("+") for one in _spelled(lm, part.strip()))]
    stem, at, where = name.partition("@")
    match = _PATTERN.fullmatch(stem)
    if match is None or not is_pattern(stem):
        return [name]
    letter, layer, heads, product_of, numbers, one, chosen, others = match.groups()
    own = product_of or one
    if own not in (*MAPS[letter], *(BY_HEAD if letter == "a" else ())):
        raise UnitError(f"{shown(name)}: {letter} has no map {own!r}; a has q, k, v, o and m has gate, up, down.")
    layers = layers_with_map(lm.decoder, own) if layer == "*" else [int(layer)]
    found: list[str] = []
    for at_layer in layers:
        if product_of:
            pairs = product(_numbers(heads, lm.decoder.blocks[at_layer].heads, name),
                            _numbers(numbers, size_of(lm.decoder, at_layer, own), name))  # fmt: skip
            found += [f"a{at_layer}.h{head}.{own}{number}" for head, number in pairs]
        elif chosen is None:
            found.append(f"{letter}{at_layer}.{own}")
        else:
            size = _size(lm, at_layer, own, chosen)
            found += [f"{letter}{at_layer}.{own}.{chosen}{number}" for number in _numbers(others, size, name)]
    return [f"{one}{at}{where}" for one in found]


def _numbers(told: str, size: int, name: str) -> Iterable[int]:
    """Those that "*", "3-7" or "3" says."""
    if told == "*":
        return range(size)
    first, _, last = told.partition("-")
    if int(last or first) >= size or int(first) > int(last or first):
        raise UnitError(f"{shown(name)}: there are {size:,} of them, counted from 0.")
    return range(int(first), int(last or first) + 1)


def _size(lm: Model, layer: int, name: str, chosen: str) -> int:
    """How many components a set has."""
    code = lm.decoder.codes.get((kind_of_set(name, chosen), layer))
    if code is not None:
        return code.dictionary.size
    if chosen == SINGULAR:
        return size_of(lm.decoder, layer, name)
    raise UnitError(f"No components {chosen!r} of {name} in layer {layer} were given: see vc.components.")


def naming(lm: Model, units: Any) -> Model:
    """The model with the singular directions and single weights laid on it that names or a table of units speak of.

    Raises:
        ArchitectureError: a layer has no such map. UnitError: no such layer, or no such weight.
    """
    asked: dict[tuple[str, int], set[int]] = {}
    for kind, layer, index in _told(units):
        asked.setdefault((kind, layer), set()).add(index)
    made: list[Dictionary] = []
    for (kind, layer), indices in asked.items():
        own, chosen = kind.split(".")[1], [*kind.split("."), SINGULAR][2]
        known = lm.decoder.codes.get((kind, layer))
        if layer >= lm.layers:
            name = component_name(kind, layer, min(indices))
            raise UnitError(f"{name!r} is not in {lm.name}: its layers are 0 … {lm.layers - 1}.")
        lacking = [one for one in indices if one < ERROR and (known is None or not known.tells(one))]
        if chosen == SINGULAR and known is None:
            made.append(singular(lm.decoder, layer, own))
        elif chosen == WEIGHTS and lacking:
            made.append(single_weights(lm.decoder, layer, own, sorted(one for one in indices if one < ERROR)))
    return lm.reading(*made) if made else lm


def _told(units: Any) -> Iterable[tuple[str, int, int]]:
    """(kind, layer, index) of the components that `units=` speaks of."""
    if hasattr(units, "members"):  # groups
        return [(one.kind, one.layer, one.index) for group in units.members for one in group if _is(one.kind)]
    if hasattr(units, "layer"):
        rows = zip(units.layer.tolist(), units.index.tolist(), strict=True)
        # below 0: coalitions of parts that the model tells apart already
        return [(units.kind, layer, index) for layer, index in rows if index >= 0] if _is(units.kind) else []
    entries = units.values() if isinstance(units, Mapping) else [units] if isinstance(units, str) else units
    texts = [one for entry in entries or () for one in ([entry] if isinstance(entry, str) else entry)]
    named = [name.strip().partition("@")[0] for text in texts if isinstance(text, str) for name in text.split("+")]
    stems = [stem for name in named for stem in window(name)]
    return [found for stem in stems if (found := parse_component(stem)) is not None]


def _is(kind: str) -> bool:
    return kind.startswith("components.")

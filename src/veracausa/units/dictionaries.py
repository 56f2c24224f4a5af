"""Names of features and directions: parts of dictionaries that are laid on a model (`Model.reading`).

f10.1234      feature 1234 of the dictionary at layer 10
f10.mlp.1234  of the dictionary called "mlp", where a layer has several
f10.error     what that dictionary leaves out; f10.skip: what a skip transcoder's linear part writes
d10.subject   a direction
m5.down.c12   a component of weights (see `dictionaries.components`)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

import numpy as np

from veracausa.dictionaries.components import component_name, parse_component
from veracausa.dictionaries.words import ERROR, EVERY, LONGEST, SKIP, word_index
from veracausa.units.kinds import KINDS, Kind
from veracausa.units.table import Units, layers_with

if TYPE_CHECKING:
    from veracausa.model import Model

_WORD = r"[a-z_][a-z0-9_]*"
_NUMBER = r"0|[1-9][0-9]{0,9}"
_FEATURE = re.compile(rf"f({_NUMBER})(?:\.({_WORD}))??\.({_NUMBER}|error|skip)")
_DIRECTION = re.compile(rf"d({_NUMBER})(?:\.({_WORD}))??\.({_WORD})")
_BESIDE = {"error": ERROR, "skip": SKIP}


def reads_like_feature(stem: str) -> bool:
    """Whether a name without a position reads like that of a feature, direction or component."""
    return parse_feature(stem) is not None


def parse_feature(stem: str) -> tuple[str, int, int] | None:
    """(kind, layer, index) of a name without a position, if it is that of a feature, direction or component."""
    if (component := parse_component(stem)) is not None:
        return component
    for slot, pattern in (("features", _FEATURE), ("directions", _DIRECTION)):
        if match := pattern.fullmatch(stem):
            layer, name, part = match[1], match[2], match[3]
            kind = f"{slot}.{name}" if name else slot
            if part in _BESIDE:
                return kind, int(layer), _BESIDE[part]
            if slot == "directions":
                return (kind, int(layer), word_index(part)) if len(part) <= LONGEST else None
            return kind, int(layer), int(part)
    return None


def is_beside(index: np.ndarray) -> np.ndarray:
    """Which indices of parts of dictionaries stand beside the features: errors, skips, all components of a map."""
    return np.isin(index, (ERROR, SKIP, EVERY))


def all_of_dictionaries(lm: Model, kind: str) -> Units:
    """Every part of every dictionary of a kind, layer by layer: features, the error, the skip.

    Singular directions leave no error.
    """
    layers, indices = [], []
    for layer in layers_with(lm, kind):
        dictionary = lm.decoder.codes[kind, layer].dictionary
        beside = [] if dictionary.whole else [ERROR] if dictionary.skip is None else [ERROR, SKIP]
        own = np.concatenate([dictionary.indices, np.array(beside, dtype=np.int64)])
        layers.append(np.full(len(own), layer))
        indices.append(own)
    every = np.concatenate(indices)
    return Units(cast("Kind", kind), np.concatenate(layers), every, np.full(len(every), -1))


def in_parts(lm: Model, table: Units) -> Units:
    """A table whose indices say which part of its layer's site each unit is, of dictionaries and of adapters."""
    if not KINDS[table.kind].coded:
        return table
    index = table.index.copy()
    adapters = lm.decoder.adapters if table.kind == "adapters" else {}
    for layer in np.unique(table.layer).tolist():
        here = table.layer == layer
        told = adapters[layer] if adapters else lm.decoder.codes[table.kind, layer]
        index[here] = told.parts(index[here])
    return Units(table.kind, table.layer, index, table.position)


def lacking(lm: Model, kind: str, layer: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Which units no dictionary has; those of layers without one are not asked about."""
    bad = np.zeros(len(index), dtype=bool)
    for one in layers_with(lm, kind):
        dictionary, own = lm.decoder.codes[kind, one].dictionary, index[layer == one]
        if not len(own):
            continue
        beside = [ERROR, *([SKIP] if dictionary.skip is not None else []), *([EVERY] if dictionary.map else [])]
        known = np.isin(own, dictionary.indices) | np.isin(own, beside)
        bad[layer == one] = ~known & (own >= 0)  # below 0: coalitions, of no one part
    return bad


def sizes_of(lm: Model, kind: str) -> str:
    """ "its dictionaries are f10 with 1,024 features and an error, …", for messages."""
    letter, found = KINDS[kind].name[0], []
    for layer in layers_with(lm, kind):
        dictionary = lm.decoder.codes[kind, layer].dictionary
        if dictionary.map:
            last = component_name(kind, layer, int(dictionary.indices[-1]))
            found.append(f"{dictionary.size:,}, the last of them {last}")
            continue
        what = ", ".join(dictionary.labels[:5]) if dictionary.labels else f"{dictionary.size:,} features"
        name = f".{dictionary.name}" if dictionary.name else ""
        found.append(f"{letter}{layer}{name} with {what}{' and a skip' if dictionary.skip is not None else ''}")
    if kind.startswith("components."):
        return f"its components of that kind are {'; '.join(found)}"
    return f"its dictionaries are {'; '.join(found)}, each with an error"

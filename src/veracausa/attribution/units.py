"""Units: the parts of a model that effects and scores are about, their names and their table.

Names are those of the field's exchange format: `a9.h6` (head 6 of layer 9), `m3` (an MLP), `m3.n1200` (a neuron);
beside them `a9` (a whole attention layer), `a9.h6<q>`, `a9.kv2<k>`, `a9.kv2<v>` (a head's queries; keys and values, one
per key/value head) and `r9` (the residual stream that enters block 9; `r30` of a model with
30 blocks is the final one). `@7` after a name means position 7 only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn, cast

import numpy as np

from veracausa.arguments import shown, texts
from veracausa.errors import UnitError
from veracausa.suggestions import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.engine.patches import Place
    from veracausa.model import Model

Kind = Literal["heads", "mlps", "attention", "neurons", "residual", "queries", "keys", "values", "edges"]

#: Kind → (place where its activation is, singular, meaning).
KINDS: dict[str, tuple[str, str, str]] = {
    "heads": ("z", "head", "attention heads (their value z, the input of the output projection)"),
    "mlps": ("mlp", "MLP", "MLPs (their output)"),
    "attention": ("z", "attention layer", "whole attention layers (all heads of a layer)"),
    "neurons": ("neurons", "neuron", "MLP neurons (post-activation: the input of the down projection)"),
    "residual": ("residual", "residual stream", "the residual stream at a layer (the input of a block)"),
    "queries": ("queries", "head", "queries of heads"),
    "keys": ("keys", "kv", "keys of key/value heads (a key changes all query heads of its group)"),
    "values": ("values", "kv", "values of key/value heads (before the attention pattern)"),
}

#: Other words for kinds.
_SHORT = {"attn": "attention", "resid": "residual", "q": "queries", "k": "keys", "v": "values"}

#: A number in a name: ASCII digits without leading zeros, so that a unit has one name, and few enough for an int64.
NUMBER = r"(0|[1-9][0-9]{0,9})"
_NUMBER = re.compile(NUMBER)
_PATTERNS: dict[str, re.Pattern[str]] = {
    "heads": re.compile(rf"a{NUMBER}\.h{NUMBER}"),
    "attention": re.compile(rf"a{NUMBER}"),
    "neurons": re.compile(rf"m{NUMBER}\.n{NUMBER}"),
    "mlps": re.compile(rf"m{NUMBER}"),
    "residual": re.compile(rf"r{NUMBER}"),
    "queries": re.compile(rf"a{NUMBER}\.h{NUMBER}<q>"),
    "keys": re.compile(rf"a{NUMBER}\.kv{NUMBER}<k>"),
    "values": re.compile(rf"a{NUMBER}\.kv{NUMBER}<v>"),
}
#: What an edge's name looks like; `anatomy.graph` knows which ends there are.
_EDGE = re.compile(r"[a-z][a-z0-9.]*->[a-z][a-z0-9.]*(<[qkv]>)?(@[0-9]+)?")


#: Kinds with several units a layer.
INDEXED = ("heads", "neurons", "queries", "keys", "values")


def per_layer(lm: Model, kind: str) -> int:
    """Units of an indexed kind in one layer, side by side in its site; 0 for kinds with one unit a layer."""
    return {"heads": lm.heads, "queries": lm.heads, "keys": lm.kv_heads, "values": lm.kv_heads,
            "neurons": lm.neurons}.get(kind, 0)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Units:
    """A table of units of one kind.

    `layer`, `index` (head or neuron; −1 where there is none) and `position` (−1: all positions) are integer arrays
    of one length. Positions count from the start of each prompt.
    """

    kind: Kind
    layer: np.ndarray
    index: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, chosen: np.ndarray | slice | Sequence[int]) -> Units:
        return Units(self.kind, self.layer[chosen], self.index[chosen], self.position[chosen])

    def __repr__(self) -> str:
        per = " per position" if self.positional else ""
        return f"Units({len(self)} {self.kind}{per}: {', '.join(self.names[:3])}{', …' if len(self) > 3 else ''})"

    @property
    def place(self) -> Place:
        """Where in a block these units' activations are."""
        return cast("Place", KINDS[self.kind][0])

    @property
    def positional(self) -> bool:
        """Whether units are single positions (else a unit is patched at all positions)."""
        return bool(len(self)) and bool((self.position >= 0).any())

    @property
    def joint(self) -> bool:
        """Whether a row of the table may move several parts of its site (see `coalitions.Coalitions`)."""
        return False

    @property
    def keys(self) -> list[tuple[int, int, int]]:
        """(layer, index, position) of every unit, to match tables by."""
        return list(zip(self.layer.tolist(), self.index.tolist(), self.position.tolist(), strict=True))

    @property
    def names(self) -> list[str]:
        """The units' names, in order."""
        return [_name(self.kind, *row) for row in zip(self.layer, self.index, self.position, strict=True)]

    def shares(self, chosen: np.ndarray, parts: int) -> np.ndarray:
        """How much of each part of its layer's site a chosen unit is, [chosen, parts]: 1 its own part, 0 the others."""
        index = self.index[chosen]
        one = np.zeros((len(chosen), parts), dtype=bool)
        one[np.arange(len(chosen)), np.where(index < 0, 0, index)] = True
        return one

    def wanted(self, examples: int) -> np.ndarray:
        """Which effects are asked for, [examples, units]: all."""
        return np.ones((examples, len(self)), dtype=bool)

    def table(self) -> pd.DataFrame:
        """One row per unit: name, layer, head or neuron, position (the columns that apply)."""
        import pandas as pd

        columns: dict[str, object] = {"name": self.names, "layer": self.layer}
        if self.kind in INDEXED:
            columns[KINDS[self.kind][1]] = self.index
        if self.positional:
            columns["position"] = self.position
        return pd.DataFrame(columns)

    def find(self, name: str) -> int:
        """Index of the unit called `name`."""
        try:
            return self.names.index(name)
        except ValueError:
            raise UnitError(f"{name!r} is not among these {len(self)} {self.kind}, e.g. {self.names[:3]}.") from None

    def digest(self) -> str:
        """A hash of the table, for files that must belong together."""
        parts = hashlib.sha256(self.kind.encode())
        for column in (self.layer, self.index, self.position):
            parts.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
        return parts.hexdigest()[:16]


def _name(kind: str, layer: int, index: int, position: int) -> str:
    stem = {
        "heads": f"a{layer}.h{index}",
        "mlps": f"m{layer}",
        "attention": f"a{layer}",
        "neurons": f"m{layer}.n{index}",
        "residual": f"r{layer}",
        "queries": f"a{layer}.h{index}<q>",
        "keys": f"a{layer}.kv{index}<k>",
        "values": f"a{layer}.kv{index}<v>",
    }[kind]
    return stem if position < 0 else f"{stem}@{position}"


def all_units(lm: Model, kind: Kind, positions: int = 0) -> Units:
    """Every unit of a kind, layer by layer; with `positions` > 0 one unit per position, position fastest."""
    layers = lm.layers + (kind == "residual")
    count = per_layer(lm, kind)
    layer = np.repeat(np.arange(layers), max(count, 1))
    index = np.tile(np.arange(count), layers) if count else np.full(layers, -1)
    if not positions:
        return Units(kind, layer, index, np.full(len(layer), -1))
    position = np.tile(np.arange(positions), len(layer))
    return Units(kind, np.repeat(layer, positions), np.repeat(index, positions), position)


def parse_names(lm: Model, names: Sequence[str]) -> Units:
    """Units by name, all of one kind; names that this model does not have are errors that say its sizes."""
    names = texts(names, "A list of units", UnitError)
    if not names:
        raise UnitError("The list of units is empty. Name at least one, e.g. ['a0.h0'].")
    rows = [_parse(lm, name) for name in names]
    kinds = sorted({kind for kind, *_ in rows})
    if len(kinds) > 1:
        raise UnitError(f"The list mixes kinds of units ({', '.join(kinds)}). Make one call per kind.")
    if len({position < 0 for *_, position in rows}) > 1:
        raise UnitError("The list mixes units at one position (with @) and at all positions. Make two calls.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UnitError(f"Units are listed twice: {', '.join(twice[:5])}.")
    columns = np.array([row[1:] for row in rows], dtype=np.int64)
    return Units(cast("Kind", kinds[0]), columns[:, 0], columns[:, 1], columns[:, 2])


def _parse(lm: Model, name: str) -> tuple[str, int, int, int]:
    stem, at, where = name.partition("@")
    for kind, pattern in _PATTERNS.items():
        match = pattern.fullmatch(stem)
        if match and (not at or _NUMBER.fullmatch(where)):
            layer, index = int(match[1]), int(match[2]) if match.lastindex == 2 else -1
            if layer >= lm.layers + (kind == "residual") or (kind in INDEXED and index >= per_layer(lm, kind)):
                raise UnitError(f"{name!r} is not in {lm.name}: {_sizes(lm, kind)}.")
            return kind, layer, index, int(where) if at else -1
    raise UnitError(
        f"{shown(name)} is not the name of a unit. Names look like a9.h6 (head), m3 (MLP), m3.n1200 (neuron), "
        "a9 (attention layer), a9.h6<q>, a9.kv2<k>, a9.kv2<v>, r9 (residual stream), each with @7 for one position."
        f"{_hint(name)}"
    )


def _hint(name: str) -> str:
    """What a name with capitals, spaces or leading zeros was meant to be, for messages."""
    plain = re.sub(r"(?<![0-9])0+(?=[0-9])", "", name.strip().lower())
    stem, at, where = plain.partition("@")
    known = any(pattern.fullmatch(stem) for pattern in _PATTERNS.values()) and (not at or _NUMBER.fullmatch(where))
    return f" Did you mean {plain!r}?" if known else ""


def resolve_units(lm: Model, units: str | Sequence[str] | Units, longest: int) -> Units:
    """What a public call's `units` means: a kind ("heads"), a kind per position ("heads@positions"), names, a table.

    `longest`: number of positions of the task's longest prompt.
    """
    from veracausa.attribution.edges import Edges, all_edges, checked_edges, parse_edges

    if isinstance(units, Edges):
        return checked_edges(lm, units, longest)
    if isinstance(units, Units):
        return _checked(lm, units, longest)
    names = units if isinstance(units, str) else texts(units, "A list of units", UnitError)
    if any("->" in name for name in ([names] if isinstance(names, str) else names)):
        return checked_edges(lm, parse_edges(lm, [names] if isinstance(names, str) else names), longest)
    if not isinstance(names, str):
        return _checked(lm, parse_names(lm, names), longest)
    kind, at, what = names.partition("@")
    if kind == "edges" and (not at or what == "positions"):
        return all_edges(lm, longest if at else 0)
    kind = _SHORT.get(kind, kind)
    if kind in KINDS and (not at or what == "positions"):
        return all_units(lm, cast("Kind", kind), longest if at else 0)
    if any(pattern.fullmatch(kind) for pattern in _PATTERNS.values()) or _hint(names):
        return _checked(lm, parse_names(lm, [names]), longest)
    _refuse(names, names)


def require_names(units: str | Sequence[str]) -> None:
    """Raise UnitError unless these are a kind of units or read like names; which ones a model has is asked later."""
    names = [units] if isinstance(units, str) else list(units)
    for name in names:
        stem, at, where = name.partition("@")
        is_kind = isinstance(units, str) and stem in (*KINDS, *_SHORT, "edges") and (not at or where == "positions")
        is_name = any(pattern.fullmatch(stem) for pattern in _PATTERNS.values())
        is_name = is_name and (not at or _NUMBER.fullmatch(where) is not None)
        if not (is_kind or is_name or _EDGE.fullmatch(name)):
            _refuse(units, name)


def _refuse(units: str | Sequence[str], name: str) -> NoReturn:
    known = (*KINDS, "edges")
    meant = _hint(name) or did_you_mean(name.partition("@")[0], known)
    raise UnitError(
        f"units={shown(units)} is not known.{meant} Kinds: {', '.join(known)}, each also as 'heads@positions'; or "
        "a list of names such as ['a20.h0', 'm3.n1200'] or ['a9.h6->m10']."
    )


def _checked(lm: Model, units: Units, longest: int) -> Units:
    """The table, if the model has every unit of it and some prompt every position; names the first that is not."""
    if not len(units):
        raise UnitError("The table of units is empty. Name at least one, e.g. ['a0.h0'].")
    sizes = per_layer(lm, units.kind)
    layers = lm.layers + (units.kind == "residual")
    bad = (units.layer >= layers) | (units.layer < 0) | (units.index >= sizes if sizes else False)
    if bad.any():
        name = units[np.flatnonzero(bad)[:1]].names[0]
        raise UnitError(f"{name!r} is not in {lm.name}: {_sizes(lm, units.kind)}.")
    if (units.position >= longest).any():
        name = units[np.flatnonzero(units.position >= longest)[:1]].names[0]
        raise UnitError(
            f"{name!r}: no prompt of this task has such a position; the longest has {longest} tokens, counted from 0."
        )
    return units


def _sizes(lm: Model, kind: str) -> str:
    """ "its layers are 0 … 29, each with 9 heads", for messages."""
    size = f", each with {per_layer(lm, kind)} {kind}" if kind in INDEXED else ""
    return f"its layers are 0 … {lm.layers - (kind != 'residual')}{size}"

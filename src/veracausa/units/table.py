"""Units: the parts of a model that effects and scores are about, their names and their table.

Names are those of the field's exchange format: `a9.h6` (head 6 of layer 9), `m3` (an MLP), `m3.n1200` (a neuron);
beside them `a9` (a whole attention layer), `a9.h6<q>`, `a9.kv2<k>`, `a9.kv2<v>` (a head's queries; keys and values, one
per key/value head), `a9.h6<pattern>` (where a head looks, see also `cells`), `m5.e3`, `m5.shared` and `m5.router` (an
expert of an MLP, one that sees every token, and what chooses among them) and `r9` (the residual stream that enters
block 9; `r30` of a model with 30 blocks is the final one). Mixers, which stand in the place of attention, are `x4`,
their heads and channels `x4.h2` and `x4.c17` (x as in "mix": a and m are taken, and not all have a state), what a
channel is gated with `x4.c17<gate>`, what they carry away from position 7 `x4<state>@7` and `x4<taps>@7`. Features of a
dictionary are `f10.1234`, what it leaves out `f10.error`, directions `d10.subject`. LoRA adapters are `lora3.q_proj`,
those of a layer together `lora3`. `@7` after a name means position 7 only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from veracausa.errors import UnitError
from veracausa.units.kinds import KINDS, Kind, indexed, inside_of

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.engine.patches import Place
    from veracausa.model import Model


def per_layer(lm: Model, kind: str) -> int:
    """Units of an indexed kind in one layer, side by side in its site; 0 for kinds with one unit a layer.

    Raises:
        ArchitectureError: the model has no units of that kind; says why.
    """
    lm.decoder.require(kind)
    if kind == "adapters":
        return max(len(found.maps) for found in lm.decoder.adapters.values())
    if kind in KINDS and KINDS[kind].coded:
        return max(len(code.widths) for (slot, _), code in lm.decoder.codes.items() if slot == kind)
    number = KINDS[kind].per_layer if kind in KINDS else None
    return 0 if number is None else int(getattr(lm.decoder, number))


def layers_with(lm: Model, kind: str) -> list[int]:
    """Layers that have units of a kind: all that have the part of a block that these are in.

    Raises:
        ArchitectureError: see `per_layer`.
    """
    lm.decoder.require(kind)
    if KINDS[kind].part == "dictionary":
        return sorted(layer for slot, layer in lm.decoder.codes if slot == kind)
    return lm.decoder.layers_with(KINDS[kind].part)


@dataclass(frozen=True, eq=False)
class Units:
    """A table of units of one kind.

    `layer`, `index` (head or neuron; −1 where there is none) and `position` (−1: all positions) are integer arrays
    of one length. Positions count from the start of each prompt.

    >>> vc.exact(lm, task, units="heads").units.names[:3]
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
        return (
            f"Units({len(self)} {self.kind}{self.apart}: {', '.join(self.names[:3])}{', …' if len(self) > 3 else ''})"
        )

    @property
    def place(self) -> Place:
        """Where in a block these units' activations are."""
        return cast("Place", KINDS[self.kind].place)

    @property
    def positional(self) -> bool:
        """Whether units are single positions (else a unit is patched at all positions)."""
        return bool(len(self)) and bool((self.position >= 0).any())

    @property
    def apart(self) -> str:
        """How units of one part of the model are told apart, in words behind their kind; nothing where they are not."""
        return " per position" if self.positional else ""

    @property
    def joint(self) -> bool:
        """Whether a row of the table may move several parts of its site (see `coalitions.Coalitions`)."""
        return False

    @property
    def cells(self) -> np.ndarray | None:
        """The one key that each unit is about, of single cells of patterns (see `cells.Cells`); None of all others."""
        return None

    @property
    def furthest(self) -> np.ndarray:
        """The last position that each unit is about: a prompt that ends before it has no such unit; −1: all have it."""
        return self.position

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """What every unit is, to match tables by: (layer, index, position)."""
        return list(zip(self.layer.tolist(), self.index.tolist(), self.position.tolist(), strict=True))

    @property
    def draws(self) -> np.ndarray:
        """What random draws are keyed by, unit by unit: three numbers of 0 or more, by what it is."""
        return np.stack([self.layer, self.index, self.position], 1) + 1  # −1 stands for "none"

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
        if KINDS[self.kind].inside:
            columns["expert"], columns["neuron"] = inside_of(self.index)
        elif KINDS[self.kind].coded:
            stems = [name.partition("@")[0] for name in self.names]
            part = [stem.partition(".") if self.kind == "adapters" else stem.rpartition(".") for stem in stems]
            columns[KINDS[self.kind].singular] = [own for *_, own in part]
        elif indexed(self.kind):
            columns[KINDS[self.kind].singular] = self.index
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
    stem = KINDS[kind].called(layer, index)
    return stem if position < 0 else f"{stem}@{position}"

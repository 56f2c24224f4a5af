"""Tables of units where these may be parts of dictionaries: which features are candidates, and what is told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.arguments import is_list
from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.words import is_coded
from veracausa.effects.crossing_rows import require_followed, require_one_layer
from veracausa.effects.replacements import recorded
from veracausa.engine.coded import narrowed, read_at, read_by
from veracausa.engine.inner_maps import require_products
from veracausa.errors import UnitError
from veracausa.units.components import naming, spelled
from veracausa.units.dictionaries import is_beside
from veracausa.units.groups import Groups
from veracausa.units.members import Member
from veracausa.units.paths import Paths
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Bool

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Tokens that are encoded at once.
_TOKENS = 256


def laid_units(
    lm: Model,
    task: Task,
    units: Any,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    *,
    groups: bool = False,
    spans: bool = True,
    across: bool = False,
) -> tuple[Model, Units]:
    """What `units=` of a call means, and the model that it is about.

    Of a kind of dictionary ("features", "features@positions") those are meant that are active in some prompt of the
    task, in either run (of positions: there): all others have effect 0. The model's dictionaries then tell the table's
    features apart, and hold the others together. `groups`, `spans`, `across`: whether the call takes groups, units at
    spans, and features that write to several layers.

    Raises:
        UnitError, ArchitectureError: see `units.resolve`. MethodError: see `Model.reading`, and `across`.
    """
    lm, units = named_units(with_dictionary(lm, dictionary), units)
    table = resolve_units(lm, units, max(task.lengths), groups=groups, spans=task if spans else None)
    for kind in kinds_in(table):
        if not across:
            require_one_layer(lm, kind, "This is")
    if isinstance(table, Groups):
        return laid_for_groups(lm, table), table
    if isinstance(table, Paths):
        require_followed(lm, table)
        return for_parts(lm, [(one.kind, one.layer, one.index) for one in table.coded]), table
    if not is_coded(table.kind) or table.joint:  # of coalitions the model tells the parts apart already
        return lm, table
    if isinstance(units, str) and is_coded(units.partition("@")[0]):
        table = _active(lm, task, table)
    return narrowed(lm, table.kind, table.layer, table.index), table


def laid_for_groups(lm: Model, groups: Groups) -> Model:
    """A model whose dictionaries tell apart the features that members of groups are."""
    members = [one for group in groups.members for one in group if is_coded(one.kind)]
    for group in groups.members:  # of thousands of features one of each dictionary tells all that is asked
        one_each = list({(one.kind, one.place, one.layer): one for one in reversed(group)}.values())
        _require_apart(lm, [one for one in one_each if is_coded(one.kind)], one_each)
    return for_parts(lm, [(one.kind, one.layer, one.index) for one in members])


def for_parts(lm: Model, parts: Sequence[tuple[str, int, int]]) -> Model:
    """A model whose dictionaries tell apart the features among some parts: (kind, layer, index)."""
    for kind in sorted({kind for kind, *_ in parts}):
        layer, index = np.array([where for own, *where in parts if own == kind], dtype=np.int64).T
        lm = narrowed(lm, kind, layer, index)
    return lm


def kinds_in(units: Units) -> list[str]:
    """The kinds of a table's units, of groups those of their members, of paths those of dictionaries on them."""
    if isinstance(units, Paths):
        return sorted({one.kind for one in units.coded})
    if not isinstance(units, Groups):
        return [units.kind]
    return sorted({one.kind for group in units.members for one in group})


def require_one_donor(units: Units, ablation: object) -> None:
    """UnitError for groups of features or adapters that would each come from another prompt."""
    members = [one for group in units.members for one in group] if isinstance(units, Groups) else []
    for one in members if ablation == "resample" else ():
        if is_coded(one.kind) or one.kind == "adapters":
            raise UnitError(
                f"ablation='resample' is not known for groups with {one.kind}: take mean or zero, or single units."
            )


def _require_apart(lm: Model, coded: Sequence[Member], group: Sequence[Member]) -> None:
    """UnitError where members of a group set one activation, one whole and one as parts of a dictionary."""
    for one in coded:
        dictionary = lm.decoder.codes[one.kind, one.layer].dictionary
        reads, writes = dictionary.reads, dictionary.writes
        of_one_mlp = reads.kind in ("n", "mid") and writes.kind == "m" and reads.layer == writes.layer
        of_one_mlp = of_one_mlp or bool(dictionary.map)
        if dictionary.transcodes and not of_one_mlp:
            raise UnitError(
                f"{one.name} is of a dictionary that reads {dictionary.reads.name} and explains "
                f"{dictionary.writes.name}; in groups, features are of one site, or of a transcoder of one layer's MLP "
                f"(n{writes.layer} → m{writes.layer}). Name it by itself."
            )
        site = {"r": "residual", "m": "mlp", "z": "z"}.get(dictionary.writes.kind)
        for other in group:
            if is_coded(other.kind):
                written = lm.decoder.codes[other.kind, other.layer].dictionary.writes
                shared = other.kind != one.kind and replace(written, layer=one.layer) == dictionary.writes
                shared = shared and written.layer in dictionary.layers
            else:
                shared = other.place == site and other.layer in dictionary.layers and not dictionary.writes.post
            if shared:
                raise UnitError(
                    f"{one.name} and {other.name} set the same activation, {dictionary.writes.name}. Name one of them."
                )


def named_units(lm: Model, units: Any) -> tuple[Model, Any]:
    """What `units=` names, patterns of components spelled out, and the model with the components that it speaks of.

    Raises:
        UnitError, ArchitectureError: see `units.components` and `inner_maps.require_products`.
    """
    units = spelled(lm, units)
    named = naming(lm, units)
    new = [one for key, one in named.decoder.codes.items() if key not in lm.decoder.codes]
    require_products(named, [(one.dictionary.writes.layer, one.dictionary.map) for one in new])
    return named, units


def with_dictionary(lm: Model, dictionary: Dictionary | Sequence[Dictionary] | None) -> Model:
    """A model with the dictionary of a call, or several, laid on it; without one as it is."""
    if dictionary is None:
        return lm
    given: Any = dictionary if is_list(dictionary) else [dictionary]
    return lm.reading(*given)  # which refuses what is none


def _active(lm: Model, task: Task, table: Units) -> Units:
    """The units of a table that are active somewhere; errors and skips always are."""
    keep = is_beside(table.index)
    for layer, found in active_features(lm, task, table.kind).items():
        here = np.flatnonzero((table.layer == layer) & ~is_beside(table.index))
        parts = lm.decoder.codes[table.kind, layer].parts(table.index[here])
        position = table.position[here]
        anywhere: np.ndarray = np.asarray(found.any(0))
        keep[here] = np.where(position < 0, anywhere[parts], found[np.maximum(position, 0), parts])
    return table[np.flatnonzero(keep)]


@torch.no_grad()
def active_features(lm: Model, task: Task, kind: str) -> dict[int, Bool[np.ndarray, "positions features"]]:
    """Layer → which features of its dictionary are not 0 at each position of some prompt of the task, in either run."""
    found: dict[int, np.ndarray] = {}
    sites = read_at(code for (slot, _), code in lm.decoder.codes.items() if slot == kind)
    for _, state in recorded(lm, [*dict.fromkeys(task.prompts)], sites, Cost()):
        for (slot, layer), code in lm.decoder.codes.items():
            if slot != kind:
                continue
            into = found.setdefault(layer, np.zeros((max(task.lengths), code.dictionary.size), dtype=bool))
            x = read_by(state, code.dictionary.reads).to(code.dictionary.weight.dtype)
            for some in x.split(max(1, _TOKENS // x.shape[1])):
                into[: x.shape[1]] |= (code.dictionary.encode(some) != 0).any(0).cpu().numpy()
    return found

"""Rows that take features of cross-layer transcoders: the overrides they need, and single features as groups of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.words import is_coded
from veracausa.engine.crossing import Crossed, Crossing, carried
from veracausa.engine.overrides import Override
from veracausa.engine.path_codes import is_feature
from veracausa.engine.tape import State, Tape
from veracausa.errors import MethodError, UnitError
from veracausa.units.at_spans import SpanUnits
from veracausa.units.dictionaries import is_beside
from veracausa.units.groups import Groups
from veracausa.units.members import Member
from veracausa.units.paths import Paths
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model

#: Layer → row → the members that it takes there.
Taken = Mapping[int, Mapping[int, list[Member]]]


def crosses(lm: Model, kind: str) -> bool:
    """Whether features of a kind write to several layers: those of cross-layer transcoders."""
    return is_coded(kind) and any(
        code.dictionary.onward is not None for (own, _), code in lm.decoder.codes.items() if own == kind
    )


def require_one_layer(lm: Model, kind: str, what: str) -> None:
    """MethodError for features that write to several layers, where a call follows one."""
    if crosses(lm, kind):
        raise MethodError(
            f"{what} not known for features of a cross-layer transcoder, which write to several layers at once. Known "
            "are their exact effects (vc.exact, alone, in groups and along paths), estimates (vc.attribute), edges and "
            "circuits of features, activations and attribution graphs."
        )


def require_followed(lm: Model, paths: Paths) -> None:
    """MethodError, UnitError for parts of cross-layer transcoders that a path cannot follow."""
    for part in paths.coded:
        require_linear(lm, lm.decoder.codes[part.kind, part.layer].dictionary)
    for one in (one for path in paths.paths for step in path.steps for one in step.parts):
        if one.coded is not None and not is_feature(one.coded) and crosses(lm, one.coded.kind):
            raise UnitError(
                f"{one.stem} cannot be read by itself: what the features of a cross-layer transcoder leave of an MLP "
                "depends on those of all layers before. It can be a sender; readers are its features, and whole MLPs."
            )


def require_linear(lm: Model, dictionary: Dictionary) -> None:
    """MethodError where a norm stands between what features write to later layers and the stream."""
    layers = dictionary.layers if dictionary.onward is not None and not dictionary.writes.post else range(0)
    if any(lm.decoder.blocks[layer].mlp_post_norm is not None for layer in layers):
        raise MethodError(
            f"Edges of features of {dictionary!r} are not known for {lm.name}: a norm stands behind its MLPs, and "
            f"what features write to later layers goes through it. Take transcoders that write "
            f"{replace(dictionary.writes, post=True).name}, or one layer's."
        )


def require_alone(units: Units, ablation: object) -> None:
    """MethodError for coalitions of such features, and for what a single one cannot be replaced by."""
    if units.joint or ablation not in ("counterfactual", "zero", "mean"):
        what = "coalitions of them" if units.joint else f"ablation={ablation!r}"
        raise MethodError(
            "Features of cross-layer transcoders are replaced alone or in groups, by ablation='counterfactual', 'zero' "
            f"or 'mean'; {what} is not known for them."
        )


def alone(units: Units) -> Groups:
    """Every unit of a table as a group of its own."""
    spans = units.spans if isinstance(units, SpanUnits) else [None] * len(units)
    places = [None if at < 0 else at for at in units.position.tolist()]
    members = [
        (Member(units.kind, layer, index, at, at, at=span),)
        for layer, index, at, span in zip(units.layer.tolist(), units.index.tolist(), places, spans, strict=True)
    ]
    return Groups.of(members, units.names)


def crossed(
    lm: Model,
    base: State,
    tape: Tape,
    place: str,
    taken: Taken,
    examples: np.ndarray,
    start: int,
    override: Callable[..., Override],
) -> dict[int, list[Override]]:
    """Layer → overrides of rows that take parts of one kind of dictionaries whose features write on.

    `examples`: of all rows of the sweep. `override(layer=…, members=…)`: what rows take at a layer, not looking at
    others.
    """
    first: dict[int, int] = {}
    for layer in sorted(taken):
        for row in taken[layer]:
            first.setdefault(row, layer)
    rows = sorted(first)
    where = {row: i for i, row in enumerate(rows)}
    last = _last_errors(taken, first)
    device = lm.device
    crossing = Crossing(base, place, torch.as_tensor(examples[rows], device=device), start - tape.start, bool(last))
    codes = {layer: code for (kind, layer), code in lm.decoder.codes.items() if kind == place}
    reached = range(min(taken), 1 + max(layer for at in taken for layer in (at, *codes[at].dictionary.layers)))
    found: dict[int, list[Override]] = {}
    for layer in reached:
        own: dict[int, list[Member]] = {row: list(members) for row, members in taken.get(layer, {}).items()}
        own |= {row: [] for row in last if layer in codes and row not in own and first[row] <= layer <= last[row]}
        if own:
            own = dict(sorted(own.items()))
            plain = override(layer=layer, members=own)
            at = torch.tensor([where[row] for row in own], device=device)
            found.setdefault(layer, []).append(Crossed(**vars(plain), crossing=crossing, at_rows=at))
        if behind := [row for row in rows if first[row] < layer and row not in own]:
            post = codes[first[behind[0]]].dictionary.writes.post
            at = torch.tensor([where[row] for row in behind], device=device)
            taking = torch.tensor(behind, device=device)
            found.setdefault(layer, []).append(
                carried(crossing, layer, post, taking, at, lm.width, tape.length - start)
            )
    return found


def _last_errors(taken: Taken, first: Mapping[int, int]) -> dict[int, int]:
    """Row → the last layer whose error it takes, of rows that have changed an earlier layer."""
    found: dict[int, int] = {}
    for layer in sorted(taken):
        for row, members in taken[layer].items():
            if layer > first[row] and is_beside(np.array([one.index for one in members])).any():
                found[row] = layer
    return found

"""Receipts, curves and ablation studies of items put together.

What each holds of a pair stands in one item; what is said of all pairs (bounds, areas, tests) is worked out of them
anew, as one process does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from veracausa.behaviour.results import AblationStudy
from veracausa.circuits.quality.curve import Curve
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.cost import Cost
from veracausa.receipts.receipts import Receipt
from veracausa.receipts.stages import Orders, Stage, walk
from veracausa.scores.files import load_scores
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.items import Item
from veracausa.sweeps.joining import joined
from veracausa.sweeps.shards import Shards, opened, result_in
from veracausa.tasks.measurement import Measurement

T = TypeVar("T", Curve, AblationStudy)


def receipt_of(folder: Folder, cell: int) -> Receipt:
    """The estimate joined, the exact effects joined, and the bound worked out of both."""
    estimate, facts = joined(Shards(folder, cell, "estimate")), folder.facts[cell]["receipt"]
    stage, orders = Stage(**facts["stage"]), Orders.of(estimate.ranking(), facts["seed"])
    top, drawn = orders.members(stage.top, stage.sample)
    about = replace(load_scores(folder.frame(cell)), units=estimate.units[np.sort(np.concatenate([top, drawn]))])
    exact = joined(Shards(folder, cell, "checked", about))
    size = exact.scaled().abs().double().numpy()
    outcomes = walk((stage,), orders, lambda units: size, tau=facts["tau"], missed=None)
    own = {"tau": facts["tau"], "seed": facts["seed"], "outcomes": outcomes, "whole": facts["whole"]}
    return Receipt(estimate=estimate, exact=exact, top=top, drawn=drawn, until=None, budget=None, **own)


def curve_of(folder: Folder, cell: int) -> Curve:
    """The circuits of all sizes, each on all pairs."""
    items = folder.of_cell(cell, "checked")
    parts: list[Curve] = [*_opened(folder, items)]

    def circuits(of: Callable[[Curve], Sequence[Faithfulness]]) -> tuple[Faithfulness, ...]:
        return tuple(_circuit(folder, cell, items, [of(part)[k] for part in parts]) for k in range(len(of(parts[0]))))

    signed, absolute = circuits(lambda part: part.signed), circuits(lambda part: part.absolute)
    return replace(parts[0], signed=signed, absolute=absolute)


def _circuit(folder: Folder, cell: int, items: list[Item], parts: list[Faithfulness]) -> Faithfulness:
    def laid(of: Callable[[Faithfulness], Tensor]) -> Tensor:
        return _laid(folder, cell, items, [of(part) for part in parts])

    return replace(
        parts[0],
        metric=laid(lambda part: part.metric),
        kl=laid(lambda part: part.kl),
        measured=Measurement(laid(lambda part: part.measured.clean), laid(lambda part: part.measured.corrupted)),
        cost=_cost(parts),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        **_about(folder, cell),
    )


def study_of(folder: Folder, cell: int) -> AblationStudy:
    """Every condition on all prompts."""
    items = folder.of_cell(cell)
    parts: list[AblationStudy] = [*_opened(folder, items)]

    def laid(of: Callable[[AblationStudy], Tensor]) -> Tensor:
        return _laid(folder, cell, items, [of(part).transpose(0, 1) for part in parts]).transpose(0, 1).contiguous()

    return replace(
        parts[0],
        metric=laid(lambda part: part.metric),
        tokens=laid(lambda part: part.tokens),
        right=laid(lambda part: part.right),
        settings=parts[0].settings | folder.facts[cell]["settings"],
        cost=_cost(parts),
        **_about(folder, cell),
    )


def _opened(folder: Folder, items: list[Item]) -> Iterator[Any]:
    return (opened(folder, item, result_in) for item in items)


def _laid(folder: Folder, cell: int, items: list[Item], parts: list[Tensor]) -> Tensor:
    """What each item has of its pairs, [pairs, …], in the order of all pairs."""
    n = int(folder.tasks[cell]["n"])
    made = parts[0].new_zeros(n, *parts[0].shape[1:])
    for item, part in zip(items, parts, strict=True):
        made[[*(range(n) if item.pairs is None else item.pairs)]] = part
    return made


def _cost(parts: Sequence[Faithfulness | AblationStudy]) -> Cost:
    return replace(sum((part.cost for part in parts), Cost()), full=sum(part.cost.full for part in parts))


def _about(folder: Folder, cell: int) -> dict[str, Any]:
    return {"model": dict(folder.models[cell]), "task": dict(folder.tasks[cell])}

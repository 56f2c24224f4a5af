"""Iterated selection: edges are scored where the circuit stands, not where the whole model stands.

One-shot scores ignore how edges combine. Here all edges are there at first; each round takes the gradient of M with
respect to the weights of the edges *in the circuit's own run* (`engine.soft_circuit`), drops the weakest share, and
goes on, down a geometric schedule of sizes. What is dropped later ranks higher, so one run gives nested circuits of
every size. With several `points` the gradient is averaged on the way from the circuit's state to the ablated one, all
weights scaled by α = (j + ½) / points.

Cost: rounds × points × one run of the whole graph with its gradient.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.attribution.edges import all_edges
from veracausa.attribution.scores import Scores, assemble
from veracausa.circuits.recorded import Group, Recorded, record
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import kept_by
from veracausa.engine.cost import Cost
from veracausa.engine.guard import attention_function, borrowed
from veracausa.errors import MethodError
from veracausa.progress import Tick, progress

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

_RANKINGS = ("importance", "abs")


def iterate(
    lm: Model,
    task: Task,
    *,
    rounds: int = 15,
    smallest: float = 0.001,
    points: int = 1,
    by: str = "importance",
    show_progress: bool = True,
) -> Scores:
    """Rank all edges by dropping the weakest again and again, scored in the remaining circuit's own run.

    Args:
        lm: the model.
        task: the pairs to select on; evaluate on others.
        rounds: how often edges are dropped.
        smallest: the share of the edges at which dropping stops; what remains is ranked by its last scores.
        points: gradients per round, averaged from the circuit's state towards the ablated one.
        by: "importance" drops what helps least or hurts most; "abs" drops what matters least.
        show_progress: show a progress bar.

    Returns:
        `Scores` of all edges, magnitudes only: ranks in (0, 1], the last one dropped highest; one ranking for all
        pairs, so it has no standard error. `vc.curve` and `vc.select` take it like any other score.

    Raises:
        MethodError: options out of range; GapError, ContractError, NumericsError, OutOfMemoryError: as for `vc.exact`.

    >>> ranking = iterate(lm, task)
    >>> vc.curve(lm, held_out, ranking).cpr_log
    """
    began, graph = time.monotonic(), lm.graph
    if rounds < 1 or points < 1 or not 0 < smallest < 1 or by not in _RANKINGS:
        raise MethodError(
            f"rounds={rounds}, points={points}, smallest={smallest}, by={by!r}: rounds and points must be at least 1, "
            f"smallest a share between 0 and 1, by one of {', '.join(_RANKINGS)}."
        )
    edges, cost = all_edges(lm), Cost(full=sum(task.lengths) * lm.layers)
    last = max(1, round(smallest * len(edges)))
    sizes = np.unique(np.geomspace(last, len(edges), rounds + 1).round().astype(int))[::-1]
    value, kept = np.zeros(len(edges)), np.arange(len(edges))
    with borrowed(lm.decoder), progress("iterated selection", len(sizes) * points, show_progress) as tick:
        recorded = record(lm, task, cost)
        for number, size in enumerate([*sizes[1:], 0]):
            scores = _scores(recorded, kept_by(graph, edges.writer[kept], edges.reader[kept]), points, tick)
            own = scores[edges.reader[kept], edges.writer[kept]] / len(task)
            order = np.argsort(-(np.abs(own) if by == "abs" else own), kind="stable")
            value[kept[order]] = 1 - (np.arange(len(kept)) + 0.5) / len(edges)  # a later round overwrites what stays
            if number < len(sizes) - 1:
                kept = np.sort(kept[order[:size]])
    cost.seconds = time.monotonic() - began
    return assemble(
        lm,
        task,
        torch.as_tensor(value, dtype=lm.score_dtype).expand(len(task), -1).contiguous(),
        edges,
        recorded.measured,
        method="iterated",
        settings={
            "direction": "noising",
            "ablation": "counterfactual",
            "rounds": rounds,
            "smallest": smallest,
            "points": points,
            "by": by,
            "per_example": False,
        },
        cost=cost,
        signed=False,
        notes=("ranks, the last edge dropped highest; one ranking for all pairs, so stderr 0 says nothing",),
    )


def _scores(recorded: Recorded, mask: np.ndarray, points: int, tick: Tick) -> np.ndarray:
    """Σ over pairs of ∂M/∂m, averaged over the points, [readers, writers]."""
    lm = recorded.lm
    weights = torch.as_tensor(mask, dtype=lm.score_dtype, device=lm.device)
    total = torch.zeros_like(weights)
    with attention_function(lm.decoder, SUFFIX):
        for j in range(points):
            at = weights if points == 1 else (j + 0.5) / points * weights

            def slope(group: Group, rows: slice, at: Tensor = at) -> Tensor:
                return group.soft.gradient(at, rows)[1]

            total += sum(recorded.chunks(slope, backward=True)) / points
            tick(1)
    return np.asarray(total.cpu().numpy())

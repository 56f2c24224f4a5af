"""Where a circuit is weak: edges scored where it stands, and where an adversary has restored some of the others.

    s_e = sign(mean μ_e) · √ mean of (μ_e² + SPREAD · σ_e²)        mean over states

μ_e: ∂M/∂m_e in a state's own run, mean over pairs; σ_e: its standard error. The states are the circuit, and the circuit
with the `guard` others restored that lower M most to first order (greedily, each state's own slopes choosing the next),
chosen on half of the pairs, another half in every round. So an edge counts that does much only beside others, which is
how an adversary breaks a circuit with a third of the edges that one gradient takes. Which edges it takes is in part a
matter of the pairs: an edge whose slope differs from pair to pair counts for that, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from veracausa.circuits.runs.recorded import Recorded
from veracausa.progress import Tick
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: How much the squared error of a mean slope counts beside its square: an adversary's pairs and these are both drawn.
SPREAD = 2.0


def guarded(
    recorded: Sequence[Recorded],
    edges: Edges,
    kept: Int[np.ndarray, " kept"],
    guard: Sequence[int],
    number: int,
    tick: Tick,
) -> Float[np.ndarray, " edges"]:
    """Scores of all edges, in units of M; `number`: of the round, which draws the half of the pairs."""
    inside, squares, means = kept, np.zeros(len(edges)), np.zeros(len(edges))
    slopes = pair_slopes(recorded, edges, inside, tick)
    half = np.random.default_rng([0, number]).permutation(len(slopes))[: max(1, len(slopes) // 2)]
    sign = np.sign(sum(float(one.measured.gap.double().sum()) for one in recorded))
    for more in (*guard, None):
        mean = slopes.mean(0)
        error = slopes.var(0, ddof=1) / len(slopes) if len(slopes) > 1 else 0.0
        squares, means = squares + mean**2 + SPREAD * error, means + mean
        if more is not None:
            value = sign * slopes[half].mean(0)
            value[inside] = np.inf
            count = min(more, len(edges) - len(kept)) - (len(inside) - len(kept))
            inside = np.concatenate([inside, np.argsort(value, kind="stable")[:count]])
            slopes = pair_slopes(recorded, edges, inside, tick)
    return np.asarray(np.sign(means) * np.sqrt(squares / (1 + len(guard))))


def pair_slopes(
    recorded: Sequence[Recorded], edges: Edges, kept: Int[np.ndarray, " kept"], tick: Tick
) -> Float[np.ndarray, "pairs edges"]:
    """∂M/∂m of every edge in the run of a circuit, pair by pair in the order of the recorded tasks."""
    found = []
    for one in recorded:
        lm, gap = one.lm, float(one.measured.gap.mean())
        weights = torch.as_tensor(edges[kept].mask, dtype=lm.score_dtype, device=lm.device)
        own = np.empty((len(one.measured.clean), len(edges)))
        for group in one.groups:
            rows = weights.expand(len(group), *weights.shape)
            slope = -gap * one.slope(rows, one.judged("metric"), [group])[1]
            own[group.examples(slice(0, len(group)))] = slope.cpu().numpy()[:, edges.reader, edges.writer]
        found.append(own)
        tick(1)
    return np.concatenate(found)

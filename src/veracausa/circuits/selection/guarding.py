"""Where a circuit is weak: edges scored where it stands, and where an adversary has restored some of the others.

    s_e = sign(mean μ_e) · √ mean of (μ_e² + SPREAD · σ_e²)        mean over states

μ_e: ∂M/∂m_e in a state's own run, mean over pairs; σ_e: its standard error. The states are the circuit, and the circuit
with the `guard` others restored that lower M most to first order (greedily, each state's own slopes choosing the next),
chosen on half of the pairs, another half in every round. So an edge counts that does much only beside others, which is
how an adversary breaks a circuit with a third of the edges that one gradient takes. Which edges it takes is in part a
matter of the pairs: an edge whose slope differs from pair to pair counts for that, too.

Rounds do not come to rest where few edges carry much, and the last may leave out what breaks its circuit. So every
round's circuit is tried (`strain`); where the last one is broken, the one that is moved least is taken (`taken`).
Smaller differences say nothing about how many others an adversary needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from veracausa.circuits.runs.recorded import Recorded
from veracausa.engine.circuit_forward import wiring_of
from veracausa.progress import Tick
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: How much the squared error of a mean slope counts beside its square: an adversary's pairs and these are both drawn.
SPREAD = 2.0
#: A circuit is broken where f moves from 1 by more.
BROKEN = 0.5


def guarded(
    recorded: Sequence[Recorded],
    edges: Edges,
    kept: Int[np.ndarray, " kept"],
    guard: Sequence[int],
    number: int,
    tick: Tick,
) -> tuple[Float[np.ndarray, " edges"], float]:
    """Scores of all edges, in units of M, and the circuit's strain; `number`: of the round, which draws the half."""
    inside, squares, means = kept, np.zeros(len(edges)), np.zeros(len(edges))
    slopes = pair_slopes(recorded, edges, inside, tick)
    moved = strain(recorded, edges, kept, slopes, guard[-1])
    half = np.random.default_rng([0, number]).permutation(len(slopes))[: max(1, len(slopes) // 2)]
    for more in (*guard, None):
        mean = slopes.mean(0)
        error = slopes.var(0, ddof=1) / len(slopes) if len(slopes) > 1 else 0.0
        squares, means = squares + mean**2 + SPREAD * error, means + mean
        if more is not None:
            count = more - (len(inside) - len(kept))
            inside = _restored(inside, _sign(recorded) * slopes[half].mean(0), count)
            slopes = pair_slopes(recorded, edges, inside, tick)
    return np.asarray(np.sign(means) * np.sqrt(squares / (1 + len(guard)))), moved


def strain(
    recorded: Sequence[Recorded],
    edges: Edges,
    kept: Int[np.ndarray, " kept"],
    slopes: Float[np.ndarray, "pairs edges"],
    most: int,
) -> float:
    """How far f moves from 1 where the `most` others are restored that lower, or raise, M most to first order.

    `slopes`: `pair_slopes` of the circuit. What one part of the pairs chooses is run on the next part; of each way the
    mean over parts, and of both ways the larger: max(1 − f lowered, f raised − 1).
    """
    parts = np.split(slopes, np.cumsum([len(one.measured.clean) for one in recorded])[:-1])
    moved = []
    for way in (1.0, -1.0):
        fs = []
        for number, part in enumerate(parts):
            judged = recorded[(number + 1) % len(recorded)]
            inside = _restored(kept, way * _sign(recorded) * part.mean(0), most)
            metric = judged.metric(wiring_of(judged.lm.decoder, edges[inside].mask))
            fs.append(float(judged.measured.f_of(metric.double())))
        moved.append(way * (1 - float(np.mean(fs))))
    return max(moved)


def taken(strains: Sequence[float]) -> int:
    """Which of the rounds' circuits is taken: the last, or, where that is broken, the one that is moved least.

    >>> taken([0.3, 0.2, 0.4]), taken([0.3, 0.2, 0.9])
    (2, 1)
    """
    return len(strains) - 1 if strains[-1] <= BROKEN else int(np.argmin(strains))


def _restored(
    inside: Int[np.ndarray, " inside"], slope: Float[np.ndarray, " edges"], count: int
) -> Int[np.ndarray, " more"]:
    """These edges, and the `count` others with the least slopes."""
    value = slope.copy()
    value[inside] = np.inf
    return np.concatenate([inside, np.argsort(value, kind="stable")[:count]])


def _sign(recorded: Sequence[Recorded]) -> float:
    """Of the mean gap."""
    return float(np.sign(sum(float(one.measured.gap.double().sum()) for one in recorded)))


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

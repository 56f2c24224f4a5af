"""Cells of a scoreboard, from what was run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from veracausa.circuits.attacks.attack import Attack
from veracausa.circuits.quality.cause_curve import CauseCurve
from veracausa.circuits.quality.curve import Curve, area
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.circuits.quality.specificity import Specificity
from veracausa.circuits.scoreboards.board import Cell
from veracausa.circuits.selection.stability import stability
from veracausa.scores.scores import Scores
from veracausa.statistics.bootstrap import too_few
from veracausa.statistics.means import standard_error
from veracausa.statistics.ratios import error_of

if TYPE_CHECKING:
    pass

#: Bootstrap draws of a ranking's circuit.
_DRAWS = 50


def of_curve(found: Curve, wanted: float) -> dict[str, Cell]:
    """Areas, bounded and as they are, and the size from which on f stays within 1 − `wanted` of 1."""
    error, cells = found.stderr(), dict[str, Cell]()
    for name, runs in (("bounded", found.absolute), ("bounded signed", found.signed)):
        cells[name] = bounded(found.sizes, runs)
    for name, key in (("CMD log", "cmd_log"), ("CMD", "cmd"), ("CPR log", "cpr_log"), ("CPR", "cpr")):
        cells[name] = Cell.of(getattr(found, key), error[key])
    return cells | {"KL log": _kl(found), "edges wanted": _smallest(found, wanted)}


def bounded(sizes: Sequence[float], runs: Sequence[Faithfulness]) -> Cell:
    """Mean of 1 − min(|1 − f|, 1) over log sizes, with its standard error over pairs to first order."""
    f = np.array([one.f for one in runs])
    value = area(sizes, 1 - np.minimum(np.abs(1 - f), 1), log=True)
    slope = np.where(np.abs(1 - f) < 1, -np.sign(f - 1), 0.0)
    influence = np.stack([one.influence().numpy() for one in runs], 1) * slope
    return Cell.of(value, error_of(torch.tensor([area(sizes, pair, log=True) for pair in influence])))


def _kl(found: Curve) -> Cell:
    """Mean KL from the model's output distribution over log sizes, in nats: of each pair, then over pairs."""
    each = torch.stack([one.kl for one in found.absolute], 1).double().cpu().numpy()
    own = torch.tensor([area(found.sizes, pair, log=True) for pair in each], dtype=torch.float64)
    return Cell.of(float(own.mean()), float(standard_error(own)))


def _smallest(found: Curve, wanted: float) -> Cell:
    """Edges that can matter, of the smallest size from which on |1 − f| ≤ 1 − wanted at every size."""
    near = [abs(1 - one.f) <= 1 - wanted for one in found.absolute]
    since = [k for k in range(len(near)) if all(near[k:])]
    if not since:
        return Cell(why=f"f does not stay within {1 - wanted:.2g} of 1 up to {found.sizes[-1]:.0%} of the edges")
    return Cell.of(found.living["abs"][since[0]])


def of_causes(found: CauseCurve) -> dict[str, Cell]:
    """k at one half and at nine tenths, and the area."""
    cells = {"cause area": Cell.of(found.area, found.area_stderr)}
    for name, wanted in (("k 50%", 0.5), ("k 90%", 0.9)):
        at = found.reach(wanted).at
        cells[name] = Cell(float(found.sizes[-1]), beyond=True) if at is None else Cell.of(at)
    return cells


def of_attack(found: Attack) -> dict[str, Cell]:
    """f of the circuit by itself, and the smallest budgets that break it; 0: it is outside of [½, 1½] already."""
    cells = {"f": Cell.of(float(found.f[0]), float(found.stderr[0]))}
    for name, budget in (("radius k", "sparse"), ("radius ε", "bounded")):
        radius = found.radius(budget)
        cells[name] = Cell(radius.inside, beyond=True) if radius.outside is None else Cell.of(radius.outside)
    return cells


def of_specificity(found: Specificity) -> dict[str, Cell]:
    """Damage to the first task, which is the circuit's own, to the others, and by random circuits."""
    damage, error, others = found.damage[0], found.stderr[0], len(found.tasks) - 1
    cells = {"own damage": Cell.of(float(damage[0]), float(error[0]))}
    if others:
        spread = float(error[1:].square().sum().sqrt() / others)
        cells["other damage"] = Cell.of(float(damage[1:].mean()), spread)
        cells["margin"] = Cell.of(found.margin(0), found.margin_stderr(0))
    if found.random.shape[1]:
        cells["random damage"] = Cell.of(float(found.random[0, :, 0].mean()))
    return cells


def of_scores(scores: Sequence[Scores], count: int, seed: int) -> dict[str, Cell]:
    """What is known without a run: the price of the scores, and how stable their strongest edges are."""
    first = scores[0]
    cells = {"price": Cell.of(first.cost.token_layers), "stable draws": _drawn(first, count, seed)}
    if len(scores) > 1:
        tops = [set(one.ranking("abs_mean")[:count]) for one in scores]
        cells["stable seeds"] = Cell.of(float(np.mean([len(a & b) / len(a | b) for a, b in combinations(tops, 2)])))
    return cells


def _drawn(scores: Scores, count: int, seed: int) -> Cell:
    if not scores.per_example:
        return Cell(why="it has one ranking for all pairs, so that there is nothing to draw again")
    if few := too_few(scores.n):
        return Cell(why=f"scored on {scores.n} pairs, and there is {few}")
    found = stability(scores, n=count, how="abs", draws=_DRAWS, seed=seed, prune=False)
    return Cell.of(found.jaccard)

"""A score with its receipt: exact effects of its strongest units and of a random sample of the others.

The sample bounds how many strong units are among those that nobody looked at. Which units are verified, and what a
stage certifies, is `receipts.stages`; the arithmetic of the bounds `statistics.bounds`; the result a
`receipts.Receipt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from veracausa.choices import Ablation
from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.exact import ExactWork, exact
from veracausa.effects.laid import kinds_in, named_units, with_dictionary
from veracausa.engine.identity import difference
from veracausa.engine.measure import measured_runs
from veracausa.engine.work import Derived, gives
from veracausa.errors import MethodError
from veracausa.receipts.receipts import Receipt
from veracausa.receipts.stages import Orders, Stage, Until, plan, require_tau, walk
from veracausa.scores.estimands import BASELINES
from veracausa.scores.headers import UNRECORDED, dictionary_settings, reference_settings
from veracausa.scores.scores import Scores
from veracausa.tasks.references import Reference, reference_set

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task
    from veracausa.units.table import Units

#: The threshold where nothing else is asked for, as a share of the gap.
TAU = 0.01


@dataclass(frozen=True, eq=False)
class VerifyWork(Derived):
    """A receipt for an estimate; see `verify`. `effects`: exact effects of all its units, of which `stages` run some.

    `costs`: token-layers of each unit's own rows.
    """

    estimate: Scores
    effects: ExactWork
    costs: np.ndarray
    orders: Orders
    stages: tuple[Stage, ...]
    tau: float
    seed: int
    until: Until | None
    budget: float | None

    @property
    def alone(self) -> bool:
        """Strong is what has a share of the gap, so there must be one."""
        return False

    @property
    def units(self) -> Units:
        """The units that are verified if all stages are gone through."""
        last = self.orders.members(self.stages[-1].top, self.stages[-1].sample)
        return self.estimate.units[np.sort(np.concatenate(last))]

    def batches(self) -> int:
        """Buckets that are recorded, at most."""
        return len(self.stages) * self.effects.batches()

    def tokens(self) -> float:
        """Token-layers of all stages; `until` may end before the last."""
        whole = self.effects.part(self.units)
        return float(whole.costs().sum()) + len(self.stages) * whole.beside()

    def effects_of(self, units: np.ndarray, show_progress: bool, out: str | Path | None) -> Scores:
        """Exact effects of some of the estimate's units."""
        return self.effects.part(self.estimate.units[units]).run(show_progress, out)

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Receipt:
        """Go through the stages."""
        pieces: list[tuple[np.ndarray, Scores]] = []

        def measure(units: np.ndarray) -> np.ndarray:
            """Exact effects of units that were not run before, |E| / gap."""
            pieces.append((units, self.effects_of(units, show_progress, out)))
            return pieces[-1][1].scaled().abs().double().numpy()

        missed = self.until.missed if self.until else None
        outcomes = walk(self.stages, self.orders, measure, tau=self.tau, missed=missed)
        strongest, drawn = self.orders.members(outcomes[-1].top, outcomes[-1].sample)
        units, first = pieces[0]
        recordings = first.cost.token_layers - float(self.costs[units].sum())
        return Receipt(
            estimate=self.estimate,
            exact=_joined(self.estimate, pieces),
            top=strongest,
            drawn=drawn,
            tau=self.tau,
            seed=self.seed,
            outcomes=outcomes,
            whole=float(self.costs.sum()) + recordings,
            until=self.until,
            budget=self.budget,
        )


@gives(Receipt)
def verify(
    lm: Model,
    task: Task,
    estimate: Scores,
    *,
    top: int = 50,
    sample: int = 300,
    tau: float | None = None,
    seed: int = 0,
    until: Until | None = None,
    budget: float | None = None,
    reference: Reference | None = None,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> VerifyWork:
    """Check an estimate against exact effects of its strongest units and of a random sample of the others.

    Args:
        lm: the model of the estimate.
        task: the task of the estimate.
        estimate: scores of `vc.attribute`; direction and baseline are taken from them.
        top: how many of the strongest units, by |score|, are verified.
        sample: how many of the others, drawn uniformly without replacement, are verified.
        tau: a unit is strong if |E| > tau · gap (0.01; with `until` its own).
        seed: of the one random order of all units that samples are taken from.
        until: go on in stages, in the proportion top : sample, until so few strong units can be unverified. No unit is
            run twice. The stages are fixed beforehand, and the bound holds wherever they stop.
        budget: the largest share of the cost of exact effects of all units that may be spent, in (0, 1], in
            token-layers, recordings included. With `until`, it may end first, and the receipt says so; alone, one stage
            as large as it pays for, in the proportion top : sample.
        reference: the prompts of a mean or resample baseline, if the estimate was made with others than the task's
            own; it must be the set that the estimate's header names.
        dictionary: that of the estimate's features or directions, unless it is laid on the model (`lm.reading`).
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Receipt`: agreement, the bound on how many strong units are unverified (a count), the smallest tau for which 1%
        of the rest is unverified at most, cost; `.scores` is the estimate marked with it.

    Raises:
        MethodError: the estimate is of another model or task, of another reference set, or exact already; options that
            mean nothing.
        UnitError, GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> receipt = vc.verify(lm, task, vc.attribute(lm, task, units="neurons"), top=50, sample=300)
    >>> receipt.missed, receipt.scores
    """
    threshold = require_sizes(top, sample, seed, until, budget, tau)
    lm, _ = named_units(with_dictionary(lm, dictionary), estimate.units)
    ablation = _ablation(lm, task, estimate)
    reference = reference_set(lm, reference)
    _require_reference(task, estimate, ablation, reference)
    _require_dictionary(lm, estimate)
    drawn = int(estimate.settings.get("seed") or 0)
    effects = exact.work(
        lm, task, units=estimate.units, ablation=ablation, direction=estimate.direction, reference=reference,
        seed=drawn,
    )  # fmt: skip
    orders, costs = Orders.of(estimate.ranking(), seed), effects.costs()
    stages = plan(orders, costs, effects.beside(), top=top, sample=sample, until=until, budget=budget)
    return VerifyWork(estimate, effects, costs, orders, stages, threshold, seed, until, budget)


def _joined(estimate: Scores, pieces: list[tuple[np.ndarray, Scores]]) -> Scores:
    """All stages' effects as one table, in the order of the estimate's."""
    units = np.concatenate([units for units, _ in pieces])
    order = np.argsort(units)
    values = torch.cat([piece.values for _, piece in pieces], 1)[:, torch.from_numpy(order)]
    cost = sum((piece.cost for _, piece in pieces), Cost())
    return replace(pieces[0][1], values=values, units=estimate.units[units[order]], cost=cost)


def overhead(lm: Model, task: Task) -> int:
    """Token-layers, at most, of one call of counterfactual `exact` beside its edges, before there is a table of them.

    Both prompts of every pair are run for the ends of the gap, both again for the tape, and one without a patch.
    """
    return int(measured_runs(lm, task)) + 3 * lm.layers * sum(task.lengths)


def _ablation(lm: Model, task: Task, estimate: Scores) -> Ablation:
    """What replaces a unit in the exact effect that the scores estimate."""
    if differing := difference(estimate.model["identity"], lm.identity):
        raise MethodError(
            f"The estimate is of another model (other {differing}): of {estimate.model['source']!r}, not of "
            f"{lm.source!r} as it is now. Verify it with the model that it was made with."
        )
    if estimate.task["digest"] != task.digest():
        raise MethodError(
            f"The estimate is of another task: of {estimate.task['description']!r}, not of {task.describe()!r}. Verify "
            "it with the prompts, answers and metric that it was made with."
        )
    if estimate.method == "exact":
        raise MethodError("These scores are exact effects already. Verify an estimate, such as vc.attribute's.")
    baseline, ablation = (estimate.settings.get(name) for name in ("baseline", "ablation"))
    if "optimal" in (baseline, ablation):
        raise MethodError(
            "These scores move to learned constants, which a receipt does not keep. Compare them with "
            "vc.exact(…, ablation='optimal', constants=…) and vc.agreement."
        )
    if baseline in BASELINES:
        return BASELINES[str(baseline)]
    if baseline is None and ablation in BASELINES.values():
        return cast("Ablation", ablation)
    raise MethodError(
        f"{estimate.method} has baseline {baseline!r} and ablation {ablation!r}, for which there is no exact effect to "
        f"compare with. Known baselines: {', '.join(BASELINES)}."
    )


def _require_reference(task: Task, estimate: Scores, ablation: str, reference: Task | None) -> None:
    """MethodError unless the exact effects will take their means or donors from the estimate's own reference set."""
    own = estimate.settings.get("reference_digest", UNRECORDED)
    given = reference_settings(ablation, task, reference)
    if not given or own == given["reference_digest"]:
        return
    words = estimate.settings.get("reference", UNRECORDED)
    raise MethodError(
        f"The estimate's {ablation} baseline is of the reference set {words!r} ({own}), but verify was given "
        f"{given['reference']!r} ({given['reference_digest']}). Pass reference= as it was passed to vc.attribute."
    )


def _require_dictionary(lm: Model, estimate: Scores) -> None:
    """MethodError unless the features of an estimate are those of the dictionaries that are laid on the model."""
    own = estimate.settings.get("dictionary_digest")
    here = dictionary_settings(lm, *kinds_in(estimate.units))
    if own is not None and own != here.get("dictionary_digest"):
        raise MethodError(
            f"The estimate is about {estimate.settings.get('dictionary')}, but laid on this model is "
            f"{here.get('dictionary', 'none')}. Pass dictionary= as it was passed to vc.attribute."
        )


def _threshold(tau: float | None, until: Until | None) -> float:
    if tau is not None and until is not None and tau != until.tau:
        raise MethodError(f"tau={tau:g} and Until(tau={until.tau:g}) differ. With until=, leave tau out.")
    threshold = until.tau if until is not None else TAU if tau is None else tau
    require_tau(threshold)
    return threshold


def require_sizes(
    top: int, sample: int, seed: int, until: Until | None, budget: float | None, tau: float | None
) -> float:
    """The threshold of a receipt; MethodError for sizes that mean nothing, before anything is run."""
    for what, value in (("top", top), ("sample", sample), ("seed", seed)):
        if value < 0:
            raise MethodError(f"{what}={value}: it is 0 or more.")
    if top + sample == 0:
        raise MethodError("top=0 and sample=0: nothing would be verified. Ask for some units.")
    if until is not None and sample == 0:
        raise MethodError("sample=0: without a random sample nothing can be certified. Give until= a sample.")
    if budget is not None and not 0 < budget <= 1:
        raise MethodError(f"budget={budget:g}: a share of the cost of all units' exact effects, over 0 and up to 1.")
    return _threshold(tau, until)

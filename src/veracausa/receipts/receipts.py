"""`Receipt`: what was checked of an estimate, how well it agreed, and how much can still have been missed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.receipts.stages import CONFIDENCE, Outcome, Until
from veracausa.result import ROWS, Shown
from veracausa.scores.packed import pack_scores
from veracausa.scores.scores import METRIC, Scores
from veracausa.statistics.bounds import needed, spare, unseen
from veracausa.storage.files import write_tensors
from veracausa.words import sentence, settings_in_words

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.cost import Cost
    from veracausa.scores.agreement import Agreement

#: The share of the rest for which a receipt names the smallest threshold.
RARE = 0.01
FORMAT = "veracausa-receipt-2"


@dataclass(frozen=True)
class Ceiling:
    """At most `missed` unchecked units, a share `share` of the rest, have |E| over `tau` · gap.

    `needed`: how large a sample would have to be for `RARE`; None where the sample is large enough.
    """

    missed: int
    share: float
    tau: float
    needed: int | None = None


@dataclass(frozen=True, eq=False)
class Receipt(Shown):
    """What `vc.verify` found. Effects are shares of the gap throughout; strong: |E| > `tau`.

    `exact`: exact effects of all verified units. `top`, `drawn`: which units of the estimate's table were verified as
    its strongest, and which were drawn from the others (the rest), in the order drawn. `outcomes`: the stages, the last
    one last. `whole`: token-layers that exact effects of all units take.

    >>> receipt = vc.verify(lm, task, vc.attribute(lm, task, units="neurons"))
    >>> receipt.missed, receipt.agreement.r
    """

    estimate: Scores
    exact: Scores
    top: np.ndarray
    drawn: np.ndarray
    tau: float
    seed: int
    outcomes: tuple[Outcome, ...]
    whole: float
    until: Until | None = None
    budget: float | None = None

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def model(self) -> dict[str, str]:
        """The model of the scores."""
        return self.exact.model

    @property
    def task(self) -> dict[str, Any]:
        """The task of the scores."""
        return self.exact.task

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked of the verification, and how the estimate was made."""
        until = asdict(self.until) if self.until else None
        asked = {"tau": self.tau, "seed": self.seed, "budget": self.budget, "until": until}
        return asked | {"estimate": self.estimate.settings}

    @property
    def cost(self) -> Cost:
        """What the exact effects cost; the estimate has its own."""
        return self.exact.cost

    @property
    def confidence(self) -> float:
        """Of each statement by itself."""
        return self.until.confidence if self.until else CONFIDENCE

    @property
    def rest(self) -> int:
        """Number of units outside the top: what the sample was drawn from."""
        return len(self.estimate) - len(self.top)

    @property
    def unverified(self) -> int:
        """Number of units whose exact effect nobody knows."""
        return len(self.estimate) - len(self)

    @property
    def missed(self) -> int:
        """With `confidence`, at most so many unverified units are strong (a count; see `receipts.stages`)."""
        return self.outcomes[-1].missed

    @property
    def strong(self) -> int:
        """Number of verified units that are strong."""
        return self.outcomes[-1].strong

    @property
    def recall(self) -> float:
        """With `confidence`, at least this share of all strong units is verified; NaN if there may be none at all."""
        return self.strong / (self.strong + self.missed) if self.strong + self.missed else float("nan")

    @property
    def reached(self) -> bool:
        """Whether `until` was reached; False where it was not asked for."""
        return self.until is not None and self.missed <= self.until.missed

    @property
    def cost_share(self) -> float:
        """Token-layers of the verification / token-layers of exact effects of all units."""
        return self.exact.cost.token_layers / self.whole

    @cached_property
    def agreement(self) -> Agreement:
        """The estimate against the exact effects of all verified units, among which strong ones are many."""
        from veracausa.scores.agreement import agreement

        return agreement(self.estimate, self.exact)

    @cached_property
    def sample_agreement(self) -> Agreement | None:
        """The same over the random sample alone: a fair picture of the rest. None if nothing was drawn."""
        from veracausa.scores.agreement import agreement

        return agreement(self.estimate, self._part(self._rows(self.drawn))) if len(self.drawn) else None

    @cached_property
    def surprises(self) -> list[str]:
        """Strong units of the random sample, the strongest first: what the estimate ranked too low for its top."""
        rows = self._rows(self.drawn)
        size = self.exact.scaled().abs().numpy()[rows]
        order = np.argsort(-size, kind="stable")
        return self._part(rows[order[size[order] > self.tau]]).units.names

    @cached_property
    def ceiling(self) -> Ceiling | None:
        """The smallest tau for which "at most 1% of the rest is unchecked and above it" holds with `confidence`.

        It is an order statistic of the sample's |E| (`bounds.spare`). Where the sample is too small for 1%, the share
        that its largest |E| does certify, with the size that 1% would have needed. None if nothing was drawn from a
        rest that there is.
        """
        if self.unverified == 0:
            return Ceiling(0, 0.0, 0.0)
        n = len(self.drawn)
        if n == 0:
            return None
        confidence = 1 - self.outcomes[-1].alpha
        size = np.sort(self.exact.scaled().abs().double().numpy()[self._rows(self.drawn)])[::-1]
        missed, wanted = int(RARE * self.rest), None
        rank = spare(n, self.rest, missed, confidence=confidence)
        if rank is None:
            wanted = needed(self.rest, missed, confidence=confidence)
            missed, rank = unseen(0, n, self.rest, confidence=confidence), 0
        return Ceiling(missed, missed / self.rest, float(size[rank]) if rank < n else 0.0, wanted)

    @property
    def scores(self) -> Scores:
        """The estimate, marked with what was verified of it."""
        return replace(self.estimate, verified=self.sentence)

    @property
    def sentence(self) -> str:
        """The receipt in one line, for the scores' header."""
        checked = f"{len(self):,} of {len(self.estimate):,} units checked exactly, {_r(self.agreement)}"
        return f"{checked}; {self._missed()}"

    def table(self) -> pd.DataFrame:
        """One row per verified unit, in the estimate's order: both scores, their difference, why it was verified.

        `estimate`, `exact`, `error`: shares of the gap. `verified`: "strongest", or "drawn" at random.
        """

        estimate = self.estimate.scaled().double().numpy()[np.sort(np.concatenate([self.top, self.drawn]))]
        exact = self.exact.scaled().double().numpy()
        table: pd.DataFrame = self.exact.units.table().assign(estimate=estimate, exact=exact, error=estimate - exact)
        table["verified"] = "strongest"
        table.loc[self._rows(self.drawn), "verified"] = "drawn"
        return table

    def head(self) -> pd.DataFrame:
        """The ten verified units with the largest effects."""
        return self.table().sort_values("exact", key=abs, ascending=False, kind="stable")[:ROWS]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was checked, how well it agrees, how much can have been missed, and what to be told with it."""
        agree = f"Of all {len(self):,} checked {self.estimate.method} has {_figures(self.agreement)}."
        said = [sentence(self._checked()), agree, f"{sentence(self._missed())} {sentence(self._known())}"]
        if self.ceiling is not None and self.unverified:
            said.append(sentence(self._ceiling(self.ceiling)))
        return (*said, *map(sentence, self.exact.cautions))

    def describe(self) -> str:
        """The receipt in plain words, line by line."""
        return "\n".join(f"{label:<8}{text}" for label, text in self.lines())

    def lines(self) -> list[tuple[str, str]]:
        """The receipt in plain words: (label, text)."""
        estimate = self.estimate
        cost = self.exact.cost
        lines = [
            (
                "receipt",
                f"{estimate.method} · {len(estimate):,} {estimate.units.kind} · {settings_in_words(estimate.settings)}",
            ),
            ("model", estimate.model["source"]),
            ("task", estimate.task["description"]),
            *(("caution", caution) for caution in self.exact.cautions),
            ("checked", self._checked()),
            ("agree", f"all {len(self):,} checked: {_figures(self.agreement)}"),
        ]
        if self.sample_agreement is not None:
            lines.append(("", f"the {len(self.drawn):,} drawn at random: {_figures(self.sample_agreement)}"))
        lines.append(("missed", f"{self._missed()}. {self._known()}"))
        if self.ceiling is not None and self.unverified:
            lines.append(("tau", self._ceiling(self.ceiling)))
        lines.append(
            ("cost", f"{cost.token_layers:,} token-layers, {self.cost_share:.2%} of exact effects of all units; "
                     f"{cost.seconds:.1f} s")
        )  # fmt: skip
        if self.until is not None or self.budget is not None:
            lines.append(("stopped", self._stopped()))
        return lines

    def save(self, path: str | Path) -> Path:
        """Write the receipt with its estimate and exact effects as safetensors with a JSON header.

        Whole or not at all; `vc.open` reads it.
        """
        header: dict[str, Any] = {
            "tau": self.tau,
            "seed": self.seed,
            "whole": self.whole,
            "budget": self.budget,
            "until": asdict(self.until) if self.until else None,
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
        }
        tensors = {"top": torch.from_numpy(self.top), "drawn": torch.from_numpy(self.drawn)}
        for name, scores in (("estimate", self.estimate), ("exact", self.exact)):
            header[name], parts = pack_scores(scores)
            tensors |= {f"{name}.{key}": tensor for key, tensor in parts.items()}
        return write_tensors(path, FORMAT, header, tensors)

    def __repr__(self) -> str:
        return self.describe()

    def _rows(self, units: np.ndarray) -> np.ndarray:
        """Where units of the estimate's table are among the verified ones, which are in the table's order."""
        return np.searchsorted(np.sort(np.concatenate([self.top, self.drawn])), units)

    def _part(self, rows: np.ndarray) -> Scores:
        return replace(self.exact, values=self.exact.values[:, torch.from_numpy(rows)], units=self.exact.units[rows])

    def _sure(self) -> str:
        return f"with {100 * self.confidence:g}% confidence"

    def _checked(self) -> str:
        top, drawn = f"the {len(self.top):,} strongest by |score|", f"{len(self.drawn):,} drawn at random"
        how = [top] * bool(len(self.top)) + [f"{drawn} from the other {self.rest:,} (seed {self.seed})"] * bool(
            len(self.drawn)
        )
        return f"{len(self):,} of {len(self.estimate):,} units exactly: {' and '.join(how)}"

    def _missed(self) -> str:
        over = f"|E| over {_percent(self.tau)} of the gap"
        if self.unverified == 0:
            return f"no unit is unchecked, none with {over} is missed"
        return f"{self._sure()} at most {self.missed:,} of the {self.unverified:,} unchecked units have {over}"

    def _known(self) -> str:
        told = f"{self.strong:,} of the checked units do"
        if not len(self.drawn):
            return f"{told}; nothing was drawn at random, so nothing is known about the others"
        names = self.surprises
        shown = f": {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else ""
        return f"{told}, {len(names):,} of them outside the top{shown}"

    def _ceiling(self, ceiling: Ceiling) -> str:
        told = (
            f"{self._sure()} at most {_percent(RARE if ceiling.needed is None else ceiling.share)} of the "
            f"{self.rest:,} outside the top are unchecked and have |E| over {_percent(ceiling.tau)} of the gap"
        )
        if ceiling.needed is None:
            return told
        return f"{told} (the sample's largest; {_percent(RARE)} would need {ceiling.needed:,} drawn units)"

    def _stopped(self) -> str:
        stages = f"after {len(self.outcomes)} stage{'' if len(self.outcomes) == 1 else 's'}"
        if self.until is None:
            return f"{stages}, which spent the budget of {_percent(self.budget or 0)} of all units' cost"
        wanted = f"at most {self.until.missed:,} missed"
        if self.reached:
            return f"{stages}: {wanted} is certified"
        return f"{stages}: the budget of {_percent(self.budget or 0)} ended before {wanted} could be certified"


def _figures(found: Agreement) -> str:
    """Agreement in one line; methods without signs have no slope and no sign errors."""
    from veracausa.scores.agreement import strongest_of

    k = strongest_of(len(found.names))
    figures = [_r(found)]
    figures += [f"Spearman {found.spearman:+.3f}"] if math.isfinite(found.spearman) else []
    figures += [f"slope {found.slope:+.3f}"] if math.isfinite(found.slope) else []
    figures += [f"sign errors {found.sign_errors} of {found.strong} strong"] if found.signed else []
    figures.append(f"Jaccard@{k} {found.jaccard(k):.2f}")
    if found.unit == METRIC:
        figures.append(f"median |error| {_percent(found.median_error)} of the gap")
    return ", ".join(figures)


def _r(found: Agreement) -> str:
    return f"r {found.r:+.3f}" if math.isfinite(found.r) else "no r"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"

"""An estimate of interactions beside exact ones: of its strongest pairs, of a random sample, and what may be missed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.interplay.results import Interactions, packed, unpacked
from veracausa.result import ROWS, Shown
from veracausa.statistics.bounds import unseen
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import number, reading, record, whole

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float, Int

FORMAT = "veracausa-checked-interactions-1"
_HEADER = record(
    tau=number(0), confidence=number(0, 1), seed=whole(), whole=number(0), estimate=record(), exact=record()
)


@dataclass(frozen=True, eq=False)
class CheckedInteractions(Shown):
    """What `vc.interplay.check` found. `estimate`; `exact`: of the sources that were run, with all readers.

    `top`, `drawn`: places of pairs in the flattened `estimate.strength`, its strongest and those drawn at random from
    the others. A pair is strong if its exact strength is over `tau` times the largest of the top. `whole`: token-layers
    of exact interactions of all sources.

    >>> found = vc.interactions(lm, task, "heads:10", "neurons:12")
    >>> vc.interplay.check(lm, task, found).missed
    """

    estimate: Interactions
    exact: Interactions
    top: Int[np.ndarray, " top"]
    drawn: Int[np.ndarray, " drawn"]
    tau: float
    confidence: float
    seed: int
    whole: float

    @property
    def model(self) -> dict[str, str]:
        """The estimate's."""
        return self.estimate.model

    @property
    def task(self) -> dict[str, Any]:
        """The estimate's."""
        return self.estimate.task

    @property
    def settings(self) -> dict[str, Any]:
        """The estimate's, and how it was checked."""
        return {**self.estimate.settings, "tau": self.tau, "confidence": self.confidence, "check_seed": self.seed}

    @property
    def cost(self) -> Cost:
        """Of the exact runs."""
        return self.exact.cost

    @cached_property
    def truth(self) -> Float[np.ndarray, "readers sources"]:
        """Exact strengths; NaN where the source was not run."""
        return self._wide(self.exact.strength)

    @cached_property
    def true_mean(self) -> Float[np.ndarray, "readers sources"]:
        """Exact means of J; NaN where there is none, or the source was not run."""
        return self._wide(self.exact.mean)

    def _wide(self, values: np.ndarray) -> np.ndarray:
        found = np.full(self.estimate.strength.shape, np.nan)
        found[:, [self.estimate.sources.index(name) for name in self.exact.sources]] = values
        return found

    @cached_property
    def known(self) -> Bool[np.ndarray, " pairs"]:
        """Which pairs were run, those that came with a chosen pair's source among them."""
        return np.asarray(np.isfinite(self.truth.ravel()))

    @property
    def bar(self) -> float:
        """The exact strength above which a pair is strong."""
        return self.tau * float(self.truth.ravel()[self.top].max())

    @property
    def missed(self) -> int:
        """With `confidence`, at most so many pairs that were not run are strong."""
        left = int((~self.known).sum())
        if not left:
            return 0
        found = int((self.truth.ravel()[self.drawn] > self.bar).sum())
        population = self.known.size - len(self.top)
        return min(left, unseen(found, len(self.drawn), population, confidence=self.confidence))

    def r(self, pairs: Int[np.ndarray, " pairs"] | None = None) -> float:
        """Correlation of estimated and exact strengths over some pairs (default: all that were run); NaN of one."""
        chosen = np.flatnonzero(self.known) if pairs is None else pairs
        both = self.estimate.strength.ravel()[chosen], self.truth.ravel()[chosen]
        if len(chosen) < 2 or min(np.ptp(each) for each in both) == 0:
            return float("nan")
        return float(np.corrcoef(*both)[0, 1])

    @property
    def ratio(self) -> float:
        """The median of estimated over exact strength, of the strong pairs that were run."""
        truth, estimate = self.truth.ravel(), self.estimate.strength.ravel()
        strong = self.known & (np.nan_to_num(truth) > self.bar)
        return float(np.median(estimate[strong] / truth[strong])) if strong.any() else float("nan")

    @property
    def sign_errors(self) -> tuple[int, int]:
        """Of how many strong pairs with a mean the estimate's mean has the other sign, and how many these are."""
        mean, own = self.true_mean.ravel(), self.estimate.mean.ravel()
        strong = self.known & (np.nan_to_num(self.truth.ravel()) > self.bar) & np.isfinite(mean) & (mean != 0)
        return int((np.sign(own[strong]) != np.sign(mean[strong])).sum()), int(strong.sum())

    @property
    def cost_share(self) -> float:
        """Token-layers of the check / token-layers of exact interactions of all sources."""
        return self.exact.cost.token_layers / self.whole

    def table(self) -> pd.DataFrame:
        """One row per pair, by estimated strength: both strengths and means, and why it was verified, or that it isn't.

        `verified`: "strongest", "drawn", "beside" (its source was run for another pair) or "not verified".
        """
        import pandas as pd

        why = np.full(self.known.size, "not verified", dtype=object)
        for said, chosen in (("beside", self.known), ("drawn", self.drawn), ("strongest", self.top)):
            why[chosen] = said
        i, j = self.estimate.ranking()
        order = np.ravel_multi_index((i, j), self.truth.shape)
        return pd.DataFrame({
            "source": [self.estimate.sources[k] for k in j], "reader": [self.estimate.readers[k] for k in i],
            "strength": self.estimate.strength[i, j], "exact": self.truth[i, j],
            "mean": self.estimate.mean[i, j], "exact_mean": self.true_mean[i, j], "verified": why[order],
        })  # fmt: skip

    def head(self) -> pd.DataFrame:
        """The ten strongest pairs of the estimate."""
        return self.table()[:ROWS]

    @property
    def sentences(self) -> tuple[str, ...]:
        """How many pairs were run, how well the estimate agrees, and how much may be missed."""
        wrong, signed = self.sign_errors
        signs = f", wrong sign in {wrong} of {signed}" if signed else ""
        return (
            f"{int(self.known.sum()):,} of {self.known.size:,} pairs were run: {len(self.exact.sources):,} of "
            f"{len(self.estimate.sources):,} sources, each with all readers.",
            f"Of the {len(self.top)} strongest r = {_r(self.r(self.top))}, of the {len(self.drawn)} drawn at random "
            f"r = {_r(self.r(self.drawn))}.",
            f"Estimated over exact strength of strong pairs: median {_r(self.ratio)}{signs}.",
            self._missed(),
        )

    def _missed(self) -> str:
        if self.known.all():
            return "No pair is unchecked."
        left = int((~self.known).sum())
        return (
            f"With {self.confidence:.0%} confidence at most {self.missed:,} of the {left:,} unchecked pairs are over "
            f"{self.tau:.0%} of the strongest."
        )

    def describe(self) -> str:
        """The check, line by line."""
        first, *rest = self.estimate.describe().splitlines()
        kept = [line for line in rest if not line.startswith(("cost", "trust"))]
        run, strongest, ratio, missed = self.sentences
        cost = f"{self.cost.describe()}; {self.cost_share:.0%} of exact interactions of all sources"
        return "\n".join([
            f"check of {first}", *kept, f"checked {run}", f"agree   {strongest}", f"        {ratio}",
            f"missed  {missed}", f"cost    {cost}",
        ])  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.head().to_string(index=False, float_format=lambda x: f'{x:+.4f}')}"

    def page(self, path: str | Path) -> Path:
        """Write these numbers as one offline page: a grid, the strongest pairs, the estimate beside the truth.

        Raises:
            FileError: it cannot be written, or not made.

        >>> checked.page("interactions.html")
        """
        written: Path = through("Interactions.page", self, path)
        return written

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {name: getattr(self, name) for name in ("tau", "confidence", "seed", "whole")}
        tensors = {"top": torch.from_numpy(self.top), "drawn": torch.from_numpy(self.drawn)}
        for name, found in (("estimate", self.estimate), ("exact", self.exact)):
            header[name], parts = packed(found)
            tensors |= {f"{name}.{key}": tensor for key, tensor in parts.items()}
        return write_tensors(path, FORMAT, header, tensors)


def _r(value: float) -> str:
    return "unknown" if value != value else f"{value:.3f}"


def load_checked_interactions(path: str | Path) -> CheckedInteractions:
    """Read what `CheckedInteractions.save` wrote; FileError for any other file."""
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        found = _HEADER(header)
        parts: dict[str, Any] = {name: tensors[name].numpy() for name in ("top", "drawn")}
        chosen = np.concatenate([*parts.values()])
        parts |= {name: found[name] for name in ("tau", "confidence", "seed", "whole")}
        for name in ("estimate", "exact"):
            own = {key.partition(".")[2]: one for key, one in tensors.items() if key.startswith(f"{name}.")}
            parts[name] = unpacked(header[name], own)
        made = CheckedInteractions(**parts)
        if made.estimate.readers != made.exact.readers or not len(parts["top"]) or not made.known[chosen].all():
            raise ValueError("pairs are said to be checked that were not run")
        return made

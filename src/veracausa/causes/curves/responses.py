"""Responses: the metric as a function of how far a unit, or its whole site, is moved.

    own path    M(run with a_u + α Δ_u) − M(run)                          only unit u moves, Δ_u = a_u(x′) − a_u or −a_u
    site path   M(run with a_v + α Δ_v for all v of u's site) − M(run)    all units of the layer's site move together

At α = 1 they are u's exact effect and the effect of the whole site; their slopes at 0 are AtP of u, and the sum of AtP
over the site. Peaks, troughs, and where a curve leaves its slope say why a slope misses an effect. All curves run as
coalitions in one batched pass: (L − l) · S token-layers a point and example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.causes.curves.curve_shapes import Turn, follows_until, turns
from veracausa.choices import TwoAblations
from veracausa.cost import Cost
from veracausa.result import Shown
from veracausa.statistics.ratios import Share, pairs_in_words, share_of_gap
from veracausa.storage.files import write_tensors
from veracausa.units.kinds import in_words
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

#: A curve follows its slope while it is within this share of the gap of it.
FOLLOWS = 0.05
_FORMAT = "veracausa-responses-3"
_TENSORS = ("own", "sites", "slopes", "site_slopes", "clean", "corrupted")


@dataclass(frozen=True, eq=False)
class Response:
    """One curve, means over examples in shares of the gap.

    `name`: the unit, or "layer 20" for its site. `values`, `errors`: at each of `alphas`, with standard errors.
    `slope`: at α = 0; `secant`: at α = 1. `turns`: peaks and troughs inside the range. `leaves`: the α in [0, 1] where
    it is farther than 5% of the gap from its slope for the first time, None if it never is.
    """

    name: str
    n: int
    alphas: Float[np.ndarray, " alphas"]
    values: Float[np.ndarray, " alphas"]
    errors: Float[np.ndarray, " alphas"]
    slope: Share
    secant: Share

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """Peaks and troughs inside the range, by α."""
        return turns(self.alphas, self.values)

    @cached_property
    def leaves(self) -> float | None:
        """Where the curve leaves its slope."""
        return follows_until(self.alphas, self.values, self.slope.value, FOLLOWS)

    def error_at(self, alpha: float) -> float:
        """Standard error at the nearest point of the grid."""
        return float(self.errors[int(np.abs(self.alphas - alpha).argmin())])

    @property
    def sentence(self) -> str:
        """Slope and secant, where they part, and the turns."""
        text = (
            f"{self.name}: the slope at α = 0 promises {self.slope} of the gap, α = 1 gives {self.secant} "
            f"({pairs_in_words(self.n)})"
        )
        if self.leaves is None:
            text += f"; the curve stays within {FOLLOWS:.0%} of the gap of its slope up to α = 1"
        else:
            text += f"; the curve leaves its slope by {FOLLOWS:.0%} of the gap at α = {self.leaves:.2f}"
        told = [
            f"a {'peak' if turn.peak else 'trough'} of {Share(turn.value, self.error_at(turn.alpha))} at "
            f"α = {turn.alpha:.2f}"
            for turn in self.turns
        ]
        low, high = self.alphas.min(), self.alphas.max()
        text += f". Between α = {low:g} and {high:g} it has {', '.join(told) if told else 'no turn'}."
        return text.replace("-", "−")


@dataclass(frozen=True, eq=False)
class Responses(Mapping[str, Response], Shown):
    """A mapping unit → `Response` of its own path; `site(unit)` is that of its whole site.

    `own` [units, alphas, examples], `sites` [layers, alphas, examples]: M minus M(run). `slopes` [units, examples],
    `site_slopes` [layers, examples]: derivatives at α = 0. `layers`: of the sites; none where a unit is its site.

    >>> found = vc.causes.responses(lm, task, units=["a20.h0"])
    >>> found["a20.h0"].leaves, found.site("a20.h0").slope
    """

    units: Units
    layers: tuple[int, ...]
    alphas: Float[np.ndarray, " alphas"]
    own: Float[Tensor, "units alphas examples"]
    sites: Float[Tensor, "layers alphas examples"]
    slopes: Float[Tensor, "units examples"]
    site_slopes: Float[Tensor, "layers examples"]
    clean: Float[Tensor, " examples"]
    corrupted: Float[Tensor, " examples"]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost
    ablation: TwoAblations = "counterfactual"

    @property
    def settings(self) -> dict[str, Any]:
        """Effects of noising, where units were moved, and how far."""
        return {"direction": "noising", "ablation": self.ablation, "alphas": self.alphas.tolist()}

    @property
    def gap(self) -> Float[Tensor, " examples"]:
        """M(x) − M(x′) of every example."""
        return self.clean - self.corrupted

    def __getitem__(self, unit: str) -> Response:
        i = self.units.find(unit)
        return self._response(unit, self.own[i], self.slopes[i])

    def __iter__(self) -> Iterator[str]:
        return iter(self.units.names)

    def __len__(self) -> int:
        return len(self.units)

    def site(self, unit: str) -> Response | None:
        """The response to all units of this unit's site together; None where the unit is the whole site."""
        layer = int(self.units.layer[self.units.find(unit)])
        if layer not in self.layers:
            return None
        i = self.layers.index(layer)
        return self._response(f"all {in_words(self.units.kind)} of layer {layer}", self.sites[i], self.site_slopes[i])

    def _response(self, name: str, values: Tensor, slope: Tensor) -> Response:
        shares = share_of_gap(torch.cat([values, slope[None]]), self.gap)
        means, errors = np.array([share.value for share in shares]), np.array([share.stderr for share in shares])
        one = int(np.flatnonzero(self.alphas == 1)[0])
        return Response(name, len(self.clean), self.alphas, means[:-1], errors[:-1], shares[-1], shares[one])

    def table(self) -> pd.DataFrame:
        """One row per unit: slope, value at 1, where it leaves its slope, peaks, troughs, its site's value at 1, n."""
        import pandas as pd

        rows = []
        for name, one in self.items():
            site = self.site(name)
            row: dict[str, Any] = {"name": name, "slope": one.slope.value, "slope stderr": one.slope.stderr}
            row |= {"at 1": one.secant.value, "at 1 stderr": one.secant.stderr, "leaves": one.leaves}
            for what, peak in (("peaks", True), ("troughs", False)):
                row[what] = ", ".join(f"{t.value:+.3f} at {t.alpha:.2f}" for t in one.turns if t.peak == peak)
            if site is not None:
                row |= {"site at 1": site.secant.value, "site at 1 stderr": site.secant.stderr}
            rows.append(row | {"n": one.n})
        return pd.DataFrame(rows)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each unit's, then each site's."""
        sites = {one.name: one for name in self if (one := self.site(name)) is not None}
        return (*(one.sentence for one in self.values()), *(one.sentence for one in sites.values()))

    def describe(self) -> str:
        """What these numbers are: model, task, sign, n, cost, verified or not."""
        plural = "" if len(self.clean) == 1 else "s"
        return "\n".join(
            [
                f"responses · {len(self)} {self.units.kind}, {len(self.layers)} whole sites · {self.ablation}, noising",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                "sign    M(unit moved by α) − M(clean); shares of the mean gap",
                f"n       {len(self.clean)} pair{plural}; α from {self.alphas.min():g} to {self.alphas.max():g}, "
                f"{len(self.alphas)} points",
                f"cost    {self.cost.token_layers:,} token-layers, {self.cost.seconds:.1f} s",
                "trust   exact runs at every α; slopes by attribution patching",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {sentence}" for sentence in self.sentences)])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in _TENSORS}
        tensors |= {name: torch.from_numpy(getattr(self.units, name).astype("int64")) for name in ("layer", "index")}
        header = {
            "kind": self.units.kind,
            "layers": self.layers,
            "alphas": self.alphas.tolist(),
            "ablation": self.ablation,
            "model": self.model,
            "task": self.task,
            "cost": self.cost.to_dict(),
        }
        return write_tensors(path, _FORMAT, header, tensors)

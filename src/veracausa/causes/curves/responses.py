"""Responses: the metric as a function of how far a unit, or its whole site, is moved.

    own path    M(run with a_u + α Δ_u) − M(run)                          only unit u moves
    site path   M(run with a_v + α Δ_v for all v of u's site) − M(run)    all units of the layer's site move together

At α = 1 they are u's exact effect and the effect of the whole site; their slopes at 0 are AtP of u, and the sum of AtP
over the site. Peaks, troughs, and where a curve leaves its slope say why a slope misses an effect. All curves run as
coalitions in one batched pass: (L − l) · S token-layers a point and example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veracausa.causes.curves.curve_shapes import Turn, follows_until, turns
from veracausa.cost import Cost
from veracausa.effects.coalitions import coalition_scores
from veracausa.effects.planning import planned_exact, recorded_runs
from veracausa.errors import MethodError
from veracausa.estimates.attribute import attribute, planned
from veracausa.statistics.ratios import Share, pairs_in_words, share_of_gap
from veracausa.storage.files import write_tensors
from veracausa.units.coalitions import Coalitions, require_kind
from veracausa.units.resolve import all_units, resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Points of a path where nothing else is asked for.
ALPHAS = tuple(np.linspace(-2, 3, 21).tolist())
#: A curve follows its slope while it is within this share of the gap of it.
FOLLOWS = 0.05


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
class Responses(Mapping[str, Response]):
    """A mapping unit → `Response` of its own path; `site(unit)` is that of its whole site.

    `own` [units, alphas, examples], `sites` [layers, alphas, examples]: M minus M(run). `slopes` [units, examples],
    `site_slopes` [layers, examples]: derivatives at α = 0. `layers`: of the sites; none where a unit is its site.
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
        return self._response(f"all {self.units.kind} of layer {layer}", self.sites[i], self.site_slopes[i])

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
                f"responses · {len(self)} {self.units.kind}, {len(self.layers)} whole sites · counterfactual, noising",
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

        return save_responses(self, path)


def responses(
    lm: Model,
    task: Task,
    *,
    units: Sequence[str] | Units,
    alphas: Sequence[float] | np.ndarray = ALPHAS,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Responses:
    """M along each unit's own path and along its site's joint path, with slopes, turns and standard errors.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: names or a table, of one kind, at all positions.
        alphas: points of the path, inside or outside [0, 1]; 0 and 1 are always among them.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        show_progress: show progress bars.

    Returns:
        `Responses`, a mapping unit → `Response`: shares of the gap, sign as for `vc.exact` (noising, counterfactual).

    Raises:
        MethodError: edges, or units at single positions.
        UnitError, GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> found = vc.causes.responses(lm, task, units=["a20.h0"], alphas=np.linspace(-2, 3, 21))
    >>> found["a20.h0"].turns
    """
    table, grid = _require(lm, task, units), _grid(alphas)
    moved, layers = _coalitions(lm, table, grid)
    scores = coalition_scores(
        lm, task, moved, ablation="counterfactual", direction="noising", reference=None, seed=0, out=out,
        show_progress=show_progress,
    )  # fmt: skip
    site_units = _of_layers(lm, table, layers) if layers else table
    slopes = attribute(lm, task, units=site_units, method="atp", show_progress=show_progress)
    values = torch.zeros(len(table) + len(layers), len(grid), len(task), dtype=scores.values.dtype)
    values[:, grid != 0] = scores.values.T.unflatten(0, (len(values), -1))
    own = torch.stack([slopes.values[:, site_units.find(name)] for name in table.names])
    whole = [slopes.values[:, torch.as_tensor(site_units.layer == layer)].sum(1) for layer in layers]
    return Responses(
        table,
        layers,
        grid,
        values[: len(table)].contiguous(),
        values[len(table) :].contiguous(),
        own,
        torch.stack(whole) if whole else own[:0],
        scores.clean,
        scores.corrupted,
        scores.model,
        scores.task,
        scores.cost + slopes.cost,
    )


def planned_responses(
    lm: Model, task: Task, units: Sequence[str] | Units, *, alphas: Sequence[float] | np.ndarray = ALPHAS
) -> float:
    """Token-layers that `responses` will take."""
    table = _require(lm, task, units)
    moved, layers = _coalitions(lm, table, _grid(alphas))
    slopes = planned(lm, task, units=_of_layers(lm, table, layers) if layers else table, method="atp")
    return planned_exact(lm, task, units=moved) + recorded_runs(lm, task, True) + slopes


def _require(lm: Model, task: Task, units: Sequence[str] | Units) -> Units:
    table = resolve_units(lm, units, max(task.lengths))
    if table.kind == "edges" or table.positional:
        raise MethodError(
            f"Responses are of units at all positions; {table.names[0]!r} is none. Leave the position out, or take "
            "vc.exact, which is the response at α = 1."
        )
    return table


def _grid(alphas: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.unique(np.append(np.asarray(list(alphas), dtype=float), [0.0, 1.0]))


def _coalitions(lm: Model, table: Units, grid: np.ndarray) -> tuple[Coalitions, tuple[int, ...]]:
    """Rows (unit or site, α ≠ 0), and the layers of the sites; none where a unit is a whole site."""
    parts = require_kind(lm, table.kind)
    layers = tuple(sorted(set(table.layer.tolist()))) if parts > 1 else ()
    shares = np.concatenate([table.shares(np.arange(len(table)), parts), np.ones((len(layers), parts))])
    points = grid[grid != 0]
    weights = (shares[:, None] * points[:, None]).reshape(-1, parts)
    return Coalitions.of(table.kind, np.repeat([*table.layer, *layers], len(points)), weights), layers


def _of_layers(lm: Model, table: Units, layers: tuple[int, ...]) -> Units:
    """All units of the sites."""
    every = all_units(lm, table.kind)
    return every[np.flatnonzero(np.isin(every.layer, layers))]


_FORMAT = "veracausa-responses-2"


_TENSORS = ("own", "sites", "slopes", "site_slopes", "clean", "corrupted")


def save_responses(found: Responses, path: str | Path) -> Path:
    """See `Responses.save`."""
    tensors: dict[str, Tensor] = {name: getattr(found, name) for name in _TENSORS}
    tensors |= {name: torch.from_numpy(getattr(found.units, name).astype("int64")) for name in ("layer", "index")}
    header = {
        "kind": found.units.kind,
        "layers": found.layers,
        "alphas": found.alphas.tolist(),
        "model": found.model,
        "task": found.task,
        "cost": found.cost.to_dict(),
    }
    return write_tensors(path, _FORMAT, header, tensors)

"""`Scores`: numbers about units, per example, with everything that says what they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from veracausa.attribution.units import Units
from veracausa.engine.cost import Cost
from veracausa.engine.precision import precision_of
from veracausa.errors import GapError, MethodError
from veracausa.storage.origin import model_header

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import altair
    import pandas as pd

    from veracausa.engine.measure import Measurement
    from veracausa.model import Model
    from veracausa.tasks.task import Task

NOT_VERIFIED = "not verified"


@dataclass(frozen=True)
class Completeness:
    """Σ of scores against the true change that they should add up to, per layer and example.

    `claimed`, `true`: [layers, examples]. The residual is the quadrature's error: it falls as nodes are added.
    """

    claimed: Float[Tensor, "layers examples"]
    true: Float[Tensor, "layers examples"]

    @property
    def residual(self) -> Float[Tensor, " layers"]:
        """Mean over examples of Σ scores − true change, layer by layer."""
        return (self.claimed - self.true).mean(1)

    def relative(self, gap: Tensor) -> float:
        """Largest |residual| of any layer, in units of the mean |gap|."""
        return float(self.residual.abs().max() / gap.mean().abs())


@dataclass(frozen=True, eq=False)
class Scores:
    """Effects or estimates of effects, example by example.

    `values`: float32 (float64 for a float64 model) [examples, units], in units of the metric; noising: negative means
    that the unit supported the behaviour; denoising: positive does. NaN: the example has no such position. `clean`,
    `corrupted`: M(x), M(x′) of every example. `draw_stderr`: for methods with random draws, each value's standard error
    over its draws (`stderr()` is over examples, and holds the draws' spread, too). `settings`: direction, ablation or
    baseline, nodes, seed. `verified`: "exact effects", the words "not verified", or what was compared.

    >>> exact = vc.exact(lm, task, units="heads")
    >>> exact.top(5)
    """

    values: Float[Tensor, "examples units"]
    units: Units
    method: str
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]
    clean: Float[Tensor, " examples"]
    corrupted: Float[Tensor, " examples"]
    cost: Cost
    completeness: Completeness | None = None
    signed: bool = True
    draw_stderr: Float[Tensor, "examples units"] | None = None
    verified: str = NOT_VERIFIED
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.units)

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.values.shape[0]

    @property
    def direction(self) -> str:
        """ "noising" or "denoising"."""
        return str(self.settings["direction"])

    @property
    def gap(self) -> Float[Tensor, " examples"]:
        """M(x) − M(x′) of every example."""
        return self.clean - self.corrupted

    def mean(self) -> Float[Tensor, " units"]:
        """Mean over the examples that have the unit's position."""
        return self.values.nanmean(0)

    def stderr(self) -> Float[Tensor, " units"]:
        """Standard error of `mean`; NaN for a single example."""
        count = (~self.values.isnan()).sum(0)
        squares = (self.values - self.mean()).square().nansum(0)
        return (squares / (count - 1).clamp_min(0)).sqrt() / count.sqrt()

    def importance(self) -> Float[Tensor, " units"]:
        """Mean effect, signed so that positive supports the behaviour: −E for noising, +E for denoising.

        Scores that are magnitudes only are their own importance.
        """
        if not self.signed:
            return self.mean()
        return -self.mean() if self.direction == "noising" else self.mean()

    def normalised(self) -> Float[Tensor, " units"]:
        """Mean effect / mean gap: the share of the behaviour that goes through the unit (a ratio of means).

        Raises:
            GapError: the mean gap is zero.
        """
        return self._ratio(torch.ones(1, self.n))[0]

    def normalised_stderr(self, *, draws: int = 1000, seed: int = 0) -> Float[Tensor, " units"]:
        """Bootstrap standard error of `normalised` over examples; NaN for a single example."""
        if self.n == 1:
            return torch.full((len(self),), float("nan"))
        generator = torch.Generator().manual_seed(seed)
        picks = torch.randint(self.n, (draws, self.n), generator=generator)
        weights = torch.zeros(draws, self.n).scatter_add_(1, picks, torch.ones(draws, self.n))
        chunks = [self._ratio(part).double() for part in weights.split(max(1, 2_000_000 // max(1, len(self))))]
        return torch.cat(chunks).nan_to_num().std(0).float()

    def _ratio(self, weights: Float[Tensor, "draws examples"]) -> Float[Tensor, "draws units"]:
        if float(self.gap.mean().abs()) < 1e-12:
            raise GapError("The mean gap is zero, so effects have no share of it; use `mean()`.")
        has = (~self.values.isnan()).to(self.values)
        weights = weights.to(self.values)
        return (weights @ self.values.nan_to_num()) / (weights @ (self.gap[:, None].to(self.values) * has))

    def ranking(self, by: str = "abs_mean") -> list[int]:
        """Units from the strongest: by |mean E| ("abs_mean"), mean |E| ("mean_abs") or importance ("importance")."""
        keys = {
            "abs_mean": self.mean().abs(),
            "mean_abs": self.values.abs().nanmean(0),
            "importance": self.importance(),
        }
        if by not in keys:
            raise MethodError(f"by={by!r} is not a ranking. Known: {', '.join(keys)}.")
        last = keys[by].nan_to_num(nan=-torch.inf)  # units that no example has
        return torch.argsort(last, descending=True, stable=True).tolist()

    def top(self, k: int = 10, *, by: str = "abs_mean") -> pd.DataFrame:
        """The k strongest units as a table."""
        chosen = self.ranking(by)[:k]
        return self.to_pandas().iloc[chosen].reset_index(drop=True)

    def to_pandas(self) -> pd.DataFrame:
        """One row per unit: name, layer, head/neuron, position (those that apply), effect, stderr, share of the gap."""
        table = self.units.table()
        table["effect"] = self.mean().numpy()
        table["stderr"] = self.stderr().numpy()
        if float(self.gap.mean().abs()) >= 1e-12:
            table["share"] = self.normalised().numpy()
        return table

    def chart(self, *, tokens: Sequence[str] = (), most: int = 200) -> altair.Chart | altair.LayerChart:
        """The scores as an Altair chart: a layer × head map, bars, a ranking, or the `most` strongest edges drawn.

        `tokens`: texts of the positions of edges at positions, e.g. `task.tokens(0)[0]`.
        """
        from veracausa.report.charts import scores_chart

        return scores_chart(self, tokens=tokens, most=most)

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.load_scores` reads it."""
        from veracausa.attribution.files import save_scores

        return save_scores(self, path)

    def describe(self) -> str:
        """What these numbers are, in one line each: model, task, method, sign, n, cost, verified or not."""
        sign = {
            "noising": "E = M(clean, unit replaced) − M(clean); negative: the unit supported the behaviour",
            "denoising": "E = M(corrupted, unit restored) − M(corrupted); positive: the unit supports the behaviour",
        }[self.direction]
        extra = ", ".join(f"{key} {value}" for key, value in self.settings.items() if value not in (None, ""))
        plural = "" if self.n == 1 else "s"
        lines = [
            f"{self.method} · {len(self):,} {self.units.kind} · {extra}",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            f"sign    {sign}" if self.signed else "sign    magnitudes only",
            f"n       {self.n} pair{plural}; metric {self.clean.mean():+.3f} clean, "
            f"{self.corrupted.mean():+.3f} corrupted",
            f"cost    {self.cost.token_layers:,} token-layers = {self.cost.forward_equivalents:,.1f} forward passes, "
            f"{self.cost.seconds:.1f} s",
            f"trust   {self.verified}",
        ]
        if self.completeness is not None:
            worst = self.completeness.relative(self.gap)
            lines.append(f"sum     completeness residual at most {worst:.2%} of the gap in any layer")
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.top(10).to_string(index=False, float_format=lambda x: f'{x:+.4f}')}"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.describe())}</pre>{self.top(10).to_html(index=False, float_format='{:+.4f}'.format)}"


def assemble(
    lm: Model,
    task: Task,
    values: Tensor,
    units: Units,
    measured: Measurement,
    *,
    method: str,
    settings: dict[str, Any],
    cost: Cost,
    model: dict[str, str] | None = None,
    **extra: Any,
) -> Scores:
    """Scores of a finished computation, with the headers of its model (as it was at `model`, or is now) and task.

    A note says so where the model computes more coarsely than its weights are.
    """
    extra["notes"] = (*extra.get("notes", ()), *precision_of(lm.decoder).notes)
    return Scores(
        values=values,
        units=units,
        method=method,
        settings=settings,
        model=model or model_header(lm),
        task=task_header(task),
        clean=measured.clean,
        corrupted=measured.corrupted,
        cost=cost,
        **extra,
    )


def task_header(task: Task) -> dict[str, Any]:
    """What a file or page says about its task."""
    return {
        "name": task.name,
        "description": task.describe(),
        "digest": task.digest(),
        "metric": task.metric,
        "n": len(task),
    }

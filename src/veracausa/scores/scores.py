"""`Scores`: numbers about units, per example, with everything that says what they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Direction, Look, Ranking
from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.errors import GapError, MethodError
from veracausa.result import ROWS, Shown
from veracausa.scores.completeness import Completeness
from veracausa.statistics.gaps import cautions
from veracausa.statistics.means import standard_error
from veracausa.statistics.ratios import ratios
from veracausa.tasks.metrics import compares_answers
from veracausa.typed import typed
from veracausa.units.at_spans import SpanUnits
from veracausa.units.kinds import singular
from veracausa.units.table import Units
from veracausa.words import counted, listed, sentence, settings_in_words, share

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import altair
    import pandas as pd
    from jaxtyping import Float, Int

    from veracausa.engine.session import Session
    from veracausa.tasks.measurement import Measurement
    from veracausa.tasks.task import Task

NOT_VERIFIED = "not verified"
#: `Scores.unit` of effects.
METRIC = "metric"
#: The same where prompts have no counterpart, and so no gap.
UNPAIRED = "the metric, without a gap"
#: Mean gaps under this are 0.
_ZERO = 1e-12
#: Units with an effect under this share of the gap are too weak for their sign to count.
STRONG = 0.01
#: Units that a sentence names.
_NAMED = 3


#: Direction, or a method that has one of its own → what the signs mean.
_SIGNS = {
    "noising": "E = M(clean, unit replaced) − M(clean); negative: the unit supported the behaviour",
    "denoising": "E = M(corrupted, unit restored) − M(corrupted); positive: the unit supports the behaviour",
    "interaction": "E of the group − the sum of its members' E; 0: they add up",
}


@dataclass(frozen=True, eq=False)
class Scores(Shown):
    """Effects or estimates of effects, example by example.

    `values`: float32 (float64 for a float64 model) [examples, units], in units of the metric; noising: negative means
    that the unit supported the behaviour; denoising: positive does. NaN: the example has no such position. `clean`,
    `corrupted`: M(x), M(x′) of every example. `draw_stderr`: for methods with random draws, each value's standard error
    over its draws (`stderr()` is over examples, and holds the draws' spread, too). `settings`: direction, ablation or
    baseline, reference set, nodes, seed, and `unit` where the values are not in units of the metric. `verified`: "exact
    effects", the words "not verified", or what was compared.

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
    def direction(self) -> Direction:
        """ "noising" or "denoising"."""
        return cast("Direction", self.settings["direction"])

    @property
    def unit(self) -> str:
        """What the values are: "metric" (effects on it), "probability", "share of input" or "rank".

        Only effects on the metric are shares of the gap; the others are shown as they are.
        """
        return str(self.settings.get("unit", METRIC))

    @property
    def per_example(self) -> bool:
        """Whether every example has scores of its own; if not, one row is repeated, and nothing tells its error."""
        return self.settings.get("per_example") is not False

    @property
    def gap(self) -> Float[Tensor, " examples"]:
        """M(x) − M(x′) of every example."""
        return self.clean - self.corrupted

    def mean(self) -> Float[Tensor, " units"]:
        """Mean over the examples that have the unit's position."""
        return self.values.nanmean(0)

    def pairs(self) -> Int[Tensor, " units"]:
        """How many examples each unit rests on: those that have its position or its span."""
        return (~self.values.isnan()).sum(0)

    def stderr(self) -> Float[Tensor, " units"]:
        """Standard error of `mean`; NaN for a single example, and where scores are one for all examples."""
        return standard_error(self.values) if self.per_example else self._unknown()

    def _unknown(self) -> Float[Tensor, " units"]:
        return torch.full((len(self),), float("nan"), dtype=self.values.dtype)

    def importance(self) -> Float[Tensor, " units"]:
        """Mean effect, signed so that positive supports the behaviour: −E for noising, +E for denoising.

        Scores that are magnitudes only are their own importance.
        """
        if not self.signed:
            return self.mean()
        return -self.mean() if self.direction == "noising" else self.mean()

    def normalised(self) -> Float[Tensor, " units"]:
        """Mean effect / mean gap: the share of the behaviour that goes through the unit (a ratio of means).

        Both means are over the examples that have the unit's position.

        Raises:
            GapError: the mean gap is zero, or inverted: there is no behaviour that a unit could have a share of.
            MethodError: the values are no effects on the metric (`unit`).
        """
        self._require_shares()
        return self.scaled()

    def normalised_stderr(self) -> Float[Tensor, " units"]:
        """Standard error of `normalised` over examples, to first order (`statistics.ratios`).

        NaN where it is not known: a single example, scores that are one for all, a mean gap that is not told from 0.

        Raises:
            GapError, MethodError: as `normalised`.
        """
        self._require_shares()
        return self.scaled_stderr()

    def scaled(self) -> Float[Tensor, " units"]:
        """Means on the scale on which scores are compared: over the mean gap, whatever its sign; else as they are.

        Raises:
            GapError: the mean gap is zero.
        """
        return self._scaled[0]

    def scaled_stderr(self) -> Float[Tensor, " units"]:
        """Standard errors of `scaled`; NaN where they are not known."""
        return self._scaled[1]

    @cached_property
    def _scaled(self) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
        if self.unit != METRIC:
            return self.mean(), self.stderr()
        if float(self.gap.mean().abs()) < _ZERO:
            raise GapError("The mean gap is zero, so effects have no share of it; use `mean()`.")
        ratio, error, _ = ratios(self.values, self.gap)
        ratio = ratio.to(self.values.dtype)
        return ratio, error.to(self.values.dtype) if self.per_example else self._unknown()

    @property
    def has_shares(self) -> bool:
        """Whether values are shares of a gap that there is: effects on the metric, and a mean gap over 0."""
        return self.unit == METRIC and float(self.gap.mean()) >= _ZERO

    @property
    def cautions(self) -> tuple[str, ...]:
        """What to tell with every figure of these scores: about the gap (`statistics.gaps.cautions`), and pooling."""
        said = tuple(filter(None, (self.pooled, self.averaged)))
        if self.unit == UNPAIRED:
            return said
        return (*cautions(self.clean, self.corrupted, compares=compares_answers(self.task["metric"])), *said)

    @property
    def pooled(self) -> str:
        """That positions of prompts of several lengths are pooled by their index; nothing where they are not."""
        short, long = self.task.get("lengths", (0, 0))
        if short == long or not self.units.positional or isinstance(self.units, SpanUnits):
            return ""
        return (
            f"positions of prompts of {short} to {long} tokens are pooled by their index from the first token on: "
            "one index need not be one place in the sentence, and late ones are those of long prompts alone"
        )

    @property
    def averaged(self) -> str:
        """That means stand where spans of unequal lengths are patched; nothing where none do."""
        if self.settings.get("align") != "mean":
            return ""
        return (
            "where a span has other lengths in the two prompts its tokens take the mean over the other run's, which is "
            f"an activation of neither run ({self.settings.get('unequal')})"
        )

    def _require_shares(self) -> None:
        if self.unit == UNPAIRED:
            raise GapError("The prompts have no counterpart, so there is no gap to have a share of; use `mean()`.")
        if self.unit != METRIC:
            raise MethodError(
                f"Values of {self.method} are in units of {self.unit}, not effects on the metric, so they are no "
                "shares of the gap; use `mean()`."
            )
        if float(self.gap.mean()) <= -_ZERO:
            raise GapError(
                f"The gap is inverted: mean metric {float(self.clean.mean()):+.3g} clean and "
                f"{float(self.corrupted.mean()):+.3g} corrupted, on {int((self.gap < 0).sum()):,} of {self.n:,} pairs "
                "the wrong way round. There is no behaviour that a unit could have a share of: check the answers and "
                "which prompt is the clean one, or use `mean()`."
            )

    def ranking(self, by: Ranking = "abs_mean") -> list[int]:
        """Units from the strongest: by |mean E| ("abs_mean"), mean |E| ("mean_abs") or importance ("importance")."""
        key = {"abs_mean": self.mean().abs(), "mean_abs": self.values.abs().nanmean(0), "importance": self.importance()}
        if by not in key:
            raise MethodError(f"by={by!r} is not a ranking. Known: {', '.join(key)}.")
        last = key[by].nan_to_num(nan=-torch.inf)  # units that no example has
        return torch.argsort(last, descending=True, stable=True).tolist()

    @typed
    def top(self, k: int = 10, *, by: Ranking = "abs_mean") -> pd.DataFrame:
        """The k strongest units as a table."""
        return self.table().iloc[self.ranking(by)[:k]].reset_index(drop=True)

    def head(self) -> pd.DataFrame:
        """The ten strongest units."""
        return self.top(ROWS)

    def table(self) -> pd.DataFrame:
        """One row per unit: name, layer, head/neuron, position or span (those that apply), effect, stderr, share of the
        gap, and how many pairs it rests on.

        No share where there is none (`has_shares`); no pairs where every unit rests on all.
        """
        table: pd.DataFrame = self.units.table()
        table["effect"] = self.mean().numpy()
        table["stderr"] = self.stderr().numpy()
        if self.has_shares:
            table["share"] = self.normalised().numpy()
        if (self.pairs() < self.n).any():
            table["pairs"] = self.pairs().numpy()
        return table

    def chart(
        self,
        *,
        tokens: Sequence[str] = (),
        most: int = 200,
        width: float | None = None,
        height: float | None = None,
        font: str | None = None,
        theme: Look | None = None,
    ) -> altair.Chart | altair.LayerChart:
        """The scores as an Altair chart: a layer × head map, bars, a ranking, or the `most` strongest edges drawn.

        `tokens`: texts of the positions, e.g. `task.tokens(0)[0]`. `width`, `height`: of the plot, in pixels.
        `font`, `theme`: see `Result.chart`.
        """
        look: dict[str, Any] = {"width": width, "height": height, "font": font, "theme": theme}
        return through("Scores.chart", self, tokens=tokens, most=most, **look)

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        written: Path = through("Scores.save", self, path)
        return written

    def describe(self) -> str:
        """What these numbers are, in one line each: model, task, method, sign, n, cost, verified or not."""
        sign = _SIGNS[self.method if self.method in _SIGNS else self.direction]
        lines = [
            f"{self.method} · {len(self):,} {self.units.kind} · {settings_in_words(self.settings)}",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            f"sign    {sign}" if self.signed else "sign    magnitudes only",
            f"n       {counted(self.n, 'prompt')}; metric {self.clean.mean():+.3f}"
            if self.unit == UNPAIRED
            else f"n       {counted(self.n, 'pair')}; metric {self.clean.mean():+.3f} clean, "
            f"{self.corrupted.mean():+.3f} corrupted",
            *(f"caution {caution}" for caution in self.cautions),
            f"cost    {self.cost.describe()}",
            f"trust   {self.verified}",
        ]
        if self.completeness is not None:
            worst = self.completeness.relative(self.gap)
            most = float(self.completeness.residual.max())
            none = self.unit == UNPAIRED or not self.gap.any()
            share_of = "" if none else f", {worst:.2%} of the mean |gap|"
            lines.append(
                f"sum     completeness: mean |Σ scores − true change| at most {most:.3g}{share_of}, in any layer"
            )
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])

    @property
    def sentences(self) -> tuple[str, ...]:
        """Which units are strongest, how many have over 1% of the gap, what to be told with it, and how sure it is."""
        trust = "That is not verified." if self.verified == NOT_VERIFIED else f"Verified: {self.verified}."
        return (self._strongest(), *map(sentence, self.cautions), trust)

    def _strongest(self) -> str:
        shares = self.has_shares
        value, error = (self.scaled(), self.scaled_stderr()) if shares else (self.mean(), self.stderr())
        chosen = self.ranking()[:_NAMED]
        named = [
            f"{name} {share(float(value[u]), float(error[u]))}"
            for name, u in zip(self.units[np.array(chosen)].names, chosen, strict=True)
        ]
        units = counted(len(self), singular(self.units.kind))
        how = "exact effect" if self.method == "exact" else self.method
        scale = (
            "shares of the gap"
            if shares
            else "in units of the metric"
            if self.unit in (METRIC, UNPAIRED)
            else self.unit
        )
        many = f"; {int((value.abs() > STRONG).sum()):,} over 1% of it" if shares else ""
        over = counted(self.n, "prompt" if self.unit == UNPAIRED else "pair")
        return f"Strongest of {units} by {how}: {listed(named)} ({scale}, {over}){many}."

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.head().to_string(index=False, float_format=lambda x: f'{x:+.4f}')}"


def assemble(
    call: Session,
    values: Tensor,
    units: Units,
    *,
    method: str,
    settings: dict[str, Any],
    measured: Measurement | None = None,
    cost: Cost | None = None,
    **extra: Any,
) -> Scores:
    """Scores of a finished call, with the headers of its task and of its model as it was when the call began.

    `measured`, `cost`: where they are others than the call's. A note says so where the model computes more coarsely
    than its weights are.
    """
    bare = call.measured if measured is None else measured
    if not call.task.paired:
        settings = {"unit": UNPAIRED} | settings
    extra["notes"] = (*extra.get("notes", ()), *call.precision.notes)
    return Scores(
        values=values,
        units=units,
        method=method,
        settings=settings,
        model=call.origin,
        task=task_header(call.task),
        clean=bare.clean,
        corrupted=bare.corrupted,
        cost=call.cost if cost is None else cost,
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
        "lengths": [min(task.lengths), max(task.lengths)],
    }

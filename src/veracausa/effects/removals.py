"""Singles do not add up: what the strongest units of a ranking do together, beside the sum of what each does alone.

    together(k) = E of the k strongest, replaced at once
    sum(k)      = Σ E_u over them, each replaced alone
    excess(k)   = together(k) − sum(k)              0 where the metric is affine in them
    rest(k)     = E of all units but the k strongest, replaced at once
    INT_uv      = E_uv − E_u − E_v                  of pairs among the strongest (`effects.interacting`)

Each is taken pair by pair. Under noising an excess that is negative (of a behaviour that the units support) says that
they take away more together than one by one: each stands in for the others, so that singles miss them. A positive one
says that they are needed together, so that each alone takes away what several would.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from veracausa.scores.bundles import read_all, write_all
from veracausa.scores.made_of import MadeOfScores
from veracausa.scores.scores import Scores
from veracausa.statistics.means import standard_error
from veracausa.statistics.ratios import ratios
from veracausa.storage.files import at
from veracausa.storage.schema import many, reading, record, text, whole
from veracausa.words import counted, share

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

FORMAT = "veracausa-removal-curve-1"
#: What is run or added up for every size → the name of its columns.
FIGURES = ("together", "sum", "excess", "rest")
#: The set of all units.
ALL = "all"


def top(size: int) -> str:
    """What the set of the strongest units is called."""
    return f"top {size}"


def others(size: int) -> str:
    """What the set of all units but the strongest is called."""
    return f"all but {size}"


@dataclass(frozen=True, eq=False)
class RemovalCurve(MadeOfScores):
    """What `vc.effects.removal_curve` found. `ranked`: the units' names, strongest first; `sizes`: how many are taken.

    `ranking`: the method and the rule that ranked them. `alone`: exact effects of the first of them, one by one;
    `sets`: of the sets "top 10", "all but 10" and "all"; `pairs`: interactions of pairs of the strongest, if any.

    >>> curve = vc.effects.removal_curve(lm, task, vc.exact(lm, task, ablation="zero"), sizes=(1, 3, 10, 30))
    >>> curve.table(), curve.interactions()
    """

    ranked: tuple[str, ...]
    sizes: tuple[int, ...]
    ranking: str
    alone: Scores
    sets: Scores
    pairs: Scores | None = None

    @property
    def parts(self) -> tuple[Scores, ...]:
        """The scores that it is made of; the ranking cost its own, unless `alone` is taken from it."""
        return (self.sets, self.alone) if self.pairs is None else (self.sets, self.alone, self.pairs)

    @property
    def settings(self) -> dict[str, Any]:
        """What replaces units, and what ranked them."""
        return {**self.sets.settings, "ranking": self.ranking}

    def _set(self, name: str) -> Float[Tensor, " examples"]:
        return self.sets.values[:, self.sets.units.names.index(name)].double()

    def values(self, figure: str) -> Float[Tensor, "examples sizes"]:
        """A figure of `FIGURES` pair by pair, in units of the metric; NaN where not all singles were run."""
        every = len(self.ranked)
        if figure == "together":
            return torch.stack([self._set(ALL if size == every else top(size)) for size in self.sizes], 1)
        if figure == "rest":
            none = torch.zeros_like(self._set(ALL))
            return torch.stack([none if size == every else self._set(others(size)) for size in self.sizes], 1)
        if figure == "excess":
            return self.values("together") - self.values("sum")
        alone = self.alone.values.double()
        missing = alone.new_full((len(alone),), float("nan"))
        return torch.stack([alone[:, :size].sum(1) if size <= len(self.alone) else missing for size in self.sizes], 1)

    @property
    def scale(self) -> str:
        """What means are in: shares of the gap where there is one, else units of the metric."""
        return "share of the gap" if self.sets.has_shares else "metric"

    def mean(self, figure: str) -> tuple[Float[Tensor, " sizes"], Float[Tensor, " sizes"]]:
        """A figure's mean over pairs at every size, and its standard error, on `scale`."""
        return self._scaled(self.values(figure))

    def _scaled(self, values: Float[Tensor, "examples figures"]) -> tuple[Tensor, Tensor]:
        if self.sets.has_shares:
            return ratios(values, self.sets.gap)[:2]
        return values.nanmean(0), standard_error(values)

    def interval(self, figure: str) -> tuple[Float[Tensor, " sizes"], Float[Tensor, " sizes"]]:
        """Both ends of Student's 95% interval of `mean` over pairs; NaN where no error is known."""
        value, error = self.mean(figure)
        half = error * float(stats.t.ppf(0.975, max(1, self.sets.n - 1)))
        return value - half, value + half

    def interactions(self) -> tuple[Float[np.ndarray, "units units"], Float[np.ndarray, "units units"]]:
        """INT_uv of the strongest units, in order, and its standard errors, on `scale`; NaN on the diagonal."""
        count = _side(0 if self.pairs is None else len(self.pairs))
        found, errors = np.full((2, count, count), np.nan)
        if self.pairs is not None:
            value, error = self._scaled(self.pairs.values.double())
            rows, columns = np.triu_indices(count, 1)
            for matrix, numbers in ((found, value), (errors, error)):
                matrix[rows, columns] = matrix[columns, rows] = numbers.numpy()
        return found, errors

    def table(self) -> pd.DataFrame:
        """One row per size: units, then `FIGURES` with their standard errors over pairs, in what the column scale says:
        "share of the gap", or "metric" where the pairs have none."""
        import pandas as pd

        columns: dict[str, Any] = {"units": self.sizes, "scale": self.scale}
        for figure in FIGURES:
            value, error = self.mean(figure)
            columns |= {figure: value.numpy(), f"{figure}_stderr": error.numpy()}
        return pd.DataFrame(columns)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Of the largest set with known singles that is not all: together, one by one, and what the rest does; then the
        strongest interaction."""
        inner = min(len(self.alone), len(self.ranked) - 1)
        at = max((i for i, size in enumerate(self.sizes) if size <= inner), default=0)
        return (self._against_sum(at), self._without_rest(at), *self._strongest_pair())

    def _against_sum(self, at: int) -> str:
        together, total, excess = (self._told(figure, at) for figure in ("together", "sum", "excess"))
        over = f"({self.scale}, {counted(self.sets.n, 'pair')}, {self.settings['ablation']} ablation)"
        most = f"{self.sizes[at]:,} strongest" if self.sizes[at] > 1 else "strongest"
        beside = f"the sum of singles {total}, a difference of {excess}"
        return f"The {most} of {len(self.ranked):,} units: together {together}, {beside} {over}."

    def _without_rest(self, at: int) -> str:
        return f"All units but these: together {self._told('rest', at)}; all: {self._every()}."

    def _told(self, figure: str, at: int) -> str:
        value, error = self.mean(figure)
        return share(float(value[at]), float(error[at]))

    def _every(self) -> str:
        value, error = self._scaled(self._set(ALL)[:, None])
        return share(float(value), float(error))

    def _strongest_pair(self) -> tuple[str, ...]:
        if self.pairs is None:
            return ()
        value, error = self._scaled(self.pairs.values.double())
        best = int(value.abs().nan_to_num(nan=-1).argmax())
        told = share(float(value[best]), float(error[best]))
        count = counted(len(self.pairs), "pair") + " of the strongest"
        named = self.pairs.units.names[best]
        return (f"Of {count}, {named} interact most: together {told} from the sum of singles.",)

    def describe(self) -> str:
        """What was run, and the table."""
        settings = self.sets.settings
        lines = [
            f"removal curve · {len(self.ranked):,} {self.alone.units.kind} ranked by {self.ranking} · {self.scale}",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            f"effects exact, {settings['direction']}, {settings['ablation']} ablation, {self.sets.n:,} pairs",
            self.table().to_string(index=False, float_format="{:.3f}".format),
        ]
        return "\n".join([*lines, *(f"note    {note}" for note in self.sets.notes)])

    def __repr__(self) -> str:
        return self.describe()

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {"ranked": list(self.ranked), "sizes": list(self.sizes), "ranking": self.ranking}
        scores = {"alone": self.alone, "sets": self.sets}
        return write_all(path, FORMAT, header, scores if self.pairs is None else scores | {"pairs": self.pairs})


_HEADER = record(ranked=many(text, least=1), sizes=many(whole(1), least=1), ranking=text)


def _side(pairs: int) -> int:
    """How many units have so many pairs.

    >>> _side(15)
    6
    """
    return round((1 + (1 + 8 * pairs) ** 0.5) / 2) if pairs else 0


def load_removal_curve(path: str | Path) -> RemovalCurve:
    """Read what `RemovalCurve.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, scores = read_all(path, FORMAT)
    with reading(at(path)):
        found, sets, alone, pairs = _HEADER(header), scores["sets"], scores["alone"], scores.get("pairs")
        sizes, ranked = found["sizes"], found["ranked"]
        if list(sizes) != sorted({*sizes}) or sizes[-1] > len(ranked):
            raise ValueError("its sizes do not rise, or are more than its units")
        wanted = {ALL, *(name(size) for size in sizes if size < len(ranked) for name in (top, others))}
        if not wanted <= {*sets.units.names} or list(alone.units.names) != list(ranked[: len(alone)]):
            raise ValueError("it lacks the effects of some of its sets, or its singles are others")
        if pairs is not None and _side(len(pairs)) * (_side(len(pairs)) - 1) != 2 * len(pairs):
            raise ValueError("its pairs are not all pairs of some units")
        return RemovalCurve(tuple(ranked), tuple(sizes), found["ranking"], alone, sets, pairs)

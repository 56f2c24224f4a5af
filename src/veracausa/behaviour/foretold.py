"""How far scores foretell which ablations change accuracy: what `AblationStudy.against` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.result import Shown
from veracausa.storage.files import write_tensors
from veracausa.words import counted, listed

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


FORMAT = "veracausa-against-1"
#: Fields that a file's header holds as they are, those that are arrays, and those of a forecast.
PLAIN = ("names", "ablation", "rule", "n", "alpha", "model", "task", "settings")
ARRAYS = ("change", "stderr", "changed")
FIGURES = (
    "method", "signed", "r", "spearman", "forecast", "hits", "precision", "recall", "average_precision",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Forecast:
    """One method's forecast of which ablations change accuracy; see the module.

    `score`: of each unit. `forecast`: units that the rule picks, `hits`: those of them that changed accuracy. NaN: not
    defined (nothing forecast, nothing changed, no spread).
    """

    method: str
    signed: bool
    score: np.ndarray
    r: float
    spearman: float
    forecast: int
    hits: int
    precision: float
    recall: float
    average_precision: float


@dataclass(frozen=True, eq=False)
class Against(Shown):
    """Forecasts of several methods for the same `names` under one `ablation`; made by `AblationStudy.against`.

    `change` ± `stderr`: of accuracy, per unit; `changed`: whether significantly. `rule`: what counts as a forecast.
    `model`, `task`, `settings`: of the study.

    >>> study = vc.behaviour.ablation_study(lm, task, units=["a20.h0"])
    >>> study.against(atp, exact, ablation="zero").table()
    """

    names: tuple[str, ...]
    ablation: str
    change: np.ndarray
    stderr: np.ndarray
    changed: np.ndarray
    rule: str
    n: int
    alpha: float
    forecasts: tuple[Forecast, ...]
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]

    @property
    def cost(self) -> None:
        """None: the study and the scores have their own, and comparing them runs no model."""

    def __getitem__(self, method: str) -> Forecast:
        return {one.method: one for one in self.forecasts}[method]

    def table(self) -> pd.DataFrame:
        """One row per method: correlations, precision and recall, average precision."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "method": one.method,
                    "units": len(self.names),
                    "r": one.r,
                    "spearman": one.spearman,
                    "forecast": one.forecast,
                    "hits": one.hits,
                    "changed": int(self.changed.sum()),
                    "precision": one.precision,
                    "recall": one.recall,
                    "average precision": one.average_precision,
                }
                for one in self.forecasts
            ]
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the forecasts are worth, one sentence a method."""
        changed, count = int(self.changed.sum()), len(self.names)
        found = [
            f"{self.ablation.capitalize()} ablation changes accuracy significantly for {changed} of {count} units "
            f"({self.n:,} prompts, McNemar at {self.alpha:g} after Holm); a random ranking would have an average "
            f"precision of {changed / count:.2f}."
        ]
        for one in self.forecasts:
            # a line always goes through two points
            known = np.isfinite(one.r) and count > 2
            text = (
                f"{one.method}: r {one.r:+.2f} with the change of accuracy over {count} units" if known else one.method
            )
            text += "" if known else ": too few units differ for a correlation"
            if one.forecast:
                text += f"; of the {one.forecast} units with {self.rule} {one.hits} changed it"
            if changed:
                text += f"; {one.hits} of the {changed} that changed it were foretold"
                text += f"; average precision {one.average_precision:.2f}"
            found.append(f"{text}.")
        return tuple(found)

    def describe(self) -> str:
        """What these numbers are, line by line."""
        methods = listed([one.method for one in self.forecasts])
        return "\n".join(
            [
                f"scores against ablation · {methods} · {len(self.names)} units, {self.ablation} ablation",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                f"n       {counted(self.n, 'prompt')}; change of accuracy, McNemar at {self.alpha:g} after Holm",
                f"rule    {self.rule}",
            ]
        )

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {name: getattr(self, name) for name in PLAIN}
        header["forecasts"] = [{name: getattr(one, name) for name in FIGURES} for one in self.forecasts]
        tensors = {name: torch.from_numpy(np.asarray(getattr(self, name))) for name in ARRAYS}
        tensors["scores"] = torch.from_numpy(np.stack([one.score for one in self.forecasts]))
        return write_tensors(path, FORMAT, header, tensors)

    def __repr__(self) -> str:
        return f"{self.sentences[0]}\n{self.table().to_string(index=False, float_format=lambda x: f'{x:.3f}')}"

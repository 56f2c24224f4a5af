"""What an ablation study found: metric, greedy answers and task accuracy of every prompt under every condition.

    accuracy = share of prompts whose greedy continuation begins with a correct answer

Change: the ablated model's number minus the unablated model's, over the same prompts: negative means that the units
supported the behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.behaviour.chosen import Condition
from veracausa.choices import Ablation
from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.result import Shown
from veracausa.statistics.accuracy import holm, mcnemar, paired_error, wilson
from veracausa.storage.files import write_tensors

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Bool, Float, Int

    from veracausa.behaviour.foretold import Against
    from veracausa.scores.scores import Scores

_FORMAT = "veracausa-ablation-study-2"


@dataclass(frozen=True)
class Outcome:
    """One condition over n prompts.

    `metric`: mean; `change` ± `stderr`: of the metric, against the unablated model on the same prompts. `right`:
    prompts answered right, `low`, `high`: 95% Wilson interval of the accuracy. `lost`, `gained`: prompts that only the
    unablated or only the ablated model answers right. `p`: McNemar's exact test of lost against gained, `p_holm`:
    corrected for all conditions of the study. The unablated model has no changes and no p.
    """

    condition: Condition
    n: int
    metric: float
    change: float
    stderr: float
    right: int
    low: float
    high: float
    lost: int
    gained: int
    p: float
    p_holm: float

    @property
    def accuracy(self) -> float:
        """Share of prompts answered right."""
        return self.right / self.n

    @property
    def accuracy_change(self) -> float:
        """(gained − lost) / n."""
        return (self.gained - self.lost) / self.n

    @property
    def accuracy_stderr(self) -> float:
        """Standard error of `accuracy_change`, over the same prompts."""
        return paired_error(self.lost, self.gained, self.n)

    @property
    def flipped(self) -> int:
        """Prompts on which the two models differ in being right."""
        return self.lost + self.gained


@dataclass(frozen=True, eq=False)
class AblationStudy(Shown):
    """Effects of ablations on the metric and on greedy answers; made by `vc.behaviour.ablation_study`.

    `metric`, `right`: [conditions, prompts]; the first condition is the unablated model. `tokens`: greedy continuations
    [conditions, prompts, new tokens], −1 behind the end of a text. `alpha`: level of the tests. `settings`: ablations,
    reference, seed, new tokens.

    >>> study = vc.behaviour.ablation_study(lm, task, units=["a20.h0"])
    >>> study["a20.h0", "zero"].accuracy
    """

    conditions: tuple[Condition, ...]
    metric: Float[Tensor, "conditions prompts"]
    tokens: Int[Tensor, "conditions prompts new"]
    right: Bool[Tensor, "conditions prompts"]
    alpha: float
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost

    @property
    def n(self) -> int:
        """Number of prompts."""
        return self.metric.shape[1]

    @property
    def unablated(self) -> Outcome:
        """The model as it is."""
        return self._all[0]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Every ablation, in the order in which it was asked for."""
        return self._all[1:]

    @property
    def significant(self) -> list[Outcome]:
        """Ablations that change accuracy at level `alpha`, after Holm's correction; the largest change first."""
        found = [one for one in self.outcomes if one.p_holm <= self.alpha]
        return sorted(found, key=lambda one: -abs(one.accuracy_change))

    def __getitem__(self, which: tuple[str, str]) -> Outcome:
        """The outcome of (unit, ablation); "together" stands for all units at once."""
        name, ablation = which
        for one in self.outcomes:
            units = one.condition.units
            if one.condition.ablation == ablation and (units == (name,) or (name == "together" and len(units) > 1)):
                return one
        known = ", ".join(dict.fromkeys(f"{one.condition.name} ({one.condition.ablation})" for one in self.outcomes))
        raise KeyError(f"no condition {name!r} with {ablation!r}; there are {known}")

    @cached_property
    def _all(self) -> tuple[Outcome, ...]:
        metric, right = self.metric.double().numpy(), self.right.numpy()
        lost = [int((right[0] & ~one).sum()) for one in right]
        gained = [int((one & ~right[0]).sum()) for one in right]
        p = [mcnemar(*flips) for flips in zip(lost[1:], gained[1:], strict=True)]
        p_all, p_holm = [float("nan"), *p], [float("nan"), *holm(p).tolist()]
        outcomes = []
        for i, condition in enumerate(self.conditions):
            change = metric[i] - metric[0]
            error = float(change.std(ddof=1) / np.sqrt(self.n)) if self.n > 1 and i else float("nan")
            low, high = wilson(int(right[i].sum()), self.n)
            outcomes.append(
                Outcome(
                    condition, self.n, float(metric[i].mean()), float(change.mean()), error, int(right[i].sum()), low,
                    high, lost[i], gained[i], p_all[i], p_holm[i],
                )
            )  # fmt: skip
        return tuple(outcomes)

    def table(self) -> pd.DataFrame:
        """One row per condition, the unablated model first; see `Outcome` for the columns."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "units": one.condition.name,
                    "ablation": one.condition.ablation,
                    "n": one.n,
                    "metric": one.metric,
                    "change": one.change,
                    "stderr": one.stderr,
                    "accuracy": one.accuracy,
                    "low": one.low,
                    "high": one.high,
                    "accuracy change": one.accuracy_change,
                    "accuracy stderr": one.accuracy_stderr,
                    "lost": one.lost,
                    "gained": one.gained,
                    "p": one.p,
                    "p (Holm)": one.p_holm,
                }
                for one in self._all
            ]
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a researcher would write, made from the numbers."""
        return through("AblationStudy.sentences", self)

    def against(self, *scores: Scores, ablation: Ablation, k: int | None = None, threshold: float = 0.01) -> Against:
        """How far scores foretell what ablation does to accuracy; see `behaviour.against`.

        >>> study.against(atp, exact, ablation="zero").table()
        """
        return through("AblationStudy.against", self, scores, ablation=ablation, k=k, threshold=threshold)

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {
            "conditions": [[list(one.units), one.ablation] for one in self.conditions],
            "alpha": self.alpha,
            "settings": self.settings,
            "model": self.model,
            "task": self.task,
            "cost": self.cost.to_dict(),
        }
        tensors = {"metric": self.metric, "tokens": self.tokens, "right": self.right.to(torch.uint8)}
        return write_tensors(path, _FORMAT, header, tensors)

    def describe(self) -> str:
        """What these numbers are: model, task, method, sign, n, cost, verified or not."""
        how = ", ".join(f"{key} {value}" for key, value in self.settings.items() if value not in (None, ""))
        return "\n".join(
            [
                f"ablation study · {len(self.outcomes)} ablations · {how}",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                "sign    ablated − unablated on the same prompts; negative: the units supported the behaviour",
                f"n       {self.n:,} clean prompts; accuracy: the greedy continuation begins with a correct answer",
                f"cost    {self.cost.token_layers:,} token-layers = {self.cost.forward_equivalents:,.1f} forward "
                f"passes, {self.cost.seconds:.1f} s",
                f"trust   exact runs; 95% Wilson intervals, McNemar's exact test at {self.alpha:g}, Holm over "
                f"{len(self.outcomes)} tests",
            ]
        )

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.table().to_string(index=False, float_format=lambda x: f'{x:.4g}')}"

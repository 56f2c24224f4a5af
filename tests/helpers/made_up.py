"""Results made from given numbers, every quantity another, so that a sentence that mixes two of them up is seen.

Nothing here runs a model: tests of sentences (`test_*sentences.py`) put in numbers and read words.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from veracausa.cost import Cost
from veracausa.scores.agreement import Agreement
from veracausa.scores.scores import Scores
from veracausa.units.table import Units

MODEL = {"name": "made-up", "source": "made up", "identity": "id"}


def heads(*names: str) -> Units:
    """A table of heads by their names."""
    places = [[int(part[1:]) for part in name.split(".")] for name in names]
    layer, index = np.array(places).T
    return Units("heads", layer, index, np.full(len(names), -1))


def task_header(n: int, **over: Any) -> dict[str, Any]:
    """What scores say of their task."""
    return {
        "name": "ioi",
        "description": f"ioi: {n} made-up pairs",
        "digest": "d",
        "metric": "logit_diff",
        "n": n,
    } | over


def about(n: int, **settings: Any) -> dict[str, Any]:
    """What circuits' runs say of model, task and settings."""
    return {"model": MODEL, "task": task_header(n), "settings": {"ablation": "counterfactual"} | settings}


def scores(
    method: str,
    names: Sequence[str],
    shares: Any,
    *,
    gap: float = 10.0,
    clean: float = 6.0,
    cost: Cost | None = None,
    settings: dict[str, Any] | None = None,
    **over: Any,
) -> Scores:
    """Scores of heads that are these shares of the gap, [pairs, units] (or one pair's); all pairs have the same gap."""
    table = np.atleast_2d(np.asarray(shares, dtype=float))
    n = len(table)
    base = {"direction": "noising", "ablation": "counterfactual"} if method == "exact" else {"direction": "noising"}
    return Scores(
        torch.tensor(table * gap),
        heads(*names),
        method,
        base | (settings or {}),
        MODEL,
        task_header(n),
        torch.full((n,), clean, dtype=torch.float64),
        torch.full((n,), clean - gap, dtype=torch.float64),
        cost or Cost(),
        **over,
    )


def agreement(method: str, *, names: Sequence[str] = ("a1.h2", "a3.h4"), **over: Any) -> Agreement:
    """An agreement with a number of its own for everything."""
    known: dict[str, Any] = {
        "exact": np.array([-0.31, 0.12]),
        "estimate": np.array([-0.26, -0.08]),
        "signed": True,
        "r": 0.91,
        "spearman": 0.82,
        "slope": 0.73,
        "strong": 17,
        "sign_errors": 1,
        "median_error": 0.0123,
        "bias": 0.004,
        "sd": 0.05,
        "proportional_bias": 0.21,
        "proportional_p": 0.03,
        "model": MODEL,
        "task": task_header(over.get("n", 1)),
        "settings": {"direction": "noising"},
    }
    return Agreement(method=method, names=tuple(names), **(known | over))


def task(n: int, name: str = "ioi", metric: str = "logit_diff") -> Any:
    """What sentences ask of a task."""

    class Made(SimpleNamespace):
        def __len__(self) -> int:
            return n

    return Made(name=name, metric=metric)

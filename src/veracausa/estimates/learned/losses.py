"""What gated runs are judged by, pair by pair; lower is better.

Of the run's metric M, with M(x) clean, M′ ablated, gap the mean over pairs of M(x) − M′, f_i = (M_i − M′_i) / gap, and
b_i = (M_i(x) − M′_i) / gap what the whole model has of it:

| loss | what is kept suffices | what is patched is the cause |
|---|---|---|
| kl | KL from the clean output distribution | – |
| metric | −M_i / gap | M_i / gap |
| bounded | −min(f_i, b_i), so that overshoot earns nothing | max(f_i, 0), nothing for a reversed answer |
| margin | 1 − σ(M_i) | σ(M_i) |
| answers | −log σ(M_i), the cross-entropy of the answer | ½ (−log σ(M_i) − log σ(−M_i)), that to an even chance |

The mean of `bounded` is −min(f, 1) pair by pair: a pair that overshoots does not pay for another. `margin` and
`answers` read M as the log-odds of two answers, which a logit difference is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import softplus

from veracausa.errors import MethodError
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from jaxtyping import Float

#: What the output is judged by while edges are dropped.
LOSSES = {"kl": "KL to the clean output", "metric": "−metric / gap"}


@dataclass(frozen=True)
class Ends:
    """M of both ends of some pairs, and the mean gap of all."""

    clean: Float[Tensor, " rows"]
    ablated: Float[Tensor, " rows"]
    gap: float

    def at(self, pairs: list[int], device: torch.device) -> Ends:
        """Those of some pairs, where a run's numbers lie."""
        return Ends(self.clean[pairs].to(device), self.ablated[pairs].to(device), self.gap)


@dataclass(frozen=True)
class Judge:
    """A loss; `suffices` and `causes`: (M of rows, their ends) → rows."""

    description: str
    suffices: Callable[[Tensor, Ends], Tensor]
    causes: Callable[[Tensor, Ends], Tensor]


def _share(metric: Tensor, ends: Ends) -> Tensor:
    return (metric - ends.ablated) / ends.gap


#: All but the KL, which is no function of the metric.
JUDGES = {
    "metric": Judge(LOSSES["metric"], lambda m, ends: -m / ends.gap, lambda m, ends: m / ends.gap),
    "bounded": Judge(
        "−min(f, 1), pair by pair",
        lambda m, ends: -_share(m, ends).minimum(_share(ends.clean, ends)),
        lambda m, ends: _share(m, ends).clamp_min(0),
    ),
    "margin": Judge("1 − σ(metric)", lambda m, _: 1 - m.sigmoid(), lambda m, _: m.sigmoid()),
    "answers": Judge(
        "cross-entropy of the answer", lambda m, _: softplus(-m), lambda m, _: (softplus(m) + softplus(-m)) / 2
    ),
}
#: Name → in words.
MASK_LOSSES = {"kl": LOSSES["kl"], **{name: judge.description for name, judge in JUDGES.items()}}


def judged(loss: str, cause: bool, kl: Callable[[], Tensor], metric: Callable[[], Tensor], ends: Ends) -> Tensor:
    """The loss of rows; only what it needs is computed."""
    if loss == "kl":
        return kl()
    judge = JUDGES[loss]
    return (judge.causes if cause else judge.suffices)(metric(), ends)


def require_loss(loss: str) -> None:
    """Raise MethodError unless the loss is known."""
    if loss not in LOSSES:
        raise MethodError(not_known("loss", loss, LOSSES))

"""Scores that are all equal but for rounding: nothing follows them, and they follow nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from veracausa.scores.scores import METRIC, Scores

#: Standard deviation over units, in units of eps · |M|, up to which scores are taken for equal. Effects of heads in
#: float32 are off from those in float64 by 3.3 (means of two pairs of SmolLM2-135M, ioi; 5.0 of a pair), estimates by
#: 1.3; what heads, edges and neurons really differ by there is 700,000, 60,000 and 30,000.
_EQUAL = 16


def rounding_of(scores: Scores, values: np.ndarray) -> float:
    """Spread up to which scaled values are equal: an effect is a difference of metrics, and rounded as they are."""
    sizes = [float(np.abs(values).max())]
    if scores.unit == METRIC:
        ends = max(float(end.double().abs().mean()) for end in (scores.clean, scores.corrupted))
        sizes.append(ends / abs(float(scores.gap.double().mean())))
    return _EQUAL * torch.finfo(scores.values.dtype).eps * max(sizes)


def lost_to_rounding(
    x: np.ndarray, y: np.ndarray, rounding: Sequence[float], *, signed: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Figures that there are none of since one side's values are all equal, and why, in words."""
    alike = [len(one) > 1 and float(one.std()) <= most for one, most in zip((x, y), rounding, strict=True)]
    if alike[0]:
        slope = ", no Spearman, no slope" if signed else ", no Spearman"
        why = f"all {len(x):,} exact effects are equal but for rounding, so nothing can follow them: no r{slope}"
        return ("r", "spearman", "slope"), (f"{why}, and the strongest are those that stand first",)
    if alike[1]:
        why = f"all {len(y):,} estimates are equal but for rounding, so they follow nothing: no r, no Spearman"
        return ("r", "spearman"), (f"{why}, and the strongest are those that stand first",)
    return (), ()

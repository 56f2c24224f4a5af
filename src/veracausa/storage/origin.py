"""Where a result came from: its model as it was then, and whether that is the model at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from veracausa.errors import FileError

if TYPE_CHECKING:
    from jaxtyping import Float


class Named(Protocol):
    """What is said of a model in messages: any `veracausa.Model` is one."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""


def same_ends(one: Float[Tensor, " ends"], other: Float[Tensor, " ends"], dtype: str) -> bool:
    """Whether a model's metrics of the same prompts are the same up to rounding in a run of this type.

    Another device, batch or attention implementation may change them by rounding (float32: about a ten-thousandth of
    their size); another model changes them by more. NaN is unknown, and equal to nothing but NaN.
    """
    if one.shape != other.shape or not torch.equal(one.isnan(), other.isnan()):
        return False
    share = {"float64": 1e-8, "float32": 1.2e-4, "float16": 4e-3}.get(dtype, 3e-2)
    size = max(1.0, float(one.nan_to_num().abs().max())) if one.numel() else 1.0
    return bool(((one - other).nan_to_num().abs() <= share * size).all())


def require_same_ends(lm: Named, then: Tensor, now: Tensor, path: Path) -> None:
    """The bare model's metrics are those that it had when the results at `path` were made.

    Raises:
        FileError: they differ by more than rounding.
    """
    if not same_ends(then, now, str(lm.dtype).removeprefix("torch.")):
        worst = float((then - now).abs().max()) if then.shape == now.shape else float("nan")
        raise FileError(
            f"{path} was made with a model that behaved otherwise: its metrics of these prompts differ from those of "
            f"{lm.name} now by up to {worst:.3g}. Something in the model was changed since, in a way that its weights, "
            "configuration and hooks do not show. Delete the file, or choose another folder."
        )

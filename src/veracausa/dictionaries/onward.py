"""What features of a cross-layer transcoder write behind their own layer: to the MLPs' outputs of later layers.

    ŷ_l = Σ_{k ≤ l} f_k W_{k → l} + b_l (+ W_skip,l x_l),   ε_l = y_l − ŷ_l

W_{k → l} for l > k is kept here as it lies in its file, in the file's precision, and mapped into memory rather than
read, so that of decoders of tens of gigabytes the rows of active features alone are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.errors import NumericsError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Onward:
    """`whole`: [features, 1 + layers behind, width], the first being what is written to the features' own layer."""

    whole: Float[Tensor, "features layers width"]

    @property
    def layers(self) -> int:
        """To how many layers behind their own features write."""
        return self.whole.shape[1] - 1

    def rows(self, features: Int[Tensor, " chosen"], behind: int, like: Tensor) -> Float[Tensor, "chosen width"]:
        """What some features write that many layers behind their own, where and as precise as `like` is.

        Raises:
            NumericsError: the file has NaN or infinite numbers there.
        """
        found = self.whole[features.to(self.whole.device), behind].to(like)
        if not torch.isfinite(found).all():
            raise NumericsError("A decoder of this cross-layer transcoder has NaN or infinite numbers: fetch it again.")
        return found

    @cached_property
    def digest(self) -> str:
        """A hash of it, feature by feature; reads it once, whole."""
        found = hashlib.sha256(f"{tuple(self.whole.shape)}{self.whole.dtype}".encode())
        for some in self.whole.split(max(1, (1 << 24) // max(self.whole[0].numel(), 1))):
            found.update(some.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

"""Encoders: how activations become features.

    pre = (x − before) W + b,   f = activation(pre)

| activation | f |
|---|---|
| `linear` | pre: of directions, with the pseudo-inverse as W |
| `relu` | max(pre, 0) |
| `jumprelu` | pre where pre > θ, else 0 (θ per feature; BatchTopK with its learned threshold, too; rectified) |
| `topk` | the k largest of max(pre, 0) of each token, else 0 |
| `gated` | max(pre · exp(r) + b_mag − b · exp(r), 0) where pre > 0, else 0 |

`norm`: what is done to a token before: "constant_norm" (x · √d / ‖x‖) or "layer_norm" ((x − mean) / (sd + ε)); the
decoder undoes it, so features are handed on in units of the site: times ‖x‖ / √d, or sd.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from veracausa.errors import MethodError
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Activation = Literal["linear", "relu", "jumprelu", "topk", "gated"]
Norm = Literal["none", "constant_norm", "layer_norm"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """An encoder of L features; tensors as in the module's formulas.

    `weight`: [width, L]. `bias`: [L]. `before`: [width], taken off the input first. `threshold`: [L], of jumprelu.
    `k`: of topk. `log_scale`, `magnitude_bias`: r and b_mag of gated, [L] each. `norm_eps`: beside the standard
    deviation of a layer norm.

    Raises:
        MethodError: an activation or norm that is not known, shapes do not fit, or the activation lacks what it needs.
    """

    weight: Float[Tensor, "width features"]
    bias: Float[Tensor, " features"]
    activation: Activation
    before: Float[Tensor, " width"] | None = None
    threshold: Float[Tensor, " features"] | None = None
    k: int | None = None
    log_scale: Float[Tensor, " features"] | None = None
    magnitude_bias: Float[Tensor, " features"] | None = None
    norm: Norm = "none"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for what, value, known in (("activation", self.activation, Activation), ("norm", self.norm, Norm)):
            if value not in get_args(known):
                raise MethodError(not_known(what, value, get_args(known)))
        width, features = self.weight.shape
        shapes = {"bias": features, "before": width, "threshold": features, "log_scale": features,
                  "magnitude_bias": features}  # fmt: skip
        for name, size in shapes.items():
            given = getattr(self, name)
            if given is not None and tuple(given.shape) != (size,):
                raise MethodError(
                    f"An encoder with weight [{width} of the site, {features} features] needs {name} of {size} "
                    f"numbers, but it has {list(given.shape)}. Was a matrix transposed?"
                )
        needed = {"jumprelu": ["threshold"], "topk": ["k"], "gated": ["log_scale", "magnitude_bias"]}
        for name in needed.get(self.activation, []):
            if getattr(self, name) is None:
                raise MethodError(f"An encoder with activation {self.activation!r} needs {name}.")
        if self.k is not None and not 1 <= self.k <= features:
            raise MethodError(f"k={self.k}: a token has 1 … {features} features.")

    @property
    def size(self) -> int:
        """Number of features."""
        return int(self.weight.shape[1])

    def scale(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows 1"] | float:
        """What the decoder's output is multiplied with, token by token; 1 without a norm."""
        if self.norm == "constant_norm":
            return x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        if self.norm == "layer_norm":
            return x.std(dim=-1, keepdim=True)
        return 1.0

    def shift(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows 1"] | float:
        """What is added to the decoder's output, token by token: the mean that a layer norm took off, else 0."""
        return x.mean(dim=-1, keepdim=True) if self.norm == "layer_norm" else 0.0

    def __call__(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows features"]:
        """Features of activations, in units of the site."""
        return self.at(x, None)

    def at(
        self, x: Float[Tensor, "*rows width"], columns: Int[Tensor, " chosen"] | None
    ) -> Float[Tensor, "*rows chosen"]:
        """Some features alone (None: all): of every activation but topk no others are computed."""
        scale = self.scale(x)
        eps = self.norm_eps if self.norm == "layer_norm" else 0.0
        given = (x - self.shift(x)) / (scale + eps) if self.norm != "none" else x
        if self.before is not None:
            given = given - self.before
        if columns is None or self.activation == "topk":
            found = self._activated(given @ self.weight + self.bias)
            found = found if columns is None else found[..., columns]
        else:
            found = self._some(columns)._activated(given @ self.weight[:, columns] + self.bias[columns])
        return found * scale

    def _some(self, columns: Tensor) -> Encoder:
        """The same of some features."""
        parts = ("bias", "threshold", "log_scale", "magnitude_bias")
        chosen = {name: value[columns] for name in parts if (value := getattr(self, name)) is not None}
        return replace(self, weight=self.weight[:, columns], **chosen)

    def _activated(self, pre: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows features"]:
        if self.activation == "linear":
            return pre
        if self.activation == "relu":
            return pre.relu()
        if self.activation == "jumprelu":
            assert self.threshold is not None
            return torch.where(pre > self.threshold, pre, 0).relu()
        if self.activation == "topk":
            assert self.k is not None
            kept, where = pre.topk(self.k, dim=-1, sorted=False)
            return torch.zeros_like(pre).scatter(-1, where, kept.relu())
        assert self.log_scale is not None and self.magnitude_bias is not None
        magnitude = (pre - self.bias) * self.log_scale.exp() + self.magnitude_bias
        return torch.where(pre > 0, magnitude, 0).relu()

"""What a norm is: y = γ · (x [− mean]) / s [+ bias].

It is read off the module's outputs, so that no variant's ε or 1 + γ need be known. With u = γ ⊙ g, a gradient g at y
becomes at x

    Jᵀ g = C u / s − x̂ ⟨x̂, u⟩ / (d · s),   x̂ = C x / s,   C: subtract the mean (LayerNorm), else nothing

and, where the denominator is held constant, the first term alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from veracausa.errors import ArchitectureError


@dataclass(frozen=True)
class NormForm:
    """γ, bias and centring of one norm; `gain` None for a module that is no norm (the identity)."""

    gain: Float[Tensor, " width"] | None
    bias: Float[Tensor, " width"] | None
    centred: bool

    def linear(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """γ · (x [− mean]): what the denominator divides."""
        if self.gain is None:
            return x
        return (x - x.mean(-1, keepdim=True) if self.centred else x) * self.gain

    @torch.no_grad()
    def inverse(self, x: Float[Tensor, "*rows width"], output: Float[Tensor, "*rows width"]) -> Tensor:
        """1 / s of every row, [..., 1], from the module's own output for x."""
        if self.gain is None:
            return torch.ones_like(x[..., :1])
        written = (output if self.bias is None else output - self.bias).to(torch.promote_types(x.dtype, torch.float32))
        inner = self.linear(x.detach()).to(written)
        size = inner.square().sum(-1, keepdim=True)
        tiny = torch.finfo(size.dtype).tiny
        return ((written * inner).sum(-1, keepdim=True) / size.clamp_min(tiny)).to(x.dtype)

    def pull_back(
        self,
        x: Float[Tensor, "*rows width"],
        inverse: Float[Tensor, "*rows 1"],
        gradient: Float[Tensor, "readers *rows width"],
        frozen: bool,
    ) -> Float[Tensor, "readers *rows width"]:
        """Jᵀ g for many gradients at one x; `frozen`: the denominator is a constant."""
        if self.gain is None:
            return gradient
        u = gradient * self.gain
        if self.centred:
            u = u - u.mean(-1, keepdim=True)
        u = u * inverse
        if frozen:
            return u
        unit = (x - x.mean(-1, keepdim=True) if self.centred else x) * inverse
        return u - unit * ((unit * u).sum(-1, keepdim=True) / x.shape[-1])


def norm_form(norm: nn.Module) -> NormForm:
    """Read a norm: LayerNorm by its type, an RMS norm by its output for a large constant vector, where ε has no weight.

    Raises:
        ArchitectureError: the module is neither.
    """
    if isinstance(norm, nn.Identity):
        return NormForm(None, None, False)
    weight: Tensor = norm.weight  # type: ignore[assignment]
    if isinstance(norm, nn.LayerNorm):
        form = NormForm(weight.detach(), None if norm.bias is None else norm.bias.detach(), True)
    else:
        with torch.no_grad():
            form = NormForm(norm.forward(torch.full_like(weight, 1e4)), None, False)
    _require(norm, form, weight)
    return form


def _require(norm: nn.Module, form: NormForm, weight: Tensor) -> None:
    with torch.no_grad():
        x = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
        output = norm.forward(x)
        ours = form.linear(x) * form.inverse(x, output)
        error = ours + (0 if form.bias is None else form.bias) - output
        worst = float(error.abs().max() / output.abs().max().clamp_min(1e-6))
    if not worst <= 50 * torch.finfo(weight.dtype).eps ** 0.75:
        raise ArchitectureError(
            f"{type(norm).__name__} is neither a LayerNorm nor an RMS norm (off by {worst:.2g}), so what its parts "
            "write or read cannot be told apart. Heads, MLPs and neurons under rule='plain' need no such knowledge."
        )

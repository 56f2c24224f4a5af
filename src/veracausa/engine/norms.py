"""What a norm is: y = γ · (x [− mean]) / s [+ bias].

It is read off the module's outputs, so that no variant's ε or 1 + γ need be known, and what the user's hooks make of
them counts. With u = γ ⊙ g, a gradient g at y becomes at x

    Jᵀ g = C u / s − x̂ ⟨x̂, u⟩ / (d · s),   x̂ = C x / s,   C: subtract the mean (LayerNorm), else nothing

and, where the denominator is held constant, the first term alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from veracausa.anatomy import Decoder
from veracausa.engine.guard import precision_of
from veracausa.engine.row_sums import RowSums
from veracausa.errors import ArchitectureError
from veracausa.placed import weight_of

if TYPE_CHECKING:
    from jaxtyping import Float

#: Where ε has no weight, and the sizes of the random inputs that a form is tested with.
_LARGE = 1e4
_PROBES = (1.0, _LARGE)


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

    def before(self, weight: Float[Tensor, "width ..."]) -> Float[Tensor, "width ..."]:
        """C γ W: what a linear map makes of x̂ = C x / s that reads the norm's output."""
        if self.gain is None:
            return weight
        own = weight * self.gain.to(weight).reshape(-1, *[1] * (weight.ndim - 1))
        return own - own.mean(0) if self.centred else own

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
        unit = self.unit(x, inverse)
        return u - unit * ((unit * u).sum(-1, keepdim=True) / x.shape[-1])

    def unit(self, x: Float[Tensor, "*rows width"], inverse: Float[Tensor, "*rows 1"]) -> Float[Tensor, "*rows width"]:
        """x̂ = C x / s."""
        return (x - x.mean(-1, keepdim=True) if self.centred else x) * inverse


@dataclass(frozen=True)
class Normed:
    """What a run's norm was given, in float32 at least, and 1 / s there, [rows, positions, 1]."""

    form: NormForm
    seen: Float[Tensor, "rows positions width"]
    inverse: Float[Tensor, "rows positions 1"]

    @classmethod
    def of(cls, form: NormForm, seen: Tensor, given: Tensor, dtype: torch.dtype) -> Normed:
        """`given`: what the norm gave."""
        own = seen.detach().to(dtype)
        return cls(form, own, form.inverse(own, given.detach().to(dtype)))

    @cached_property
    def unit(self) -> Float[Tensor, "rows positions width"]:
        """x̂."""
        return self.form.unit(self.seen, self.inverse)

    def pull_back(self, gradient: Float[Tensor, "rows positions width"], frozen: bool) -> Tensor:
        """See `NormForm.pull_back`; of one gradient."""
        return self.form.pull_back(self.seen, self.inverse, gradient.to(self.seen)[None], frozen)[0]

    def less_along(
        self,
        found: Float[Tensor, "readers places positions width"],
        along: Float[Tensor, "readers rows positions"],
        sums: RowSums,
    ) -> Float[Tensor, "readers places positions width"]:
        """`found` (changed) less Σ_r along(r) · x̂_r / d over the rows r of each place: the norm's second term."""
        if self.form.gain is None:
            return found
        share = -1 / found.shape[-1]
        if sums.single:
            return found.addcmul_(along[..., None], self.unit, value=share)
        factors, units = sums.beside(along.movedim(0, -1)), sums.beside(self.unit)  # [places, most, positions, …]
        by_token = found.flatten(1, 2).transpose(0, 1)  # a view
        by_token.baddbmm_(factors.permute(0, 2, 3, 1).flatten(0, 1), units.transpose(1, 2).flatten(0, 1), alpha=share)
        return found


def norm_form(decoder: Decoder, norm: nn.Module) -> NormForm:
    """Read a norm as it runs, once a call.

    A plain LayerNorm has its weights. Of any other norm the bias is its output at 0, and the gain what it makes of a
    large vector, where ε has no weight: of ones (an RMS norm), or, if those give nothing, of as many ones as minus ones
    (it subtracts the mean).

    Raises:
        ArchitectureError: the module is neither.
    """
    form: NormForm = decoder.found.remembered("norm", norm, lambda: _read(decoder, norm))
    return form


@torch.no_grad()
def _read(decoder: Decoder, norm: nn.Module) -> NormForm:
    plain = decoder.found.untouched(norm)
    if plain and isinstance(norm, nn.Identity):
        return NormForm(None, None, False)
    weight = getattr(norm, "weight", None)
    if type(norm).__name__ == "ModulesToSaveWrapper":
        raise ArchitectureError(
            "PEFT has put a trained norm beside the model's own (modules_to_save); methods that hold norms constant "
            "can't tell which is in force. Merge the adapter and pass the result: model.merge_and_unload()."
        )
    if (weight is not None and weight.ndim != 1) or any(True for _ in norm.children()):
        raise ArchitectureError(
            f"{type(norm).__name__} has a gain for each head, which methods that hold norms constant don't know of. "
            "Take a method with rule='plain', such as atp, ig, eap or eap-ig."
        )
    known = plain and type(norm) is nn.LayerNorm
    if known:
        gain, bias = (weight_of(norm, name, decoder.found.home) for name in ("weight", "bias"))
        form = NormForm(None if gain is None else gain.detach(), None if bias is None else bias.detach(), True)
    else:
        form = _off_outputs(decoder, norm)
    _require(decoder, norm, form, sized=not known)
    return form


def _off_outputs(decoder: Decoder, norm: nn.Module) -> NormForm:
    like = _like(decoder, norm)
    bias = _run(decoder, norm, torch.zeros_like(like))
    gain = _run(decoder, norm, torch.full_like(like, _LARGE)) - bias
    half = len(like) - len(like) // 2
    pattern = torch.ones_like(like)
    pattern[half:] = -half / (len(like) - half)
    pattern = pattern / pattern.to(torch.promote_types(like.dtype, torch.float32)).square().mean().sqrt()
    other = (_run(decoder, norm, _LARGE * pattern) - bias) / pattern
    centred = bool(gain.abs().max() < 1e-2 * other.abs().max())
    return NormForm(other if centred else gain, bias if bias.any() else None, centred)


def _run(decoder: Decoder, norm: nn.Module, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
    """The norm of vectors, each given as the only position of a prompt (hooks may ask for those dimensions)."""
    heads = any(norm is one for block in decoder.blocks for one in block.qk_norms)
    output: Tensor = decoder.found.run(norm, x.reshape(-1, *([1] * (1 + heads)), x.shape[-1]))
    return output.reshape(x.shape)


def _like(decoder: Decoder, norm: nn.Module) -> Float[Tensor, " width"]:
    """A vector as the norm takes it: as wide as its weight, or as the stream."""
    weight: Tensor | None = getattr(norm, "weight", None)
    width = decoder.width if weight is None else weight.numel()
    return torch.empty(width, dtype=next(decoder.hf.parameters()).dtype, device=decoder.found.home)


def _require(decoder: Decoder, norm: nn.Module, form: NormForm, sized: bool) -> None:
    """The form gives the module's outputs for random inputs of two sizes; `sized`: its s is their root mean square."""
    like = _like(decoder, norm)
    drawn = torch.randn(2, len(like), generator=torch.Generator().manual_seed(0)).to(like)
    worst = 0.0
    for size in _PROBES:
        x = size * drawn
        output, wide = _run(decoder, norm, x), torch.promote_types(like.dtype, torch.float32)
        x, output = x.to(wide), output.to(wide)
        inverse = form.inverse(x, output)
        error = form.linear(x) * inverse + (0 if form.bias is None else form.bias) - output
        worst = max(worst, float(error.abs().max() / output.abs().max().clamp_min(1e-6)))
        centred = x - x.mean(-1, keepdim=True) if form.centred else x
        root = (centred * inverse).square().mean(-1).sqrt()  # below 1 by ε / 2s² alone
        worst = max(worst, float((root - 1).abs().max()) if sized and size == _LARGE else 0.0)
    if not worst <= 50 * torch.finfo(precision_of(decoder).dtype).eps ** 0.75:
        raise ArchitectureError(
            f"{type(norm).__name__} is, as it runs, neither a LayerNorm nor an RMS norm (off by {worst:.2g}), so what "
            "its parts write or read cannot be told apart. Heads, MLPs and neurons under rule='plain' need no such "
            "knowledge; if there is a hook on it, remove that."
        )

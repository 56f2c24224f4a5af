"""What a file says of a dictionary, brought into one shape before it is fitted to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.dictionaries import Encoder, Onward
from veracausa.dictionaries.encoder import Activation, Norm
from veracausa.errors import FileError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Parts:
    """A dictionary without a model: tensors as in `Encoder` and `Dictionary`, and where it was trained.

    `encoder`: W_enc, [width read, L]. `decoder`: W_dec, [L, width written]. `reads`, `writes`: names of hooks, modules
    or sites, as the file has them; None where it has none. `layer`: where the names leave it out. `model`: the model
    that it was trained on, by the file. `centred`: whether it was trained on a stream without its mean, of centred
    weights; None where the file leaves it open. `onward`: what it writes to later layers, beside.
    """

    encoder: Float[Tensor, "width features"]
    decoder: Float[Tensor, "features width"]
    encoder_bias: Float[Tensor, " features"]
    decoder_bias: Float[Tensor, " width"]
    activation: Activation
    before: Float[Tensor, " width"] | None = None
    threshold: Float[Tensor, " features"] | None = None
    k: int | None = None
    log_scale: Float[Tensor, " features"] | None = None
    magnitude_bias: Float[Tensor, " features"] | None = None
    skip: Float[Tensor, "read width"] | None = None
    norm: Norm = "none"
    norm_eps: float = 1e-5
    reads: str | None = None
    writes: str | None = None
    layer: int | None = None
    model: str = ""
    source: str = ""
    centred: bool | None = False
    labels: tuple[str, ...] = field(default=())
    onward: Onward | None = None

    def cast(self, dtype: torch.dtype, device: torch.device) -> Parts:
        """The same, computed in one precision on one device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: Any = {name: value.to(device, dtype) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def scaled_features(self, factor: Float[Tensor, " features"]) -> Parts:
        """The same dictionary with features that are larger by a factor each, and rows of W_dec that much smaller."""

        def times(value: Tensor | None) -> Tensor | None:
            return None if value is None else value * factor

        gated = self.activation == "gated"  # its gate is a sign, which no factor changes; its magnitude alone grows
        return replace(
            self,
            encoder=self.encoder if gated else self.encoder * factor,
            encoder_bias=self.encoder_bias if gated else self.encoder_bias * factor,
            threshold=times(self.threshold),
            log_scale=None if self.log_scale is None else self.log_scale + factor.log(),
            magnitude_bias=times(self.magnitude_bias),
            decoder=self.decoder / factor[:, None],
        )

    def input_scaled(self, factor: float, output: float | None = None) -> Parts:
        """For one that was trained on inputs times `factor`, and outputs times `output` (None: the same): both folded.

        x̂ = (f W_dec + b) / output with f = activation((factor · x − before) W_enc + b_enc).
        """
        out = factor if output is None else output
        return replace(
            self,
            encoder=self.encoder * factor,
            before=None if self.before is None else self.before / factor,
            decoder=self.decoder / out,
            decoder_bias=self.decoder_bias / out,
            skip=None if self.skip is None else self.skip * (factor / out),
        )

    def encoding(self) -> Encoder:
        """The encoder."""
        return Encoder(
            self.encoder, self.encoder_bias, self.activation, before=self.before, threshold=self.threshold, k=self.k,
            log_scale=self.log_scale, magnitude_bias=self.magnitude_bias, norm=self.norm, norm_eps=self.norm_eps,
        )  # fmt: skip


#: A row of W_dec of norm 0 belongs to a feature that writes nothing; it is left as it is.
def decoder_norms(decoder: Float[Tensor, "features width"]) -> Float[Tensor, " features"]:
    """‖W_dec,i‖, and 1 where it is 0."""
    norms = decoder.norm(dim=-1)
    return torch.where(norms > 0, norms, torch.ones_like(norms))


@dataclass(frozen=True)
class Tensors:
    """The tensors of one file; what is missing is said with the file's name and all keys that it has."""

    path: Path | str
    found: Mapping[str, Tensor]

    def __contains__(self, key: str) -> bool:
        return key in self.found

    def get(self, key: str) -> Tensor | None:
        """A tensor that need not be there."""
        return self.found.get(key)

    def one(self, *keys: str, what: str) -> Tensor:
        """The tensor under the first of the keys that the file has.

        Raises:
            FileError: it has none of them.
        """
        for key in keys:
            if key in self.found:
                return self.found[key]
        raise FileError(
            f"{self.path} has no {what}: none of {', '.join(keys)} is in it; its tensors are "
            f"{', '.join(sorted(self.found)) or 'none'}. Is the file whole, and of the format that its folder says?"
        )

    def only(self, known: tuple[str, ...], form: str, *, but: Callable[[str], bool] = lambda _: False) -> None:
        """Refuse tensors that this format's formula does not know: what they do would be left out silently.

        Raises:
            FileError: there is one.
        """
        strange = sorted(key for key in self.found if key not in known and not but(key))
        if strange:
            raise FileError(
                f"{self.path} has tensors that a {form} has not: {', '.join(strange[:6])}. What they do is not known "
                "here, and leaving them out would give other features. Hand the tensors over yourself as a dict: "
                "vc.dictionary(lm, {'W_enc': …, 'b_enc': …, 'W_dec': …, 'b_dec': …}, site='r10')."
            )

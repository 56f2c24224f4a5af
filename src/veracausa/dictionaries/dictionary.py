"""A dictionary: features of one site, what each writes at a site, and what they leave out.

    f = encode(x),   ŷ = f W_dec + b (+ W_skip x),   ε = y − ŷ

x is what it reads and y what it is to explain: the same activations for a sparse autoencoder, the MLP's input and
output for a transcoder. ε, the error, is a part beside the features; so is the skip of a skip transcoder. In a
cross-layer transcoder ŷ has what features of the layers before write there, too (`onward`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.arguments import shown
from veracausa.dictionaries.encoder import Encoder
from veracausa.dictionaries.onward import Onward
from veracausa.dictionaries.site import Site
from veracausa.dictionaries.words import LONGEST, WORD, word_index
from veracausa.doors import through
from veracausa.errors import MethodError

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float, Int

#: What stands in the place of a feature in the names of the parts beside them.
_BESIDE = ("error", "skip")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Features of a site. `reads`, `writes`: the sites of x and y. `weight`: W_dec, [L, width of y]; `bias`: b.

    `skip`: W_skip, [width of x, width of y], of a skip transcoder. `name`: tells several dictionaries of one layer
    apart (`f10.mlp.1234`); empty where there is one. `labels`: names of the features, of directions
    (`d10.subject`). `source`: where it comes from, in words. `onward`: what features of a cross-layer transcoder write
    to later layers, at the same place of each. `map`: of components of weights the linear map whose they are, such as
    "down" (see `components`); `numbers`: their indices, where these are not 0, 1, …; `made`: how they follow from the
    model alone, where they do; `weights`: a hash of the weights that they are parts of.

    Raises:
        MethodError: shapes do not fit, or a name is none.

    >>> dic = vc.dictionaries.Dictionary.of(encoder, decoder_weight, decoder_bias, site="r10")
    >>> dic.encode(x), dic.decode(f), dic.error(x, x)
    """

    reads: Site
    writes: Site
    encoder: Encoder
    weight: Float[Tensor, "features width"]
    bias: Float[Tensor, " width"]
    skip: Float[Tensor, "read width"] | None = None
    name: str = ""
    labels: tuple[str, ...] = ()
    source: str = ""
    onward: Onward | None = None
    map: str = ""
    numbers: tuple[int, ...] = ()
    made: str = ""
    weights: str = ""

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        weight: Float[Tensor, "features width"],
        bias: Float[Tensor, " width"] | None = None,
        *,
        site: str,
        writes: str | None = None,
        **more: Any,
    ) -> Dictionary:
        """A dictionary that reads the site of that name, and writes the same, or `writes`."""
        b = weight.new_zeros(weight.shape[1]) if bias is None else bias
        return cls(Site.of(site), Site.of(site if writes is None else writes), encoder, weight, b, **more)

    def __post_init__(self) -> None:
        features, width = self.encoder.size, self.weight.shape[1]
        if self.weight.shape[0] != features or tuple(self.bias.shape) != (width,):
            raise MethodError(
                f"A dictionary of {features} features needs a decoder [{features}, width] and a bias [width], but they "
                f"are {list(self.weight.shape)} and {list(self.bias.shape)}. Was a matrix transposed?"
            )
        read = self.encoder.weight.shape[0]
        if self.skip is not None and tuple(self.skip.shape) != (read, width):
            raise MethodError(f"The skip of this dictionary must be [{read}, {width}]; it is {list(self.skip.shape)}.")
        if self.writes.kind == "n":
            raise MethodError(
                f"Nothing writes at {self.writes.name}, which is what an MLP reads behind its norm. A transcoder "
                f"reads it and writes m{self.writes.layer}."
            )
        if self.onward is not None:
            self._require_onward(self.onward)
        if self.numbers and len({*self.numbers}) < features:
            raise MethodError(f"{len(self.numbers)} numbers for {features} features: give each one of its own.")
        for word in (*self.labels, *([self.name] if self.name else [])):
            if not WORD.fullmatch(word) or word in _BESIDE:
                raise MethodError(
                    f"{shown(word)} is no name of a feature or dictionary: small letters, digits and _, a letter "
                    f"first, and neither 'error' nor 'skip'."
                )
        if long := [label for label in self.labels if len(label) > LONGEST]:
            raise MethodError(f"{long[0]!r} is too long for the name of a direction: at most {LONGEST} characters.")
        if self.labels and (len(self.labels) != features or len({*self.labels}) < features):
            raise MethodError(f"{len(self.labels)} labels for {features} features: give each one of its own.")

    def _require_onward(self, onward: Onward) -> None:
        if not self.transcodes or self.writes.kind != "m" or self.labels:
            raise MethodError(f"What writes to several layers is a transcoder of MLPs; this is {self!r}.")
        if onward.whole.ndim != 3 or onward.whole.shape[::2] != self.weight.shape:
            raise MethodError(
                f"A cross-layer decoder is [{self.size} features, layers, {self.weight.shape[1]}]; this one is "
                f"{list(onward.whole.shape)}."
            )

    @property
    def size(self) -> int:
        """Number of features."""
        return self.encoder.size

    @property
    def indices(self) -> Int[np.ndarray, " features"]:
        """The index of each feature in tables of units: its number, or its name as one (`words`)."""
        if self.labels:
            return np.array([word_index(label) for label in self.labels], dtype=np.int64)
        return np.array(self.numbers, dtype=np.int64) if self.numbers else np.arange(self.size)

    @property
    def whole(self) -> bool:
        """Whether its components leave nothing of their map."""
        return bool(self.made) and self.name == ""

    @property
    def layers(self) -> range:
        """The layers that its features write to: that of `writes`, and of a cross-layer transcoder later ones."""
        return range(self.writes.layer, self.writes.layer + 1 + (0 if self.onward is None else self.onward.layers))

    def rows(self, features: Int[Tensor, " chosen"], layer: int) -> Float[Tensor, "chosen width"]:
        """What some features write to one of these layers."""
        behind = layer - self.writes.layer
        if self.onward is None or not behind:
            return self.weight[features]
        return self.onward.rows(features, behind, self.weight)

    def written(self, f: Float[Tensor, "*rows features"], layer: int) -> Float[Tensor, "*rows width"]:
        """What features that are f write to one of these layers; only rows of those that are active are read."""
        active = f.flatten(0, -2).any(0).nonzero()[:, 0]
        return f[..., active] @ self.rows(active, layer)

    @property
    def transcodes(self) -> bool:
        """Whether it writes at another site than it reads."""
        return self.reads != self.writes

    def encode(self, x: Float[Tensor, "*rows read"]) -> Float[Tensor, "*rows features"]:
        """Features of activations, in units of the site (see `encoder`)."""
        return self.encoder(x)

    def decode(self, f: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows width"]:
        """Σ f W_dec + b; without a skip, and of tokens that no norm has scaled."""
        return f @ self.weight + self.bias

    def reconstruct(self, x: Float[Tensor, "*rows read"]) -> Float[Tensor, "*rows width"]:
        """ŷ of what it reads, skip, norm and all."""
        found = self.encode(x) @ self.weight + self.bias * self.encoder.scale(x) + self.encoder.shift(x)
        return found if self.skip is None else found + x @ self.skip

    def error(self, x: Float[Tensor, "*rows read"], y: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """ε = y − ŷ."""
        return y - self.reconstruct(x)

    def to(self, *where: Any, **how: Any) -> Dictionary:
        """The same on another device, or in another precision."""
        return self._each(lambda tensor: tensor.to(*where, **how))

    def named(self, name: str) -> Dictionary:
        """The same under a name."""
        return replace(self, name=name)

    def digest(self) -> str:
        """A hash of all of it but its source: two dictionaries of one digest give the same numbers.

        Of what follows from the model's weights it is one of these and of how: rounding differs from machine to
        machine.
        """
        if self.made:
            return hashlib.sha256(f"{self.made} {self.weights}".encode()).hexdigest()[:16]
        told = (self.reads.name, self.writes.name, self.name, self.labels, self.encoder.activation, self.encoder.k,
                self.encoder.norm, self.encoder.norm_eps)  # fmt: skip
        found = hashlib.sha256(repr(told).encode())
        if self.onward is not None:
            found.update(self.onward.digest.encode())
        for name, tensor in self._tensors():
            found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def check(self, lm: Any, texts: Any) -> Any:
        """How much it explains on a task's prompts, texts or token ids, and what the model does with x̂ in place of x.

        Returns:
            A `fitting.Quality`: variance explained, active and dead features, loss recovered, a task's gap kept.

        >>> dic.check(lm, vc.tasks.ioi(lm, n=16))
        """
        self._require_features("check")
        return through("Dictionary.check", lm, self, texts)

    def save(self, path: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write it to a .safetensors file, which `vc.dictionary(lm, path)` reads; `dtype`: to keep it in."""
        self._require_features("save")
        found: Path = through("Dictionary.save", self, path, dtype=dtype)
        return found

    def _require_features(self, verb: str) -> None:
        if self.map:
            raise MethodError(
                f"{self!r} are parts of a model's weights, made anew by vc.components; {verb} is for dictionaries of "
                "activations."
            )

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [
            (f.name, value)
            for part in (self.encoder, self)
            for f in fields(part)
            if isinstance(value := getattr(part, f.name), Tensor)
        ]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Dictionary:
        def changed(part: Any) -> dict[str, Any]:
            values = {f.name: getattr(part, f.name) for f in fields(part)}
            return {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}

        return replace(self, encoder=replace(self.encoder, **changed(self.encoder)), **changed(self))

    @property
    def sites(self) -> str:
        """Where it reads, and where it writes, if that is elsewhere: "r20", "n10 → m10"."""
        return self.reads.name + (f" → {self.writes.name}" if self.transcodes else "")

    def __repr__(self) -> str:
        if self.map:
            return f"Components({self.source}: {self.size:,})"
        what = self.encoder.activation + (f", k {self.encoder.k}" if self.encoder.k else "")
        last = f" … m{self.layers[-1]}" if len(self.layers) > 1 else ""
        size = f"{self.size:,} × {self.weight.shape[1]}"
        return f"Dictionary({self.name or 'features'} of {self.sites}{last}: {size}, {what})"

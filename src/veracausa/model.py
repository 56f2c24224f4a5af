"""`Model`: a Hugging Face decoder with its tokenizer and its anatomy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from veracausa.anatomy import Decoder
from veracausa.doors import through
from veracausa.placed import home_of
from veracausa.typed import typed

if TYPE_CHECKING:
    from veracausa.anatomy.graph import Graph
    from veracausa.dictionaries.dictionary import Dictionary
    from veracausa.tasks.measurement import Measurement
    from veracausa.tasks.task import Task


@dataclass(frozen=True)
class Check:
    """One contract's outcome: its largest `error` and the `tolerance`, both in units of the gap.

    >>> lm.check(strict=False)[0].ok
    """

    number: int
    claim: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the contract holds."""
        return self.error <= self.tolerance

    def __repr__(self) -> str:
        verdict = "holds" if self.ok else "FAILS"
        return f"{verdict}  {self.number:>2}  {self.claim}: error {self.error:.2g}, tolerance {self.tolerance:.2g}"


@dataclass(frozen=True, eq=False)
class Model:
    """What every public function takes: made by `vc.load`.

    `hf` is the user's own, unmodified model; after every call it is as it was. `source` says in one sentence which
    weights these are. `probe`: a prompt pair for `check`, for a model that reads no text.

    >>> lm = vc.load("smollm2-135m")
    >>> lm.layers, lm.heads, lm.neurons
    """

    hf: Any
    tokenizer: Any
    name: str
    source: str
    decoder: Decoder
    probe: Task | None = None

    def __repr__(self) -> str:
        d = self.decoder
        kv = "" if d.kv_heads == d.heads else f" ({d.kv_heads} K/V)"
        widths = " or ".join(str(width) for width in sorted({block.head_dim for block in d.blocks} - {0}))
        heads = f"{d.heads} heads{kv} of width {widths}, " if d.heads else ""
        mixers = f"{len(d.layers_with('mixer'))} mixers of {d.channels:,} channels, " if d.channels else ""
        return (
            f"Model({self.name}: {d.anatomy.family}, {d.layers} layers, {heads}{mixers}"
            f"width {d.width}, {d.neurons:,} neurons a layer, {str(self.dtype).removeprefix('torch.')}, {self.device})"
        )

    @property
    def identity(self) -> str:
        """Short hashes of everything that its numbers depend on, as the model is at this moment.

        Weights, configuration and live attributes, adapters, hooks (see `veracausa.engine.identity`). Every result
        keeps that of its call, and pieces in a folder are found by it, so that results of two models are never mixed:
        not of one model before and after an edit, either. It reads all weights: about as long as a forward of a few
        tokens.
        """
        found: str = through("Model.identity", self)
        return found

    def header(self) -> dict[str, str]:
        """What every result says about its model: name, source, precision, and the identity that it has now."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"name": self.name, "source": self.source, "dtype": dtype, "identity": self.identity}

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return self.decoder.layers

    @property
    def heads(self) -> int:
        """Query heads per layer."""
        return self.decoder.heads

    @property
    def kv_heads(self) -> int:
        """Key/value heads per layer."""
        return self.decoder.kv_heads

    @property
    def neurons(self) -> int:
        """MLP neurons per layer."""
        return self.decoder.neurons

    @property
    def experts(self) -> int:
        """Experts of an MLP that is made of some, without a shared one; 0 where none is."""
        return self.decoder.experts

    @property
    def graph(self) -> Graph:
        """Writers, readers and edges of the residual stream; see `anatomy.graph`."""
        return self.decoder.graph

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.decoder.width

    @property
    def device(self) -> torch.device:
        """Where the residual stream is: with the weights, or with the first of them where Accelerate placed them."""
        return home_of(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.hf.parameters()).dtype

    @property
    def score_dtype(self) -> torch.dtype:
        """Precision of effects and scores: float32, or float64 for a float64 model."""
        return torch.promote_types(self.dtype, torch.float32)

    @typed
    def measure(self, task: Task) -> Measurement:
        """The metric of every clean and corrupted prompt of a task, by the bare model.

        >>> lm.measure(vc.tasks.ioi(lm)).gap.mean()
        """
        found: Measurement = through("Model.measure", self, task)
        return found

    def reading(self, *dictionaries: Dictionary) -> Model:
        """The same model with dictionaries laid on it, beside earlier ones of other names: their features are units.

        Nothing is changed or run; all calls take what is returned.

        Raises:
            MethodError: a dictionary does not fit the model, or two of them have one name in one layer.

        >>> lm = lm.reading(vc.dictionary(lm, "sae.safetensors", site="r10"))
        >>> vc.exact(lm, task, units="features")
        """
        codes: Any = through("Model.reading", self, dictionaries)
        return replace(self, decoder=replace(self.decoder, codes={**self.decoder.codes, **codes}))

    @typed
    def check(self, *, strict: bool = True) -> list[Check]:
        """Test the contracts on this very model; see `veracausa.contracts.checks`.

        Raises:
            ContractError: `strict` and a contract failed; the message names it and its error.
        """
        found: list[Check] = through("Model.check", self, strict=strict)
        return found

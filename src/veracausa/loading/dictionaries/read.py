"""`vc.dictionary`: a dictionary of features, from the files of any library or from tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from veracausa.dictionaries import Dictionary
from veracausa.errors import FileError, MethodError
from veracausa.loading.dictionaries import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    own,
    plain,
    sae_lens,
    sparsify,
)  # fmt: skip
from veracausa.loading.dictionaries.adapting import adapted
from veracausa.loading.dictionaries.files import ENDINGS, beside_tensors, tensors_of
from veracausa.loading.dictionaries.parts import Parts
from veracausa.model import Model
from veracausa.storage.files import at


@dataclass(frozen=True)
class Asked:
    """What a format's reader may need beside its files."""

    dtype: torch.dtype
    layer: int | None
    k: int | None
    norm_factor: float | None
    layers: int


@dataclass(frozen=True)
class Format:
    """A library's files: `has` recognises a folder, `read` reads it; `files` says what it has."""

    name: str
    files: str  # with a plus between them
    has: Callable[[Path], bool]
    read: Callable[[Path, Asked], Parts]


def _with(*names: str) -> Callable[[Path], bool]:
    return lambda folder: all((folder / name).is_file() for name in names)


def _is_circuit_tracer(folder: Path) -> bool:
    return (folder / circuit_tracer.CONFIG).is_file() or any(folder.glob("layer_*.safetensors")) or any(
        folder.glob("W_dec_*.safetensors"))  # fmt: skip


#: Formats, in the order in which a folder is asked.
FORMATS = (
    Format("SAELens", f"{sae_lens.CONFIG} + {sae_lens.WEIGHTS}", _with(sae_lens.CONFIG, sae_lens.WEIGHTS),
           lambda folder, asked: sae_lens.read(folder, asked.dtype, norm_factor=asked.norm_factor)),
    Format("sparsify", f"{sparsify.CONFIG} + {sparsify.WEIGHTS}", _with(sparsify.CONFIG, sparsify.WEIGHTS),
           lambda folder, asked: sparsify.read(folder, asked.dtype)),
    Format("dictionary_learning", f"{dictionary_learning.WEIGHTS} + {dictionary_learning.CONFIG}",
           _with(dictionary_learning.WEIGHTS), lambda folder, asked: dictionary_learning.read(folder, asked.dtype)),
    Format("Gemma Scope", gemma_scope.FIRST, _with(gemma_scope.FIRST),
           lambda folder, asked: gemma_scope.read_first(folder / gemma_scope.FIRST, asked.dtype)),
    Format("Gemma Scope 2", f"{gemma_scope.SECOND} + {gemma_scope.CONFIG}", _with(gemma_scope.SECOND),
           lambda folder, asked: gemma_scope.read_second(folder, asked.dtype)),
    Format("Gemma Scope 2, cross-layer", "params_layer_10.safetensors",
           lambda folder: bool(gemma_scope.layers_in(folder)),
           lambda folder, asked: gemma_scope.read_layer(folder, asked.dtype, asked.layer, asked.layers)),
    Format("Llama Scope", f"{llama_scope.CONFIG} + {llama_scope.WEIGHTS}", _with(llama_scope.CONFIG),
           lambda folder, asked: llama_scope.read(folder, asked.dtype)),
    Format("circuit-tracer", f"{circuit_tracer.CONFIG} + layer_10.safetensors", _is_circuit_tracer,
           lambda folder, asked: circuit_tracer.read(folder, asked.dtype, asked.layer)),
)  # fmt: skip


def dictionary(
    lm: Model,
    source: str | Path | Mapping[str, Any],
    site: str | None = None,
    *,
    writes: str | None = None,
    name: str = "",
    layer: int | None = None,
    k: int | None = None,
    norm_factor: float | None = None,
    centred: bool | None = None,
) -> Dictionary:
    """A dictionary of features for a model: from a folder or file of any library, or from tensors.

    Formats are recognised by their files: SAELens, sparsify, dictionary_learning, Gemma Scope 1 and 2, Llama Scope,
    circuit-tracer's transcoders (one layer of them; `vc.transcoders` has all), this library's own files, and files with
    plain tensors. Nothing of a file is run.

    Args:
        lm: the model that it was trained on.
        source: a folder, a file of it, the name of one that comes with this library, or a dict of tensors: {"W_enc":
            [width, features], "W_dec": [features, width], "b_enc", "b_dec", "threshold", "k", "activation", …}.
            W_dec [features, layers, width] is that of one layer of a cross-layer transcoder.
        site: where it reads, "r10" (the stream entering block 10), "m10", "a10", "z10", "n10"; needed where the files
            don't say.
        writes: where it writes, of a transcoder ("m10").
        name: tells it apart from others of one layer: `f10.name.1234`.
        layer: of a folder with several.
        k: features a token has, of plain tensors with a topk.
        norm_factor: what inputs were multiplied with, where SAELens' settings say "expected_average_only_in".
        centred: whether it was trained with TransformerLens' processed weights, where files don't say and it matters.

    Raises:
        FileError: there is no such file, it is damaged or of no known format, or says something that is not done here.
        MethodError: the site or the sizes don't fit the model, or something must be said that the files leave open.

    >>> dic = vc.dictionary(lm, "smollm2-135m-r10")
    >>> dic = vc.dictionary(lm, "gpt2-small-res-jb/blocks.8.hook_resid_pre")
    >>> dic = vc.dictionary(lm, {"W_enc": w, "W_dec": v, "k": 32}, site="r10")
    """
    asked = Asked(lm.score_dtype, layer, k, norm_factor, lm.layers)
    parts = plain.of_tensors(source, k=k) if isinstance(source, Mapping) else _parts(at(source), asked)
    return adapted(lm, parts, site=site, writes=writes, layer=layer, name=name, centred=centred)


def transcoders(
    lm: Model, source: str | Path, *, name: str = "", layers: Sequence[int] | None = None
) -> tuple[Dictionary, ...]:
    """The transcoders of all layers that a folder of circuit-tracer has, of one layer each or of a cross-layer one, or
    a folder of Gemma Scope 2 (`params_layer_10.safetensors`).

    Features of a cross-layer transcoder write to the MLPs of their own and all later layers. Its decoders are mapped
    into memory, not read: of what is not active nothing is loaded.

    Args:
        lm: the model that they were trained on.
        source: the folder.
        name: tells them apart from other dictionaries of these layers.
        layers: some of them (default all).

    Raises:
        FileError, MethodError: see `vc.dictionary`.

    >>> clt = vc.transcoders(lm, "clt-gemma-2-2b")
    >>> vc.exact(lm, task, units=["f10.1234"], dictionary=clt)
    """
    folder = at(source)
    known = _layers_in(folder)
    if not known:
        raise FileError(f"{folder} is no folder of circuit-tracer or Gemma Scope 2 with transcoders of several layers.")
    return tuple(dictionary(lm, folder, layer=layer, name=name) for layer in (known if layers is None else layers))


def has_several(source: str | Path) -> bool:
    """Whether a folder has transcoders of several layers."""
    return len(_layers_in(at(source))) > 1


def _layers_in(folder: Path) -> dict[int, Path]:
    return (circuit_tracer.layers_in(folder) or gemma_scope.layers_in(folder)) if folder.is_dir() else {}


def _parts(path: Path, asked: Asked) -> Parts:
    """What lies at a path: a folder of a known format, a file of one, or plain tensors."""
    if path.name in own.packaged_names() and not path.exists():
        path = own.packaged_file(f"{path.name}.safetensors")
    if not path.exists():
        raise FileError(
            f"There is nothing at {path}. A dictionary is read from a folder on this machine; one from the hub is "
            f"fetched with huggingface_hub.snapshot_download('owner/name') first. With this library come "
            f"{', '.join(own.packaged_names()) or 'none'}."
        )
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.stem.startswith("params_layer_"):
        raise MethodError(f"{path} is a part of a cross-layer transcoder: give its folder, {folder}, and layer=….")
    single = path.is_file() and path.stem.startswith(("layer_", "W_enc_", "W_dec_")) and path.suffix == ".safetensors"
    found = next((form for form in FORMATS if form.has(folder)), None)
    if single and found is not None and found.name == "circuit-tracer":
        return circuit_tracer.read(path, asked.dtype, asked.layer)
    if found is not None and (path.is_dir() or path.name in found.files.split(" + ")):
        _require_unasked(found, asked)
        return found.read(folder, asked)
    if path.is_file() and path.suffix == ".safetensors" and (header := own.header_of(path)):
        _require_no("files of veracausa", layer=asked.layer, k=asked.k, norm_factor=asked.norm_factor)
        return own.read(path, header, asked.dtype)
    if path.is_file() and path.suffix in ENDINGS:
        _require_no("plain tensors", layer=asked.layer, norm_factor=asked.norm_factor)
        given = beside_tensors(path) | dict(tensors_of(path, asked.dtype).found)
        return plain.of_tensors(given, path=path, k=asked.k)
    known = "; ".join(f"{form.name}: {form.files}" for form in FORMATS)
    raise FileError(
        f"{path} is no dictionary of a known format. A folder has the files of one ({known}), or name a file with "
        f"plain tensors ({', '.join(ENDINGS)})."
    )


def _require_no(what: str, **given: Any) -> None:
    """Refuse what a format has no use for."""
    for name, value in given.items():
        if value is not None:
            raise MethodError(f"{name}={value}: {what} have no use for it; leave it out.")


def _require_unasked(form: Format, asked: Asked) -> None:
    """Refuse what a format's own settings say."""
    if asked.layer is not None and form.name in ("SAELens", "sparsify", "dictionary_learning"):
        raise MethodError(
            f"layer={asked.layer}: a folder of {form.name} is one dictionary; say where it reads by site=."
        )
    if asked.k is not None:
        raise MethodError(f"k: the settings of {form.name} say how many features are active; leave it out.")
    if asked.norm_factor is not None and form.name != "SAELens":
        raise MethodError(f"norm_factor: files of {form.name} have all factors; leave it out.")

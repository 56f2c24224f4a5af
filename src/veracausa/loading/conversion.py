"""GGUF weights → a safetensors folder in the user's cache, once, whole or absent.

Reading a GGUF file with transformers takes the better part of a minute (its vocabulary and its
quantised blocks are decoded in Python); reading the same weights from safetensors takes a fraction
of a second. So a GGUF file is dequantised to float32 once and kept as an ordinary model folder.

A folder counts as finished when it carries `veracausa.json`, and that file appears together with
everything else, by one rename. Two processes that want the same model at the same time wait for
each other on a lock file; where a file system has no locks both convert, and the first rename wins.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from veracausa.errors import ArchitectureError, FileError
from veracausa.extras import require_extra
from veracausa.loading.checkpoint import require_all_of_gguf, require_all_taken
from veracausa.loading.gguf_reading import laid_in, read_once
from veracausa.storage.digests import weights_digest
from veracausa.terminal import printable, say

MANIFEST = "veracausa.json"
_FILE = 1 << 26  # bytes of weights in one file, at least
FORMAT = 1  # raise it when folders of an older layout must be converted again

_TEXTS = (  # on these the converted tokenizer must give the same tokens as the GGUF file's own
    'In 1984, Mary\'s café cost $12.50;\n  John said: "no"!',
    " John",
    "naïve Ünïcödé 日本語 🙂",
    "def f(x):\n\treturn x",
)


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where converted models are kept: `cache_dir`, else $VERACAUSA_CACHE, else the platform's cache folder."""
    chosen = cache_dir or os.environ.get("VERACAUSA_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "veracausa"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "veracausa" / "Cache"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "veracausa"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' loading bars and warnings, and give them back as they were."""
    with warnings.catch_warnings():  # in a notebook tqdm asks for ipywidgets, which nothing here needs
        warnings.filterwarnings("ignore", "IProgress not found")
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
        from transformers.utils import logging

    level, bars, hub_bars = logging.get_verbosity(), logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # transformers' switch takes the hub's download bars with it, and those are worth seeing.
    if hub_bars:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not hub_bars:
            disable_progress_bars()


@contextmanager
def without_collector() -> Iterator[None]:
    """Pause Python's garbage collector, and give it back as it was.

    Vocabularies are read as millions of small objects, none of them garbage; searching all of them again and again
    for garbage more than doubles the time that a large tokenizer takes to load.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished folder whose files all have their size, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes: dict[str, int] = manifest["files"]
        if all((folder / name).stat().st_size == size for name, size in sizes.items()):
            return manifest
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass
    return None


def converted(
    key: str,
    root: Path,
    make_gguf: Callable[[Path], Path],
    *,
    announce: str,
    title: str,
    keep: Callable[[Path, Path], None] | None = None,
    facts: dict[str, Any] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """The safetensors folder of a GGUF model and its manifest, converted now if it is not in the cache yet.

    Args:
        key: name of the folder under `root`/models; must name the weights (contain their checksum).
        root: the cache folder.
        make_gguf: called with an empty scratch folder; returns the path of the (verified) GGUF file.
        announce: the status line shown on stderr while this runs; nothing is shown later.
        title: what errors call the file.
        keep: called with the scratch folder and the folder being made: copies what must lie beside the weights.
        facts: entries added to the manifest.

    Raises:
        FileError: the GGUF file is damaged, or the cache folder cannot be written.
        ArchitectureError: transformers cannot read this kind of GGUF model.
        ExtraError: it is not in the cache yet, and what reads GGUF is not installed.
    """
    models = root / "models"
    final = models / key
    manifest = read_manifest(final)
    if manifest is not None:
        return final, manifest
    require_extra("gguf")
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _status(announce), _locked(models / f".{key}.lock") as alone:
            manifest = read_manifest(final)  # another process may have finished it while this one waited
            if manifest is None:
                if alone:  # then nobody is at work on it, and scratch folders are what killed conversions left
                    for left in models.glob(f".{key}.tmp-*"):
                        shutil.rmtree(left, ignore_errors=True)
                manifest = _make(key, models, final, make_gguf, title, keep, facts or {})
    except OSError as error:
        raise FileError(
            f"The cache folder {models} cannot be written ({error}). Free some space, "
            "or set VERACAUSA_CACHE to a folder on another disk."
        ) from error
    return final, manifest


def _make(
    key: str,
    models: Path,
    final: Path,
    make_gguf: Callable[[Path], Path],
    title: str,
    keep: Callable[[Path, Path], None] | None,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Convert into a scratch folder and rename it to `final`."""
    with tempfile.TemporaryDirectory(prefix=f".{key}.tmp-", dir=models, ignore_cleanup_errors=True) as name:
        scratch, made = Path(name) / "fetched", Path(name) / "made"
        scratch.mkdir()
        made.mkdir()
        gguf = make_gguf(scratch)
        digest = _convert(gguf, made, title)
        if keep is not None:
            keep(scratch, made)
        manifest = {"format": FORMAT, **facts, "weights": digest, "dtype": "float32"}
        manifest["transformers"] = version("transformers")
        manifest["files"] = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in made.iterdir():
            path.chmod(0o644)
            with path.open("rb+") as file:
                os.fsync(file.fileno())  # the rename must not reach the disk before the data
        if final.exists() and read_manifest(final) is None:
            shutil.rmtree(final)  # an entry that lost files, or a foreign one
        try:
            made.rename(final)
        except OSError:
            # Without locks another process may have won; its folder is as good as this one.
            theirs = read_manifest(final)
            if theirs is None:
                raise
            return theirs
    return manifest


def _convert(gguf: Path, folder: Path, title: str) -> str:
    """Write `gguf` as a model folder with its tokenizer; returns the digest of its weights.

    What was read of the file is let go of before the weights are written, and those before the folder is read again.
    """
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise FileError(f"{title} is not a GGUF file (it does not begin with 'GGUF'), or it is damaged.")
    with quiet_transformers(), without_collector(), _no_bars():
        with read_once() as forget, laid_in(folder.parent):
            tokenizer, model = _taken(gguf, title, forget)
        _give_back()
        own = _Read.of(model)
        _write(model, folder)
        del model
        _give_back()
        tokenizer.save_pretrained(folder)
        _compact(folder / "tokenizer.json")
        _give_back()
        _check_same(folder, own, tokenizer, title)
    return own.digest


def _compact(file: Path) -> None:
    """Take the indentation off a tokenizer's file, if there is one: a large vocabulary loads a good deal faster."""
    if file.exists():
        data = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _give_back() -> None:
    """Give back to the system what nobody holds: garbage since collecting was paused, and what the allocator keeps."""
    gc.collect(0)
    with suppress(AttributeError, OSError, TypeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _taken(gguf: Path, title: str, forget: Callable[[], None]) -> tuple[Any, Any]:
    """The tokenizer and the model of a GGUF file; `forget`: see `read_once`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
        forget()
        _give_back()
        pair: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, output_loading_info=True, **where
        )
        model, info = pair
    except FileError:  # of our own: what is taken cannot be laid down
        raise
    except OSError as error:
        raise FileError(f"{title} cannot be read: {error}") from error
    except Exception as error:
        if "not supported" in str(error):
            raise ArchitectureError(f"transformers cannot read {title}: {error}") from error
        raise FileError(
            f"{title} is damaged or cut short, or holds something that transformers cannot read: "
            f"{type(error).__name__}: {error}. Fetch it again, or pass the model as a folder with safetensors."
        ) from error
    require_all_taken(title, model, info)
    require_all_of_gguf(title, gguf, model)
    return tokenizer, model.eval()


def _write(model: Any, folder: Path) -> None:
    """Write a model's weights and configuration, a file at a time: what is written is copied first."""
    import torch
    from transformers import AutoModelForCausalLM

    # save_pretrained refuses a model that was loaded from GGUF, so its values go into a plain one.
    config = type(model.config).from_dict(
        {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    )
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    size = sum(one.numel() * one.element_size() for one in plain.parameters())
    plain.save_pretrained(folder, max_shard_size=max(_FILE, size // 8))


@dataclass(frozen=True, eq=False)
class _Read:
    """What a model is told by: the digest of its weights, and its logits for a few tokens."""

    digest: str
    logits: Any

    @classmethod
    def of(cls, model: Any) -> _Read:
        import torch

        ids = torch.arange(8)[None] % model.config.get_text_config().vocab_size
        with torch.no_grad():
            return cls(weights_digest(model), model(ids).logits)


def _check_same(folder: Path, own: _Read, tokenizer: Any, title: str) -> None:
    """Compare the written folder with what the GGUF file gave: weights, logits and tokens must be identical."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    again = _Read.of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval())
    tokens = AutoTokenizer.from_pretrained(folder)
    same = torch.allclose(again.logits, own.logits, rtol=0.0, atol=0.0, equal_nan=True)
    if again.digest != own.digest or not same:
        raise FileError(f"Converting {title} changed its weights; this is a fault of veracausa or transformers.")
    for text in _TEXTS:
        if tokens(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise FileError(f"Converting {title} changed its tokenizer; this is a fault of veracausa or transformers.")


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock that the system releases when the process dies; False where the file system has no locks."""
    from filelock import FileLock

    lock = FileLock(path)
    try:
        lock.acquire()
    except (OSError, NotImplementedError):
        yield False  # slower, not wrong: the rename at the end decides
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def _status(line: str) -> Iterator[None]:
    """One line on stderr while something slow runs; on a terminal with a spinner, gone at the end."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(Text(printable(line))):
            yield
    else:
        say(line)
        yield


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the bar of the GGUF reader, which does not listen to transformers' switch."""
    import transformers.modeling_gguf_pytorch_utils as reader

    shown = reader.tqdm
    reader.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        reader.tqdm = shown

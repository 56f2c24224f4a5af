"""The one writer and the readers of result files: whole or absent, data only, and any damage is found.

A file is written beside its place, flushed to the disk and renamed, so that nobody ever sees half of it, and what
stood there before stays until then. Every failure is a `FileError` that says what could not be written, and why.
What a killed process had of a file stays beside its place, and nobody looks at it again: whether its writer still lives
on another machine that shares the folder, no name can say.

Files that are read again are sealed: their header holds a SHA-256 of everything else in them, so that a single changed
bit is found when they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.arguments import kind_and_value, shown
from veracausa.errors import FileError
from veracausa.storage.digests import bytes_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

#: A text cell that begins so is a formula to spreadsheet programs.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SEAL = "checksum"


def at(path: str | os.PathLike[str]) -> Path:
    """The path, with a leading `~` as the user's home.

    Raises:
        FileError: it is no path at all, or one that cannot be looked at: too long a name, a closed folder.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise FileError(f"A file is named by a text or a path, but this is {kind_and_value(path)}.")
    found = Path(path)
    with suppress(RuntimeError):  # a user whom nobody knows: then it is a name like any other
        found = found.expanduser()
    try:
        found.exists()
    except OSError as error:
        raise FileError(f"{shown(str(path))} cannot be reached ({_why(error)}).") from error
    return found


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder for results, with its parents; returns its path.

    Raises:
        FileError: there is a file of that name, or it cannot be written there.
    """
    folder = at(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise FileError(f"{folder} cannot be a folder for results ({_why(error)}). Choose another one.") from error
    return folder


def written(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Let `write` fill a file beside `path`, then rename it; every other writer here goes through this one.

    Raises:
        FileError: the folder or the file cannot be written; what stood at `path` before is untouched.
    """
    path = at(path)
    if not path.name:
        raise FileError(f"{str(path)!r} is a folder; name a file in it.")
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with beside.open("wb"):
            mode = beside.stat().st_mode  # safetensors would make a file that only its owner can read
        write(beside)
        beside.chmod(mode)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())  # the rename must not reach the disk before the data
        os.replace(beside, path)
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} cannot be written ({_why(error)}). Choose another place, or free some space."
        ) from error
    finally:
        with suppress(OSError, ValueError):
            beside.unlink(missing_ok=True)
    return path


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file, whole or not at all; returns its path."""
    return written(path, lambda beside: beside.write_bytes(content))


def write_text(path: str | os.PathLike[str], content: str) -> Path:
    """The same for text, as UTF-8; what UTF-8 cannot hold is written as `?`."""
    return write_bytes(path, content.encode(errors="replace"))


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV, numbers in full; text that a spreadsheet would run as a formula gets an apostrophe before it."""
    plain = frame.rename(columns=_harmless)
    for name in plain.columns:
        if plain[name].dtype.kind not in "biufc":
            plain[name] = plain[name].map(_harmless)
    return str(plain.to_csv(index=False, lineterminator="\n"))


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def keep(write: Callable[[], object]) -> None:
    """Write a finished piece; where that fails it is said, and the computation goes on, as its numbers are there."""
    try:
        write()
    except FileError as error:
        warnings.warn(f"A finished piece is not kept: {error} The computation goes on.", stacklevel=2)


def write_tensors(
    path: str | os.PathLike[str], kind: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Path:
    """Write tensors and a JSON header as a sealed safetensors file of this kind."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    dense = _apart(tensors)
    text = json.dumps(header)
    metadata = {"format": kind, "veracausa": text, _SEAL: _seal(kind, text, dense)}

    def write(beside: Path) -> None:
        try:
            save_file(dense, beside, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    return written(path, write)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, whole and on the CPU; those that share memory, which safetensors refuses, each by itself."""
    made: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        made[name] = one.clone() if one.untyped_storage().data_ptr() in taken else one
        taken.add(one.untyped_storage().data_ptr())
    return made


def read_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file that `write_tensors` wrote, whoever replaces it meanwhile.

    Raises:
        FileError: there is no such file, it is damaged or cut short, or it is of another kind.
    """
    path = at(path)
    _require_file(path)
    before = _state(path)
    try:
        return _read(path, kind)
    except FileError:
        # safetensors opens a file twice, for its header and for its tensors: they may be of two states of it
        if _state(path) == before:
            raise
    return _read(path, kind)


def _state(path: Path) -> tuple[int, int, int]:
    """What differs between a file and the one that was put in its place; of one that is gone: nothing."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors, as they are now."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                raise FileError(
                    f"{path} is not a {kind} file (its header says {metadata.get('format')!r}). "
                    "Was it written by another program, by another call, or by another version?"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["veracausa"]
        if metadata[_SEAL] != _seal(kind, text, tensors):
            raise ValueError("its checksum does not fit its content")
        header = json.loads(text)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise FileError(f"{path} is damaged or cut short ({error}). Delete it and compute it again.") from error
    if not isinstance(header, dict):
        raise FileError(f"{path} is damaged: its header is no object. Delete it and compute it again.")
    return header, tensors


def format_of(path: str | os.PathLike[str]) -> str:
    """What a safetensors or JSON file says it is; "" where it says nothing.

    Raises:
        FileError: there is no such file, or it is neither, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = at(path)
    _require_file(path)
    try:
        with path.open("rb") as file:
            if file.read(1) == b"{":
                return str(read_json(path, "a result", sealed=False).get("format", ""))
        with safe_open(path, framework="pt") as tensors:
            return str((tensors.metadata() or {}).get("format", ""))
    except (SafetensorError, ValueError, OSError) as error:
        raise FileError(f"{path} is no result of veracausa's, or is damaged or cut short ({error}).") from error


def _seal(kind: str, text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a header and of the names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256(f"{kind}\n{text}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(bytes_of(tensor).numpy().data)
    return digest.hexdigest()


def write_json(path: str | os.PathLike[str], body: Mapping[str, Any]) -> Path:
    """Write an object as a sealed JSON file."""
    return write_text(path, json.dumps({**body, _SEAL: json_seal(body)}, indent=1, ensure_ascii=False))


def json_seal(body: Mapping[str, Any]) -> str:
    """SHA-256 of an object, whatever the order of its keys and the spaces between them."""
    plain = json.loads(json.dumps({key: value for key, value in body.items() if key != _SEAL}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_json(path: str | os.PathLike[str], kind: str, *, sealed: bool = True) -> dict[str, Any]:
    """The object in a JSON file; `kind` says in messages what it should have been, `sealed`: `write_json` wrote it.

    Raises:
        FileError: no such file, cut short, no JSON, no object, or changed since it was written.
    """
    path = at(path)
    _require_file(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise FileError(f"{path} is damaged or cut short ({error}). Write or copy it again.") from error
    if not isinstance(found, dict):
        raise FileError(f"{path} is not {kind}: it holds a {type(found).__name__}.")
    if sealed:
        require_seal(found, path, kind)
    return found


def require_seal(body: Mapping[str, Any], path: Path, kind: str) -> None:
    """Raise FileError unless an object's checksum is that of its content."""
    if _SEAL not in body:
        raise FileError(f"{path} is not {kind} that this version of veracausa wrote: it has no checksum.")
    try:
        fits = body[_SEAL] == json_seal(body)
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        raise FileError(f"{path} is damaged, or was changed after it was written: its checksum does not fit it.")


def _require_file(path: Path) -> None:
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name that the system cannot have
        there = False
    if not there:
        raise FileError(f"There is no file {path}.")

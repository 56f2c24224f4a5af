"""Files that are whole or absent: written beside their place, then renamed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from veracausa.errors import FileError


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file so that nobody ever sees half of it; returns its path."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}. Choose another folder.") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return path


def write_text(path: Path, content: str) -> Path:
    """The same for text, as UTF-8."""
    return write_bytes(path, content.encode())

"""A GGUF file is read once while transformers takes a model from it, and what is taken lies in files, not in memory.

transformers opens the file for the tokenizer, for the config and for the weights, and each time every word of the
vocabulary is read through numpy's memory map; its table of names is made anew for every module. Inside `read_once`
both are done once, and the file is seen as a plain array. The numbers are the same, since gguf's own code reads them.

Inside `laid_in` each large tensor that transformers has dequantised is written to a file of its own and mapped from it,
so that one of them at a time takes memory that the system cannot have back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from veracausa.errors import FileError

#: Tensors of fewer bytes stay in memory.
_LARGE = 1 << 20


@contextmanager
def read_once() -> Iterator[None]:
    """Let gguf's reader and its table of names answer again what they have answered; gguf's own are back after."""
    import gguf

    opened = cache(_plain(gguf.GGUFReader))
    quick = {
        "GGUFReader": lambda path: opened(str(path)),
        "get_tensor_name_map": cache(gguf.get_tensor_name_map),
    }
    own = {name: getattr(gguf, name) for name in quick}
    try:
        for name, one in quick.items():
            setattr(gguf, name, one)
        yield
    finally:
        for name, one in own.items():
            setattr(gguf, name, one)


def _plain(reader: type) -> type:
    """The reader with a plain array: every slice of a memory map costs as much as three of those."""
    import numpy as np

    class Plain(reader):
        @property
        def data(self) -> Any:
            return self.mapped

        @data.setter
        def data(self, mapped: Any) -> None:
            self.mapped = np.asarray(mapped)

    return Plain


@contextmanager
def laid_in(folder: Path) -> Iterator[None]:
    """Let what transformers copies of a GGUF file's tensors lie in files of a folder, which nobody else sees.

    The files have no name any more where a system allows that: they are gone when the tensors are.
    """
    reader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    own = reader.np
    reader.np = _Laying(folder)
    try:
        yield
    finally:
        reader.np = own


class _Laying:
    """numpy, but for `copy`, which is transformers' last step before a tensor is made."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def __getattr__(self, name: str) -> Any:
        import numpy as np

        return getattr(np, name)

    def copy(self, array: Any) -> Any:
        """The same numbers, in a file.

        Raises:
            FileError: it cannot be written.
        """
        import numpy as np

        if array.nbytes < _LARGE:
            return np.copy(array)
        path, self._count = self._folder / str(self._count), self._count + 1
        try:
            path.write_bytes(np.ascontiguousarray(array).data)
        except OSError as error:
            raise FileError(
                f"{path} cannot be written ({error.strerror}): a GGUF file's weights are laid there while it is "
                "converted. Free some space (twice the weights in float32), or set VERACAUSA_CACHE to a folder on "
                "another disk."
            ) from error
        mapped = np.memmap(path, array.dtype, "c", shape=array.shape)
        with suppress(OSError):
            path.unlink()
        return mapped

"""A GGUF file is read once while transformers takes a model from it, and what is taken lies in files, not in memory.

transformers opens the file for the tokenizer, for the config and for the weights, and each time every word of the
vocabulary is read through numpy's memory map; its table of names is made anew for every module. Inside `read_once`
both are done once, and the file is seen as a plain array. The numbers are the same, since gguf's own code reads them.

Inside `laid_in` each large tensor that transformers has dequantised is written to a file of its own and mapped from it,
so that one of them at a time takes memory that the system cannot have back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from mmap import mmap
from pathlib import Path
from typing import Any

from veracausa.errors import FileError

#: Tensors of fewer bytes stay in memory.
_LARGE = 1 << 20
#: Bytes of blocks that are dequantised at once, about.
_PIECE = 1 << 22
#: What is told of each word, and is for the tokenizer alone.
_OF_WORDS = tuple(f"tokenizer.ggml.{name}" for name in ("scores", "token_type", "merges"))


@contextmanager
def read_once() -> Iterator[Callable[[], None]]:
    """Let gguf's reader and its table of names answer again what they have answered; gguf's own are back after.

    Gives what lets go of all that only a tokenizer needs: a million small arrays, where there are 262,144 words.
    """
    import gguf

    kind, readers = _plain(gguf.GGUFReader), dict[str, Any]()

    def opened(path: Any) -> Any:
        if str(path) not in readers:
            readers[str(path)] = kind(str(path))
        return readers[str(path)]

    def forget() -> None:
        for field in (
            reader.fields[name] for reader in readers.values() for name in _OF_WORDS if name in reader.fields
        ):
            field.parts.clear()
            field.data.clear()

    quick = {
        "GGUFReader": opened,
        "get_tensor_name_map": cache(gguf.get_tensor_name_map),
    }
    own = {name: getattr(gguf, name) for name in quick}
    try:
        for name, one in quick.items():
            setattr(gguf, name, one)
        yield forget
    finally:
        readers.clear()
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
    """Let what transformers takes of a GGUF file's tensors lie in files of a folder, which nobody else sees.

    The files have no name any more where a system allows that: they are gone when the tensors are.
    """
    gguf: Any = import_module("gguf")
    reader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    own = reader.np, gguf.dequantize
    laying = _Laying(folder, gguf)
    reader.np, gguf.dequantize = laying, laying.dequantize
    try:
        yield
    finally:
        reader.np, gguf.dequantize = own


class _Laying:
    """numpy, but for `copy`, which is transformers' last step before a tensor is made; and `dequantize`, its first."""

    def __init__(self, folder: Path, gguf: Any) -> None:
        self._folder, self._count = folder, 0
        self._own, self._plain = gguf.dequantize, gguf.GGMLQuantizationType.F32

    def __getattr__(self, name: str) -> Any:
        import numpy as np

        return getattr(np, name)

    def dequantize(self, data: Any, kind: Any) -> Any:
        """A tensor's values, told of some of its rows at a time.

        Raises:
            FileError: they cannot be written.
        """
        if data.nbytes < _LARGE or kind == self._plain:
            return self._own(data, kind)
        rows = max(1, _PIECE * len(data) // data.nbytes)
        return self._laid(self._own(data[first : first + rows], kind) for first in range(0, len(data), rows))

    def copy(self, array: Any) -> Any:
        """The same numbers, in a file; themselves where they are a file's already.

        Raises:
            FileError: they cannot be written.
        """
        import numpy as np

        if array.nbytes < _LARGE:
            return np.copy(array)
        if type(array) is np.memmap and isinstance(array.base, mmap) and Path(array.filename).parent == self._folder:
            return array
        return self._laid([array])

    def _laid(self, pieces: Iterable[Any]) -> Any:
        import numpy as np

        path, self._count = self._folder / str(self._count), self._count + 1
        rows = 0
        try:
            with path.open("wb") as file:
                for piece in pieces:
                    file.write(np.ascontiguousarray(piece).data)
                    rows += len(piece)
        except OSError as error:
            raise FileError(
                f"{path} cannot be written ({error.strerror}): a GGUF file's weights are laid there while it is "
                "converted. Free some space (twice the weights in float32), or set VERACAUSA_CACHE to a folder on "
                "another disk."
            ) from error
        mapped = np.memmap(path, piece.dtype, "c", shape=(rows, *piece.shape[1:]))
        with suppress(OSError):
            path.unlink()
        return mapped

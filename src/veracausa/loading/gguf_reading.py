"""A GGUF file is read once while transformers takes a model from it.

transformers opens the file for the tokenizer, for the config and for the weights, and each time every word of the
vocabulary is read through numpy's memory map; its table of names is made anew for every module. Inside `read_once`
both are done once, and the file is seen as a plain array. The numbers are the same, since gguf's own code reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


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

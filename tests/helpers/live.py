"""How many bytes of tensors are alive at once while something runs, whatever the allocator does."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Bytes of storages made inside and not freed yet (`now`), and the most that there were (`peak`).

    What an operation needs for itself alone is not seen.

    >>> with LiveBytes() as live:
    ...     vc.exact(lm, task)
    >>> live.peak
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; count what it has made."""
        for one in tree_iter((args, kwargs or {})):
            if isinstance(one, Tensor):
                self._see(one, 0)
        found = func(*args, **(kwargs or {}))
        for one in tree_iter(found):
            if isinstance(one, Tensor):
                self._see(one, one.untyped_storage().nbytes())
        return found

    def _see(self, one: Tensor, size: int) -> None:
        storage = one.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        self._known.add(key)
        weakref.finalize(storage, self._forget, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

"""Two devices on a machine that has one: "cpu:0" and "cpu:1", whose tensors may not meet in one operation.

torch takes both names for the CPU. Under `two_devices` every tensor is remembered with the name that it was brought
to or made on, and what an operation makes is where its inputs are; one that is given both raises. Tensors without a
name (made without a device) go with any. Scalars may be anywhere, as on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class two_devices(TorchDispatchMode):
    """`with two_devices(): …`; `moved`: how many tensors went from one to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.named: dict[int, str] = {}
        self.kept: list[object] = []  # storages, so that no address is given out again
        self.moved = 0

    def place(self, tensor: Tensor, device: str) -> None:
        self.kept.append(storage := tensor.untyped_storage())
        if storage.data_ptr():  # an empty one lies nowhere
            self.named[storage.data_ptr()] = device

    def of(self, tensor: Tensor) -> str | None:
        return self.named.get(tensor.untyped_storage().data_ptr())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        here = {self.of(one) for one in given if one.ndim and one.numel()} - {None}
        asked = kwargs.get("device")
        to = str(asked) if asked is not None and asked.type == "cpu" and asked.index is not None else None
        backward = torch._C._current_graph_task_id() != -1  # autograd sees one device, and brings no gradient back
        if to is None and len(here) > 1 and func is not torch.ops.aten.copy_.default and not backward:
            raise RuntimeError(f"{func} is given tensors on {', '.join(sorted(here))}")
        output = func(*args, **kwargs)
        self.moved += bool(to and here and here != {to})
        own = {one.untyped_storage().data_ptr() for one in given}
        for one in tree_leaves(output):
            if not isinstance(one, Tensor) or one.untyped_storage().data_ptr() in own:
                continue  # a view, or changed in place
            name = to or next(iter(here), None)
            if name is not None and not backward:
                self.place(one, name)
        return output

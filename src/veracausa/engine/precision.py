"""In which precision a model computes, whatever its weights are in.

Hugging Face's RMS norms, and the softmax of its eager attention, turn a float64 tensor into float32 and back. A float64
model with them is a function of float32 precision: the same numbers computed in another order differ by 1e-7, not by
1e-16. Which parts do so is seen by watching every operation of one short run: a part that is given float64 and
makes float32 of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from veracausa.anatomy import Decoder
from veracausa.placed import home_of


@dataclass(frozen=True)
class Precision:
    """`dtype`: that of the coarsest part. `parts`: kinds of parts that compute more coarsely than the weights are."""

    dtype: torch.dtype
    parts: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say with results of such a model: nothing, if all is computed in the weights' precision."""
        if not self.parts:
            return ()
        return (
            f"the weights are float64, but Hugging Face computes this model's {' and '.join(self.parts)} in float32, "
            "so these numbers have the precision of float32",
        )


@torch.no_grad()
def found_out(decoder: Decoder) -> Precision:
    """The precision of a model, found out by a run of two tokens where its weights are float64."""
    own = next(decoder.hf.parameters())
    if own.dtype != torch.float64:
        return Precision(own.dtype)
    watched = _Watch()
    tokens = torch.zeros(1, 2, dtype=torch.long, device=home_of(decoder.hf))
    with _inside(decoder, watched), watched, suppress(Exception):  # what fails here fails in the run itself, in words
        decoder.backbone(tokens, use_cache=False)
    coarse = (*watched.coarse, *(("residual stream",) if any(b.float32_stream for b in decoder.blocks) else ()))
    return Precision(torch.float32, coarse) if coarse else Precision(torch.float64)


class _Watch(TorchDispatchMode):
    """Writes down in which part an operation is given float64 and makes float32."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.coarse: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        new = self.inside and self.inside[-1] not in self.coarse
        if new and _any(torch.float32, output) and _any(torch.float64, (args, kwargs)):
            self.coarse[self.inside[-1]] = None
        return output


def _any(dtype: torch.dtype, given: Any) -> bool:
    """Whether there is a tensor of a type among an operation's arguments or outputs."""
    if isinstance(given, Tensor):  # most often, and much faster told than by walking a tree of one leaf
        return given.dtype == dtype
    return any(isinstance(one, Tensor) and one.dtype == dtype for one in tree_leaves(given))


@contextmanager
def _inside(decoder: Decoder, watched: _Watch) -> Iterator[None]:
    """Let the watch know which part is running: a norm within an attention is a norm."""
    parts: dict[nn.Module, str] = dict.fromkeys(decoder.norms, "norms")
    for block in decoder.blocks:
        parts |= {one.attention: "mixers" if one.mixing == "mixer" else "attention" for one in block.mixers}
        parts |= dict.fromkeys(block.mlp_modules, "MLPs")

    def enter(part: nn.Module, _: Any) -> None:
        watched.inside.append(parts[part])

    def leave(*_: Any) -> None:
        watched.inside.pop()

    handles = [part.register_forward_pre_hook(enter) for part in parts]
    handles += [part.register_forward_hook(leave) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Compiled modules run as they are written while the model is borrowed.

Hooks that are set after a module was compiled do not fire inside it, and torch does not say so: a patch would change
nothing. `module.compile()` and `module.forward = torch.compile(module.forward)` both leave the plain function at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def uncompiled(hf: nn.Module) -> Iterator[None]:
    """Set aside what was compiled in place, in the model and its parts; the very objects are put back after."""
    before = [(module, name, vars(module)[name]) for module in hf.modules() for name in _compiled(module)]
    try:
        for module, name, found in before:
            vars(module)[name] = None if name == "_compiled_call_impl" else _plain(found)
        yield
    finally:
        for module, name, found in before:
            vars(module)[name] = found


def _compiled(module: nn.Module) -> list[str]:
    """Names of a module's own attributes that hold something compiled."""
    own = vars(module)
    names = ["_compiled_call_impl"] if own.get("_compiled_call_impl") is not None else []
    return [*names, "forward"] if _plain(own.get("forward")) is not None else names


def _plain(function: Any) -> Any:
    """The function that was compiled; None if it was not."""
    return getattr(function, "_torchdynamo_orig_callable", None)

"""Modules as the user left them: their own forward and hooks, without what veracausa has put on them since.

A call watches and replaces modules by hooks of its own. What a module computes (its linear map, its norm) must be asked
of the module without those, but with the user's: an adapter, a scaling or a steering hook is a part of the model. So
`Found.kept` writes down, when a call begins, how each part of a model is, and `Found.run` runs a part like that.

A user's forward *pre*-hooks stand before what is recorded as a part's input, so a part alone is run without them; a
projection reads the output of a norm, so there they count (`before=True`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from veracausa.placed import home_of, replaced

_AFTER = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
_BEFORE = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")


class Found:
    """How the parts of a model (`hf`) were when a call began; empty outside of calls: parts are as they are now."""

    def __init__(self, hf: Any = None) -> None:
        self._hf = hf
        self._states: dict[nn.Module, dict[str, Any]] = {}
        #: What was read off the parts in this call (linear maps, norms), by whom and which part.
        self.read: dict[Any, Any] = {}

    @property
    def home(self) -> torch.device | None:
        """Where what is read off a part belongs (`placed`); None: where the part lies. It is asked once in a call."""
        if self._hf is None or not self._states:
            return None if self._hf is None else home_of(self._hf)
        if "home" not in self.read:
            self.read["home"] = home_of(self._hf)
        return self.read["home"]

    @property
    def like(self) -> Tensor:
        """A weight of the type that the model computes in: its first one, of the embeddings."""
        first: Tensor = next(self._hf.parameters())
        return first

    @contextmanager
    def kept(self, parts: Callable[[], Iterable[nn.Module]]) -> Iterator[None]:
        """Write down how these parts are, for the time of a call; a call inside of another one changes nothing."""
        if self._states:
            yield
            return
        self._states, self.read = {part: _state_of(part) for part in parts()}, {}
        try:
            yield
        finally:
            self._states, self.read = {}, {}

    def given(self, part: nn.Module, x: Tensor) -> Tensor:
        """What a part is given when it is called with x: its pre-hooks' doing."""
        state, args = self._of(part), (x,)
        for number, hook in state[_BEFORE[0]].items():
            with_kwargs = number in state[_BEFORE[1]]
            found = hook(part, args, {}) if with_kwargs else hook(part, args)
            if found is not None:
                found = found[0] if with_kwargs else found
                args = found if isinstance(found, tuple) else (found,)
        return args[0]

    def untouched(self, part: nn.Module) -> bool:
        """Whether a part has no hooks and its class's own forward, wherever Accelerate places that."""
        state = self._of(part)
        return not (state[_AFTER[0]] or state[_BEFORE[0]] or replaced(part, state["forward"]))

    def run(self, part: nn.Module, *inputs: Tensor, before: bool = False) -> Any:
        """The part's output as the user left it; `before`: its pre-hooks run, too."""
        state = self._of(part)
        if not before:
            state = state | {name: {} for name in _BEFORE}
        with _as(part, state):
            return part(*inputs)

    def remembered(self, what: str, part: nn.Module, make: Callable[[], Any]) -> Any:
        """What `make` reads off a part, once in a call (outside of calls each time)."""
        if not self._states:
            return make()
        if (what, part) not in self.read:
            self.read[what, part] = make()
        return self.read[what, part]

    @contextmanager
    def standing_in(self, functions: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """Let functions stand in for what parts make of their input: forward and the user's forward hooks.

        Hooks that were put on since the call began still see the function's output.
        """
        own = [(part, _current(part)) for part in functions]
        try:
            for part, function in functions.items():
                theirs = self._states[part][_AFTER[0]] if part in self._states else {}
                hooks = part._forward_hooks
                part.__dict__["_forward_hooks"] = type(hooks)((n, h) for n, h in hooks.items() if n not in theirs)
                part.__dict__["forward"] = function
            yield
        finally:
            for part, state in own:
                _put(part, state)

    def _of(self, part: nn.Module) -> dict[str, Any]:
        return self._states[part] if part in self._states else _state_of(part)


def _current(part: nn.Module) -> dict[str, Any]:
    """A part's own hook dictionaries, and its forward if that is not its class's."""
    return {name: part.__dict__[name] for name in (*_AFTER, *_BEFORE)} | {"forward": part.__dict__.get("forward")}


def _state_of(part: nn.Module) -> dict[str, Any]:
    return {name: value.copy() if name != "forward" else value for name, value in _current(part).items()}


def _put(part: nn.Module, state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        if name == "forward" and value is None:
            part.__dict__.pop("forward", None)
        else:
            part.__dict__[name] = value


@contextmanager
def _as(part: nn.Module, state: Mapping[str, Any]) -> Iterator[None]:
    """The part in another state inside."""
    own = _current(part)
    try:
        _put(part, state)
        yield
    finally:
        _put(part, own)

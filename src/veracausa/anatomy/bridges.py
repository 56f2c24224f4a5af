"""Bridges: how attention modules that choose no attention function by name are led to one.

Most families' attention modules hand queries, keys and values to the function that their config names. Others compute
scores and softmax themselves. While one of our attention functions is in force (`engine.guard.attention_function`), a
bridge stands in for the forward of such a module: the module's own parts and helpers make queries, keys and values,
the function mixes them, and the module's own output projection writes. Bare runs, which ours are compared with, are
those of the module as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import Tensor, nn

#: Keyword arguments that are for our attention functions alone.
OURS = ("past", "rule", "keep", "change", "look", "expand")


@dataclass(frozen=True, eq=False)
class Attend:
    """`attend(query, key, value, **settings)` gives heads' values, [rows, positions, heads, head_dim].

    `name`: the attention function's; `ours`: what it is given for us, see `OURS`.
    """

    module: Any
    name: str
    function: Callable[..., Any]
    ours: Mapping[str, Any]

    @property
    def before(self) -> int:
        """Positions whose keys and values are put before the module's own."""
        past = self.ours.get("past")
        return 0 if past is None else int(past.keys.shape[2])

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        """See the class."""
        output: Tensor = self.function(self.module, query, key, value, None, **settings, **self.ours)[0]
        return output


#: `bridge(module, attend, own, *args, **kwargs)`, called as the module is; `own`: the forward in whose place it stands.
Bridge = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Bridged:
    """The forward of an attention module while it attends by the function called `function`.

    `own`: a forward that the module had been given before, in the place of its class's.
    """

    module: Any
    bridge: Bridge
    function: str
    own: Callable[..., Any] | None

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What the module's forward gives."""
        from transformers.modeling_utils import (
            ALL_ATTENTION_FUNCTIONS,  # late: families are named before a model is here
        )

        ours = {name: kwargs.pop(name) for name in OURS if name in kwargs}
        attend = Attend(self.module, self.function, ALL_ATTENTION_FUNCTIONS[self.function], ours)
        own = self.own or MethodType(type(self.module).forward, self.module)
        return self.bridge(self.module, attend, own, *args, **kwargs)


def bridged(module: nn.Module) -> Bridged | None:
    """The bridge that stands in for a module's forward now, if one does."""
    forward = vars(module).get("forward")
    return forward if isinstance(forward, Bridged) else None


def lay(module: nn.Module, bridge: Bridge, function: str) -> None:
    """Let a bridge to the attention function of this name stand in for a module's forward."""
    take_away(module)
    vars(module)["forward"] = Bridged(module, bridge, function, vars(module).get("forward"))


def take_away(module: nn.Module) -> None:
    """Give a module its own forward back; nothing to do where no bridge stands."""
    if (there := bridged(module)) is None:
        return
    if there.own is None:
        vars(module).pop("forward", None)
    else:
        vars(module)["forward"] = there.own

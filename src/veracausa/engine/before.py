"""What of the user's model a call could leave changed, written down before anything is touched, and put back.

`restore` changes nothing that is as it was, so it can be repeated after an interrupt (`insist`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Larger buffers are not a rotary embedding's; of them only the tensor itself is put back.
_LARGE = 1 << 22

#: Settings that a call sets: our attention function, and outputs with names and keys and values in them.
_SET = ("_attn_implementation", "return_dict", "use_cache")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_ABSENT = object()
#: Attributes in which recurrences keep the state that their last run came to, for one that goes on from it.
STATES = ("conv1d_state", "recurrent_states")


@dataclass(frozen=True, eq=False)
class Kept:
    """What modules without parameters hold beside them: buffers and plain attributes.

    Rotary embeddings that depend on the prompt's length keep there what they were last asked for, and answer the next
    prompt accordingly.
    """

    attributes: list[tuple[nn.Module, dict[str, Any]]]
    buffers: list[tuple[nn.Module, dict[str, tuple[Tensor, Tensor | None]]]]

    @classmethod
    def of(cls, hf: nn.Module) -> Kept:
        """What the modules hold now."""
        modules = [m for m in hf.modules() if m._buffers and not m._parameters and not m._modules]
        return cls(
            [(m, {k: v for k, v in vars(m).items() if not k.startswith("_") and k != "training"}) for m in modules],
            [(m, {k: (b, _value(b)) for k, b in m._buffers.items() if b is not None}) for m in modules],
        )

    def restore(self) -> None:
        """Put everything back, the very tensors with their values."""
        for module, attributes in self.attributes:
            now = vars(module)
            for name in [k for k in now if not k.startswith("_") and k != "training" and k not in attributes]:
                del now[name]
            now.update(attributes)
        for module, buffers in self.buffers:
            for name, (buffer, value) in buffers.items():
                module._buffers[name] = buffer
                if value is not None and not torch.equal(buffer, value):
                    buffer.copy_(value)


def _value(buffer: Tensor) -> Tensor | None:
    return buffer.clone() if buffer.is_floating_point() and buffer.numel() < _LARGE else None


@dataclass(frozen=True, eq=False)
class Before:
    """A model as it was when a call began: modes, gradients, hooks, stand-ins, settings, and what modules keep."""

    training: list[nn.Module]
    trainable: list[tuple[nn.Module, str]]
    hooks: list[tuple[nn.Module, str, dict[int, Any], frozenset[int]]]
    forwards: list[tuple[nn.Module, Any]]
    settings: list[tuple[Any, dict[str, Any]]]
    kept: Kept
    states: list[tuple[nn.Module, dict[str, Any]]]

    @classmethod
    def of(cls, hf: nn.Module) -> Before:
        """What there is now."""
        modules = list(hf.modules())
        configs = {id(m.config): m.config for m in modules if hasattr(getattr(m, "config", None), "to_dict")}
        return cls(
            [m for m in modules if m.training],
            [(m, name) for m in modules for name, p in m.named_parameters(recurse=False) if p.requires_grad],
            [(m, name, (held := getattr(m, name)), frozenset(held)) for m in modules for name in _HOOKS],
            [(m, m.__dict__.get("forward", _ABSENT)) for m in modules],
            [(c, {name: getattr(c, name) for name in _SET if hasattr(c, name)}) for c in configs.values()],
            Kept.of(hf),
            [(m, own) for m in modules if (own := {name: vars(m)[name] for name in STATES if name in vars(m)})],
        )

    def lend(self, hf: nn.Module) -> None:
        """Evaluation mode, frozen parameters, and outputs with names whatever the user's settings say."""
        if self.training:
            hf.eval()
        self._train(False)
        for config, before in self.settings:
            for name in ("return_dict", "use_cache"):
                if name in before and before[name] is not True:
                    setattr(config, name, True)

    def restore(self, *, failed: bool) -> None:
        """Put everything back; after a failure hooks that were set but never entered go, too."""
        self._train(True)
        for module in self.training:
            module.training = True
        for config, before in self.settings:
            for name, value in before.items():
                if getattr(config, name) is not value:
                    setattr(config, name, value)
        self.kept.restore()
        for module, states in self.states:
            vars(module).update(states)
        if not failed:
            return
        for module, name, held, before_us in self.hooks:
            module.__dict__[name] = held
            for handle in [handle for handle in held if handle not in before_us]:
                del held[handle]
        for module, forward in self.forwards:
            if forward is _ABSENT:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward

    def _train(self, whether: bool) -> None:
        for module, name in self.trainable:  # by name: where weights are offloaded, every forward makes new parameters
            getattr(module, name).requires_grad_(whether)

    def attention(self) -> list[tuple[Any, str]]:
        """(config, name of the attention function) as the user has them."""
        return [(c, before["_attn_implementation"]) for c, before in self.settings if "_attn_implementation" in before]


def insist(action: Callable[[], None]) -> None:
    """Do something that may be repeated, to its end: an interrupt in between begins it again and is raised after."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            action()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt

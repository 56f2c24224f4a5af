"""Where a model's weights lie, and where it computes: on one device, or as Accelerate has placed it.

Accelerate (`device_map`, `cpu_offload`, `disk_offload`) replaces the forward of modules by one that brings inputs to
where a module computes, and fetches weights that are kept elsewhere for the time of that forward. What a module
computes is the same, so such a forward counts as the module's own (`replaced`), and a weight is asked for here
(`weight_of`), not from the module, where an offloaded one is a name without values.

Home is where the embeddings compute. Inside of a call (`at_home`) every module that holds weights gives its output
back there: only products with weights are made elsewhere, and everything between them, patches included, at home.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from veracausa.errors import DeviceError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

#: What Accelerate adds to a module beside its hook.
ADDED = frozenset({"_hf_hook", "_old_forward", "hf_device_map", "to", "cuda", "npu", "xpu", "mlu", "sdaa", "musa"})


def home_of(hf: Any) -> torch.device:
    """Where a model's first weights, the embeddings, compute: in a call the residual stream is there."""
    first, weight = next((m, p) for m in hf.modules() for p in m.parameters(recurse=False))
    return runs_on(first) or weight.device


def runs_on(module: nn.Module) -> torch.device | None:
    """Where Accelerate lets a module compute; None if it does not say."""
    import torch

    devices = [hook.execution_device for hook in _placings(module) if hook.execution_device is not None]
    if not devices:
        return None
    found = torch.device("cuda", devices[-1]) if isinstance(devices[-1], int) else torch.device(devices[-1])
    return torch.empty(0, device=found).device if found.index is None else found  # "cuda" is one with a number


def replaced(module: nn.Module, forward: Any) -> Any:
    """What stands for the class's own forward in a module whose instance has `forward`; None if nothing does.

    Accelerate's forward that only places is looked through.
    """
    hook, before = vars(module).get("_hf_hook"), vars(module).get("_old_forward")
    if hook is None or getattr(getattr(forward, "func", None), "__module__", "") != type(hook).__module__:
        return forward
    if len(_placings(module)) < len(getattr(hook, "hooks", (hook,))):
        return forward
    return None if getattr(before, "__func__", None) is type(module).forward else before


def weight_of(module: nn.Module, name: str = "weight", device: torch.device | None = None) -> Tensor | None:
    """A weight of a module with its values, on a device (default: where it lies); None if there is none."""
    found: Tensor | None = getattr(module, name)
    if found is not None and found.is_meta:
        found = _kept_elsewhere(module, name)
    return found if found is None or device is None else found.to(device)


def stored(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a model would save: names and values, those that are offloaded fetched one by one."""
    for name, value in model.state_dict().items():
        where, _, own = name.rpartition(".")
        yield name, _kept_elsewhere(model.get_submodule(where), own) if getattr(value, "is_meta", False) else value


def require_placed(hf: Any) -> None:
    """Check that every weight has values, and that a model on several devices runs there by itself.

    Raises:
        DeviceError: naming the first module where it does not.
    """
    home = home_of(hf)
    for name, module in hf.named_modules():
        for own, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            runs = runs_on(module)
            if tensor.is_meta and not any(hook.offload for hook in _placings(module)):
                raise DeviceError(
                    f"{name}.{own} is on no device ('meta'): the model was not loaded whole. Load it with its weights "
                    "(nnsight: dispatch=True), or let Accelerate offload them (device_map, cpu_offload, disk_offload)."
                )
            if runs is None and tensor.device != home:
                raise DeviceError(
                    f"{name}.{own} lies on {tensor.device}, the embeddings on {home}, and nothing moves what goes from "
                    "one to the other. Load the model with a device_map, which does, or on one device."
                )
            if runs not in (None, home) and not _holds_alone(module):
                raise DeviceError(
                    f"{name} computes on {runs} with {own}, which is its own, and with parts that have weights: such a "
                    f"module must be where the embeddings are, on {home}. Give it that place in the device_map."
                )


@contextmanager
def at_home(hf: Any) -> Iterator[None]:
    """Every module with weights gives its output back at home; Accelerate's hooks are as they were after."""
    home, before = home_of(hf), []
    if any(runs_on(module) not in (None, home) for module in hf.modules()):
        before = [(module, hook, vars(hook).copy()) for module in hf.modules() for hook in _placings(module)]
    try:
        for module, hook, _ in before:
            if _holds_alone(module):
                hook.io_same_device = True
            elif hook.execution_device is not None:
                hook.execution_device = home
        yield
    finally:
        for _, hook, was in before:
            hook.execution_device, hook.io_same_device = was["execution_device"], was["io_same_device"]


def _placings(module: nn.Module) -> list[Any]:
    """The hooks of Accelerate on a module that bring inputs and weights to one device."""
    hook = vars(module).get("_hf_hook")
    hooks = () if hook is None else getattr(hook, "hooks", (hook,))
    return [one for one in hooks if type(one).__name__ == "AlignDevicesHook"]


def _holds_alone(module: nn.Module) -> bool:
    """Whether a module has weights and no part of it has any."""
    inner = (*module.parameters(), *module.buffers())
    return bool(inner) and len(inner) == len((*module.parameters(recurse=False), *module.buffers(recurse=False)))


def _kept_elsewhere(module: nn.Module, name: str) -> Tensor:
    for hook in _placings(module):
        if hook.weights_map is not None:
            found: Tensor = hook.weights_map[name]
            return found
    raise DeviceError(f"The {name} of a {type(module).__name__} is on no device ('meta'). Load the model whole.")

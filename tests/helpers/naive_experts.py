"""Experts by whole runs of the plain Hugging Face model: what each adds is had by calling the experts with the routing
weights of all others at zero. Nothing here knows veracausa."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def mixtures(model) -> dict[int, torch.nn.Module]:
    """Layer → the MLP, where it is made of experts."""
    return {i: block.mlp for i, block in enumerate(model.model.layers) if hasattr(block.mlp, "experts")}


def router(mlp) -> torch.nn.Module:
    """What chooses."""
    return mlp.gate if hasattr(mlp, "gate") else mlp.router


def logits(model, ids: Sequence[int], *handles: Callable[[], object]) -> Tensor:
    """Logits of the last position, with hooks that `handles` put on."""
    with ExitStack() as stack, torch.no_grad():
        for put in handles:
            stack.callback(put().remove)
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1]


def metric(model, ids: Sequence[int], pair, *handles) -> float:
    """Logit of the correct answer minus that of the incorrect one."""
    found = logits(model, ids, *handles)
    return float(found[pair.correct] - found[pair.incorrect])


def alone(mlp, args: Sequence[Tensor], expert: int) -> Tensor:
    """What one expert adds to the experts' sum, [positions, width], for the arguments of a call of them."""
    hidden, choice, weights = args
    return mlp.experts(hidden, choice, weights * (choice == expert))


def neuron(mlp, args: Sequence[Tensor], expert: int, index: int) -> tuple[Tensor, Tensor]:
    """What a neuron of an expert adds, [positions, width], by taking it out of the down projection; and the weights."""
    down, whole = mlp.experts.down_proj, alone(mlp, args, expert)
    column = down.data[expert, index] if getattr(mlp.experts, "is_transposed", False) else down.data[expert, :, index]
    kept = column.clone()
    column.zero_()
    found = whole - alone(mlp, args, expert)
    column.copy_(kept)
    return found, (args[2] * (args[1] == expert)).sum(-1, keepdim=True)


def neuron_change(mlp, clean: Sequence[Tensor], other: Sequence[Tensor], expert: int, index: int) -> Tensor:
    """What its activation of the other run (0 where that does not choose the expert) changes, under clean weights."""
    (own, weight), (new, its) = (neuron(mlp, args, expert, index) for args in (clean, other))
    return torch.where(its != 0, new * weight / torch.where(its != 0, its, 1), 0) - own


def at_weight_one(mlp, args: Sequence[Tensor], expert: int, index: int) -> Tensor:
    """What a neuron of an expert would add at a routing weight of 1; 0 where the expert is not chosen."""
    found, weight = neuron(mlp, args, expert, index)
    return torch.where(weight != 0, found / torch.where(weight != 0, weight, 1), 0)


def replaced_neurons(model, layer: int, new: dict[tuple[int, int], Tensor]):
    """Puts on a hook that lets neurons of experts add `new`, given at a weight of 1, where their expert is chosen."""
    mlp, inside = mixtures(model)[layer], []

    def hook(_, args, output):
        if inside:  # called by `alone`
            return None
        inside.append(True)
        for (expert, index), value in new.items():
            own, weight = neuron(mlp, args, expert, index)
            output = output - own + weight * value
        inside.clear()
        return output

    return lambda: mlp.experts.register_forward_hook(hook)


def recorded(model, ids: Sequence[int]) -> dict[int, dict]:
    """Layer → what its experts were called with, what each adds (`experts`), and the MLP's `output`."""
    found: dict[int, dict] = {layer: {} for layer in mixtures(model)}

    def keep(layer: int, name: str):
        def hook(_, args, output):
            found[layer][name] = (args, output[0] if isinstance(output, tuple) else output)

        return hook

    puts = []
    for layer, mlp in mixtures(model).items():
        puts.append(lambda layer=layer, mlp=mlp: mlp.experts.register_forward_hook(keep(layer, "called")))
        puts.append(lambda layer=layer, mlp=mlp: mlp.register_forward_hook(keep(layer, "whole")))
    logits(model, ids, *puts)
    with torch.no_grad():
        for layer, mlp in mixtures(model).items():
            args, _ = found[layer]["called"]
            found[layer]["experts"] = [alone(mlp, args, e) for e in range(mlp.experts.num_experts)]
            found[layer]["shared"] = shared(mlp, args[0])
            found[layer]["output"] = found[layer]["whole"][1][0]
    return found


def shared(mlp, hidden: Tensor) -> Tensor | None:
    """What the expert adds that sees every token; None where there is none."""
    if hasattr(mlp, "shared_expert"):  # qwen2_moe, behind a gate of its own
        return torch.sigmoid(mlp.shared_expert_gate(hidden)) * mlp.shared_expert(hidden)
    return mlp.shared_experts(hidden) if hasattr(mlp, "shared_experts") else None


def plus(model, layer: int, delta: Tensor):
    """Puts on a hook that adds to an MLP's output, [positions, width]."""

    def hook(_, __, output):
        return (output[0] + delta, *output[1:]) if isinstance(output, tuple) else output + delta

    return lambda: model.model.layers[layer].mlp.register_forward_hook(hook)


def replaced(model, layer: int, new: dict[int, Tensor]):
    """Puts on a hook that lets experts add other values than what they add in the run that is going on."""
    mlp, inside = mixtures(model)[layer], []

    def hook(_, args, output):
        if inside:  # called by `alone`
            return None
        inside.append(True)
        for expert, value in new.items():
            output = output - alone(mlp, args, expert) + value
        inside.clear()
        return output

    return lambda: mlp.experts.register_forward_hook(hook)


class _Logits(TorchFunctionMode):
    """The one linear map of a router gives what it is told to."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return self.change(found) if func is torch.nn.functional.linear else found


def rerouted(model, layer: int, change):
    """Wraps a router's forward, so that its logits are what `change` makes of its own; gives what takes it off."""
    part = router(mixtures(model)[layer])
    own, mine = part.forward, "forward" in vars(part)

    def forward(*args):
        with _Logits(change):
            return own(*args)

    class Handle:
        def remove(self):
            vars(part).pop("forward")
            if mine:
                part.forward = own

    def put():
        part.forward = forward
        return Handle()

    return put


def router_logits(model, ids: Sequence[int], layer: int) -> Tensor:
    """A router's logits in a run: weights times what it is given, written out."""
    part, given = router(mixtures(model)[layer]), []
    logits(model, ids, lambda: part.register_forward_pre_hook(lambda _, args: given.append(args[0])))
    with torch.no_grad():
        found = given[0].flatten(0, -2) @ part.weight.T
        return found + part.bias if getattr(part, "bias", None) is not None else found

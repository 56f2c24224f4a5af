"""Models as Accelerate places them, and what must come out of them whatever their place is."""

from __future__ import annotations

import copy
from functools import partial

import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_align_device_hook_on_blocks

import veracausa as vc

EDGES = ["input->a0.h1<q>", "a0.h0->a1.kv1<k>", "m0->a2.kv0<v>", "a1.h3->m2", "a0.h2->logits"]
CALLS = {
    "heads": lambda lm, task: vc.exact(lm, task, show_progress=False).values,
    "neurons": lambda lm, task: vc.exact(lm, task, units=["m0.n3", "m2.n0"], show_progress=False).values,
    "edges": lambda lm, task: vc.exact(lm, task, units=EDGES, show_progress=False).values,
    "atp": lambda lm, task: vc.attribute(lm, task, show_progress=False).values,
    "eap": lambda lm, task: vc.attribute(lm, task, units="edges", method="eap", show_progress=False).values,
}


def by_hooks(hf, task, head_dim: int) -> torch.Tensor:
    """Effects of all heads, [pairs, layers · heads], by one plain forward with one plain hook each (Llama's layout)."""
    device, outs = next(hf.parameters()).device, [layer.self_attn.o_proj for layer in hf.model.layers]

    def metric(ids, pair) -> float:
        logits = hf(torch.tensor([ids], device=device)).logits[0, -1].double()
        return float(logits[task.correct[pair][0]] - logits[task.incorrect[pair][0]])

    def patch(module, args):
        value = args[0].clone()
        value[..., part] = other[module][..., part]
        return (value,)

    def keep(into, module, args):
        into[module] = args[0]

    found = []
    with torch.no_grad():
        for pair in range(len(task)):
            other: dict = {}
            keeping = [out.register_forward_pre_hook(partial(keep, other)) for out in outs]
            metric(task.corrupted[pair], pair)
            for handle in keeping:
                handle.remove()
            bare = metric(task.clean[pair], pair)
            for out in outs:
                for first in range(0, other[out].shape[-1], head_dim):
                    part = slice(first, first + head_dim)
                    handle = out.register_forward_pre_hook(patch)
                    found.append(metric(task.clean[pair], pair) - bare)
                    handle.remove()
    return torch.tensor(found, dtype=torch.float64).reshape(len(task), -1)


def device_map(hf, blocks: list, others) -> dict:
    """Module → device: each block where `blocks` says, in turn; everything else on `others`."""
    inner = [name for name, _ in hf.model.named_children() if name != "layers"]
    own = {f"model.layers.{i}": blocks[i % len(blocks)] for i in range(len(hf.model.layers))}
    return {"": others} | {f"model.{name}": others for name in inner} | own | {"lm_head": others}


def offloaded(hf, how: str, device, folder):
    """A copy of a Llama whose weights lie elsewhere, or that computes on two devices; `device`: where it computes."""
    hf = copy.deepcopy(hf)
    if how == "cpu_offload":
        return cpu_offload(hf, execution_device=device)
    if how == "disk_offload":
        disk_offload(hf, folder, execution_device=device)
        return hf
    if how == "dispatched":  # blocks on "cpu" are kept there, and computed with on the main device
        elsewhere = "disk" if device.type == "cpu" else "cpu"
        where = device_map(hf, [device, elsewhere], device)
        where.pop("")
        return dispatch_model(hf, where, main_device=device, offload_dir=folder)
    where = device_map(hf, ["cpu", device, "cpu"], device)
    # as dispatch_model does: the whole model has a device, but is no block
    attach_align_device_hook_on_blocks(hf, execution_device=where, offload={name: False for name in where if name})
    return hf


def pretended(hf, mode):
    """A copy of a Llama that computes on "cpu:0" and "cpu:1", without being moved; see `two_devices`."""
    hf = copy.deepcopy(hf)
    where = device_map(hf, ["cpu:1", "cpu:0", "cpu:1"], "cpu:0")
    for name, module in hf.named_modules():
        owner = max((one for one in where if name == one or name.startswith(f"{one}.")), key=len, default="")
        if name in where or (owner and module.state_dict()):
            add_hook_to_module(module, AlignDevicesHook(io_same_device=name == "", skip_keys="past_key_values"))
            module._hf_hook.execution_device = torch.device(where[owner])
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                mode.place(tensor.data, where[owner])
    return hf

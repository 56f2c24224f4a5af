"""What parts are worth and what a model is without them, by plain hooks on the bare model and plain sums over weights.

It shares no code with the library: names of modules are written out, one prompt runs at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager

import naive
import torch
from torch import Tensor

#: Family → names in a block of what reads for heads (q, k, v, or one for all) and for neurons.
READERS = {
    "gpt2": (["attn.c_attn"], ["mlp.c_fc"]),
    "gpt_neox": (["attention.query_key_value"], ["mlp.dense_h_to_4h"]),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3"),
        (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["mlp.gate_proj", "mlp.up_proj"]),
    ),
}


def blocks(model, family: str):
    """The blocks, and in each the output projection of attention, the MLP and its down projection."""
    path, _, out, mlp, down = naive.PATHS[family]
    return [(b, b.get_submodule(out), b.get_submodule(mlp), b.get_submodule(down)) for b in model.get_submodule(path)]


def weight(module) -> Tensor:
    """[outputs, inputs]."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def support(model, family: str, prompts: Sequence[tuple[int, ...]], metric, parts: int, place: str) -> Tensor:
    """Σ_t |a_u · ∂M/∂a_u|, mean over prompts, [layers, parts]; the parts share the site evenly."""
    total = 0.0
    for i, prompt in enumerate(prompts):
        read, kept, handles = metric(i), [], []
        for _, out, mlp, down in blocks(model, family):
            def keep(_, args, output=None, kept=kept):
                site = output if output is not None else args[0]
                site.retain_grad()
                kept.append(site)

            if place == "mlp":
                handles.append(mlp.register_forward_hook(keep))
            else:
                handles.append({"z": out, "neurons": down}[place].register_forward_pre_hook(keep))
        try:
            with torch.enable_grad():
                embedded = model.get_input_embeddings()(torch.tensor([prompt])).detach().requires_grad_()
                read(model(inputs_embeds=embedded).logits[0, -1]).backward()
        finally:
            for handle in handles:
                handle.remove()
        products = torch.stack([(one.detach() * one.grad)[0] for one in kept])  # [layers, positions, site]
        total = total + products.unflatten(-1, (parts, -1)).sum(-1).abs().sum(1)
    return total / len(prompts)


def norms(model, family: str, prompts: Sequence[tuple[int, ...]]) -> dict:
    """‖x_j‖₂ of what every linear map is given, over all tokens."""
    squares, handles = {}, []
    for block, out, _, down in blocks(model, family):
        for module in [out, down, *(block.get_submodule(n) for names in READERS[family] for n in names)]:
            def keep(module, args):
                squares[module] = squares.get(module, 0) + args[0][0].square().sum(0)

            handles.append(module.register_forward_pre_hook(keep))
    try:
        with torch.no_grad():
            for prompt in prompts:
                model(torch.tensor([prompt]))
    finally:
        for handle in handles:
            handle.remove()
    return {module: own.sqrt() for module, own in squares.items()}


def weight_sums(model, family: str, heads: int, kv_heads: int, norms: dict | None) -> dict[str, list[float]]:
    """Σ |W| · ‖x‖ of every part, slice by slice: kind → parts; without norms Σ |W|."""
    found: dict[str, list[float]] = {
        kind: [] for kind in ("heads", "kv_groups", "neurons", "attention", "mlps", "layers")
    }
    for block, out, _, down in blocks(model, family):
        reads, ups = ([block.get_submodule(name) for name in names] for names in READERS[family])
        size = {one: weight(one).detach().abs() for one in (out, down, *reads, *ups)}
        if norms is not None:
            size = {one: own * norms[one] for one, own in size.items()}
        d, group = size[out].shape[1] // heads, heads // kv_heads
        columns = [float(size[out][:, h * d : (h + 1) * d].sum()) for h in range(heads)]
        q, k, v = _rows(family, [size[one] for one in reads], heads, kv_heads)
        own = [columns[h] + q[h] for h in range(heads)]
        # keys and values that several heads share are no head's own
        found["heads"] += [own[h] + k[h] + v[h] if kv_heads == heads else own[h] for h in range(heads)]
        found["kv_groups"] += [sum(own[g * group : (g + 1) * group]) + k[g] + v[g] for g in range(kv_heads)]
        for n in range(size[down].shape[1]):
            found["neurons"].append(float(size[down][:, n].sum() + sum(size[up][n].sum() for up in ups)))
        totals = [sum(float(size[one].sum()) for one in some) for some in ((out, *reads), (down, *ups))]
        for kind, total in zip(("attention", "mlps", "layers"), (*totals, sum(totals)), strict=True):
            found[kind].append(total)
    return found


def _rows(family: str, sizes: list[Tensor], heads: int, kv_heads: int) -> tuple[list[float], ...]:
    """The sums over each query's, key's and value's rows, wherever the family has them."""
    if family == "gpt2":  # all queries, all keys, all values
        sizes = list(sizes[0].chunk(3))
    if family == "gpt_neox":  # query, key and value of a head side by side
        sizes = [sizes[0].unflatten(0, (heads, 3, -1))[:, part].flatten(0, 1) for part in range(3)]
    counts = (heads, kv_heads, kv_heads)
    return tuple([float(one.sum()) for one in own.chunk(count)] for own, count in zip(sizes, counts, strict=True))


@contextmanager
def without(model, family: str, z: dict[int, Tensor], neurons: dict[int, Tensor], mlps: Sequence[int] = (),
            means: dict | None = None):  # fmt: skip
    """The model with these numbers of z and of the neurons, and these MLPs' outputs, 0 or their mean."""
    means = means or {}
    with ExitStack() as stack:
        for layer, (_, out, mlp, down) in enumerate(blocks(model, family)):
            for place, module, gone in (("z", out, z), ("neurons", down, neurons)):
                if layer in gone:
                    mean = means.get((place, layer))

                    def put(_, args, gone=gone[layer], mean=mean):
                        site = args[0].clone()
                        site[..., gone] = 0.0 if mean is None else mean[gone].to(site)
                        return (site,)

                    stack.callback(module.register_forward_pre_hook(put).remove)
            if layer in mlps:
                mean = means.get(("mlp", layer), 0.0)
                hook = mlp.register_forward_hook(lambda _, __, output, mean=mean: torch.zeros_like(output) + mean)
                stack.callback(hook.remove)
        yield model

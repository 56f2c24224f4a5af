"""The stream of a Hugging Face model read layer by layer, and who wrote it: plain hooks, one prompt at a time.

It shares no code with the library. Families are told by their modules' names alone; `POST` are those whose sublayers
have a norm behind them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from naive import PATHS
from torch import Tensor

#: family → in a block: attention, the norms before the MLP and behind attention and MLP (None: the family has none).
_LLAMA = ("self_attn", "post_attention_layernorm", None, None)
_GEMMA = ("self_attn", "pre_feedforward_layernorm", "post_attention_layernorm", "post_feedforward_layernorm")
_NEOX = ("attention", "post_attention_layernorm", None, None)
PARTS = {
    "gpt2": ("attn", "ln_2", None, None), "gpt_neox": _NEOX, "gpt_neox-sequential": _NEOX, "gemma2": _GEMMA,
    "gemma3": _GEMMA, **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), _LLAMA),
}  # fmt: skip


class Seen(NamedTuple):
    """What a run did: inputs and outputs of modules by their paths, [n, d] each, and logits [n, V]."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    logits: Tensor


def seen(model, ids) -> Seen:
    """Run a prompt and keep what every module is given and gives."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(path):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            if args and isinstance(args[0], Tensor):
                inputs[path] = args[0][0].detach()
            if isinstance(output, Tensor):
                outputs[path] = output[0].detach()

        return hook

    handles = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if path]
    try:
        with torch.no_grad():
            logits = model(torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return Seen(inputs, outputs, logits)


def lens(model, family: str, ids) -> dict[str, Tensor]:
    """Logits [n, V] of the stream at every point: r0, r0+a0 (not where blocks are parallel), r1, …"""
    run = seen(model, ids)
    blocks, final, *_ = PATHS[family]
    norm, parts = model.get_submodule(final), PARTS[family]
    streams = {}
    for layer in range(len(model.get_submodule(blocks))):
        streams[f"r{layer}"] = run.inputs[f"{blocks}.{layer}"]
        if family != "gpt_neox":
            streams[f"r{layer}+a{layer}"] = run.inputs[f"{blocks}.{layer}.{parts[1]}"]
    streams[f"r{layer + 1}"] = run.inputs[final]
    with torch.no_grad():
        return {name: capped(model, model.get_output_embeddings()(norm(stream))) for name, stream in streams.items()}


def capped(model, logits: Tensor) -> Tensor:
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def contributions(model, family: str, ids, direction: Tensor, at: int) -> dict[str, float]:
    """What every write adds to `direction` [V] · logits before the cap, at one position, norms frozen; constants, too.

    Each write is built as a vector of the stream and divided by the final norm's own denominator, which is the spread
    (or the size) of its input over that of what it gives.
    """
    run = seen(model, ids)
    blocks, final, out_proj, mlp, down = PATHS[family]
    _, _, behind_attention, behind_mlp = PARTS[family]
    head = model.get_output_embeddings()
    towards = direction @ head.weight
    x, norm = run.inputs[final][at], model.get_submodule(final)

    def through(write: Tensor) -> float:
        return float((normed(norm, write, x) @ towards).detach())

    heads = model.config.num_attention_heads
    found = {"input": through(run.inputs[f"{blocks}.0"][at])}
    for layer in range(len(model.get_submodule(blocks))):
        block = f"{blocks}.{layer}"
        module = model.get_submodule(f"{block}.{out_proj}")
        weight = module.weight if "c_proj" in out_proj else module.weight.T  # [heads · dim, width]
        z = run.inputs[f"{block}.{out_proj}"][at]
        whole = run.outputs[f"{block}.{out_proj}"][at]
        parts = {f"a{layer}.h{h}": part for h, part in enumerate(torch.stack(z.split(len(z) // heads)))}
        writes = {
            name: part @ rows for (name, part), rows in zip(parts.items(), weight.split(len(z) // heads), strict=True)
        }
        if module.bias is not None:
            writes[f"a{layer}.bias"] = module.bias
        for name, write in writes.items():
            if behind_attention:
                write = normed(model.get_submodule(f"{block}.{behind_attention}"), write, whole)
            found[name] = through(write)
        written = run.outputs[f"{block}.{behind_mlp or mlp}"][at]
        found[f"m{layer}"] = through(written)
        lower = model.get_submodule(f"{block}.{down}")
        rows = lower.weight if "c_proj" in down else lower.weight.T
        gives = run.outputs[f"{block}.{mlp}"][at]
        own = {f"m{layer}.n{n}": act * rows[n] for n, act in enumerate(run.inputs[f"{block}.{down}"][at])}
        if lower.bias is not None:
            own[f"m{layer}.bias"] = lower.bias
        for name, write in own.items():
            if behind_mlp:
                write = normed(model.get_submodule(f"{block}.{behind_mlp}"), write, gives)
            found[name] = through(write)
    if getattr(norm, "bias", None) is not None:
        found["norm.bias"] = float((norm.bias @ towards).detach())
    if head.bias is not None:
        found["unembedding.bias"] = float((direction @ head.bias).detach())
    return found


def normed(norm, part: Tensor, whole: Tensor) -> Tensor:
    """A part of a norm's input behind it, its denominator that of the whole; without the norm's bias."""
    if isinstance(norm, torch.nn.LayerNorm):
        scale = (whole.var(unbiased=False) + norm.eps).rsqrt()
        return (part - part.mean()) * scale * norm.weight
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    gain = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
    return part * (whole.square().mean() + eps).rsqrt() * gain

"""The naive reference of edges: whole prompts, one at a time, one projection's input rewritten by a plain hook.

Only reader v sees writer u's other value: v's slice of its projection (or the MLP's output, or the logits) is computed
from norm(residual + Δ_u), everything downstream follows by itself. Shares no code with the library.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from naive import PATHS, Metric, activations
from torch import Tensor

# family: (attention norm, MLP norm, projections of q, k, v, attention post-norm, MLP post-norm)
_LLAMA = ("input_layernorm", "post_attention_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
_NEOX = ("input_layernorm", "post_attention_layernorm", ("attention.query_key_value",) * 3)
_SELF = ("self_attention.query_key_value",) * 3
READS = {
    "gpt2": ("ln_1", "ln_2", ("attn.c_attn",) * 3), "gpt_neox": _NEOX, "gpt_neox-sequential": _NEOX,
    "gemma2": ("input_layernorm", "pre_feedforward_layernorm", _LLAMA[2]),
    "gemma3": ("input_layernorm", "pre_feedforward_layernorm", _LLAMA[2]),
    "gpt_neo": ("ln_1", "ln_2", tuple(f"attn.attention.{part}_proj" for part in "qkv")),
    "gptj": ("ln_1", "ln_1", tuple(f"attn.{part}_proj" for part in "qkv")),
    "codegen": ("ln_1", "ln_1", ("attn.qkv_proj",) * 3),
    "bloom": (*_NEOX[:2], _SELF), "falcon-alibi": (*_NEOX[:2], _SELF),
    "falcon": ("input_layernorm", "input_layernorm", _SELF), "falcon-groups": ("ln_attn", "ln_mlp", _SELF),
    "mpt": ("norm_1", "norm_2", ("attn.Wqkv",) * 3),
    "gpt_neox_japanese": _NEOX,
    "xglm": ("self_attn_layer_norm", "final_layer_norm", _LLAMA[2]),
}  # fmt: skip

#: Families whose attention and MLP read the same stream.
PARALLEL = ("gpt_neox", "gptj", "codegen", "falcon", "falcon-groups")
#: MLPs that are no module of their own, or one that adds the stream: their parts in a row.
MLPS = {
    "bloom": ("mlp.dense_h_to_4h", "mlp.gelu_impl", "mlp.dense_4h_to_h"),
    "mpt": ("ffn.up_proj", "ffn.act", "ffn.down_proj"),
    "xglm": ("fc1", "activation_fn", "fc2"),
}


@dataclass
class Run:
    """One run: streams [n, width] before each block and after the last, and before each MLP; writes by name."""

    stream: list[Tensor]
    middle: list[Tensor]
    writes: dict[str, Tensor]


def _blocks(model, family):
    return model.get_submodule(PATHS[family][0])


def mlp_parts(block, family):
    """The modules that an MLP's input goes through, one after the other."""
    return [block.get_submodule(path) for path in MLPS.get(family, PATHS[family][3:4])]


def fed_forward(block, family, normed: Tensor) -> Tensor:
    """An MLP's output [n, width] for what its norm gives."""
    for part in mlp_parts(block, family):
        normed = part(normed[None])[0]
    return normed


def _weight(linear) -> Tensor:
    return linear.weight if type(linear).__name__ == "Conv1D" else linear.weight.T


def trace(model, family, ids) -> Run:
    """Streams and writes of a prompt. A Gemma head's write is its share of the sum, times (1 + γ) / rms(sum)."""
    found = activations(model, family, ids)
    blocks, parallel = _blocks(model, family), family in PARALLEL
    heads = model.config.num_attention_heads
    run = Run([found["resid"][layer] for layer in range(len(blocks) + 1)], [], {"input": found["resid"][0]})
    for layer, block in enumerate(blocks):
        out = block.get_submodule(PATHS[family][2])
        with torch.no_grad():
            total = out(found["z"][layer])
            if family == "gpt_neox_japanese" and block.attention.dense_bias is not None:  # its last block adds this
                total = total + block.attention.dense_bias
            scale = torch.ones_like(total)
            mlp = found["mlp"][layer]
            if family.startswith("gemma"):
                norm = block.post_attention_layernorm
                scale = (1 + norm.weight) * torch.rsqrt(total.square().mean(-1, keepdim=True) + norm.eps)
                mlp = block.post_feedforward_layernorm(mlp)
            parts = found["z"][layer].unflatten(-1, (heads, -1))
            rows = _weight(out).unflatten(0, (heads, -1))
            for h in range(heads):
                run.writes[f"a{layer}.h{h}"] = parts[:, h] @ rows[h] * scale
            run.writes[f"m{layer}"] = mlp
            run.middle.append(run.stream[layer] if parallel else run.stream[layer] + total * scale)
    return run


def columns(model, family, kind: str, index: int) -> slice:
    """A reader's columns in its projection's output."""
    heads = model.config.num_attention_heads
    d = getattr(model.config, "head_dim", None) or model.config.hidden_size // heads
    if family == "gpt2" or family == "mpt":
        first = {"q": 0, "k": heads * d, "v": 2 * heads * d}[kind] + index * d
    elif family == "codegen":  # q, v and k of two heads each, four times
        first = index // 2 * 6 * d + {"q": 0, "v": 2 * d, "k": 4 * d}[kind] + index % 2 * d
    elif family == "falcon":  # all queries, one key, one value
        first = {"q": index * d, "k": heads * d, "v": (heads + 1) * d}[kind]
    elif family == "falcon-groups":  # two queries, a key and a value, twice
        group, within = (index // 2, index % 2) if kind == "q" else (index, {"k": 2, "v": 3}[kind])
        first = (group * 4 + within) * d
    elif family.startswith("gpt_neox") or family in ("bloom", "falcon-alibi"):
        first = 3 * d * index + {"q": 0, "k": d, "v": 2 * d}[kind]
    else:
        first = index * d
    return slice(first, first + d)


def rewritten(model, family, ids, run: Run, reader: str, delta: Tensor) -> Tensor:
    """Logits at the last position when `reader` alone sees stream + delta ([n, width])."""
    blocks = _blocks(model, family)
    attention_norm, mlp_norm, projections = READS.get(family, _LLAMA)
    if reader == "logits":
        final = model.get_submodule(PATHS[family][1])
        handle = final.register_forward_pre_hook(lambda module, args: (args[0] + delta,))
    elif reader.startswith("m"):
        layer = int(reader[1:])
        block = blocks[layer]
        new = block.get_submodule(mlp_norm)(run.middle[layer] + delta)[None]
        entry = mlp_parts(block, family)[0]
        handle = entry.register_forward_pre_hook(lambda module, args: (new, *args[1:]))
    else:
        stem, kind = reader[:-3], reader[-2]
        layer, index = int(stem[1 : stem.index(".")]), int(stem.split(".")[1].lstrip("hkv"))
        block, cut = blocks[layer], columns(model, family, kind, index)
        module = block.get_submodule(projections["qkv".index(kind)])
        seen = module(block.get_submodule(attention_norm)(run.stream[layer] + delta))

        def replace(_, __, output):
            output = output.clone()
            output[0, :, cut] = seen[:, cut]
            return output

        handle = module.register_forward_hook(replace)
    try:
        return model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()


def edge_effects(
    model, family, clean, corrupted, metric: Metric, names, direction="noising", ablation="counterfactual"
) -> Tensor:
    """Exact effects of edges by name, `a0.h1->m1` or `a0.h1->m1@3`."""
    own, other = (clean, corrupted) if direction == "noising" else (corrupted, clean)
    with torch.no_grad():
        base, towards = trace(model, family, own), trace(model, family, other)
        start = metric(model(torch.tensor([list(own)]), use_cache=False).logits[0, -1])
        effects = []
        for name in names:
            edge, _, position = name.partition("@")
            writer, reader = edge.split("->")
            new = torch.zeros_like(base.writes[writer]) if ablation == "zero" else towards.writes[writer]
            delta = new - base.writes[writer]
            if position:
                alone = torch.zeros_like(delta)
                alone[int(position)] = delta[int(position)]
                delta = alone
            effects.append(metric(rewritten(model, family, own, base, reader, delta)) - start)
    return torch.stack(effects)


def slopes(model, family, clean, corrupted, metric: Metric, names, step=1e-5) -> Tensor:
    """Central differences of the exact effect along each edge's own change: what EAP must be."""
    with torch.no_grad():
        base, towards = trace(model, family, clean), trace(model, family, corrupted)
        found = []
        for name in names:
            writer, reader = name.split("->")
            delta = towards.writes[writer] - base.writes[writer]
            ends = [metric(rewritten(model, family, clean, base, reader, sign * step * delta)) for sign in (1, -1)]
            found.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(found)


def through_pattern(model, family, clean, corrupted, metric: Metric, names) -> Tensor:
    """(z with the reader's query or key rewritten − z) · ∂M/∂z of the reader's layer, at the clean run."""
    path = PATHS[family]
    blocks = _blocks(model, family)
    ids = torch.tensor([list(clean)])
    seen: dict[int, Tensor] = {}

    def keep(layer):
        def hook(_, args):
            seen[layer] = args[0]

        return hook

    handles = [block.get_submodule(path[2]).register_forward_pre_hook(keep(i)) for i, block in enumerate(blocks)]
    try:
        with torch.no_grad():
            base, towards = trace(model, family, clean), trace(model, family, corrupted)
        leaf = model.get_input_embeddings()(ids).detach().requires_grad_()
        start = metric(model(inputs_embeds=leaf, use_cache=False).logits[0, -1])
        own = dict(seen)
        slope = dict(enumerate(torch.autograd.grad(start, [own[layer] for layer in range(len(blocks))])))
        found = []
        with torch.no_grad():
            for name in names:
                writer, reader = name.split("->")
                layer = int(reader[1 : reader.index(".")])
                rewritten(model, family, clean, base, reader, towards.writes[writer] - base.writes[writer])
                found.append(((seen[layer] - own[layer].detach()) * slope[layer]).sum())
        return torch.stack(found)
    finally:
        for handle in handles:
            handle.remove()

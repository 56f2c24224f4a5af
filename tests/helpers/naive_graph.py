"""The naive reference of graphs of post-norm families whose stream is scaled, or whose outputs have biases.

One prompt at a time, every reader's input built anew from the writes of this pass and of what stands in for ablated
edges, each write times the scales of the blocks between; block by block, written out for Gemma and OLMo-2. Attention
alone is the model's own, run whole, with each query, key and value put in by a hook. Shares no code with the library.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from bridges import naive_metric


def scales(model):
    return [float(getattr(layer, "layer_scalar", 1.0)) for layer in model.model.layers]


def mlp(layer, x):
    """What a block's MLP writes for a stream [n, d]."""
    before = getattr(layer, "pre_feedforward_layernorm", lambda seen: seen)
    out = layer.mlp(before(x)[None])[0]
    if getattr(layer, "enable_moe_block", False):
        _, weights, choice = layer.router(x)
        experts = layer.experts(layer.pre_feedforward_layernorm_2(x), choice, weights)
        out = layer.post_feedforward_layernorm_1(out) + layer.post_feedforward_layernorm_2(experts)
    return layer.post_feedforward_layernorm(out)


def heads(layer, z, count):
    """What each head writes: z_h W_h and its share of the bias, divided and weighted as the norm does their sum."""
    out, norm = layer.self_attn.o_proj, layer.post_attention_layernorm
    parts = torch.einsum("nhd,whd->hnw", z.unflatten(-1, (count, -1)), out.weight.unflatten(-1, (count, -1)))
    parts = parts if out.bias is None else parts + out.bias / count
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    gain = 1 + norm.weight if type(norm).__name__ in ("Gemma2RMSNorm", "Gemma3RMSNorm") else norm.weight
    return parts * gain * torch.rsqrt(parts.sum(0).square().mean(-1, keepdim=True) + eps)


def values(model, ids, layer, inputs):
    """z [n, heads · d] of a block whose readers have inputs of their own (`a0.h1<q>` → [n, d])."""
    attention, found, handles = model.model.layers[layer].self_attn, [], []
    before = getattr(model.model.layers[layer], "input_layernorm", lambda seen: seen)
    projections = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj, "kv": attention.k_proj}
    for reader, x in inputs.items():
        stem, kind = reader[:-1].split("<")
        which = int(stem.split(".")[1].lstrip("hkv")) if "." in stem else None  # a norm goes over those of all heads
        own = slice(None) if which is None else slice(attention.head_dim * which, attention.head_dim * (which + 1))

        def put(module, args, output, own=own, x=x):
            output = output.clone()
            output[0, :, own] = torch.nn.functional.linear(before(x), module.weight, module.bias)[:, own]
            return output

        handles.append(projections[kind].register_forward_hook(put))
    handles.append(attention.o_proj.register_forward_pre_hook(lambda _, args: found.append(args[0][0])))
    try:
        model(torch.tensor([list(ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found[0]


def run(lm, ids, mask=None, other=None, constants=None):
    """(logits at the last position, writes by name) of one prompt.

    `mask[reader, writer]`: how much of each edge is kept; `other`, `constants`: writes (of all positions, or one
    vector each) that stand in for the rest.
    """
    model, names, readers = lm.hf, lm.graph.writer_names, lm.graph.reader_names
    factor, count = scales(model), model.config.num_attention_heads
    instead = other if constants is None else constants
    layer_of = {name: 0 if name == "input" else int(name[1:].split(".")[0]) for name in names}
    written = {"input": model.model.embed_tokens(torch.tensor(list(ids)))}

    def stream(reader, layer):
        """Σ (c + m (own − c)) times the scales between, over what is written before it."""
        total = 0
        seen = [w for w in names if w in written and (layer_of[w] < layer or w == "input" or w[0] + reader[0] == "am")]
        for name in seen:
            kept = 1.0 if mask is None else float(mask[readers.index(reader), names.index(name)])
            own = written[name] if kept == 1 else instead[name] + kept * (written[name] - instead[name])
            total = total + own.expand_as(written["input"]) * math.prod(factor[layer_of[name] : layer])
        return total

    with torch.no_grad():
        for i, layer in enumerate(model.model.layers):
            inputs = {one: stream(one, i) for one in readers if one.startswith((f"a{i}.", f"a{i}<"))}
            found = heads(layer, values(model, ids, i, inputs), count)
            written |= {f"a{i}.h{h}": found[h] for h in range(count)}
            written[f"m{i}"] = mlp(layer, stream(f"m{i}", i))
        logits = model.lm_head(model.model.norm(stream("logits", len(factor))))[-1]
        cap = getattr(model.config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits, written


def metric(lm, task, mask=None, other=None, constants=None):
    """M of the first pair under a mask (None: the clean run), against writes of another run or constants."""
    return float(naive_metric(lm, task, 0)(run(lm, task.clean[0], mask, other, constants)[0]))


def path(lm, task, senders, readers):
    """Change of M where one reader after the other sees what senders, then what the one before makes of it, write."""
    clean, other = (run(lm, ids)[1] for ids in (task.clean[0], task.corrupted[0]))
    changed = clean | {name: other[name] for name in senders}
    for reader in (*readers, "logits"):
        mask = np.ones((lm.graph.readers, lm.graph.writers))
        mask[lm.graph.reader_names.index(reader)] = [
            float(changed[name] is clean[name]) for name in lm.graph.writer_names
        ]
        logits, made = run(lm, task.clean[0], mask, changed)
        stem = reader.split("<")[0]
        changed = clean | {stem: made.get(stem)}
    return float(naive_metric(lm, task, 0)(logits)) - metric(lm, task)

"""The naive reference of circuits: one prompt, one reader after the other, whole-model forwards with plain hooks.

Every reader's input is rebuilt from the writes of this pass and of what stands in for ablated edges: the corrupted run,
or constants; an edge may have a weight between 0 (ablated) and 1 (kept). Each query, key, value and MLP is one module
call on that input. As slow as it looks.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from bridges import naive_metric
from naive import PATHS
from naive_edges import _LLAMA, PARALLEL, READS, _blocks, _weight, columns, fed_forward, trace


def metrics(lm, task, mask, constants=None) -> torch.Tensor:
    """M of one circuit for every pair; `mask[reader, writer]` in the graph's order; `constants[writer]`: [n, d]."""
    return torch.stack([_metric(lm, task, i, mask, constants) for i in range(len(task))])


def constant_trace(lm, constants, n):
    """Writes and streams of n positions where every writer writes its constant; attention's output biases stay."""
    wide = {name: constants[name].expand(n, -1) for name in lm.graph.writer_names}
    stream, middle, total = [], [], wide["input"].clone()
    for layer, block in enumerate(_blocks(lm.hf, lm.name)):
        stream.append(total)
        bias = getattr(block.get_submodule(PATHS[lm.name][2]), "bias", None)
        behind = total + sum(wide[name] for name in wide if name.startswith(f"a{layer}."))
        behind = behind if bias is None else behind + bias
        middle.append(total if lm.name in PARALLEL else behind)
        total = behind + wide[f"m{layer}"]
    return SimpleNamespace(writes=wide, stream=[*stream, total], middle=middle)


def _metric(lm, task, i, mask, constants):
    model, family, graph = lm.hf, lm.name, lm.graph
    blocks, heads = _blocks(model, family), model.config.num_attention_heads
    attention_norm, mlp_norm, projections = READS.get(family, _LLAMA)
    clean, corrupted = (trace(model, family, prompts[i]) for prompts in (task.clean, task.corrupted))
    if constants is not None:
        corrupted = constant_trace(lm, constants, len(task.clean[i]))
    out = {"input": clean.writes["input"]}
    rows = {
        name: {graph.writer_names[w]: float(mask[r][w]) for w in mask[r].nonzero()[0]}
        for r, name in enumerate(graph.reader_names)
    }
    parallel = family in PARALLEL

    def stream(base, reader):
        total = base.clone()
        for writer, weight in rows[reader].items():
            total = total + weight * (out[writer] - corrupted.writes[writer])
        return total

    with torch.no_grad():
        for layer, block in enumerate(blocks):
            z = _values(lm, task.corrupted[i], layer, {
                reader: block.get_submodule(attention_norm)(stream(corrupted.stream[layer], reader))
                for reader in graph.reader_names if reader.startswith(f"a{layer}.")
            }, projections)  # fmt: skip
            linear = block.get_submodule(PATHS[family][2])
            weights, scale = _weight(linear).unflatten(0, (heads, -1)), 1.0
            if family.startswith("gemma"):
                norm, total = block.post_attention_layernorm, linear(z)
                scale = (1 + norm.weight) * torch.rsqrt(total.square().mean(-1, keepdim=True) + norm.eps)
            written = {f"a{layer}.h{h}": z.unflatten(-1, (heads, -1))[:, h] @ weights[h] * scale for h in range(heads)}
            if not parallel:
                out |= written
            seen = stream(corrupted.middle[layer], f"m{layer}")
            mlp = fed_forward(block, family, block.get_submodule(mlp_norm)(seen))
            out |= written | {f"m{layer}": block.post_feedforward_layernorm(mlp) if "gemma" in family else mlp}
        final = model.get_submodule(PATHS[family][1])(stream(corrupted.stream[-1], "logits"))
        logits = model.get_output_embeddings()(final)[-1]
        cap = getattr(model.config, "final_logit_softcapping", None)
        return naive_metric(lm, task, i)(torch.tanh(logits / cap) * cap if cap else logits)


def _values(lm, ids, layer, normed, projections):
    """z [n, d] of a block whose queries, keys and values come from inputs of their own."""
    model, family = lm.hf, lm.name
    block = _blocks(model, family)[layer]
    found, handles = [], []
    for kind in "qkv":
        module = block.get_submodule(projections["qkv".index(kind)])
        for reader, x in normed.items():
            if reader.endswith(f"<{kind}>"):
                cut = columns(model, family, kind, int(reader.split(".")[1].lstrip("hkv").split("<")[0]))
                own = module(x)[:, cut]

                def put(_, __, output, cut=cut, own=own):
                    output = output.clone()
                    output[0, :, cut] = own
                    return output

                handles.append((module, put))
    handles = [module.register_forward_hook(put) for module, put in handles]
    out = block.get_submodule(PATHS[family][2])
    handles.append(out.register_forward_pre_hook(lambda _, args: found.append(args[0][0])))
    try:
        model(torch.tensor([list(ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found[0]

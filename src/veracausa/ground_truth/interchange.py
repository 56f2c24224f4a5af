"""A GPT-2 in which edges carry what was written on another prompt, by plain tensor operations.

    input of reader v = Σ_u (1 − m_vu) · write of u in this run + m_vu · write of u in the source run + constants

With one m_vu = 1 the change of the metric is the exact effect of the edge u → v; with all edges out of u it is the
interchange of node u. Every row has its own edges, and gradients reach the weights: a model is trained on such runs
(`scripts/train_ground_truth.py`) and then judged on them. It shares no code with the engine, which it judges, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from veracausa.anatomy.graph import Graph, graph_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def graph(hf: GPT2LMHeadModel) -> Graph:
    """Names and order of the model's writers and readers."""
    return graph_of(hf.config.n_layer, hf.config.n_head, hf.config.n_head, False)


def run(
    hf: GPT2LMHeadModel,
    ids: Int[Tensor, "rows positions"],
    interchanged: Bool[Tensor, "rows readers writers"] | None = None,
    source: Float[Tensor, "rows writers positions width"] | None = None,
) -> tuple[Float[Tensor, "rows outputs"], Float[Tensor, "rows writers positions width"]]:
    """Logits at the last position, and every writer's write, in the graph's order; biases of outputs are constants.

    `interchanged`: m of every edge, True where the reader sees the `source` run's write. None: the clean run.

    >>> _, writes = run(hf, other_ids)
    >>> logits, _ = run(hf, ids, interchanged, source=writes)
    """
    body: Any = hf.transformer
    heads, readers = hf.config.n_head, 3 * hf.config.n_head + 1
    length = ids.shape[1]
    hidden = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
    stream = body.wte(ids) + body.wpe(torch.arange(length, device=ids.device))
    writes = stream[:, None]

    def seen_by(first: int, many: int) -> Float[Tensor, "rows readers positions width"]:
        if interchanged is None or source is None:
            return stream[:, None]  # all readers see the same
        known = writes.shape[1]
        edges = interchanged[:, first : first + many, :known].to(stream)
        return stream[:, None] + torch.einsum("rvu,rupd->rvpd", edges, source[:, :known] - writes)

    for layer, block in enumerate(body.h):
        first, attention = layer * readers, block.attn
        normed = block.ln_1(seen_by(first, 3 * heads))
        normed = normed[:, None] if normed.shape[1] == 1 else normed.unflatten(1, (3, heads))
        projected = attention.c_attn.weight.unflatten(1, (3, heads, -1))
        bias = attention.c_attn.bias.unflatten(0, (3, heads, 1, -1))
        query, key, value = (torch.einsum("rshpd,dshe->rshpe", normed, projected) + bias).unbind(1)
        pattern = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf).softmax(-1)
        own = torch.einsum("rhpe,hed->rhpd", pattern @ value, attention.c_proj.weight.unflatten(0, (heads, -1)))
        stream = stream + own.sum(1) + attention.c_proj.bias
        writes = torch.cat([writes, own], 1)
        added = block.mlp(block.ln_2(seen_by(first + 3 * heads, 1)))
        stream = stream + added[:, 0]
        writes = torch.cat([writes, added], 1)
    return hf.lm_head(body.ln_f(seen_by(len(body.h) * readers, 1)[:, 0, -1])), writes

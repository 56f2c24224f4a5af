"""Slopes of what an MLP reads, with patterns and norms held, by backward rules on the model itself."""

import torch

from veracausa.engine.guard import borrowed, changing, giving, hooks
from veracausa.engine.rule import Rule
from veracausa.engine.rules import applied


def by_rules(lm, ids, cotangent, layer, position):
    """Slopes of what an MLP reads, ⟨·, cotangent⟩ at a position, at embeddings and MLPs' outputs, by backward rules."""
    leaves, reads = [], []

    def leaf(x):
        leaves.append(x.detach().clone().requires_grad_(True))
        return leaves[-1].view_as(x)

    def keep(x):
        reads.append(x)
        return x

    blocks = lm.decoder.blocks
    handles = [blocks[0].module.register_forward_pre_hook(giving(leaf), with_kwargs=True)]
    for block in blocks:
        handles.append(changing(block.mlp_end, leaf))
        handles.append(block.mlp_start.register_forward_pre_hook(giving(keep), with_kwargs=True))
    with (
        borrowed(lm.decoder),
        applied(lm.decoder, Rule(query_key=0.0, freeze_norms=True)),
        hooks(*handles),
        torch.enable_grad(),
    ):
        leaves.clear(), reads.clear()  # of what the library itself ran
        lm.decoder.backbone(input_ids=ids, use_cache=False)
        found = torch.autograd.grad((reads[layer][0, position] * cotangent).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(one) if g is None else g for g, one in zip(found, leaves, strict=True)], leaves

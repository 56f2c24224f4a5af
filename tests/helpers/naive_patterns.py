"""Patched attention patterns, the naive way: whole prompts, one at a time, Hugging Face's own eager attention and mask.

Each family's eager attention gives its weights [heads, queries, keys]; some of them are replaced, and the values are
mixed by them with a plain product. A *patch* is (layer, head, query, key, new): `new` [heads, n, n] is the whole
layer's pattern; query and key are a number, a slice, or None for all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tiny_models
import torch
from naive import Metric
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "naive_patterns"


@contextmanager
def patched(model, patches: Sequence[tuple] = (), keep: dict[int, Tensor] | None = None) -> Iterator[None]:
    """The model with patches in its patterns; `keep[layer]` gets what they are, [1, heads, n, n], with their graph."""

    def function(module, query, key, value, mask, **settings):
        eager = sys.modules[type(module).__module__].eager_attention_forward
        eager = tiny_models._in_float64(eager) if query.dtype == torch.float64 else eager
        _, weights = eager(module, query, key, value, mask, **settings)
        for layer, head, at, looked_at, new in patches:
            if layer == module.layer_idx:
                where = (head, *(slice(None) if one is None else one for one in (at, looked_at)))
                weights = weights.clone()
                weights[0][where] = new[where]
        if keep is not None:
            keep[module.layer_idx] = weights
        share = weights.shape[1] // value.shape[1]
        return (weights @ value.repeat_interleave(share, 1)).transpose(1, 2), weights

    ALL_ATTENTION_FUNCTIONS.register(NAME, function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    before = model.config._attn_implementation
    try:
        model.config._attn_implementation = NAME
        yield
    finally:
        model.config._attn_implementation = before


def logits(model, ids: Sequence[int], patches: Sequence[tuple] = (), keep: dict[int, Tensor] | None = None) -> Tensor:
    """Logits [V] at the last position of a whole run."""
    with patched(model, patches, keep):
        return model(torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0, -1]


def patterns(model, ids: Sequence[int]) -> dict[int, Tensor]:
    """Every layer's pattern [heads, n, n]."""
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        logits(model, ids, keep=found)
    return {layer: weights[0] for layer, weights in found.items()}


def rows(units) -> list[tuple]:
    """A table of units as (layer, head, query or None, key or None)."""
    keys = [-1] * len(units) if units.cells is None else units.cells.tolist()
    columns = (units.layer.tolist(), units.index.tolist(), units.position.tolist(), keys)
    return [(layer, head, *(None if one < 0 else one for one in at)) for layer, head, *at in zip(*columns, strict=True)]


def replacements(model, own, other, ablation, reference=()) -> dict[int, Tensor]:
    """What every layer's pattern is replaced by, [heads, n, n]; the mean cell by cell."""
    if ablation == "counterfactual":
        return patterns(model, other)
    if ablation == "zero":
        return {layer: torch.zeros_like(one) for layer, one in patterns(model, own).items()}
    runs = [patterns(model, ids) for ids in reference]
    return {layer: sum(run[layer] for run in runs) / len(runs) for layer in runs[0]}


@torch.no_grad()
def exact(model, own, other, metric: Metric, units, ablation="counterfactual", reference=()) -> Tensor:
    """M(run of `own` with a unit patched) − M(run of `own`), [units]; NaN where the prompt has no such position."""
    new, before, effects = replacements(model, own, other, ablation, reference), metric(logits(model, own)), []
    for layer, head, query, key in rows(units):
        absent = query is not None and query >= len(own)
        found = None if absent else metric(logits(model, own, [(layer, head, query, key, new[layer])]))
        effects.append(before * float("nan") if found is None else found - before)
    return torch.stack(effects)


def estimate(model, own, other, metric: Metric, units, ablation="counterfactual", reference=()) -> Tensor:
    """Σ (A' − A) · ∂M/∂A over each unit's cells, [units]."""
    new, kept, scores = replacements(model, own, other, ablation, reference), {}, []
    with torch.enable_grad():
        found = metric(logits(model, own, keep=kept))
        layers = sorted(kept)
        slopes = dict(zip(layers, torch.autograd.grad(found, [kept[one] for one in layers]), strict=True))
    for layer, head, query, key in rows(units):
        absent = query is not None and query >= len(own)
        where = (head, *(slice(None) if one is None else one for one in (query, key)))
        change = None if absent else (new[layer][where] - kept[layer][0][where].detach()) * slopes[layer][0][where]
        scores.append(found.detach() * float("nan") if change is None else change.sum())
    return torch.stack(scores)

"""Patched queries, keys and values, the naive way: whole prompts, one at a time.

They are what a layer's attention function is given, behind norm and rotation, so they are changed there: attention is
written out in `naive_paths`, and here told which part of its queries, keys or values to replace.
A *patch* is (kind, layer, head or K/V head, position or None, new): `new` [heads, n, head_dim] is the whole tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import naive
import naive_paths
import torch
from naive import Metric
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

KINDS = ("queries", "keys", "values")


@contextmanager
def patched(model, patches: Sequence[tuple] = (), keep: dict[str, dict[int, Tensor]] | None = None) -> Iterator[None]:
    """The model with patches in its attention; `keep[kind][layer]` gets what came in."""
    attention = naive_paths._attention(naive_paths.PLAIN, lambda *_: None)

    def function(module, query, key, value, *rest, **settings):
        given = dict(zip(KINDS, (query, key, value), strict=True))
        for kind in KINDS if keep is not None else ():
            keep[kind][module.layer_idx] = given[kind][0].detach()
        for kind, layer, index, position, new in patches:
            if layer == module.layer_idx:
                at = (index, slice(None) if position is None else position)
                given[kind] = given[kind].clone()
                given[kind][0][at] = new[at]
        return attention(module, *given.values(), *rest, **settings)

    ALL_ATTENTION_FUNCTIONS.register("naive_attention", function)
    before = model.config._attn_implementation
    try:
        model.config._attn_implementation = "naive_attention"
        yield
    finally:
        model.config._attn_implementation = before


def activations(model, family: str, ids: Sequence[int]) -> dict[str, dict[int, Tensor]]:
    """Queries, keys and values [heads, n, head_dim] of a run, by kind and layer."""
    found: dict[str, dict[int, Tensor]] = {kind: {} for kind in KINDS}
    with patched(model, keep=found):
        naive.run_patched(model, family, ids, [])
    return found


def rows(units) -> list[tuple[str, int, int, int | None]]:
    """A table of `Units` as (kind, layer, index, position)."""
    numbers = zip(units.layer.tolist(), units.index.tolist(), units.position.tolist(), strict=True)
    return [(units.kind, layer, index, None if position < 0 else position) for layer, index, position in numbers]


def replacements(model, family, own, other, kind, ablation, reference) -> dict[int, Tensor]:
    """What a kind's activations are replaced by, [heads, n, head_dim] by layer: `naive.exact`'s ablations."""
    given = activations(model, family, own)[kind]
    if ablation == "counterfactual":
        return activations(model, family, other)[kind]
    if ablation == "zero":
        return {layer: torch.zeros_like(a) for layer, a in given.items()}
    runs = [activations(model, family, ids)[kind] for ids in reference]
    if all(len(ids) == len(own) for ids in reference):
        return {layer: sum(run[layer] for run in runs) / len(runs) for layer in given}
    means = {layer: torch.cat([run[layer] for run in runs], 1).mean(1, keepdim=True) for layer in given}
    return {layer: means[layer].expand_as(a) for layer, a in given.items()}


def exact(model, family, own, other, metric: Metric, units, ablation="counterfactual", reference=None) -> Tensor:
    """M(run of `own` with a unit patched) − M(run of `own`), [units]; NaN where the prompt has no such position."""
    new = replacements(model, family, own, other, units.kind, ablation, reference)

    def m(*patches):
        with patched(model, patches):
            return metric(naive.run_patched(model, family, own, [])[-1])

    before, effects = m(), []
    for kind, layer, index, position in rows(units):
        absent = position is not None and position >= len(own)
        effects.append(before * float("nan") if absent else m((kind, layer, index, position, new[layer])) - before)
    return torch.stack(effects)


def value_changes(model, family, own, other, units) -> list[Tensor | None]:
    """(A_patched − A) v [n, z] of each unit's layer: z with the unit's query or key patched, minus z (None: absent)."""
    new = activations(model, family, other)[units.kind]

    def z(layer, *patches):
        with patched(model, patches):
            return naive.activations(model, family, own)["z"][layer]

    changes: list[Tensor | None] = []
    for kind, layer, index, position in rows(units):
        absent = position is not None and position >= len(own)
        changes.append(None if absent else z(layer, (kind, layer, index, position, new[layer])) - z(layer))
    return changes

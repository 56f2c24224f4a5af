"""The naive reference of coalitions and of direct effects: whole-model runs in which several sites are set at once."""

from __future__ import annotations

from collections.abc import Sequence

import naive
import numpy as np
import torch
from bridges import KIND, naive_metric
from torch import Tensor


def coalition_runs(lm, task, kind: str, layers: Sequence[int], weights: np.ndarray,
                   direction="noising", ablation="counterfactual") -> Tensor:  # fmt: skip
    """Every coalition as one whole-model run with its site set to own + weight · (new − own), part by part."""
    found = torch.zeros(len(task), len(layers), dtype=torch.float64)
    for i in range(len(task)):
        clean, corrupted = task.clean[i], task.corrupted[i]
        own_ids, other_ids = (clean, corrupted) if direction == "noising" else (corrupted, clean)
        metric = naive_metric(lm, task, i)
        own, other = (naive.activations(lm.hf, lm.name, ids) for ids in (own_ids, other_ids))
        before = metric(naive.run_patched(lm.hf, lm.name, own_ids, [])[-1])
        for c, layer in enumerate(layers):
            site = naive.SITE_OF[KIND[kind]]
            a, b = own[site][layer], other[site][layer]
            share = torch.as_tensor(weights[c], dtype=a.dtype).repeat_interleave(a.shape[1] // len(weights[c]))
            new = a + share * ((0 if ablation == "zero" else b) - a)
            whole = {"z": "attn", "neurons": "neurons", "mlp": "mlps", "resid": "resid"}[site]
            logits = naive.run_patched(lm.hf, lm.name, own_ids, [(whole, layer, None, None, new)])
            found[i, c] = metric(logits[-1]) - before
    return found


def direct(model, family, clean_ids, corrupted_ids, metric, units,
           direction="noising", ablation="counterfactual") -> Tensor:  # fmt: skip
    """Each unit's effect while all later attention layers and MLPs are held at what they were, [len(units)]."""
    if direction == "denoising":
        clean_ids, corrupted_ids = corrupted_ids, clean_ids
    own, other = (naive.activations(model, family, ids) for ids in (clean_ids, corrupted_ids))
    before = metric(naive.run_patched(model, family, clean_ids, [])[-1])
    effects = []
    for kind, layer, index, position in units:
        new = other[naive.SITE_OF[kind]][layer] * (0 if ablation == "zero" else 1)
        rows, columns = naive.where(model, kind, index, position, new.shape[1])
        held = [("attn", later, None, None, own["z"][later]) for later in own["z"]
                if later > layer or (later == layer and kind == "resid")]  # fmt: skip
        held += [("mlps", later, None, None, own["mlp"][later]) for later in own["mlp"]
                 if later > layer or (later == layer and kind in ("resid", "heads", "attn"))]  # fmt: skip
        patches = [(kind, layer, index, position, new[rows, columns]), *held]
        effects.append(metric(naive.run_patched(model, family, clean_ids, patches)[-1]) - before)
    return torch.stack(effects)

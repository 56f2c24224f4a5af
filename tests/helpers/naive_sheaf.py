"""A sheaf by hand: a copy of the bare model whose weights are multiplied by masks, and plain hooks for its edges."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from naive_circuit import metrics


def masked_copy(lm, masks):
    """The model with its own weights times these numbers."""
    hf = copy.deepcopy(lm.hf)
    parameters = dict(hf.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].copy_(parameters[name] * mask)
    return replace(lm, hf=hf)


def metric(lm, task, masks, mask):
    """M of every pair under masked weights, and of edges by a mask [readers, writers]."""
    nothing = {name: torch.zeros(1, lm.width, dtype=torch.float64) for name in lm.graph.writer_names}
    return metrics(masked_copy(lm, masks), task, mask, nothing)

"""Hugging Face's own `generate`, one prompt at a time, with plain hooks that replace units at every position."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import naive
import torch
from torch import Tensor

#: (kind, layer, index, values of the prompt's positions [n, columns]); generated positions get the last one.
Edit = tuple[str, int, int | None, Tensor]


def generate(model, family: str, prompt: Sequence[int], edits: Sequence[Edit], new_tokens: int) -> list[int]:
    """Greedy continuation of one prompt; it ends with the end-of-text token if the model has one."""
    ids = torch.tensor([prompt])
    with ExitStack() as stack, torch.no_grad():
        for kind, layer, index, values in edits:

            def edit(site: Tensor, kind=kind, index=index, values=values) -> Tensor:
                columns = naive.where(model, kind, index, None, site.shape[1])[1]
                changed = site.clone()
                changed[:, columns] = values if len(site) == len(values) else values[-1:]
                return changed

            stack.callback(naive._hook(model, family, naive.SITE_OF[kind], layer, edit).remove)
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )
    return found[0, len(prompt) :].tolist()


def values(model, family: str, prompts: Sequence[Sequence[int]], kind: str, layer: int, index: int | None) -> Tensor:
    """A unit's values in the model's own runs of prompts, all positions below each other, [positions, columns]."""
    runs = [naive.activations(model, family, prompt)[naive.SITE_OF[kind]][layer] for prompt in prompts]
    return torch.cat([site[:, naive.where(model, kind, index, None, site.shape[1])[1]] for site in runs])

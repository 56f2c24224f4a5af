"""Greedy generation by a model some of whose units are replaced at every position, prompt and generated ones alike.

The model's own forward runs the prompts of one length as a batch, keeps its keys and values, and then one token at a
time; the units are replaced by hooks (`engine.joint`). The prompt's positions get the values that `vc.exact` puts
there. Generated positions get those of the prompt's last position, held: 0, the last position's mean (the mean over
positions where prompts are of several lengths), the donor's or the corrupted prompt's last value.

    token-layers: L · (positions + new tokens − 1) of every prompt and condition

A mixer has no keys and values, and how a family keeps its state is its own, so where there are mixers every token runs
all before it again: L · Σ_k (positions + k).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from veracausa.engine.joint import Replaced, Value, replacing, taking
from veracausa.engine.overrides import Override
from veracausa.engine.recording import last_position
from veracausa.engine.sharing import at_rest, from_rest

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.cost import Cost
    from veracausa.model import Model

#: What stands behind the end of a continuation that stopped by itself.
STOPPED = -1


@torch.no_grad()
def greedy(
    lm: Model,
    prompts: Int[Tensor, "prompts positions"],
    parts: Sequence[Replaced],
    new_tokens: int,
    cost: Cost,
    taken: Mapping[int, Sequence[Override]] | None = None,
) -> tuple[Int[Tensor, "prompts new"], Float[Tensor, "prompts vocabulary"]]:
    """Greedy continuations of prompts of one length, and the logits behind the prompt.

    A continuation ends with the model's end-of-text token, as in Hugging Face's `generate`; `STOPPED` follows it.
    `taken`: parts of dictionaries that take other values, by layer; not where there are mixers.
    """
    decoder, step, length = lm.decoder, prompts, prompts.shape[1]
    again = decoder.has_mixers
    kept: dict[str, Any] = {"use_cache": False} if again else {"past_key_values": DynamicCache(), "use_cache": True}
    parts = [replace(part, value=_held(part.value, length)) for part in parts] if again else parts
    ends = torch.tensor(end_tokens(lm), device=prompts.device, dtype=torch.long)
    found = torch.full((len(prompts), new_tokens), STOPPED, dtype=torch.long, device=prompts.device)
    going = torch.ones(len(prompts), dtype=torch.bool, device=prompts.device)
    first: Tensor | None = None
    with from_rest(decoder), replacing(decoder, parts), taking(decoder, taken or {}):
        for k in range(new_tokens):
            if again:
                at_rest(decoder)
            output = decoder.hf(input_ids=step, **kept, logits_to_keep=last_position(decoder, step.shape[1]))
            cost.add(len(step), step.shape[1] * lm.layers)
            logits = output.logits[:, -1]
            first = logits if first is None else first
            token = logits.argmax(-1)
            found[going, k] = token[going]
            going &= ~torch.isin(token, ends)
            if not going.any():
                break
            step = torch.cat([step, token[:, None]], 1) if again else token[:, None]
    assert first is not None
    return found, first


def new_positions(lm: Model, length: int, new_tokens: int) -> int:
    """Positions that a prompt's continuation runs through."""
    if lm.decoder.has_mixers:
        return new_tokens * length + new_tokens * (new_tokens - 1) // 2
    return length + new_tokens - 1


def _held(value: Value, length: int) -> Value:
    """A replacement of a prompt's positions, and at each position behind them as of the prompt's last."""

    def held(own: Tensor) -> Tensor:
        behind = [value(own[:, at : at + 1]) for at in range(length, own.shape[1])]
        return torch.cat([value(own[:, :length]), *behind], 1)

    return held


def end_tokens(lm: Model) -> list[int]:
    """The tokens with which this model ends a text, by its generation settings."""
    settings: Any = getattr(lm.hf, "generation_config", None) or lm.hf.config
    ends = getattr(settings, "eos_token_id", None)
    return [] if ends is None else [int(end) for end in (ends if isinstance(ends, (list, tuple)) else [ends])]

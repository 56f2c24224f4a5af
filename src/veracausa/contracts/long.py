"""Contract 12: what the engine says of a prompt longer than every length at which the model changes its behaviour.

Such lengths are the windows of sliding attention and the length from which on a rotary embedding takes other
frequencies. They are read off the configuration. Prompts have up to `LONGEST` tokens, as longer ones would take
minutes; the claim says which lengths it does not reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.contracts.chosen import Chosen, end_units, names
from veracausa.effects.exact import exact
from veracausa.engine.guard import as_found, borrowed, hooks
from veracausa.engine.sharing import from_rest
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from jaxtyping import Int

    from veracausa.model import Model

#: Tokens of the longest prompt that is tested.
LONGEST = 1024
#: Tokens where the model has no such length.
_USUAL = 48
#: Tokens beyond the length.
_BEYOND = 8


def changing_lengths(lm: Model) -> dict[str, int]:
    """Lengths at which a model changes its behaviour, by the key of its configuration."""
    config = lm.hf.config.to_dict()
    found = dict(_lengths(config))
    if any("dynamic" in str(kind) for kind in _values(config, "rope_type")):
        found["max_position_embeddings"] = config["max_position_embeddings"]
    return found


def _lengths(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _lengths(value)
        elif isinstance(value, int) and value > 1 and ("window" in key or key == "original_max_position_embeddings"):
            yield key, value


def _values(config: Mapping[str, Any], name: str) -> Iterator[Any]:
    for key, value in config.items():
        if key == name:
            yield value
        if isinstance(value, Mapping):
            yield from _values(value, name)


def reach(lm: Model) -> str:
    """How long the prompt is, and which lengths are beyond it."""
    length = _length(lm)
    beyond = [f"{key} {value:,}" for key, value in changing_lengths(lm).items() if value >= length]
    return f"{length:,} tokens" + (f", not beyond {', '.join(beyond)}" if beyond else "")


def _length(lm: Model) -> int:
    if lm.probe is not None:
        return max(lm.probe.lengths)
    within = [n for n in changing_lengths(lm).values() if n + _BEYOND <= LONGEST]
    return min(max([_USUAL, *(n + _BEYOND for n in within)]), lm.decoder.positions or LONGEST)


def long_prompts_equal_bare_runs(lm: Model, task: Task) -> float:
    """Largest error of both runs' metric and of some exact effects, scaled from the long pair's gap to `task`'s.

    The bare model runs whole prompts, without a cache, under the user's attention function.
    """
    usual = float(lm.measure(task).gap.abs().mean())
    pair = task[0] if lm.probe is not None else _long_pair(lm)
    decoder, prompts = lm.decoder, [torch.tensor(side, device=lm.device) for side in (pair.clean, pair.corrupted)]
    with borrowed(decoder), torch.no_grad():
        kept: dict[tuple[int, bool], Tensor] = {}
        clean = _bare(lm, prompts[0])
        corrupted = _bare(lm, prompts[1], lambda at, z: kept.setdefault(at, z))
        if lm.probe is None:  # what the prompt changes most
            moved = (clean - corrupted)[0]
            pair = Task("long", pair.clean, pair.corrupted, ((int(moved.argmax()),),), ((int(moved.argmin()),),))
        metric = _metric(lm, pair)
        gap = abs(metric(clean) - metric(corrupted))
        worst = 0.0
        for units in end_units(lm):
            scores = exact(lm, pair, units=names(units), show_progress=False)
            worst = max(worst, abs(float(scores.clean) - metric(clean)))
            worst = max(worst, abs(float(scores.corrupted) - metric(corrupted)))
            for unit, effect in zip(units, scores.values[0].tolist(), strict=True):

                def patched(at: tuple[int, bool], z: Tensor, unit: Chosen = unit) -> Tensor:
                    if at == (unit.layer, unit.mixer):
                        z = z.clone()
                        z[..., unit.columns] = kept[at][..., unit.columns]
                    return z

                worst = max(worst, abs(metric(_bare(lm, prompts[0], patched)) - metric(clean) - effect))
    return worst * max(usual, 1e-6) / max(gap, 1e-6)


def _long_pair(lm: Model) -> Task:
    """Random tokens that differ before the first of the lengths, and at the end for a wide gap. No answers yet."""
    length, vocabulary = _length(lm), len(lm.decoder.embeddings.weight)  # type: ignore[arg-type]
    drawn = torch.randint(vocabulary, (length + 2,), generator=torch.Generator().manual_seed(0)).tolist()
    clean, others = drawn[:length], drawn[length:]
    first = min([n for n in changing_lengths(lm).values() if n < length], default=length) // 2
    corrupted = list(clean)
    for position, other in zip((first, length - 1), others, strict=True):
        corrupted[position] = other if other != clean[position] else (other + 1) % vocabulary
    return Task("long", (tuple(clean),), (tuple(corrupted),), ((0,),), ((1,),))


def _metric(lm: Model, pair: Task) -> Callable[[Tensor], float]:
    from veracausa.tasks.metrics import metric

    kind, answers = metric(pair.metric), pair.answers((0,)).to(lm.device)
    return lambda logits: float(kind(logits if kind.vocabulary else answers.pick(logits), answers, None))


#: (layer, whether of its mixer) and what an output projection reads → what it shall read.
_Edit = Callable[[tuple[int, bool], Tensor], Tensor]


def _bare(lm: Model, ids: Int[Tensor, "1 positions"], edit: _Edit = lambda _, z: z) -> Tensor:
    """Logits of the last position, every layer's heads' values and channels passed through `edit`.

    Read off the final residual, in float32 at least (contract 11 is about that): a half type's own logits are rounded.
    """
    ends: list[Tensor] = []
    with from_rest(lm.decoder), as_found(lm.decoder) as hf:
        handles = [
            part.attention_out.register_forward_pre_hook(
                lambda _, args, at=(part.layer, part.mixing == "mixer"): (edit(at, args[0]), *args[1:])
            )
            for block in lm.decoder.blocks
            for part in block.mixers
        ]
        handles.append(lm.decoder.final_norm.register_forward_pre_hook(lambda _, args: ends.append(args[0][:, -1])))
        with hooks(*handles):
            hf(input_ids=ids, use_cache=False, logits_to_keep=1)
    return lm.decoder.logits(ends[0])

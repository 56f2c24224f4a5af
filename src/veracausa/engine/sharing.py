"""Where the prefix of two prompts may be run once for both, and continued from its keys and values.

Causality alone is not enough: a position must also be encoded as in the whole prompt. Some rotary embeddings depend on
the prompt's length ("dynamic", "longrope" beyond the original length), so a prefix that is run alone gets other
frequencies. That is found by asking, not by name: the model's own backbone runs the whole prompt, the prefix alone and
the rest behind it, with nothing computed in its blocks, and what their attention modules receive is compared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from veracausa.anatomy import Block, Decoder
from veracausa.engine.before import Kept, insist
from veracausa.engine.guard import borrowed
from veracausa.placed import home_of

if TYPE_CHECKING:
    from veracausa.tasks.task import Task

#: Names under which the families' attention modules take their cache; suffix runs bring their own past.
CACHES = ("past_key_values", "layer_past", "past_key_value", "cache_params", "use_cache", "cache_position")
#: Names under which they take what is added to scores: made anew for the keys that a run has (`anatomy.bridges`).
BIASES = ("alibi", "position_bias")


def starts(decoder: Decoder, task: Task, share: bool = True) -> tuple[int, ...]:
    """The first position that must be run for each pair: behind the prefix that both prompts share, or 0.

    Not behind the first position at which the metric is read. 0 also where `share` is False, the model looks both ways
    or caches latents, has mixers, the prompts have different lengths, or the prefix alone is not what it is in the
    prompt; and for a model without weights, which can be asked nothing. Nothing else decides about sharing.
    """
    if not (share and decoder.shares_prefixes) or home_of(decoder.hf).type == "meta":
        return (0,) * len(task)
    most = decoder.positions or max(task.lengths)
    # two whole runs where lengths differ; what cannot be run at all is left to `validate_prompts.require_readable`
    keys = {
        i: (min(first, read[0]), length)
        for i, (first, read, length) in enumerate(zip(task.first_difference, task.places, task.lengths, strict=True))
        if i not in task.uneven and length <= most
    }
    asked = {key for key in keys.values() if key[0]}
    with borrowed(decoder):
        same = _shareable(decoder, asked)
    return tuple(keys[i][0] if keys.get(i) in same else 0 for i in range(len(task)))


def starts_late(decoder: Decoder, task: Task) -> bool:
    """Whether patched rows may begin where their prompts first differ, though a recording begins with the prompt.

    Rows read what the base run has recorded before them; so it is for models that have no prefix to go on from.
    """
    return decoder.anatomy.causal and not decoder.shares_prefixes and not task.uneven


def alike(decoder: Decoder, groups: Sequence[tuple[int, int]], lengths: Sequence[int]) -> bool:
    """Whether prompts of some lengths are encoded alike where they go on to be longer: (start, length) of each group.

    Asked of the longest group for the shortest length, and of every group for where it begins.
    """
    longest = max(length for _, length in groups)
    if decoder.has_mixers:
        return False  # their states cannot be had for a prefix alone
    if decoder.positions is not None and longest > decoder.positions:
        return False  # it cannot be run at all, which `validate_prompts.require_readable` says
    asked = {*groups, *((length, longest) for length in (min(lengths),) if length < longest)}
    asked = {key for key in asked if key[0]}
    with borrowed(decoder):
        return _shareable(decoder, asked) == asked


def _shareable(decoder: Decoder, asked: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those of some (start, length) whose prefix alone is what it is in the whole prompt.

    Encodings that depend on the length do so from some length on, so what holds for the shortest prefix in the longest
    prompt holds for all between: that is asked first, and of each only where it does not hold.
    """
    with borrowed(decoder) as loan:
        wholes: dict[int, list[dict[str, Tensor]]] = {}

        def same(start: int, length: int) -> bool:
            if any(known and s <= start and length <= n for (s, n), known in loan.shares.items()):
                return True
            if (start, length) not in loan.shares:
                if length not in wholes:
                    wholes[length] = received(decoder, length)
                loan.shares[start, length] = _same_alone(decoder, wholes[length], start, length)
            return loan.shares[start, length]

        if asked:
            same(min(start for start, _ in asked), max(length for _, length in asked))
        return {key for key in asked if same(*key)}


def _same_alone(decoder: Decoder, whole: list[dict[str, Tensor]], start: int, length: int) -> bool:
    """Whether blocks receive for `start` tokens alone, and for the rest behind them, what the whole prompt gives.

    Not where they cannot be asked so: then whole prompts are run, and the guards judge.
    """
    try:
        prefix, rest = received(decoder, start), received(decoder, length - start, past=start)
    except (RuntimeError, ValueError, TypeError):
        return False
    return all(
        before.keys() == behind.keys() == every.keys()
        and all(_same(v[:, :start], before[k]) and _same(v[:, start:], behind[k]) for k, v in every.items())
        for every, before, behind in zip(whole, prefix, rest, strict=True)
    )


def received(decoder: Decoder, positions: int, past: int = 0) -> list[dict[str, Tensor]]:
    """What each attention module receives for `positions` tokens behind `past` ones: position-wise tensors by name."""
    with borrowed(decoder):
        at_rest(decoder)
        return _received(decoder, positions, past)


def at_rest(decoder: Decoder) -> None:
    """Let the next run of a borrowed model begin as every other: its modules forget how long the last prompt was.

    A rotary embedding of type "dynamic" keeps the frequencies of the longest prompt so far. What it keeps behind a
    prompt of one token depends on nothing that came before, so that is where all runs begin.
    """
    with borrowed(decoder) as loan:
        assert loan.before is not None
        if loan.rest is None:
            if loan.before.kept.buffers:
                _received(decoder, 1, 0)
            loan.rest = Kept.of(decoder.hf)
        loan.rest.restore()


@contextmanager
def from_rest(decoder: Decoder) -> Iterator[None]:
    """A borrowed model `at_rest`, for a run with hooks, which are to be set inside."""
    with borrowed(decoder):
        at_rest(decoder)
        yield


@torch.no_grad()
def _received(decoder: Decoder, positions: int, past: int) -> list[dict[str, Tensor]]:
    """The backbone runs one token id throughout; attention and MLP modules give zeros instead of computing."""
    found: list[dict[str, Tensor]] = []

    def attention(*args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        given = {str(place): value for place, value in enumerate(args)} | kwargs
        found.append(dict(_tensors({k: v for k, v in given.items() if k not in (*CACHES, *BIASES, "attention_mask")})))
        zeros = torch.zeros_like(args[0] if args else kwargs["hidden_states"])
        return zeros, *[None] * (decoder.anatomy.attention_gives - 1)

    def mixer(*args: Any, **kwargs: Any) -> Any:
        zeros, *others = attention(*args, **kwargs)
        return (zeros, *others) if decoder.anatomy.mixer_gives_two else zeros

    functions: dict[Any, Any] = {
        one.attention: mixer if one.mixing == "mixer" else attention for block in decoder.blocks for one in block.mixers
    }
    functions |= {block.mlp_end: partial(_no_mlp, decoder, block) for block in decoder.blocks}
    device = home_of(decoder.hf)
    cache = None if decoder.has_mixers else DynamicCache()
    if past and cache is not None:
        blank = torch.zeros(1, 1, past, 1, device=device)
        for layer in range(decoder.layers):
            cache.update(blank, blank, layer)
    ids = torch.zeros(1, positions, dtype=torch.long, device=device)
    with decoder.found.standing_in(functions), _without_hooks(decoder):
        decoder.backbone(input_ids=ids, **({"use_cache": False} if cache is None else caching(cache)))
    return found


def caching(cache: Any) -> dict[str, Any]:
    """How a model is called that keeps its keys and values in a cache."""
    return {"past_key_values": cache, "use_cache": True}


def _no_mlp(decoder: Decoder, block: Block, x: Tensor, *_: Any, **__: Any) -> Any:
    """Zeros in the shape of an MLP's output, with whatever its block may want to have beside them."""
    zeros = x.new_zeros(*x.shape[:-1], decoder.width)
    return (zeros, None) if decoder.anatomy.gives_two and block.has_experts else zeros


@contextmanager
def _without_hooks(decoder: Decoder) -> Iterator[None]:
    """Nothing is computed in the blocks, so hooks there, ours and the user's, have nothing to see."""
    modules = [m for block in decoder.blocks for m in block.module.modules()] + [decoder.final_norm]
    own = [(m, m._forward_hooks, m._forward_pre_hooks) for m in modules if m._forward_hooks or m._forward_pre_hooks]

    def restore() -> None:
        for module, after, before in own:
            module._forward_hooks, module._forward_pre_hooks = after, before

    try:
        for module, _, _ in own:
            module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        insist(restore)


def _tensors(given: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Position-wise tensors ([1, positions, …]) among a call's arguments, also those in tuples."""
    for name, value in given.items():
        if isinstance(value, Tensor) and value.ndim >= 2:
            yield name, value
        elif isinstance(value, tuple):
            yield from _tensors({f"{name}.{part}": inner for part, inner in enumerate(value)})


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding."""
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    allowed = 10 * torch.finfo(one.dtype).eps * max(1.0, float(one.abs().max()))
    return float((one - other).abs().max()) <= allowed

"""Recording: the model's own forward over the pairs of a bucket, watched by hooks (`watching`), written on a tape.

Pairs are batched only with pairs of the same length and the same first differing position, so no run of veracausa
ever holds a padding token. The prefix that both prompts share is run once; the clean and the corrupted run continue
from its keys and values ("only what can change", exact by causality). Both are the model's own forward, with the
user's attention implementation.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from veracausa.anatomy import Decoder
from veracausa.anatomy.own_inputs import from_tokens
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function, attention_name, hooks, loan_of
from veracausa.engine.memory import memory_errors
from veracausa.engine.sharing import caching, from_rest
from veracausa.engine.tape import BY_OURS, State, Tape
from veracausa.engine.watching import watch
from veracausa.errors import NumericsError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def record(
    decoder: Decoder,
    ids: Int[Tensor, "examples positions"] | None,
    *,
    embeddings: Float[Tensor, "examples positions width"] | None = None,
    prefix: State | None = None,
    sites: Collection[str] = (),
    grad: bool = False,
    logits: bool = False,
    cost: Cost | None = None,
) -> tuple[State, list[dict[str, Any]]]:
    """Run the model's own backbone over `ids`, continuing from `prefix`, and write down what it does.

    Args:
        decoder: the model's anatomy.
        ids: tokens of the positions to run, or None if `embeddings` are given.
        embeddings: run these instead of tokens' embeddings.
        prefix: a recorded run of all earlier positions (its keys and values are used), or None.
        sites: which of the `Site`s to keep, beside the residual stream.
        grad: keep the graph, so that `torch.autograd.grad` reaches every recorded tensor.
        logits: keep the bare model's logits at the last position, too.
        cost: where to count the token-layers.

    Raises:
        NumericsError: NaN or infinity; names the first layer where it appears.
        OutOfMemoryError: this batch does not fit.
    """
    with from_rest(decoder):
        return _recorded(decoder, ids, embeddings, prefix, sites, grad, logits, cost)


def _recorded(
    decoder: Decoder,
    ids: Tensor | None,
    embeddings: Tensor | None,
    prefix: State | None,
    sites: Collection[str],
    grad: bool,
    logits: bool,
    cost: Cost | None,
) -> tuple[State, list[dict[str, Any]]]:
    """`record` of a borrowed model at rest."""
    state = State(sites={site: [] for site in sites}, codes=decoder.codes)
    watches_keys = decoder.caches_latents or decoder.has_mixers
    if watches_keys:
        state.sites |= {site: [] for site in ("keys", "values") if site not in sites}
    calls: list[dict[str, Any]] = []
    cache = DynamicCache()
    if prefix is not None:
        each = decoder.cached_heads // decoder.kv_heads
        for layer, parts in enumerate(zip(prefix.keys, prefix.values, strict=True)):
            if decoder.key_sources[layer] != layer:
                continue
            keys, values = (part if each == 1 else part.repeat_interleave(each, 1) for part in parts)
            cache.update(keys, values, layer)
    if embeddings is None:
        embeddings = decoder.embedded(ids).requires_grad_(grad) if grad and ids is not None else None
    else:
        decoder.require_stream_alone("a path over the input")
    rows, positions = (embeddings if ids is None else ids).shape[:2]  # type: ignore[union-attr]
    inputs: dict[str, Any] = {"input_ids": ids} if embeddings is None else {"inputs_embeds": embeddings}
    watched, what = hooks(*watch(decoder, state, calls)), f"Recording {rows} prompts of {positions} tokens"
    inside = attention_function(decoder, SUFFIX) if set(BY_OURS) & set(state.sites) else nullcontext()
    inputs |= {"use_cache": False} if decoder.has_mixers else caching(cache)
    has_own = decoder.blocks[0].own_inputs is not None and "inputs_embeds" in inputs
    own = from_tokens(decoder.backbone, decoder.anatomy.own_input if has_own else None, ids)
    with inside, watched, own as beside, torch.set_grad_enabled(grad), memory_errors(what):
        if logits:
            output = decoder.hf(**inputs, **beside, logits_to_keep=last_position(decoder, positions))
            state.logits = output.logits[:, -1].detach()
        else:
            decoder.backbone(**inputs, **beside)
    layers: list[Any] = cache.layers
    if watches_keys:
        state.keys, state.values = state.sites["keys"], state.sites["values"]
        state.sites = {site: state.sites[site] for site in sites}
    else:
        each = decoder.cached_heads // decoder.kv_heads
        state.keys = [layer.keys if each == 1 else layer.keys[:, ::each] for layer in layers]
        state.values = [layer.values if each == 1 else layer.values[:, ::each] for layer in layers]
        if decoder.shares_keys:
            state.keys, state.values = ([own[at] for at in decoder.key_sources] for own in (state.keys, state.values))
    if cost is not None:
        cost.add(rows, positions * decoder.layers)
    _require_finite(state)
    return state, calls


def last_position(decoder: Decoder, positions: int) -> int | Tensor:
    """`logits_to_keep` for the last position. Gemma 4 runs its last blocks at no others, if it is given as a number."""
    return torch.tensor([positions - 1], device=decoder.found.home) if decoder.shares_keys else 1


def _require_finite(state: State) -> None:
    for layer, residual in enumerate(state.residual):
        if not torch.isfinite(residual).all():
            where = "the embeddings" if layer == 0 else f"block {layer - 1}"
            raise NumericsError(
                f"NaN or infinity in the residual stream after {where}. Check the weights of that part, or run in "
                "float32 (bfloat16 and float16 overflow on some models)."
            )


def record_pairs(
    decoder: Decoder,
    clean: Int[Tensor, "examples positions"],
    corrupted: Int[Tensor, "examples positions"],
    start: int,
    *,
    examples: tuple[int, ...],
    tail: int = 1,
    sites: Collection[str] = (),
    grad: Literal["clean", "corrupted"] | None = None,
    beside_graph: Collection[str] = (),
    cost: Cost | None = None,
) -> Tape:
    """Record both runs of a bucket, sharing the prefix of `start` positions.

    `grad` names the run that keeps its graph, if any, and `beside_graph` what that run keeps beside the `sites`. The
    clean run keeps the bare model's logits, for `validate`. Where recordings are shared (`guard.shared`), runs that an
    earlier call has recorded are taken from it, and counted.
    """
    if cost is not None:
        cost.add(len(clean), (2 * clean.shape[1] - start) * decoder.layers)
    shelf, key = loan_of(decoder).shelf, _key(decoder, clean, corrupted, start, sites)
    known: Tape | None = shelf.get(key) if shelf else None
    covered = known is not None and set(sites) <= set(known.clean.sites)
    if known is not None and covered and grad is None:
        own = _read_by(decoder, known)
        return replace(known, examples=examples, tail=tail, clean=own["clean"], corrupted=own["corrupted"])
    kept = set(sites) | set(known.clean.sites) if known and grad is None else sites
    prefix = known.prefix if known else _prefix(decoder, clean[:, :start])
    states: dict[str, State] = {}
    calls: list[dict[str, Any]] = []
    for name, ids in (("clean", clean), ("corrupted", corrupted)):
        if known is not None and covered and grad != name:
            states[name], calls = _read_by(decoder, known)[name], known.calls
        else:
            watched = {*kept, *(beside_graph if grad == name else ())}
            states[name], calls = record(
                decoder, ids[:, start:], prefix=prefix, sites=watched, grad=grad == name, logits=name == "clean"
            )
    tape = Tape(
        examples, (clean, corrupted), start, clean.shape[1], states["clean"], states["corrupted"], calls, prefix, tail
    )
    if shelf and grad is None:
        shelf.put(key, tape, tape.nbytes)
    return tape


def _read_by(decoder: Decoder, tape: Tape) -> dict[str, State]:
    """Both runs of a tape that another call recorded, with the dictionaries of this one."""
    runs = {"clean": tape.clean, "corrupted": tape.corrupted}
    return {name: replace(run, codes=decoder.codes, coded={}) for name, run in runs.items()} if decoder.codes else runs


def _key(decoder: Decoder, clean: Tensor, corrupted: Tensor, start: int, sites: Collection[str]) -> Hashable:
    """All that a recording without gradients depends on, but for the sites that it keeps."""
    name = SUFFIX if set(BY_OURS) & set(sites) else attention_name(decoder)
    return "tape", name, start, *(tuple(map(tuple, ids.tolist())) for ids in (clean, corrupted))


def _prefix(decoder: Decoder, ids: Tensor) -> State | None:
    """Keys and values of the tokens that both prompts begin with; None if there are none."""
    if not ids.shape[1]:
        return None
    state, _ = record(decoder, ids)
    return State(keys=state.keys, values=state.values)

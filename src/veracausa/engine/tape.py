"""The tape: what the clean and the corrupted run did, for pairs that can share one batch.

Pairs are batched only with pairs of the same length and the same first differing position, so no run of veracausa
ever holds a padding token. The prefix that both prompts share is run once; the clean and the corrupted run continue
from its keys and values ("only what can change", exact by causality). Both are the model's own forward, with the
user's attention implementation, watched by hooks.

A `State` holds one run at positions start … n − 1. Its tensors carry gradients if it was recorded with `grad=True`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from veracausa.anatomy import Block, Decoder, NoNorm
from veracausa.anatomy.beside import NormedMLPs
from veracausa.anatomy.mixture import Mixture
from veracausa.anatomy.own_inputs import from_tokens
from veracausa.cost import Cost
from veracausa.dictionaries.code import Code
from veracausa.engine.adapted import keep_adapters
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function, attention_name, changing, giving, hooks, loan_of
from veracausa.engine.memory import memory_errors
from veracausa.engine.sharing import BIASES, CACHES, caching, from_rest
from veracausa.engine.standing_in import StandingIn
from veracausa.errors import ContractError, NumericsError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


#: What a tape can hold of each layer beside the residual stream and the keys and values.
#: z: input of the output projection (heads' values); neurons: input of the down projection;
#: attention, mlp: outputs of the attention's output projection and of the MLP module, before any post-norm.
#: queries, keys, values: what the attention function is given, [B, heads, …, head_dim], behind rotation and norms;
#: keys and values with the prefix; pattern: its softmax, [B, heads, S, keys], keys with the prefix. All four are
#: recorded by our own attention function (see `attention.suffix_attention`).
#: attention_in, mlp_in: outputs of the norms before attention and MLP; q_out, k_out, v_out: outputs of the projections
#: (one and the same tensor where a family fuses them).
#: experts: what each chosen expert adds to the MLP's output, [B, S, chosen, width] (chosen 0 where there are none), and
#: choice: which experts these are, [B, S, chosen]; both are recorded together, without a graph. router: the
#: router's logits, [B, S, experts] (none where there is no router). inside, weights: the activations of the chosen
#: experts' neurons, [B, S, chosen, neurons], and what the experts' outputs are weighted with, [B, S, chosen].
#: adapters: what LoRA adapters add to the outputs of a block's maps, side by side; adapted: see `adapted`. mlp_beside:
#: the stream that experts beside an MLP read, as a tensor of its own in the graph (an empty list where none do).
#: Of a mixer: channels, mixed: input and output of its output projection, in the place of z and attention; mixer_in:
#: what it is given; gate: what its channels are gated with, before any activation.
Site = Literal[
    "z", "neurons", "attention", "mlp", "queries", "keys", "values", "pattern",
    "attention_in", "mlp_in", "q_out", "k_out", "v_out", "experts", "choice", "router", "inside", "weights",
    "adapters", "adapted", "channels", "mixed", "mixer_in", "gate", "mlp_beside",
]  # fmt: skip
#: In a recorded call of an attention: that of the mixer beside it.
BESIDE = "beside"

IN_ATTENTION = ("queries", "keys", "values")
#: All that our attention function records.
BY_OURS = (*IN_ATTENTION, "pattern")
_PROJECTED = ("q_out", "k_out", "v_out")


@dataclass
class State:
    """Activations of one run at positions start … n − 1 of B examples.

    `residual[l]`: input of block l, and of the final norm for l = L, each [B, S, width]. `middle[l]`: what block l's
    MLP norm reads. `sites[site][l]`: [B, S, …]. `keys[l]`, `values[l]`: [B, kv_heads, n, head_dim], prefix included.
    `attention[l]`: settings of the attention function (scaling, …), kept with queries, keys and values. `logits`: the
    bare model's own at the last position, [B, vocabulary], if they were asked for. `given[l]`: block l's own input,
    [B, S, own], where blocks have some (see `anatomy.own_inputs`). `experts`: how many an MLP has.
    `codes`: dictionaries laid on the model, and `coded`: what was read by them (see `coded`).
    """

    residual: list[Tensor] = field(default_factory=list)
    middle: list[Tensor] = field(default_factory=list)
    sites: dict[str, list[Tensor]] = field(default_factory=dict)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    attention: list[dict[str, Any]] = field(default_factory=list)
    logits: Tensor | None = None
    given: list[Tensor] = field(default_factory=list)
    experts: int = 0
    codes: Mapping[tuple[str, int], Code] = field(default_factory=dict)
    coded: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @property
    def last(self) -> Float[Tensor, "examples width"]:
        """The final residual at the last position."""
        return self.residual[-1][:, -1]

    def own_input(self, layer: int, example: Tensor | slice, positions: int) -> Tensor | None:
        """A block's own input of some examples at that many last positions; None where it has none."""
        return self.given[layer][example, -positions:] if self.given else None

    def end(self, positions: int) -> Float[Tensor, "examples tail width"]:
        """The final residual at that many last positions."""
        return self.residual[-1][:, -positions:]

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        lists = [self.residual, self.middle, self.keys, self.values, self.given, *self.sites.values()]
        return sum(tensor.nbytes for tensors in lists for tensor in tensors)


@dataclass
class Tape:
    """Clean and corrupted run of B pairs of one length n that first differ at `start`.

    Where their prompts have different lengths, both runs are whole, and n and `tail` are those of the run that is
    patched (see `measure.apart`).

    `examples`: their indices in the task. `tokens`: clean and corrupted ids, [B, n] each. `calls[l]`: keyword arguments
    of layer l's attention module for the positions start … n − 1, and under `BESIDE` of the mixer that stands beside
    it, if one does (see `call`). `prefix`: keys and values of the positions before
    `start`. `tail`: last positions from the first on at which the metric of any pair is read; what runs of the bucket
    give back. Known of this very recording, so that calls that share it don't ask twice: `checked`: the places whose
    writes are what the weights say (`validate`); `ends`: the final residual of the engine's own run, by run and tail;
    `restarts`: layers whose mixers go on from what they carry, or don't (`restart`).
    """

    examples: tuple[int, ...]
    tokens: tuple[Tensor, Tensor]
    start: int
    length: int
    clean: State
    corrupted: State
    calls: list[dict[str, Any]]
    prefix: State | None = None
    tail: int = 1
    checked: set[str] = field(default_factory=set)
    ends: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    restarts: dict[int, bool] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(state.nbytes for state in (self.clean, self.corrupted, self.prefix) if state is not None)

    def call(self, block: Block) -> dict[str, Any]:
        """How a block's attention or mixer was called; of a mixer beside an attention: how that was."""
        own = self.calls[block.layer]
        if BESIDE in own and block.mixing == "mixer":
            found: dict[str, Any] = own[BESIDE]
            return found
        return {name: value for name, value in own.items() if name != BESIDE}

    def keeping(self, sites: Mapping[str, Collection[str]]) -> Tape:
        """The same with some sites of its runs alone; run ("clean", "corrupted") → what it keeps."""

        def of(side: str, state: State) -> State:
            return replace(state, sites={site: state.sites[site] for site in sites[side]})

        return replace(self, clean=of("clean", self.clean), corrupted=of("corrupted", self.corrupted))


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


def watch(decoder: Decoder, state: State, calls: list[dict[str, Any]]) -> list[Any]:
    """Hooks that fill `state` and `calls`, in the order in which the modules run."""

    def keep(x: Tensor, into: list[Tensor]) -> Tensor:
        """`x` is written down, with rows and positions apart if a block has joined them for its MLP."""
        if x.ndim == 3:
            into.append(x)
            return x
        into.append(x.unflatten(0, state.residual[-1].shape[:2]))
        return into[-1].flatten(0, 1)

    def keep_whole(x: Tensor, into: list[Tensor]) -> Tensor:
        """What an MLP gave, also where its block adds to it in place."""
        given = keep(x, into)
        return given.clone() if decoder.anatomy.adds_in_place else given

    def keep_input(into: list[Tensor]) -> Any:
        return lambda _, args: (keep(args[0], into), *args[1:])

    def keep_output(into: list[Tensor]) -> Any:
        return lambda _, __, output: keep(output, into)

    def keep_attention(bias: Tensor | None, into: list[Tensor]) -> Any:
        """With what the block adds to it before it writes."""
        if bias is None:
            return keep_output(into)

        def kept(_: Any, __: Any, output: Tensor) -> Tensor:
            into.append(output + bias)
            return StandingIn.apply(output, into[-1]) if output.requires_grad else output

        return kept

    def keep_projected(into: list[Tensor]) -> Any:
        """What a projection gave, also where the attention changes it in place behind that."""

        def kept(_: Any, __: Any, output: Tensor) -> Tensor:
            into.append(output)
            return output.clone() if decoder.clips else output

        return kept

    def keep_read(norm: nn.Module, part: nn.Module, into: list[Tensor]) -> Any:
        """What a sublayer reads: the input of its norm, or its own where it has no norm."""
        if not isinstance(norm, NoNorm):
            return norm.register_forward_pre_hook(keep_input(into))
        return part.register_forward_pre_hook(giving(lambda x: keep(x, into)), with_kwargs=True)

    def keep_shared(block: Block) -> list[Any]:
        """What one norm for both is given: it runs once in the model's own block, once for each in one of ours."""
        given: list[Tensor] = []

        def hand(into: list[Tensor]) -> Any:
            def kept(*_: Any) -> None:
                if not given:
                    raise ContractError(
                        f"The norm that serves attention and MLP of block {block.layer} does not run before them, so "
                        "this model is not built as veracausa has it and nothing is returned. Run lm.check()."
                    )
                into.append(given[0])

            return kept

        return [
            block.attention_norm.register_forward_pre_hook(lambda _, args: given.__setitem__(slice(None), [args[0]])),
            block.attention.register_forward_pre_hook(hand(state.residual)),
            block.mlp_start.register_forward_pre_hook(hand(state.middle)),
        ]

    def keep_given(block: Block, site: str, into: list[Tensor]) -> Any:
        """What attention or MLP is given behind the norm, as a tensor of its own in the graph.

        (A norm that is the identity would hand on the stream itself, and one norm may serve both.)
        """
        attention = site == "attention_in"
        norm, part = (block.attention_norm, block.attention) if attention else (block.mlp_norm, block.mlp)

        def view(x: Tensor) -> Tensor:
            return keep(x.view_as(x), into)

        if block.one_norm or isinstance(norm, NoNorm):
            return part.register_forward_pre_hook(giving(view), with_kwargs=True)
        return norm.register_forward_hook(lambda _, __, output: view(output))

    alike: dict[int, tuple[Tensor, Tensor]] = {}

    def shared(value: Any) -> Any:
        """What is the same for all examples, once, so that it serves any number of rows; all layers are given one."""
        if isinstance(value, tuple):
            return tuple(shared(part) for part in value)
        if not isinstance(value, Tensor) or value.ndim < 3 or value.shape[0] == 1:
            return value
        if id(value) not in alike:
            same = bool((value == value[:1]).all())
            alike[id(value)] = value, value[:1] if same else value
        return alike[id(value)][1]

    def keep_mixer(mixer: Block, site: str, into: list[Tensor]) -> Any:
        if site == "mixer_in":
            view = giving(lambda x: keep(x.view_as(x), into))
            return mixer.attention.register_forward_pre_hook(view, with_kwargs=True)
        if site == "gate":
            return _keep_gate(mixer, into)
        if site == "channels":
            return mixer.attention_out.register_forward_pre_hook(keep_input(into))
        return mixer.attention_out.register_forward_hook(keep_output(into))

    def keep_call(block: Block, keep: Callable[[dict[str, Any]], Any]) -> Any:
        dropped = {*CACHES, *BIASES, "hidden_states", "attention_mask", "rule", "keep", "change", "look"}
        if block.mixing == "mixer":  # which may keep states unless it is told not to
            dropped.remove("use_cache")

        def kept(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
            called = {name: shared(value) for name, value in kwargs.items() if name not in dropped}
            called |= {"shared_kv_states": {}} if "shared_kv_states" in called else {}  # rows have their own (`suffix`)
            keep(called | ({"attention_mask": None} if block.mixing == "mixer" else {}))

        return block.attention.register_forward_pre_hook(kept, with_kwargs=True)

    def keep_calls(block: Block) -> list[Any]:
        """How an attention and the mixer beside it are called, whichever comes first."""
        if block.beside is None:
            return [keep_call(block, calls.append)]
        aside: dict[str, Any] = {}
        own = keep_call(block, lambda called: calls.append(called | {BESIDE: aside}))
        return [own, keep_call(block.beside, aside.update)]

    handles: list[Any] = []
    for block in decoder.blocks:
        handles += _without(block, state, calls, keep)
        if block.own_inputs is not None:
            handles.append(block.module.register_forward_pre_hook(lambda _, args: state.given.append(args[1].detach())))
        if block.mixing != "nothing":
            handles += keep_calls(block)
        if block.one_norm:
            handles += keep_shared(block)
        else:
            if block.mixing != "nothing":
                handles.append(keep_read(block.attention_norm, block.attention, state.residual))
            if block.has_mlp:
                handles.append(keep_read(block.mlp_norm, block.mlp, state.middle))
        if "adapters" in state.sites:
            handles += keep_adapters(block, state.residual, state.sites)
        for site, into in state.sites.items():
            if site in blank_sites(block):
                continue
            if site == "z":
                handles.append(block.attention_out.register_forward_pre_hook(keep_input(into)))
            elif site == "neurons":
                handles.append(block.mlp_out.register_forward_pre_hook(keep_input(into)))
            elif site == "attention":
                handles.append(block.attention_out.register_forward_hook(keep_attention(block.attention_bias, into)))
            elif site == "mlp":
                handles.append(changing(block.mlp_end, partial(keep_whole, into=into)))
            elif site in ("attention_in", "mlp_in"):
                handles.append(keep_given(block, site, into))
            elif site == "experts":
                state.experts = decoder.experts
                handles.append(_keep_experts(block, state))
            elif site == "router":
                handles += _keep_router(block, partial(keep, into=into), into)
            elif block.mixer is not None and site in _MIXER_SITES:
                handles.append(keep_mixer(block.mixer, site, into))
            elif site == "mlp_beside":
                handles += block.mlp.reading(partial(keep, into=into))  # type: ignore[operator]
            elif site in _PROJECTED:
                handles.append(block.projections[_PROJECTED.index(site)].register_forward_hook(keep_projected(into)))
        if block.mixing == "attention" and any(site in state.sites for site in BY_OURS):
            handles.append(block.attention.register_forward_pre_hook(_keeping(state), with_kwargs=True))
    handles.append(decoder.final_norm.register_forward_pre_hook(keep_input(state.residual)))
    return handles


def _keep_experts(block: Block, state: State) -> Any:
    """A hook that records what each chosen expert adds to an MLP's output; nothing of an MLP that has none."""
    mixture, inside = block.mixture, "inside" in state.sites

    def keep(**found: Tensor) -> None:
        for site, values in found.items():
            state.sites[site].append(values.unflatten(0, state.residual[-1].shape[:2]))

    def nothing(_: Any, __: Any, output: Any) -> None:
        like = (output[0] if isinstance(output, tuple) else output).detach().flatten(0, -2)
        none = like.new_zeros(len(like), 0)
        keep(experts=like.new_zeros(len(like), 0, like.shape[-1]), choice=none.long())
        if inside:
            keep(inside=none[..., None], weights=none)

    if mixture is None:
        return block.mlp_end.register_forward_hook(nothing)
    experts: Mixture = mixture

    def kept(_: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], __: Any) -> None:
        tokens, choice, weights = (*args, *kwargs.values())
        tokens = tokens.flatten(0, -2)
        keep(experts=experts.contributions(block.found, tokens, choice, weights), choice=choice)
        if inside:
            activations = experts.activations(block.found, tokens, choice, weights)
            keep(inside=activations, weights=weights.detach())

    return mixture.experts.register_forward_hook(kept, with_kwargs=True)


def _keep_gate(block: Block, into: list[Tensor]) -> Any:
    """A hook that records a mixer's gate, as a tensor of its own in the graph."""
    assert block.gate is not None
    own = block.gate_numbers

    def kept(output: Tensor) -> Tensor:
        into.append(output[..., own].clone())
        return torch.cat([output[..., : own.start], into[-1], output[..., own.stop :]], -1)

    return changing(block.gate, kept)


def _keep_router(block: Block, keep: Callable[[Tensor], Tensor], into: list[Tensor]) -> list[Any]:
    """Hooks that record a router's logits; nothing of an MLP that has none."""

    def nothing(_: Any, args: tuple[Tensor, ...]) -> None:
        into.append(args[0].new_zeros(*args[0].shape[:2], 0))

    if block.mixture is None:
        return [block.mlp_start.register_forward_pre_hook(nothing)]
    return block.mixture.routing(keep)


#: Sites of what mixes the positions, and of the MLP.
_OF_ATTENTION = ("z", "attention", *_PROJECTED, *BY_OURS)
_MIXER_SITES = ("channels", "mixed", "mixer_in", "gate")
_MIXING_SITES = ("attention_in", *_OF_ATTENTION, *_MIXER_SITES)
_MLP_SITES = ("neurons", "mlp", "mlp_in", "experts", "choice", "router", "inside", "weights")


def blank_sites(block: Block) -> tuple[str, ...]:
    """Sites that a block has not: of an attention where there is a mixer, of a sublayer where there is none."""
    gate = () if block.mixer is not None and block.mixer.gate is not None else ("gate",)
    of_attention = gate if block.beside is not None else _MIXER_SITES
    of_mixer = (*gate, *_OF_ATTENTION)
    mixing = {"attention": of_attention, "mixer": of_mixer, "nothing": _MIXING_SITES}[block.mixing]
    blank = mixing if block.has_mlp else (*mixing, *_MLP_SITES)
    return blank if isinstance(block.mlp, NormedMLPs) else (*blank, "mlp_beside")


def _without(
    block: Block, state: State, calls: list[dict[str, Any]], keep: Callable[[Tensor, list[Tensor]], Tensor]
) -> list[Any]:
    """Hooks of a block that lacks an attention or an MLP: what it has not is written down as nothing.

    Of a stream that no sublayer changes on the way, both of its recorded places are one tensor.
    """
    blank = [site for site in blank_sites(block) if site in state.sites and site != "mlp_beside"]

    def begin(x: Tensor) -> Tensor:
        for site in blank:
            state.sites[site].append(_nothing_at(site, x))
        if set(blank) & set(BY_OURS):
            state.attention.append({})
        if block.mixing == "nothing":
            calls.append({})
            keep(x, state.residual)
        return x

    handles = []
    if blank or block.mixing == "nothing":
        handles.append(block.module.register_forward_pre_hook(giving(begin), with_kwargs=True))
    if not block.has_mlp:
        handles.append(changing(block.module, lambda output: keep(output, state.middle)))
    return handles


def _nothing_at(site: str, x: Float[Tensor, "rows positions width"]) -> Tensor:
    """What is recorded at a site that a block has not: no heads, no neurons, a write of zeros."""
    rows, positions, width = x.shape
    if site in BY_OURS:
        return x.new_zeros(rows, 0, positions, 0)
    if site in ("experts", "inside"):
        return x.new_zeros(rows, positions, 0, width if site == "experts" else 0)
    if site == "choice":
        return torch.zeros(rows, positions, 0, dtype=torch.long, device=x.device)
    return x.new_zeros(rows, positions, width if site in ("attention", "mlp", "attention_in", "mlp_in") else 0)


def whole_middles(decoder: Decoder, middle: list[Tensor], stream: list[Tensor]) -> list[Tensor]:
    """Gradients of the stream between attention and MLP, of those of a run's `middle` and `residual`.

    Where a block joins rows and positions for its MLP, `middle` stands in the graph beside the stream, and its gradient
    is what comes through the MLP alone.
    """
    return [m + s for m, s in zip(middle, stream[1:], strict=True)] if decoder.anatomy.joins_rows else middle


def _keeping(state: State) -> Any:
    """A hook that lets our attention function record what it is given, and its patterns, at the positions it runs."""

    def keep(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> None:
        for site, heads in (("queries", query), ("keys", key), ("values", value)):
            if site in state.sites:
                state.sites[site].append(heads)
        state.attention.append(settings)

    def look(pattern: Tensor) -> Tensor:
        state.sites["pattern"].append(pattern)
        return pattern

    asked = {"keep": keep} | ({"look": look} if "pattern" in state.sites else {})
    return lambda _, args, kwargs: (args, kwargs | asked)


def _require_finite(state: State) -> None:
    for layer, residual in enumerate(state.residual):
        if not torch.isfinite(residual).all():
            where = "the embeddings" if layer == 0 else f"block {layer - 1}"
            raise NumericsError(
                f"NaN or infinity in the residual stream after {where}. Check the weights of that part, or run in "
                "float32 (bfloat16 and float16 overflow on some models)."
            )


def slice_call(call: dict[str, Any], start: int, behind: int | None = None) -> dict[str, Any]:
    """A recorded attention call for its positions from `start` on (dimension 1 of every position-wise tensor).

    `behind`: the first position that is left out again, if any.
    """

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim >= 2:
            return value[:, start:behind]
        if isinstance(value, tuple):
            return tuple(cut(part) for part in value)
        return value

    return call if start == 0 and behind is None else {name: cut(value) for name, value in call.items()}


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

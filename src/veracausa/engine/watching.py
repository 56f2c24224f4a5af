"""What a run does, written down by hooks on the model's own modules; of what a block lacks, nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from veracausa.anatomy import Block, Decoder, NoNorm
from veracausa.anatomy.beside import NormedMLPs
from veracausa.anatomy.maps import module_of
from veracausa.anatomy.mixture import Mixture
from veracausa.engine.adapted import keep_adapters
from veracausa.engine.guard import changing, giving
from veracausa.engine.sharing import BIASES, CACHES
from veracausa.engine.standing_in import StandingIn
from veracausa.engine.tape import BESIDE, BY_OURS, State
from veracausa.errors import ContractError

if TYPE_CHECKING:
    from jaxtyping import Float

_PROJECTED = ("q_out", "k_out", "v_out")
#: Outputs of the maps into an MLP.
_INTO_MLP = ("up_out", "gate_out")
#: Sites of what mixes the positions, and of the MLP.
_OF_ATTENTION = ("z", "attention", *_PROJECTED, *BY_OURS)
_MIXER_SITES = ("channels", "mixed", "mixer_in", "gate")
_MIXING_SITES = ("attention_in", *_OF_ATTENTION, *_MIXER_SITES)
_MLP_SITES = ("neurons", "mlp", "mlp_in", "experts", "choice", "router", "inside", "weights", *_INTO_MLP)


def blank_sites(block: Block) -> tuple[str, ...]:
    """Sites that a block has not: of an attention where there is a mixer, of a sublayer where there is none."""
    gate = () if block.mixer is not None and block.mixer.gate is not None else ("gate",)
    of_attention = gate if block.beside is not None else _MIXER_SITES
    of_mixer = (*gate, *_OF_ATTENTION)
    mixing = {"attention": of_attention, "mixer": of_mixer, "nothing": _MIXING_SITES}[block.mixing]
    blank = mixing if block.has_mlp else (*mixing, *_MLP_SITES)
    return blank if isinstance(block.mlp, NormedMLPs) else (*blank, "mlp_beside")


def watch(decoder: Decoder, state: State, calls: list[dict[str, Any]]) -> list[Any]:
    """Hooks that fill `state` and `calls`, in the order in which the modules run."""
    watching = Watch(decoder, state, calls)
    handles = [handle for block in decoder.blocks for handle in watching.of(block)]
    return [*handles, decoder.final_norm.register_forward_pre_hook(watching.keep_input(state.residual))]


@dataclass(eq=False)
class Watch:
    """What is watched: a decoder's blocks, by hooks that fill `state` and `calls`."""

    decoder: Decoder
    state: State
    calls: list[dict[str, Any]]
    alike: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def of(self, block: Block) -> list[Any]:
        """A block's hooks."""
        state, handles = self.state, self.without(block)
        if block.own_inputs is not None:
            handles.append(block.module.register_forward_pre_hook(lambda _, args: state.given.append(args[1].detach())))
        if block.mixing != "nothing":
            handles += self.keep_calls(block)
        handles += self.keep_stream(block)
        if "adapters" in state.sites:
            handles += keep_adapters(block, state.residual, state.sites)
        blank = blank_sites(block)
        for site, into in state.sites.items():
            if site not in blank:
                handles += self.keep_site(block, site, into)
        if block.mixing == "attention" and any(site in state.sites for site in BY_OURS):
            handles.append(block.attention.register_forward_pre_hook(self.keep_attended(), with_kwargs=True))
        return handles

    # ---- one tensor ------------------------------------------------------------------------------------------------

    def keep(self, x: Tensor, into: list[Tensor]) -> Tensor:
        """`x` is written down, with rows and positions apart if a block has joined them for its MLP."""
        if x.ndim == 3:
            into.append(x)
            return x
        into.append(x.unflatten(0, self.state.residual[-1].shape[:2]))
        return into[-1].flatten(0, 1)

    def keep_input(self, into: list[Tensor]) -> Any:
        """What a module is given."""
        return lambda _, args: (self.keep(args[0], into), *args[1:])

    def keep_output(self, into: list[Tensor]) -> Any:
        """What it gives."""
        return lambda _, __, output: self.keep(output, into)

    def keep_view(self, x: Tensor, into: list[Tensor]) -> Tensor:
        """`x` as a tensor of its own in the graph."""
        return self.keep(x.view_as(x), into)

    # ---- the stream, and how what mixes positions is called --------------------------------------------------------

    def keep_stream(self, block: Block) -> list[Any]:
        """What attention and MLP read of the stream."""
        if block.one_norm:
            return self.keep_shared(block)
        handles = []
        if block.mixing != "nothing":
            handles.append(self.keep_read(block.attention_norm, block.attention, self.state.residual))
        if block.has_mlp:
            handles.append(self.keep_read(block.mlp_norm, block.mlp, self.state.middle))
        return handles

    def keep_read(self, norm: nn.Module, part: nn.Module, into: list[Tensor]) -> Any:
        """What a sublayer reads: the input of its norm, or its own where it has no norm."""
        if not isinstance(norm, NoNorm):
            return norm.register_forward_pre_hook(self.keep_input(into))
        return part.register_forward_pre_hook(giving(partial(self.keep, into=into)), with_kwargs=True)

    def keep_shared(self, block: Block) -> list[Any]:
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
            block.attention.register_forward_pre_hook(hand(self.state.residual)),
            block.mlp_start.register_forward_pre_hook(hand(self.state.middle)),
        ]

    def shared(self, value: Any) -> Any:
        """What is the same for all examples, once, so that it serves any number of rows; all layers are given one."""
        if isinstance(value, tuple):
            return tuple(self.shared(part) for part in value)
        if not isinstance(value, Tensor) or value.ndim < 3 or value.shape[0] == 1:
            return value
        if id(value) not in self.alike:
            same = bool((value == value[:1]).all())
            self.alike[id(value)] = value, value[:1] if same else value
        return self.alike[id(value)][1]

    def keep_call(self, block: Block, keep: Callable[[dict[str, Any]], Any]) -> Any:
        """How what mixes a block's positions is called, but for what its rows have of their own."""
        dropped = {*CACHES, *BIASES, "hidden_states", "attention_mask", "rule", "keep", "change", "look"}
        if block.mixing == "mixer":  # which may keep states unless it is told not to
            dropped.remove("use_cache")

        def kept(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
            called = {name: self.shared(value) for name, value in kwargs.items() if name not in dropped}
            called |= {"shared_kv_states": {}} if "shared_kv_states" in called else {}  # rows have their own (`suffix`)
            keep(called | ({"attention_mask": None} if block.mixing == "mixer" else {}))

        return block.attention.register_forward_pre_hook(kept, with_kwargs=True)

    def keep_calls(self, block: Block) -> list[Any]:
        """How an attention and the mixer beside it are called, whichever comes first."""
        if block.beside is None:
            return [self.keep_call(block, self.calls.append)]
        aside: dict[str, Any] = {}
        own = self.keep_call(block, lambda called: self.calls.append(called | {BESIDE: aside}))
        return [own, self.keep_call(block.beside, aside.update)]

    # ---- sites -----------------------------------------------------------------------------------------------------

    def keep_site(self, block: Block, site: str, into: list[Tensor]) -> list[Any]:
        """Hooks that write down a site that the block has."""
        if site == "z":
            return [block.attention_out.register_forward_pre_hook(self.keep_input(into))]
        if site == "neurons":
            return [block.mlp_out.register_forward_pre_hook(self.keep_input(into))]
        if site == "attention":
            return [block.attention_out.register_forward_hook(self.keep_attention(block.attention_bias, into))]
        if site == "mlp":
            return [changing(block.mlp_end, partial(self.keep_whole, into=into))]
        if site in ("attention_in", "mlp_in"):
            return [self.keep_given(block, site, into)]
        if site == "experts":
            self.state.experts = self.decoder.experts
            return [self.keep_experts(block)]
        if site == "router":
            return self.keep_router(block, into)
        if block.mixer is not None and site in _MIXER_SITES:
            return [self.keep_mixer(block.mixer, site, into)]
        if site == "mlp_beside":
            return block.mlp.reading(partial(self.keep, into=into))  # type: ignore[operator]
        if site in _INTO_MLP:
            return [self.keep_into_mlp(block, site.removesuffix("_out"), into)]
        if site in _PROJECTED:
            return [block.projections[_PROJECTED.index(site)].register_forward_hook(self.keep_projected(into))]
        return []  # what our attention function records, adapters, and what comes with the experts

    def keep_whole(self, x: Tensor, into: list[Tensor]) -> Tensor:
        """What an MLP gave, also where its block adds to it in place."""
        given = self.keep(x, into)
        return given.clone() if self.decoder.anatomy.adds_in_place else given

    def keep_attention(self, bias: Tensor | None, into: list[Tensor]) -> Any:
        """What an attention gave, with what the block adds to it before it writes."""
        if bias is None:
            return self.keep_output(into)

        def kept(_: Any, __: Any, output: Tensor) -> Tensor:
            into.append(output + bias)
            return StandingIn.apply(output, into[-1]) if output.requires_grad else output

        return kept

    def keep_projected(self, into: list[Tensor]) -> Any:
        """What a projection gave, also where the attention changes it in place behind that."""

        def kept(_: Any, __: Any, output: Tensor) -> Tensor:
            into.append(output)
            return output.clone() if self.decoder.clips else output

        return kept

    def keep_into_mlp(self, block: Block, name: str, into: list[Tensor]) -> Any:
        """What a map into an MLP gave; nothing of an MLP that has no such."""
        if (module := module_of(block, name)) is not None:
            return module.register_forward_hook(self.keep_output(into))
        return block.mlp_start.register_forward_pre_hook(
            lambda _, args: into.append(args[0].new_zeros(*args[0].shape[:2], 0))
        )

    def keep_given(self, block: Block, site: str, into: list[Tensor]) -> Any:
        """What attention or MLP is given behind the norm, as a tensor of its own in the graph.

        (A norm that is the identity would hand on the stream itself, and one norm may serve both.)
        """
        attention = site == "attention_in"
        norm, part = (block.attention_norm, block.attention) if attention else (block.mlp_norm, block.mlp)
        if block.one_norm or isinstance(norm, NoNorm):
            return part.register_forward_pre_hook(giving(partial(self.keep_view, into=into)), with_kwargs=True)
        return norm.register_forward_hook(lambda _, __, output: self.keep_view(output, into))

    def keep_mixer(self, mixer: Block, site: str, into: list[Tensor]) -> Any:
        """A site of a mixer."""
        if site == "mixer_in":
            view = giving(partial(self.keep_view, into=into))
            return mixer.attention.register_forward_pre_hook(view, with_kwargs=True)
        if site == "gate":
            return _keep_gate(mixer, into)
        if site == "channels":
            return mixer.attention_out.register_forward_pre_hook(self.keep_input(into))
        return mixer.attention_out.register_forward_hook(self.keep_output(into))

    def keep_experts(self, block: Block) -> Any:
        """What each chosen expert adds to an MLP's output; nothing of an MLP that has none."""
        state, mixture = self.state, block.mixture
        inside = "inside" in state.sites

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

    def keep_router(self, block: Block, into: list[Tensor]) -> list[Any]:
        """A router's logits; nothing of an MLP that has none."""

        def nothing(_: Any, args: tuple[Tensor, ...]) -> None:
            into.append(args[0].new_zeros(*args[0].shape[:2], 0))

        if block.mixture is None:
            return [block.mlp_start.register_forward_pre_hook(nothing)]
        return block.mixture.routing(partial(self.keep, into=into))

    def keep_attended(self) -> Any:
        """A hook that lets our attention function record what it is given, and its patterns, where it runs."""
        state = self.state

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

    # ---- what a block has not --------------------------------------------------------------------------------------

    def without(self, block: Block) -> list[Any]:
        """Hooks of a block that lacks an attention or an MLP: what it has not is written down as nothing.

        Of a stream that no sublayer changes on the way, both of its recorded places are one tensor.
        """
        state = self.state
        blank = [site for site in blank_sites(block) if site in state.sites and site != "mlp_beside"]

        def begin(x: Tensor) -> Tensor:
            for site in blank:
                state.sites[site].append(_nothing_at(site, x))
            if set(blank) & set(BY_OURS):
                state.attention.append({})
            if block.mixing == "nothing":
                self.calls.append({})
                self.keep(x, state.residual)
            return x

        handles = []
        if blank or block.mixing == "nothing":
            handles.append(block.module.register_forward_pre_hook(giving(begin), with_kwargs=True))
        if not block.has_mlp:
            handles.append(changing(block.module, partial(self.keep, into=state.middle)))
        return handles


def _keep_gate(block: Block, into: list[Tensor]) -> Any:
    """A hook that records a mixer's gate, as a tensor of its own in the graph."""
    assert block.gate is not None
    own = block.gate_numbers

    def kept(output: Tensor) -> Tensor:
        into.append(output[..., own].clone())
        return torch.cat([output[..., : own.start], into[-1], output[..., own.stop :]], -1)

    return changing(block.gate, kept)


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

"""Units of several layers replaced in one run.

A run that goes through the blocks' own modules (`engine.suffix.sweep`, or the model's own forward with or without a
key/value cache) is watched by hooks that put new values in place of a site's own, where the activation is read:

    z         input of the attention's output projection (heads, whole attention layers)
    channels  input of the mixer's, in the place of attention (mixers, their heads and channels)
    neurons   input of the down projection
    mlp       output of the MLP module, before a post-norm

Later layers compute from what the earlier ones became, so a value may depend on the unit's current one: on the way to
a replacement r, `towards`, a_u ← a_u + α (r − a_u), α = 0 leaves it, bit for bit, and α = 1 is patching. Replacing
costs nothing beyond the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from veracausa.anatomy import Decoder
from veracausa.engine.coded import OF_STREAM
from veracausa.engine.guard import changing, giving, hooks
from veracausa.engine.overrides import Override, between, overriding
from veracausa.engine.patches import Place, in_attention, site_width, written_by
from veracausa.engine.suffix import Join
from veracausa.engine.tape import State
from veracausa.errors import MethodError
from veracausa.placed import home_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Places whose activations can be replaced on the way.
PLACES: tuple[Place, ...] = ("z", "channels", "neurons", "mlp")

#: The current values of a part of a site, [rows, positions, columns] → the new ones, of the same shape. The positions
#: are those that the run has there: all of them, its last ones, or one at a time behind a cache.
Value = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Replaced:
    """A part of one layer's site, and what it becomes.

    `columns`: which of the site's (see `columns_of`); None: all of them.
    """

    place: Place
    layer: int
    value: Value
    columns: Int[Tensor, " columns"] | None = None


@contextmanager
def replacing(decoder: Decoder, parts: Sequence[Replaced]) -> Iterator[None]:
    """Every run inside has the parts' new values; parts of one site are replaced one after the other.

    Raises:
        MethodError: a place that no hook can replace.

    >>> with replacing(decoder, [Replaced("z", 3, constant(mean), columns_of(decoder, "z", 3, 2, 4))]):
    ...     lm.hf(ids)
    """
    for part in parts:
        if part.place not in PLACES:
            raise MethodError(
                f"Units of several layers can be replaced in one run at {', '.join(PLACES)} (heads, attention layers, "
                f"mixers, neurons, MLPs), not at {part.place!r}. Patch such units one at a time, with vc.exact."
            )
    with hooks(*(handle for part in parts for handle in _hooks(decoder, part))):
        yield


@contextmanager
def taking(decoder: Decoder, found: Mapping[int, Sequence[Override]]) -> Iterator[None]:
    """Every run of the model's own forward inside takes other values at parts of dictionaries: layer → which.

    They are read from the run that is going on, whole or behind a cache; values of a prompt's last position hold for
    all positions behind it.
    """

    def stream(layer: int, one: Override) -> Any:
        module = decoder.final_norm if layer == decoder.layers else decoder.blocks[layer].module
        return module.register_forward_pre_hook(giving(one.of_stream), with_kwargs=True)

    with ExitStack() as stack:
        for layer, every in found.items():
            stack.enter_context(hooks(*(stream(layer, one) for one in every if one.at == "residual")))
            if within := [one for one in every if one.at not in OF_STREAM]:
                stack.enter_context(overriding(decoder.blocks[layer], within))
            for one in (one for one in every if one.at == "middle"):
                stack.enter_context(hooks(*between(decoder.blocks[layer], one.of_stream)))
        yield


def columns_of(decoder: Decoder, place: Place, layer: int, index: int, parts: int) -> Int[Tensor, " columns"] | None:
    """Columns of one unit in its site, of which there are so many parts; None for index −1, the whole site."""
    if index < 0:
        return None
    size = site_width(decoder, place, layer=layer) // parts
    return torch.arange(index * size, (index + 1) * size, device=home_of(decoder.hf))


def constant(new: Float[Tensor, "*rows positions columns"]) -> Value:
    """These values, whatever the unit's own are; with one position, the same at every one."""
    return lambda own: _last(new, own).to(own.dtype).expand_as(own)


def towards(new: Float[Tensor, "*rows positions columns"], share: Float[Tensor, " rows"]) -> Value:
    """own + share · (new − own): each row goes its own share of the way from the current value."""
    return lambda own: own + share.to(own)[:, None, None] * (_last(new, own).to(own) - own)


def join_before(
    decoder: Decoder, base: State, parts: Sequence[Replaced], example: Int[Tensor, " rows"], offset: int
) -> Join:
    """Rows that are still the unpatched run where the first of the parts is, for `suffix.sweep`.

    `offset`: their first position, counted from the tape's start.
    """
    first = min(part.layer for part in parts)
    behind = (
        all(not in_attention(part.place) for part in parts if part.layer == first)
        and not decoder.blocks[first].parallel
    )
    stream = base.middle if behind else base.residual
    return Join(first, behind, example, lambda: stream[first][example, offset:])


def _last(new: Tensor, own: Tensor) -> Tensor:
    """The values of the positions that the run has: its last ones, or the one that serves all."""
    return new if new.shape[-2] == 1 else new[..., -own.shape[1] :, :]


def _hooks(decoder: Decoder, part: Replaced) -> list[Any]:
    block, shape = decoder.blocks[part.layer], list[torch.Size]()

    def replaced(site: Tensor) -> Tensor:
        if site.ndim == 2:  # the block joins rows and positions for its MLP
            return replaced(site.unflatten(0, shape.pop())).flatten(0, 1)
        if part.columns is None:
            return part.value(site).contiguous()  # GPT-2 asks for a view
        return site.index_copy(-1, part.columns, part.value(site[..., part.columns]))

    def sized(_: Any, args: tuple[Tensor, ...]) -> None:
        shape[:] = [args[0].shape[:2]]

    handles = [block.attention_norm.register_forward_pre_hook(sized)] if decoder.anatomy.joins_rows else []
    if part.place == "mlp":
        return [*handles, changing(block.mlp_end, replaced)]
    module: nn.Module = written_by(block, part.place).attention_out if in_attention(part.place) else block.mlp_out
    return [*handles, module.register_forward_pre_hook(lambda _, args: (replaced(args[0]), *args[1:]))]

"""The attention function of suffix runs: queries of the late positions, keys and values of all positions.

Every family's attention module hands its queries, keys and values (rotated, normed, scaled as that family does) to
a function chosen by name. `SUFFIX` is ours: it puts the stored keys and values of the earlier positions before the
module's own and applies the causal (and sliding-window) mask itself. So a block can be run on positions
p … n − 1 alone. The same function serves runs with gradients, because it is made of ordinary tensor operations.

    scores = softcap(q kᵀ · scaling) + bias of positions + mask,   pattern = softmax(scores),   output = pattern v

Query heads of one key/value group are folded into the rows of one product, so keys and values are never repeated.
A run in bfloat16 or float16 takes its softmax in float32, as Hugging Face's own implementations do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from veracausa.errors import ArchitectureError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.engine.attention_rule import AttentionRule

#: The name under which transformers knows our attention function.
SUFFIX = "veracausa_suffix"

#: What is added to the scaled scores of a prompt with so many keys, [heads, keys] or [rows, heads, keys] (ALiBi); made
#: on the device and in the precision of the tensor that it is given.
PositionBias = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Past:
    """Keys and values of the positions before a suffix run, for one layer.

    `keys`, `values`: [examples, kv_heads, past, head_dim]. `example[r]` is the example whose past row r uses;
    None when there is one example only (then its past is shared by all rows without a copy).
    """

    keys: Float[Tensor, "examples kv_heads past head_dim"]
    values: Float[Tensor, "examples kv_heads past head_dim"]
    example: Int[Tensor, " rows"] | None = None

    def before(self, own: Tensor, which: str) -> Tensor:
        """The stored keys or values, put before a module's own ([rows, kv_heads, positions, head_dim])."""
        past: Tensor = getattr(self, which)
        if past.shape[2] == 0:
            return own
        past = past.expand(own.shape[0], -1, -1, -1) if self.example is None else past[self.example]
        return torch.cat([past, own], dim=2)


def causal_mask(
    queries: int, keys: int, window: int | None, like: Tensor, chunk: int | None = None
) -> Float[Tensor, "queries keys"]:
    """0 where the query (the last `queries` of `keys` positions) may look, −inf elsewhere.

    `window`: so many positions back, its own included. `chunk`: back to where its own stretch of so many begins.
    """
    query = torch.arange(keys - queries, keys, device=like.device)[:, None]
    key = torch.arange(keys, device=like.device)[None, :]
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    if chunk is not None:
        hidden |= key < query - query % chunk
    return torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


def suffix_attention(
    module: Any,
    query: Float[Tensor, "rows heads positions head_dim"],
    key: Float[Tensor, "rows kv_heads positions head_dim"],
    value: Float[Tensor, "rows kv_heads positions head_dim"],
    attention_mask: Tensor | None,
    *,
    past: Past | None = None,
    rule: AttentionRule | None = None,
    keep: Callable[..., None] | None = None,
    change: Callable[..., tuple[Tensor, ...]] | None = None,
    look: Callable[[Tensor], Tensor] | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    chunk: int | None = None,
    is_causal: bool | None = None,
    position_bias: PositionBias | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "rows positions heads head_dim"], None]:
    """Attention of a suffix, in the form that transformers expects of an attention function.

    `attention_mask` is ignored: suffix runs hold no padding, and the mask follows from the positions; with
    `is_causal=False` there is none. `past`: keys and values that the module's own do not hold yet. `rule`: another
    backward pass. `keep` is called with what came in, so that queries, keys and values can be recorded with their
    graph. `change(query, key, value)`: other ones in their place (`engine.overrides`). `look(pattern)`, [rows, heads,
    positions, keys]: is shown who looks where, and gives the pattern by which values are mixed. `s_aux`: a score of
    each head beside those of the keys, whose share of the softmax goes to no value (attention sinks).

    Raises:
        ArchitectureError: the attention is given a tensor that we know no use of.
    """
    _require_known(module, others)
    rows, heads, positions = query.shape[:3]
    settings: dict[str, Any] = {"scaling": scaling, "softcap": softcap, "sliding_window": sliding_window}
    settings |= {"chunk": chunk} if chunk is not None else {}
    settings |= {"is_causal": is_causal, "position_bias": position_bias, "s_aux": s_aux}
    if keep is not None:
        keep(query, key, value, **settings)
    if change is not None:
        query, key, value = change(query, key, value)
    if rule is not None:
        query, key, value = rule.query_key(query), rule.query_key(key), rule.value(value)
    if past is not None:
        key, value = past.before(key, "keys"), past.before(value, "values")
    softmax = None if rule is None else rule.softmax
    folded = attention_pattern(query, key, softmax, **settings)
    if look is not None:
        folded = look(folded.view(rows, heads, positions, key.shape[2])).reshape(folded.shape)
    return mixed(folded, value, positions).contiguous(), None  # some modules ask for a view of it


#: What attention functions are given beside what is named above, and what says nothing that we don't know.
_KNOWN = ("position_ids", "cache_position", "position_embeddings", "hidden_states", "expand")


def _require_known(module: Any, others: dict[str, Any]) -> None:
    unknown = [name for name, value in others.items() if isinstance(value, Tensor) and name not in _KNOWN]
    if unknown:
        raise ArchitectureError(
            f"{type(module).__name__} gives its attention function {', '.join(unknown)}, which changes what it does in "
            "a way that veracausa doesn't know of. Exact effects of MLPs and of the stream would be wrong, too."
        )


def attention_pattern(
    query: Float[Tensor, "rows heads positions head_dim"],
    key: Float[Tensor, "rows kv_heads keys head_dim"],
    softmax: Callable[[Tensor], Tensor] | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    chunk: int | None = None,
    is_causal: bool | None = None,
    position_bias: PositionBias | None = None,
    s_aux: Float[Tensor, "*rows heads"] | None = None,
) -> Float[Tensor, "rows_x_kv_heads share_x_positions keys"]:
    """Who looks where: the softmax over the keys, for the last positions of the sequence.

    Heads of one key/value group lie beside each other: view it as [rows, heads, positions, keys].
    """
    rows, heads, positions, dim = query.shape
    groups, length = key.shape[1], key.shape[2]
    share = heads // groups
    folded = query.reshape(rows * groups, share * positions, dim)
    keys = key.reshape(rows * groups, length, dim)
    work = torch.promote_types(query.dtype, torch.float32)
    like = query.new_empty(0, dtype=work)
    if is_causal is False:
        mask = like.new_zeros(share * positions, length)
    else:
        mask = causal_mask(positions, length, sliding_window, like, chunk).repeat(share, 1)
    scale = dim**-0.5 if scaling is None else scaling
    if softcap is None and work == query.dtype:
        scores = torch.baddbmm(mask, folded, keys.transpose(1, 2), alpha=scale)
    else:
        scores = torch.bmm(folded, keys.transpose(1, 2)).to(work) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores + mask
    if position_bias is not None:
        bias = position_bias(length, query).to(work).expand(rows, heads, length)
        scores = scores.view(-1, share, positions, length) + bias.reshape(-1, share, 1, length)
        scores = scores.view(-1, share * positions, length)
    if s_aux is not None:
        sinks = s_aux.to(work).expand(rows, heads).reshape(-1, share, 1, 1).expand(-1, share, positions, 1)
        scores = torch.cat([scores, sinks.reshape(-1, share * positions, 1)], -1)
    pattern = torch.softmax(scores, dim=-1) if softmax is None else softmax(scores)
    return (pattern if s_aux is None else pattern[..., :length]).to(query.dtype)


def mixed(
    pattern: Float[Tensor, "rows_x_kv_heads share_x_positions keys"],
    value: Float[Tensor, "rows kv_heads keys head_dim"],
    positions: int,
) -> Float[Tensor, "rows positions heads head_dim"]:
    """Values mixed by a pattern as `attention_pattern` gives it, or by a change of one."""
    rows, groups, length, dim = value.shape
    output = torch.bmm(pattern.to(value.dtype), value.reshape(rows * groups, length, dim))
    return output.view(rows, -1, positions, dim).transpose(1, 2)


ALL_ATTENTION_FUNCTIONS.register(SUFFIX, suffix_attention)

"""What components of weights read and write, in tokens: v_c and u_c through the model's own embeddings and unembedding.

    writes:  γ_final ∘ u_c through the unembedding: the tokens that it raises most, and lowers most, for a code of +1
    reads:   e_t · (γ ∘ v_c) of every token's embedding e_t, taken at length 1; γ: the gain of the norm before the map

Both look at the two ends of the stream as if nothing lay between (a logit lens, nostalgebraist 2020); what a component
does to the metric is for `vc.exact` to say. Maps inside a block write to, or read from, neurons and heads: these are
named instead. The sign of a component is a convention: with both u_c and v_c turned it is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy.maps import map_of
from veracausa.dictionaries.components import STEP
from veracausa.effects.laid import named_units
from veracausa.engine.norms import norm_form
from veracausa.errors import MethodError, UnitError
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

    from veracausa.model import Model

#: Maps that write to the stream, and those that read it behind a norm.
_WRITING, _READING = ("down", "o", "ov"), ("q", "k", "v", "gate", "up", "qk")


def component_words(lm: Model, units: Sequence[str] | Units, *, tokens: int = 5) -> pd.DataFrame:
    """What components read and write, in the tokens (or neurons and heads) that are nearest.

    Args:
        lm: the model.
        units: names of components of one kind, m5.down.c12 or a9.h6.ov3, …, or a table of them.
        tokens: how many are named each time.

    Returns:
        A table: name, size |u_c| · |v_c| (of singular directions the singular value), `writes` (what a positive code
        raises), `lowers`, `reads` (what makes the code positive), `reads_against`. Tokens as the tokenizer writes them.

    Raises:
        UnitError: units that are no components, of several kinds, or whole maps. MethodError: tokens below 1.

    >>> vc.reading.component_words(lm, ["a20.h0.ov0", "a20.h0.ov1"])
    """
    import pandas as pd

    if tokens < 1:
        raise MethodError(f"tokens={tokens}: at least 1 is named.")
    lm, asked = named_units(lm, units)
    table = asked if isinstance(asked, Units) else resolve_units(lm, asked, 1)
    if not table.kind.startswith("components."):
        raise UnitError(f"{table.names[0]} is no component of a map; they are called m5.down.c12, a9.h6.ov3, …")
    rows = [_row(lm, table, u, tokens) for u in range(len(table))]
    return pd.DataFrame([{"name": name, **row} for name, row in zip(table.names, rows, strict=True)])


@torch.no_grad()
def _row(lm: Model, table: Units, u: int, tokens: int) -> dict[str, Any]:
    layer, index = int(table.layer[u]), int(table.index[u])
    dictionary = lm.decoder.codes[table.kind, layer].dictionary
    place = (dictionary.indices == index).nonzero()[0]
    if not len(place):
        raise UnitError(f"{table.names[u]} is no single component; what parts of a map read is asked one by one.")
    name = table.kind.split(".")[1]
    u_c, v_c = dictionary.weight[int(place[0])], dictionary.encoder.weight[:, int(place[0])]
    raised, lowered = _both(lm, layer, name, written(lm, name, u_c), tokens, writes=True)
    read, against = _both(lm, layer, name, read_by_stream(lm, layer, name, index, v_c), tokens, writes=False)
    return {"size": float(u_c.norm() * v_c.norm()), "writes": raised, "lowers": lowered, "reads": read,
            "reads_against": against}  # fmt: skip


def written(lm: Model, name: str, u: Float[Tensor, " outputs"]) -> Float[Tensor, " outputs"]:
    """Logits of what a map writes, the final norm's gain alone in front; of inner maps u itself."""
    if name not in _WRITING:
        return u
    weight = lm.decoder.unembedding_map.weight
    return norm_form(lm.decoder, lm.decoder.final_norm).linear(u.to(weight)) @ weight


def read_by_stream(
    lm: Model, layer: int, name: str, index: int, v: Float[Tensor, " inputs"]
) -> Float[Tensor, " inputs"]:
    """What every token's embedding, at length 1, makes of a map's code; of maps that read inside a block v itself."""
    block = lm.decoder.blocks[layer]
    if name == "ov":
        head, values = index // STEP, map_of(lm.decoder, layer, "v").linear.weight
        size = len(v) // block.heads
        group = values.unflatten(1, (block.kv_heads, -1))[:, head // (block.heads // block.kv_heads)]
        v = group @ v.to(values)[head * size : (head + 1) * size]
    elif name not in _READING:
        return v
    form = norm_form(lm.decoder, block.mlp_norm if name in ("gate", "up") else block.attention_norm)
    every = torch.arange(lm.decoder.unembedding_map.weight.shape[1], device=lm.device)
    embeddings = torch.nn.functional.normalize(lm.decoder.embedded(every).to(v), dim=-1)
    return form.linear(embeddings) @ v


def _both(lm: Model, layer: int, name: str, values: Tensor, tokens: int, *, writes: bool) -> tuple[str, str]:
    """The largest and the smallest, by name."""
    inner = name not in (_WRITING if writes else (*_READING, "ov"))
    ends = (values.topk(tokens), (-values).topk(tokens))
    told = [[_inner(lm, layer, name, int(i)) if inner else _token(lm, int(i)) for i in end.indices] for end in ends]
    return ", ".join(told[0]), ", ".join(told[1])


def _token(lm: Model, i: int) -> str:
    return f"{i}" if lm.tokenizer is None else repr(lm.tokenizer.decode([i]))


def _inner(lm: Model, layer: int, name: str, i: int) -> str:
    """A neuron, or a head's own dimension, by its number among the map's inputs or outputs."""
    if name in ("gate", "up", "down"):
        return f"m{layer}.n{i}"
    block = lm.decoder.blocks[layer]
    keys = name in ("k", "v")
    size = block.head_dim if name in ("o", "v", "ov") else block.key_dim
    return f"a{layer}.{'kv' if keys else 'h'}{i // size}[{i % size}]"

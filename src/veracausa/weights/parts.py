"""Parts of a linear map's weights as a dictionary: a component is a linear feature of the map's input.

    y = x W + b,   W = Σ_c v_c u_cᵀ + Δ,   a_c = v_c · x

x is what the map reads and y what it gives, so component c writes a_c u_c, and x Δ is the error; b stays whatever is
taken out. Taking c out of y is taking v_c u_cᵀ out of W. Of W itself the u_c are of length 1, and v_c has the singular
value, so that a_c counts in units of y.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy.maps import BlockMap, map_of
from veracausa.dictionaries.components import FACTORS, SINGULAR, STEP, WEIGHTS
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.encoder import Encoder
from veracausa.dictionaries.site import Site
from veracausa.errors import ArchitectureError, MethodError
from veracausa.storage.digests import tensor_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

    from veracausa.anatomy import Decoder

#: Map → the kinds of sites that it reads and gives.
_ENDS: Any = {
    "down": ("hidden", "m"), "o": ("z", "a"), "up": ("n", "up"), "gate": ("n", "gate"),
    **{one: ("read", one) for one in "qkv"}, "ov": ("z", "a"), "qk": ("read", "q"),
}  # fmt: skip


def map_name(layer: int, name: str) -> str:
    """What a map is called: "m5.down", "a9.ov"."""
    return f"{'m' if name in ('gate', 'up', 'down') else 'a'}{layer}.{name}"


def singular(decoder: Decoder, layer: int, name: str) -> Dictionary:
    """All singular directions of a map, by falling singular value; of "ov" and "qk" head by head.

    Where singular values are equal their directions are one choice among many.

    Raises:
        ArchitectureError: the block has no such map, or none that is linear.
    """
    source = f"singular directions of {map_name(layer, name)}"
    if name in ("ov", "qk"):
        return (_outputs if name == "ov" else _queries)(decoder, layer, source)
    one = map_of(decoder, layer, name)
    v, sizes, u = torch.linalg.svd(one.linear.weight.detach().cpu().double(), full_matrices=False)
    return of_map(decoder, one, v * sizes * (sign := _signs(v)), u * sign[:, None], source=source, made=source)


def differing(decoder: Decoder, other: Decoder, layer: int, name: str, chosen: str, source: str) -> Dictionary:
    """The singular directions of W − W′, W′ another checkpoint's: without them all, the map is the other's.

    Raises:
        MethodError: the other's map has another shape, or is the same.
    """
    one, theirs = map_of(decoder, layer, name), map_of(other, layer, name)
    own, new = (each.linear.weight.detach().cpu().double() for each in (one, theirs))
    if own.shape != new.shape:
        raise MethodError(
            f"{map_name(layer, name)} is {list(own.shape)} here and {list(new.shape)} in the other model, so there is "
            "no difference of both. Compare checkpoints of one architecture."
        )
    if torch.equal(own, new):
        raise MethodError(
            f"{map_name(layer, name)} is the same in both models, so their difference has no parts. Leave it out."
        )
    v, sizes, u = torch.linalg.svd(own - new, full_matrices=False)
    return of_map(decoder, one, v * sizes * (sign := _signs(v)), u * sign[:, None], name=chosen, source=source)


def adapters_of(decoder: Decoder, layer: int, name: str, chosen: str) -> Dictionary:
    """The ranks of the LoRA adapters that are active on a map: row r of A with column r of s · B, one by one.

    Raises:
        ArchitectureError: an adapter that is no sum of such (see `anatomy.adapters`). MethodError: there is none.
    """
    one, found = map_of(decoder, layer, name), decoder.adapters.get(layer)
    adapted = next((each for each in (found.maps if found else ()) if each.module is one.module), None)
    if adapted is None:
        where = ", ".join(sorted({each.name for own in decoder.adapters.values() for each in own.maps}))
        raise MethodError(
            f"{map_name(layer, name)} has no LoRA of PEFT that is switched on and unmerged."
            + (f" There are some on {where}." if where else "")
        )
    lora: Any = adapted.module
    names = [key for key, part in lora.lora_B.items() if any(part is b for b, _ in adapted.adding)]
    if any(getattr(lora.lora_B[key], "bias", None) is not None for key in names):
        raise ArchitectureError(
            f"The LoRA on {map_name(layer, name)} adds a bias of its own (lora_bias=True), which no rank holds: "
            "without all its ranks the map would not be the base model's. Ask whole adapters (units='adapters')."
        )
    scales = {id(b): scale for b, scale in adapted.adding}
    v = torch.cat([lora.lora_A[key].weight.detach().T for key in names], 1)
    u = torch.cat([one.own(lora.lora_B[key].weight.detach().T) * scales[id(lora.lora_B[key])] for key in names])
    return of_map(decoder, one, v, u, name=chosen, source=f"ranks of the LoRA on {map_name(layer, name)}")


def single_weights(decoder: Decoder, layer: int, name: str, numbers: Sequence[int]) -> Dictionary:
    """Single weights of a map, each by output · `STEP` + input.

    Raises:
        MethodError: the map has no such weight.
    """
    one = map_of(decoder, layer, name)
    weight, where = one.linear.weight.detach(), sorted(dict.fromkeys(numbers))
    rows, columns = zip(*(divmod(number, STEP) for number in where), strict=True)
    if max(rows) >= weight.shape[1] or max(columns) >= weight.shape[0]:
        raise MethodError(
            f"{map_name(layer, name)} has {weight.shape[1]} outputs and {weight.shape[0]} inputs; a weight is named "
            f"[output,input], counted from 0, as in {map_name(layer, name)}[0,0]."
        )
    every = torch.arange(len(where))
    v, u = weight.new_zeros(weight.shape[0], len(where)), weight.new_zeros(len(where), weight.shape[1])
    v[list(columns), every], u[every, list(rows)] = weight[list(columns), list(rows)], 1
    source = f"{len(where)} weights of {map_name(layer, name)}"
    return of_map(decoder, one, v, u, name=WEIGHTS, source=source, numbers=tuple(where),
                  made=f"weights {where} of {map_name(layer, name)}")  # fmt: skip


def of_map(
    decoder: Decoder,
    one: BlockMap,
    v: Float[Tensor, "inputs components"],
    u: Float[Tensor, "components outputs"],
    *,
    name: str = SINGULAR,
    **more: Any,
) -> Dictionary:
    """Components of a map by their factors."""
    bias = one.linear.bias
    return _made(decoder, one.block.layer, one.name, v, u, _shifted(one, bias), name=name, **more)


def weights_digest(decoder: Decoder, layer: int, name: str) -> str:
    """A hash of the weights that components of a map are parts of, as they are now, adapters merged in."""
    found = hashlib.sha256()
    for own in FACTORS.get(name, (name,)):
        linear = map_of(decoder, layer, own).linear
        for tensor in (linear.weight, linear.bias):
            found.update(b"" if tensor is None else tensor_digest(tensor.detach()))
    return found.hexdigest()[:16]


def _made(
    decoder: Decoder,
    layer: int,
    own: str,
    v: Tensor,
    u: Tensor,
    bias: Tensor | None,
    *,
    before: Tensor | None = None,
    name: str = SINGULAR,
    **more: Any,
) -> Dictionary:
    reads, writes = (Site(kind, layer) for kind in _ENDS[own])
    v, u = v.detach(), u.detach().to(v)
    encoder = Encoder(v, v.new_zeros(v.shape[1]), "linear", before=None if before is None else before.to(v))
    b = v.new_zeros(u.shape[1]) if bias is None else bias.detach().to(v)
    more |= {"map": own, "weights": weights_digest(decoder, layer, own)}
    return Dictionary(reads, writes, encoder, u, b, name="" if name == SINGULAR else name, **more)


def _shifted(one: BlockMap, bias: Tensor | None) -> Tensor | None:
    """What is added to x W: the map's bias, and what the block adds behind its attention."""
    more = one.block.attention_bias if one.name == "o" else None
    return bias if more is None else more if bias is None else bias + more


def _signs(v: Float[Tensor, "inputs components"]) -> Float[Tensor, " components"]:
    """Signs that make the largest entry of each column positive: of v and −v, which are one direction, the first."""
    largest = v.gather(0, v.abs().argmax(0, keepdim=True))[0]
    return torch.where(largest < 0, -1.0, 1.0).to(v)


def _outputs(decoder: Decoder, layer: int, source: str) -> Dictionary:
    """Of each head's value map times its output map, W_V W_O = Σ_c σ_c p_c r_cᵀ.

    As a part of what the head writes: z W_O = Σ_c (z · W_O r_c) r_c, whose first factor is σ_c (p_c · Σ_s A_s x_s) and
    what the value map's bias adds, which is taken off.
    """
    values, out = map_of(decoder, layer, "v"), map_of(decoder, layer, "o")
    block, read = values.block, values.linear
    w_v = read.weight.detach().cpu().double().unflatten(1, (block.kv_heads, -1))
    w_o = out.linear.weight.detach().cpu().double().unflatten(0, (block.heads, -1))
    group = block.heads // block.kv_heads
    v, u = w_o.new_zeros(w_o.shape[0], w_o.shape[1], w_o.shape[0], w_o.shape[1]), []
    for head in range(block.heads):
        p, r = _bases(w_v[:, head // group], w_o[head].T)
        u.append((r * _signs(p)).T)
        v[head, :, head] = w_o[head] @ u[-1].T
    bias, shift = _shifted(out, out.linear.bias), None
    if read.bias is not None:
        shift = read.bias.detach().unflatten(0, (block.kv_heads, -1)).repeat_interleave(group, 0).flatten()
        own = shift.to(out.linear.weight) @ out.linear.weight
        bias = own if bias is None else bias + own
    return _made(decoder, layer, "ov", v.flatten(0, 1).flatten(1), torch.cat(u), bias, before=shift,
                 source=source, made=source, numbers=_by_head(block.heads, w_o.shape[1]))  # fmt: skip


def _queries(decoder: Decoder, layer: int, source: str) -> Dictionary:
    """Of each head's query map times its key map, W_Q W_Kᵀ = Σ_c σ_c p_c r_cᵀ.

    As a part of the query: x W_Q = Σ_c (x · p_c) W_Qᵀ p_c, whose product with a key is σ_c (x · p_c)(r_c · x′) and the
    same for all keys of what the key map's bias adds, which no softmax sees.
    """
    queries, keys = map_of(decoder, layer, "q"), map_of(decoder, layer, "k")
    block, read = queries.block, queries.linear
    w_q = read.weight.detach().cpu().double().unflatten(1, (block.heads, -1))
    w_k = keys.linear.weight.detach().cpu().double().unflatten(1, (block.kv_heads, -1))
    group, width = block.heads // block.kv_heads, w_q.shape[2]
    v, u = [], w_q.new_zeros(block.heads, width, block.heads, width)
    for head in range(block.heads):
        p, _ = _bases(w_q[:, head], w_k[:, head // group])
        v.append(p * _signs(p))
        u[head, :, head] = v[-1].T @ w_q[:, head]
    return _made(decoder, layer, "qk", torch.cat(v, 1), u.flatten(0, 1).flatten(1), read.bias,
                 source=source, made=source, numbers=_by_head(block.heads, width))  # fmt: skip


def _bases(a: Float[Tensor, "width d"], b: Float[Tensor, "width d"]) -> tuple[Tensor, Tensor]:
    """Left and right singular directions of a bᵀ, [width, d] each: bases of all that a and b reach, also where a bᵀ is
    of lower rank."""
    (q_a, r_a), (q_b, r_b) = torch.linalg.qr(a), torch.linalg.qr(b)
    left, _, right = torch.linalg.svd(r_a @ r_b.T)
    return q_a @ left, q_b @ right.T


def _by_head(heads: int, each: int) -> tuple[int, ...]:
    return tuple(head * STEP + number for head in range(heads) for number in range(each))


def size_of(decoder: Decoder, layer: int, name: str) -> int:
    """How many singular directions a map has; of "ov" and "qk" one head."""
    if name in ("ov", "qk"):
        block = decoder.blocks[layer]
        return block.head_dim if name == "ov" else block.key_dim
    return min(map_of(decoder, layer, name).linear.weight.shape)


def layers_with_map(decoder: Decoder, name: str) -> list[int]:
    """Layers that have a map.

    Raises:
        ArchitectureError: none has; why the last has not.
    """
    found: list[int] = []
    why: ArchitectureError | None = None
    for layer in range(decoder.layers):
        try:
            for own in FACTORS.get(name, (name,)):
                map_of(decoder, layer, own)
            found.append(layer)
        except ArchitectureError as error:
            why = error
    if not found:
        assert why is not None
        raise why
    return found

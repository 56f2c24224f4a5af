"""A dictionary from a file, adapted to a model: its site is there and as wide, and it reads what it learned.

Habits of training that change what a dictionary reads are folded in here:

* the output of a norm before its gain γ (and bias β): x = γ ∘ u + β, so W_enc ← W_enc / γ and β comes off first;
* a stream whose mean was taken off by centred weights: u = x − mean x, so W_enc ← (1 − 11ᵀ/d) W_enc. What the
  dictionary writes has no mean of its own; the stream's mean stays in the error. (Of heads' values, `z`, the same
  processing takes off the biases of the values.)
"""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from veracausa.anatomy import Block
from veracausa.arguments import shown
from veracausa.dictionaries import Dictionary, Site
from veracausa.errors import DictionaryWarning, FileError, MethodError
from veracausa.loading.dictionaries.hooks import Hook, hook_of
from veracausa.loading.dictionaries.parts import Parts
from veracausa.model import Model

#: Large enough that a norm's ε has no weight beside it.
_LARGE = 1e4


def adapted(
    lm: Model,
    parts: Parts,
    *,
    site: str | None = None,
    writes: str | None = None,
    layer: int | None = None,
    name: str = "",
    centred: bool | None = None,
) -> Dictionary:
    """A `Dictionary` for `lm`, in its precision for scores and on its device.

    Raises:
        MethodError: no site is known, or another one was asked for than the file's; the model has no such site; widths
            do not fit; it is open whether the dictionary learned a centred stream.
    """
    parts = parts.cast(lm.score_dtype, lm.device)
    reads, written = _sites(lm, parts, site, writes, parts.layer if layer is None else layer)
    for hook, width in ((reads, parts.encoder.shape[0]), (written, parts.decoder.shape[1])):
        require_site(lm, Site.of(hook.site), width)
    if parts.onward is not None and Site.of(written.site).layer + parts.onward.layers >= lm.layers:
        raise MethodError(
            f"This cross-layer transcoder writes to {1 + parts.onward.layers} layers from {written.site} on, but "
            f"{lm.name} has {lm.layers} blocks. Was it trained on another model?"
        )
    _compare_models(lm, parts)
    if reads.unweighted:
        parts = _weighted(lm, parts, Site.of(reads.site).layer)
    at = Site.of(reads.site)
    if _is_centred(lm, parts, centred, at):
        bias = _value_bias(lm, at.layer) if at.kind == "z" else None
        parts = _of_centred(parts) if bias is None else _without_value_bias(parts, bias)
    return Dictionary(
        at,
        Site.of(written.site),
        parts.encoding(),
        parts.decoder.contiguous(),
        parts.decoder_bias,
        skip=parts.skip,
        name=name,
        labels=parts.labels,
        source=parts.source,
        onward=parts.onward,
    )


def _sites(lm: Model, parts: Parts, site: str | None, writes: str | None, layer: int | None) -> tuple[Hook, Hook]:
    def chosen(asked: str | None, said: str | None, what: str) -> Hook | None:
        own = None if said is None else hook_of(lm, said, layer=layer)
        if asked is None:
            return own
        if own is not None and own.site != Site.of(asked).name:
            raise MethodError(
                f"The file says that this dictionary {what} {said}, which is {own.site}, but {shown(asked)} was asked "
                "for. Leave that out; to use it elsewhere all the same, hand its tensors over as a dict."
            )
        return own or Hook(Site.of(asked).name)

    reads = chosen(site, parts.reads, "reads")
    if reads is None:
        raise MethodError(
            "Nothing in the files says where this dictionary was trained. Say site='r10' (the stream entering block "
            "10), 'm10', 'a10', 'z10', or site='n10', writes='m10' of a transcoder."
        )
    return reads, chosen(writes, parts.writes, "writes") or reads


def require_site(lm: Model, site: Site, width: int | None = None) -> None:
    """Refuse a site that a model has not, or that is of another width.

    Raises:
        MethodError: says which layers there are, or which width.
    """
    last = lm.layers - (site.kind != "r")
    if site.layer > last:
        raise MethodError(
            f"{site.name}: {lm.name} has {lm.layers} blocks, so the last one is {replace(site, layer=last).name}."
        )
    if site.kind != "r":
        _require_part(lm.decoder.blocks[site.layer], site, lm.name)
    own = lm.heads * lm.decoder.blocks[site.layer].head_dim if site.kind == "z" else lm.width
    if width is not None and width != own:
        raise MethodError(
            f"The dictionary is {width:,} wide, but {site.name} of {lm.name} is {own:,} wide. Was it trained on "
            "another model or site, or is a matrix transposed? W_enc is [width, features] and W_dec [features, width]."
        )


def _require_part(block: Block, site: Site, name: str) -> None:
    if site.kind in "az" and block.mixing != "attention":
        raise MethodError(f"{site.name}: block {site.layer} of {name} has no attention.")
    if site.kind == "mid" and block.parallel:
        raise MethodError(f"{site.name}: block {site.layer} of {name} has its attention and its MLP side by side.")
    if site.kind in ("m", "n", "mid") and not block.has_mlp:
        raise MethodError(f"{site.name}: block {site.layer} of {name} has no MLP.")
    if site.post and (block.mlp_post_norm if site.kind == "m" else block.attention_post_norm) is None:
        raise MethodError(f"{site.name}: block {site.layer} of {name} has no post-norm there; say {site.name[:-5]}.")


def _compare_models(lm: Model, parts: Parts) -> None:
    """Warn where the file names another model."""

    def plain(name: str) -> str:
        short = name.rstrip("/").split("/")[-1].lower().removesuffix("-hf")
        return {"gpt2-small": "gpt2"}.get(short, re.sub(r"[-_. ]", "", short)).replace("-", "")

    known = {plain(lm.name), plain(str(getattr(lm.hf.config, "_name_or_path", "") or lm.name))}
    if parts.model and plain(parts.model) not in known:
        warnings.warn(
            f"This dictionary was trained on {parts.model}, and the model is {lm.name}. If those are not the same "
            "weights, its features mean nothing here: `dictionary.check(lm, task)` says how much it explains.",
            DictionaryWarning,
            stacklevel=2,
        )


def _weighted(lm: Model, parts: Parts, layer: int) -> Parts:
    """For a site behind a norm's gain, of one that was trained before it."""
    gain, bias = gain_and_bias(lm.decoder.blocks[layer].mlp_norm, parts.encoder[:, 0])
    if (gain == 0).any():
        raise MethodError(
            f"The norm before block {layer}'s MLP has gains of 0, so what this dictionary reads, its output before the "
            "gain, cannot be told from what the MLP reads."
        )
    inverse = (1 / gain)[:, None]
    taken = bias if parts.before is None else bias + gain * parts.before
    skip = None if parts.skip is None else parts.skip * inverse
    offset = parts.decoder_bias if skip is None else parts.decoder_bias - bias @ skip
    return replace(parts, encoder=parts.encoder * inverse, before=taken, skip=skip, decoder_bias=offset)


@torch.no_grad()
def gain_and_bias(norm: torch.nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """γ and β of an RMS norm or a LayerNorm, read off its outputs: N(0) = β, and N(c s) = γ ∘ s + β for signs s.

    The signs' mean is 0 where the width is even, so that a LayerNorm takes nothing off.
    """
    weight = next(iter(norm.parameters()), like)
    width = like.shape[0]
    if width % 2:
        raise MethodError("A norm of odd width is not read here; give the encoder for the norm's output, site='n…'.")
    signs = torch.ones(width, dtype=weight.dtype, device=weight.device)
    signs[width // 2 :] = -1
    bias = norm(torch.zeros_like(signs)[None])[0]
    gain = (norm(_LARGE * signs[None])[0] - bias) * signs
    return gain.to(like), bias.to(like)


def _is_centred(lm: Model, parts: Parts, asked: bool | None, site: Site) -> bool:
    """Whether the dictionary was trained on processed weights that change what it reads."""
    if not (_value_bias(lm, site.layer) is not None if site.kind == "z" else takes_means_off(lm)) or site.kind == "n":
        return False
    if asked is not None and parts.centred is not None and asked != parts.centred:
        raise MethodError(
            f"centred={asked}, but the files say that this dictionary was trained with centred={parts.centred}. Leave "
            "it out."
        )
    told = parts.centred if asked is None else asked
    if told is None:
        why = "biases of its values" if site.kind == "z" else "LayerNorms"
        what = "those biases are folded away" if site.kind == "z" else "the stream has no mean"
        raise MethodError(
            f"{lm.name} has {why}, and the files do not say whether this dictionary was trained with TransformerLens' "
            f"processed weights (its default), where {what}. Say centred=True if it was, centred=False if not; "
            "check(lm, …) of both shows which one explains the activations."
        )
    return told


def _value_bias(lm: Model, layer: int) -> Tensor | None:
    """What every head's values have in common whatever it attends to, [heads · head width]; None if nothing."""
    block = lm.decoder.blocks[layer]
    if not block.projections or block.qkv == "latent" or (bias := block.projection(2).bias) is None:
        return None
    own = block.layout.projected(2, bias, block.kv_heads, block.head_dim)
    return own.repeat_interleave(block.heads // block.kv_heads, 0).flatten()


def _without_value_bias(parts: Parts, bias: Tensor) -> Parts:
    """For heads' values as the model has them, of one that was trained without the biases in them."""
    bias = bias.to(parts.encoder)
    before = bias if parts.before is None else bias + parts.before
    return replace(parts, before=before, decoder_bias=parts.decoder_bias + bias)


@torch.no_grad()
def takes_means_off(lm: Model) -> bool:
    """Whether the model's last norm gives nothing for a constant vector: then weights may have been centred."""
    norm = lm.decoder.final_norm
    weight = next(iter(norm.parameters()), None)
    if weight is None:
        return True
    even = torch.full((1, weight.shape[-1]), _LARGE, dtype=weight.dtype, device=weight.device)
    scale = (norm(even * torch.linspace(-1, 1, weight.shape[-1], dtype=weight.dtype, device=weight.device))).abs().max()
    moved = (norm(even) - norm(torch.zeros_like(even))).abs().max()
    return bool(moved < 1e-2 * scale)


def _of_centred(parts: Parts) -> Parts:
    """For the stream as the model has it, of one that was trained without its mean."""
    if parts.norm != "none":
        raise FileError(
            f"A dictionary of centred weights that also norms its input ({parts.norm}) is not read here: hand over the "
            "tensors of one that reads the stream itself."
        )
    if parts.before is not None:  # (x − mean x − before) W = (x − before) W′ − (mean of before, which W′ drops) W
        bias = parts.encoder_bias - parts.before.mean() * parts.encoder.sum(0)
    else:
        bias = parts.encoder_bias
    encoder = parts.encoder - parts.encoder.mean(0, keepdim=True)
    return replace(parts, encoder=encoder, encoder_bias=bias)

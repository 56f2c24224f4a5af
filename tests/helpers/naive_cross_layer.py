"""Features of cross-layer transcoders by whole runs of the plain model with hooks; nothing here knows veracausa.

A transcoder is a list of layers, each a dict of plain tensors: `w_enc` [d, F], `b_enc`, `threshold` (or None), `w_dec`
[F, layers from its own on, d], `b_dec` [d].
"""

from __future__ import annotations

import naive
import torch

#: What is given the stream between attention and MLP, and the post-norm behind the MLP.
MIDDLE = {"llama": "post_attention_layernorm", "gpt2": "ln_2", "gemma2": "pre_feedforward_layernorm"}
POST = "post_feedforward_layernorm"


def encode(layer, x):
    pre = x @ layer["w_enc"] + layer["b_enc"]
    return pre * (pre > layer["threshold"]) if layer["threshold"] is not None else pre.clamp_min(0)


def left(layers, features, layer, y):
    """ε: what no feature of this or an earlier layer writes, nor the bias."""
    for earlier in range(layer + 1):
        y = y - features[earlier] @ layers[earlier]["w_dec"][:, layer - earlier]
    return y - layers[layer]["b_dec"]


def run(model, family, ids, layers, reads, post, edit=None):
    """Last logits, every layer's features and what its MLP gave; `edit(layer, features, y)` gives another y."""
    blocks, _, _, mlp, _ = naive.PATHS[family]
    seen_x, seen_y, features, handles = [], [], [], []

    def reading(layer):
        def hook(_, args):
            seen_x.append(args[0][0].clone())
            features.append(encode(layers[layer], args[0][0]))

        return hook

    def writing(layer):
        def hook(_, __, output):
            seen_y.append(output[0].clone())
            return None if edit is None else edit(layer, features, output[0])[None]

        return hook

    for layer in range(len(layers)):
        block = model.get_submodule(f"{blocks}.{layer}")
        part = mlp if reads == "n" else MIDDLE[family]
        handles.append(block.get_submodule(part).register_forward_pre_hook(reading(layer)))
        handles.append(block.get_submodule(POST if post else mlp).register_forward_hook(writing(layer)))
    try:
        with torch.no_grad():
            logits = model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return logits, features, seen_y


def effect(model, family, pair, layers, taken, new, *, reads="n", post=False, share=1.0):
    """M with some parts taken minus M; `taken`: (layer, feature or "error", position or None)."""
    how = (layers, reads, post)
    logits, *_ = run(model, family, pair.clean, *how)
    _, other, y_other = run(model, family, pair.corrupted, *how)

    def edit(layer, features, y):
        out = y.clone()
        for own, part, position in taken:
            at = slice(None) if position is None else slice(position, position + 1)
            if part != "error" and own <= layer:
                there = other[own][at, part] if new == "other" else 0.0
                change = share * (there - features[own][at, part])
                out[at] += change[:, None] * layers[own]["w_dec"][part, layer - own]
            if part == "error" and own == layer:
                there = left(layers, other, layer, y_other[layer]) if new == "other" else torch.zeros_like(y)
                out[at] += share * (there - left(layers, features, layer, y))[at]
        return out

    changed, *_ = run(model, family, pair.clean, *how, edit)
    difference = [one[pair.correct] - one[pair.incorrect] for one in (changed, logits)]
    return float(difference[0] - difference[1])

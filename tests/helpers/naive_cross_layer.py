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


class Edges:
    """Edges of one pair, from and to features of a cross-layer transcoder (layer, feature), its errors as senders
    (layer, "error"), MLPs ("mlp", layer), and to "logits". Between, everything is live, or gives what it gave.
    """

    def __init__(self, model, family, pair, layers, reads="n", post=False, noising=True, zero=False):
        self.model, self.family, self.pair = model, family, pair
        self.layers, self.reads, self.post = layers, reads, post
        self.ids, other = (pair.clean, pair.corrupted) if noising else (pair.corrupted, pair.clean)
        self.clean, self.features, self.written = run(model, family, self.ids, layers, reads, post)
        _, self.there, self.given = run(model, family, other, layers, reads, post)
        if zero:
            self.there = [torch.zeros_like(f) for f in self.features]
        self.zero, self.attended = zero, []
        blocks, _, out, _, _ = naive.PATHS[family]
        self.attentions = [model.get_submodule(f"{blocks}.{layer}.{out}") for layer in range(len(layers))]
        keep = lambda _, __, y: self.attended.append(y.clone())  # noqa: E731
        handles = [one.register_forward_hook(keep) for one in self.attentions]
        with torch.no_grad():
            model(torch.tensor([list(self.ids)]), use_cache=False)
        for handle in handles:
            handle.remove()

    def effect(self, up, down, through, frozen_end=False, share=1.0, end_share=1.0):
        """M with what the sender makes of the reader, put into the run alone; shares: how far each goes."""
        logits, features, written = self._run(self._changes(up, self._sent(up), share), not through)
        if down != "logits":
            if down[0] == "mlp":
                moved = {down[1]: end_share * (written[down[1]] - self.written[down[1]])}
            else:
                layer, part = down
                moved = self._changes(down, features[layer][:, part] - self.features[layer][:, part], end_share)
            logits, *_ = self._run(moved, frozen_end)
        logits = logits - self.clean
        return float(logits[self.pair.correct] - logits[self.pair.incorrect])

    def _sent(self, up):
        if up[0] == "mlp":
            return (torch.zeros_like(self.given[up[1]]) if self.zero else self.given[up[1]]) - self.written[up[1]]
        layer, part = up
        if part == "error":
            there = 0 if self.zero else left(self.layers, self.there, layer, self.given[layer])
            return there - left(self.layers, self.features, layer, self.written[layer])
        return self.there[layer][:, part] - self.features[layer][:, part]

    def _changes(self, end, moved, share):
        """Layer → what an end changes of what its MLP gives."""
        if end[0] == "mlp" or end[1] == "error":
            return {end[1] if end[0] == "mlp" else end[0]: share * moved}
        layer, part = end
        rows = self.layers[layer]["w_dec"][part]
        return {layer + i: share * moved[:, None] * row for i, row in enumerate(rows)}

    def _run(self, changes, frozen):
        def edit(layer, features, y):
            own = self.written[layer] if frozen else y
            return own + changes[layer] if layer in changes else own

        handles = [
            one.register_forward_hook(lambda _, __, y, value=value: value)
            for one, value in zip(self.attentions, self.attended, strict=True)
            if frozen
        ]
        try:
            logits, features, written = run(self.model, self.family, self.ids, self.layers, self.reads, self.post, edit)
        finally:
            for handle in handles:
                handle.remove()
        return logits, features, written

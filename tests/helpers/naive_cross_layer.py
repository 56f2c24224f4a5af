"""Features of cross-layer transcoders by whole runs of the plain model with hooks; nothing here knows veracausa.

A transcoder is a list of layers, each a dict of plain tensors: `w_enc` [d, F], `b_enc`, `threshold` (or None), `w_dec`
[F, layers from its own on, d], `b_dec` [d].
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

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


def run(model, family, ids, layers, reads, post, edit=None, begin=None):
    """Last logits, every layer's features and what its MLP gave; `edit(layer, features, y)` gives another y.

    `begin`: embeddings in the place of those of the tokens; then, and with edits that have some, gradients are kept.
    """
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
        with torch.set_grad_enabled(begin is not None or getattr(edit, "slopes", False)):
            given = {"inputs_embeds": begin[None]} if begin is not None else {"input_ids": torch.tensor([list(ids)])}
            logits = model(**given, use_cache=False).logits[0, -1]
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


class Ways:
    """Gradients of one pair's M by autograd, with all that a layer's transcoder writes on its way to the other run.

    Parts are (layer, feature or "error"); what a part changes is told layer by layer, as what its MLP gives.
    """

    def __init__(self, model, family, pair, layers, reads="n", post=False, zero=False, noising=True):
        self.how = model, family
        self.ids, self.other = (pair.clean, pair.corrupted) if noising else (pair.corrupted, pair.clean)
        self.layers, self.end, self.pair = layers, (layers, reads, post), pair
        _, self.features, self.written = run(model, family, self.ids, *self.end)
        _, there, given = run(model, family, self.other, *self.end)
        self.moves, count = {}, len(layers)
        for layer in range(count):
            gone = [torch.zeros_like(f) for f in there] if zero else there
            for part, row in enumerate(layers[layer]["w_dec"]):
                moved = gone[layer][:, part] - self.features[layer][:, part]
                self.moves[layer, part] = {layer + i: moved[:, None] * one for i, one in enumerate(row)}
            left_there = 0 if zero else left(layers, there, layer, given[layer])
            self.moves[layer, "error"] = {layer: left_there - left(layers, self.features, layer, self.written[layer])}

    def whole(self, layer):
        """What all parts of a layer change together."""
        own = [move for (at, _), move in self.moves.items() if at == layer]
        return {at: sum(move[at] for move in own if at in move) for at in range(layer, len(self.layers))}

    def metric(self, logits):
        return logits[self.pair.correct] - logits[self.pair.incorrect]

    def added(self, changes, share=1.0):
        """M of the run with changes added, everything live."""

        def edit(layer, features, y):
            return y + share * changes[layer] if layer in changes else y

        return float(self.metric(run(*self.how, self.ids, *self.end, edit)[0]))

    def slopes(self, changes, share):
        """Layer → ∂M/∂(what its MLP gives), a share of some changes added."""
        extra = [torch.zeros_like(y).requires_grad_() for y in self.written]

        def edit(layer, features, y):
            return y + extra[layer] + (share * changes[layer] if layer in changes else 0)

        edit.slopes = True
        return torch.autograd.grad(self.metric(run(*self.how, self.ids, *self.end, edit)[0]), extra)

    def score(self, layer, part, points, position=None, alone=False):
        """Σ_k w_k g_k · Δ of a part along its layer's way, or along its own; `points`: (α, w)."""
        changes, move = self.moves[layer, part], self.moves[layer, part]
        if position is not None:
            here = torch.arange(len(self.written[0]))[:, None] == position
            changes = move = {at: one * here for at, one in move.items()}
        changes = changes if alone else self.whole(layer)
        found = 0.0
        for alpha, weight in points:
            slopes = self.slopes(changes, alpha)
            found += weight * sum(float((slopes[at] * one).sum()) for at, one in move.items())
        return found

    def along_input(self, layer, part, count):
        """Increments of a part along the straight path of embeddings, count + 1 points, trapezoid."""
        embed = self.how[0].get_input_embeddings()
        e, other = (embed(torch.tensor(list(ids))).detach() for ids in (self.ids, self.other))
        points = []
        for k in range(count + 1):
            extra = [torch.zeros_like(y).requires_grad_() for y in self.written]

            def edit(layer, features, y, extra=extra):
                return y + extra[layer]

            begin = (e + k / count * (other - e)).requires_grad_()
            logits, features, written = run(*self.how, self.ids, *self.end, edit, begin)
            slopes = torch.autograd.grad(self.metric(logits), extra)
            own = features[layer][:, part] if part != "error" else left(self.layers, features, layer, written[layer])
            rows = self.layers[layer]["w_dec"][part] if part != "error" else None
            slope = slopes[layer] if rows is None else sum(slopes[layer + i] @ one for i, one in enumerate(rows))
            points.append((own.detach(), slope.detach()))
        return sum(float(((b[0] - a[0]) * (a[1] + b[1]) / 2).sum()) for a, b in pairwise(points))

    @cache  # noqa: B019
    def reader(self, layer, nodes):
        """Layer → mean slope of what its MLP gives, at α = 0, 1/nodes, … of a layer's way (0: at the run itself)."""
        shares, changes = [k / nodes for k in range(nodes)] if nodes else [0.0], self.whole(layer)
        every = [self.slopes(changes, share) for share in shares]
        return [sum(each) / len(shares) for each in zip(*every, strict=True)]

    def edge(self, up, down, nodes, live="attentions", run_it=False):
        """Score of an edge into a feature: MLPs between give what they gave ("attentions" live), or "everything" is
        live; by slopes, or by a run of what u does.
        """
        layer, part = down
        share = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def edit(at, features, y, share=share):
            own = y if at == layer or live == "everything" else self.written[at]
            return own + share * self.moves[up][at] if at in self.moves[up] else own

        edit.slopes = True
        means = self.reader(layer, nodes)
        rows = self.layers[layer]["w_dec"][part]
        if run_it:
            moved = run(*self.how, self.ids, *self.end, lambda at, f, y: edit(at, f, y, 1.0))[1][layer][:, part]
            moved = moved - self.features[layer][:, part]
        else:
            seen = run(*self.how, self.ids, *self.end, edit)[1][layer][:, part]
            moved = torch.stack([torch.autograd.grad(one, share, retain_graph=True)[0] for one in seen])
        return float(sum((means[layer + i] * moved[:, None] * one).sum() for i, one in enumerate(rows)))

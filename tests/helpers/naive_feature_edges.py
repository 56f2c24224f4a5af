"""Edges between features by whole runs of the plain Hugging Face model with hooks.

An edge's upstream change is put in; between it and its reader everything is either live, or (frozen) every attention
and MLP gives out what it gave in the base run. What the reader is there is put into the base run.
"""

from __future__ import annotations

import torch
from naive_features import Plain, hook

#: Which module a site is the input or output of: its attention's, its MLP's, or the stream's.
OF = {"z": "attn_out", "attn_out": "attn_out", "attn_post": "attn_out", "mlp": "mlp", "mlp_post": "mlp"}


def run(model, family, ids, edits=(), watch=()):
    """(logits at the last position, site → its activations) of a run with (site, edit) pairs."""
    edits = sorted(edits, key=lambda one: one[0][0] == "mid")  # what a frozen attention gives goes before it
    found, handles = {}, [hook(model, family, where, edit) for where, edit in edits]

    def keep(where):
        return lambda a: found.setdefault(where, a.detach().clone())

    handles += [hook(model, family, where, keep(where)) for where in watch]
    try:
        with torch.no_grad():
            logits = model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return logits, found


class Edges:
    """Edges of one pair. Ends are (dictionary, part), ("head", layer, head, width), ("mlp", layer), "logits",
    ("mlp_post", layer) for what a post-norm makes of an MLP, ("resid", 0) for the input.
    """

    def __init__(self, model, family, layers, pair, noising=True, zero=False, share=1.0):
        self.model, self.family, self.layers, self.pair = model, family, layers, pair
        self.base, self.other = (pair.clean, pair.corrupted) if noising else (pair.corrupted, pair.clean)
        self.zero, self.share = zero, share  # how far a sender goes to what it is in the other run
        modules = [(site, layer) for layer in range(layers) for site in ("attn_out", "mlp")]
        self.modules = run(model, family, self.base, watch=modules)[1]

    def effect(self, up, down, through: bool, end_frozen: bool = False) -> float:
        edits = [self._sent(up)] + ([] if through else self._frozen(up, down))
        watch = [] if down == "logits" else list(dict.fromkeys(self._watched(down)))
        logits, found = run(self.model, self.family, self.base, edits, watch)
        if down != "logits":
            new = self._new(down, found)
            frozen = self._frozen(down, "logits") if end_frozen else []
            logits, _ = run(self.model, self.family, self.base, [new, *frozen])
        logits = logits - run(self.model, self.family, self.base)[0]
        return float(logits[self.pair.correct] - logits[self.pair.incorrect])

    def estimate(self, up, down, through: bool, end_frozen: bool = False, h=1e-6) -> float:
        """dM/dε where ε of the change that the sender makes of the reader is put in: central differences, O(h²)."""
        edits = [self._sent(up)] + ([] if through else self._frozen(up, down))
        _, found = run(self.model, self.family, self.base, edits, list(dict.fromkeys(self._watched(down))))
        where, edit = self._new(down, found)
        frozen = self._frozen(down, "logits") if end_frozen else []
        ends = []
        for share in (h, -h):
            new = where, lambda a, share=share: a + share * (edit(a) - a)
            logits, _ = run(self.model, self.family, self.base, [new, *frozen])
            ends.append(logits[self.pair.correct] - logits[self.pair.incorrect])
        return float(ends[0] - ends[1]) / (2 * h)

    def _frozen(self, *but):
        """Every module gives out what it did, but the ends' own."""
        own = {self._module(one) for one in but}
        return [(where, lambda a, value=value: value) for where, value in self.modules.items() if where not in own]

    def _module(self, end):
        if end == "logits":
            return None
        if end[0] == "head":
            return "attn_out", end[1]
        if end[0] in ("mlp", "mlp_post"):
            return "mlp", end[1]
        if end[0] == "resid":
            return end
        site, layer = end[0].writes
        return (OF[site], layer) if site in OF else None

    def _watched(self, end):
        if end[0] == "head":
            return [("z", end[1])]
        return [end] if end[0] in ("mlp", "mlp_post", "resid") else [end[0].reads, end[0].writes]

    def _sent(self, end):
        """The edit that puts in what a sender is in the other run, or nothing."""
        there = run(self.model, self.family, self.other, watch=self._watched(end))[1]
        if self.zero and not isinstance(end[0], Plain):
            there = {where: torch.zeros_like(value) for where, value in there.items()}
        where, edit = self._new(end, there, zero=self.zero)
        return where, lambda a: a + self.share * (edit(a) - a)

    def _new(self, end, there, zero=False):
        """The edit that puts in what an end is among these activations."""
        if end[0] in ("mlp", "mlp_post", "resid"):
            return end, lambda a: there[end]
        if end[0] == "head":
            own = slice(end[2] * end[3], (end[2] + 1) * end[3])

            def put(a):
                a = a.clone()
                a[:, own] = there["z", end[1]][:, own]
                return a

            return ("z", end[1]), put
        dictionary, part = end
        before = run(self.model, self.family, self.base, watch=self._watched(end))[1]
        old, new = (
            dictionary.parts(values[dictionary.reads], values[dictionary.writes])[part] for values in (before, there)
        )
        delta = -old if zero else new - old
        return dictionary.writes, lambda a: a + delta

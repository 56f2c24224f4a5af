"""Features of dictionaries by whole runs of the plain Hugging Face model with hooks; encoders written out anew.

A dictionary is handed over as plain tensors; nothing here knows veracausa.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import naive
import torch
from torch import Tensor

#: Post-norms of Gemma 2, whose outputs go straight to the stream.
POSTED = {"mlp_post": "post_feedforward_layernorm", "attn_post": "post_attention_layernorm"}


@dataclass
class Plain:
    """`kind`: relu, jumprelu, topk or linear. Sites: (name, layer), name of resid, mid, attn_out, mlp, z, mlp_in."""

    kind: str
    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    reads: tuple[str, int]
    writes: tuple[str, int]
    threshold: Tensor | None = None
    k: int = 0
    skip: Tensor | None = None

    def encode(self, x: Tensor) -> Tensor:
        pre = x @ self.w_enc + self.b_enc
        if self.kind == "linear":
            return pre
        if self.kind == "relu":
            return pre.clamp_min(0)
        if self.kind == "jumprelu":
            return pre * (pre > self.threshold)
        cut = pre.sort(-1, descending=True).values[..., self.k - 1 : self.k]
        return pre.clamp_min(0) * (pre >= cut)

    def parts(self, x: Tensor, y: Tensor) -> dict[Any, Tensor]:
        """Part → what it adds to y, [n, d]: each feature, the skip, the error."""
        f = self.encode(x)
        found: dict[Any, Tensor] = {i: f[:, i : i + 1] * self.w_dec[i] for i in range(f.shape[1])}
        found["skip"] = x @ self.skip if self.skip is not None else torch.zeros_like(y)
        found["error"] = y - sum(found.values()) - self.b_dec
        return found


def _module(model, family: str, site: str, layer: int):
    blocks, final_norm, out_proj, mlp, _ = naive.PATHS[family]
    if site == "resid":
        last = layer == naive._n_layers(model, family)
        return model.get_submodule(final_norm if last else f"{blocks}.{layer}")
    if site in POSTED:
        return model.get_submodule(f"{blocks}.{layer}.{POSTED[site]}")
    return model.get_submodule(f"{blocks}.{layer}.{mlp if site in ('mlp', 'mlp_in') else out_proj}")


def hook(model, family: str, where: tuple[str, int], edit):
    """Pass a site's activation [n, d] through `edit`."""
    site, layer = where
    if site == "mid":
        return _Between(model, family, layer, edit)
    module = _module(model, family, site, layer)
    if site in ("mlp", "attn_out", *POSTED):
        return module.register_forward_hook(lambda _, args, output: edit(output[0])[None])
    return module.register_forward_pre_hook(lambda _, args: (edit(args[0][0])[None], *args[1:]))


class _Between:
    """The stream between attention and MLP, block input + attention's write: that write is given what makes it so."""

    def __init__(self, model, family: str, layer: int, edit):
        entered: list[Tensor] = []
        site = "attn_post" if family.startswith(("gemma", "olmo")) else "attn_out"
        times = getattr(model.config, "residual_multiplier", 1)  # Granite's

        def keep(_, args):
            entered[:] = [args[0][0]]

        def write(_, args, output):
            return ((edit(entered[0] + times * output[0]) - entered[0]) / times)[None]

        self.handles = [
            _module(model, family, "resid", layer).register_forward_pre_hook(keep),
            _module(model, family, site, layer).register_forward_hook(write),
        ]

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def run(model, family: str, ids: Sequence[int], edits=()) -> Tensor:
    """Logits at the last position, with (site, edit) pairs."""
    handles = [hook(model, family, where, edit) for where, edit in edits]
    try:
        return model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def both(model, family: str, ids: Sequence[int], dictionary: Plain) -> tuple[Tensor, Tensor]:
    """What the dictionary reads and what it explains, [n, d] each."""
    found: dict[str, Tensor] = {}

    def keep(name):
        def edit(a):
            found[name] = a.detach().clone()
            return a

        return edit

    with torch.no_grad():
        run(model, family, ids, [(dictionary.reads, keep("x")), (dictionary.writes, keep("y"))])
    return found["x"], found["y"]


def effect(model, family, pair, dictionary: Plain, part, new: str, noising: bool = True, position=None) -> float:
    """M of the patched run minus M of the run that is patched; `new`: "other" or "zero"."""
    base, other = (pair.clean, pair.corrupted) if noising else (pair.corrupted, pair.clean)
    own = dictionary.parts(*both(model, family, base, dictionary))[part]
    there = dictionary.parts(*both(model, family, other, dictionary))[part]
    delta = (there if new == "other" else torch.zeros_like(own)) - own
    if position is not None:
        kept = torch.zeros_like(delta)
        kept[position] = delta[position]
        delta = kept

    def metric(edits=()) -> float:
        with torch.no_grad():
            logits = run(model, family, base, edits)
        return float(logits[pair.correct] - logits[pair.incorrect])

    return metric([(dictionary.writes, lambda a: a + delta)]) - metric()


def atp(model, family, pair, dictionary: Plain, part, noising: bool = True) -> float:
    """∂M/∂y · (what the part changes of y), the gradient by autograd at the hooked site."""
    base, other = (pair.clean, pair.corrupted) if noising else (pair.corrupted, pair.clean)
    own = dictionary.parts(*both(model, family, base, dictionary))[part]
    there = dictionary.parts(*both(model, family, other, dictionary))[part]
    extra = torch.zeros_like(own, requires_grad=True)
    logits = run(model, family, base, [(dictionary.writes, lambda a: a + extra)])
    (gradient,) = torch.autograd.grad(logits[pair.correct] - logits[pair.incorrect], extra)
    return float((gradient * (there - own)).sum())


def group_run(hf, family, pair, members, noising=True):
    """M of a run in which parts of dictionaries take the other run's values in the run that is going on."""
    base, other = (pair.clean, pair.corrupted) if noising else (pair.corrupted, pair.clean)
    edits, read = [], {}
    for theirs, parts in members:
        there = theirs.parts(*both(hf, family, other, theirs))

        def keep(a, theirs=theirs):
            read[theirs.reads] = a
            return a

        def edit(y, theirs=theirs, parts=parts, there=there):
            own = theirs.parts(read[theirs.reads] if theirs.reads != theirs.writes else y, y)
            return y + sum(there[part] - own[part] for part in parts)

        edits += [(theirs.reads, keep)] if theirs.reads != theirs.writes else []
        edits.append((theirs.writes, edit))
    with torch.no_grad():
        logits = run(hf, family, base, edits)
    return float(logits[pair.correct] - logits[pair.incorrect])

"""Why attribution patching misses heads 17.4 and 20.0 on the published pair: which nonlinearity bends their effect.

A head's change is carried through the later blocks as a difference from the clean run. Each part (norms; attention:
softmax and its product with the values; MLPs) is taken exactly, f(x + Δ) − f(x), or linearised at the clean run, J Δ.
All linear is attribution patching, all exact is the exact effect (both are checked); what one part alone explains is
what changes when it alone is exact, and what it alone spoils is what changes when it alone is linear.

    python benchmarks/outliers.py
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from common import header, table
from torch import Tensor
from torch.autograd import forward_ad

import veracausa as vc

HEADS = ("a17.h4", "a20.h0")
PARTS = ("norms", "attention", "MLPs")


def change(part: Callable[[Tensor], Tensor], x: Tensor, delta: Tensor, exact: bool) -> Tensor:
    """f(x + Δ) − f(x), or the Jacobian at x times Δ."""
    if exact:
        return part(x + delta) - part(x)
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(part(forward_ad.make_dual(x, delta))).tangent


class Clean:
    """The clean run, block by block, and the corrupted run's head values."""

    def __init__(self, lm: vc.Model, task: vc.Task) -> None:
        self.lm, self.task, blocks = lm, task, lm.decoder.blocks
        self.calls: list[dict] = [{} for _ in blocks]
        self.inputs: list[Tensor] = []
        values: list[Tensor] = []
        handles = []
        for layer, block in enumerate(blocks):
            handles.append(block.attention_norm.register_forward_pre_hook(lambda _, a: self.inputs.append(a[0])))
            handles.append(block.attention_out.register_forward_pre_hook(lambda _, a: values.append(a[0])))

            def keep(_: object, __: object, kwargs: dict, layer: int = layer) -> None:
                self.calls[layer] = {k: v for k, v in kwargs.items() if k not in ("hidden_states", "past_key_values")}

            handles.append(block.attention.register_forward_pre_hook(keep, with_kwargs=True))
        handles.append(lm.decoder.final_norm.register_forward_pre_hook(lambda _, a: self.inputs.append(a[0])))
        for ids in (task.clean, task.corrupted):
            lm.hf(torch.tensor(ids), use_cache=False)
        for handle in handles:
            handle.remove()
        count = len(blocks)
        self.values = values[:count], values[count:]
        del self.inputs[count + 1 :]

    def effect(self, layer: int, head: int, exact: dict[str, bool]) -> float:
        """M(head patched) − M(clean), with some parts exact and the others linear."""
        decoder = self.lm.decoder
        columns = slice(head * decoder.head_dim, (head + 1) * decoder.head_dim)
        own, other = (run[layer][..., columns] for run in self.values)
        delta = (other - own) @ decoder.blocks[layer].head_weights[columns]
        for block in decoder.blocks[layer:]:
            x = self.inputs[block.layer]
            if block.layer > layer:  # the head's own block: the patch joins behind its attention
                normed = change(block.attention_norm, x, delta, exact["norms"])

                def attend(n: Tensor, block: object = block) -> Tensor:
                    return block.attention(n, **self.calls[block.layer])[0]  # type: ignore[attr-defined]

                delta = delta + change(attend, block.attention_norm(x), normed, exact["attention"])
            middle = x + block.attention(block.attention_norm(x), **self.calls[block.layer])[0]
            normed = change(block.mlp_norm, middle, delta, exact["norms"])
            delta = delta + change(block.mlp, block.mlp_norm(middle), normed, exact["MLPs"])
        final = change(decoder.final_norm, self.inputs[-1], delta, exact["norms"])[0, -1]
        right, wrong = self.task.correct[0][0], self.task.incorrect[0][0]
        weights: Tensor = decoder.unembedding.weight  # type: ignore[assignment]
        return float(final @ (weights[right] - weights[wrong]))


@torch.no_grad()
def main() -> None:
    lm = vc.load("smollm2-135m", device="cpu", attn_implementation="eager", dtype=torch.float64)
    task = vc.tasks.published_pair(lm)
    clean, gap = Clean(lm, task), float(lm.measure(task).gap.mean())
    exact = vc.exact(lm, task, units=list(HEADS), show_progress=False).normalised()
    with torch.enable_grad():
        atp = vc.attribute(lm, task, units=list(HEADS), method="atp", show_progress=False).normalised()
    print(header("python benchmarks/outliers.py"), "\n")
    rows = []
    for i, name in enumerate(HEADS):
        layer, head = int(name[1:3]), int(name[-1])
        found = {
            choice: clean.effect(layer, head, dict(zip(PARTS, choice, strict=True))) / gap
            for choice in product((False, True), repeat=3)
        }
        linear, whole = found[False, False, False], found[True, True, True]
        assert abs(linear - float(atp[i])) < 1e-6 and abs(whole - float(exact[i])) < 1e-6
        shares = [f"{linear:+.3f}", f"{whole:+.3f}"]
        for part in PARTS:
            alone = found[tuple(p == part for p in PARTS)] - linear
            last = whole - found[tuple(p != part for p in PARTS)]
            shares.append(f"{alone:+.3f} / {last:+.3f}")
        rows.append([name, *shares])
    print(table(["head", "all linear = atp", "all exact", *(f"{p}: alone / last" for p in PARTS)], rows))


if __name__ == "__main__":
    main()

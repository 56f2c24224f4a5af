"""Runs behind a location: patched rows with every choice of expanded parts, and what each sublayer adds to E − AtP.

With g = ∂M/∂(residual stream) of the clean run and Δr(l) = the patched run's stream minus the clean one's, the first-
order account T(l) = ⟨g(l), Δr(l)⟩ begins at AtP right behind the patch and ends at E. A sublayer f (attention, MLP)
changes it by

    ⟨g, f(r′) − f(r) − J_f(r) Δr⟩,   an attention by Σ_heads ⟨∂M/∂z_h, z_h(r′) − z_h(r) − J_z(r) Δr⟩ (+ its post-norm)

so the increments sum to the curvature, exactly. `engine.expansion` computes f(r) + J_f(r) Δr with the model's modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from veracausa.anatomy import Block
from veracausa.cost import Cost
from veracausa.effects.rows import Rows
from veracausa.engine.bucket import Bucket
from veracausa.engine.expansion import SITES, Expansion, kinds_of
from veracausa.engine.guard import changing, hooks
from veracausa.engine.memory import memory_errors
from veracausa.engine.patches import Place, sites_for
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.tape import State, whole_middles

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(eq=False)
class Recorded:
    """A bucket of pairs with the clean run's gradients and expansion; `gradients`: at the stream before each block
    ("residual"), behind its attention ("middle") and at the heads' values ("z"), each [layer] → [B, S, …]."""

    bucket: Bucket
    expansion: Expansion
    gradients: dict[str, list[Tensor]]
    unpatched: Tensor

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of nonlinear parts that this model and metric have."""
        return kinds_of(self.bucket.lm.decoder, self.bucket.read.metric.name)

    def behind(self, layer: int, attention: bool) -> Tensor:
        """Gradient at the stream that a block's attention (else MLP) writes into."""
        block = self.bucket.lm.decoder.blocks[layer]
        if attention and not block.parallel:
            return self.gradients["middle"][layer]
        return block.behind(self.gradients["residual"][layer + 1])


@dataclass(eq=False)
class Seen:
    """What modules got and gave while rows ran, by layer: rows that had joined, positions that were run."""

    residual: dict[int, Tensor] = field(default_factory=dict)
    middle: dict[int, Tensor] = field(default_factory=dict)
    z: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
    mlp: dict[int, Tensor] = field(default_factory=dict)

    def watch(self, blocks: Sequence[Block]) -> list[Any]:
        """Hooks that fill it in; `attention` and `mlp` are the writes, behind post-norms and factors."""

        def got(module: nn.Module, into: dict[int, Tensor], layer: int) -> Any:
            return module.register_forward_pre_hook(lambda _, args: into.__setitem__(layer, args[0]))

        def got_first(module: nn.Module, into: dict[int, Tensor], layer: int) -> Any:
            """Of a norm that serves attention and MLP, which runs for the attention first."""
            return module.register_forward_pre_hook(lambda _, args: (into.setdefault(layer, args[0]), None)[1])

        def gave(module: nn.Module, into: dict[int, Tensor], layer: int, scale: float) -> Any:
            def keep(output: Tensor) -> Tensor:
                into[layer] = output if scale == 1 else output * scale
                return output

            return changing(module, keep)

        handles: list[Any] = []
        for block in blocks:
            layer = block.layer
            handles += [
                (got_first if block.one_norm else got)(block.attention_norm, self.residual, layer),
                got(block.mlp_norm, self.middle, layer),
                got(block.attention_out, self.z, layer),
                gave(block.attention_post_norm or block.attention_out, self.attention, layer, block.attention_factor),
                gave(block.mlp_post_norm or block.mlp_end, self.mlp, layer, block.mlp_factor),
            ]
        return handles


def record(lm: Model, task: Task, place: Place, start: int, examples: tuple[int, ...], cost: Cost) -> Recorded:
    """Both runs of a bucket, the clean one's gradients, and its expansion."""
    sites = tuple(dict.fromkeys(("z", "attention", *SITES, *sites_for(place))))
    bucket = Bucket.record(lm, task, start, examples, cost, sites=sites, places=(place,), grad="clean")
    tape, clean = bucket.tape, bucket.tape.clean
    wanted = {"residual": clean.residual, "middle": clean.middle, "z": clean.sites["z"]}
    with torch.enable_grad(), memory_errors(f"The backward pass of {len(examples)} prompts"):
        total = bucket.read.of_state(clean).sum()
        flat = [tensor for tensors in wanted.values() for tensor in tensors]
        found = iter(torch.autograd.grad(total, flat, allow_unused=True, materialize_grads=True))
    cost.backward += len(examples) * bucket.positions * lm.layers
    gradients = {name: [next(found) for _ in tensors] for name, tensors in wanted.items()}
    gradients["middle"] = whole_middles(lm.decoder, gradients["middle"], gradients["residual"])
    tape.clean = _without_graph(clean)
    with torch.no_grad():
        unpatched = bucket.unpatched(tape.clean)
        expansion = Expansion.around(lm.decoder, tape, tape.clean, cost)
    return Recorded(bucket, expansion, gradients, unpatched)


@dataclass(eq=False)
class Recorder:
    """Buckets of a task as they are asked for: kept for the next time if `keeps`, else recorded anew."""

    lm: Model
    task: Task
    place: Place
    keeps: bool
    cost: Cost
    _kept: dict[tuple[int, ...], Recorded] = field(default_factory=dict)

    def __call__(self, start: int, examples: tuple[int, ...]) -> Recorded:
        """One bucket."""
        if examples in self._kept:
            return self._kept[examples]
        found = record(self.lm, self.task, self.place, start, examples, self.cost)
        if self.keeps:
            self._kept[examples] = found
        return found


def _without_graph(state: State) -> State:
    lists: dict[str, Any] = {
        name: [t.detach() for t in getattr(state, name)] for name in ("residual", "middle", "keys", "values")
    }
    sites = {site: [t.detach() for t in tensors] for site, tensors in state.sites.items()}
    return replace(state, sites=sites, **lists)


@dataclass(eq=False)
class Account:
    """What rows gave.

    `runs` [2^k, rows]: changes of M by which kinds were live (bit i: kind i), so AtP first and E last. `sublayers`
    [2L + 2, rows]: increments of the patch's own post-norm, of attention and MLP of each block, of the end. `heads`
    [L, H, rows]: those of each head.
    """

    runs: Float[Tensor, "choices rows"]
    sublayers: Float[Tensor, "places rows"]
    heads: Float[Tensor, "layers heads rows"]

    @property
    def figures(self) -> Float[Tensor, "rows figures"]:
        """All of them, row by row."""
        return torch.cat([self.runs, self.sublayers, self.heads.flatten(0, 1)]).T


@torch.no_grad()
def run_rows(recorded: Recorded, rows: Rows, order: np.ndarray) -> Account:
    """Run rows (example, unit), sorted by layer, live and with every set of kinds expanded."""
    lm, tape, read = recorded.bucket.lm, recorded.bucket.tape, recorded.bucket.read
    decoder, expansion, kinds = lm.decoder, recorded.expansion, recorded.kinds
    example = torch.as_tensor(order[:, 0], device=lm.device)
    joins = rows.joins(tape, tape.clean, order, tape.start)
    live, straight = [join.enter() for join in joins], []
    for join in joins:
        with expansion.expanded(("norm",), join.example):
            straight.append(join.enter())
    everything = (1 << len(kinds)) - 1
    runs = torch.empty(everything + 1, len(order), dtype=lm.score_dtype, device=lm.device)
    seen = Seen()
    with hooks(*seen.watch(decoder.blocks)):
        last = sweep(decoder, tape, tape.clean, _entering(joins, live), start=tape.start, cost=rows.cost)
    runs[everything] = read(last, example)
    for choice in range(everything):
        linear = [kind for bit, kind in enumerate(kinds) if not choice >> bit & 1]
        entering = _entering(joins, straight if "norm" in linear else live)
        with expansion.expanded(linear, example):
            end = sweep(decoder, tape, tape.clean, entering, start=tape.start, cost=rows.cost)
            runs[choice] = expansion.metric(read, end, example, linear)
    sublayers, heads = _increments(recorded, seen, example, rows.cost)
    sublayers[0] = torch.cat([_entry(recorded, *each) for each in zip(joins, live, straight, strict=True)])
    with expansion.expanded(kinds, example):
        sublayers[-1] = runs[everything] - expansion.metric(read, last, example, kinds)
    return Account(runs - recorded.unpatched[example], sublayers, heads)


def _entering(joins: list[Join], streams: list[Tensor]) -> list[Join]:
    """The same joins with their residual streams at hand."""
    return [Join(j.layer, j.middle, j.example, lambda s=s: s) for j, s in zip(joins, streams, strict=True)]  # type: ignore[misc]


def _entry(recorded: Recorded, join: Join, live: Tensor, straight: Tensor) -> Float[Tensor, " rows"]:
    """What the patch's own post-norm adds."""
    gradient = recorded.gradients["middle" if join.middle else "residual"][join.layer]
    return _against(gradient, join.example, live - straight).sum((1, 2))


def _increments(
    recorded: Recorded, seen: Seen, example: Tensor, cost: Cost
) -> tuple[Float[Tensor, "places rows"], Float[Tensor, "layers heads rows"]]:
    """Increments of every sublayer and head, for rows that ran live."""
    lm, positions = recorded.bucket.lm, recorded.bucket.positions
    like = {"dtype": lm.score_dtype, "device": lm.device}
    sublayers = torch.zeros(2 * lm.layers + 2, len(example), **like)  # type: ignore[call-overload]
    heads = torch.zeros(lm.layers, lm.heads, len(example), **like)  # type: ignore[call-overload]
    for layer in seen.middle:
        tangent = tangents(recorded, seen, lm.decoder.blocks[layer], example)
        cost.add(len(seen.middle[layer]), positions)
        if layer in tangent.attention:
            part = _against(recorded.behind(layer, True), example, seen.attention[layer] - tangent.attention[layer])
            sublayers[1 + 2 * layer, : len(part)] = part.sum((1, 2)).to(sublayers)
            part = _against(recorded.gradients["z"][layer], example, seen.z[layer] - tangent.z[layer])
            heads[layer, :, : len(part)] = part.unflatten(-1, (lm.heads, -1)).sum((1, 3)).T.to(heads)
        part = _against(recorded.behind(layer, False), example, seen.mlp[layer] - tangent.mlp[layer])
        sublayers[2 + 2 * layer, : len(part)] = part.sum((1, 2)).to(sublayers)
    return sublayers, heads


def tangents(recorded: Recorded, seen: Seen, block: Block, example: Tensor) -> Seen:
    """What a block's attention and MLP would have given to first order for the streams that rows had there."""
    found, layer = Seen(), block.layer
    with recorded.expansion.expanded(recorded.kinds, example), hooks(*found.watch([block])):
        if layer in seen.residual:
            here = example[: len(seen.residual[layer])] if len(recorded.bucket.tape.examples) > 1 else None
            block.attend(seen.residual[layer], recorded.expansion.call(layer, here))
        block.feed_forward(seen.middle[layer])
    return found


def _against(gradient: Tensor, example: Tensor, moved: Tensor) -> Float[Tensor, "rows positions width"]:
    """Products with the clean run's gradient, for the rows and (last) positions that there are; in float32 at least."""
    exact = torch.promote_types(moved.dtype, torch.float32)
    return moved.to(exact) * gradient[example[: len(moved)]][:, -moved.shape[1] :].to(exact)

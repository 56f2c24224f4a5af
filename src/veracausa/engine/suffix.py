"""Run many patched rows through the later blocks and the later positions only.

A row is one example with one patch. It joins the batch where its patch acts: before block l ("in"), or between
that block's attention and its MLP ("middle"). Rows of different layers travel together, so that a batch of all
heads of one prompt is one sweep through the model. Rows that joined later have simply run fewer blocks.

A mixer has no keys and values to go on from. Where its family can, it goes on from what it carries in the base run
(`restart`); else rows give it what it has read before them, as the base run has recorded it, so that its scan comes to
where they begin.

Work of a row that joins at block l: (L − l) · S token-layers, S = positions from the patch to the end. The last
block's MLP is run at the tail alone: the last positions, from the first on at which the metric is read. Bound by matrix
products: each block is 2 · (parameters of a block) operations a token against weights that are read once per chunk.

Everything is made of ordinary operations, so a sweep carries gradients when its joining rows do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.anatomy import Block, Decoder
from veracausa.cost import Cost
from veracausa.engine.attention import Past
from veracausa.engine.overrides import Override, overriding
from veracausa.engine.restart import carried_by
from veracausa.engine.tape import State, Tape, slice_call

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Shared:
    """Keys and values that later blocks read, of a sweep's rows: their own, or the base run's if they joined later.

    Attention modules write theirs into `states`, and read others' out of it.
    """

    def __init__(self, decoder: Decoder, base: State, start: int) -> None:
        self.sources = sorted({of for at, of in enumerate(decoder.key_sources) if of != at})
        self.decoder, self.base, self.start = decoder, base, start
        self.states: dict[str | None, tuple[Tensor, Tensor]] = {}

    @property
    def given(self) -> dict[str, Any]:
        """What attention modules are given; nothing where none shares."""
        return {"shared_kv_states": self.states} if self.sources else {}

    def join(self, behind: int, example: Int[Tensor, " rows"]) -> None:
        """Rows join behind the attention of block `behind` − 1: up to there they have what the base run has."""
        for source in self.sources:
            if source < behind:
                own = (run[source][example, :, self.start :] for run in (self.base.keys, self.base.values))
                named = self.decoder.blocks[source].keys_named
                before = self.states.get(named)
                keys, values = own if before is None else (torch.cat(two) for two in zip(before, own, strict=True))
                self.states[named] = keys, values


@dataclass(frozen=True)
class Join:
    """Rows that enter the stream at one place, all at once.

    `layer`, `middle`: before block `layer`, or between its attention and its MLP. `layer` = L: at the end.
    `example`: each row's example, as an index into the tape. `enter(rows)` gives their residual stream there,
    [rows, S, width]; it is called when the sweep gets there, so that waiting rows take no memory.
    """

    layer: int
    middle: bool
    example: Int[Tensor, " rows"]
    enter: Callable[[], Float[Tensor, "rows positions width"]]

    @property
    def order(self) -> tuple[int, bool]:
        """Sorts joins along the forward pass."""
        return self.layer, self.middle


def sweep(
    decoder: Decoder,
    tape: Tape,
    base: State,
    joins: list[Join],
    *,
    start: int,
    behind: int | None = None,
    overrides: Mapping[int, Sequence[Override]] | None = None,
    backward: bool = False,
    cost: Cost | None = None,
) -> Float[Tensor, "rows tail width"]:
    """Final residual of every row at the tape's tail, in the order of `joins` along the forward pass.

    Where rows hold fewer positions than the tail, those before them are the base run's.

    Args:
        decoder: the model's anatomy; its attention function must be `attention.SUFFIX` (see `guard`).
        tape: the bucket that the rows come from.
        base: the run that is patched, `tape.clean` or `tape.corrupted`: its keys and values are the past.
        joins: sorted by `Join.order`.
        start: first position that the rows hold, at least `tape.start`.
        behind: the block in front of which rows are read (None: the end). The tape's tail must then be all positions.
        overrides: layer → what rows take there in the place of their own (L: the stream at the end).
        backward: count the cost of a backward pass, too.
        cost: where to count.
    """
    positions = tape.length - start
    tail = min(tape.tail, positions)
    waiting, taken, shared = list(joins), overrides or {}, Shared(decoder, base, start)
    rows: Tensor | None = None
    example: Tensor | None = None

    def join(layer: int, middle: bool) -> None:
        nonlocal rows, example
        while waiting and waiting[0].order == (layer, middle):
            new = waiting.pop(0)
            entered = new.enter()
            rows = entered if rows is None else torch.cat([rows, entered])
            example = new.example if example is None else torch.cat([example, new.example])
            shared.join(layer + middle, new.example)

    def streamed(layer: int, at: str = "residual") -> Tensor | None:
        found = [one for one in taken.get(layer, ()) if one.at == at]
        return rows if rows is None or not found else found[0].of_stream(rows)

    first = joins[0].layer
    for block in decoder.blocks[first:behind]:
        layer = block.layer
        join(layer, False)
        rows = streamed(layer)
        last_block = layer == decoder.layers - 1
        attended: Tensor | None = None
        carried = [None if example is None else carried_by(tape, base, one, example, start) for one in block.mixers]
        with overriding(block, taken.get(layer, ())) as beside:
            if rows is not None and example is not None and block.mixing != "nothing":
                attended = _mixed(tape, base, block, rows, example, start, beside | shared.given, carried)
            if block.parallel:
                if rows is not None:
                    rows = (
                        _at(last_block, rows, tail)
                        + _at(last_block, _require(attended), tail)
                        + block.feed_forward(_at(last_block, rows, tail))
                    )
            else:
                if rows is not None and block.mixing != "nothing":
                    rows = block.added(rows, _require(attended))
                join(layer, True)
                if rows is not None:
                    rows = _at(last_block, _require(streamed(layer, "middle")), tail)
                    rows = rows + block.feed_forward(rows) if block.has_mlp else rows
            if rows is not None and example is not None:
                rows = block.ended(rows, base.own_input(layer, example, rows.shape[1]))
        if rows is not None and cost is not None:
            cost.add(rows.shape[0], positions, backward)
    if rows is not None:
        rows = rows[:, -tail:]
    if waiting:  # rows whose patch acts after the last block
        ends = [new.enter()[:, -tail:] for new in waiting]
        rows = torch.cat(ends if rows is None else [rows, *ends])
    found = _require(streamed(decoder.layers))
    lacking = tape.tail - tail  # before the positions that rows hold, nothing has changed
    if not lacking:
        return found
    early = base.end(tape.tail)[torch.cat([one.example for one in joins]), :lacking]
    return torch.cat([early.to(found.dtype), found], 1)


def through(
    tape: Tape,
    base: State,
    block: Block,
    example: Int[Tensor, " rows"],
    found: Sequence[Override],
    *,
    start: int,
    mixed: Callable[[], Float[Tensor, "rows positions width"]] | None = None,
    cost: Cost | None = None,
) -> Float[Tensor, "rows positions width"]:
    """The stream behind one block, of rows that enter it as the base run does and take other values in it.

    `mixed()`: what the block's mixer writes there, where that is not what it makes of the rows.
    """
    rows = base.residual[block.layer][example, start - tape.start :]
    own = [one for one in block.mixers if mixed is None or one.mixing != "mixer"]
    carried = [carried_by(tape, base, one, example, start) for one in own]
    with overriding(block, found) as beside:
        writes = [] if mixed is None else [mixed()]
        writes += _each_mixed(tape, base, own, rows, example, start, beside, carried)
        attended = torch.stack(writes).sum(0) if len(writes) > 1 else writes[0] if writes else None
        if block.parallel:
            rows = rows + _require(attended) + block.feed_forward(rows)
        else:
            rows = rows if attended is None else block.added(rows, attended)
            rows = rows + block.feed_forward(rows) if block.has_mlp else rows
        rows = block.ended(rows, base.own_input(block.layer, example, rows.shape[1]))
    if cost is not None:
        cost.add(len(rows), rows.shape[1])
    return rows


def _mixed(
    tape: Tape,
    base: State,
    block: Block,
    rows: Tensor,
    example: Tensor,
    start: int,
    beside: dict[str, Any],
    carried: Sequence[dict[str, Any] | None],
) -> Float[Tensor, "rows positions width"]:
    """What a block's attention, its mixer or both write of rows from `start` on, with the base run's past before."""
    writes = _each_mixed(tape, base, block.mixers, rows, example, start, beside, carried)
    return writes[0] if len(writes) == 1 else torch.stack(writes).sum(0)


def _each_mixed(
    tape: Tape,
    base: State,
    parts: Sequence[Block],
    rows: Tensor,
    example: Tensor,
    start: int,
    beside: dict[str, Any],
    carried: Sequence[dict[str, Any] | None],
) -> list[Float[Tensor, "rows positions width"]]:
    """`_mixed`, one by one."""
    offset, several = start - tape.start, len(tape.examples) > 1
    writes = []
    for part, own in zip(parts, carried, strict=True):
        layer, call = part.layer, tape.call(part)
        if own is not None:
            writes.append(part.attend(rows, slice_call(call, offset) | own))
        elif part.mixing == "mixer":
            writes.append(part.mix(base.residual[layer][example, :offset], rows, call))
        else:
            past = Past(base.keys[layer][:, :, :start], base.values[layer][:, :, :start], example if several else None)
            writes.append(part.attend(rows, slice_call(call, offset) | _no_cache(past) | beside))
    return writes


def _no_cache(past: Past) -> dict[str, object]:
    return {"attention_mask": None, "past": past}


def _at(last_block: bool, rows: Tensor, tail: int) -> Tensor:
    """After the last block's attention only the tail is read."""
    return rows[:, -tail:] if last_block else rows


def _require(rows: Tensor | None) -> Tensor:
    if rows is None:
        raise ValueError("a sweep needs at least one join")
    return rows

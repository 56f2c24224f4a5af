"""Runs of ablated models up to the first answered token: the metric and the greedy token of every prompt.

A condition of one unit is a row of `effects.rows`: only the blocks behind the unit are run, of a whole batch of
prompts and units at once. Units of several layers are replaced on the way (`engine.joint`), from the first of them on.
Constants (zero, mean) and other prompts' values reach back to the first position, so whole prompts are run; values of
the paired corrupted prompt change nothing before the first difference, so there only the rest is.

    token-layers of a condition: Σ over prompts of (L − l) · positions,   l: where its first unit joins the stream

and one forward of the model for all conditions together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from veracausa.behaviour.chosen import Condition
from veracausa.cost import Cost
from veracausa.dictionaries.words import is_coded
from veracausa.effects.group_rows import GroupRows
from veracausa.effects.plan import Patching
from veracausa.effects.replacements import Replacement, replacement
from veracausa.effects.rows import Rows
from veracausa.engine.attention import SUFFIX
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.guard import attention_function
from veracausa.engine.joint import Replaced, columns_of, constant, join_before, replacing
from veracausa.engine.memory import chunks
from veracausa.engine.overrides import Override
from veracausa.engine.patches import sites_for
from veracausa.engine.suffix import sweep
from veracausa.engine.tape import Tape
from veracausa.errors import NumericsError
from veracausa.units.groups import Groups
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units, per_layer

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Rows whose logits over the whole vocabulary are held at once.
_UNEMBEDDED = 256

#: (condition, local examples, metric, first tokens): what a finished piece of a bucket gives.
Piece = tuple[int, Tensor, Tensor, Tensor]
#: Metric and greedy token of some rows.
Answered = tuple[Tensor, Tensor]
Rowlike = TypeVar("Rowlike", np.ndarray, Tensor)


@dataclass(frozen=True, eq=False)
class Ablated:
    """What every unit of a study is replaced by, for one ablation: a table and its values for each kind of unit."""

    lm: Model
    ablation: str
    rows: tuple[Rows, ...]

    @classmethod
    def of(cls, lm: Model, task: Task, tables: Sequence[Units], ablation: str, reference: Task, seed: int,
           cost: Cost) -> Ablated:  # fmt: skip
        """Record what the ablation needs (means, donors)."""
        made = []
        for table in tables:
            source = replacement(lm, task, table, ablation, "noising", reference, seed, cost)
            made.append(Rows(lm, task, table, source, True, None, cost))
        return cls(lm, ablation, tuple(made))

    def coded(self, condition: Condition) -> bool:
        """Whether some of a condition's units are parts of dictionaries, which no hook of `engine.joint` replaces."""
        return any(is_coded(rows.units.place) and {*rows.units.names} & {*condition.units} for rows in self.rows)

    def group(self, condition: Condition) -> GroupRows:
        """A condition's units as one group, whose rows take every member's values on the way."""
        first = self.rows[0]
        units = resolve_units(self.lm, {condition.name: list(condition.units)}, max(first.task.lengths), groups=True)
        assert isinstance(units, Groups)
        sources = {rows.units.place: rows.source for rows in self.rows}
        return GroupRows(self.lm, first.task, units, sources, True, None, first.cost)

    def parts(self, tape: Tape, names: Sequence[str], example: Tensor) -> list[Replaced]:
        """These units' values in some of a tape's examples, at its positions, for runs that go through all of them."""
        parts = []
        for rows in self.rows:
            units, source = rows.units, rows.source
            if is_coded(units.place):
                continue
            for at in [i for i, name in enumerate(units.names) if name in names]:
                layer, index = int(units.layer[at]), int(units.index[at])
                columns = columns_of(self.lm.decoder, units.place, layer, index, per_layer(self.lm, units.kind))
                parts.append(Replaced(units.place, layer, constant(_values(source, tape, units, at, example, columns)),
                                      columns))  # fmt: skip
        return parts

    def taken(self, tape: Tape, names: Sequence[str], example: Tensor) -> dict[int, list[Override]]:
        """The same of parts of dictionaries, by layer: those of one dictionary together."""
        found: dict[int, list[Override]] = {}
        for rows in (rows for rows in self.rows if is_coded(rows.units.place)):
            units, place = rows.units, rows.units.place
            chosen = np.flatnonzero([name in names for name in units.names])
            for layer in np.unique(units.layer[chosen]).tolist():
                own = chosen[units.layer[chosen] == layer]
                code = self.lm.decoder.codes[place, layer]
                taken = torch.zeros(1, 1, code.width, dtype=torch.bool, device=example.device)
                for index in units.index[own].tolist():
                    taken[..., code.numbers(index)] = True
                unit = torch.full((len(example),), int(own[0]), device=example.device) if len(own) == 1 else None
                new = rows.source.rows(tape, place, layer, example, unit)
                one = Override(place, torch.arange(len(example)), taken, lambda new=new: new, code=code)  # type: ignore[misc]
                found.setdefault(layer, []).append(one)
        return found


def _values(source: Replacement, tape: Tape, units: Units, at: int, example: Tensor, columns: Tensor | None) -> Tensor:
    """One unit's replacement of each example, [examples, positions, columns]."""
    layer = int(units.layer[at])
    whole = source.rows(tape, units.place, layer, example, torch.full((len(example),), at, device=example.device))
    return whole if columns is None else whole[..., columns]


def recorded(
    lm: Model, task: Task, ablated: Sequence[Ablated], start: int, examples: tuple[int, ...], cost: Cost
) -> Bucket:
    """The clean run of a bucket with what patches need; the corrupted one only where an ablation takes its values."""
    sites = {site for one in ablated for rows in one.rows for site in sites_for(rows.units.place)}
    if any(one.ablation == "counterfactual" for one in ablated):
        return Bucket.record(lm, task, start, examples, cost, sites=sites)
    return Bucket.record_clean(lm, task, examples, cost, sites=sites)


def first_tokens(
    bucket: Bucket, ablated: Sequence[Ablated], conditions: Sequence[Condition], todo: Tensor
) -> Iterator[Piece]:
    """Metric and greedy token of a bucket's prompts under every condition; `todo`: [conditions, examples]."""
    index = {condition: i for i, condition in enumerate(conditions)}
    for condition, i in index.items():
        if not condition.units and todo[i].any():
            clean = bucket.tape.clean
            assert clean.logits is not None
            yield i, torch.arange(todo.shape[1]), bucket.read.of_state(clean), clean.logits.argmax(-1)
    with attention_function(bucket.lm.decoder, SUFFIX):
        for one in ablated:
            for rows in one.rows:
                own = np.array([index.get(Condition((name,), one.ablation), -1) for name in rows.units.names])
                yield from _single(bucket, rows, own, todo)
            for condition, i in index.items():
                if condition.ablation == one.ablation and len(condition.units) > 1 and todo[i].any():
                    for example, metric, token in _joint(bucket, one, condition, todo[i]):
                        yield i, example, metric, token


def _single(bucket: Bucket, rows: Rows, own: np.ndarray, todo: Tensor) -> Iterator[Piece]:
    """Conditions of one unit each: `own[u]` is the condition of unit u."""
    tape, order = bucket.tape, np.argsort(rows.units.layer, kind="stable")
    pairs = [(e, u) for u in order[own[order] >= 0] for e in torch.nonzero(todo[int(own[u])]).flatten().tolist()]

    def run(part: np.ndarray) -> tuple[Tensor, Tensor]:
        joins = rows.joins(tape, tape.clean, part, tape.start)
        last = sweep(bucket.lm.decoder, tape, tape.clean, joins, start=tape.start, cost=bucket.cost)
        return _answers(bucket, last, torch.as_tensor(part[:, 0], device=last.device))

    for part, (metric, token) in _in_chunks(bucket, np.array(pairs, dtype=np.int64).reshape(-1, 2), run):
        for unit in dict.fromkeys(part[:, 1].tolist()):
            here = torch.as_tensor(part[:, 1] == unit)
            example = torch.as_tensor(part[:, 0])[here]
            _require_finite(metric[here], rows.units.names[unit], tape, example)
            yield int(own[unit]), example, metric[here], token[here]


def _joint(bucket: Bucket, one: Ablated, condition: Condition, todo: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A condition of several units: rows that are still the clean run where the first of the units is."""
    decoder, tape = bucket.lm.decoder, bucket.tape
    group = one.group(condition) if one.coded(condition) else None

    def run(part: Tensor) -> tuple[Tensor, Tensor]:
        example = part.to(bucket.lm.device)
        if group is not None:
            rows = np.stack([part.cpu().numpy(), np.zeros(len(part), dtype=np.int64)], 1)
            return _answers(bucket, group.streams(Patching(bucket, tape.clean, None), rows, tape.start), example)
        parts = one.parts(tape, condition.units, example)
        with replacing(decoder, parts):
            start = join_before(decoder, tape.clean, parts, example, 0)
            last = sweep(decoder, tape, tape.clean, [start], start=tape.start, cost=bucket.cost)
        return _answers(bucket, last, example)

    for part, (metric, token) in _in_chunks(bucket, torch.nonzero(todo).flatten(), run):
        _require_finite(metric, condition.name, tape, part)
        yield part, metric, token


def _in_chunks(bucket: Bucket, rows: Rowlike, run: Callable[[Rowlike], Answered]) -> Iterator[tuple[Rowlike, Answered]]:
    """Metric and token of rows, as many at a time as the budget allows."""
    size = rows_per_chunk(bucket.lm, bucket.positions, bucket.tape.length)
    return chunks(rows, size, run, f"{bucket.positions} tokens")


def _answers(bucket: Bucket, last: Tensor, example: Tensor) -> Answered:
    """Metric and greedy token of rows, given their final residual at the tail."""
    found = []
    for rows, who in zip(last.split(_UNEMBEDDED), example.split(_UNEMBEDDED), strict=True):
        logits = bucket.lm.decoder.logits(rows)
        found.append((bucket.read.of_logits(logits, who), logits[:, -1].argmax(-1)))
    return torch.cat([metric for metric, _ in found]).cpu(), torch.cat([token for _, token in found]).cpu()


def _require_finite(metric: Tensor, what: str, tape: Tape, example: Tensor) -> None:
    if not torch.isfinite(metric).all():
        bad = tape.examples[int(example[~torch.isfinite(metric)][0])]
        raise NumericsError(f"NaN or infinity after ablating {what} in pair {bad}. Run the model in float32.")

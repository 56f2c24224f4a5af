"""Runs of ablated models up to the first answered token: the metric and the greedy token of every prompt.

A condition of one unit is a row of `effects.rows`: only the blocks behind the unit are run, of a whole batch of
prompts and units at once. Units of several layers are replaced on the way (`engine.joint`), from the first of them on.
Constants (zero, mean) and other prompts' values reach back to the first position, so whole prompts are run; values of
the paired corrupted prompt change nothing before the first difference, so there only the rest is.

    token-layers of a condition: Σ over prompts of (L − l) · positions,   l: where its first unit joins the stream

and one forward of the model for all conditions together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.behaviour.chosen import Condition
from veracausa.cost import Cost
from veracausa.effects.replacements import Replacement, replacement
from veracausa.effects.rows import Rows
from veracausa.engine.attention import SUFFIX
from veracausa.engine.budget import rows_per_chunk
from veracausa.engine.guard import attention_function
from veracausa.engine.joint import Replaced, columns_of, constant, join_before, replacing
from veracausa.engine.measure import pair_ids, readout
from veracausa.engine.memory import shrinking
from veracausa.engine.patches import sites_for
from veracausa.engine.readout import Readout
from veracausa.engine.suffix import sweep
from veracausa.engine.tape import Tape, record, record_pairs
from veracausa.errors import NumericsError
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Rows whose logits over the whole vocabulary are held at once.
_UNEMBEDDED = 256

#: (condition, local examples, metric, first tokens): what a finished piece of a bucket gives.
Piece = tuple[int, Tensor, Tensor, Tensor]


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

    def parts(self, tape: Tape, names: Sequence[str], example: Tensor) -> list[Replaced]:
        """These units' values in some of a tape's examples, at its positions, for runs that go through all of them."""
        parts = []
        for rows in self.rows:
            units, source = rows.units, rows.source
            for at in [i for i, name in enumerate(units.names) if name in names]:
                layer, index = int(units.layer[at]), int(units.index[at])
                columns = columns_of(self.lm.decoder, units.place, index)
                parts.append(Replaced(units.place, layer, constant(_values(source, tape, units, at, example, columns)),
                                      columns))  # fmt: skip
        return parts


def _values(source: Replacement, tape: Tape, units: Units, at: int, example: Tensor, columns: Tensor | None) -> Tensor:
    """One unit's replacement of each example, [examples, positions, columns]."""
    layer = int(units.layer[at])
    whole = source.rows(tape, units.place, layer, example, torch.full((len(example),), at, device=example.device))
    return whole if columns is None else whole[..., columns]


def recorded(lm: Model, task: Task, ablated: Sequence[Ablated], start: int, examples: tuple[int, ...],
             cost: Cost) -> Tape:  # fmt: skip
    """The clean run of a bucket with what patches need; the corrupted one only where an ablation takes its values."""
    sites = {site for one in ablated for rows in one.rows for site in sites_for(rows.units.place)}
    clean, corrupted = pair_ids(lm, task, examples)
    if any(one.ablation == "counterfactual" for one in ablated):
        return record_pairs(lm.decoder, clean, corrupted, start, examples=examples, sites=sites, cost=cost)
    state, calls = record(lm.decoder, clean, sites=sites, logits=True, cost=cost)
    return Tape(examples, (clean, clean), 0, clean.shape[1], state, state, calls)


def first_tokens(
    lm: Model,
    task: Task,
    ablated: Sequence[Ablated],
    conditions: Sequence[Condition],
    tape: Tape,
    todo: Tensor,
    cost: Cost,
) -> Iterator[Piece]:
    """Metric and greedy token of a bucket's prompts under every condition; `todo`: [conditions, examples]."""
    read = readout(lm, task, tape)
    index = {condition: i for i, condition in enumerate(conditions)}
    for condition, i in index.items():
        if not condition.units and todo[i].any():
            assert tape.clean.logits is not None
            everyone = torch.arange(len(tape.examples))
            yield i, everyone, read.of_state(tape.clean), tape.clean.logits.argmax(-1)
    with attention_function(lm.decoder, SUFFIX):
        for one in ablated:
            for rows in one.rows:
                own = np.array([index.get(Condition((name,), one.ablation), -1) for name in rows.units.names])
                yield from _single(rows, own, tape, read, todo)
            for condition, i in index.items():
                if condition.ablation == one.ablation and len(condition.units) > 1 and todo[i].any():
                    yield from _joint(one, condition, i, tape, read, todo[i], cost)


def _single(rows: Rows, own: np.ndarray, tape: Tape, read: Readout, todo: Tensor) -> Iterator[Piece]:
    """Conditions of one unit each: `own[u]` is the condition of unit u."""
    order = np.argsort(rows.units.layer, kind="stable")
    pairs = [(e, u) for u in order[own[order] >= 0] for e in torch.nonzero(todo[int(own[u])]).flatten().tolist()]
    waiting, positions = np.array(pairs, dtype=np.int64).reshape(-1, 2), tape.length - tape.start
    size = rows_per_chunk(rows.lm, positions, tape.length)
    while len(waiting):

        def attempt(most: int, waiting: np.ndarray = waiting) -> tuple[Tensor, Tensor]:
            joins = rows.joins(tape, tape.clean, waiting[:most], tape.start)
            last = sweep(rows.lm.decoder, tape, tape.clean, joins, start=tape.start, cost=rows.cost)
            return _answers(rows.lm, read, last, torch.as_tensor(waiting[:most, 0], device=last.device))

        (metric, token), size = shrinking(size, attempt, f"{positions} tokens")
        part, waiting = waiting[: len(metric)], waiting[len(metric) :]
        for unit in dict.fromkeys(part[:, 1].tolist()):
            here = torch.as_tensor(part[:, 1] == unit)
            example = torch.as_tensor(part[:, 0])[here]
            _require_finite(metric[here], rows.units.names[unit], tape, example)
            yield int(own[unit]), example, metric[here], token[here]


def _joint(
    one: Ablated, condition: Condition, index: int, tape: Tape, read: Readout, todo: Tensor, cost: Cost
) -> Iterator[Piece]:
    """A condition of several units: rows that are still the clean run where the first of the units is."""
    lm, positions = one.lm, tape.length - tape.start
    waiting = torch.nonzero(todo).flatten()
    size = rows_per_chunk(lm, positions, tape.length)
    while len(waiting):

        def attempt(most: int, waiting: Tensor = waiting) -> tuple[Tensor, Tensor]:
            example = waiting[:most].to(lm.device)
            parts = one.parts(tape, condition.units, example)
            with replacing(lm.decoder, parts):
                start = join_before(lm.decoder, tape.clean, parts, example, 0)
                last = sweep(lm.decoder, tape, tape.clean, [start], start=tape.start, cost=cost)
            return _answers(lm, read, last, example)

        (metric, token), size = shrinking(size, attempt, f"{positions} tokens")
        part, waiting = waiting[: len(metric)], waiting[len(metric) :]
        _require_finite(metric, condition.name, tape, part)
        yield index, part, metric, token


def _answers(lm: Model, read: Readout, last: Tensor, example: Tensor) -> tuple[Tensor, Tensor]:
    """Metric and greedy token of rows, given their final residual."""
    found = []
    for rows, who in zip(last.split(_UNEMBEDDED), example.split(_UNEMBEDDED), strict=True):
        logits = lm.decoder.logits(rows)
        found.append((read.of_logits(logits, who), logits.argmax(-1)))
    return torch.cat([metric for metric, _ in found]).cpu(), torch.cat([token for _, token in found]).cpu()


def _require_finite(metric: Tensor, what: str, tape: Tape, example: Tensor) -> None:
    if not torch.isfinite(metric).all():
        bad = tape.examples[int(example[~torch.isfinite(metric)][0])]
        raise NumericsError(f"NaN or infinity after ablating {what} in pair {bad}. Run the model in float32.")

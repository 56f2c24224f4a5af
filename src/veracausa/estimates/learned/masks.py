"""Learned masks: which units must stay as they are for the output to stay as it is, all others replaced at once.

Every unit u (a head, a feature, a dictionary's error, …) gets a gate g_u: in its place the run computes
g_u · a_u + (1 − g_u) · a_u(x′) (`engine.gates`), or g_u · a_u where closed gates hold 0. How gates are drawn, held to
a size and judged says a `Learner`, as for edges.

What it says differs from an exact effect. That replaces one unit while all others stand by; a mask replaces most units
at once and keeps a set that suffices. Of two units that do the same work it may drop either, and a unit that works
against the behaviour is kept where the loss is the KL divergence, and dropped where it is the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from veracausa.choices import AllUnits, LearnedBy, MaskLoss, TwoAblations
from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.words import EVERY, is_coded
from veracausa.effects.crossing_rows import require_one_layer
from veracausa.effects.laid import laid_units
from veracausa.engine.batches import buckets
from veracausa.engine.bucket import Bucket
from veracausa.engine.coded_gates import CodedPairs
from veracausa.engine.gates import GatedPairs, layer_gates
from veracausa.engine.memory import chunks, halving
from veracausa.engine.patches import sites_for
from veracausa.engine.readout import Readout
from veracausa.engine.session import Session, session
from veracausa.engine.validate import require_run
from veracausa.engine.work import gives, recorded_runs
from veracausa.errors import MethodError, UnitError
from veracausa.estimates.learned.learner import Learner, learner_of
from veracausa.estimates.learned.losses import Ends, judged
from veracausa.estimates.learned.trained import numbers, train
from veracausa.estimates.learned.training import Training
from veracausa.scores.estimands import TWO_ABLATIONS
from veracausa.scores.headers import dictionary_settings
from veracausa.scores.scores import Scores, assemble
from veracausa.units.kinds import KINDS
from veracausa.units.table import Units
from veracausa.words import listed

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task

_KINDS = ("heads", "mlps", "attention", "neurons")
#: … and parts of dictionaries, whose gates act in the place of what they write (`engine.coded_gates`).
_KNOWN = (*_KINDS, "features", "directions")


#: Learner → method, where it is not "mask-" and its name.
_METHODS = {"share": "mask"}


@dataclass(frozen=True, eq=False)
class MaskWork:
    """A mask over a table of units; see `learn_mask`."""

    lm: Model
    task: Task
    training: Training
    kind: ClassVar[str] = "gradients"

    @property
    def units(self) -> Units:
        """What gates are put on."""
        return cast("Units", self.training.table)

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Pairs that are run together."""
        lm, task, training, steps = self.lm, self.task, self.training, self.training.learner.steps
        again = 2 * training.learner.slopes * min(steps * training.batch / len(task), steps)
        most = training.batch
        return buckets(lm.decoder, task, self.shares, most, mixed=True, rows=again, passes=again, pairs=most)

    @property
    def shares(self) -> bool:
        """Whether gates change nothing before the first token that differs: where they hold the other run's values."""
        return self.training.learner.ablation == "counterfactual"

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: both runs, recorded; all pairs with open gates; the steps; all pairs with the mask."""
        groups = self.groups()
        positions = [(self.task.lengths[members[0]] - start) * len(members) for start, members in groups]
        passes = self.training.passes([len(members) for _, members in groups])
        learned = sum(count * own for count, own in zip(passes, positions, strict=True))
        return recorded_runs(self.lm, self.task, self.groups()) + float(2 * (sum(positions) + learned) * self.lm.layers)

    @property
    def settings(self) -> dict[str, Any]:
        """What headers say of it."""
        return {**self.training.settings, **dictionary_settings(self.lm, self.units.kind)}

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """Record all pairs, then descend; every step is kept."""
        lm, task, training, table = self.lm, self.task, self.training, self.units
        asked = {"units": table.digest(), **self.settings}
        with session(
            lm, task, numbers(training), dtype=torch.float64, out=out, name=f"learned-{table.kind}", asked=asked,
            measured=False, show=show_progress,
        ) as call, call.bar(f"mask over {len(table):,} {table.kind}", self.tokens()):  # fmt: skip
            with call.anew():
                parts = self._recorded(call)
            call.measured.require_gap(task)
            call.hold(call.measured)
            ends = Ends(call.measured.clean, call.measured.corrupted, float(call.measured.gap.mean()))
            runs = _Runs(lm, table, parts, call.cost, training.learner.loss, ends)
            sizes = [len(runs.pairs(group)) for group in range(len(parts))]
            found = train(call, lambda: runs, training, lm, sizes, lambda amount: call.advance())
            with call.anew():
                kl, kept = runs.closed_but(training.likeliest(found.values))
        return assemble(
            call,
            found.values.to(lm.score_dtype).expand(len(task), -1).contiguous(),
            table,
            method=_METHODS.get(self.settings["learner"], f"mask-{self.settings['learner']}"),
            settings=self.settings,
            signed=False,
            draw_stderr=None if found.stderr is None else found.stderr.to(lm.score_dtype).expand(len(task), -1),
            notes=(
                *found.notes,
                f"with the {training.count} likeliest open and all others closed: KL {kl:.3f}, metric {kept:+.3f}",
            ),
        )

    @torch.no_grad()
    def _recorded(self, call: Session) -> list[list[_Part]]:
        """The groups, each as one part (several where memory is short); M of both runs is measured on the way."""
        lm, task, place, groups = self.lm, self.task, self.units.place, self.groups()
        coded = is_coded(place)
        parts: list[list[_Part]] = [[] for _ in groups]
        group_of = {example: number for number, (_, examples) in enumerate(groups) for example in examples}

        def run(start: int, examples: tuple[int, ...]) -> None:
            sites = sites_for(place) if coded else (place,)
            bucket = Bucket.record(lm, task, start, examples, call.cost, sites=sites, places=(place,) if coded else ())
            tape, read, table = bucket.tape, bucket.read, self.units
            like: dict[str, Any] = {"dtype": lm.score_dtype, "device": lm.device}
            if coded:
                columns = (table.layer, table.index)
                pairs: GatedPairs = CodedPairs.on(lm.decoder, place, tape, tape.tokens[0], *columns)
                opened = torch.ones(len(examples), len(table), **like)
            else:
                pairs = GatedPairs.of(lm.decoder, place, tape, tape.tokens[0])
                opened = torch.ones(len(examples), lm.layers, 1, **like)
            pairs = pairs if self.shares else pairs.to_zero()
            bare = read.of_state(tape.clean)
            require_run(lm, read(pairs.run(opened, bucket.every, call.cost), bucket.every), bare, tape.clean)
            call.measured.put(examples, bare, read.of_state(tape.corrupted))
            parts[group_of[examples[0]]].append(_Part(pairs, read, read.divergence(tape.clean)))
            call.advance()

        halving(groups, run)
        return parts


@dataclass(frozen=True)
class _Part:
    """Pairs that are run together, their metric, and minus the KL of their output to the clean run's."""

    pairs: GatedPairs
    read: Readout
    read_kl: Readout

    def kl(self, last: Tensor, rows: Tensor) -> Tensor:
        """KL from the clean run's output distribution, row by row."""
        return -self.read_kl(last, rows)


@dataclass(frozen=True)
class _Runs:
    """Gated runs of a task's groups (`descent.Gated`), and what remains when a mask is applied."""

    lm: Model
    table: Units
    groups: list[list[_Part]]
    cost: Cost
    loss: str
    ends: Ends
    along: list[Tensor] = field(default_factory=list)

    def tokens(self, group: int) -> float:
        """Token-layers of one forward and backward run of a group."""
        return float(sum(part.pairs.ids.numel() for part in self.groups[group]) * self.lm.layers * 2)

    def pairs(self, group: int) -> list[int]:
        """Which pairs a group has."""
        return [pair for part in self.groups[group] for pair in part.pairs.examples]

    def last(self, part: _Part, rows: Tensor, flat: Float[Tensor, "rows units"]) -> Tensor:
        """Final residual of a part's pairs under the gates of the table's units."""
        if is_coded(self.table.kind):
            return part.pairs.run(flat, rows, self.cost)
        parts = {"heads": self.lm.heads, "neurons": self.lm.neurons}.get(self.table.kind, 1)
        layer = torch.as_tensor(self.table.layer, device=flat.device)
        index = torch.as_tensor(self.table.index, device=flat.device).clamp_min(0)  # an MLP has no index
        return part.pairs.run(layer_gates(flat, layer, index, (self.lm.layers, parts)), rows, self.cost)

    def slope(
        self, group: int, gates: Float[Tensor, "*pairs units"], cause: bool
    ) -> tuple[float, Float[Tensor, "*pairs units"]]:
        """Summed loss of a group and its gradient; in halves where memory is short."""
        parts, found, total = self.groups[group], [], 0.0
        sizes = [len(part.pairs) for part in parts]
        rows = gates.expand(sum(sizes), -1).split(sizes)
        for part, own in zip(parts, rows, strict=True):
            everyone = torch.arange(len(part.pairs), device=gates.device)
            for _, (loss, slope) in chunks(
                everyone, len(everyone), partial(self._gated, part, own, cause), "gated prompts"
            ):
                total += loss
                found.append(slope)
        slopes = torch.cat(found)
        return total, slopes if gates.ndim > 1 else slopes.sum(0)

    def _gated(self, part: _Part, gates: Tensor, cause: bool, rows: Tensor) -> tuple[float, Tensor]:
        """Summed loss of some pairs of a part, and each one's gradient."""
        leaf = gates[rows].clone().requires_grad_()
        ends = self.ends.at([part.pairs.examples[i] for i in rows.tolist()], leaf.device)
        with torch.enable_grad():
            last = self.last(part, rows, leaf)
            loss = judged(self.loss, cause, partial(part.kl, last, rows), partial(part.read, last, rows), ends).sum()
            return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]

    @torch.no_grad()
    def closed_but(self, kept: Int[Tensor, " kept"]) -> tuple[float, float]:
        """Mean KL and mean metric with these units open and all others of the table closed."""
        gates = torch.zeros(len(self.table), dtype=self.lm.score_dtype, device=self.lm.device)
        gates[kept.to(gates.device)] = 1
        kl: list[Tensor] = []
        value: list[Tensor] = []
        for part in (part for group in self.groups for part in group):
            rows = torch.arange(len(part.pairs), device=gates.device)
            last = self.last(part, rows, gates.expand(len(rows), -1))
            kl.append(part.kl(last, rows))
            value.append(part.read(last, rows))
        return float(torch.cat(kl).mean()), float(torch.cat(value).mean())


@gives(Scores)
def learn_mask(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    how: LearnedBy | Learner = "share",
    ablation: TwoAblations | None = None,
    keep: float | int = 0.1,
    steps: int | None = None,
    lr: float | None = None,
    loss: MaskLoss | None = None,
    batch: int = 4,
    start: Scores | None = None,
    seed: int = 0,
    seeds: int = 1,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> MaskWork:
    """Learn which units must be kept when all others are replaced: by their values in the corrupted run, or by 0.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: "heads", "mlps", "attention", "neurons" or "features", summed over positions; or names. Others stay open.
        dictionary: features or directions of a site, or several, beside those that are laid on the model.
        how: "share", "node-pruning" or "adversarial" (for one size), "top-k" or "matryoshka" (for all sizes),
            "subnetwork-probing" (a price for every unit), or parts of your own, a `vc.estimates.Learner`.
        ablation: what closed gates let through, "counterfactual" or "zero", of a component of weights W less the part
            (None: the learner's, which is the former).
        keep: the share of the units to keep (a float under 1), or their number (an int).
        steps: optimiser steps (None: the learner's).
        lr: Adam's step size for the gates' scores (None: the learner's).
        loss: "kl" (mean KL from the clean output distribution at the last position), "metric" (−metric / gap),
            "bounded", "margin" or "answers" (`estimates.learned.losses`; None: the learner's).
        batch: pairs a step, at least. Each step takes whole groups of pairs of the same length and first difference,
            of at most so many pairs, in a random order that visits each once before any twice.
        start: scores of the same units, by any method, whose ranking the gates start from.
        seed: of the order of pairs and of the gates' noise; a draw depends on (seed, step, example, unit) only.
        seeds: so many runs, of `seed` and those after it; the values are their mean, `draw_stderr` its error.
        out: a folder to keep every finished step in; the same call goes on from there.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Scores` of method "mask" (or "mask-" and the learner's name), magnitudes only: each unit's probability that its
        gate is open, so that their sum is the expected number of units kept; ranks where gates compete for places. The
        mask is one for all examples: its row is repeated, it has no standard error over them, and
        `vc.scores.stability` refuses it. Notes say how the loss fell, and what it is when exactly the wanted number of
        units, the highest, is open and all others are closed.

    Raises:
        MethodError: units per position or of the residual stream; `keep`, `loss` or another option out of range.
        UnitError: `start` is about other units.
        GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.attribute`.

    Cost: steps × batch forward and backward passes from the first differing position on.

    >>> mask = vc.estimates.learn_mask(lm, task, units="heads", keep=0.1)
    >>> vc.agreement(mask, vc.exact(lm, task, units="heads"))
    """
    lm, table = laid_units(lm, task, units, dictionary)
    if not (table.kind in _KINDS or is_coded(table.kind)) or table.positional or table.joint:
        what = f"{table.kind} at single positions" if table.positional else table.kind
        raise MethodError(
            f"A mask over {what} is not known: gates act on whole {', '.join(_KNOWN)}, at all positions. Use one "
            "of these, vc.circuits.learn for all edges, or vc.exact, which knows all units."
        )
    if is_coded(table.kind):
        _require_gated(lm, table)
    learner = learner_of(how, steps=steps, lr=lr, loss=loss)
    learner = learner if ablation is None else replace(learner, ablation=ablation)
    _require_of_nodes(learner)
    if how == "share":
        learner = replace(learner, each=True)
    return MaskWork(lm, task, Training.of(table, learner, keep, batch, start, seed, seeds))


def _require_of_nodes(learner: Learner) -> None:
    """MethodError for parts that only edges have."""
    if learner.nodes or learner.ablation not in TWO_ABLATIONS or learner.aim == "complete":
        raise MethodError(
            f"nodes={learner.nodes}, ablation={learner.ablation!r}, aim={learner.aim!r} of a learner: gates on nodes "
            f"beside those of edges, ablations but {listed([*TWO_ABLATIONS])}, and nothing left without what is kept, "
            "are known for edges alone. Use vc.circuits.learn, or replace(learner, nodes=False, "
            "ablation='counterfactual', aim='sufficient')."
        )


def _require_gated(lm: Model, table: Units) -> None:
    """UnitError for parts of dictionaries that no gate can be put on while the model's own forward runs."""
    require_one_layer(lm, table.kind, "Masks are")
    if lm.decoder.has_mixers or lm.decoder.anatomy.joins_rows:
        raise UnitError(f"Gates on {table.kind} are not known for {lm.name}. Use vc.exact or vc.attribute.")
    for layer in dict.fromkeys(table.layer.tolist()):
        dictionary = lm.decoder.codes[table.kind, layer].dictionary
        reads, writes = dictionary.reads, dictionary.writes
        if dictionary.map:
            _require_single_components(table, layer)
        elif dictionary.transcodes and ((reads.kind, writes.kind) != ("n", "m") or reads.layer != writes.layer):
            raise UnitError(
                f"Gates on {table.kind} of layer {layer}, whose dictionary reads {reads.name} and explains "
                f"{writes.name}, are not known: take dictionaries of one site, or transcoders of one layer's MLP."
            )


def _require_single_components(table: Units, layer: int) -> None:
    """UnitError for gates on a map's component and on all of its components together."""
    own = table.index[table.layer == layer]
    if (own == EVERY).any() and len(own) > 1:
        raise UnitError(
            f"Gates on {KINDS[table.kind].called(layer, EVERY)} and on its components would close these twice. Name "
            "the map, or its components."
        )

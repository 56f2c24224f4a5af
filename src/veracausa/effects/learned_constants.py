"""Optimal ablation of single units: the constants that let the model do best without them (Li & Janson 2409.09951).

    c_u* = argmin_c mean over clean prompts of KL(clean run's distribution ‖ that of the run with a_u = c everywhere)

One constant for each unit, the same at all positions, each learned as if no other unit were ablated. All units are
learned in one batched descent: rows (example, unit) share sweeps, a row's gradient reaches its own unit's constant
only, and Adam treats every coordinate by itself, so no constant depends on which other units were asked for.

Adam starts from the units' means over all positions of the reference set (the task's clean and corrupted prompts) and
takes steps in units of each unit's own size (root mean square of its activation). A unit whose loss at its mean is at
most `floor` keeps the mean: KL is never negative, so no constant could do better by more. The others keep what was
learned only if it does better over all pairs. The losses before and after are in the result: a learned loss is an upper
bound of the optimum.

Cost: the reference set, one row for every (example, unit) before and one for every learned unit after, and
steps × batch rows, forward and backward, for every learned unit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import AllUnits
from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.words import is_coded
from veracausa.effects.laid import laid_units
from veracausa.effects.optimal_descent import Constants, Descent, Learning, recorded_parts, schedule
from veracausa.effects.patterns import require_patterns
from veracausa.effects.replacements import Zero, reference_runs
from veracausa.effects.rows import Rows
from veracausa.engine.batches import buckets
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.coded import narrowed
from veracausa.engine.identity import difference
from veracausa.engine.session import session
from veracausa.engine.work import gives, recorded_runs
from veracausa.errors import MethodError, UnitError
from veracausa.result import Shown
from veracausa.scores.files import unpack_units
from veracausa.scores.headers import dictionary_settings
from veracausa.scores.scores import task_header
from veracausa.storage.files import at, keep, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, number, reading, record, require_tensors, text, whole
from veracausa.storage.schema import cost as cost_of
from veracausa.units.edges import Edges
from veracausa.units.table import Units
from veracausa.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

_FORMAT = "veracausa-optimal-constants-2"
_HEADER = record(
    floor=number(0),
    learning=record(steps=whole(1), rate=number(0), batch=whole(1), seed=whole()),
    model=MODEL,
    task=TASK,
    cost=cost_of,
)


@dataclass(frozen=True, eq=False)
class OptimalConstants(Shown):
    """What `vc.effects.optimal_constants` found.

    `sites`: [layers, site width], every layer's constants side by side; parts that were not asked for hold their means.
    `before`, `after`: mean KL (nats) over the clean prompts of the run with that unit at its mean, and at its constant.
    `learned`: units that descent was tried on (the others' loss at their mean was at most `floor`, or they were not
    among the `most` worst). `dictionary`: a hash of the dictionaries whose parts these units are, if they are such.

    >>> constants = vc.effects.optimal_constants(lm, task, units=["a20.h0"])
    >>> vc.exact(lm, task, units=["a20.h0"], ablation="optimal", constants=constants)
    """

    units: Units
    sites: Float[Tensor, "layers site"]
    before: Float[Tensor, " units"]
    after: Float[Tensor, " units"]
    learned: np.ndarray
    floor: float
    learning: Learning
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost
    dictionary: str = ""

    def require(self, lm: Model, task: Task, units: Units) -> None:
        """Raise MethodError or UnitError unless these constants are of this model and task, and of all these units."""
        if differing := difference(self.model["identity"], lm.identity):
            raise MethodError(f"constants= are of another model (other {differing}): learn them with this one.")
        for what, own, asked in (
            ("task", self.task["digest"], task.digest()),
            ("kind of unit", self.units.kind, units.kind),
            ("dictionary", self.dictionary, _dictionary(lm, units)),
        ):
            if own != asked:
                raise MethodError(f"constants= are of another {what}: learn them with the same model, task and units.")
        known = set(self.units.names)
        if lacking := [name for name in units.names if name not in known]:
            raise UnitError(f"constants= lack {', '.join(lacking[:5])}: learn them with these units, too.")

    def replacement(self, lm: Model) -> Constants:
        """The constants as a `Replacement`."""
        if is_coded(self.units.kind):
            return Constants(self._told_apart(lm).to(lm.device, lm.score_dtype))
        return Constants(self.sites.to(lm.device, lm.dtype))

    def _told_apart(self, lm: Model) -> Float[Tensor, "layers site"]:
        """The constants where a model's dictionaries, which may tell fewer parts apart, have them."""
        kind, layers = self.units.kind, self.units.layer
        own = narrowed(lm, kind, layers, self.units.index).decoder.codes
        found = self.sites.new_zeros(len(self.sites), max(lm.decoder.codes[kind, at].width for at in layers.tolist()))
        for layer, index in zip(layers.tolist(), self.units.index.tolist(), strict=True):
            code = lm.decoder.codes[kind, layer]
            if code.tells(index):
                found[layer, code.numbers(index)] = self.sites[layer, own[kind, layer].numbers(index)]
        return found

    def digest(self) -> str:
        """A hash of the constants, for files that must belong together."""
        return hashlib.sha256(self.sites.double().cpu().numpy().tobytes()).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, Any]:
        """What headers say: loss, steps, how many were learned, and which constants they are."""
        how = asdict(self.learning) | {"floor": self.floor, "learned": int(self.learned.sum())}
        return {"loss": "kl", **{f"learning_{key}": value for key, value in how.items()}, "constants": self.digest()}

    @property
    def sentences(self) -> tuple[str, ...]:
        """Loss before and after, and how far from the optimum the others can be."""
        n, count = int(self.task["n"]), int(self.learned.sum())
        said = [
            f"Optimal constants of {count} of {len(self.units)} {self.units.kind} were learned (Adam, "
            f"{self.learning.steps} steps of {self.learning.batch} pairs, rate {self.learning.rate:g}, loss KL): their "
            f"mean KL over {n} prompts fell from {float(self.before[self.learned].mean()):.4f} to "
            f"{float(self.after[self.learned].mean()):.4f} nats."
            if count
            else f"No constant of {len(self.units)} {self.units.kind} had to be learned: their means do."
        ]
        if count < len(self.units):
            rest = float(self.before[~self.learned].max())
            said.append(
                f"The other {len(self.units) - count} keep their means; a better constant could lower the KL of none "
                f"by more than {rest:.4f} nats."
            )
        return tuple(said)

    def table(self) -> pd.DataFrame:
        """One row per unit: mean KL at its mean and at its constant, whether it was learned, n."""
        table: pd.DataFrame = self.units.table()
        table["KL at mean"], table["KL at constant"] = self.before.numpy(), self.after.numpy()
        table["learned"], table["n"] = self.learned, int(self.task["n"])
        return table

    def describe(self) -> str:
        """What these constants are."""
        return "\n".join(
            [
                f"optimal constants · {len(self.units):,} {self.units.kind}",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                f"cost    {self.cost.token_layers:,} token-layers, {self.cost.seconds:.1f} s",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {"version": __version__, "kind": self.units.kind, "floor": self.floor, "model": self.model}
        header |= {"dictionary": self.dictionary}
        header |= {"learning": asdict(self.learning), "task": self.task, "cost": self.cost.to_dict()}
        columns = {name: torch.from_numpy(getattr(self.units, name)) for name in ("layer", "index", "position")}
        tensors = {"sites": self.sites, "before": self.before, "after": self.after} | columns
        return write_tensors(path, _FORMAT, header, tensors | {"learned": torch.from_numpy(self.learned)})


def load_optimal_constants(path: str | Path) -> OptimalConstants:
    """Read what `OptimalConstants.save` wrote; FileError for any other file."""
    header, tensors = read_tensors(path, _FORMAT)
    with reading(at(path)):
        units, found = unpack_units(header["kind"], tensors), _HEADER(header)
        wanted = {"sites": "finite layers width", "learned": "flag units"}
        wanted |= dict.fromkeys(("before", "after"), "finite units")
        sizes = require_tensors(tensors, wanted, units=len(units))
        if (units.layer >= sizes["layers"]).any():
            raise ValueError("a unit is in a layer that has no constants")
        return OptimalConstants(
            units=units,
            sites=tensors["sites"],
            before=tensors["before"],
            after=tensors["after"],
            learned=tensors["learned"].bool().numpy(),
            learning=Learning(**{name: found["learning"][name] for name in ("steps", "rate", "batch", "seed")}),
            dictionary=text(header.get("dictionary", "")),
            **{name: found[name] for name in ("floor", "model", "task", "cost")},
        )


@dataclass(frozen=True, eq=False)
class OptimalWork:
    """Constants of a table of units; see `optimal_constants`."""

    lm: Model
    task: Task
    units: Units
    learning: Learning
    floor: float
    most: int | None
    kind: ClassVar[str] = "paths"
    alone: ClassVar[bool] = True

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Pairs of one length that are recorded together."""
        lm, task = self.lm, self.task
        return buckets(lm.decoder, task, False, examples_per_batch(lm, task, lm.width))

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers if `most` units (None: all) are over the floor.

        Which units those will be is not known: they are taken to be as deep as all are on average. Fewer may have to be
        learned, so this is an upper bound but for their depth.
        """
        lm, task, sizes = self.lm, self.task, [len(members) for _, members in self.groups()]
        lengths = [task.lengths[members[0]] for _, members in self.groups()]
        depth, every = Rows(lm, task, self.units, Zero(), True, None, Cost()).depth, sum(task.lengths)
        steps = schedule(sizes, self.learning)
        learned = sum(lengths[group] * (which.stop - which.start) for group, which in steps)
        count = len(self.units) if self.most is None else min(self.most, len(self.units))
        rows = float(depth.sum() * every + count * depth.mean() * (2 * learned + every))
        return recorded_runs(lm, task, self.groups()) + reference_runs(lm, task, task, "optimal") + rows

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> OptimalConstants:
        """Learn them, or take them from `out`."""
        lm, task, table = self.lm, self.task, self.units
        path = None if out is None else at(out) / self._file_name()
        if path is not None and path.exists():
            return load_optimal_constants(path)
        with session(lm, task, (len(task), 1), measured=False, show=show_progress) as call:
            label = f"optimal constants of {len(table):,} {table.kind}"
            with torch.no_grad(), call.bar(label, self.tokens()):
                descent = Descent.of(call, table, recorded_parts(call, table, self.groups()))
                before = descent.losses(descent.start, np.arange(len(table)))
                worst = np.argsort(-before.numpy(), kind="stable")[: self.most]
                chosen = np.sort(worst[before.numpy()[worst] > self.floor])
                sites, after = descent.start, before.clone()
                if len(chosen):
                    found = descent.learn(self.learning, chosen)
                    loss = descent.losses(found, chosen)
                    better = loss < before[chosen]
                    after[chosen] = torch.where(better, loss, before[chosen])
                    sites = descent.merged(found, chosen[better.numpy()])
        learned = np.zeros(len(table), dtype=bool)
        learned[chosen] = True
        result = OptimalConstants(
            table, sites.cpu(), before, after, learned, self.floor, self.learning, call.origin, task_header(task),
            call.cost, _dictionary(lm, table),
        )  # fmt: skip
        if path is not None:
            keep(lambda: result.save(path))
        return result

    def _file_name(self) -> str:
        lm, task, table = self.lm, self.task, self.units
        asked = [__version__, lm.identity, task.digest(), table.digest(), asdict(self.learning), self.floor, self.most]
        asked += [name] if (name := _dictionary(lm, table)) else []
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
        return f"optimal-{table.kind}-{key}.safetensors"


def _dictionary(lm: Model, units: Units) -> str:
    """A hash of the dictionaries whose parts units are; "" of others."""
    return str(dictionary_settings(lm, units.kind).get("dictionary_digest", ""))


@gives(OptimalConstants)
def optimal_constants(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    learning: Learning | None = None,
    floor: float = 1e-3,
    most: int | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> OptimalWork:
    """Learn the constant of every unit that keeps the model's output closest to the clean run's, unit by unit.

    Args:
        lm: the model.
        task: the prompt pairs; the loss is over its clean prompts.
        units: as for `vc.exact`, at all positions; no edges.
        dictionary: features or directions of a site, or several, beside those that are laid on the model.
        learning: steps, rate, pairs a step, seed (of the order of the pairs).
        floor: units whose mean KL (nats) at their mean activation is at most this keep the mean.
        most: learn at most this many units, those with the largest loss at their mean (default: all over `floor`).
        out: a folder to keep the finished constants in: a call with the same arguments takes them from there.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Raises:
        MethodError: edges or single positions; `floor`, `most` or `learning` out of range.
        NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> vc.effects.optimal_constants(lm, task, units=["a20.h0", "a23.h3"]).table()
    """
    lm, table = laid_units(lm, task, units, dictionary, spans=False)
    if isinstance(table, Edges) or table.positional or table.joint:
        raise MethodError("Optimal constants are those of single units at all positions: no edges, no @position.")
    require_patterns([table.place], "optimal", task, task)
    if not floor >= 0 or (most is not None and most < 0):
        raise MethodError(f"floor={floor}, most={most}: neither may be below 0.")
    return OptimalWork(lm, task, table, learning or Learning(), floor, most)

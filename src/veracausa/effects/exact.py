"""Exact causal effects: replace a unit's activation, run what follows, read the metric.

    noising:    E_u = M(clean run with u replaced) − M(clean run)
    denoising:  E_u = M(corrupted run with u set to its clean value) − M(corrupted run)

Rows (example, unit) are run by `engine.suffix`: only the blocks behind the patch, only the positions that can change,
only the answer tokens' logits at the last position. Cost of a unit in layer l: (L − l) · S token-layers. For all
neurons of SmolLM2-135M on the published pair that is 46,080 · 15.5 · 7 on average = 4.8 million token-layers or
34 TFLOP; the notebook way costs 46,080 · 30 · 16 = 22 million.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ablation, AllUnits, Direction
from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.alone_rows import AloneRows
from veracausa.effects.asked import require_activations, require_asked
from veracausa.effects.crossing_rows import alone, crosses
from veracausa.effects.draws import over_draws
from veracausa.effects.edge_rows import EdgeRows
from veracausa.effects.group_rows import GroupRows, kind_at, units_at_places
from veracausa.effects.instead import Instead
from veracausa.effects.laid import kinds_in, laid_units
from veracausa.effects.learned_constants import OptimalConstants, OptimalWork, optimal_constants
from veracausa.effects.path_rows import PathRows
from veracausa.effects.patterns import require_patterns
from veracausa.effects.plan import Plan
from veracausa.effects.replacements import (
    Counterfactual,
    Replacement,
    Unmixed,
    Zero,
    reference_runs,
    replacement,
)
from veracausa.effects.rows import Rows
from veracausa.effects.span_rows import SpanRows
from veracausa.engine.measure import measured_runs
from veracausa.engine.patches import Place
from veracausa.engine.session import Session, session
from veracausa.engine.sharing import starts_late
from veracausa.engine.work import gives, recorded_runs, unpatched_run
from veracausa.errors import MethodError
from veracausa.scores.headers import align_settings, dictionary_settings, reference_settings, span_settings
from veracausa.scores.scores import Scores, assemble
from veracausa.tasks.placing import moved
from veracausa.tasks.references import Reference, reference_set
from veracausa.units.at_spans import SpanUnits
from veracausa.units.coalitions import Coalitions
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_units
from veracausa.units.groups import Groups
from veracausa.units.paths import Paths
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: What units are replaced by; of groups place by place.
Sources = Replacement | dict[Place, Replacement]


@dataclass(frozen=True, eq=False)
class ExactWork:
    """Effects of a table of units by rows; see `exact`. `learn`: of optimal ablation, where no constants were given."""

    lm: Model
    task: Task
    units: Units
    ablation: Ablation | Instead
    direction: Direction
    reference: Task | None
    constants: OptimalConstants | None
    learn: OptimalWork | None
    seed: int
    rows: int | None = None
    share_prefix: bool = True
    within: np.ndarray | None = None
    method: ClassVar[str] = "exact"
    notes: ClassVar[tuple[str, ...]] = ()

    @property
    def kind(self) -> str:
        """The rate it runs at."""
        return self.units.kind if self.units.kind in ("neurons", "edges") else "exact"

    @property
    def share(self) -> bool:
        """Whether rows begin at the first difference of each pair; not where what is replaced may lie before it."""
        return self.share_prefix and self.ablation == "counterfactual" and not moved(self.task, self._spans)

    @property
    def _spans(self) -> tuple[str, ...]:
        """The spans that units are at."""
        return self.units.named if isinstance(self.units, SpanUnits | Groups | Paths) else ()

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return self.ablation != "counterfactual"

    @property
    def aligned(self) -> bool:
        """Whether it can do with pairs whose prompts have different lengths."""
        return self.alone or isinstance(self.units, SpanUnits | Groups)

    @property
    def runs_on(self) -> Task:
        """The prompts that are run: without their counterparts, where these are not needed and have other lengths."""
        return self.task.side(True) if self.alone and self.task.uneven else self.task

    @property
    def settings(self) -> dict[str, Any]:
        """What the header says."""
        return {
            "direction": self.direction,
            "ablation": self.ablation,
            "seed": self.seed if self.ablation == "resample" else None,
            **self._replaced,
            **dictionary_settings(self.lm, *self._kinds),
            **(span_settings(self.task) if self._spans else {}),
            **({} if self.alone else align_settings(self.task, self._spans)),
        }

    @property
    def _kinds(self) -> list[str]:
        """See `laid.kinds_in`."""
        return kinds_in(self.units)

    @property
    def _replaced(self) -> dict[str, Any]:
        """What the header says of values that come from other prompts, or from you."""
        if isinstance(self.ablation, Instead):
            return self.ablation.settings(self.task, self.reference or self.task)
        return reference_settings(self.ablation, self.task, self.reference)

    @property
    def _draws(self) -> int:
        """How often every row is run."""
        return self.ablation.draws if isinstance(self.ablation, Instead) else 1

    def __post_init__(self) -> None:
        if isinstance(self.ablation, Instead):
            require_activations(self._kinds, f"{type(self.ablation).__name__}(…)")
            for units in self._at_places().values():
                self.ablation.require(self.lm, self.task, units)
        elif not isinstance(self.units, Edges | Paths):
            places = self.units.places if isinstance(self.units, Groups) else [self.units.place]
            require_patterns(places, self.ablation, self.task, self.reference or self.task)

    def plan(self, cost: Cost, source: Sources | None = None) -> Plan:
        """The rows; without a `source` they can only be counted."""
        lm, task, units, noising = self.lm, self.runs_on, self.units, self.direction == "noising"
        if isinstance(units, Edges):
            return EdgeRows(lm, task, units, self.ablation == "zero", noising, self.rows, cost)
        if isinstance(units, Paths):
            return PathRows(lm, task, units, self.ablation == "zero", noising, self.rows, cost)
        if isinstance(units, Groups):
            return GroupRows(lm, task, units, cast("dict[Place, Replacement]", source or {}), noising, self.rows, cost)
        if self._alone is not None:
            found = {units.place: cast("Replacement", source)} if source else {}
            return AloneRows(lm, task, self._alone, found, noising, self.rows, cost, units)
        rows = SpanRows if isinstance(units, SpanUnits) else Rows
        asked = cast("Replacement", source or self._counted)
        plan = rows(lm, task, units, asked, noising, self.rows, cost, within=self.within)  # type: ignore
        return replace(plan, late=self.share and starts_late(lm.decoder, task)) if rows is Rows else plan

    def part(self, units: Units) -> ExactWork:
        """The effects of some of these units, in the batches that all of them would run in: at the same costs."""
        plain = not isinstance(self.units, Edges | Paths | Groups)
        return replace(self, units=units, within=self.plan(Cost()).depth if plain else None)

    @cached_property
    def _alone(self) -> Groups | None:
        """The units as groups of one each, where their features write to several layers."""
        if isinstance(self.units, Edges | Paths | Groups) or not crosses(self.lm, self.units.kind):
            return None
        return alone(self.units)

    @property
    def _counted(self) -> Replacement:
        """What stands for replacements while rows are counted: pairs then share batches as they will."""
        if self.ablation in ("zero", "mean", "optimal"):
            return Zero()
        return Unmixed() if self.alone else Counterfactual(self.direction == "noising")

    def batches(self) -> int:
        """Buckets that are recorded."""
        return self._draws * len(self.plan(Cost()).buckets(self.share))

    def costs(self) -> np.ndarray:
        """Token-layers of each unit's own rows."""
        return self._draws * self.plan(Cost()).costs(self.share)

    def tokens(self) -> float:
        """Token-layers: both runs measured, then recorded; the engine's own run; the reference set; the rows.

        Of edges at most, since those whose writer does not differ cost nothing.
        """
        return self._own() + (0.0 if self.learn is None else self.learn.tokens())

    def _own(self) -> float:
        """`tokens` without those of learning."""
        return self.beside() + float(self.costs().sum())

    def beside(self) -> float:
        """`tokens` without the units' own rows, and without learning."""
        lm, task, share = self.lm, self.task, self.share
        source = task if self.reference is None else self.reference
        places = len(self.units.places) if isinstance(self.units, Groups) else 1
        if isinstance(self.ablation, Instead):
            replaced = places * self.ablation.tokens(lm, source)
        else:
            replaced = 0.0 if self.ablation == "optimal" else places * reference_runs(lm, source, task, self.ablation)
        plan = self.plan(Cost())
        own = plan.buckets(share)
        runs = self._draws * (recorded_runs(lm, plan.task, own) + unpatched_run(lm, plan.patched, own))
        return measured_runs(lm, task) + runs + replaced + plan.beside(share)

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """The effects, resumable; NaN where the table does not want an effect of an example."""
        return self.by_draw(show_progress, out)[0]

    @torch.inference_mode(False)
    def by_draw(
        self, show_progress: bool = True, out: str | Path | None = None
    ) -> tuple[Scores, Float[Tensor, "draws examples units"]]:
        """The same, and the effects of every draw of noise; of all else there is one draw."""
        lm, task, table, reference = self.lm, self.task, self.units, self.reference
        learned = None if self.learn is None else self.learn.run(show_progress, out)
        constants = self.constants if learned is None else learned
        settings = self.settings | ({} if constants is None else constants.settings)
        asked: dict[str, Any] = {
            "units": table.digest(),
            "reference": reference.digest() if reference is not None else None,
            **{
                key: settings[key]
                for key in (
                    "direction",
                    "ablation",
                    "seed",
                    "constants",
                    "spans_digest",
                    "replacement_digest",
                    "scale",
                    "dictionary_digest",
                )
                if key in settings
            },
        }
        draws, name = self._draws, f"{self.method}-{table.kind}"
        shape = (len(task), draws * len(table))
        with session(lm, task, shape, out=out, name=name, asked=asked, show=show_progress) as call:
            if self.ablation == "counterfactual":
                call.measured.require_gap(task)
            call.done |= ~torch.from_numpy(table.wanted(len(task))).repeat(1, draws)
            with call.bar(f"{self.method} effects of {len(table):,} {table.kind}", self._own()):
                plans = [self.plan(call.cost, source) for source in self._sources(call.cost, constants)]
                call.rest(plans[0].buckets(self.share), partial(_bucket, call, plans))
        values, spread = over_draws(call.values, draws)
        scores = assemble(
            call,
            values,
            table,
            method=self.method,
            settings=settings,
            cost=None if learned is None else call.cost + learned.cost,
            verified="exact effects",
            draw_stderr=spread,
            notes=(*self.notes, *(() if constants is None else constants.sentences)),
        )
        return scores, call.values.unflatten(1, (draws, -1)).movedim(1, 0)

    def _sources(self, cost: Cost, constants: OptimalConstants | None) -> list[Sources | None]:
        """What units are replaced by, draw by draw; of groups place by place.

        Edges bring the other run's writes, or nothing.
        """

        def made(units: Units) -> list[Replacement]:
            if isinstance(self.ablation, Instead):
                return self.ablation.made(self.lm, self.task, units, self.reference or self.task, cost)
            asked = (self.ablation, self.direction, self.reference, self.seed, cost, constants)
            return [replacement(self.lm, self.task, units, *asked)]

        found = {place: made(units) for place, units in self._at_places().items()}
        if isinstance(self.units, Groups):
            return [{place: each[draw] for place, each in found.items()} for draw in range(self._draws)]
        return [None] if isinstance(self.units, Edges | Paths) else [*found[self.units.place]]

    def _at_places(self) -> dict[Place, Units]:
        """Place → the units that are replaced there; of groups those that members are."""
        if isinstance(self.units, Edges | Paths):
            return {}
        if isinstance(self.units, Coalitions) and isinstance(self.ablation, Instead):
            return {self.units.place: self.units.players()}
        groups = self._alone or self.units
        if not isinstance(groups, Groups):
            return {groups.place: groups}
        if not isinstance(self.ablation, Instead):
            return {place: all_units(self.lm, kind_at(place)) for place in groups.places}
        return units_at_places(self.lm, groups)


def _bucket(call: Session, plans: list[Plan], start: int, examples: tuple[int, ...]) -> None:
    """The effects of a bucket, draw by draw and chunk by chunk; the draws' columns are side by side."""
    for draw, (plan, done) in enumerate(zip(plans, call.done.chunk(len(plans), 1), strict=True)):
        if done[list(examples)].all():
            continue
        with closing(plan.run(start, examples, done)) as pieces:
            for example, unit, effects in pieces:
                call.put((example, unit + draw * done.shape[1]), effects)


@gives(Scores)
def exact(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]] | Units = "heads",
    ablation: Ablation | Instead = "counterfactual",
    direction: Direction = "noising",
    reference: Reference | None = None,
    constants: OptimalConstants | None = None,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    seed: int = 0,
    rows: int | None = None,
    share_prefix: bool = True,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> ExactWork:
    """Exact effects of units on the metric, example by example.

    Args:
        lm: the model.
        task: the prompt pairs and the metric. Where the two prompts of a pair have different lengths
            (`vc.task(…, align="last")`), units are at spans or ends, or groups of such.
        units: "heads", "mlps", "attention" (whole layers), "neurons", "residual" (the stream entering each block),
            "queries", "keys", "values", "patterns" (where heads look); each also per position ("heads@positions", and
            "patterns@cells", see `units.cells`) and at each named span of the task ("heads@spans", all tokens of a span
            together; "heads@subject" one of them); "edges" (a writer seen by one reader alone, see `edge_rows`); or
            names: ["a20.h0", "m3.n1200@9"], ["a9.h6@subject"], ["a9.h6<pattern>@12,5"], ["a9.h6->m10"]; or groups, each
            one patch, of any kinds, layers and positions: [("a9.h6", "m3"), "m3+m4@5-8"],
            {"movers": ["a9.h6", "a20.h0@subject"]} (see `units.groups`); or paths: ["a5.h5->a8.h6<v>+a9.h9<q>",
            "a5.h5->...->a9.h9<q>->logits"] (see `units.paths`).
        ablation: what replaces a unit: "counterfactual" (its value in the corrupted run), "zero", "mean", "resample",
            "optimal" (the constant that lets the model do best without it, see `vc.effects.optimal_constants`);
            an edge's or a path's write: "counterfactual" or "zero". Or what you put there yourself: your own tensors,
            a vector added, noise (`vc.effects.Own`, `Added`, `Noise`; see `instead`).
        direction: "noising" patches the clean run (negative: the unit supported the behaviour); "denoising" restores
            clean values in the corrupted run (positive: it supports it).
        reference: prompts for mean and resample: a task, texts, a table or a file (see `vc.tasks.reference`; default:
            the task's own, clean and corrupted).
        constants: of optimal ablation (default: learned in this call, with `vc.effects.optimal_constants`' defaults).
        dictionary: features or directions of a site, as `vc.dictionary` makes them, or several; their parts are units,
            "features" (those that are active in some prompt), ["f10.1234", "f10.error"], ["d10.subject"]. Beside those
            that were laid on the model (`lm.reading`).
        seed: for resample; a donor depends on (seed, example, unit) only.
        rows: rows per chunk (default: from the free memory). Never changes a number beyond rounding.
        share_prefix: run only the positions from the first difference on, which is exact; False to compare.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Scores` [examples, units] in units of the metric. A position before the first difference has effect 0; a
        position beyond an example's end is NaN, and so is a span that an example lacks.

    Raises:
        MethodError, UnitError, GapError, NumericsError, OutOfMemoryError: see each message.
        ContractError: the engine's unpatched run does not reproduce the bare model's metric.

    >>> exact = vc.exact(lm, task, units="heads")
    >>> exact.top(5)
    """
    if rows is not None and rows < 1:
        raise MethodError(f"rows={rows}: a chunk holds at least one row. Leave rows out to let the free memory decide.")
    (lm, table), learn = laid_units(lm, task, units, dictionary, groups=True, across=True), None
    reference = reference_set(lm, reference)
    require_asked(lm, task, table, ablation, direction, reference, constants)
    if ablation == "optimal" and constants is None:
        learn = optimal_constants.work(lm, task, units=table)
    return ExactWork(lm, task, table, ablation, direction, reference, constants, learn, seed, rows, share_prefix)

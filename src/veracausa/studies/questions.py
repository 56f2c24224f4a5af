"""What a study asks beyond agreement: why, what ablation says, which counterfactual shows what.

Each question is a stage whose cost is counted before anything is known, so units that are chosen on the way (outliers)
stand there as units of average depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.behaviour.study import ablation_study
from veracausa.causes.curves.responding import responses
from veracausa.causes.curves.surface import surface
from veracausa.causes.disagree import disagreement
from veracausa.causes.locating import locate
from veracausa.causes.locations import Locations
from veracausa.choices import Ablation
from veracausa.cost import Cost
from veracausa.counterfactuals.compared_baselines import Baselines, Way
from veracausa.counterfactuals.comparing_baselines import baselines, possible_baselines
from veracausa.counterfactuals.comparing_corruptions import corruptions
from veracausa.counterfactuals.finding_general import general_purpose
from veracausa.counterfactuals.roles import head_roles
from veracausa.counterfactuals.searching import search
from veracausa.errors import TaskError
from veracausa.planning.rates import batches
from veracausa.planning.stages import Stage
from veracausa.reading.attributing import LINEAR, dla
from veracausa.reading.looking import lens
from veracausa.studies.kinds import main_kind
from veracausa.studies.results import Failure, Finding
from veracausa.studies.shared import first_pairs
from veracausa.studies.stage import stage
from veracausa.studies.summary import called
from veracausa.tasks.pool import pool
from veracausa.tasks.registry import corruptions_of, rebuilt
from veracausa.units.every_unit import all_units
from veracausa.units.kinds import Kind, in_words, indexed
from veracausa.units.table import layers_with

if TYPE_CHECKING:
    from pathlib import Path

    from veracausa.model import Model
    from veracausa.scores.scores import Scores
    from veracausa.studies.levels import Level
    from veracausa.studies.results import Panel
    from veracausa.tasks.task import Task

#: Points of a unit's path, and of each side of a surface.
ALPHAS = tuple(np.linspace(-1, 2, 16).round(3).tolist())
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Orders in which a site's units are added, for Shapley values.
PERMUTATIONS = 16
#: Ablations that tell general-purpose heads; their effects are computed with the baselines.
TOLD_BY = ("counterfactual", "mean")
#: Tokens that are kept of those that a write raises.
RAISED = 5
#: Prompts on which the cost of an ablation study is counted.
PLANNED = 256
#: What a comparison of baselines takes from the panel of heads: its name there → its name here.
_PANEL: dict[Way, str] = {("exact", "counterfactual"): "exact", ("IG", "counterfactual"): "ig"}


@dataclass
class FurtherWork:
    """The further questions of one task, about the main kind of units (`kinds.main_kind`; heads, as a rule).

    `likely`: those that will about be chosen, in order, to count costs by. `first()` gives their panel, found before.
    """

    lm: Model
    task: Task
    level: Level
    likely: tuple[str, ...]
    seed: int
    pieces: Path | None
    show: bool
    first: Callable[[], Panel]

    def __post_init__(self) -> None:
        self.findings: list[Finding] = []
        self.kind = main_kind(self.lm)
        self._plural = in_words(self.kind)
        self._places: Locations | None = None
        self._compared: Baselines | None = None

    def why(self) -> list[Stage]:
        """Where and why attribution patching goes wrong, and the metric along the outliers' paths."""
        count, zero = self.level.explained, self._to_zero()
        known = ("exact", "atp", "ig", *(("ig-zero",) if zero else ()))
        apart = disagreement.work(self.lm, self.task, units=self.kind, zero_nodes=zero).tokens(given=known)
        what, one = f"where {count} outliers' errors arise", batches(self.lm, self.task)
        both = f"last-in and direct effects of all {self._plural}"
        # no tangents of experts' activations, nor of scans: see `levels.left_out`
        without = self.lm.decoder.has_experts or self.lm.decoder.has_mixers
        return [
            *([] if without else [self._about(count, what, locate, self._located, run=self._locate)]),
            self.stage(both, "exact", apart, self._disagree, count=2 * one, joined=not without),
            self._about(count, f"responses of {count} outliers and their layers", responses, self._curved),
        ]

    def consequences(self) -> list[Stage]:
        """Shapley values, two units together, greedy answers under ablation, other counterfactuals, baselines, reading.

        What compares units with each other is left out where the model has only one.
        """
        level, several = self.level, len(all_units(self.lm, self.kind)) > 1
        return [
            *(self._together() if level.shapley and several else []),
            *(self._answers() if level.prompts and self.task.answered_at_the_end else []),
            *(self._prompts() if level.contrasted and several else []),
            *(self._replacements() if level.replaced and several else []),
            *(self._reading() if level.read else []),
        ]

    def _together(self) -> list[Stage]:
        count = self.level.shapley
        shapley = f"Shapley values of {count} layer(s) of {self._plural}"
        return [
            *([self._about(count, shapley, disagreement, self._layered, known=True)] if indexed(self.kind) else []),
            self._about(2, "two outliers moved together", surface, self._paired),
        ]

    def _answers(self) -> list[Stage]:
        # Ten thousand prompts take a while to make: counted on some of them.
        some, count = self._many(PLANNED), self.level.explained
        every = max(self.level.prompts, len(self.task)) if self._generated() else len(self.task)
        what = f"ablation of {count} {self._plural}, {every:,} prompts"
        return [
            self._about(count, what, ablation_study, self._ablated, run=self._ablate, on=some, times=every / len(some)),
        ]

    def _prompts(self) -> list[Stage]:
        tasks, stages = self._corruptions(), []
        if len(tasks) > 1:
            given = [name for name, task in tasks.items() if self._begins(task)]
            work = corruptions.work(self.lm, tasks, units=self.kind).tokens(given=given)
            count = sum(batches(self.lm, task) for name, task in tasks.items() if name not in given)
            what = f"{self._plural} under {len(tasks)} corruptions"
            stages.append(self.stage(what, "exact", work, self._contrast, count=count))
            if "heads" not in self.lm.decoder.lacks:
                work = head_roles.work(self.lm, self.task).tokens()
                stages.append(self.stage("what heads look at", "gradients", work, self._roles))
        if self.level.searched and (pool := self._pool()) is not None:
            count = self.level.searched
            what = f"search of {len(pool)} counterfactuals for {count} of the {self._plural}"
            stages.append(self._about(count, what, search, self._sought, on=pool))
        return stages

    def _replacements(self) -> list[Stage]:
        few, kinds = self._few(), self._kinds()
        given = [way for way in _PANEL if way[1] in kinds]
        compared = baselines.work(self.lm, few, **self._compared_by(kinds)).tokens(given=given)
        count = (2 * len(kinds) - len(given)) * batches(self.lm, few)
        general = general_purpose.work(self.lm, few, units=self.kind)
        what = f"{self._plural} by {len(kinds)} baselines ({len(few)} pairs)"
        return [
            self.stage(what, "exact", compared, self._baselines, count=count),
            self.stage(
                f"general-purpose {self._plural}", "exact", general.tokens(given=TOLD_BY), self._general,
                most=general.at_most(given=TOLD_BY), joined=True,
            ),
        ]  # fmt: skip

    def _reading(self) -> list[Stage]:
        some, stages = self.task[: self.level.read], []
        asked: list[tuple[str, Any, dict[str, Any]]] = [("the stream at every layer", lens, {})]
        if some.metric in LINEAR and some.over != "product":
            asked.append(("what each write adds to the logits", dla, {"tokens": RAISED}))
        for what, verb, options in asked:
            work = verb.work(self.lm, some, **options)
            run = partial(self._read, verb, some, options)
            stages.append(self.stage(what, work.kind, work.tokens(), run, count=work.batches()))
        return stages

    def _read(self, verb: Any, some: Task, options: dict[str, Any]) -> Cost:
        return self.found(verb(self.lm, some, **options, show_progress=self.show))

    def _about(
        self, count: int, what: str, verb: Any, asked: Callable[[Sequence[str]], dict[str, Any]], *,
        known: bool = False, on: Task | None = None, times: float = 1.0, run: Callable[[], Cost] | None = None,
    ) -> Stage:  # fmt: skip
        """A stage about `count` units that are chosen on the way: `asked(names)` is what the verb is called with.

        Forecast for those that will about be chosen; at most, whichever they are, it takes what it takes for those of
        the first layers, whose rows run through the most blocks. `known`: the verb takes what their panel knows.
        `on`: other pairs, `times` as many in the end. `run`: does it, where that is more than the call.
        """
        task, given = on or self.task, {"given": ("exact", "atp", "ig")} if known else {}

        def work(names: Sequence[str]) -> Any:
            return verb.work(self.lm, task, **asked(names))

        def call() -> Cost:
            rest = {"known": self._known()} if known else {}
            return self.found(verb(self.lm, task, **asked(self._chosen()), **rest, **self._how))

        likely, first = work(self.likely), map(work, first_units(self.lm, self.kind, count))
        tokens, most = times * likely.tokens(**given), times * max(one.tokens(**given) for one in first)
        return self.stage(what, likely.kind, tokens, run or call, most=most, count=likely.batches())

    def stage(
        self, what: str, kind: str, tokens: float, run: Callable[[], Cost], *, most: float | None = None,
        count: int | None = None, joined: bool = False,
    ) -> Stage:  # fmt: skip
        """A stage behind those of the panels, whose failure is a sentence in its chapter's place."""
        what = f"{what}, {called(self.task)}"
        title = f"{what[0].upper()}{what[1:]}"

        def instead(sentence: str) -> None:
            self.findings.append(Failure(title, sentence))

        rest: dict[str, Any] = {"most": most, "count": count, "joined": joined, "turn": 1}
        return stage(self.lm, self.task, what, kind, tokens, run, instead=instead, **rest)

    # What is asked about units, in order of what makes them worth asking about.

    def _located(self, names: Sequence[str]) -> dict[str, Any]:
        return {"units": list(names[: self.level.explained])}

    def _curved(self, names: Sequence[str]) -> dict[str, Any]:
        return {"units": list(names[: self.level.explained]), "alphas": ALPHAS}

    def _layered(self, names: Sequence[str]) -> dict[str, Any]:
        """All units of the first layers that some lie in, as many as get Shapley values."""
        layers = list(dict.fromkeys(name.split(".")[0] for name in names))[: self.level.shapley]
        every = all_units(self.lm, self.kind).names
        units = [name for layer in layers for name in every if name.split(".")[0] == layer]
        return {
            "units": units, "shapley": PERMUTATIONS, "zero_nodes": None, "nodes": self.level.nodes, "seed": self.seed
        }  # fmt: skip

    def _paired(self, names: Sequence[str]) -> dict[str, Any]:
        return {"units": list(names[:2]), "alphas": SHARES}

    def _ablated(self, names: Sequence[str]) -> dict[str, Any]:
        return {"units": list(names[: self.level.explained]), "ablations": self.level.ablations, "seed": self.seed}

    def _sought(self, names: Sequence[str]) -> dict[str, Any]:
        return {"units": list(names[: self.level.searched]), "seed": self.seed}

    # What the stages do.

    @property
    def _how(self) -> dict[str, Any]:
        return {"out": self.pieces, "show_progress": self.show}

    def _chosen(self) -> list[str]:
        """The outliers of the first estimate; then the strongest."""
        heads = self.first()
        names = heads.exact.units.names
        ranked = [names[i] for i in heads.exact.ranking()]
        return list(dict.fromkeys([*heads.agreements[0].outliers, *ranked]))

    def _known(self) -> dict[str, Scores]:
        heads = self.first()
        keys = {"atp": "atp", "ig": "ig", "ig (zero baseline)": "ig-zero"}
        own = {keys[name]: one for name, one in zip(heads.labels, heads.estimates, strict=True) if name in keys}
        return {"exact": heads.exact, **own}

    def found(self, finding: Any, cost: Cost | None = None) -> Cost:
        """Keep a finding; what it cost (default: as it says)."""
        self.findings.append(finding)
        own: Cost = finding.cost if cost is None else cost
        return own

    def _locate(self) -> Cost:
        units = self.first().agreements[0].outliers
        if not units:
            return Cost()
        self._places = locate(self.lm, self.task, **self._located(units), **self._how)
        return self.found(self._places)

    def _disagree(self) -> Cost:
        return self.found(
            disagreement(
                self.lm, self.task, units=self.kind, known=self._known(), zero_nodes=self._to_zero(),
                nodes=self.level.nodes, locations=self._places, seed=self.seed, **self._how,
            )
        )  # fmt: skip

    def _ablate(self) -> Cost:
        asked, heads = self._ablated(self._chosen()), self.first()
        found = ablation_study(self.lm, self._many(), **asked, **self._how)
        cost = self.found(found)
        for ablation in self.level.ablations if len(asked["units"]) > 1 else ():
            self.findings.append(found.against(heads.exact, *heads.estimates, ablation=ablation))
        return cost

    def _contrast(self) -> Cost:
        tasks, heads = self._corruptions(), self.first()
        known = {name: first_pairs(heads.exact, self.task, one) for name, one in tasks.items() if self._begins(one)}
        found = corruptions(self.lm, tasks, units=self.kind, known=known, **self._how)
        return self.found(found, _besides(found.scores, known))

    def _compared_by(self, kinds: list[Ablation]) -> dict[str, Any]:
        return {"units": self.kind, "ablations": kinds, "nodes": self.level.nodes}

    def _baselines(self) -> Cost:
        few, kinds, panel = self._few(), self._kinds(), self._known()
        known = {way: first_pairs(panel[name], self.task, few) for way, name in _PANEL.items() if way[1] in kinds}
        self._compared = baselines(self.lm, few, **self._compared_by(kinds), known=known, seed=self.seed, **self._how)
        return self.found(self._compared, _besides(self._compared.scores, known))

    def _general(self) -> Cost:
        compared = {} if self._compared is None else self._compared.scores
        known: dict[str, Scores] = {
            kind: one for (how, kind), one in compared.items() if how == "exact" and kind in TOLD_BY
        }
        found = general_purpose(self.lm, self._few(), units=self.kind, known=known, **self._how)
        named = {"counterfactual": found.counterfactual, found.ablation: found.ablated}
        followed = {} if found.corrupted is None else {"corrupted": found.corrupted}
        return self.found(found, _besides({**named, **followed}, known))

    def _roles(self) -> Cost:
        return self.found(head_roles(self.lm, self.task))

    # Which pairs.

    def _to_zero(self) -> int | None:
        return self.level.to_zero or None if len(self.task) == 1 else None

    def _generated(self) -> bool:
        """Whether more pairs can be made."""
        return rebuilt(self.lm, self.task, n=1) is not None

    def _many(self, most: int | None = None) -> Task:
        """The task with as many prompts as the ablation study wants, if it can be made again; else as it is."""
        wanted = self.level.prompts if most is None else min(most, self.level.prompts)
        try:
            return rebuilt(self.lm, self.task, n=max(wanted, len(self.task))) or self.task
        except TaskError:
            return self.task

    def _corruptions(self) -> dict[str, Task]:
        """The task under each of its corruptions, on the same clean prompts."""
        found: dict[str, Task] = {}
        for kind in corruptions_of(self.task)[: self.level.corruptions]:
            try:
                one = rebuilt(self.lm, self.task, n=self.level.contrasted, corruption=kind)
            except TaskError:
                continue
            if one is not None and (not found or one.clean == next(iter(found.values())).clean):
                found[kind] = one
        return found

    def _pool(self) -> Task | None:
        """Pairs to search: other corruptions of a few of the task's prompts, and edits by word lists."""
        try:
            some = self.task[: self.level.contrasted]
            return pool(self.lm, some, most=self.level.edits, seed=self.seed)
        except TaskError:
            return None

    def _begins(self, other: Task) -> bool:
        """Whether another task is the first pairs of this one, whatever it is called."""
        return self.task[: len(other)].digest() == other.digest()

    def _few(self) -> Task:
        return self.task[: self.level.replaced]

    def _kinds(self) -> list[Ablation]:
        """The baselines that these pairs allow: resampling needs another prompt of each length."""
        allowed = possible_baselines(self._few(), seed=self.seed)
        return [kind for kind in self.level.baselines if kind in allowed]


def _besides(scores: Mapping[Any, Scores], known: Mapping[Any, Scores]) -> Cost:
    """What scores cost that were not known before."""
    return sum((one.cost for name, one in scores.items() if name not in known), start=Cost())


def first_units(lm: Model, kind: Kind, count: int) -> Iterator[list[str]]:
    """So many units of the first layers: all next to each other, or some of them alone in a layer of their own.

    Whatever a call's rows are (of units, of their layers), no units of that number have rows that run more blocks.
    """
    whole, having = all_units(lm, kind), layers_with(lm, kind)
    every = whole[:count]
    for alone in range(len(every)):
        crowd = every[: len(every) - alone]
        after = having.index(int(crowd.layer[-1])) + 1
        layers = having[after : after + alone]
        if len(layers) == alone:
            yield [*crowd.names, *(whole.names[int((whole.layer == layer).argmax())] for layer in layers)]

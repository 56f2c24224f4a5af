"""What a study asks beyond agreement: why, what ablation says, which counterfactual shows what.

Each question is a stage whose cost is counted before anything is known, so units that are chosen on the way (outliers)
stand there as units of average depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from veracausa.behaviour.study import ablation_study
from veracausa.causes.curves.responding import responses
from veracausa.causes.curves.surface import surface
from veracausa.causes.disagree import disagreement
from veracausa.causes.locating import locate
from veracausa.causes.locations import Locations
from veracausa.choices import Ablation
from veracausa.cost import Step
from veracausa.counterfactuals.compared_baselines import Baselines, Way
from veracausa.counterfactuals.comparing_baselines import baselines, possible_baselines
from veracausa.counterfactuals.comparing_corruptions import corruptions
from veracausa.counterfactuals.finding_general import general_purpose
from veracausa.counterfactuals.roles import head_roles
from veracausa.counterfactuals.searching import search
from veracausa.errors import TaskError
from veracausa.planning.rates import batches
from veracausa.planning.stages import Stage
from veracausa.studies.results import Failure, Finding
from veracausa.studies.shared import first_pairs
from veracausa.tasks.pool import pool
from veracausa.tasks.registry import corruptions_of, rebuilt

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
#: Prompts on which the cost of an ablation study is counted.
PLANNED = 256
#: What a comparison of baselines takes from the panel of heads: its name there → its name here.
_PANEL: dict[Way, str] = {("exact", "counterfactual"): "exact", ("IG", "counterfactual"): "ig"}


@dataclass
class FurtherWork:
    """The further questions of one task. `likely`: heads that will about be chosen, in order, to count costs by.

    `heads()` gives the panel of heads, which is found before.
    """

    lm: Model
    task: Task
    level: Level
    likely: tuple[str, ...]
    seed: int
    pieces: Path | None
    show: bool
    heads: Callable[[], Panel]

    def __post_init__(self) -> None:
        self.findings: list[Finding] = []
        self._places: Locations | None = None
        self._compared: Baselines | None = None

    def why(self) -> list[Stage]:
        """Where and why attribution patching of heads goes wrong, and the metric along the outliers' paths."""
        typical = self._typical(self.level.explained)
        known = ("exact", "atp", "ig", *(("ig-zero",) if self._to_zero() else ()))
        stages = [
            self._stage(
                f"where {len(typical)} outliers' errors arise", "locating",
                locate.work(self.lm, self.task, units=typical).tokens(), self._locate,
            ),
            self._stage(
                "last-in and direct effects of all heads", "exact",
                disagreement.work(self.lm, self.task, zero_nodes=self._to_zero()).tokens(given=known),
                self._disagree, 2 * batches(self.lm, self.task),
            ),
            self._stage(
                f"responses of {len(typical)} outliers and their layers", "exact",
                responses.work(self.lm, self.task, units=typical, alphas=ALPHAS).tokens(), self._respond,
            ),
        ]  # fmt: skip
        return stages

    def consequences(self) -> list[Stage]:
        """Shapley values, two units together, ablation with greedy answers, other counterfactuals and baselines.

        What compares heads with each other is left out where the model has only one.
        """
        level, several = self.level, self.lm.layers * self.lm.heads > 1
        return [
            *(self._together() if level.shapley and several else []),
            *(self._answers() if level.prompts else []),
            *(self._prompts() if level.contrasted and several else []),
            *(self._replacements() if level.replaced and several else []),
        ]

    def _together(self) -> list[Stage]:
        layers, pair = self._layers(self.likely), self._typical(2)
        known = ("exact", "atp", "ig")
        asked = disagreement.work(self.lm, self.task, units=layers, shapley=PERMUTATIONS, zero_nodes=None)
        work = asked.tokens(given=known)
        surfaces = surface.work(self.lm, self.task, units=pair, alphas=SHARES).tokens()
        return [
            self._stage(f"Shapley values of {self.level.shapley} layer(s) of heads", "exact", work, self._share),
            self._stage("two outliers moved together", "exact", surfaces, self._surface),
        ]

    def _answers(self) -> list[Stage]:
        # Ten thousand prompts take a while to make: counted on some of them.
        some, units = self._many(PLANNED), self._typical(self.level.explained)
        work = ablation_study.work(self.lm, some, units=units, ablations=self.level.ablations).tokens()
        count = max(self.level.prompts, len(self.task)) if self._generated() else len(self.task)
        what = f"ablation of {len(units)} heads, {count:,} prompts"
        return [self._stage(what, "exact", work * count / len(some), self._ablate, len(set(some.lengths)))]

    def _prompts(self) -> list[Stage]:
        tasks, stages = self._corruptions(), []
        if len(tasks) > 1:
            given = [name for name, task in tasks.items() if self._begins(task)]
            work = corruptions.work(self.lm, tasks).tokens(given=given)
            count = sum(batches(self.lm, task) for name, task in tasks.items() if name not in given)
            stages.append(self._stage(f"heads under {len(tasks)} corruptions", "exact", work, self._contrast, count))
            work = head_roles.work(self.lm, self.task).tokens()
            stages.append(self._stage("what heads look at", "gradients", work, self._roles))
        if self.level.searched and (pool := self._pool()) is not None:
            units = self._typical(self.level.searched)
            work = search.work(self.lm, pool, units=units).tokens()
            what = f"search of {len(pool)} counterfactuals for {len(units)} head(s)"
            stages.append(self._stage(what, "exact", work, self._search, batches(self.lm, pool)))
        return stages

    def _replacements(self) -> list[Stage]:
        few, kinds = self._few(), self._kinds()
        given = [way for way in _PANEL if way[1] in kinds]
        work = baselines.work(self.lm, few, ablations=kinds, nodes=self.level.nodes).tokens(given=given)
        count = (2 * len(kinds) - len(given)) * batches(self.lm, few)
        rest = general_purpose.work(self.lm, few).tokens(given=TOLD_BY)
        return [
            self._stage(f"heads by {len(kinds)} baselines ({len(few)} pairs)", "exact", work, self._baselines, count),
            self._stage("general-purpose heads", "exact", rest, self._general),
        ]

    def _stage(self, what: str, kind: str, work: float, run: Callable[[], None], count: int | None = None) -> Stage:
        """`count`: batches that are recorded on the way (default: those of the task, once)."""
        from veracausa.studies.summary import called

        passes = work / (sum(self.task.lengths) * self.lm.layers)
        count = batches(self.lm, self.task) if count is None else count
        step = Step(f"{what}, {called(self.task)}", kind, work, passes, batches=count)
        title = f"{step.what[0].upper()}{step.what[1:]}"
        return Stage(step, run, lambda sentence: self.findings.append(Failure(title, sentence)))

    # What units stand in the plan, before the outliers are known.

    def _typical(self, count: int) -> list[str]:
        return list(self.likely[:count])

    def _layers(self, names: Sequence[str]) -> list[str]:
        """All heads of the first layers that named heads lie in, as many as get Shapley values."""
        layers = list(dict.fromkeys(name.split(".")[0] for name in names))[: self.level.shapley]
        return [f"{layer}.h{head}" for layer in layers for head in range(self.lm.heads)]

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

    # What the stages do.

    def _chosen(self, count: int | None = None) -> list[str]:
        """The outliers of the first estimate of heads; then, if there are too few, the strongest heads."""
        heads, count = self.heads(), self.level.explained if count is None else count
        names = heads.exact.units.names
        ranked = [names[i] for i in heads.exact.ranking()]
        return list(dict.fromkeys([*heads.agreements[0].outliers[:count], *ranked]))[:count]

    def _known(self) -> dict[str, Scores]:
        heads = self.heads()
        keys = {"atp": "atp", "ig": "ig", "ig (zero baseline)": "ig-zero"}
        own = {keys[name]: one for name, one in zip(heads.labels, heads.estimates, strict=True) if name in keys}
        return {"exact": heads.exact, **own}

    def _locate(self) -> None:
        units = self.heads().agreements[0].outliers[: self.level.explained]
        if units:
            self._places = locate(self.lm, self.task, units=units, out=self.pieces, show_progress=self.show)
            self.findings.append(self._places)

    def _disagree(self) -> None:
        self.findings.append(
            disagreement(
                self.lm, self.task, known=self._known(), zero_nodes=self._to_zero(), nodes=self.level.nodes,
                locations=self._places, seed=self.seed, out=self.pieces, show_progress=self.show,
            )
        )  # fmt: skip

    def _respond(self) -> None:
        self.findings.append(
            responses(self.lm, self.task, units=self._chosen(), alphas=ALPHAS, out=self.pieces, show_progress=self.show)
        )

    def _share(self) -> None:
        units = self._layers(self._chosen())
        known = {name: scores for name, scores in self._known().items() if name != "ig-zero"}
        self.findings.append(
            disagreement(
                self.lm, self.task, units=units, shapley=PERMUTATIONS, zero_nodes=None, nodes=self.level.nodes,
                known=known, seed=self.seed, out=self.pieces, show_progress=self.show,
            )
        )  # fmt: skip

    def _surface(self) -> None:
        self.findings.append(
            surface(self.lm, self.task, units=self._chosen(2), alphas=SHARES, out=self.pieces, show_progress=self.show)
        )

    def _ablate(self) -> None:
        found = ablation_study(
            self.lm, self._many(), units=self._chosen(), ablations=self.level.ablations, seed=self.seed,
            out=self.pieces, show_progress=self.show,
        )  # fmt: skip
        self.findings.append(found)
        heads = self.heads()
        for ablation in self.level.ablations if len(self._chosen()) > 1 else ():
            self.findings.append(found.against(heads.exact, *heads.estimates, ablation=ablation))

    def _contrast(self) -> None:
        tasks, heads = self._corruptions(), self.heads()
        known = {name: first_pairs(heads.exact, self.task, one) for name, one in tasks.items() if self._begins(one)}
        self.findings.append(corruptions(self.lm, tasks, known=known, out=self.pieces, show_progress=self.show))

    def _pool(self) -> Task | None:
        """Pairs to search: other corruptions of a few of the task's prompts, and edits by word lists."""
        try:
            some = self.task[: self.level.contrasted]
            return pool(self.lm, some, most=self.level.edits, seed=self.seed)
        except TaskError:
            return None

    def _search(self) -> None:
        pool = self._pool()
        if pool is None:
            return
        units = self._chosen(self.level.searched)
        self.findings.append(
            search(self.lm, pool, units=units, seed=self.seed, out=self.pieces, show_progress=self.show)
        )

    def _begins(self, other: Task) -> bool:
        """Whether another task is the first pairs of this one, whatever it is called."""
        return self.task[: len(other)].digest() == other.digest()

    def _few(self) -> Task:
        return self.task[: self.level.replaced]

    def _kinds(self) -> list[Ablation]:
        """The baselines that these pairs allow: resampling needs another prompt of each length."""
        allowed = possible_baselines(self._few(), seed=self.seed)
        return [kind for kind in self.level.baselines if kind in allowed]

    def _baselines(self) -> None:
        few, kinds, panel = self._few(), self._kinds(), self._known()
        known = {way: first_pairs(panel[name], self.task, few) for way, name in _PANEL.items() if way[1] in kinds}
        self._compared = baselines(
            self.lm, few, ablations=kinds, nodes=self.level.nodes, known=known, seed=self.seed, out=self.pieces,
            show_progress=self.show,
        )  # fmt: skip
        self.findings.append(self._compared)

    def _general(self) -> None:
        compared = {} if self._compared is None else self._compared.scores
        known: dict[str, Scores] = {
            kind: one for (how, kind), one in compared.items() if how == "exact" and kind in TOLD_BY
        }
        self.findings.append(
            general_purpose(self.lm, self._few(), known=known, out=self.pieces, show_progress=self.show)
        )

    def _roles(self) -> None:
        self.findings.append(head_roles(self.lm, self.task))

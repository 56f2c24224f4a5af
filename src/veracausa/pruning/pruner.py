"""A model is pruned: parts are ranked on some pairs, cut, and what is left is judged on others and on plain text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from veracausa.arguments import shown
from veracausa.choices import CutAblation, CutRanking
from veracausa.cost import Cost, Step
from veracausa.engine.work import Staged, gives
from veracausa.errors import MethodError
from veracausa.progress import progress
from veracausa.pruning.cutting import Constants, constants_of, cut_of, require_cuttable
from veracausa.pruning.judging import Judge, judged_tokens
from veracausa.pruning.names import PYTHON, RANKINGS
from veracausa.pruning.part_ranking import PartRanking
from veracausa.pruning.parts import Parts
from veracausa.pruning.pruned import Pruned
from veracausa.pruning.ranking_parts import RankWork, require_numbers, tasks_of
from veracausa.pruning.texts import Rows, rows_of
from veracausa.scores.scores import task_header
from veracausa.suggestions import not_known
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from jaxtyping import Bool

    from veracausa.model import Model


@dataclass(frozen=True, eq=False)
class PruneWork(Staged):
    """What `prune` is about to do. `ranks`: the rankings, the first of which makes the cut; `held`: the pairs to judge
    on, task by task."""

    lm: Model
    ranks: tuple[RankWork, ...]
    held: tuple[Task, ...]
    rows: Rows
    sizes: tuple[float, ...]
    per_layer: bool
    alone: bool = field(default=True, init=False)
    kind: ClassVar[str] = "exact"

    @property
    def task(self) -> Task:
        """The first task's held-out pairs."""
        return self.held[0]

    @property
    def tasks(self) -> list[Task]:
        """All pairs that are run."""
        return [*self.ranks[0].tasks, *self.held]

    @property
    def what(self) -> str:
        """In words."""
        return f"pruning by {len(self.ranks)} rankings at {len(self.sizes)} sizes"

    def steps(self) -> list[Step]:
        """What the rankings and the judging are forecast to cost."""
        whole = sum(self.task.lengths) * self.lm.layers
        return [
            *(step for one in self.ranks for step in one.steps()),
            Step("judging every cut", self.kind, self._judged(), self._judged() / whole),
        ]

    def _judged(self) -> float:
        return judged_tokens(self.lm, self.held, self.rows, 1 + len(self.ranks) * len(self.sizes))

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Pruned:
        """Rank, cut and judge."""
        began, first, lm = time.monotonic(), self.ranks[0], self.lm
        rankings = [one.run(show_progress, out) for one in self.ranks]
        gone = np.stack([[one.cut(size, per_layer=self.per_layer) for size in self.sizes] for one in rankings])
        cost = sum((one.cost for one in rankings), Cost())
        cost.full = sum(self.task.lengths) * lm.layers
        constants = self._constants(cost)
        cuts = [
            cut_of(lm, first.parts, one) for one in (np.zeros_like(gone[0, 0]), *gone.reshape(-1, len(first.parts)))
        ]
        asked: dict[str, Any] = {"cuts": [np.packbits(gone).tolist(), first.parts.digest()], "ablation": first.ablation}
        asked["constants"] = [one.digest() for one in first.tasks] if constants else None
        with progress(f"judging {len(cuts):,} cuts", self._judged(), show_progress) as tick:
            judge = Judge(lm, self.held, self.rows, cuts, constants, asked, cost, tick, out)
            pairs = [judge.on_pairs(task) for task in self.held]
            text = judge.on_text()
        cost.seconds = time.monotonic() - began
        return self._result(rankings, gone, pairs, text, constants, cost)

    def _constants(self, cost: Cost) -> Constants:
        first = self.ranks[0]
        if first.ablation == "zero":
            return {}
        return constants_of(self.lm, first.parts, [one for task in first.tasks for one in task.clean], cost)

    def _result(
        self,
        rankings: Sequence[PartRanking],
        gone: Bool[np.ndarray, "rankings sizes parts"],
        pairs: Sequence[Tensor],
        text: Tensor,
        constants: Constants,
        cost: Cost,
    ) -> Pruned:
        first = self.ranks[0]
        settings = {
            "ablation": first.ablation, "rounds": first.rounds, "per_layer": self.per_layer, "seed": first.seed,
            "ranked on": [task.describe() for task in first.tasks],
            "ranked_digest": [task.digest() for task in first.tasks],
            "text_digest": self.rows.digest(),
        }  # fmt: skip
        return Pruned(
            parts=first.parts,
            rankings=tuple(one.how for one in rankings),
            sizes=self.sizes,
            share=first.share,
            gone=gone,
            metric=tuple(one[:, 0].contiguous() for one in pairs),
            right=tuple(one[:, 1].contiguous() for one in pairs),
            text=text,
            said=self.rows.said,
            passed=passed_by(self.lm),
            tasks=tuple(task_header(task) for task in self.held),
            settings=settings,
            model=rankings[0].model,
            cost=cost,
            notes=self._notes(),
            constants={site: value.cpu() for site, value in constants.items()},
        )

    def _notes(self) -> tuple[str, ...]:
        """Where pairs that were judged on were seen before."""
        seen = {prompt for task in self.ranks[0].tasks for prompt in task.clean}
        both = [(task.name, sum(prompt in seen for prompt in task.clean)) for task in self.held]
        return tuple(f"{n} of the prompts of {name} that it is judged on were ranked on, too." for name, n in both if n)


def passed_by(lm: Model) -> int:
    """Weights that a token is multiplied with: all parameters but tables of embeddings, and the unembedding."""
    tables = [lm.decoder.embeddings]
    if (path := lm.decoder.anatomy.position_table) is not None:
        tables.append(lm.decoder.backbone.get_submodule(path))
    apart = {id(one): one.numel() for table in tables for one in table.parameters()}
    whole = sum(one.numel() for one in lm.hf.parameters() if id(one) not in apart)
    own = lm.decoder.unembedding.weight
    return whole + (own.numel() if id(own) in apart else 0)  # type: ignore[operator]


@gives(Pruned)
def prune(
    lm: Model,
    task: Task | Sequence[Task],
    *,
    how: CutRanking | Sequence[CutRanking] = "fgp",
    units: str = "neurons",
    share: float = 0.2,
    sizes: Sequence[float] | None = None,
    ablation: CutAblation = "zero",
    rounds: int = 1,
    per_layer: bool = False,
    held_out: Task | Sequence[Task] | None = None,
    text: str | Path | Sequence[str] | None = PYTHON,
    tokens: int = 4096,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> PruneWork:
    """Cut parts out of a model by what they are worth to a task, and judge what is left by exact joint removal.

    Args:
        lm: the model. Its weights are as they were when the call returns.
        task: the pairs, or several tasks: a part that any of them needs stays. Half of each are ranked on, the other
            half judged on, unless there is `held_out`.
        how: what a part is worth, "fgp", "exact-mean", "exact-zero", "atp-mean", "atp-zero", "wanda", "magnitude",
            "random" (see `pruning.measures`); or several: the first makes the cut, the others are judged beside it.
        units: "heads", "kv_groups", "neurons", "mlps", "attention", "layers"; or one of attention and one of MLPs
            together, "heads+neurons".
        share: of the parts' parameters that is cut.
        sizes: further shares at which all rankings are judged.
        ablation: what stands in a cut part's place: "zero", or "mean", its mean over all positions of what is ranked
            on, which becomes a bias.
        rounds: rank anew so often on the way to `share`, each time with what went before cut out.
        per_layer: cut the same number of parts in every layer: what a checkpoint with one number for all of them needs
            to become smaller.
        held_out: other pairs to judge on, one task for each; then all pairs of `task` are ranked on.
        text: plain text to judge on: "python" (its documentation), a file in UTF-8, a list of texts; None: none.
        tokens: of that text.
        seed: of the split, of the text's order and of "random".
        out: a folder for finished pieces: an interrupted call with the same arguments goes on from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show progress bars.

    Returns:
        `Pruned`: the parts that go; metric and accuracy on held-out pairs, KL and perplexity on plain text, by size.

    Raises:
        UnitError, MethodError, TaskError: see each message. ArchitectureError: the parts cannot be cut out of these
            weights. FileError: the text or the folder.

    >>> found = vc.pruning.prune(lm, vc.tasks.ioi(lm, n=64), units="neurons", share=0.2)
    >>> found.sentences, found.cut[:5]
    """
    require_numbers(share, rounds, ablation)
    tasks, names = tasks_of(task), [how] if isinstance(how, str) else list(how)
    if not names or len({*names}) < len(names):
        raise MethodError(f"how={shown(how)}: name one ranking, or several that differ.")
    for name in names:
        if name not in RANKINGS:
            raise MethodError(not_known("ranking", name, RANKINGS))
    parts = Parts.of(lm, units)
    require_cuttable(lm, parts)
    ranked, held = _split(tasks, held_out, seed)
    rows, every = rows_of(lm, text, tokens, seed), _sizes(sizes, share)
    ranks = tuple(RankWork(lm, ranked, parts, name, share, rounds, ablation, seed) for name in names)
    _require_something(parts, every, per_layer)
    return PruneWork(lm, ranks, held, rows, every, per_layer)


def _split(
    tasks: tuple[Task, ...], held_out: Task | Sequence[Task] | None, seed: int
) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """The pairs to rank on, and those to judge on."""
    if held_out is None:
        ranked, held = zip(*(task.split(0.5, seed) for task in tasks), strict=True)
        return ranked, held
    return tasks, tasks_of(held_out)


def _sizes(sizes: Sequence[float] | None, share: float) -> tuple[float, ...]:
    """The share and further sizes, rising."""
    found = sorted({float(share), *(float(size) for size in sizes or ())})
    if not 0 < found[0] <= found[-1] < 1:
        raise MethodError(f"sizes={shown(sizes)}: shares of the parts' parameters, between 0 and 1.")
    return tuple(found)


def _require_something(parts: Parts, sizes: Sequence[float], per_layer: bool) -> None:
    """MethodError where the smallest size is less than the smallest part."""
    if not per_layer and sizes[0] * parts.total < parts.parameters.min():
        least: Any = float(parts.parameters.min() / parts.total)
        raise MethodError(f"A size of {sizes[0]:g} is less than one part: the smallest is {least:.3g} of them all.")

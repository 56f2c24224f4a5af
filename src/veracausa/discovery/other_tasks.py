"""A discovered circuit on other pairs: the same task drawn anew, or another one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from veracausa.choices import Ablation
from veracausa.circuits.attacks.attacking import AdversaryWork
from veracausa.circuits.quality.curve import require_sizes
from veracausa.circuits.runs.ablations import require_ablation
from veracausa.cost import Step, told
from veracausa.discovery.evaluation import PARTS, Evaluating, Evaluation, seen_by
from veracausa.discovery.files import load_discovery, place, save_discovery
from veracausa.discovery.results import Discovery
from veracausa.engine.guard import borrowed
from veracausa.engine.work import Composed, Work, gives
from veracausa.planning.rates import rates, timed
from veracausa.planning.stages import Stage, perform
from veracausa.progress import announce
from veracausa.storage.files import at

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class EvaluateWork(Composed):
    """What `evaluate` is about to do; `folder`: where the discovery lies, if it was read from there."""

    lm: Model
    task: Task
    discovery: Discovery
    folder: Path | None
    evaluating: Evaluating
    ablation: Ablation
    kind: ClassVar[str] = "circuits"

    def steps(self) -> list[Step]:
        """What each part will cost."""
        whole = sum(self.task.lengths) * self.lm.layers
        found = []
        for part, work in self.parts().items():
            most = work.at_most() if isinstance(work, AdversaryWork) else None
            step = Step(PARTS[part], work.kind, work.tokens(), work.tokens() / whole, batches=work.batches(), most=most)
            found.append(step)
        return found

    def parts(self, given: Collection[Any] = ()) -> Mapping[str, Work]:
        """What is run, by the name of its file."""
        return self.evaluating.work

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Evaluation:
        """Run all parts; where the discovery was read from a folder, they and the page are written there."""
        with borrowed(self.lm.decoder):
            return self._run(show_progress)

    def _run(self, show_progress: bool) -> Evaluation:
        """`run`, as one call."""
        if self.ablation == "counterfactual":
            self.lm.measure(self.task).require_gap(self.task)
        doing = dataclasses.replace(self.evaluating, found={}, show=show_progress)
        doing.folder = self.folder and place(self.folder, doing.name)
        plan = self.steps()
        if show_progress:
            plan = timed(plan, rates(self.lm, self.task, (step.kind for step in plan)))
        announce(told(plan, "drawing the page"), show_progress)
        stages = [Stage(step, partial(doing.do, part)) for part, step in zip(self.parts(), plan, strict=True)]
        perform(stages, plan, show_progress)
        evaluation = doing.result()
        if self.folder is not None:
            others = tuple(one for one in self.discovery.further if one.name != doing.name)
            save_discovery(dataclasses.replace(self.discovery, further=(*others, evaluation)), self.folder)
        return evaluation


@gives(Evaluation)
def evaluate(
    lm: Model,
    discovery: Discovery | str | Path,
    task: Task,
    *,
    sizes: Sequence[float] | None = None,
    ablation: Ablation = "counterfactual",
    attack: bool = False,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> EvaluateWork:
    """Run a discovered circuit, the curve of its ranking and the same of a random ranking on other pairs.

    Args:
        lm: the model of the discovery.
        discovery: what `vc.discover` returned, or the folder that it was saved in: then finished pieces are kept there,
            the tables are written into a folder of their own, and the page is drawn again with a further section.
        task: the pairs; they need not be of the same task. The result says how many of them the selection saw.
        sizes: shares of the edges for the curve (None: those of the discovery).
        ablation: what edges outside the circuit carry: "counterfactual", "resample", "zero", "mean" or "optimal", see
            `vc.faithfulness`; constants are taken from these pairs. The edges were scored for the counterfactual one.
        attack: also let an adversary look for other edges which, restored, take f out of [½, 1½] on these pairs, see
            `vc.discover`; not with "optimal" constants, which are learned for one circuit alone.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show what it will cost, then progress bars.

    Raises:
        CircuitError: the circuit is of another model. FileError: the folder is no finished discovery, or damaged.
        MethodError: sizes out of range, an unknown ablation, an attack on one that is learned.
        GapError, ContractError, NumericsError, OutOfMemoryError: as for `vc.exact`.

    >>> vc.discovery.evaluate(lm, "out/", vc.tasks.ioi(lm, n=16, seed=7)).circuit.f
    """
    folder = None if isinstance(discovery, Discovery) else at(discovery)
    found = discovery if isinstance(discovery, Discovery) else load_discovery(discovery)
    found.circuit.require_for(lm)
    sizes = found.evaluation.curve.sizes if sizes is None else tuple(sizes)
    require_sizes(sizes)
    require_ablation(ablation)
    name = "pairs-" + hashlib.sha256(json.dumps([task.digest(), list(sizes), ablation]).encode()).hexdigest()[:8]
    evaluating = Evaluating.of(
        lm, name, task, found.circuit, found.scores, seen=seen_by(task, found.pairs), sizes=sizes,
        seed=int(found.asked["seed"]), ablation=ablation, attack=attack,
    )  # fmt: skip
    return EvaluateWork(lm, task, found, folder, evaluating, ablation)

"""How much memory a call will take, by part: its largest bucket of pairs, recorded, with the chunk that runs beside it.

The numbers of pairs and rows are those that the call itself will take (`engine.budget`), the bytes of each
`engine.footprint`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from veracausa.circuits.attacks.attacking import AdversaryWork
from veracausa.circuits.runs.run_circuits import CircuitRuns, Judged
from veracausa.circuits.runs.tapes import circuit_buckets
from veracausa.circuits.selection.learned import LearnWork
from veracausa.circuits.selection.sparse_features import FeatureCircuitWork
from veracausa.circuits.sheaves.finding import RunSheafWork, SheafWork
from veracausa.cost import Cost
from veracausa.effects.exact import ExactWork
from veracausa.engine import reader_change
from veracausa.engine.batches import buckets
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.footprint import Footprint, Memory
from veracausa.engine.patches import sites_for
from veracausa.engine.work import Composed, Derived, Staged, Work
from veracausa.estimates.attribute import AttributeWork
from veracausa.estimates.edges_of_features import FeatureEdgesWork
from veracausa.estimates.learned.masks import MaskWork
from veracausa.estimates.paths import edge_tapes
from veracausa.interplay.interacting import InteractionsWork
from veracausa.planning import graphs, patched
from veracausa.planning.groups import Group, groups_of, most

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Work → its memory, given its shapes and its groups of pairs.
NEEDED: dict[type, Callable[[Any, Footprint, Sequence[Group]], Memory]] = {
    ExactWork: patched.exact, AttributeWork: graphs.estimates, MaskWork: graphs.masks, LearnWork: graphs.gates,
    AdversaryWork: graphs.gates, SheafWork: graphs.sheaf, RunSheafWork: graphs.run_sheaf,
    CircuitRuns: patched.circuits, InteractionsWork: patched.interactions,
    FeatureEdgesWork: graphs.slopes, FeatureCircuitWork: graphs.feature_circuit,
}  # fmt: skip


def peak(work: Work) -> Memory:
    """Bytes that a call takes at most, about, by part.

    >>> peak(vc.exact.work(lm, task, units="neurons")).rows
    """
    return replace(_needed(work), weights=weights(work.lm))


def weights(lm: Model) -> int:
    """Bytes of a model's parameters, each once."""
    return sum(one.nbytes for one in {id(one): one for one in lm.hf.parameters()}.values())


def _needed(work: Any) -> Memory:
    if isinstance(work, Composed):
        return most([_needed(part) for part in work.parts().values()])
    if isinstance(work, Staged):
        return _staged(work, {step.kind for step in work.steps()}, getattr(work, "known", ()))
    if isinstance(work, Derived):
        return _needed(work.effects)
    if isinstance(work, Judged):
        return _needed(work.runs)
    if hasattr(work, "needed"):  # it says so itself
        told: Memory = work.needed()
        return told
    needed = next((one for kind, one in NEEDED.items() if isinstance(work, kind)), None)
    if needed is None:
        return _of_kind(work.lm, work.task, work.kind)
    return needed(work, Footprint.of(work.lm), _groups(work))


def _groups(work: Any) -> list[Group]:
    """The pairs that a call records together."""
    if isinstance(work, ExactWork):
        plan = work.plan(Cost())
        return groups_of(plan.task, plan.buckets(work.share))
    if isinstance(work, InteractionsWork):
        return groups_of(work.runs_on, work.buckets)
    return groups_of(work.how.pairs if isinstance(work, CircuitRuns) else work.task, work.groups())


def _staged(work: Any, kinds: set[str], known: Sequence[Any]) -> Memory:
    """The most that any step takes; `known`: works of steps of a discovery."""
    kinds -= {one.kind for one in known} - {"edges", "circuits"}
    return most([*map(_needed, known), *(_of_kind(work.lm, work.task, kind) for kind in sorted(kinds))])


def _of_kind(lm: Model, task: Task, kind: str) -> Memory:
    """Of work that is known by its kind alone; see `Work.kind`."""
    shapes = Footprint.of(lm)
    if kind == "circuits":
        return most([patched.circuit(lm, shapes, group) for group in groups_of(task, circuit_buckets(lm, task))])
    sites: tuple[str, ...] = sites_for("neurons" if kind == "neurons" else "z")
    if kind == "edges":
        sites = reader_change.SITES
    if kind == "edge gradients":
        sites = edge_tapes.CHECKED
    pairs = examples_per_batch(lm, task, shapes.held(sites, max(map(len, task.prompts))))
    groups = groups_of(task, buckets(lm.decoder, task, True, pairs))
    if kind in ("exact", "neurons", "edges"):
        return most([patched.rows(lm, shapes, group, sites, 1 << 30) for group in groups])
    moves = {"gradients": "nothing", "edge gradients": "input"}.get(kind, "site")
    asked = graphs.Gradients(lm, shapes, moves, sites, 5, False, kind == "edge gradients")
    return most([asked.needed(group) for group in groups])

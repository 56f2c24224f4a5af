"""Sparse feature circuits (Marks et al. 2403.19647): nodes by the scores of features and errors, edges between them.

    node     E(u) = ḡ_u · (u' − u)                  ḡ: gradient at the clean run ("atp"), or its mean at α = 0, 1/N, …
                                                    as the whole site goes straight to its replacement ("ig", N = 10)
    edge     E(u → d) = ḡ_d · ∂d/∂u · (u' − u)      ∂d/∂u at the clean run, past no other dictionary's site
    circuit  nodes with |E| > T_N, edges between them with |E| > T_E

E over pairs is a mean; over positions a sum, or (templatic data) every position is a node of its own. Another site is
stood in the way of: its attention or MLP gives no gradient, and nothing passes by a dictionary of the stream, which all
goes through. So where attention, MLPs and streams of all layers have dictionaries, these are the paper's edges, along
the stream alone; where parts between have none, their answers count. Errors are nodes like features; those of a
cross-layer transcoder, which depend on its features of all layers before, are nodes that no edge leads to, as in
attribution graphs.

`upstream="run"`: in the place of ∂d/∂u · (u' − u) is what d changes by in a run in which u alone goes to its
replacement, the other sites held (`estimates.run_changes`); then each upstream node costs a run, and downstream ones no
backward pass.

T_N is asked of the mean over pairs; the authors' program asks it of each pair and position before it takes means. Edges
to the logits are the scores of parts behind which no dictionary reads, as there.

One backward pass for each node of the circuit, beside the scores of all nodes. How many nodes there are shows on the
way: forecasts say what nodes cost, and what edges cost at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch

from veracausa.arguments import shown
from veracausa.circuits.featured import FeatureCircuit
from veracausa.circuits.selection.feature_nodes import Edge, chosen, edges_between, joins, parts_of
from veracausa.circuits.selection.feature_slopes import SlopesWork
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.crossing_rows import require_linear
from veracausa.effects.laid import for_parts, with_dictionary
from veracausa.engine.path_codes import places_written
from veracausa.engine.work import gives, recorded_runs
from veracausa.errors import MethodError, UnitError
from veracausa.estimates.attribute import AttributeWork, attribute
from veracausa.estimates.edges_of_features import EdgeMethod, Upstream, require_method
from veracausa.estimates.mean_slopes import walked
from veracausa.estimates.method import Method
from veracausa.estimates.recorded_slopes import slope_buckets
from veracausa.scores.files import confirmed, load_scores
from veracausa.scores.headers import dictionary_settings
from veracausa.scores.scores import Scores
from veracausa.storage.files import keep, make_folder
from veracausa.version import __version__

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class FeatureCircuitWork:
    """Scores of all parts, and then of the edges between those over the threshold; see `feature_circuit`.

    `scorings`: the estimates of each kind of parts. `nodes`: points of "ig" (0: "atp").
    """

    lm: Model
    task: Task
    scorings: tuple[AttributeWork, ...]
    node_threshold: float
    edge_threshold: float
    nodes: int
    positions: bool
    ablation: str
    most: int | None
    upstream: Upstream
    kind: ClassVar[str] = "gradients"
    what: ClassVar[str] = "a circuit of features"

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return self.ablation == "zero"

    @property
    def kinds(self) -> set[str]:
        """Of all dictionaries."""
        return {kind for kind, _ in self.lm.decoder.codes}

    @property
    def places(self) -> set[int]:
        """Of the stream, where parts may write."""
        return {place for one in parts_of(self.lm) for place in places_written(self.lm.decoder, one)}

    @property
    def averaged(self) -> int:
        """Points that downstream gradients are averaged over; 0: they are taken at the clean run."""
        return self.nodes

    @property
    def read(self) -> set[tuple[str, int]]:
        """Dictionaries, by kind and layer, whose parts may be downstream."""
        sites = parts_of(self.lm)
        return {(down.kind, down.layer) for down in sites if any(joins(self.lm, up, down) for up in sites)}

    def batches(self) -> int:
        """Buckets that are recorded: of nodes, and of edges."""
        return sum(one.batches() for one in self.scorings) + len(self.groups())

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are recorded together for edges, at most."""
        return slope_buckets(self.lm, self.task, not self.alone, self.kinds, len(self.places), 0)

    def tokens(self) -> float:
        """Token-layers of the nodes' scores; how many edges follow shows only then."""
        return sum(one.tokens() for one in self.scorings)

    def at_most(self) -> float:
        """The same with a backward pass, or a run, for every part that may be a node."""
        groups, lm = self.groups(), self.lm
        back = lm.layers * (1 + self._nodes) + self.runs * len(lm.decoder.codes)
        walk = walked(lm, self.read, self.nodes) if self.nodes and self.read else 0
        tokens = sum((self.task.lengths[own[0]] - start) * len(own) for start, own in groups)
        return self.tokens() + recorded_runs(lm, self.task, groups) + tokens * (back + walk)

    @property
    def _nodes(self) -> int:
        """How many there are at most."""
        parts = sum(len(one.units) for one in self.scorings)
        return parts if self.most is None else min(parts, self.most)

    @property
    def runs(self) -> int:
        """Nodes that are run up to those that read them, at most."""
        return self._nodes if self.upstream == "run" else 0

    @property
    def settings(self) -> dict[str, Any]:
        """What the header says."""
        method = "ig" if self.nodes else "atp"
        told: dict[str, Any] = {"method": method, "nodes": self.nodes or None, "positions": self.positions}
        told |= {"upstream": self.upstream}
        told |= {"tokens": list(self.task.tokens(0)[0])} if self.positions else {}
        return told | {"ablation": self.ablation, "most": self.most, **dictionary_settings(self.lm, *self.kinds)}

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> FeatureCircuit:
        """Nodes, then edges; with `out` finished pieces of both are kept there."""
        lm = self.lm
        scored = tuple(self._scored(one, show_progress, out) for one in self.scorings)
        every, last = chosen(lm, scored, self.node_threshold, self.most)
        edges = edges_between(lm, every)
        values, cost = torch.zeros(len(self.task), 0, dtype=lm.score_dtype), scored[0].cost
        for one in scored[1:]:
            cost = cost + one.cost
        if edges:
            values, more = self._slopes(edges).run(self.settings, show_progress, out)
            cost = cost + more
        ends = [*((up.name, down.name) for up, down in edges), *((name, "logits") for name, _ in last)]
        upstream, downstream = zip(*ends, strict=True) if ends else ((), ())
        columns = torch.cat([values, *(column[:, None] for _, column in last)], 1)
        thresholds = float(self.node_threshold), float(self.edge_threshold)
        return FeatureCircuit(scored, upstream, downstream, columns, *thresholds, self.settings, cost)

    def _slopes(self, edges: Sequence[Edge]) -> SlopesWork:
        """Of edges, with the parts told apart that are their ends."""
        ends = {node.part: None for edge in edges for node in edge}
        own = for_parts(self.lm, [(part.kind, part.layer, part.index) for part in ends])
        return SlopesWork(own, self.task, edges, self.nodes, self.alone, self.upstream)

    def _scored(self, scoring: AttributeWork, show_progress: bool, out: str | Path | None) -> Scores:
        """The scores of one kind of parts, read from the folder if an earlier call finished them there.

        Raises:
            FileError: the file is damaged, or of a model that behaved otherwise.
        """
        if out is None:
            return scoring.run(show_progress)
        asked = [__version__, self.lm.header()["identity"], self.task.digest(), scoring.units.digest(), self.settings]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
        path = make_folder(out) / f"feature-circuit-{scoring.units.kind}-{key}.safetensors"
        if path.exists():
            return confirmed(load_scores(path), self.lm, self.lm.measure(self.task), path)
        scores = scoring.run(show_progress)
        keep(lambda: scores.save(path))
        return scores


@gives(FeatureCircuit)
def feature_circuit(
    lm: Model,
    task: Task,
    *,
    node_threshold: float = 0.1,
    edge_threshold: float = 0.01,
    method: EdgeMethod = "ig",
    nodes: int = 10,
    upstream: Upstream = "slope",
    positions: bool = False,
    ablation: Literal["counterfactual", "zero"] = "counterfactual",
    most: int | None = None,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> FeatureCircuitWork:
    """The circuit of features and errors of all dictionaries laid on a model, by Marks et al.'s scores and thresholds.

    Args:
        node_threshold, edge_threshold: T_N and T_E, in units of the metric (theirs: 0.1 and 0.01 of a logit
            difference). Every node over T_N costs a backward pass: raise it where there are thousands.
        method: "ig" or "atp"; nodes: points of "ig".
        upstream: of edges, what d changes by: "slope" (theirs) or "run"; see `vc.estimates.feature_edges`.
        positions: False sums over positions; True makes every position a node, for templates.
        ablation: what replaces a part: its value in the corrupted run, or "zero".
        most: nodes at most, the strongest of those over T_N (default: all).
        dictionary: beside those that were laid on the model.
        out: a folder to keep finished pieces in: the same call goes on from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        A `FeatureCircuit` of estimates; `vc.circuits.part_curve(lm, task, circuit)` runs it.

    Raises:
        UnitError: no dictionary is laid on the model, or one that cannot be read behind another. MethodError,
        GapError, NumericsError, OutOfMemoryError: as `vc.attribute`.

    >>> circuit = vc.circuits.feature_circuit(lm, task, dictionary=[lower, upper])
    >>> vc.circuits.part_curve(lm, task, circuit, dictionary=[lower, upper]).faithfulness
    """
    lm = with_dictionary(lm, dictionary)
    require_method(method, nodes, upstream)
    _require(lm, task, ablation, (node_threshold, edge_threshold), most)
    how = Method(path="layer", grid="left", nodes=nodes) if method == "ig" else Method()
    asked: dict[str, Any] = {"method": how, "baseline": "zero" if ablation == "zero" else "corrupted"}
    kinds = [kind + "@positions" * positions for kind in sorted({kind for kind, _ in lm.decoder.codes})]
    scorings = tuple(cast("AttributeWork", attribute.work(lm, task, units=cast("Any", one), **asked)) for one in kinds)
    points = nodes if method == "ig" else 0
    return FeatureCircuitWork(
        lm, task, scorings, node_threshold, edge_threshold, points, positions, ablation, most, upstream
    )


def _require(lm: Model, task: Task, ablation: str, thresholds: tuple[float, float], most: int | None) -> None:
    """Raise MethodError or UnitError for what cannot be asked, before anything is run."""
    if ablation not in ("counterfactual", "zero"):
        raise MethodError(
            f"ablation={shown(ablation)}: parts of circuits of features are replaced by 'counterfactual' or 'zero'."
        )
    if not all(isinstance(one, int | float) and one >= 0 for one in thresholds):
        raise MethodError(f"Thresholds {thresholds} are not both 0 or more, in units of the metric.")
    if most is not None and (not isinstance(most, int) or most < 1):
        raise MethodError(
            f"most={shown(most)}: a circuit has one node at most, or more; None for all over the threshold."
        )
    if not lm.decoder.codes:
        raise UnitError(
            "No dictionary is laid on the model. Lay them there, lm.reading(vc.dictionary(lm, …)), or give dictionary=."
        )
    task.require_last("Circuits of features")
    lm.decoder.require("edges")
    for code in lm.decoder.codes.values():
        require_linear(lm, code.dictionary)
    for one in parts_of(lm):
        if not one.passes_on:
            raise UnitError(
                f"The dictionary {one.kind} of layer {one.layer} reads {one.reads.name} and explains "
                f"{one.writes.name}, so no edge leads to its features alone. Circuits are of dictionaries "
                "of one site, and of transcoders of one layer's MLP."
            )

"""Does a circuit hold everything that matters? It should break as the model breaks (Wang et al., 2211.00593).

    incompleteness(K) = (mean M(full ∖ K) − mean M(C ∖ K)) / mean gap,      K: some heads and MLPs of the circuit

A node is removed with all its edges out, from the whole graph and from the circuit alike. If the circuit left out what
covers for K in the model (backup heads, say), the model keeps up without K and the circuit does not: the difference is
large. K empty gives 1 − f. A complete circuit has small |incompleteness| for every K; of all 2ⁿ sets these are tried:

* random: a size drawn uniformly from 1 … n, then so many of the n nodes without replacement;
* greedy: starting from nothing, the node is added that makes |incompleteness| largest, among some drawn at random at
  each step; every step's set is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ablation
from veracausa.circuits.knockouts import inner_nodes, mask_to_test, require_count, without_writers
from veracausa.circuits.runs.run_circuits import CircuitRuns, Ran
from veracausa.cost import Cost
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.work import gives
from veracausa.errors import MethodError
from veracausa.result import ROWS
from veracausa.statistics.ratios import ratios
from veracausa.storage.files import write_tensors
from veracausa.tasks.measurement import Measurement
from veracausa.words import counted, listed, share

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Float, Int

    from veracausa.circuits.circuit import Circuit
    from veracausa.circuits.knockouts import Mask
    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Completeness(Ran):
    """What is left of the model and of a circuit without sets of nodes; see the module.

    `how`: "none", "random" or "greedy", of every set. `full`: M(full ∖ K), `circuit`: M(C ∖ K), pair by pair.

    >>> found = vc.circuits.completeness(lm, task, circuit)
    >>> found.worst, found.table()
    """

    nodes: tuple[str, ...]
    how: tuple[str, ...]
    sets: tuple[tuple[str, ...], ...]
    full: Float[Tensor, "sets examples"]
    circuit: Float[Tensor, "sets examples"]
    measured: Measurement
    cost: Cost
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]

    @cached_property
    def incompleteness(self) -> Float[Tensor, " sets"]:
        """(mean M(full ∖ K) − mean M(C ∖ K)) / mean gap of every set, signed: positive where the model does better."""
        return (self.full - self.circuit).mean(1) / self.measured.gap.mean()

    @property
    def mean(self) -> float:
        """Mean |incompleteness| over the random sets."""
        return float(self._random.mean())

    @property
    def stderr(self) -> float:
        """Standard error of `mean` over the random sets (not over pairs); NaN for one set."""
        n = len(self._random)
        return float(self._random.std() / n**0.5) if n > 1 else float("nan")

    @property
    def _random(self) -> Tensor:
        return self.incompleteness.abs()[[how == "random" for how in self.how]]

    @property
    def worst(self) -> tuple[tuple[str, ...], float]:
        """The set with the largest |incompleteness|, and its incompleteness."""
        at = int(self.incompleteness.abs().argmax())
        return self.sets[at], float(self.incompleteness[at])

    def table(self) -> pd.DataFrame:
        """One row per set: how it was made, size, incompleteness and its standard error over pairs, both M, nodes."""
        import pandas as pd

        _, errors, _ = ratios((self.full - self.circuit).T, self.measured.gap)
        rows = []
        for at, (how, chosen) in enumerate(zip(self.how, self.sets, strict=True)):
            rows.append(
                {
                    "how": how,
                    "size": len(chosen),
                    "incompleteness": float(self.incompleteness[at]),
                    "stderr": float(errors[at]),
                    "M(full - K)": float(self.full[at].mean()),
                    "M(C - K)": float(self.circuit[at].mean()),
                    "K": " ".join(chosen),
                }
            )
        return pd.DataFrame(rows)

    def head(self) -> pd.DataFrame:
        """The ten sets with the largest |incompleteness|."""
        return self.table().sort_values("incompleteness", key=abs, ascending=False, kind="stable")[:ROWS]

    @property
    def sentences(self) -> tuple[str, ...]:
        """How far circuit and model part on average, and at worst."""
        chosen, worst = self.worst
        without = f"without {listed(chosen[:6])}{' and more' * (len(chosen) > 6)}" if chosen else "as they are"
        return (
            f"Without random sets of its {len(self.nodes)} nodes circuit and model part by "
            f"{share(self.mean, self.stderr)} of the gap on average ({counted(len(self.measured.gap), 'pair')}, "
            f"{self.ablation} ablation).",
            f"They part most {without}: the model does {'better' if worst > 0 else 'worse'} by {abs(worst):.3f} of the "
            "gap.",
        )

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {"nodes": self.nodes, "how": self.how, "sets": self.sets, **self.about}
        tensors = {"full": self.full, "circuit": self.circuit, **self.measured.ends}
        return write_tensors(path, FORMAT, header, tensors)

    def describe(self) -> str:
        """The figures in three lines."""
        n, chosen = len(self.measured.gap), self.worst[0]
        shown = " ".join(chosen[:6]) + (f" and {len(chosen) - 6} more" if len(chosen) > 6 else "")
        return "\n".join(
            [
                f"completeness: {self.how.count('random')} random and {self.how.count('greedy')} greedy sets of "
                f"{len(self.nodes)} nodes · {n} pair{'s' * (n > 1)} · {self.ablation} ablation",
                f"|incompleteness|, as a share of the gap: {self.mean:.3f} ± {self.stderr:.3f} over random sets; "
                f"{abs(float(self.incompleteness[0])):.3f} with nothing removed",
                f"worst {self.worst[1]:+.3f} without {shown or 'anything'}",
            ]
        )

    def __repr__(self) -> str:
        shown = self.head().to_string(index=False, float_format=lambda x: f"{x:+.3f}", max_colwidth=60)
        return f"{self.describe()}\n{shown}"


@dataclass(frozen=True, eq=False)
class CompletenessWork:
    """What `completeness` is about to do. `both`: the whole graph and the circuit; `nodes`: what K is drawn among."""

    lm: Model
    task: Task
    both: tuple[Mask, Mask]
    nodes: Int[np.ndarray, " nodes"]
    draws: int
    greedy: int
    candidates: int
    how: dict[str, Any]
    kind: ClassVar[str] = "circuits"

    @property
    def steps(self) -> int:
        """Greedy steps: no more than there are nodes."""
        return min(self.greedy, len(self.nodes))

    @property
    def what(self) -> str:
        """In words."""
        return f"runs of the model and of a circuit without {1 + self.draws} sets, and {self.steps} greedy steps"

    def drawn(self) -> list[list[int]]:
        """The empty set, and all random ones."""
        sets: list[list[int]] = [[]]
        for draw in range(self.draws):
            generator = np.random.default_rng([self.how["seed"], 0, draw])
            order = generator.permutation(self.nodes)
            sets.append(np.sort(order[: generator.integers(1, len(order) + 1)]).tolist())
        return sets

    def tried(self, step: int, chosen: Sequence[int]) -> list[list[int]]:
        """The sets that a greedy step tries."""
        draw = np.random.default_rng([self.how["seed"], 1, step])
        left = draw.permutation(np.setdiff1d(self.nodes, chosen))[: self.candidates]
        return [[*chosen, int(node)] for node in left]

    def without(self, sets: Sequence[Sequence[int]]) -> CircuitRuns:
        """Both without each of some sets of nodes."""
        masks = [without_writers(one, chosen) for one in self.both for chosen in sets]
        return CircuitRuns.of(self.lm, self.task, masks, **self.how)

    def batches(self) -> int:
        """Buckets that are recorded, anew for every greedy step."""
        return self.without([[]]).batches() * (1 + self.steps)

    def tokens(self) -> float:
        """Token-layers, if every greedy step takes the first that it tries: its runs are about as long as others."""
        total, chosen = self.without(self.drawn()).tokens(), list[int]()
        for step in range(self.steps):
            sets = self.tried(step, chosen)
            total, chosen = total + self.without(sets).tokens(), sets[0]
        return total

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Completeness:
        """Run all random sets at once, then every greedy step; finished pieces are not kept."""
        sets = self.drawn()
        first = self.without(sets).run(show_progress)
        parts, cost = [first.metric.unflatten(0, (2, -1))], first.cost
        chosen: list[int] = []
        for step in range(self.steps):
            tried = self.tried(step, chosen)
            found = self.without(tried).run(show_progress)
            metric, cost = found.metric.unflatten(0, (2, -1)), cost + found.cost
            at = int((metric[0] - metric[1]).mean(1).abs().argmax())
            chosen = tried[at]
            sets.append(chosen)
            parts.append(metric[:, at : at + 1])
        full, circuits = torch.cat(parts, 1)
        names = self.lm.graph.writer_names
        asked = {name: getattr(self, name) for name in ("draws", "greedy", "candidates")} | {"seed": self.how["seed"]}
        how = ("none", *["random"] * self.draws, *["greedy"] * self.steps)
        return Completeness(
            tuple(names[node] for node in self.nodes),
            how,
            tuple(tuple(names[node] for node in one) for one in sets),
            full,
            circuits,
            first.measured,
            cost,
            first.model,
            first.task,
            first.settings | asked,
        )


@gives(Completeness)
def completeness(
    lm: Model,
    task: Task,
    circuit: Circuit,
    *,
    draws: int = 20,
    greedy: int = 5,
    candidates: int = 10,
    seed: int = 0,
    ablation: Ablation = "counterfactual",
    reference: Reference | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> CompletenessWork:
    """Compare what the model and a circuit lose when the same nodes are removed from both.

    Args:
        lm: the model that the circuit belongs to.
        task: the pairs.
        circuit: the circuit; K is drawn among its heads and MLPs.
        draws: random sets.
        greedy: steps of the greedy search (0: none), at most as many as there are nodes.
        candidates: nodes tried at each of its steps.
        seed: of all draws (and of resampling); set k does not depend on how many are drawn.
        ablation: what removed edges carry, and `reference`: the set it is taken from; see `vc.faithfulness`. "optimal"
            learns constants for every circuit that is run.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show progress bars.

    Returns:
        `Completeness`, with the empty set first.

    Raises:
        CircuitError: a circuit of another model or graph, or an empty one. MethodError: options out of range, a circuit
            without heads and MLPs.
        GapError, ContractError, NumericsError, OutOfMemoryError: see `run_circuits`.

    Cost: 1 + 2 · draws + 2 · greedy · candidates runs of circuits, about half of them of nearly the whole graph.

    >>> vc.circuits.completeness(lm, task, circuit).worst
    """
    mask, graph = mask_to_test(lm, circuit), lm.graph
    nodes = inner_nodes(mask)
    require_count(draws=draws, candidates=candidates)
    if greedy < 0:
        raise MethodError(f"greedy={greedy}: the number of steps is 0 or more.")
    if not len(nodes):
        raise MethodError("The circuit has no heads and no MLPs, only edges from the input: there is no K to remove.")
    how = {"ablation": ablation, "reference": reference, "seed": seed}
    both = (all_edges_mask(graph), mask)
    return CompletenessWork(lm, task, both, nodes, draws, greedy, candidates, how)


FORMAT = "veracausa-completeness-1"

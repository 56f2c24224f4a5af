"""Is every part of a circuit needed? Each part's own loss when it is removed from the circuit.

    loss(e) = M(C) − M(C ∖ e)          positive: the circuit loses by it; given as a share of the mean gap

For a node all its edges out are removed, so that everybody reads its ablated write. A part can be needed and still show
no loss: where two parts do the same, either can go, but not both (Wang et al., 2211.00593, remove others first to show
that). So a loss is proof that a part is used; its absence is none that the part is useless.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ablation, CircuitParts
from veracausa.circuits.knockouts import inner_nodes, mask_to_test, require_count, without_edges, without_writers
from veracausa.circuits.runs.run_circuits import CircuitRuns, Judged, Outcomes, Ran
from veracausa.cost import Cost
from veracausa.engine.work import gives
from veracausa.errors import MethodError
from veracausa.statistics.ratios import ratios
from veracausa.storage.files import write_tensors
from veracausa.tasks.measurement import Measurement
from veracausa.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Float

    from veracausa.circuits.circuit import Circuit
    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task

_PARTS = ("edges", "nodes")
#: Losses up to this share of the gap are none.
_IDLE = 0.001


@dataclass(frozen=True, eq=False)
class Minimality(Ran):
    """Losses of a circuit's parts, one removed at a time; see the module.

    `loss`: M(C) − M(C ∖ part), pair by pair. `of`: how many such parts the circuit has; `names` are those tried.

    >>> found = vc.circuits.minimality(lm, task, circuit)
    >>> found.share, found.table()
    """

    parts: str
    names: tuple[str, ...]
    of: int
    loss: Float[Tensor, "examples parts"]
    metric: Float[Tensor, " examples"]
    measured: Measurement
    cost: Cost
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]

    @cached_property
    def share(self) -> Float[Tensor, " parts"]:
        """Mean loss as a share of the mean gap."""
        return self.loss.mean(0) / self.measured.gap.mean()

    def table(self) -> pd.DataFrame:
        """One row per part, the largest loss first: name, loss and its standard error, as shares of the gap."""
        import pandas as pd

        _, errors, _ = ratios(self.loss, self.measured.gap)
        table = pd.DataFrame({"name": self.names, "loss": self.share.numpy(), "stderr": errors.numpy()})
        return table.sort_values("loss", ascending=False, kind="stable", ignore_index=True)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the circuit loses by its most needed part, and how many it could lose."""
        best, idle = int(self.share.argmax()), int((self.share <= _IDLE).sum())
        said = (
            f"Of {len(self.names):,} {self.parts} removed one at a time {self.names[best]} costs the circuit most, "
            f"{float(self.share[best]):.3f} of the gap ({counted(len(self.metric), 'pair')}, {self.ablation} ablation)."
        )
        return said, f"{idle:,} could go without costing over {_IDLE:.1%} of it, each by itself."

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {"parts": self.parts, "names": self.names, "of": self.of, **self.about}
        return write_tensors(path, FORMAT, header, {"loss": self.loss, "metric": self.metric, **self.measured.ends})

    def describe(self) -> str:
        """The figures in two lines."""
        n, tried = len(self.metric), len(self.names)
        some = "" if tried == self.of else f" (of {self.of:,}, drawn at random)"
        needed, idle = int((self.share > 0.01).sum()), int((self.share.abs() <= _IDLE).sum())
        harmful = int((self.share < -_IDLE).sum())
        return "\n".join(
            [
                f"minimality: {tried:,} {self.parts}{some} removed one at a time · {n} pair{'s' * (n > 1)} · "
                f"{self.ablation} ablation",
                f"removing it costs over 1% of the gap: {needed:,}; changes less than 0.1%: {idle:,}; "
                f"brings over 0.1%: {harmful:,}",
            ]
        )

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.head().to_string(index=False, float_format=lambda x: f'{x:+.4f}')}"


@gives(Minimality)
def minimality(
    lm: Model,
    task: Task,
    circuit: Circuit,
    *,
    parts: CircuitParts = "edges",
    sample: int | None = 500,
    seed: int = 0,
    ablation: Ablation = "counterfactual",
    reference: Reference | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> Judged[Minimality]:
    """What each part of a circuit is worth to it: M(C) − M(C without the part).

    Args:
        lm: the model that the circuit belongs to.
        task: the pairs.
        circuit: the circuit.
        parts: "edges", or "nodes" (heads and MLPs, with all their edges out).
        sample: at most so many parts, drawn at random without replacement; None: all.
        seed: of the draw (and of resampling).
        ablation: what removed edges carry, and `reference`: the set it is taken from; see `vc.faithfulness`. "optimal"
            learns constants for every circuit that is run.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Minimality`, losses in units of M pair by pair, and as shares of the gap.

    Raises:
        CircuitError: a circuit of another model or graph, or an empty one. MethodError: options out of range, a circuit
            without heads and MLPs for `parts="nodes"`.
        GapError, ContractError, NumericsError, OutOfMemoryError: see `run_circuits`.

    Cost: one run of the circuit for each part, and one more.

    >>> vc.circuits.minimality(lm, task, circuit, parts="nodes").table()
    """
    mask, graph = mask_to_test(lm, circuit), lm.graph
    if parts not in _PARTS:
        raise MethodError(f"parts={parts!r} is no kind of part of a circuit. Known: {', '.join(_PARTS)}.")
    nodes = inner_nodes(mask)
    count = len(circuit) if parts == "edges" else len(nodes)
    if not count:
        raise MethodError("The circuit has no heads and no MLPs, only edges from the input: take parts='edges'.")
    if sample is not None:
        require_count(sample=sample)
    tried = np.sort(np.random.default_rng(seed).permutation(count)[:sample])
    if parts == "edges":
        edges = circuit.edges[tried]
        names, masks = edges.names, without_edges(mask, edges.writer, edges.reader)
    else:
        names = [graph.writer_names[node] for node in nodes[tried]]
        masks = [without_writers(mask, [node]) for node in nodes[tried]]
    how: dict[str, Any] = {"ablation": ablation, "reference": reference, "seed": seed}

    def judge(found: Outcomes) -> Minimality:
        loss = torch.stack([found.metric[0] - one for one in found.metric[1:]], 1)
        asked = found.settings | {"sample": sample, "seed": seed}
        headers = (found.measured, found.cost, found.model, found.task, asked)
        return Minimality(parts, tuple(names), count, loss, found.metric[0], *headers)

    what = f"runs of a circuit without each of {len(names):,} {parts}"
    return Judged(CircuitRuns.of(lm, task, [mask, *masks], **how), judge, what)


FORMAT = "veracausa-minimality-1"

"""How faithful are the circuits of a ranking, size by size; the areas of MIB (2504.13151).

    CPR = ∫ f(x) dx          circuits of the strongest by signed importance
    CMD = ∫ |1 − f(x)| dx    circuits of the strongest by |score|

over the share x of edges kept, from .001 to 1 by trapezoids through the ten sizes. On this axis 85% of the area is that
of circuits of a fifth of the edges or more, so the same areas over log x, as a mean over the range, stand beside them
(`cpr_log`, `cmd_log`). A random ranking gets CPR .25 and CMD .75 where nothing works before all edges are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.integrate import trapezoid

from veracausa.arguments import shown
from veracausa.choices import Ablation, Look, Ranking
from veracausa.circuits.quality.faithfulness import Faithfulness, faithfulness_of, pack_runs
from veracausa.circuits.runs.ablations import SETTLED
from veracausa.circuits.runs.run_circuits import CircuitRuns, Judged, Outcomes
from veracausa.doors import through
from veracausa.effects.optimal_descent import Learning
from veracausa.engine.circuit_forward import wiring_of
from veracausa.engine.work import gives
from veracausa.errors import MethodError, UnitError
from veracausa.result import Shown
from veracausa.scores.about import require_about
from veracausa.scores.scores import Scores
from veracausa.statistics.means import mean_of_known
from veracausa.statistics.ratios import error_of
from veracausa.storage.files import write_tensors
from veracausa.units.edges import Edges
from veracausa.words import counted, sentence, share

if TYPE_CHECKING:
    from pathlib import Path

    import altair
    import pandas as pd
    from torch import Tensor

    from veracausa.cost import Cost
    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task

#: Shares of the edges at which a curve is taken.
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
#: f this near to 1 is the model's behaviour.
_NEAR = 0.1
_RANKINGS: dict[str, Ranking] = {"signed": "importance", "abs": "abs_mean"}


@dataclass(frozen=True, eq=False)
class Curve(Shown):
    """Faithfulness of nested circuits, by signed importance and by |score|.

    `sizes`: shares asked for. `signed[k]`, `absolute[k]`: what the circuit of that size gave. `living`: of both
    rankings, how many kept edges can matter (reached from the input, and leading to the logits).

    >>> curve = vc.curve(lm, task, vc.attribute(lm, task, units="edges", method="eap-ig"))
    >>> curve.cpr, curve.cmd, curve.cpr_log
    """

    method: str
    sizes: tuple[float, ...]
    signed: tuple[Faithfulness, ...]
    absolute: tuple[Faithfulness, ...]
    living: dict[str, tuple[int, ...]]

    @property
    def model(self) -> dict[str, str]:
        """The model that was run."""
        return self.signed[0].model

    @property
    def task(self) -> dict[str, Any]:
        """The pairs that it was run on."""
        return self.signed[0].task

    @property
    def settings(self) -> dict[str, Any]:
        """The ablation, and what it depends on."""
        return self.signed[0].settings

    @property
    def cost(self) -> Cost:
        """Of all circuits, which run together."""
        return self.signed[0].cost

    @property
    def cpr(self) -> float:
        """∫ f dx of the signed ranking."""
        return area(self.sizes, [one.f for one in self.signed])

    @property
    def cmd(self) -> float:
        """∫ |1 − f| dx of the ranking by |score|: 0 is best."""
        return area(self.sizes, [abs(1 - one.f) for one in self.absolute])

    @property
    def cpr_log(self) -> float:
        """Mean of f over log x, signed ranking."""
        return area(self.sizes, [one.f for one in self.signed], log=True)

    @property
    def cmd_log(self) -> float:
        """Mean of |1 − f| over log x, ranking by |score|."""
        return area(self.sizes, [abs(1 - one.f) for one in self.absolute], log=True)

    def stderr(self) -> dict[str, float]:
        """Standard errors over pairs of `cpr`, `cmd`, `cpr_log` and `cmd_log`, to first order (`statistics.ratios`).

        An area of f has the area of f's influences; of |1 − f| each with the sign of f − 1. NaN where no error is
        known: a single pair, or a mean gap that is not told apart from 0.
        """
        signed = np.stack([one.influence().numpy() for one in self.signed], 1)
        absolute = np.stack([np.sign(one.f - 1) * one.influence().numpy() for one in self.absolute], 1)
        influences = {"cpr": (signed, False), "cmd": (absolute, False)}
        influences |= {"cpr_log": (signed, True), "cmd_log": (absolute, True)}
        return {
            name: error_of(torch.tensor([area(self.sizes, pair, log=log) for pair in found]))
            for name, (found, log) in influences.items()
        }

    def table(self) -> pd.DataFrame:
        """One row per size and ranking: share, edges asked for, edges that can matter, f, its error, KL, NDF."""
        import pandas as pd

        rows = []
        for name, found in (("signed", self.signed), ("abs", self.absolute)):
            for size, one, living in zip(self.sizes, found, self.living[name], strict=True):
                rows.append(
                    {
                        "ranking": name,
                        "share": size,
                        "edges": one.edges,
                        "living": living,
                        "f": one.f,
                        "stderr": one.stderr(),
                        "KL": float(one.kl.mean()),
                        "NDF": mean_of_known(one.ndf),
                    }
                )
        return pd.DataFrame(rows)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The areas, from which size on the model's behaviour is there, and what to be told with it."""
        error = self.stderr()
        areas = (
            f"By {self.method} circuits have CPR {share(self.cpr, error['cpr'])} by signed importance and CMD "
            f"{share(self.cmd, error['cmd'])} by |score| ({counted(len(self.signed[0].metric), 'pair')}, "
            f"{self.signed[0].ablation} ablation)."
        )
        near = [size for k, size in enumerate(self.sizes) if all(abs(1 - one.f) <= _NEAR for one in self.absolute[k:])]
        since = f"from {100 * near[0]:.3g}% of the edges on" if near else "at no size"
        there = f"By |score| f stays within {_NEAR:g} of 1 {since}."
        return (areas, there, *map(sentence, self.signed[0].cautions))

    def describe(self) -> str:
        """The areas in a line, with their standard errors, and what to be told with them."""
        error = {name: f" ± {value:.3f}" if value == value else "" for name, value in self.stderr().items()}
        pairs = len(self.signed[0].metric)
        head = (
            f"{self.method}: CPR {self.cpr:.3f}{error['cpr']} (log axis {self.cpr_log:.3f}{error['cpr_log']}), CMD "
            f"{self.cmd:.3f}{error['cmd']} (log axis {self.cmd_log:.3f}{error['cmd_log']}) · {pairs} "
            f"pair{'s' * (pairs > 1)} · {self.signed[0].ablation} ablation"
        )
        return "\n".join([head, *self.signed[0].cautions])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        return write_tensors(path, FORMAT, *pack_curve(self))

    def chart(
        self,
        *others: Curve,
        width: float | None = None,
        height: float | None = None,
        font: str | None = None,
        theme: Look | None = None,
    ) -> altair.LayerChart:
        """This curve, and others beside it, as an Altair chart: f over the share of edges, on a log axis.

        Solid lines: by signed importance; dashed: by |score|. Bands: ± 1 standard error over pairs (none where it is
        not known). Lines at f = 1 (the model) and f = 0 (no edges at all); overshoot, f > 1, is shaded.

        Raises:
            MethodError: two curves of one method.

        >>> eap.chart(eap_ig).save("curves.png")
        """
        return through("Curve.chart", (self, *others), width=width, height=height, font=font, theme=theme)

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.table().round(4).to_string(index=False)}"


FORMAT = "veracausa-curve-2"


def pack_curve(curve: Curve) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a curve with all its circuits' outcomes."""
    header, tensors = pack_runs((*curve.signed, *curve.absolute))
    header |= {"method": curve.method, "sizes": list(curve.sizes)}
    return header | {"living": {name: list(counts) for name, counts in curve.living.items()}}, tensors


@gives(Curve)
def curve(
    lm: Model,
    task: Task,
    scores: Scores,
    *,
    sizes: Sequence[float] = SIZES,
    ablation: Ablation = "counterfactual",
    reference: Reference | None = None,
    seed: int = 0,
    learning: Learning | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> Judged[Curve]:
    """Faithfulness of the circuits that a ranking of all edges gives, at shares `sizes` of the edges.

    Args:
        lm: the model.
        task: the pairs to evaluate on; held-out ones, if the scores are of others.
        scores: of all edges of the model, by any method or exact. Magnitudes (unsigned) rank the same both ways.
        sizes: shares of the edges in (0, 1], rising.
        ablation, reference, seed, learning: see `vc.faithfulness`.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Raises:
        UnitError: the scores are not of all edges of this model; MethodError: sizes out of range or not rising.
        GapError, ContractError, NumericsError, OutOfMemoryError: see `run_circuits`.

    >>> vc.curve(lm, held_out, scores).table()
    """
    graph = lm.graph
    require_about(lm, scores)
    if not isinstance(scores.units, Edges) or scores.units.graph != graph or len(scores.units) != graph.size:
        raise UnitError(f"A curve needs scores of all {graph.size:,} edges of {lm.name}; these are {scores.units!r}.")
    require_sizes(sizes)
    counts = [max(1, round(share * graph.size)) for share in sizes]
    masks, living = [], {}
    for name, by in _RANKINGS.items():
        ranking = np.array(scores.ranking(by))
        chosen = [ranking[:count] for count in counts]
        own = [scores.units[kept].mask for kept in chosen]
        living[name] = tuple(int(wiring_of(lm.decoder, mask, ablation in SETTLED).living.sum()) for mask in own)
        masks += own
    once = {mask.tobytes(): mask for mask in masks}  # all edges, and all sizes of magnitudes, are there twice
    how: dict[str, Any] = {"ablation": ablation, "reference": reference, "seed": seed, "learning": learning}
    runs = CircuitRuns.of(lm, task, list(once.values()), **how)

    def judge(found: Outcomes) -> Curve:
        place = {key: i for i, key in enumerate(once)}
        outcomes = [
            faithfulness_of(found, place[mask.tobytes()], count, graph.size)
            for mask, count in zip(masks, [*counts, *counts], strict=True)
        ]
        signed, absolute = outcomes[: len(counts)], outcomes[len(counts) :]
        return Curve(scores.method, tuple(sizes), tuple(signed), tuple(absolute), living)

    return Judged(runs, judge, f"the curve of {len(once)} circuits by {scores.method}")


def require_sizes(sizes: Sequence[float]) -> None:
    """Raise MethodError unless these are rising shares in (0, 1]."""
    found = list(sizes)
    if not found or found != sorted(set(found)) or not 0 < found[0] <= found[-1] <= 1:
        raise MethodError(f"sizes={shown(found)}: give rising shares of the edges in (0, 1].")


def area(sizes: Sequence[float], values: Sequence[float] | np.ndarray, *, log: bool = False) -> float:
    """Trapezoids through the points; over log x as a mean over the range, so that it has the size of a value."""
    if len(sizes) < 2:
        return float(values[0]) if log else 0.0
    if not log:
        return float(trapezoid(values, sizes))
    x = np.log(np.asarray(sizes))
    return float(trapezoid(values, x) / (x[-1] - x[0]))

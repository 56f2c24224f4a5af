"""How stable a circuit is: would other examples select the same edges?

Bootstrap over examples, from the stored per-example scores; no model is run. Each draw takes n of the n examples with
replacement, averages, and selects a circuit as `vc.select` would. `jaccard`: mean over pairs of draws of
|A ∩ B| / |A ∪ B|, two empty circuits being equal; the literature's bar is 0.8 at n ≥ 100. `probability`: the share of
draws whose circuit holds an edge. Without pruning, `how="abs"` and "top" are `vc.scores.stability` of the n strongest
edges, whose module says why a bootstrap is too kind to few examples; that holds here, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.choices import EdgeRanking, Selection
from veracausa.circuits.selection.select import Rule
from veracausa.circuits.wiring import live_edges
from veracausa.errors import MethodError
from veracausa.scores.bundles import read_with_tensors, write_all
from veracausa.scores.scores import Scores
from veracausa.scores.stable import DrawnAgain, said_of_draws
from veracausa.scores.top_units import mean_jaccard, overlaps
from veracausa.statistics.bootstrap import with_replacement
from veracausa.storage.files import at
from veracausa.storage.schema import flag, number, reading, record, require_tensors, text, whole

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class CircuitStability(DrawnAgain):
    """Stability of a selection; see the module. `sizes`: edges of every draw's circuit.

    >>> vc.circuits.stability(edges, n=500).table()
    """

    scores: Scores
    asked: int
    how: str
    by: str
    prune: bool
    draws: int
    seed: int
    jaccard: float
    probability: Float[np.ndarray, " edges"]
    sizes: Int[np.ndarray, " draws"]
    ASKED = ("asked", "how", "by", "prune", "draws", "seed")

    @property
    def stable(self) -> list[str]:
        """Edges in at least 95% of the draws' circuits, the likeliest first."""
        order = np.argsort(-self.probability, kind="stable")
        return self.scores.units[order[self.probability[order] >= 0.95]].names

    def table(self) -> pd.DataFrame:
        """One row per edge, the likeliest first: name, writer, reader, layer, effect, stderr, probability."""
        table: pd.DataFrame = self.scores.units.table()
        table["effect"] = self.scores.mean().numpy()
        table["stderr"] = self.scores.stderr().numpy()
        table["probability"] = self.probability
        return table.iloc[np.argsort(-self.probability, kind="stable")].reset_index(drop=True)

    @property
    def sentences(self) -> tuple[str, ...]:
        """How much of a circuit other examples would have selected."""
        return (
            f"Circuits of {self.asked:,} edges asked for, selected from {self.draws:,} bootstrap draws of "
            f"{self.scores.n} examples, overlap by {self.jaccard:.2f} (Jaccard).",
            f"{len(self.stable):,} edges are in at least 95% of them.",
        )

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {name: getattr(self, name) for name in (*self.ASKED, "jaccard")}
        tensors = {name: torch.from_numpy(getattr(self, name)) for name in ("probability", "sizes")}
        return write_all(path, FORMAT, header, {"scores": self.scores}, tensors)

    def describe(self) -> str:
        """The figures in four lines."""
        certain, ever = int((self.probability >= 0.95).sum()), int((self.probability > 0).sum())
        return "\n".join(
            [
                f"stability of circuits of {self.asked:,} edges asked for, {self.how} by {self.by}, "
                f"{self.scores.method} · {self.scores.n} examples, {self.draws:,} bootstrap draws",
                f"Jaccard {self.jaccard:.3f} between draws; {self.sizes.min():,} to {self.sizes.max():,} edges",
                f"chosen  {said_of_draws(self.scores.n, certain, ever)}",
                f"trust   {self.scores.verified}",
            ]
        )

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.head().to_string(index=False, float_format=lambda x: f'{x:+.4f}')}"


FORMAT = "veracausa-circuit-stability-1"
_HEADER = record(asked=whole(1), how=text, by=text, prune=flag, draws=whole(2), seed=whole(), jaccard=number(0, 1))


def load_circuit_stability(path: str | Path) -> CircuitStability:
    """Read what `CircuitStability.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, scores, tensors = read_with_tensors(path, FORMAT)
    with reading(at(path)):
        found, edges = _HEADER(header), scores["scores"]
        wanted = {"probability": "finite edges", "sizes": "index draws"}
        require_tensors(tensors, wanted, edges=len(edges), draws=found["draws"])
        parts: dict[str, Any] = {name: found[name] for name in (*CircuitStability.ASKED, "jaccard")}
        parts |= {name: tensors[name].numpy() for name in wanted}
        return CircuitStability(edges, **parts)


def stability(
    scores: Scores,
    *,
    n: int,
    how: Selection = "connected",
    by: EdgeRanking | None = None,
    draws: int = 200,
    prune: bool = True,
    seed: int = 0,
    seconds: float = 10.0,
) -> CircuitStability:
    """How far the circuit that `vc.select` takes depends on which examples were drawn.

    Args:
        scores: of edges, with at least two examples.
        n: edges asked for, as in `select`; also `how`, `by` and `prune`.
        draws: bootstrap draws.
        seed: the same seed gives the same figures (where no integer program runs out of time).
        seconds: time for each draw's integer program, with `how="optimal"`.

    Returns:
        `CircuitStability`.

    Raises:
        MethodError: as in `select`; one example only, the same score for all examples, fewer than two draws.

    >>> vc.circuits.stability(edges, n=500).jaccard
    """
    if scores.n < 2 or not scores.per_example:
        raise MethodError(
            "Stability asks what other examples would have chosen, and these scores have one value for all examples."
        )
    if draws < 2:
        raise MethodError(f"draws={draws}: pairs of draws are compared, so at least 2 are needed; 200 are usual.")
    rule = Rule.of(scores, n=n, how=how, by=by, seconds=seconds)
    values, has = scores.values.nan_to_num(), (~scores.values.isnan()).to(scores.values)
    sign = -1.0 if scores.signed and scores.direction == "noising" else 1.0
    chosen = torch.full((draws, n), -1, dtype=torch.int64)
    for draw, weights in enumerate(torch.from_numpy(with_replacement(scores.n, scores.n, draws, seed)).to(values)):
        importance = sign * ((weights @ values) / (weights @ has)).double().numpy()
        rows, _ = rule.choose(importance, np.isfinite(importance))
        if prune and len(rows):
            mask = np.zeros((rule.graph.readers, rule.graph.writers), dtype=bool)
            mask[rule.reader[rows], rule.writer[rows]] = True
            rows = rows[live_edges(rule.graph, mask)[rule.reader[rows], rule.writer[rows]]]
        chosen[draw, : len(rows)] = torch.from_numpy(rows)
    counts = torch.bincount(chosen[chosen >= 0], minlength=len(scores))
    return CircuitStability(
        scores=scores,
        asked=n,
        how=how,
        by=rule.by,
        prune=prune,
        draws=draws,
        seed=seed,
        jaccard=mean_jaccard(*overlaps(chosen)),
        probability=(counts / draws).numpy(),
        sizes=(chosen >= 0).sum(1).numpy(),
    )

"""A circuit of features: parts of dictionaries whose effect is over a threshold, and the edges between them over
another (sparse feature circuits, Marks et al. 2403.19647)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from veracausa.cost import Cost
from veracausa.dictionaries.words import ERROR
from veracausa.doors import through
from veracausa.result import Shown
from veracausa.scores.bundles import read_with_tensors, write_all
from veracausa.scores.scores import Scores
from veracausa.statistics.means import standard_error
from veracausa.storage.files import at
from veracausa.storage.schema import cost as cost_of
from veracausa.storage.schema import many, number, reading, record, require_tensors, text
from veracausa.words import counted, joined, number_of

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

#: Nodes and edges that a sentence names.
_NAMED = 3


def strongest(scored: Sequence[Scores], threshold: float, most: int | None) -> list[tuple[int, int]]:
    """(which scores, unit) of the parts whose |mean| is over a threshold, at most so many, strongest first."""
    strength = [one.mean().double().abs().numpy() for one in scored]
    every = [(-size, which, i) for which, own in enumerate(strength) for i, size in enumerate(own) if size > threshold]
    return [(which, i) for _, which, i in sorted(every)[:most]]


@dataclass(frozen=True, eq=False)
class FeatureCircuit(Shown):
    """What `vc.circuits.feature_circuit` found. `nodes`: scores of all parts that were candidates, one for each kind of
    dictionary; `upstream`, `downstream`, `values` [pairs, edges]: the edges between parts whose |mean score| is over
    `node_threshold` ("logits": a part's own score, of those behind which no dictionary reads). The circuit's edges are
    those with |mean| over `edge_threshold`.

    >>> circuit = vc.circuits.feature_circuit(lm, task)
    >>> circuit.parts, circuit.table()
    """

    nodes: tuple[Scores, ...]
    upstream: tuple[str, ...]
    downstream: tuple[str, ...]
    values: Float[Tensor, "pairs edges"]
    node_threshold: float
    edge_threshold: float
    settings: dict[str, Any]
    cost: Cost

    @property
    def model(self) -> dict[str, str]:
        """The model that was run."""
        return self.nodes[0].model

    @property
    def task(self) -> dict[str, Any]:
        """The pairs that it was run on."""
        return self.nodes[0].task

    @property
    def candidates(self) -> int:
        """How many parts were scored."""
        return sum(len(one.units) for one in self.nodes)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The circuit's nodes, features and errors, strongest first."""
        return tuple(self.node_table()["name"])

    def node_table(self) -> pd.DataFrame:
        """One row per node, strongest first: name, effect, its standard error over pairs, whether it is an error."""
        import pandas as pd

        names = [one.units.names for one in self.nodes]
        mean, error = ([getattr(one, what)().double().numpy() for one in self.nodes] for what in ("mean", "stderr"))
        found = strongest(self.nodes, self.node_threshold, self.settings.get("most"))
        columns: dict[str, Any] = {"name": [names[which][i] for which, i in found]}
        columns |= {"effect": [float(mean[which][i]) for which, i in found]}
        columns |= {"stderr": [float(error[which][i]) for which, i in found]}
        columns |= {"error": [bool(self.nodes[which].units.index[i] == ERROR) for which, i in found]}
        return pd.DataFrame(columns)

    def table(self) -> pd.DataFrame:
        """One row per edge, strongest first: upstream and downstream part, effect, its standard error over pairs."""
        import pandas as pd

        columns: dict[str, Any] = {"upstream": self.upstream, "downstream": self.downstream}
        columns |= {"effect": self.values.nanmean(0).double().numpy()}
        columns |= {"stderr": standard_error(self.values).double().numpy()}
        table = pd.DataFrame(columns)
        kept = table[table["effect"].abs() > self.edge_threshold]
        return kept.iloc[np.argsort(-kept["effect"].abs().to_numpy(), kind="stable")].reset_index(drop=True)

    @property
    def sentences(self) -> tuple[str, ...]:
        """How many nodes and edges there are, the strongest of each, and that they are estimates."""
        nodes, edges, scored = self.node_table(), self.table(), self.candidates
        errors = int(nodes["error"].sum())
        cut = "" if self.settings.get("most") != len(nodes) else " (the strongest; no more were asked for)"
        said = [
            f"{counted(len(nodes), 'part')} of {scored:,} have an estimated effect over {self.node_threshold:g}{cut}, "
            f"{errors:,} of them errors; {len(edges):,} of {len(self.upstream):,} edges between them over "
            f"{self.edge_threshold:g}."
        ]
        if len(nodes):
            rows = nodes.head(_NAMED).itertuples()
            said.append(f"Strongest parts: {joined([f'{row.name} {number_of(row.effect)}' for row in rows])}.")
        if len(edges):
            found = edges.head(_NAMED).itertuples()
            named = [f"{row.upstream} to {row.downstream} {number_of(row.effect)}" for row in found]
            said.append(f"Strongest edges: {joined(named)}.")
        return (*said, "These are estimates; how faithful the circuit is, part_curve tells by exact runs.")

    def describe(self) -> str:
        """What was scored, and by which thresholds."""
        n, how = len(self.values), self.settings
        return "\n".join(
            [
                f"circuit of features · {how['method']} · {len(self.parts):,} parts over {self.node_threshold:g}, "
                f"{len(self.table()):,} edges over {self.edge_threshold:g} · ablation {how['ablation']} · "
                f"{'one position at a time' if how['positions'] else 'summed over positions'}",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                f"parts   {how['dictionary']}",
                f"n       {counted(n, 'pair')}",
                f"cost    {self.cost.describe()}",
            ]
        )

    def page(self, path: str | Path, curves: Any = ()) -> Path:
        """Write it as one offline HTML page; with some `part_curve`s of it, how faithful it is, too.

        >>> circuit.page("circuit.html", [vc.circuits.part_curve(lm, task, circuit)])
        """
        found: Path = through("FeatureCircuit.page", self, path, curves)
        return found

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {"upstream": list(self.upstream), "downstream": list(self.downstream)}
        header |= {"node_threshold": self.node_threshold, "edge_threshold": self.edge_threshold}
        header |= {"settings": self.settings, "cost": self.cost.to_dict()}
        scores = {f"{i:04d}": one for i, one in enumerate(self.nodes)}
        return write_all(path, FORMAT, header, scores, {"edges": self.values})

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.head().to_string(index=False, float_format=lambda x: f'{x:+.4f}')}"


FORMAT = "veracausa-feature-circuit-1"
_HEADER = record(
    upstream=many(text), downstream=many(text), node_threshold=number(0), edge_threshold=number(0), settings=record(),
    cost=cost_of,
)  # fmt: skip


def load_feature_circuit(path: str | Path) -> FeatureCircuit:
    """Read what `FeatureCircuit.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, scores, tensors = read_with_tensors(path, FORMAT)
    with reading(at(path)):
        found, nodes = _HEADER(header), tuple(scores[key] for key in sorted(scores))
        sizes = {"pairs": nodes[0].n, "edges": len(found["upstream"])}
        require_tensors(tensors, {"edges": "float pairs edges"}, **sizes)
        if len(found["upstream"]) != len(found["downstream"]):
            raise ValueError("its edges do not have two ends each")
        ends = tuple(found["upstream"]), tuple(found["downstream"])
        thresholds = found["node_threshold"], found["edge_threshold"]
        return FeatureCircuit(nodes, *ends, tensors["edges"], *thresholds, dict(header["settings"]), found["cost"])

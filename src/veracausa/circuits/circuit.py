"""`Circuit`: a set of edges of a model's graph, with everything that says where it comes from.

A head is one node: its writer is fed by its query, key and value readers, and a key/value reader feeds all query heads
of its group. So with grouped queries an edge into `a3.kv0<k>` leads on if any head of the group does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.anatomy.graph import LOGITS, MIXER, MLP, READERS, Graph
from veracausa.arguments import shown, texts
from veracausa.choices import Ablation, Look
from veracausa.circuits.wiring import live_edges, node_table, nodes_of, parse_names, touched_by
from veracausa.doors import through
from veracausa.engine.identity import difference
from veracausa.errors import CircuitError
from veracausa.extras import require_extra
from veracausa.result import ROWS, Shown
from veracausa.scores.scores import NOT_VERIFIED
from veracausa.storage.files import write_json
from veracausa.suggestions import did_you_mean
from veracausa.typed import typed
from veracausa.units.edges import Edges
from veracausa.words import listed, number_of, sentence

if TYPE_CHECKING:
    from pathlib import Path

    import altair
    import networkx as nx
    import pandas as pd
    from jaxtyping import Bool, Float, Int

    from veracausa.cost import Cost
    from veracausa.model import Model
    from veracausa.scores.scores import Scores
    from veracausa.tasks.task import Task

#: `Circuit.model` and `Circuit.task` of a circuit that says nothing about them.
ANY_MODEL = {"name": "", "source": "any model of this graph", "identity": ""}
NO_TASK: dict[str, Any] = {"name": "", "description": "not stated", "digest": "", "metric": "", "n": 0}


@dataclass(frozen=True, eq=False)
class Circuit(Shown):
    """Edges that are kept; all others are ablated.

    `edges`: a table without positions, in the graph's order (reader by reader along the stream), none twice. `model`,
    `task`: headers as in `Scores`; a model without an identity stands for every model of this graph. `method`: what
    scored or stated the edges. `settings`: how they were selected, how many were asked for, the scores' direction.
    `importance`: the edges' importances where they are known (positive supports the behaviour). `cost`: of a search
    that ran the model for it; None where it was selected from scores, which have their own, or stated.

    Raises:
        CircuitError: positions, an edge twice or out of order, importances of another length.
        UnitError: an edge that the graph has not.

    >>> circuit = vc.select(vc.attribute(lm, task, units="edges", method="eap-ig"), n=500)
    >>> circuit.nodes, circuit.share
    """

    edges: Edges
    model: dict[str, str]
    task: dict[str, Any]
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    importance: Float[np.ndarray, " edges"] | None = None
    cost: Cost | None = None

    def __post_init__(self) -> None:
        _require_whole(self.edges)
        _require_fitting(self.importance, len(self.edges))

    @classmethod
    def of(
        cls,
        graph: Graph,
        writer: Int[np.ndarray, " edges"],
        reader: Int[np.ndarray, " edges"],
        *,
        importance: Float[np.ndarray, " edges"] | None = None,
        **parts: Any,
    ) -> Circuit:
        """A circuit of edges given by their ends, in any order; `parts`: the other fields."""
        _require_fitting(importance, len(writer))
        order = np.lexsort((writer, reader))
        edges = Edges.of(graph, np.asarray(writer)[order], np.asarray(reader)[order])
        parts = {"model": ANY_MODEL, "task": NO_TASK, "method": "stated"} | parts
        return cls(edges, importance=None if importance is None else np.asarray(importance)[order], **parts)

    @classmethod
    @typed
    def from_names(cls, lm: Model, names: Sequence[str], *, method: str = "stated") -> Circuit:
        """The circuit of these edges of a model; of no names the empty one, in which everything is ablated (f = 0).

        Raises:
            UnitError: a name that is no edge of this model; the message says why.
            CircuitError: a name twice, or one with a position.

        >>> Circuit.from_names(lm, ["input->a0.h0<q>", "a0.h0->logits"])
        """
        names = texts(names, "A circuit by name", CircuitError)
        ends = parse_names(lm.graph, names)
        return cls.of(lm.graph, ends[:, 0], ends[:, 1], model=lm.header(), method=method)

    @classmethod
    @typed
    def of_nodes(cls, lm: Model, names: Sequence[str], *, method: str = "stated") -> Circuit:
        """The circuit of all edges out of these nodes, `input`, heads and MLPs, so that all other nodes are ablated.

        That holds for the input, too: where it is not named, every node reads the corrupted prompt, and f is 0 whatever
        else is named; a note says so. Edges into ablated nodes are kept, and lead nowhere: `nodes` names those nodes,
        too, until `prune` drops such edges.

        Raises:
            CircuitError: a name that is no node of this model; "logits" writes nothing and is passed over.

        >>> Circuit.of_nodes(lm, ["input", "a0.h0", "m3"])
        """
        names = texts(names, "A circuit by nodes", CircuitError)
        known = {name: writer for writer, name in enumerate(lm.graph.writer_names)}
        for name in names:
            if name != "logits" and name not in known:
                raise CircuitError(
                    f"{shown(name)} is no node of {lm.name}.{did_you_mean(name, known)} Nodes are input, heads such as "
                    "a0.h0 and MLPs such as m0."
                )
        kept = np.isin(lm.graph.edges[0], [known[name] for name in names if name != "logits"])
        writer, reader = (end[kept] for end in lm.graph.edges)
        notes = () if "input" in names else ("the input is not among its nodes: what is left reads what ablates it",)
        return cls.of(lm.graph, writer, reader, model=lm.header(), method=method, notes=notes)

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def graph(self) -> Graph:
        """The graph that the edges belong to."""
        return self.edges.graph

    @property
    def names(self) -> list[str]:
        """The kept edges' names, in the graph's order."""
        return self.edges.names

    @property
    def nodes(self) -> list[str]:
        """Writers, heads and MLPs that kept edges touch, along the stream: `input`, `a9.h6`, `m3`, …, `logits`.

        An edge into a key/value head touches those heads of its group that write a kept edge or read one by their
        query, or the whole group if none does.
        """
        return nodes_of(self.graph, self.mask)

    @property
    def share(self) -> float:
        """Kept edges / all edges of the graph."""
        return len(self) / self.graph.size

    @property
    def mask(self) -> Bool[np.ndarray, "readers writers"]:
        """True where the edge from a writer to a reader is kept."""
        return self.edges.mask

    def prune(
        self, lm: Model | None = None, task: Task | None = None, *, ablation: Ablation = "counterfactual"
    ) -> Circuit:
        """The circuit without dead ends: every writer is reachable from the input, every reader leads to the logits.

        All edges that are left lie on a path of kept edges from `input` to `logits`. The notes say how many were
        dropped. That changes nothing where ablation is counterfactual and no block has post-norms; elsewhere it can:
        a post-norm takes its scale over all heads of a block, and under zero, mean or optimal ablation what nothing
        reaches still writes. Given the model and pairs, both circuits are run, and the notes say how f changed.

        Raises:
            CircuitError: a model without pairs, or the other way round; a circuit of another model.
        """
        if (lm is None) != (task is None):
            raise CircuitError("To say what pruning changes, prune needs the model and pairs: circuit.prune(lm, task).")
        live = live_edges(self.graph, self.mask)[self.edges.reader, self.edges.writer]
        if live.all():
            return self
        note = f"pruned: {int((~live).sum()):,} of {len(self):,} edges were dead ends and were dropped"
        pruned = dataclasses.replace(
            self,
            edges=self.edges[live],
            importance=None if self.importance is None else self.importance[live],
            notes=(*self.notes, note),
        )
        if lm is None or task is None:
            return pruned
        before, after = (
            through("Circuit.prune", lm, task, one, ablation=ablation, show_progress=False).f for one in (self, pruned)
        )
        told = f"{note}; that changed f from {before:.4f} to {after:.4f} ({ablation} ablation, {len(task)} pairs)"
        return dataclasses.replace(pruned, notes=(*self.notes, told))

    def require_for(self, lm: Model) -> Circuit:
        """The circuit itself, if it is about this model.

        Raises:
            CircuitError: it belongs to another graph, or to another model or state of it: says what differs.
        """
        if self.graph != lm.graph:
            raise CircuitError(f"The circuit's edges are those of {self.graph}, but {lm.name} is {lm.graph}.")
        found = self.model["identity"]
        if found and (differing := difference(found, lm.identity)):
            raise CircuitError(
                f"The circuit was found in {self.model['source']}, but this model, {lm.source}, now has other "
                f"{differing}. To try its edges here, take Circuit.from_names(lm, circuit.names)."
            )
        return self

    def __or__(self, other: Any) -> Any:
        """Both side by side, of circuits and discoveries: edges of both, of one only, ranks, f at equal sizes.

        >>> (vc.open("out/circuit.json") | vc.circuits.published("ioi-gpt2")).jaccard
        """
        return through("Circuit.beside", self, other)

    def table(self) -> pd.DataFrame:
        """One row per edge: name, writer, reader, layer of the reader, importance where it is known."""
        table: pd.DataFrame = self.edges.table()
        if self.importance is not None:
            table["importance"] = self.importance
        return table

    def to_networkx(self) -> nx.MultiDiGraph:
        """Nodes and edges as a networkx graph; see `circuits.exchange.graphml.graph_of`."""

        return graph_of(self)

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, whole or not at all; `vc.open` reads it."""

        return save_circuit(self, path)

    def chart(
        self,
        *,
        positions: Scores | None = None,
        tokens: Sequence[str] = (),
        most: int = 200,
        width: float | None = None,
        height: float | None = None,
        font: str | None = None,
        theme: Look | None = None,
    ) -> altair.LayerChart:
        """The circuit as an Altair chart: layers upwards, heads and MLPs across, an edge a curve.

        Width grows with the square root of |importance|; colour is its sign (blue: + supports the behaviour, orange: −
        works against it; grey: not known). Pointing at a node singles out its edges, tooltips give names and numbers.
        A circuit without edges is the empty grid with a sentence.

        Args:
            positions: scores of edges at positions; draws those of this circuit's edges over layers × positions.
            tokens: texts of the positions, e.g. `task.tokens(0)[0]`.
            most: edges drawn at most, the strongest; the subtitle says so where there are more.
            width, height: of the drawing, in pixels; None: what its columns and layers need.
            font, theme: see `Result.chart`.

        Raises:
            CircuitError: `positions` that are no scores of its edges at positions.

        >>> circuit.chart().save("circuit.svg")  # or .png, .html
        """
        look: dict[str, Any] = {"width": width, "height": height, "font": font, "theme": theme}
        return through("Circuit.chart", self, positions=positions, tokens=tokens, most=most, **look)

    @property
    def verified(self) -> str:
        """What was checked of the scores that the circuit was selected by, or "not verified"."""
        return str(self.settings.get("verified", NOT_VERIFIED))

    def describe(self) -> str:
        """What this circuit is, in one line each: size, how it was selected, model, task, notes."""
        nodes = self.nodes
        heads = sum(name.startswith("a") for name in nodes)
        mlps = sum(name.startswith("m") for name in nodes)
        how = ", ".join(f"{key} {value}" for key, value in self.settings.items() if _short(value) and key != "verified")
        size = f"circuit of {len(self):,} edges ({self.share:.2%} of {self.graph.size:,}) · {heads} heads, {mlps} MLPs"
        lines = [
            size if len(self) else f"no edges, of {self.graph.size:,}: nothing leads from the input to the logits",
            f"method  {self.method}" + (f" · {how}" if how else ""),
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            *([f"cost    {self.cost.describe()}"] if self.cost else []),
            f"trust   {self.verified}",
        ]
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])

    @property
    def sentences(self) -> tuple[str, ...]:
        """How large the circuit is, which of its edges are strongest, and how sure that is."""
        if not len(self):
            return tuple(map(sentence, (self.describe().splitlines()[0], *self.notes)))
        size = f"The circuit has {len(self):,} of {self.graph.size:,} edges ({self.share:.2%})"
        size += f", between {len(self.nodes):,} nodes."
        if self.importance is None:
            return (size,)
        best = np.argsort(-np.abs(self.importance), kind="stable")[:3]
        names = [f"{self.edges[[int(i)]].names[0]} {number_of(float(self.importance[i]))}" for i in best]
        return size, f"Its strongest are {listed(names)}.", sentence(f"the scores behind it: {self.verified}")

    def head(self) -> pd.DataFrame:
        """The ten edges that support the behaviour most; the first ones where importances are not known."""
        if self.importance is None:
            return self.table()[:ROWS]
        return self.table().iloc[np.argsort(-self.importance, kind="stable")[:ROWS]]

    def __repr__(self) -> str:
        table = self.head().to_string(index=False, float_format=lambda x: f"{x:+.4f}")
        return f"{self.describe()}\n{table if len(self) else 'no edges'}"


def _require_whole(edges: Edges) -> None:
    """Raise unless this is a table of existing edges, without positions, in order, none twice."""
    if edges.positional:
        raise CircuitError("A circuit keeps an edge at all positions or at none. Take edges without positions.")
    edges.require_existing()
    if (np.diff(edges.reader * edges.graph.writers + edges.writer) <= 0).any():
        raise CircuitError("The edges are not in the graph's order, or one is there twice. Use Circuit.of.")


def _require_fitting(importance: np.ndarray | None, edges: int) -> None:
    if importance is not None and np.shape(importance) != (edges,):
        raise CircuitError(f"Importances of shape {list(np.shape(importance))} do not fit {edges:,} edges.")


def _short(value: Any) -> bool:
    """Whether a setting fits a line."""
    return value not in (None, "") and not isinstance(value, (dict, list))


def graph_of(circuit: Circuit) -> nx.MultiDiGraph:
    """A circuit as a networkx graph; see the module.

    Raises:
        ExtraError: networkx is not installed.

    >>> nx.shortest_path(graph_of(circuit), "input", "logits")
    """
    require_extra("graphs")
    import networkx as nx

    graph, edges = circuit.graph, circuit.edges
    made = nx.MultiDiGraph()
    table = node_table(graph)
    made.add_nodes_from((name, table[name]) for name in circuit.nodes)
    touched = touched_by(graph, circuit.mask)
    names, importance = edges.names, circuit.importance
    for i, (writer, reader) in enumerate(zip(edges.writer.tolist(), edges.reader.tolist(), strict=True)):
        kind = int(graph.reader_kind[reader])
        what: dict[str, Any] = {"edge": names[i], "reader": READERS[kind]}
        if importance is not None:
            what["importance"] = float(importance[i])
        start = graph.writer_names[writer]
        for end in [graph.writer_names[one] for one in touched[reader]] or ["logits"]:
            suffix = "" if kind in (MLP, LOGITS, MIXER) else f"<{READERS[kind]}>"
            made.add_edge(start, end, key=f"{start}->{end}{suffix}", **what)
    return made


_FORMAT = "veracausa-circuit-2"


def pack_circuit(circuit: Circuit) -> dict[str, Any]:
    """A circuit's header: everything but its edges."""
    from veracausa.version import __version__

    return {
        "format": _FORMAT,
        "version": __version__,
        "method": circuit.method,
        "settings": circuit.settings,
        "model": circuit.model,
        "task": circuit.task,
        "notes": list(circuit.notes),
        "cost": circuit.cost.to_dict() if circuit.cost else None,
        "graph": circuit.graph.header,
    }


def save_circuit(circuit: Circuit, path: str | Path) -> Path:
    """See `Circuit.save`."""
    return write_json(path, circuit_body(circuit))


def circuit_body(circuit: Circuit) -> dict[str, Any]:
    """A circuit as its file has it."""
    importance = None if circuit.importance is None else [float(x) for x in circuit.importance]
    return pack_circuit(circuit) | {"edges": circuit.names, "importance": importance}

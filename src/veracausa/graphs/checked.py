"""What `vc.graphs.check` finds: influence, frozen ablation and live ablation of an attribution graph's nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from veracausa.cost import Cost
from veracausa.graphs.graph import KINDS
from veracausa.graphs.influence import TOKEN
from veracausa.result import Shown
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, reading, record, require_tensors, text
from veracausa.words import counted, plain, signed

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float, Int
    from torch import Tensor

FORMAT = "veracausa-graph-check-1"
_HEADER = record(names=many(text, least=1), settings=record(), model=MODEL, task=TASK, cost=cost)
#: What is held against live effects, and how it is called.
MEASURES = {"frozen": "frozen ablation", "linear": "sum over ways", "direct": "direct edge", "influence": "influence"}
#: Groups of distances to the logits in `agreement(by="band")`, beside tokens, at most, and nodes of each, about.
_BANDS, _OF_BAND = 6, 8
_CIRCUIT = ("clean", "live", "frozen", "nodes_kept", "nodes", "live_all", "frozen_all")


@dataclass(frozen=True, eq=False)
class GraphCheck(Shown):
    """Nodes of attribution graphs, taken out of the live model and of the frozen one.

    `names`: of nodes; `graphs`: which graph (pair) each is of. `kinds`, `layers`: of nodes. `live`: M without the node
    − M, everything downstream live. `frozen`: the same in the frozen network, features answering by their encoders.
    `linear`: the graph's own prediction, all ways to the metric summed. `direct`: minus the direct edge. `influence`:
    of the node. `circuits`: per graph M clean, of the circuit that pruning keeps (all other nodes at 0) live and
    frozen, how many nodes it keeps of how many, and M without any feature or error, live and frozen.

    >>> check = vc.graphs.check(lm, [graph], task)
    >>> check.agreement()
    """

    names: tuple[str, ...]
    graphs: Int[Tensor, " nodes"]
    kinds: Int[Tensor, " nodes"]
    layers: Int[Tensor, " nodes"]
    live: Float[Tensor, " nodes"]
    frozen: Float[Tensor, " nodes"]
    linear: Float[Tensor, " nodes"]
    direct: Float[Tensor, " nodes"]
    influence: Float[Tensor, " nodes"]
    circuits: Float[Tensor, "graphs figures"]
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost

    @property
    def n(self) -> int:
        """Graphs, of one prompt each."""
        return len(self.circuits)

    def table(self) -> pd.DataFrame:
        """One row a node of a graph."""
        import pandas as pd

        columns: dict[str, Any] = {"graph": self.graphs.numpy(), "name": self.names}
        columns |= {"kind": [KINDS[kind] for kind in self.kinds.tolist()], "layer": self.layers.numpy()}
        return pd.DataFrame(columns | {name: getattr(self, name).double().numpy() for name in ("live", *MEASURES)})

    def agreement(self, by: str = "") -> pd.DataFrame:
        """How each measure stands to the live effects: r, Spearman, share of equal signs, median ratio; n nodes.

        Of influence, which has no sign, |live| is asked. `by`: "kind", "distance" in layers to the logits, or "band"
        of distances (see `bands`).
        """
        import pandas as pd

        table = self.table()
        table["distance"] = self.settings["layers"] - table["layer"]
        if by == "band":
            table["band"] = pd.Categorical(
                own := self.bands(self._many), [*dict.fromkeys(own[i] for i in self._outward)]
            )
        groups = [("all", table)] if not by else [*table.groupby(by, sort=True, observed=True)]
        rows = [
            {**({by: key} if by else {}), "measure": MEASURES[name], **_compared(own["live"], own[name], name)}
            for key, own in groups
            for name in MEASURES
        ]
        return pd.DataFrame(rows)

    def bands(self, most: int) -> list[str]:
        """How many layers from the logits every node is, "1" or "9–21", tokens apart.

        Of more distances than `most`, neighbours share a band, so that all bands have about as many nodes.
        """
        inner = self._distance[self.kinds.numpy() != TOKEN]
        each, counts = np.unique(inner, return_counts=True)
        of = np.arange(len(each))
        if len(each) > most:
            of = ((np.cumsum(counts) - counts / 2) * most / len(inner)).astype(int)
        texts = dict[int, str]()
        for band in np.unique(of).tolist():
            own = each[of == band].tolist()
            texts |= dict.fromkeys(own, f"{own[0]}–{own[-1]}" if len(own) > 1 else f"{own[0]}")
        token = (self.kinds.numpy() == TOKEN).tolist()
        return ["tokens" if one else texts[d] for d, one in zip(self._distance.tolist(), token, strict=True)]

    @property
    def _many(self) -> int:
        """Bands for which there are nodes enough."""
        return max(1, min(_BANDS, int((self.kinds != TOKEN).sum()) // _OF_BAND))

    @property
    def _distance(self) -> Int[np.ndarray, " nodes"]:
        found: np.ndarray = self.settings["layers"] - self.layers.numpy()
        return found

    @property
    def _outward(self) -> list[int]:
        """The nodes, those next to the logits first, tokens last."""
        return np.lexsort((self._distance, self.kinds.numpy() == TOKEN)).tolist()

    def circuit_table(self) -> pd.DataFrame:
        """One row a graph: M, M of the circuit live and frozen, nodes kept, and M without all that could be taken."""
        import pandas as pd

        return pd.DataFrame(self.circuits.double().numpy(), columns=list(_CIRCUIT))

    @property
    def sentences(self) -> tuple[str, ...]:
        """Agreement with the live model in words, and what the circuit keeps."""
        own = {row["measure"]: row for row in self.agreement().to_dict("records")}
        frozen, linear, reached = (own[MEASURES[name]] for name in ("frozen", "linear", "influence"))
        found = self.circuit_table().mean()
        return (
            f"Live against frozen ablation over {counted(len(self.names), 'node')}: r {plain(frozen['r'], 2)}, "
            f"Spearman {plain(frozen['spearman'], 2)}, {plain(100 * frozen['same sign'], 0)}% of equal signs.",
            f"Live against the sum over ways: r {plain(linear['r'], 2)}; |live| against influence: Spearman "
            f"{plain(reached['spearman'], 2)}.",
            f"Mean M {signed(found['clean'], 2)}; of the circuit that pruning keeps ({plain(found['nodes_kept'], 0)} "
            f"of {plain(found['nodes'], 0)} nodes) {_live_said(found['live'])} and "
            f"{signed(found['frozen'], 2)} frozen.",
        )

    def describe(self) -> str:
        """What these numbers are, line by line."""
        said = self.settings
        return "\n".join(
            [
                f"attribution graphs checked · {counted(len(self.names), 'node')} of {counted(self.n, 'graph')}",
                f"model   {self.model['source']}, computed in {self.model['dtype']}",
                f"task    {self.task['description']}",
                "sign    M without the node − M; influence has none",
                f"nodes   {said['nodes']}",
                f"circuit nodes {said['node_threshold']:g}, edges {said['edge_threshold']:g} of the influence",
                f"n       {counted(self.n, 'prompt')}",
                f"cost    {self.cost.describe()}",
                "trust   live effects are exact; frozen ones are those of a model that is not run",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {sentence}" for sentence in self.sentences)])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {name: getattr(self, name) for name in ("names", "settings", "model", "task")}
        tensors = {name: getattr(self, name) for name in ("graphs", "kinds", "layers", "live", *MEASURES, "circuits")}
        return write_tensors(path, FORMAT, header | {"cost": self.cost.to_dict()}, tensors)


def _live_said(value: float) -> str:
    """M of a circuit, where it was run."""
    if np.isnan(value):
        return "not run live (features that read the stream before attention are patched one by one alone)"
    return f"{signed(value, 2)} live"


def _compared(live: Any, other: Any, name: str) -> dict[str, float]:
    """Agreement of two columns; NaN where there are too few, or one does not vary."""
    x, y = live.to_numpy(), other.to_numpy()
    x = np.abs(x) if name == "influence" else x
    varied, nan = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0, float("nan")
    signed_one, some = name != "influence", x != 0
    return {
        "r": float(pearsonr(x, y).statistic) if varied else nan,
        "spearman": float(spearmanr(x, y).statistic) if varied else nan,
        "same sign": float(np.mean(np.sign(x) == np.sign(y))) if signed_one else nan,
        "median ratio": float(np.median(y[some] / x[some])) if signed_one and some.any() else nan,
        "n": len(x),
    }


def load_graph_check(path: str | Path) -> GraphCheck:
    """Read what `GraphCheck.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("check.safetensors").agreement()
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        found = _HEADER(header)
        wanted = dict.fromkeys(("graphs", "kinds", "layers"), "index nodes")
        wanted |= dict.fromkeys(("live", *MEASURES), "finite nodes") | {"circuits": "float graphs figures"}
        require_tensors(tensors, wanted, nodes=len(found["names"]), figures=len(_CIRCUIT))
        names = ("names", "settings", "model", "task", "cost")
        parts: dict[str, Any] = {name: tensors[name] for name in wanted}
        return GraphCheck(**parts, **{name: found[name] for name in names})

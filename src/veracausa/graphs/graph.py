"""What `vc.graphs.attribution_graph` makes, and what is read from other programs' files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.graphs.influence import (
    ERROR,
    FEATURE,
    LOGIT,
    TOKEN,
    Pruned,
    completeness_score,
    influence,
    pruned,
    replacement_score,
)
from veracausa.result import Shown
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, reading, record, require_tensors, text
from veracausa.words import counted, listed, plain

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float, Int

FORMAT = "veracausa-attribution-graph-1"
_HEADER = record(
    names=many(text, least=1), tokens=many(text, least=1), settings=record(), model=MODEL, task=TASK, cost=cost
)
_COLUMNS = ("total", "bias", "rest", "activation", "weights", "direct")
KINDS = ("feature", "error", "token", "logit")
_NAMED = 4


@dataclass(frozen=True, eq=False)
class AttributionGraph(Shown):
    """Direct effects between features, errors, tokens and logits of one prompt, everything between them linear.

    `names`: of nodes, as units are called: "f10.12@3", "f10.error@3", "m2@3" (an MLP without a transcoder, whole),
    "r0@3" (a token), and logits. `kinds`: 0 … 3, see `KINDS`. `layers`, `positions`: of nodes. `adjacency`: what each
    source (column) adds to each target (row), [nodes, nodes]: to a feature's pre-activation, or to a logit. Rows of
    errors and tokens are 0. `bias`: what no source gives, `rest`: what features add that are no nodes; with them a row
    adds up to `total`. `activation`: of features; 1 of all else. `weights`: of logits. `direct`: what each source adds
    directly to the task's metric. `tokens`: of the prompt.

    >>> graph = vc.graphs.attribution_graph(lm, task, dictionary=transcoders)
    >>> graph.replacement_score, graph.top(5)
    """

    names: tuple[str, ...]
    kinds: Int[Tensor, " nodes"]
    layers: Int[Tensor, " nodes"]
    positions: Int[Tensor, " nodes"]
    adjacency: Float[Tensor, "nodes nodes"]
    total: Float[Tensor, " nodes"]
    bias: Float[Tensor, " nodes"]
    rest: Float[Tensor, " nodes"]
    activation: Float[Tensor, " nodes"]
    weights: Float[Tensor, " nodes"]
    direct: Float[Tensor, " nodes"]
    tokens: tuple[str, ...]
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost

    @cached_property
    def influence(self) -> Float[Tensor, " nodes"]:
        """w (Â + Â² + …): see `graphs.influence`."""
        return influence(self.adjacency.double(), self.weights.double())

    @property
    def replacement_score(self) -> float:
        """The share of the influence on the logits that comes from tokens through features, not from errors."""
        return replacement_score(self.adjacency.double(), self.weights.double(), self.kinds)

    @property
    def completeness_score(self) -> float:
        """The share of nodes' inputs that comes from no error, weighted by the nodes' influence."""
        return completeness_score(self.adjacency.double(), self.weights.double(), self.kinds)

    def pruned(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Pruned:
        """The nodes and edges that hold these shares of the influence, as circuit-tracer prunes."""
        return pruned(self.adjacency.double(), self.weights.double(), self.kinds, node_threshold, edge_threshold)

    def linear_effects(self) -> Float[Tensor, " nodes"]:
        """The metric's change where a node is taken out and features answer linearly: all ways to it, summed.

        −(direct + Σ_t total effect of t · A[t, s] / a_t): features that are no nodes do not answer.
        """
        per_unit = torch.where(self.kinds == FEATURE, 1 / self.activation.double(), 0.0)
        through = self.adjacency.double() * per_unit[:, None]
        whole = self.direct.double()
        found = whole.clone()
        for _ in range(len(whole)):
            whole = (whole * (self.kinds == FEATURE)) @ through
            if not whole.any():
                break
            found += whole
        return -found

    def table(self) -> pd.DataFrame:
        """One row per node: kind, layer, position, activation, influence, direct and total linear effect on M."""
        import pandas as pd

        columns: dict[str, Any] = {"name": self.names, "kind": [KINDS[kind] for kind in self.kinds.tolist()]}
        columns |= {"layer": self.layers.numpy(), "position": self.positions.numpy()}
        columns |= {name: getattr(self, name).double().numpy() for name in ("activation", "influence", "direct")}
        return pd.DataFrame(columns | {"without it": self.linear_effects().numpy()})

    def top(self, k: int = 10) -> pd.DataFrame:
        """The rows of the k nodes with the most influence, logits left out."""
        table = self.table()
        table = table[table["kind"] != "logit"]
        return table.sort_values("influence", ascending=False, kind="stable")[:k].reset_index(drop=True)

    def head(self) -> pd.DataFrame:
        """What is shown first."""
        return self.top()

    def strongest(self, k: int) -> list[int]:
        """Places of the k nodes with the most influence, logits left out."""
        reached = torch.where(self.kinds == LOGIT, -1.0, self.influence)
        return torch.argsort(-reached, stable=True)[: min(k, int((self.kinds != LOGIT).sum()))].tolist()

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes of each kind there are."""
        return {name: int((self.kinds == kind).sum()) for kind, name in enumerate(KINDS)}

    @property
    def sentences(self) -> tuple[str, ...]:
        """How much goes through features, and what is strongest."""
        shares = [float(self.influence[self.kinds == kind].sum() / self.influence.sum().clamp_min(1e-30))
                  for kind in (FEATURE, ERROR, TOKEN)]  # fmt: skip
        named = [f"{self._at_token(i)} {plain(float(self.influence[i]), 2)}" for i in self.strongest(_NAMED)]
        return (
            f"Replacement score {plain(self.replacement_score, 2)}, completeness {plain(self.completeness_score, 2)}: "
            f"of all influence {plain(shares[0], 2)} is of features, {plain(shares[1], 2)} of errors, "
            f"{plain(shares[2], 2)} of tokens.",
            f"Most influence: {listed(named)}.",
        )

    def _at_token(self, node: int) -> str:
        """A node's name with the token that it is at."""
        token = self.tokens[int(self.positions[node])].strip()
        return f"{self.names[node]} (“{token}”)" if token else self.names[node]

    def describe(self) -> str:
        """What these numbers are, line by line."""
        nodes = listed([counted(count, kind) for kind, count in self.counts.items()])
        said = self.settings
        return "\n".join(
            [
                f"attribution graph · {nodes}",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                f"prompt  {''.join(self.tokens)!r}",
                f"targets {said.get('targets', 'not said')}",
                f"held    {said.get('held', 'not said')}",
                f"errors  {said.get('errors', 'not said')}",
                f"nodes   {said.get('kept', 'not said')}",
                f"cost    {self.cost.describe()}",
                "trust   direct effects in a frozen linear model, not in the live one: see graph check",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {sentence}" for sentence in self.sentences)])

    def page(self, path: str | Path, check: Any = None) -> Path:
        """Write it as one offline HTML page; with a `GraphCheck` of this graph alone, beside the live model.

        >>> graph.page("graph.html", vc.graphs.check(lm, graph, task))
        """
        found: Path = through("AttributionGraph.page", self, path, check)
        return found

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {
            name: getattr(self, name) for name in ("names", "tokens", "settings", "model", "task")
        }
        tensors = {name: getattr(self, name) for name in ("kinds", "layers", "positions", "adjacency", *_COLUMNS)}
        return write_tensors(path, FORMAT, header | {"cost": self.cost.to_dict()}, tensors)


def load_attribution_graph(path: str | Path) -> AttributionGraph:
    """Read what `AttributionGraph.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("graph.safetensors").top(5)
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        found, size = _HEADER(header), len(header["names"])
        wanted = dict.fromkeys(("kinds", "layers", "positions"), "index nodes")
        wanted |= dict.fromkeys(_COLUMNS, "finite nodes") | {"adjacency": "finite nodes nodes"}
        require_tensors(tensors, wanted, nodes=size)
        if bool((tensors["kinds"] > LOGIT).any()) or bool((tensors["kinds"] < FEATURE).any()):
            raise ValueError("a node is of no kind")
        names = ("names", "tokens", "settings", "model", "task", "cost")
        parts: dict[str, Any] = {name: tensors[name] for name in wanted}
        return AttributionGraph(**parts, **{name: found[name] for name in names})

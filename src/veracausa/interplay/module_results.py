"""What `vc.interplay.modules` finds: parts of many layers in modules, and how sure these are."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.extras import require_extra
from veracausa.result import Shown
from veracausa.storage.files import at, read_json, write_json, write_text
from veracausa.storage.schema import MODEL, TASK, many, number, reading, record, text, whole
from veracausa.words import counted, listed

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    from jaxtyping import Int

_FORMAT = "veracausa-modules-1"
_FIGURE = number(nan=True)
_CONTENT = record(
    layers=many(text, least=2), nodes=many(text, least=2), step=many(whole()), module=many(whole()),
    source=many(whole()), target=many(whole()), strength=many(number(0)), weight=many(number(0)),
    modularity=number(-1, 1), random=many(number(-1, 1)), stability=many(number(-1, 1)), settings=record(),
    model=MODEL, task=TASK,
)  # fmt: skip


@dataclass(frozen=True)
class Modules(Shown):
    """Modules of parts of many layers; see `vc.interplay.modules`.

    `layers`: the sites, upward, and `step`: which of them each of the `nodes` is of. `module`: of every node, the
    largest is 0. `source`, `target`: the ends of every edge, as places in `nodes`; its `strength` (√E), and the
    `weight` by which the modules were found. `random`: modularities of random graphs of the same degrees, clustered in
    the same way. `stability`: adjusted Rand indices of partitions of bootstrap draws of the prompts with this one.

    >>> found = vc.interplay.modules([vc.interactions(lm, task, "heads:10", "neurons:10")])
    >>> found.members(0), found.table()
    """

    layers: tuple[str, ...]
    nodes: tuple[str, ...]
    step: tuple[int, ...]
    module: tuple[int, ...]
    source: tuple[int, ...]
    target: tuple[int, ...]
    strength: tuple[float, ...]
    weight: tuple[float, ...]
    modularity: float
    random: tuple[float, ...]
    stability: tuple[float, ...]
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]

    @property
    def cost(self) -> None:
        """None: interactions have their own, and clustering them runs no model."""

    @property
    def sizes(self) -> Int[np.ndarray, " modules"]:
        """Nodes of every module, the largest first."""
        return np.bincount(self.module)

    @property
    def z(self) -> float:
        """(modularity − mean of random graphs) / their standard deviation; NaN where these are all alike."""
        sd = float(np.std(self.random, ddof=1))
        return (self.modularity - float(np.mean(self.random))) / sd if sd > 1e-12 else float("nan")

    @property
    def inside(self) -> float:
        """Share of the edges' weight that lies inside modules."""
        own = np.asarray(self.module)
        same = own[list(self.source)] == own[list(self.target)]
        return float(np.asarray(self.weight)[same].sum() / np.sum(self.weight))

    def members(self, module: int) -> list[str]:
        """Names of a module's nodes, layer by layer."""
        return [name for name, own in zip(self.nodes, self.module, strict=True) if own == module]

    def table(self) -> pd.DataFrame:
        """One row per node: name, layer, module, how many edges it has, and their weight."""
        import pandas as pd

        ends = np.concatenate([self.source, self.target]).astype(int)
        weight = np.bincount(ends, np.tile(self.weight, 2), len(self.nodes))
        found = pd.DataFrame({
            "name": self.nodes, "site": [self.layers[k] for k in self.step], "module": self.module,
            "edges": np.bincount(ends, minlength=len(self.nodes)), "weight": weight,
        })  # fmt: skip
        return found.sort_values(["module", "weight"], ascending=[True, False], kind="stable", ignore_index=True)

    @property
    def sentences(self) -> tuple[str, ...]:
        """How many modules there are, whether random graphs have such, and whether other prompts would give them."""
        mean, sd = float(np.mean(self.random)), float(np.std(self.random, ddof=1))
        sizes = listed([str(size) for size in self.sizes[:6]] + ["…"] * (len(self.sizes) > 6))
        said = [
            f"{counted(len(self.nodes), 'part')} of {len(self.layers)} sites in {counted(len(self.sizes), 'module')}, "
            f"of {sizes}; {self.inside:.0%} of the weight is inside them.",
            f"Modularity {self.modularity:.3f}; {len(self.random)} random graphs of the same degrees have "
            f"{mean:.3f} ± {sd:.3f}{self._told()}.",
        ]
        if self.stability:
            said.append(
                f"Partitions of {len(self.stability)} bootstrap draws of the prompts agree with it by "
                f"{np.mean(self.stability):.2f} (mean adjusted Rand index, lowest {min(self.stability):.2f})."
            )
        else:
            said.append(
                "No bootstrap draws of the prompts (of one there are none), so how stable they are is not known."
            )
        return tuple(said)

    def _told(self) -> str:
        if self.z != self.z:
            return ""
        return f", {abs(self.z):.1f} standard deviations {'less' if self.z > 0 else 'more'}"

    def describe(self) -> str:
        """What was clustered, and the figures."""
        s = self.settings
        kept = f"of every two sites the {s['keep']:,} strongest, {s['method']}"
        lines = [
            f"modules · {' → '.join(self.layers)}",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            f"edges   {len(self.source):,}: {kept}, by {s['weight']}",
            f"found   by Louvain, resolution {s['resolution']:g}, seed {s['seed']}",
            f"trust   {s['trust']}",
        ]
        return "\n".join([*lines, *(f"        {one}" for one in self.sentences)])

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.head().to_string(index=False, float_format=lambda x: f'{x:.4f}')}"

    def to_networkx(self) -> nx.DiGraph:
        """Nodes with site, step and module, edges with weight and strength, as a networkx graph.

        Raises:
            ExtraError: networkx is not installed (PyTorch brings it).
        """
        require_extra("graphs")
        import networkx as nx

        made = nx.DiGraph()
        for name, step, module in zip(self.nodes, self.step, self.module, strict=True):
            made.add_node(name, site=self.layers[step], step=step, module=module)
        for j, i, weight, strength in zip(self.source, self.target, self.weight, self.strength, strict=True):
            made.add_edge(self.nodes[j], self.nodes[i], weight=weight, strength=strength)
        return made

    def graphml(self, path: str | Path) -> Path:
        """Write the graph as GraphML for Gephi, yEd, Cytoscape and others, whole or not at all."""
        made = self.to_networkx()
        import networkx as nx

        content = io.BytesIO()
        nx.write_graphml_xml(made, content)
        return write_text(path, content.getvalue().decode("utf-8"))

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, whole or not at all; `vc.open` reads it."""
        return write_json(path, {"format": _FORMAT, **asdict(self)})


def load_modules(path: str | Path) -> Modules:
    """Read what `Modules.save` wrote; FileError for any other file."""
    body = read_json(path, "modules")
    with reading(at(path)):
        if body.get("format") != _FORMAT:
            raise ValueError(f"it says that it is {body.get('format')!r}")
        found = _CONTENT(body)
        made = Modules(**{field.name: found[field.name] for field in fields(Modules)})
        count, edges = len(made.nodes), len(made.source)
        wrong = {len(made.step), len(made.module)} != {count} or not edges
        wrong = wrong or {len(made.target), len(made.strength), len(made.weight)} != {edges}
        if wrong or max(made.source + made.target) >= count or max(made.step) >= len(made.layers):
            raise ValueError("nodes and edges do not fit")
        return made

"""Parts of a model, strongest first, and what is left of the whole graph without the first of them.

Parts are edges, or nodes (heads, MLPs, mixers); a node is taken out by all edges out of it, so that every reader sees
what ablation puts in the place of its write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from veracausa.anatomy.graph import Graph
from veracausa.choices import CircuitParts, Ranking
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import UnitError
from veracausa.scores.about import require_about
from veracausa.scores.scores import Scores
from veracausa.suggestions import did_you_mean
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from veracausa.model import Model


@dataclass(frozen=True, eq=False)
class Ranked:
    """Edges, or nodes, strongest first: `writer` of each, and of edges its `reader`.

    >>> Ranked.of(lm, vc.attribute(lm, task, units="edges", method="eap")).without(100)
    """

    graph: Graph
    writer: Int[np.ndarray, " parts"]
    reader: Int[np.ndarray, " parts"] | None = None

    @classmethod
    def of(cls, lm: Model, scores: Scores, by: Ranking = "importance", *, inputs: bool = True) -> Ranked:
        """The parts that scores are of, ranked by them; `inputs`: with edges out of the input.

        Raises:
            UnitError: they are of parts at single positions, or of others than edges and nodes. MethodError: they are
                about another model.
        """
        require_about(lm, scores)
        graph, order, units = lm.graph, np.array(scores.ranking(by)), scores.units
        if isinstance(units, Edges):
            if units.positional or units.graph != graph:
                raise UnitError(f"Edges of {lm.name} are wanted, at all positions; these are {units!r}.")
            units.require_existing()
            order = order if inputs else order[units.writer[order] > 0]
            return cls(graph, units.writer[order], units.reader[order])
        known = {name: writer for writer, name in enumerate(graph.writer_names) if writer}
        for name in units.names:
            if name not in known:
                raise UnitError(
                    f"{name!r} is no edge and no node of {lm.name}.{did_you_mean(name, known)} Nodes are heads such as "
                    "a0.h0 and MLPs such as m0, at all positions."
                )
        return cls(graph, np.array([known[units.names[i]] for i in order]))

    def __len__(self) -> int:
        return len(self.writer)

    @property
    def parts(self) -> CircuitParts:
        """What they are."""
        return "nodes" if self.reader is None else "edges"

    def strongest(self, count: int) -> Bool[np.ndarray, "readers writers"]:
        """The edges that the first parts are, or that lead out of them."""
        mask = np.zeros_like(all_edges_mask(self.graph))
        if self.reader is None:
            mask[:, self.writer[:count]] = True
        else:
            mask[self.reader[:count], self.writer[:count]] = True
        return np.asarray(mask & all_edges_mask(self.graph))

    def without(self, count: int) -> Bool[np.ndarray, "readers writers"]:
        """The whole graph without them."""
        return np.asarray(all_edges_mask(self.graph) & ~self.strongest(count))

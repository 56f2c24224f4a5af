"""Two circuits side by side, A and B: edges that both keep or one alone, and what circuits of equal sizes are worth.

* shared: edges that both keep; Jaccard = shared / all that either keeps. Two sets drawn at random from the graph's N
  edges would share |A| · |B| / N.
* rank: 1 is the edge of the largest |importance|, among all edges that were scored (of a circuit alone, that it keeps).
* f at equal sizes: circuits of the same ranking with the same number of edges, where both were run. f(B) − f(A) is
  tested over pairs (`statistics.differing`): paired where both were run on the same ones; Holm's correction is over all
  sizes. The selected circuits seldom have one size, so that their f stand beside each other and are not tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from veracausa.circuits.circuit import Circuit, circuit_body
from veracausa.result import ROWS, Paged
from veracausa.statistics.bootstrap import LEAST
from veracausa.storage.files import write_json
from veracausa.units.edges import Edges
from veracausa.words import counted, listed, p_value, plain, share

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Float, Int

FORMAT = "veracausa-circuit-comparison-1"
#: Where an edge is, by its side.
SIDES = ("both", "A only", "B only")
#: p under which a difference of f counts, after Holm's correction.
LEVEL = 0.05
#: The strongest edges that are held against each other.
STRONGEST = 20


class Sized(NamedTuple):
    """Circuits of one size: f of both with standard errors, B − A with its own, p, and p after Holm's correction; NaN
    where no error is known. `ranking`: "signed" or "abs"."""

    ranking: str
    edges: int
    f: tuple[float, float]
    errors: tuple[float, float]
    difference: float
    stderr: float
    p: float
    p_holm: float


class Worth(NamedTuple):
    """What a selected circuit is worth: f, its standard error, and on which pairs."""

    f: float
    stderr: float
    pairs: str


@dataclass(frozen=True, eq=False)
class CircuitComparison(Paged):
    """Two circuits of one graph side by side.

    `values`: importance of every edge that either keeps, in A and in B, in the order of `edges`; `ranks` of the same:
    NaN and 0 where they are not known. `scored`: how many edges each ranks. `mismatches`: what differs in how they were
    made, (what, in A, in B). `worth`: of both, if they are discoveries; `sizes`: circuits of equal sizes; `paired`:
    whether these were run on the same pairs.

    >>> found = vc.open("out/eap") | vc.open("out/eap-ig")
    >>> found.jaccard, found.table(), found.page("compared.html")
    """

    one: Circuit
    other: Circuit
    values: tuple[Float[np.ndarray, " edges"], Float[np.ndarray, " edges"]]
    ranks: tuple[Int[np.ndarray, " edges"], Int[np.ndarray, " edges"]]
    scored: tuple[int, int]
    mismatches: tuple[tuple[str, str, str], ...] = ()
    worth: tuple[Worth, Worth] | None = None
    sizes: tuple[Sized, ...] = ()
    paired: bool = False

    @cached_property
    def edges(self) -> Edges:
        """The edges that either keeps, in the graph's order."""
        return union_of(self.one, self.other)

    @cached_property
    def side(self) -> Int[np.ndarray, " edges"]:
        """Where each of them is: 0 in both, 1 in A only, 2 in B only."""
        kept = [np.isin(self.edges.index, circuit.edges.index) for circuit in (self.one, self.other)]
        return np.where(kept[0] & kept[1], 0, np.where(kept[0], 1, 2))

    @property
    def shared(self) -> int:
        """How many edges both keep."""
        return int((self.side == 0).sum())

    @property
    def jaccard(self) -> float:
        """Shared / all that either keeps; NaN where neither keeps any."""
        return self.shared / len(self.edges) if len(self.edges) else math.nan

    @property
    def by_chance(self) -> float:
        """How many edges two random sets of these sizes would share."""
        return len(self.one) * len(self.other) / self.one.graph.size

    @property
    def model(self) -> dict[str, str]:
        """The model of A, and that of B where it is another."""
        return {name: _both(one, self.other.model.get(name, "")) for name, one in self.one.model.items()}

    @property
    def task(self) -> dict[str, Any]:
        """The same of the task."""
        theirs = self.other.task
        told = ("name", "description", "digest", "metric")
        return self.one.task | {name: _both(str(self.one.task[name]), str(theirs[name])) for name in told}

    @property
    def settings(self) -> dict[str, Any]:
        """Whether circuits of equal sizes are paired."""
        return {"paired": self.paired}

    @property
    def cost(self) -> None:
        """None: both have their own, and laying them side by side runs no model."""

    def table(self) -> pd.DataFrame:
        """One row per edge that either keeps: name, writer, reader, layer, kept by, A, B (importance), ranks."""
        table = self.edges.table()
        table["kept by"] = [SIDES[side] for side in self.side]
        table["A"], table["B"] = self.values
        ranks = [np.where(one > 0, one, np.nan) for one in self.ranks]
        table["rank in A"], table["rank in B"] = ranks
        table["change of rank"] = ranks[0] - ranks[1]
        return table.iloc[np.argsort(self.best, kind="stable")].reset_index(drop=True)

    @property
    def best(self) -> Int[np.ndarray, " edges"]:
        """The better rank of each edge in A or B; unknown ones last."""
        most = np.iinfo(int).max
        first, second = (np.where(one > 0, one, most) for one in self.ranks)
        return np.minimum(first, second)

    def by_size(self) -> pd.DataFrame:
        """One row per ranking and size that both ran: f of A and of B, B − A, its standard error, p."""
        import pandas as pd

        rows = [
            {"ranking": one.ranking, "edges": one.edges, "f of A": one.f[0], "± A": one.errors[0], "f of B": one.f[1],
             "± B": one.errors[1], "B − A": one.difference, "stderr": one.stderr, "p": one.p, "p (Holm)": one.p_holm}
            for one in self.sizes
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def largest(self, k: int = ROWS) -> pd.DataFrame:
        """The k edges of the best ranks in A or B."""
        return self.table()[:k]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What differs in how they were made, in words; that nothing does."""
        said = tuple(f"{what}: {one} in A, {other} in B." for what, one, other in self.mismatches)
        return said or ("Both were made alike: headers do not differ.",)

    @property
    def sentences(self) -> tuple[str, ...]:
        """First what differs in how both were made, then what they share, ranks, and what they are worth."""
        return (*self.warnings, *self.found)

    @property
    def found(self) -> tuple[str, ...]:
        """What they share, ranks, and what they are worth."""
        return (self._shared(), *self._strongest(), *self._worth(), *self._sizes())

    def _shared(self) -> str:
        if not len(self.edges):
            return "Neither keeps an edge."
        kept = f"A keeps {counted(len(self.one), 'edge')}, B {len(self.other):,}; {self.shared:,} are in both"
        alone = [int((self.side == k).sum()) for k in (1, 2)]
        chance = f"two random sets of these sizes would share about {self.by_chance:,.1f}"
        return f"{kept} (Jaccard {plain(self.jaccard)}; {chance}), {alone[0]:,} in A only, {alone[1]:,} in B only."

    def _strongest(self) -> list[str]:
        """Whether both name the same strongest edges, and which of these moved most."""
        if not all((ranks > 0).any() for ranks in self.ranks):
            return []
        top = min(STRONGEST, *self.scored)
        tops = [(ranks > 0) & (ranks <= top) for ranks in self.ranks]
        said = f"{int((tops[0] & tops[1]).sum())} of the {top} edges with the largest |importance| are the same"
        among = np.flatnonzero((tops[0] | tops[1]) & (self.ranks[0] > 0) & (self.ranks[1] > 0))
        change = np.abs(self.ranks[0] - self.ranks[1])[among]
        if not change.any():
            return [f"{said}."]
        i = int(among[change.argmax()])
        name = self.edges[[i]].names[0]
        return [f"{said}; of the strongest of both, {name} moves most, from rank {self.ranks[0][i]:,} in A to "
                f"{self.ranks[1][i]:,} in B."]  # fmt: skip

    def _worth(self) -> list[str]:
        if self.worth is None:
            return []
        sides = zip("AB", (self.one, self.other), self.worth, strict=True)
        told = [
            f"f = {_f(one.f, one.stderr)} with {len(circuit):,} edges on {one.pairs} in {name}"
            for name, circuit, one in sides
        ]
        other = "; sizes that differ are not tested against each other" if len(self.one) != len(self.other) else ""
        return [f"The selected circuits bring back {listed(told)}{other}."]

    def _sizes(self) -> list[str]:
        """At how many equal sizes f differs, and where most."""
        if not self.sizes:
            return []
        most = max(self.sizes, key=lambda one: abs(one.difference))
        tested = [one for one in self.sizes if math.isfinite(one.p_holm)]
        differ = sum(one.p_holm <= LEVEL for one in tested)
        how = "paired, Student’s test" if self.paired else "unpaired, Welch’s test"
        count = f"At {differ:,} of {len(tested):,} equal sizes f differs significantly ({how}, Holm’s correction)."
        if not tested:
            why = "no error of f is known to test them by"
            if not self.paired and any(math.isfinite(one.stderr) for one in self.sizes):
                why = f"on other pairs, they are tested from {LEAST} on each side on"
            count = f"{counted(len(self.sizes), 'equal size')} were run in both; {why}."
        p = f", {p_value(most.p_holm)} after correction" if math.isfinite(most.p_holm) else ""
        ranked = "signed importance" if most.ranking == "signed" else "|importance|"
        first, second = (_f(*one) for one in zip(most.f, most.errors, strict=True))
        differs = share(most.difference, most.stderr)
        where = f"It differs most with the {most.edges:,} strongest edges by {ranked}"
        return [f"{count} {where}: {first} in A, {second} in B (B − A {differs}{p})."]

    def describe(self) -> str:
        """What A and B are, line by line."""
        lines = [
            f"{name}       {one.method}, {len(one):,} edges · {one.model['source']} · {one.task['description']}"
            for name, one in zip("AB", (self.one, self.other), strict=True)
        ]
        return "\n".join(["Two circuits side by side", *lines])

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, whole or not at all; `vc.open` reads it."""
        return write_json(path, packed(self))

    def page(self, path: str | Path) -> Path:
        """Write it as one offline page, with the live drawing and the panel of a discovery's; returns its path."""
        from veracausa.doors import through

        written: Path = through("CircuitComparison.page", self, path)
        return written

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])


def union_of(one: Circuit, other: Circuit) -> Edges:
    """The edges that either keeps, in the graph's order; both are of one graph."""
    index = np.union1d(one.edges.index, other.edges.index)
    readers = one.graph.readers
    writer, reader = index // readers, index % readers
    order = np.lexsort((writer, reader))
    return Edges.of(one.graph, writer[order], reader[order])


def packed(found: CircuitComparison) -> dict[str, Any]:
    """As its file has it."""
    return {
        "format": FORMAT,
        "circuits": [circuit_body(one) for one in (found.one, found.other)],
        "values": [[float(value) for value in one] for one in found.values],
        "ranks": [[int(rank) for rank in one] for one in found.ranks],
        "scored": list(found.scored),
        "mismatches": [list(row) for row in found.mismatches],
        "worth": None if found.worth is None else [list(one) for one in found.worth],
        "sizes": [list(one) for one in found.sizes],
        "paired": found.paired,
    }


def _f(value: float, error: float) -> str:
    """0.887 ± 0.012; without the standard error where there is none."""
    return f"{plain(value)} ± {plain(error)}" if math.isfinite(error) else plain(value)


def _both(one: str, other: str) -> str:
    return one if one == other else f"{one} and {other}"

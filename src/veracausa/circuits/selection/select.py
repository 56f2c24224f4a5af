"""Selecting a circuit from the scores of edges.

With c_e the importance of edge e (−E for noising, +E for denoising; |score| with `how="abs"`), under a budget of n:

* **connected** (the default): from the largest |c| on, each edge with the best way through it from the input to the
  logits, as long as both fit (`connected`); `by="importance"`: from the largest c on. It knows both ends, so
  that every size gives a circuit that can run.
* **top**: the n edges with the largest c. **abs**: the n with the largest |c|, helpful or harmful. Neither knows
  whether its edges lead anywhere: at small sizes pruning may leave none of them.
* **greedy** (as EAP-IG does it): start from `logits`; repeatedly take the edge with the largest |c| among those not yet
  taken whose reader belongs to a node in the circuit, and add its writer's node. All inputs of a node (a head's query,
  key and value; keys and values are shared by a group) are open as soon as the node is in. `by="importance"` takes the
  largest c instead of the largest |c|. The input may be reached late or never: prune afterwards.
* **optimal**: the connected circuit with the largest Σ c under the budget, as an integer program (`integer_program`).
* **iterated**: the scores decide what goes first, down a schedule of sizes to n; from then on each round scores the
  edges by gradients in the remaining circuit's own run (`iterated`), so it needs the model and pairs.

Equal edges are taken in the graph's order, reader by reader. Then dead ends are pruned (`prune=False`: not), so that a
circuit may have fewer edges than were asked for; `Circuit.settings` holds both numbers. Where nothing is left, the
notes say so, and from which size on there is something.

**Bootstrap filter.** Only edges whose percentile interval over bootstrap draws of the examples excludes 0 may be
chosen; no correction for the number of edges is made, so at 95% one in twenty of the edges without any effect passes,
or more: simulated, 7.6% of normal and 16% of lognormal effects over 16 pairs, 5.5 and 9% over 64. Few examples have no
such interval (`statistics.bootstrap.LEAST`).
"""

from __future__ import annotations

import dataclasses
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import torch

from veracausa.anatomy.graph import LOGITS, Graph
from veracausa.arguments import shown
from veracausa.choices import EdgeRanking, Selection
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.selection.ways import HOW
from veracausa.circuits.wiring import readers_of
from veracausa.errors import MethodError
from veracausa.scores.scores import Scores
from veracausa.statistics.bootstrap import LEAST, too_few, with_replacement
from veracausa.suggestions import not_known
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Numbers that one chunk of bootstrap means holds: [draws, edges] float32 stays under 64 MiB.
_CHUNK = 16_000_000


def select(
    scores: Scores,
    *,
    n: int,
    how: Selection = "connected",
    by: EdgeRanking | None = None,
    bootstrap: float | bool = False,
    draws: int = 1000,
    prune: bool = True,
    seed: int = 0,
    seconds: float = 60.0,
    lm: Model | None = None,
    task: Task | None = None,
    **iteration: Any,
) -> Circuit:
    """The circuit of at most n edges that scores of edges suggest; the module says how.

    Args:
        scores: of edges, without positions: `units="edges"`.
        n: edges asked for, at most as many as were scored.
        how: "connected", "top", "abs", "greedy", "optimal" or "iterated".
        by: "importance" or "abs_mean"; where not given "importance" for top and optimal, "abs_mean" for the others.
        bootstrap: confidence level of the filter, e.g. 0.95 (True: 0.95); False: none.
        draws: bootstrap draws of the filter.
        prune: drop dead ends.
        seed: of the bootstrap.
        seconds: time the integer program may take; a solution that is not proved optimal by then says so.
        lm, task: for "iterated", the model and the pairs to score on; `iteration`: `rounds`, `points`, `loss`,
            `returns`, `out` and `show_progress` of `vc.circuits.iterate`.

    Returns:
        `Circuit` with the edges' importances. Its notes say what was pruned, how many edges had a negative importance,
        and where fewer than n were to be had. Scores that are magnitudes are their own importance, and the notes say
        so. A selection without any way from the input to the logits is an empty circuit once it is pruned, and the
        notes say which size has one.

    Raises:
        MethodError: scores of other units or of positions; n, `how` or `by` out of range; a bootstrap of one example,
            of scores that are the same for all examples, or of magnitudes (their intervals cannot hold 0).

    >>> circuit = vc.select(vc.attribute(lm, task, units="edges", method="eap-ig"), n=500)
    >>> circuit.describe()
    """
    if how == "iterated":
        return _iterated(scores, n, by, bool(bootstrap), prune, lm, task, iteration)
    if lm is not None or task is not None or iteration:
        given = ", ".join([*(name for name, value in (("lm", lm), ("task", task)) if value is not None), *iteration])
        raise MethodError(f"how={how!r} does not use {given}. Leave it out, or take how='iterated'.")
    rule = Rule.of(scores, n=n, how=how, by=by, seconds=seconds)
    notes = [] if scores.signed else ["the scores are magnitudes; none says in which direction an edge acts"]
    level = 0.95 if bootstrap is True else float(bootstrap)
    importance = scores.importance().double().numpy()
    allowed = np.isfinite(importance)
    if level:
        clear = significant(scores, level=level, draws=draws, seed=seed)
        notes.append(f"bootstrap: {int(clear.sum()):,} of {len(scores):,} edges have a {level:.0%} interval without 0")
        allowed &= clear
    chosen, said = rule.choose(importance, allowed)
    notes += said
    if len(chosen) < n and how != "optimal":
        notes.append(f"only {len(chosen):,} of the {n:,} edges asked for were to be had")
    negative = int((importance[chosen] < 0).sum())
    if negative and scores.signed:
        notes.append(f"edges taken that work against the behaviour (negative importance): {negative:,}")
    settings: dict[str, Any] = {"how": how, "by": rule.by, "asked": n, "taken": len(chosen)}
    settings |= {"bootstrap": level or None, "pruned": prune, "direction": scores.direction}
    settings |= {"bootstrap_draws": draws, "bootstrap_seed": seed} if level else {}
    settings |= {"scores": scores.settings, "verified": scores.verified}
    settings |= {} if scores.signed else {"signed": False}
    circuit = Circuit.of(
        rule.graph,
        rule.writer[chosen],
        rule.reader[chosen],
        importance=importance[chosen],
        model=scores.model,
        task=scores.task,
        method=scores.method,
        settings=settings,
        notes=tuple(notes),
    )
    pruned = circuit.prune() if prune else circuit
    if len(pruned) or not prune:
        return pruned
    return dataclasses.replace(pruned, notes=(*pruned.notes, rule.nothing(importance, allowed)))


def _iterated(
    scores: Scores,
    n: int,
    by: EdgeRanking | None,
    bootstrap: bool,
    prune: bool,
    lm: Model | None,
    task: Task | None,
    iteration: dict[str, Any],
) -> Circuit:
    """The last circuit of an iterated selection that the scores begin."""
    if lm is None or task is None:
        raise MethodError(
            "how='iterated' scores edges in the circuit's own runs, so it needs the model and pairs: "
            "vc.select(scores, n=…, how='iterated', lm=lm, task=task)."
        )
    if bootstrap:
        raise MethodError("how='iterated' has one ranking for all pairs; there is nothing to bootstrap. Leave it out.")
    if unknown := set(iteration) - {"rounds", "points", "loss", "returns", "out", "show_progress"}:
        raise MethodError(
            f"{', '.join(sorted(unknown))}: no option of select. Of iterated: rounds, points, loss, returns, out."
        )
    Rule.of(scores, n=n, how="top", by=by)
    from veracausa.circuits.selection.iterated import iterate

    by = by or "abs_mean"
    ranking = iterate(lm, task, smallest=n, by=by, start=scores, **iteration)
    circuit = select(ranking, n=n, how="top", prune=prune)
    settings = {
        **circuit.settings,
        "how": "iterated",
        "by": by,
        **{k: ranking.settings[k] for k in ("rounds", "loss", "returns")},
    }
    return dataclasses.replace(
        circuit, method=scores.method, settings=settings, notes=(*ranking.notes, *circuit.notes[1:])
    )


@dataclass(frozen=True)
class Rule:
    """A way of selecting, ready to be applied to any importances of the same edges."""

    graph: Graph
    writer: Int[np.ndarray, " edges"]
    reader: Int[np.ndarray, " edges"]
    n: int
    how: str
    by: str
    seconds: float = 60.0

    @classmethod
    def of(cls, scores: Scores, *, n: int, how: str, by: str | None, seconds: float = 60.0) -> Rule:
        """The rule for the edges of these scores; refuses what means nothing."""
        edges = scores.units
        if not isinstance(edges, Edges):
            raise MethodError(f"A circuit is selected from scores of edges, not of {edges.kind}. Take units='edges'.")
        if edges.positional:
            raise MethodError(
                "A circuit keeps an edge at all positions or at none, and these are scores per position. Take "
                "units='edges'."
            )
        return cls(edges.graph, edges.writer, edges.reader, int(n), how, ranked_by(how, by, n, len(edges)), seconds)

    def choose(
        self, importance: Float[np.ndarray, " edges"], allowed: Bool[np.ndarray, " edges"] | None = None
    ) -> tuple[Int[np.ndarray, " chosen"], list[str]]:
        """Rows of the edges chosen among the `allowed`, and what there is to say about them."""
        value = np.abs(importance) if self.by == "abs_mean" else importance
        among = np.arange(len(value)) if allowed is None else np.flatnonzero(allowed)
        among = among[np.lexsort((self.writer[among], self.reader[among]))]  # ties: the graph's order
        parts = (self.writer[among], self.reader[among], value[among])
        if self.how == "greedy":
            return among[greedy(self.graph, *parts, self.n)], []
        if self.how == "connected":
            from veracausa.circuits.selection.connected import connected

            return among[connected(self.graph, *parts, self.n)], []
        if self.how == "optimal":
            from veracausa.circuits.selection.integer_program import optimal

            found = optimal(self.graph, *parts, self.n, seconds=self.seconds)
            return among[found.chosen], found.notes
        return among[np.argsort(-parts[2], kind="stable")[: self.n]], []

    def nothing(self, importance: Float[np.ndarray, " edges"], allowed: Bool[np.ndarray, " edges"]) -> str:
        """Why no edge is left, and what would leave some: for a selection that had no way from input to logits."""
        from veracausa.circuits.selection.connected import shortest

        among = np.flatnonzero(allowed)
        fewest = shortest(self.graph, self.writer[among], self.reader[among])
        said = (
            f"no edges: nothing leads from the input to the logits within {self.n:,} edges chosen by how={self.how!r}"
        )
        if fewest is None:
            return f"{said}, nor do all {len(among):,} edges that may be chosen"
        if self.how == "optimal" and self.n >= fewest:
            return f"{said}: no way has a positive total. by='abs_mean', or how='connected', gives a circuit"
        if self.how in ("connected", "optimal"):
            return f"{said}; the smallest size with a way is {fewest:,}"
        return f"{said}; the smallest size that has a way is {self._first(importance, allowed):,}. " + (
            f"how='connected' gives a circuit from {fewest:,} edge{'' if fewest == 1 else 's'} on"
        )

    def _first(self, importance: Float[np.ndarray, " edges"], allowed: Bool[np.ndarray, " edges"]) -> int:
        """The smallest n at which the choice holds a way; the choices of smaller n are parts of those of larger."""
        none, some = self.n, len(importance)
        while some - none > 1:
            middle = (none + some) // 2
            chosen, _ = dataclasses.replace(self, n=middle).choose(importance, allowed)
            mask = np.zeros((self.graph.readers, self.graph.writers), dtype=bool)
            mask[self.reader[chosen], self.writer[chosen]] = True
            arrives = (mask[-1] & self.graph.reached(mask)).any()  # a writer that the input reaches feeds the logits
            none, some = (none, middle) if arrives else (middle, some)
        return some


def ranked_by(how: str, by: str | None, n: int, scored: int) -> EdgeRanking:
    """What a way of selecting n of `scored` edges ranks by.

    Raises:
        MethodError: `how`, `by` or n out of range.
    """
    if how not in HOW:
        raise MethodError(not_known("how", how, (*HOW, "iterated")))
    ranking = by or HOW[how].by
    if ranking not in get_args(EdgeRanking) or (how == "abs" and ranking != "abs_mean"):
        raise MethodError(
            f"by={shown(ranking)} does not go with how={how!r}: 'importance' or 'abs_mean', for abs the latter."
        )
    if not 1 <= n <= scored:
        empty = " The circuit without edges is vc.Circuit.from_names(lm, [])." if n == 0 else ""
        raise MethodError(f"n={n}: at least 1 and at most as many edges as were scored, {scored:,}.{empty}")
    return cast("EdgeRanking", ranking)


def greedy(
    graph: Graph,
    writer: Int[np.ndarray, " edges"],
    reader: Int[np.ndarray, " edges"],
    value: Float[np.ndarray, " edges"],
    n: int,
) -> Int[np.ndarray, " chosen"]:
    """At most n edges from the logits backwards, the strongest open one first (see the module), in order of choice.

    The edges of each reader are sorted once; a heap holds the next edge of every open reader.
    """
    order = np.lexsort((np.arange(len(value)), -value, reader))
    bounds = np.searchsorted(reader[order], np.arange(graph.readers + 1))
    heap: list[tuple[float, int, int]] = []  # (−value, row, place in `order`)
    opened = np.zeros(graph.readers, dtype=bool)
    inside = np.zeros(graph.writers, dtype=bool)

    def push(place: int, end: int) -> None:
        if place < end:
            heapq.heappush(heap, (-float(value[order[place]]), int(order[place]), place))

    def open_readers(readers: list[int]) -> None:
        for one in readers:
            if not opened[one]:
                opened[one] = True
                push(int(bounds[one]), int(bounds[one + 1]))

    open_readers(np.flatnonzero(graph.reader_kind == LOGITS).tolist())
    chosen: list[int] = []
    while heap and len(chosen) < n:
        _, row, place = heapq.heappop(heap)
        chosen.append(row)
        push(place + 1, int(bounds[reader[row] + 1]))
        if not inside[writer[row]]:
            inside[writer[row]] = True
            open_readers(readers_of(graph, int(writer[row])))
    return np.array(chosen, dtype=np.int64)


def significant(scores: Scores, *, level: float, draws: int, seed: int) -> Bool[np.ndarray, " edges"]:
    """Whether each unit's bootstrap percentile interval of the mean effect excludes 0.

    Raises:
        MethodError: see `select`.
    """
    if not 0 < level < 1:
        raise MethodError(f"bootstrap={level}: a confidence level lies between 0 and 1; 0.95 is usual.")
    if not scores.signed:
        raise MethodError(
            f"{scores.method!r} gives magnitudes, and an interval of magnitudes never holds 0: the bootstrap filter "
            "would keep every edge. Leave it out, or take a signed method."
        )
    if scores.n < LEAST:
        raise MethodError(
            f"bootstrap={level}: {too_few(scores.n)}: a bootstrap of {scores.n} does not hold its level. Leave it out, "
            "or score more pairs."
        )
    if not scores.per_example:
        raise MethodError("The bootstrap draws examples anew, and these scores have one value for all examples.")
    if draws < 2 / (1 - level):
        raise MethodError(f"draws={draws} are too few for an interval at {level:g}; take {int(20 / (1 - level)) + 1}.")
    weights = torch.from_numpy(with_replacement(scores.n, scores.n, draws, seed)).to(scores.values)
    has = (~scores.values.isnan()).to(scores.values)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=scores.values.dtype)
    clear = []
    width = max(1, _CHUNK // draws)
    for values, there in zip(scores.values.nan_to_num().split(width, 1), has.split(width, 1), strict=True):
        means = ((weights @ values) / (weights @ there)).nan_to_num()
        low, high = torch.quantile(means, tails, dim=0)
        clear.append(((low > 0) | (high < 0)).numpy())
    return np.concatenate(clear)

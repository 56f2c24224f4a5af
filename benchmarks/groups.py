"""Group testing: are strong units found more cheaply by patching many of them together?

Units are sorted by |estimate| and split by its sign, cut into blocks, and every block is patched as one. A block whose
joint effect is under ε is dropped; others are halved, down to single units (after 2605.03058). Units of a dropped block
can be strong if their effects cancel: some are drawn and run one by one, which bounds how many (as a receipt does).

Beside it, at the same token-layers: the strongest by `atp-star` (edges: `eap-ig`) and a random sample, as `vc.verify`
takes them. Candidates are neurons, or edges, of some layers, on some pairs of three tasks; exact effects of all of them
(kept in OUT) say what was missed. Both see the same effects: a receipt is looked up in them, joint effects are run.

    python benchmarks/groups.py --out out/groups
    python benchmarks/groups.py --layers 0-29 --device cuda --out out/groups      # all neurons; hours on two cores
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from common import header, table

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.receipts.stages import Orders, plan, walk
from veracausa.statistics.bounds import unseen
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_edges, all_units
from veracausa.units.groups import Groups
from veracausa.units.members import Member
from veracausa.units.table import Units

QUIET = {"show_progress": False}
TASKS = ("ioi", "greater-than", "subject-verb")
#: How many units a block has at first.
BLOCKS = (16, 64, 256)
#: How many units of dropped blocks are run one by one.
SPOTS = 300

Joint = Callable[[list[np.ndarray]], tuple[np.ndarray, float]]


@dataclass
class Search:
    """What group testing found: strong single units, the units that were dropped unseen, and what it took."""

    strong: list[int] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    tests: int = 0
    token_layers: float = 0.0


def blocks_of(score: np.ndarray, sign: np.ndarray, size: int) -> list[np.ndarray]:
    """Units by descending score, those of either sign apart, in blocks of a size (a sign's last may be smaller)."""
    order = np.argsort(-score, kind="stable")
    sides = [order[sign[order] < 0], order[sign[order] >= 0]]
    return [side[i : i + size] for side in sides for i in range(0, len(side), size)]


def search(blocks: list[np.ndarray], joint: Joint, epsilon: float) -> Search:
    """Test blocks, drop those with a joint effect up to `epsilon`, halve the others; all of one depth in one call.

    `joint(blocks)`: |E| of each block of units patched together, as a share of the gap, and token-layers.
    """
    found = Search()
    while blocks:
        effects, cost = joint(blocks)
        found.tests, found.token_layers = found.tests + len(blocks), found.token_layers + cost
        halves = []
        for block, strong in zip(blocks, effects > epsilon, strict=True):
            if len(block) == 1:
                found.alone.append(int(block[0]))
                found.strong += [int(block[0])] * bool(strong)
            elif strong:
                halves += np.array_split(block, 2)
            else:
                found.dropped += block.tolist()
        blocks = halves
    return found


def spot_checked(found: Search, strong: np.ndarray, count: int, seed: int = 0) -> tuple[int, int, np.ndarray]:
    """Strong ones among `count` dropped units drawn at random, how many others can be (95%), and which were drawn."""
    drawn = np.random.default_rng(seed).permutation(np.sort(found.dropped))[:count]
    among = int(strong[drawn].sum())
    return among, unseen(among, len(drawn), len(found.dropped)), drawn


@dataclass(frozen=True)
class Candidates:
    """Units of one kind and some layers, on one task: exact effects as shares of the gap, and what each costs.

    `ranking`: |score| by which a receipt would take them; `sign`: what an estimate says of their sign.
    """

    kind: str
    units: Units
    effects: np.ndarray
    costs: np.ndarray
    beside: float
    ranking: np.ndarray
    sign: np.ndarray
    joint: Joint


def neurons(lm: vc.Model, task: vc.Task, layers: range, out: Path) -> Candidates:
    """All neurons of some layers; blocks of them are groups of `vc.exact`, single ones plain units."""
    every = all_units(lm, "neurons")
    units = every[np.flatnonzero(np.isin(every.layer, layers))]
    exact = vc.exact(lm, task, units=units, out=out)
    signed, star = (vc.attribute(lm, task, units=units, method=name, **QUIET) for name in ("atp", "atp-star"))
    gap = abs(float(lm.measure(task).gap.mean()))

    def run(table: Units) -> tuple[np.ndarray, float]:
        work = vc.exact.work(lm, task, units=table)
        return work.run(show_progress=False).mean().abs().double().numpy() / gap, float(work.costs().sum())

    def joint(blocks: list[np.ndarray]) -> tuple[np.ndarray, float]:
        return apart(blocks, run, lambda index: units[index], lambda several: grouped(units, several))

    work = vc.exact.work(lm, task, units=units)
    effects = exact.mean().abs().double().numpy() / gap
    return Candidates(
        "neurons", units, effects, work.costs(), work.beside(), star.mean().abs().numpy(), signed.mean().numpy(), joint
    )


def grouped(units: Units, blocks: list[np.ndarray]) -> Groups:
    """Blocks of units as groups, named by their numbers."""
    members = [
        tuple(Member("neurons", int(units.layer[i]), int(units.index[i])) for i in block.tolist()) for block in blocks
    ]
    first, none = np.array([min(one.layer for one in group) for group in members]), np.full(len(blocks), -1)
    return Groups("groups", first, none, none, tuple(members), tuple(map(str, range(len(blocks)))))


def apart(
    blocks: list[np.ndarray],
    run: Callable[[Units], tuple[np.ndarray, float]],
    one: Callable[[np.ndarray], Units],
    several: Callable[[list[np.ndarray]], Units],
) -> tuple[np.ndarray, float]:
    """Blocks of one unit run as units, larger ones as groups."""
    effects, cost = np.empty(len(blocks)), 0.0
    sizes = np.array([len(block) for block in blocks])
    for chosen, make in ((np.flatnonzero(sizes == 1), None), (np.flatnonzero(sizes > 1), several)):
        if len(chosen):
            mine = [blocks[i] for i in chosen]
            effects[chosen], own = run(one(np.concatenate(mine)) if make is None else make(mine))
            cost += own
    return effects, cost


def edges(lm: vc.Model, task: vc.Task, layers: range, out: Path) -> Candidates:
    """All edges into some layers and the logits; of one edge an exact effect, a block of them is a circuit without it.

    A run of a circuit counts as the blocks from the first that sees something ablated, though it is run whole.
    """
    graph, every = lm.graph, all_edges(lm)
    layer = graph.reader_layer[every.reader]  # of the logits: behind the last one
    units = every[np.flatnonzero(np.isin(layer, [*layers, lm.layers]))]
    exact = vc.exact(lm, task, units=units, out=out)
    scores = vc.attribute(lm, task, units="edges", method="eap-ig", **QUIET)
    place = {name: i for i, name in enumerate(scores.units.names)}
    mean = scores.mean().numpy()[[place[name] for name in units.names]]
    measured = lm.measure(task)
    gap, whole = abs(float(measured.gap.mean())), all_edges_mask(graph)
    work = vc.exact.work(lm, task, units=units)
    effects, positions = exact.mean().abs().double().numpy() / gap, behind(task)
    layer = graph.reader_layer[units.reader]

    def joint(blocks: list[np.ndarray]) -> tuple[np.ndarray, float]:
        joined, cost = np.empty(len(blocks)), 0.0
        large = [i for i, block in enumerate(blocks) if len(block) > 1]
        for i, block in enumerate(blocks):
            joined[i] = effects[block[0]]
            cost += float(work.costs()[block[0]]) if len(block) == 1 else 0.0
        masks = []
        for i in large:
            mask = whole.copy()
            mask[units.reader[blocks[i]], units.writer[blocks[i]]] = False
            masks.append(mask)
            cost += positions * (lm.layers - int(layer[blocks[i]].min()))
        if masks:
            ran = run_circuits(lm, task, masks, **QUIET)
            joined[large] = (ran.metric - ran.measured.clean).double().mean(1).abs().numpy() / gap
        return joined, cost

    assert isinstance(units, Edges)
    return Candidates("edges", units, effects, work.costs(), work.beside(), np.abs(mean), mean, joint)


def behind(task: vc.Task) -> int:
    """Positions of all pairs from the first difference on."""
    return sum(length - first for length, first in zip(task.lengths, task.first_difference, strict=True))


def receipt(found: Candidates, token_layers: float, tau: float) -> tuple[np.ndarray, int]:
    """Units that `vc.verify` would run for these token-layers, half strongest, half drawn; and its bound (95%)."""
    orders = Orders.of(np.argsort(-found.ranking, kind="stable").tolist(), 0)
    whole = float(found.costs.sum()) + found.beside
    budget = min(1.0, (token_layers + found.beside) / whole)
    stages = plan(orders, found.costs, found.beside, top=300, sample=300, until=None, budget=budget)
    outcome = walk(stages, orders, lambda index: found.effects[index], tau=tau, missed=None)[-1]
    return np.concatenate(orders.members(outcome.top, outcome.sample)), outcome.missed


def reached(found: Candidates, strong: np.ndarray, count: int) -> float:
    """Cost of the strongest by the estimate of which `count` are strong, as a share of all singles."""
    order = np.argsort(-found.ranking, kind="stable")
    last = int(np.searchsorted(np.cumsum(strong[order]), max(count, 1)))
    return float(found.costs[order[: last + 1]].sum() / found.costs.sum())


def compared(found: Candidates, task: vc.Task, size: int, order: str, tau: float) -> dict[str, object]:
    """One row: group testing with blocks of a size, and a receipt for the same token-layers."""
    score, sign = found.ranking, found.sign
    if order == "random":
        score, sign = np.random.default_rng(0).random(len(score)), np.ones(len(score))
    mine, strong = search(blocks_of(score, sign, size), found.joint, tau), found.effects > tau
    spots, bound, drawn = spot_checked(mine, strong, SPOTS)
    total, whole = mine.token_layers + float(found.costs[drawn].sum()), float(found.costs.sum())
    seen, missed = receipt(found, total, tau)
    searched = receipt(found, mine.token_layers, tau)[0]
    count = int(strong[mine.strong].sum())
    return {
        "task": task.name,
        "pairs": len(task),
        "kind": found.kind,
        "candidates": len(found.units),
        "tau": tau,
        "strong": int(strong.sum()),
        "order": order,
        "block": size,
        "joint tests": mine.tests - len(mine.alone),
        "single runs": len(mine.alone),
        "cost": mine.token_layers / whole,
        "found": count,
        "receipt found": int(strong[searched].sum()),
        "as many by rank at": reached(found, strong, count),
        "cost with spots": total / whole,
        "missed": int(strong.sum()) - count - spots,
        "certified": bound,
        "receipt missed": int(strong.sum() - strong[seen].sum()),
        "receipt certified": missed,
    }


def main() -> None:
    """Search, compare, keep rows as JSON lines, and print them as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--kinds", default="neurons,edges")
    parser.add_argument("--layers", default="20-29", help="whose neurons, or into which edges, are candidates")
    parser.add_argument("--blocks", default=",".join(map(str, BLOCKS)))
    parser.add_argument("--tau", type=float, default=0.01, help="strong: |E| over this share of the gap; also ε")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lm, rows = vc.load(given.model, device=given.device), given.out / "groups.jsonl"
    first, last = map(int, given.layers.split("-"))
    for name in given.tasks.split(","):
        task = vc.tasks.build(name, lm, n=given.pairs)
        for kind in given.kinds.split(","):
            found = {"neurons": neurons, "edges": edges}[kind](lm, task, range(first, last + 1), given.out)
            orders = [("estimate", int(size)) for size in given.blocks.split(",")] + [("random", 64)]
            for order, size in orders:
                row = compared(found, task, size, order, given.tau) | {"layers": given.layers, "model": given.model}
                with rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    report(rows)


def report(rows: Path) -> None:
    """Everything in the folder, as Markdown."""
    found = pd.DataFrame(map(json.loads, rows.read_text().splitlines())).drop_duplicates(
        ["task", "kind", "tau", "order", "block", "layers", "pairs"], keep="last"
    )
    print(header("python benchmarks/groups.py"))
    print("\nStrong: |E| over tau of the gap, which is also ε.\n")
    shown = found.copy()
    for column in ("cost", "cost with spots", "as many by rank at"):
        shown[column] = shown[column].map("{:.1%}".format)
    print(table(list(shown.columns), shown.to_numpy().tolist()))


if __name__ == "__main__":
    main()

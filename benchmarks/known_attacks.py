"""Circuits that are known, under attack: the true one, the true one without an edge, and what methods take for it.

On eight compiled programs and the trained GPT-2 an adversary attacks, with the same budgets: the true circuit; the true
circuit without its weakest edge (by exact effect on these pairs; and, without an attack, without each); as many edges
as are true by `eap`, `eap-ig`, iterated selection with one point and with five, and a learned mask. A circuit holds if
no attempt takes its f out of [½, 1½]. Rows are written to OUT as they are known.

    python benchmarks/known_attacks.py --out out/known       # minutes on one core
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import header, table

import veracausa as vc
from veracausa.ground_truth import COMPILED

QUIET = {"show_progress": False}
TRAINED = "registers"
SIZES, LARGEST, STEPS = (1, 2, 3, 5, 10), (0.1, 0.3, 1.0), (1, 4, 16)
METHODS = ("eap", "eap-ig", "iterated", "iterated, 5 points", "mask, top-k")


def scored(method: str, lm: vc.Model, task: vc.Task) -> vc.Scores:
    """A ranking of all edges."""
    if method.startswith("iterated"):
        points = 5 if "5" in method else 1
        return vc.circuits.iterate(lm, task, smallest=1, rounds=15, points=points, **QUIET)
    if method.startswith("mask"):
        return vc.circuits.learn(lm, task, how="top-k", **QUIET)
    return vc.attribute(lm, task, units="edges", method=method, **QUIET)


def without(lm: vc.Model, edges: list[str], one: str) -> vc.Circuit:
    """A circuit that lacks an edge."""
    return vc.Circuit.from_names(lm, [name for name in edges if name != one])


def circuits(lm: vc.Model, task: vc.Task, true: list[str]) -> tuple[dict[str, vc.Circuit], str]:
    """Name → circuit, and the edge that the second one lacks."""
    effects = vc.exact(lm, task, units=true, **QUIET).values.abs().mean(0)
    weakest = true[int(effects.argmin())]
    found = {"true": vc.Circuit.from_names(lm, true), "true, weakest edge out": without(lm, true, weakest)}
    for method in METHODS:
        found[method] = vc.select(scored(method, lm, task), n=len(true), how="abs", prune=False)
    return found, weakest


def row_of(attack: vc.circuits.Attack, number: int, true: set[str], circuit: vc.Circuit) -> dict[str, object]:
    """What the attack made of one circuit."""
    f = attack.f.numpy()
    chosen = [i for i, one in enumerate(attack.attempts) if one.circuit == number and one.by != "random"]
    own = next(i for i in chosen if attack.attempts[i].budget == "none")
    radius = {budget: attack.radius(budget, number).outside for budget in ("sparse", "bounded")}
    return {
        "edges": len(circuit),
        "true among them": len(true & set(circuit.names)),
        "f": float(f[own]),
        "f, lowest": float(f[chosen].min()),
        "f, highest": float(f[chosen].max()),
        "moved": attack.moved(number),
        "edges that break it": radius["sparse"],
        "weight that breaks it": radius["bounded"],
    }


def main() -> None:
    """Attack, and print a table of all models, one row a circuit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=",".join((*COMPILED, TRAINED)))
    parser.add_argument("--n", type=int, default=32, help="pairs of each")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.programs.split(","):
        lm, known = vc.ground_truth.load_trained() if name == TRAINED else vc.ground_truth.load_compiled(name)
        task, true = known.task(min(given.n, len(known.pairs()))), sorted(known.edges)
        asked, weakest = circuits(lm, task, true)
        attack = vc.circuits.adversary(
            lm, task, asked, sizes=SIZES, largest=LARGEST, steps=STEPS, out=given.out, **QUIET
        )
        alone = [vc.faithfulness(lm, task, without(lm, true, one), **QUIET).f for one in true] if len(true) > 1 else []
        for number, (way, circuit) in enumerate(asked.items()):
            row = {"model": name, "pairs": len(task), "circuit": way} | row_of(attack, number, set(true), circuit)
            if way.startswith("true,"):
                row |= {"lacks": weakest, "largest f without one true edge": float(np.max(alone))}
            rows.append(row)
            with (given.out / "known.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    print(header(f"python benchmarks/known_attacks.py --n {given.n}"), "\n")
    columns = list(rows[1])
    print(table(columns, [[shown(row.get(column)) for column in columns] for row in rows]))


def shown(value: object) -> str:
    """A cell."""
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

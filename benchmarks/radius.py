"""What it takes to break circuits of one size that were selected in several ways: others restored until f is under ½.

Rankings are made on some pairs (iterated by |gradient|; balanced; settled: balanced down to the size, then rounds in
which removed edges return), and their circuits attacked on others, by an adversary that lowers f and restores other
edges by one gradient and greedily (`vc.circuits.adversary`).

    python benchmarks/radius.py --tasks ioi,gendered-pronoun --out out/radius     # kept ranking by ranking
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from common import header, table

import veracausa as vc

QUIET = {"show_progress": False}
#: How many others a greedy adversary restores at a time, in all.
RESTORED = (10, 20, 40, 80, 160, 320, 640, 1280)


def ranked(lm: vc.Model, task: vc.Task, how: str, size: float, settle: int) -> vc.Scores:
    """A ranking of all edges, at its best at the size."""
    if how == "iterated":
        return vc.circuits.iterate(lm, task, **QUIET)
    smallest, rounds = (size, settle) if how == "settled" else (0.001, 0)
    return vc.circuits.iterate(lm, task, by="balanced", smallest=smallest, settle=rounds, **QUIET)


def row_of(lm: vc.Model, attacked: vc.Task, scores: vc.Scores, size: float, out: Path) -> dict[str, object]:
    """f of the strongest edges' circuit on the attacked pairs, and how many others break it."""
    circuit = vc.select(scores, n=round(size * lm.graph.size), how="abs")
    how = {"budgets": ["sparse"], "sizes": RESTORED, "goals": ["down"], "draws": 0}
    found = vc.circuits.adversary(lm, attacked, circuit, **how, out=out, **QUIET)
    radius = found.radius("sparse")
    return {
        "edges": len(circuit), "f": float(found.f[0]), "stderr": float(found.stderr[0]), "over": radius.inside,
        "at most": radius.outside, "price": scores.cost.token_layers,
    }  # fmt: skip


def main() -> None:
    """Rank, attack, keep every row, and print them as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="ioi")
    parser.add_argument("--rankings", default="iterated,balanced,settled")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--attacked", type=int, default=8)
    parser.add_argument("--size", type=float, default=0.02)
    parser.add_argument("--settle", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lm, rows = vc.load(given.model), given.out / "radius.jsonl"
    for name in given.tasks.split(","):
        every = vc.tasks.build(name, lm, n=given.pairs + given.attacked)
        scored, attacked = every[: given.pairs], every[given.pairs :]
        for how in given.rankings.split(","):
            path = given.out / f"{given.model}-{name}-{how}-{given.pairs}-{given.size}-{given.settle}.safetensors"
            if not path.exists():
                ranked(lm, scored, how, given.size, given.settle).save(path)
            row = {"task": name, "ranking": how} | row_of(lm, attacked, vc.open(path), given.size, given.out)
            with rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    found = pd.DataFrame(map(json.loads, rows.read_text().splitlines()))
    found = found.drop_duplicates(["task", "ranking", "edges"], keep="last")
    print(header("python benchmarks/radius.py"))
    print(table(list(found.columns), found.round(3).to_numpy().tolist()))


if __name__ == "__main__":
    main()

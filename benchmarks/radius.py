"""What it takes to break circuits of one size that were selected in several ways: until f leaves [½, 1½].

Rankings are made on some pairs, any of `scoreboard.RANKINGS` (iterated by |gradient|; balanced; settled: balanced down
to the size, then rounds in which removed edges return; guarded: the same, scored also where an adversary has restored
some of the others; learned: masks; …), and their circuits attacked on other pairs, downwards and upwards: how many
other edges are restored (k), and how large their weights become (ε), `vc.circuits.adversary`. Scores are kept under the
names that `scoreboard.py` gives them, so that either goes on from what the other has made on the same pairs.

    python benchmarks/radius.py --tasks ioi,gendered-pronoun --out out/radius     # kept ranking by ranking
    python benchmarks/radius.py --pairs 32 --attacked 32 --budgets sparse,bounded --draw 1 --out out/radius
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import torch
from common import header, table
from scoreboard import scores_of

import veracausa as vc

QUIET = {"show_progress": False}
#: How many others a greedy adversary restores at a time, in all.
RESTORED = (10, 20, 40, 80, 160, 320, 640, 1280, 2560)
#: Its largest weights.
LARGEST = (0.1, 0.2, 0.4, 0.8)


def row_of(lm: vc.Model, attacked: vc.Task, scores: vc.Scores, given: argparse.Namespace) -> dict[str, object]:
    """f of the strongest edges' circuit on the attacked pairs, and what breaks it."""
    circuit = vc.select(scores, n=round(given.size * lm.graph.size), how="abs", prune=False)
    budgets, goals = given.budgets.split(","), given.goals.split(",")
    how = {"budgets": budgets, "sizes": RESTORED, "largest": LARGEST, "goals": goals, "draws": 0}
    found = vc.circuits.adversary(lm, attacked, circuit, **how, out=given.out, **QUIET)
    row = {"edges": len(circuit), "f": float(found.f[0]), "stderr": float(found.stderr[0])}
    for budget, name in (("sparse", "k"), ("bounded", "ε")):
        if budget in budgets:
            row |= {"orders": len(found.settings["orders"])} if budget == "sparse" else {}
            radius = found.radius(budget)
            row |= {f"{name} over": radius.inside, f"{name} at most": radius.outside, f"{name} 90%": radius.interval}
    return row | {"price": scores.cost.token_layers}


def main() -> None:
    """Rank, attack, keep every row, and print them as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="ioi")
    parser.add_argument("--rankings", default="iterated,balanced,settled")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--attacked", type=int, default=8)
    parser.add_argument("--size", type=float, default=0.02)
    parser.add_argument("--steps", type=int, default=0, help="of what learns; 0: its own number")
    parser.add_argument("--budgets", default="sparse", help="sparse,bounded")
    parser.add_argument("--goals", default="down,up", help="down,up or one of them")
    parser.add_argument("--draw", type=int, default=0, help="of pairs: seed of the tasks")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(seeds=1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lm, rows = vc.load(given.model, device=given.device), given.out / "radius.jsonl"
    for name in given.tasks.split(","):
        every = vc.tasks.build(name, lm, n=given.pairs + given.attacked, seed=given.draw)
        scored, attacked = every[: given.pairs], every[given.pairs :]
        for how in given.rankings.split(","):
            scores = scores_of(lm, scored, how, given)[0]
            pairs = {"draw": given.draw, "scored": len(scored), "attacked": len(attacked)}
            asked = {"model": given.model, "task": name, "ranking": how, "size": given.size, **pairs}
            row = asked | row_of(lm, attacked, scores, given)
            with rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    found = pd.DataFrame(map(json.loads, rows.read_text().splitlines()))
    found = found.groupby(list(asked), sort=False).last().reset_index()
    print(header("python benchmarks/radius.py"))
    print(table(list(found.columns), found.round(3).to_numpy().tolist()))


if __name__ == "__main__":
    main()

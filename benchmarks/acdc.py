"""ACDC within an estimate's circuit: what the order of trial changes, and what it gives beside cheaper rankings.

ACDC (2304.14997) begins with the strongest edges by `eap-ig` and drops every edge whose removal raises the mean KL by
less than τ, in several orders: readers from the logits backwards (of each the latest, or the earliest, writer first),
all edges in a random order, or the estimate's weakest first. Beside each circuit: `eap-ig`, iterated and balanced
selection at the same number of edges, dead ends dropped; iterated and balanced selection also from MORE other pairs,
which ACDC's price pays for. Judged on held-out pairs. Every row is written to OUT as soon as it is known; ACDC's own
decisions are kept there, so that a killed run goes on. The price is forecast before anything is run.

    python benchmarks/acdc.py --out out/acdc
    python benchmarks/acdc.py --edges 8000 --pairs 32 --held-out 32 --seeds 5 --device cuda --out out/acdc   # a GPU
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from common import header, table

import veracausa as vc

#: Options that a row depends on.
ASKED = ("model", "task", "edges", "tau", "pairs", "held_out", "more", "device")
QUIET = {"show_progress": False}


def orders(seeds: int) -> dict[str, dict[str, object]]:
    """Name → options of `vc.circuits.acdc`."""
    named: dict[str, dict[str, object]] = {order: {"order": order} for order in ("late", "early", "weakest")}
    return named | {f"random {seed}": {"order": "random", "seed": seed} for seed in range(seeds)}


def of_size(scores: vc.Scores, size: int) -> vc.Circuit:
    """The strongest edges by |score| of which about `size` are left when dead ends are dropped."""
    low, high = size, 4 * size
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if len(vc.select(scores, n=middle, how="abs")) < size else (low, middle)
    return vc.select(scores, n=low, how="abs")


def ranked(lm: vc.Model, task: vc.Task, more: vc.Task | None, given: argparse.Namespace) -> dict[str, vc.Scores]:
    """Name → all edges ranked on the pairs that ACDC has, or on others and more of them; kept in a file each."""
    ways = {"eap-ig": partial(vc.attribute, lm, task, units="edges", method="eap-ig")}
    for pairs, told in ((task, ""), (more, f", {given.more} pairs")):
        if pairs is not None:
            ways[f"iterated{told}"] = partial(vc.circuits.iterate, lm, pairs)
            ways[f"balanced{told}"] = partial(vc.circuits.iterate, lm, pairs, by="balanced")
    found = {}
    for name, score in ways.items():
        path = given.out / f"{given.model}-{given.task}-{name}-{given.pairs}-{given.held_out}.safetensors"
        if not path.exists():
            score(**QUIET).save(path)
        found[name] = vc.open(path)
    return found


class Rows:
    """Rows of a file of JSON lines; a row that is there is not made again."""

    def __init__(self, path: Path, asked: dict[str, object]) -> None:
        self.path, self.asked = path, asked
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has(self, way: str) -> bool:
        """Whether this way was judged with these settings."""
        return any(line["way"] == way and line.items() >= self.asked.items() for line in self.lines)

    def put(self, **row: object) -> None:
        """Write a row down."""
        self.lines.append(self.asked | row)
        with self.path.open("a") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")
        print(self.lines[-1], flush=True)

    @property
    def mine(self) -> pd.DataFrame:
        """Rows with these settings."""
        return pd.DataFrame([line for line in self.lines if line.items() >= self.asked.items()])


def judged(lm: vc.Model, tasks: tuple[vc.Task, vc.Task], circuit: vc.Circuit) -> dict[str, object]:
    """f and KL of a circuit on the pairs it was found on, and on held-out ones."""
    seen, unseen = (vc.faithfulness(lm, task, circuit, **QUIET) for task in tasks)
    return {
        "kept": len(circuit),
        "f": unseen.f,
        "f ±": unseen.stderr(),
        "KL": float(unseen.kl.mean()),
        "f, seen pairs": seen.f,
        "KL, seen pairs": float(seen.kl.mean()),
    }


def main() -> None:
    """Search in every order, judge beside rankings of the same size, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--edges", type=int, default=1500, help="of eap-ig, that ACDC begins with")
    parser.add_argument("--tau", type=float, default=0.002, help="nats of mean KL")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--held-out", type=int, default=12)
    parser.add_argument("--more", type=int, default=0, help="pairs that iterated and balanced selection get besides")
    parser.add_argument("--seeds", type=int, default=2, help="of random orders")
    parser.add_argument("--only", default="", help="orders, separated by commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lm = vc.load(given.model, device=given.device)
    every = vc.tasks.build(given.task, lm, n=given.pairs + given.held_out + given.more)
    tasks = every[: given.pairs], every[given.pairs :][: given.held_out]
    asked = {name: getattr(given, name) for name in ASKED}
    rows = Rows(given.out / "acdc.jsonl", asked)
    rankings = ranked(lm, tasks[0], every[given.pairs + given.held_out :] if given.more else None, given)
    start = vc.select(rankings["eap-ig"], n=given.edges, how="abs")
    print(vc.forecast(vc.circuits.acdc, lm, tasks[0], tau=given.tau, start=start), flush=True)
    if not rows.has("start"):
        rows.put(way="start", **judged(lm, tasks, start))
    found = {}
    for way, options in orders(given.seeds).items():
        path = given.out / f"{given.model}-{given.task}-{way}-{len(start)}-{given.pairs}-{given.tau:g}.json"
        if given.only and way not in given.only.split(",") and not path.exists():
            continue
        if not path.exists():
            searched = {"tau": given.tau, "start": start, "out": given.out, **options}
            vc.circuits.acdc(lm, tasks[0], **searched).save(path)
        found[way] = circuit = vc.open(path)
        if rows.has(way):
            continue
        spent = {"token-layers": circuit.cost.token_layers, "seconds": circuit.cost.seconds}
        rows.put(way=way, **judged(lm, tasks, circuit), **spent)
        for name, scores in rankings.items():
            same = of_size(scores, len(circuit))
            spent = {"token-layers": scores.cost.token_layers, "seconds": scores.cost.seconds}
            rows.put(way=f"{name} beside {way}", **judged(lm, tasks, same), **spent)
    report(rows, found)


def report(rows: Rows, found: dict[str, vc.Circuit]) -> None:
    """What was found, as Markdown; and how much two orders share."""
    command = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in rows.asked.items())
    print(header(f"python benchmarks/acdc.py {command}"), "\n")
    shown = rows.mine.drop(columns=list(rows.asked)).round(3).astype(object).where(lambda frame: frame.notna(), "–")
    print(table(list(shown.columns), shown.to_numpy().tolist()))
    edges = {way: set(circuit.names) for way, circuit in found.items()}
    shared = {
        f"{one} / {other}": len(edges[one] & edges[other]) / len(edges[one] | edges[other])
        for one, other in combinations(edges, 2)
    }
    if shared:
        print("\n" + table(["orders", "Jaccard"], [[pair, f"{share:.2f}"] for pair, share in shared.items()]))
        everywhere, mean = len(set.intersection(*edges.values())), np.mean([*shared.values()])
        print(f"\nin all orders: {everywhere} edges; mean Jaccard {mean:.2f}")


if __name__ == "__main__":
    main()

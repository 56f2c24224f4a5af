"""Is a task's circuit that task's own? Six tasks' circuits, each ablated on all six, beside random circuits.

A ranking of edges is scored on some pairs of each task, the strongest by |score| are its circuit, and
`vc.circuits.specificity` ablates each circuit on other pairs of every task. Everything is kept in OUT.

    python benchmarks/specificity.py --model smollm2-135m --pairs 8 --out out/specificity
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import TASKS, header, table

import veracausa as vc
from veracausa.words import plain


def circuit_of(lm: vc.Model, task: vc.Task, given: argparse.Namespace) -> vc.Circuit:
    """The strongest edges by |score|, dead ends dropped; scores are kept in a file."""
    path = given.out / f"{task.name}.safetensors"
    if not path.exists():
        vc.attribute(lm, task, units="edges", method=given.method, show_progress=False).save(path)
    scores = vc.open(path)
    found = vc.select(scores, n=round(given.size * len(scores)), how="abs")
    kept = [name for name in found.names if given.inputs or not name.startswith("input->")]
    return vc.Circuit.from_names(lm, kept)


def main() -> None:
    """Score, select, ablate, and print the matrix as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--method", default="eap-ig")
    parser.add_argument("--size", type=float, default=0.02, help="share of the edges")
    parser.add_argument("--pairs", type=int, default=8, help="to score on")
    parser.add_argument("--held-out", type=int, default=8, help="others to ablate on")
    parser.add_argument("--no-inputs", dest="inputs", action="store_false", help="leave edges out of the input clean")
    parser.add_argument("--draws", type=int, default=1, help="random circuits of each one's layer profile")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lm = vc.load(given.model)
    n = given.pairs + max(given.pairs, given.held_out)
    made = {name: vc.tasks.build(name, lm, n=n) for name in given.tasks.split(",")}
    circuits = {name: circuit_of(lm, task[: given.pairs], given) for name, task in made.items()}
    held = {name: task[given.pairs :][: given.held_out] for name, task in made.items()}
    found = vc.circuits.specificity(lm, held, circuits, draws=given.draws, out=given.out / "pieces")
    found.save(given.out / "specificity.safetensors")
    found.chart().save(given.out / "specificity.png")
    options = f"--pairs {given.pairs} --held-out {given.held_out} --draws {given.draws}"
    print(header(f"python benchmarks/specificity.py {options}{'' if given.inputs else ' --no-inputs'}"), "\n")
    shown, rows = found.table(), []
    for number, name in enumerate(circuits):
        own = shown[shown.circuit == name]
        cells = [f"{plain(one.damage, 2)} ({plain(one.random, 2)})" for one in own.itertuples()]
        margin = f"{plain(found.margin(number), 2)} ± {found.margin_stderr(number):.2f}"
        rows.append([name, f"{found.kept[number]:,}", *cells, margin])
    print(table(["circuit of", "edges", *held, "own − mean of others"], rows))
    print(found.cost.describe())


if __name__ == "__main__":
    main()

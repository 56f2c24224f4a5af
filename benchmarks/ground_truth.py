"""Which methods find a circuit that is known: every edge method on every compiled program and on the trained model.

A method sees pairs of a program, scores all edges, and its ranking is judged against the true ones
(`vc.ground_truth.recovery`): AUROC, average precision, precision and recall at the true size. Truth is defined over all
pairs of a program, so a method may miss what the drawn pairs do not show; what exact effects of the same pairs find is
the limit. Three rankings are judged: by |mean score| over the pairs, by the mean |score|, and by importance (what works
against the behaviour ranks last).

    python benchmarks/ground_truth.py                 # minutes; writes docs/results/ground-truth.md and .csv
    python benchmarks/ground_truth.py --programs sort,dyck --methods 'eap;exact' --out out/known
    python benchmarks/ground_truth.py --learners      # the table of learned masks alone; a quarter of an hour
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from common import header, table

import veracausa as vc
from veracausa.choices import LearnedBy
from veracausa.estimates.learned.learner import LEARNERS as PRESETS
from veracausa.estimates.learned.learner import Learner
from veracausa.estimates.presets import EDGE_PRESETS
from veracausa.ground_truth import COMPILED
from veracausa.ground_truth.recovered import RANKINGS
from veracausa.scores.scores import Scores

RESULTS = Path(__file__).parents[1] / "docs" / "results"
TRAINED = "registers"
#: Beside the presets: the limit that exact effects of the same pairs set, searches of other kinds, and a floor.
OTHERS: dict[str, Callable[[vc.Model, vc.Task], Scores | vc.Circuit]] = {
    "exact": lambda lm, task: vc.exact(lm, task, units="edges", show_progress=False),
    "ifr": lambda lm, task: vc.attribute(lm, task, units="edges", method="ifr", show_progress=False),
    "iterated": lambda lm, task: _iterated(lm, task, 1, "importance"),
    "iterated, abs": lambda lm, task: _iterated(lm, task, 1, "abs_mean"),
    "iterated, 5 points": lambda lm, task: _iterated(lm, task, 5, "abs_mean"),
    "mask, top-k": lambda lm, task: vc.circuits.learn(lm, task, how="top-k", show_progress=False),
    "mask, matryoshka": lambda lm, task: vc.circuits.learn(lm, task, how="matryoshka", show_progress=False),
    "acdc, 0.01": lambda lm, task: vc.circuits.acdc(lm, task, tau=0.01, loss="metric", show_progress=False),
    "random": lambda lm, task: vc.attribute(lm, task, units="edges", method="eap", show_progress=False),
}
#: Every way of learning masks of edges, and parts of matryoshka's.
LEARNERS: dict[str, Learner | LearnedBy] = {
    **{name: name for name, one in PRESETS.items() if name not in ("node-pruning", "subnetwork-probing")},
    "matryoshka, sufficient": dataclasses.replace(PRESETS["matryoshka"], aim="sufficient"),
    "matryoshka, cause": dataclasses.replace(PRESETS["matryoshka"], aim="cause"),
}
#: What the table of learners stands between.
MARKS = ("<!-- learners: written by the command -->", "<!-- tables: written by the command -->")
#: Columns of the tables, each under one ranking.
TABLES = (
    ("average precision", "mean_abs", "Average precision, edges by mean |score|"),
    ("auroc", "mean_abs", "AUROC, edges by mean |score|"),
    ("f1", "mean_abs", "F1 at the true size, edges by mean |score| (an edge that scores 0 is not found)"),
    ("average precision", "abs_mean", "Average precision, edges by |mean score|"),
    ("average precision", "importance", "Average precision, edges by importance"),
    ("average precision of nodes", "mean_abs", "Average precision over nodes, each scored by its strongest edge"),
)


def _iterated(lm: vc.Model, task: vc.Task, points: int, by: str) -> Scores:
    return vc.circuits.iterate(lm, task, smallest=1, rounds=15, points=points, by=by, show_progress=False)


def found_by(method: str, lm: vc.Model, task: vc.Task, draws: int) -> list[Scores | vc.Circuit]:
    """Scores of all edges, or a circuit, by a preset or by one of `OTHERS`; of a random ranking, many."""
    if method not in OTHERS:
        return [vc.attribute(lm, task, units="edges", method=method, show_progress=False)]
    found = OTHERS[method](lm, task)
    if method != "random":
        return [found]
    generator = torch.Generator().manual_seed(0)
    return [
        dataclasses.replace(found, values=torch.rand(found.values.shape, generator=generator), signed=False)
        for _ in range(draws)
    ]


def rows_of(name: str, methods: list[str], n: int, draws: int) -> list[dict[str, object]]:
    """One row per method and ranking."""
    lm, program = known(name)
    task, rows = program.task(min(n, len(program.pairs()))), []
    few = len(program.nodes) < lm.graph.writers - 1  # where all nodes are true, none are to be told apart
    for method in methods:
        found = found_by(method, lm, task, draws)
        for by in RANKINGS:
            edges = [vc.ground_truth.recovery(one, program, by=by) for one in found]
            nodes = [vc.ground_truth.recovery(one, program, by=by, nodes=True) for one in found] if few else []
            rows.append({
                "program": name, "method": method, "ranking": by, "pairs": len(task),
                "true edges": edges[0].true, "edges": edges[0].of,
                "auroc": mean([one.auroc for one in edges]),
                "average precision": mean([one.average_precision for one in edges]),
                "taken": mean([one.n for one in edges]),
                "precision": mean([one.precision for one in edges]),
                "recall": mean([one.recall for one in edges]),
                "f1": mean([one.f1 for one in edges]),
                "auroc of nodes": mean([one.auroc for one in nodes]),
                "average precision of nodes": mean([one.average_precision for one in nodes]),
                "f1 of nodes": mean([one.f1 for one in nodes]),
                "passes": float("nan") if isinstance(found[0], vc.Circuit) else found[0].cost.forward_equivalents,
                "missed": " ".join(edges[0].missed) if len(found) == 1 else "",
                "wrong": " ".join(edges[0].wrong) if len(found) == 1 else "",
            })  # fmt: skip
        shown = rows[RANKINGS.index("mean_abs") - len(RANKINGS)]
        print(f"{name:>18}  {method:<20} AP {shown['average precision']:.3f}, F1 {shown['f1']:.3f}", flush=True)
    return rows


def learned(name: str, n: int, steps: int, seeds: int) -> dict[str, float]:
    """Average precision of every learner on one ground truth, the mean over seeds."""
    lm, program = known(name)
    task, found = program.task(min(n, len(program.pairs()))), {}
    for way, how in LEARNERS.items():
        made = [
            vc.circuits.learn(
                lm, task, how=how, keep=len(program.edges), steps=steps, seed=seed, show_progress=False,
            )
            for seed in range(seeds)
        ]  # fmt: skip
        found[way] = mean([vc.ground_truth.recovery(one, program, by="mean_abs").average_precision for one in made])
        print(f"{name:>18}  {way:<24} AP {found[way]:.3f}", flush=True)
    return found


def known(name: str) -> tuple:
    """A model and what is known of it."""
    return vc.ground_truth.load_trained() if name == TRAINED else vc.ground_truth.load_compiled(name)


def write_learners(found: dict[str, dict[str, float]], page: Path, command: str) -> None:
    """The table of learners, a row each; all other words of the page are kept."""
    compiled, rows = [name for name in found if name != TRAINED], []
    for way in LEARNERS:
        average = mean([found[name][way] for name in compiled]) if compiled else float("nan")
        rows.append([way, average, *(found[name][way] for name in found)])
    rows.sort(key=lambda row: -row[1])
    shown = table(["learner", "mean, compiled", *found], [[way, *map(cell, numbers)] for way, *numbers in rows])
    text = page.read_text()
    before, behind = text.split(MARKS[0])[0] if MARKS[0] in text else text.split(MARKS[1])[0], text.split(MARKS[1])[1]
    title = "## Average precision of every learner, edges by mean |score|"
    page.write_text("\n".join([before + MARKS[0], "", header(command), "", title, "", shown, "", MARKS[1] + behind]))


def mean(values: list) -> float:
    """NaN where there is nothing to average: a circuit ranks nothing."""
    return float("nan") if not values or None in values else sum(values) / len(values)


def cell(value: float) -> str:
    return "" if value != value else f"{value:.3f}"


def collect(found: pd.DataFrame, out: Path, command: str) -> None:
    """The CSV, and Markdown tables of a row per method and a column per program; words written by hand are kept."""
    out.mkdir(parents=True, exist_ok=True)
    found.to_csv(out / "ground-truth.csv", index=False, float_format="%.5g")
    programs = list(dict.fromkeys(found["program"]))
    compiled = [name for name in programs if name != TRAINED]
    lines = [MARKS[1], "", header(command), ""]
    for column, by, title in TABLES:
        wide = found[found["ranking"] == by].pivot(index="method", columns="program", values=column)
        wide.insert(0, "mean, compiled", wide[compiled].mean(axis=1) if compiled else float("nan"))
        order = wide["mean, compiled"].fillna(wide.get(TRAINED)).sort_values(ascending=False, kind="stable").index
        columns = ["mean, compiled", *programs]
        rows = [[method, *map(cell, wide.loc[method, columns])] for method in order]
        lines += [f"## {title}", "", table(["method", *columns], rows), ""]
    costs = found[found["ranking"] == RANKINGS[0]].pivot(index="method", columns="program", values="passes")
    costs = costs.drop(index=["random", "acdc, 0.01"], errors="ignore")
    rows = [[method, *(f"{value:.1f}" for value in costs.loc[method, programs])] for method in costs.index]
    lines += ["## Cost, forward passes a pair", "", table(["method", *programs], rows), ""]
    page = out / "ground-truth.md"
    said = page.read_text().split(lines[0])[0] if page.exists() else "# Known circuits: which methods find them\n\n"
    page.write_text(said + "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=",".join((*COMPILED, TRAINED)))
    parser.add_argument("--methods", default=";".join((*EDGE_PRESETS, *OTHERS)), help="separated by semicolons")
    parser.add_argument("--n", type=int, default=64, help="pairs of each program")
    parser.add_argument("--draws", type=int, default=100, help="random rankings")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--learners", action="store_true", help="the table of learned masks alone")
    parser.add_argument("--steps", type=int, default=150, help="of every learner")
    parser.add_argument("--seeds", type=int, default=1, help="of every learner")
    asked = parser.parse_args()
    if asked.learners:
        found = {name: learned(name, asked.n, asked.steps, asked.seeds) for name in asked.programs.split(",")}
        command = "python benchmarks/ground_truth.py --learners"
        command += f" --n {asked.n} --steps {asked.steps} --seeds {asked.seeds}"
        return write_learners(found, asked.out / "ground-truth.md", command)
    rows = []
    for name in asked.programs.split(","):
        rows += rows_of(name, asked.methods.split(";"), asked.n, asked.draws)
    command = "python benchmarks/ground_truth.py" + ("" if asked.n == 64 else f" --n {asked.n}")
    collect(pd.DataFrame(rows), asked.out, command)


if __name__ == "__main__":
    main()

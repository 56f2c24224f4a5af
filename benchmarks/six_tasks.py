"""Which method comes closest to the exact effects, on all six built-in tasks: the tables behind docs/results.

Runs `vc.compare` on each task (the same as `veracausa compare TASK`), keeps finished pieces in OUT, saves each page
there, and writes one CSV row per task, kind of unit and method. Run it again to continue after a kill.

    python benchmarks/six_tasks.py --model smollm2-135m --n 32 --budget 24 --out out/six
    python benchmarks/six_tasks.py --collect out/six --model smollm2-135m      # docs/results/methods-smollm2-135m.*
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from common import TASKS, header, table

import veracausa as vc
from veracausa.studies.compare import table as rows_of

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def run(
    model: str, names: list[str], units: list[str], methods: str | list[str], n: int, budget: float, out: Path
) -> None:
    """Compare on each task, save its page and its rows."""
    lm = vc.load(model, device="cpu")
    for name in names:
        task = vc.tasks.build(name, lm, n=n)
        page = vc.compare(lm, task, units=units, methods=methods, budget=budget, out=out / name)
        page.save(out / name)
        for section in page.sections:
            for panel in section.panels:
                facts = {"task": name, "pairs": len(task), "gap": float(section.measured.gap.mean())}
                facts |= {"kind": panel.kind, "exact passes": panel.exact.cost.forward_equivalents}
                found = pd.DataFrame([{**facts, **row} for row in rows_of(panel)])
                found.to_csv(out / f"{name}-{panel.kind}.csv", index=False)
        (out / f"{name}-{'-'.join(units)}.txt").write_text("\n".join([*page.summary, *page.notes]) + "\n")
        print(f"{name}: {page.seconds:.0f} s", flush=True)


def collect(model: str, out: Path) -> None:
    """One CSV of all tasks, and Markdown tables: a row per method, a column per task."""
    found = pd.concat([pd.read_csv(path) for name in TASKS for path in sorted(out.glob(f"{name}-*.csv"))])
    RESULTS.mkdir(exist_ok=True)
    found.to_csv(RESULTS / f"methods-{model}.csv", index=False, float_format="%.5g")
    lines = [f"# Methods against exact effects: {model}", "", header("python benchmarks/six_tasks.py"), ""]
    for kind, panel in found.groupby("kind"):
        for column, what in (
            ("r", "Pearson's r with the exact effects"),
            ("Spearman", "Spearman's rank correlation"),
            ("wrong signs", "wrong signs, of the units whose effect is over 1% of the gap"),
            ("median |error|", "median |error|, in thousandths of the gap"),
            ("stability", "stability: mean Jaccard of the ten strongest between bootstrap draws of the pairs"),
            ("residual", "completeness residual, as a share of the gap"),
            ("passes", "cost, forward passes a pair"),
        ):
            wide = panel.pivot(index="method", columns="task", values=column)
            wide = wide[[name for name in TASKS if name in wide]]
            order = panel.groupby("method")["r"].mean().sort_values(ascending=False).index
            if column == "median |error|":
                wide = 1000 * wide
            rows = [[method, *map(_cell, wide.loc[method])] for method in order]
            if column == "passes":
                exact = panel.groupby("task")["exact passes"].first()
                rows.append(["*exact effects*", *(_cell(exact[name]) for name in wide.columns)])
            lines += [f"## {kind}: {what}", "", table(["method", *wide.columns], rows), ""]
    (RESULTS / f"methods-{model}.md").write_text("\n".join(lines))
    print("\n".join(lines))


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    number = float(value)  # type: ignore[arg-type]
    if number != number:
        return ""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}" if abs(number) >= 1 else f"{number:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--units", default="heads,neurons")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--budget", type=float, default=24, help="minutes a task")
    parser.add_argument("--out", type=Path, default=Path("out/six"))
    parser.add_argument("--collect", type=Path, help="only write docs/results from the rows in this folder")
    chosen = parser.parse_args()
    if chosen.collect:
        collect(chosen.model, chosen.collect)
    else:
        methods = "all" if chosen.methods == "all" else chosen.methods.split(",")
        names, units = chosen.tasks.split(","), chosen.units.split(",")
        run(chosen.model, names, units, methods, chosen.n, chosen.budget, chosen.out)


if __name__ == "__main__":
    main()

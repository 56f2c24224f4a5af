"""Which scores of edges give small circuits that hold, on all six built-in tasks: the tables behind docs/results.

On each task every method scores all edges on some pairs; circuits of ten sizes are then run on other, held-out pairs
(`vc.curve`: f, CPR, CMD, both also over log sizes, with bootstrap standard errors over the held-out pairs). Rows beside
the presets: a random ranking, exact effects of all edges (of one pair: they cost what they cost), eap-ig on that same
pair, exact effects of the strongest 5% by eap-ig on half of the pairs (the others keep eap-ig's order behind them),
iterated selection. Finished pieces are kept in OUT; run it again to continue after a kill.

    python benchmarks/circuits.py --out out/circuits
    python benchmarks/circuits.py --collect out/circuits        # docs/results/circuits-smollm2-135m.*
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import TASKS, header, table

import veracausa as vc
from veracausa.circuits.quality.curve import SIZES
from veracausa.circuits.selection.iterated import iterate
from veracausa.estimates.presets import EDGE_PRESETS
from veracausa.tasks.task import Task

RESULTS = Path(__file__).parents[1] / "docs" / "results"
#: Methods whose cost allows a few pairs only.
FEW = {"eap-ig-activations": 2, "geodesic-ig": 0}
#: One-shot methods that are also run on three times the pairs: about the cost of iterated selection.
MORE = ("ceap", "eap-ig")


def random(lm: vc.Model, task: Task, out: Path) -> vc.Scores:
    """Independent normal numbers."""
    like = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    values = torch.randn(like.values.shape[1], generator=torch.Generator().manual_seed(0)).expand_as(like.values)
    cost = dataclasses.replace(like.cost, forward=0, backward=0)
    return dataclasses.replace(like, values=values.contiguous(), method="random", cost=cost)


def strongest(lm: vc.Model, task: Task, out: Path, share: float = 0.05) -> vc.Scores:
    """Exact effects of the strongest edges by eap-ig, in the place of their scores; all others behind them."""
    scores = vc.attribute(lm, task, units="edges", method="eap-ig", show_progress=False)
    chosen = np.argsort(-scores.mean().abs().numpy(), kind="stable")[: round(share * len(scores))]
    exact = vc.exact(lm, task, units=[scores.units.names[i] for i in chosen], out=out, show_progress=False)
    values = scores.values / 1e6  # below any exact effect worth the name, in the order that they had
    values[:, torch.as_tensor(chosen)] = exact.values
    cost = scores.cost + exact.cost
    return dataclasses.replace(scores, values=values, method="exact, strongest 5%", cost=cost)


def rows(pairs: int) -> dict[str, tuple[int, Callable[[vc.Model, Task, Path], vc.Scores]]]:
    """Name → (pairs it is scored on, how)."""

    def preset(method: str) -> Callable[[vc.Model, Task, Path], vc.Scores]:
        return lambda lm, task, out: vc.attribute(lm, task, units="edges", method=method, show_progress=False)

    def iterated(rounds: int, points: int, **options: object) -> Callable[[vc.Model, Task, Path], vc.Scores]:
        return lambda lm, task, out: iterate(lm, task, rounds=rounds, points=points, show_progress=False, **options)  # type: ignore[arg-type]

    found = {name: (FEW.get(name, pairs), preset(name)) for name in EDGE_PRESETS if FEW.get(name, pairs)}
    return found | {
        "random": (pairs, random),
        "ifr": (pairs, preset("ifr")),
        "iterated": (pairs, iterated(15, 1, by="importance")),
        "iterated, 5 rounds": (pairs, iterated(5, 1, by="importance")),
        "iterated, |score|": (pairs, iterated(15, 1)),
        "iterated, returns": (pairs, iterated(15, 1, by="importance", returns=True)),
        "iterated, 5 rounds of 3 points": (pairs, iterated(5, 3, by="importance")),
        "iterated, |score|, 5 rounds of 3 points": (pairs, iterated(5, 3)),
        "iterated, KL, 5 rounds of 3 points": (pairs, iterated(5, 3, by="importance", loss="kl")),
        "exact, strongest 5%": (pairs // 2, strongest),
        **{f"{name}, {3 * pairs} pairs": (3 * pairs, preset(name)) for name in MORE},
        "eap-ig, one pair": (1, preset("eap-ig")),
        "exact, one pair": (1, lambda lm, task, out: vc.exact(lm, task, units="edges", out=out)),
    }


def run(model: str, names: list[str], only: list[str], pairs: int, held_out: int, out: Path) -> None:
    """Score and evaluate; one JSON file a task and method."""
    lm = vc.load(model, device="cpu")
    out.mkdir(parents=True, exist_ok=True)
    chosen = rows(pairs)
    for method in only or list(chosen):
        for name in names:
            path = out / f"{name}-{method.replace(', ', '-').replace('|', '')}.json"
            if path.exists():
                continue
            count, score = chosen[method]
            every = vc.tasks.build(name, lm, n=3 * pairs + held_out)
            mine = [*range(pairs), *range(pairs + held_out, len(every))][:count]  # the held-out ones stay the same
            scores = score(lm, every[mine], out / f"{name}-exact")
            curve = vc.curve(lm, every[pairs : pairs + held_out], scores, show_progress=False)
            error = curve.stderr()
            facts = {
                "task": name,
                "method": method,
                "pairs": count,
                "held out": held_out,
                "passes": scores.cost.forward_equivalents,
                "token-layers": scores.cost.token_layers,
            }
            for which in ("cpr", "cmd", "cpr_log", "cmd_log"):
                facts |= {which: getattr(curve, which), f"{which} ±": error[which]}
            for ranking, found in (("signed", curve.signed), ("abs", curve.absolute)):
                for size, one in zip(SIZES, found, strict=True):
                    facts |= {f"f {ranking} {size}": one.f, f"f {ranking} {size} ±": one.stderr()}
                    facts[f"KL {ranking} {size}"] = float(one.kl.mean())
            path.with_suffix(".part").write_text(json.dumps(facts))
            path.with_suffix(".part").rename(path)
            print(f"{name} {method}: CPR {curve.cpr:.3f}, CMD {curve.cmd:.3f}, log {curve.cmd_log:.3f}", flush=True)


def collect(model: str, out: Path) -> None:
    """One CSV of everything, and Markdown tables: a row per method, a column per task."""
    found = pd.DataFrame([json.loads(path.read_text()) for path in sorted(out.glob("*.json"))])
    RESULTS.mkdir(exist_ok=True)
    found.to_csv(RESULTS / f"circuits-{model}.csv", index=False, float_format="%.5g")
    lines = [f"# Circuits of every ranking of edges: {model}", "", header("python benchmarks/circuits.py"), ""]
    lines += [
        f"Scored on {found['pairs'].mode()[0]} pairs (rows that say otherwise: see the last table), evaluated on "
        f"{found['held out'].max()} others; ± is one bootstrap standard error over these.",
        "",
    ]
    means = found.groupby("method")["cmd_log"].agg(["count", "mean"]).sort_values("mean")
    order = means.sort_values("count", ascending=False, kind="stable").index
    tasks = [name for name in TASKS if name in set(found["task"])]

    def section(title: str, column: str, digits: int = 3, error: bool = True) -> None:
        body: list[list[object]] = []
        for method in order:
            mine = found[found["method"] == method].set_index("task")
            cells = []
            for name in tasks:
                if name not in mine.index:
                    cells.append("")
                    continue
                cell = f"{mine.loc[name, column]:.{digits}f}"
                cells.append(f"{cell} ± {mine.loc[name, f'{column} ±']:.{digits}f}" if error else cell)
            mean = f"{mine[column].mean():.{digits}f}" if len(mine) == len(tasks) else ""  # of all tasks or of none
            body.append([method.replace("|", "\\|"), *cells, mean])
        lines.extend([f"## {title}", "", table(["method", *tasks, "mean"], body), ""])

    section("CMD over log sizes (|score|, 0 is best)", "cmd_log")
    section("CMD (|score|, 0 is best)", "cmd")
    section("CPR over log sizes (signed)", "cpr_log")
    section("CPR (signed)", "cpr")
    for size in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05):
        section(f"f of {size:.1%} of the edges, |score|", f"f abs {size}", 2)
        section(f"f of {size:.1%} of the edges, signed", f"f signed {size}", 2)
    section("Cost of the scores, forward passes a pair", "passes", 1, error=False)
    section("Pairs that were scored", "pairs", 0, error=False)
    (RESULTS / f"circuits-{model}.md").write_text("\n".join(lines))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default="", help="separated by ';'; default all")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("out/circuits"))
    parser.add_argument("--collect", type=Path, help="only write docs/results from the pieces in this folder")
    chosen = parser.parse_args()
    if chosen.collect:
        collect(chosen.model, chosen.collect)
    else:
        only = [name for name in chosen.methods.split(";") if name]
        run(chosen.model, chosen.tasks.split(","), only, chosen.pairs, chosen.held_out, chosen.out)


if __name__ == "__main__":
    main()

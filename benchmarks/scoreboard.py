"""Rankings of edges side by side, on held-out pairs of the built-in tasks: which circuit should one believe?

Every ranking is scored on some pairs and judged on others by `vc.circuits.scoreboard`: areas of f in which overshoot
earns nothing, what flips the answers, how much an adversary needs, what the circuit does to the other tasks, stability
and price. With several draws all this is done anew with other pairs, to be scored and to be judged on, and means over
draws and tasks are told with errors over draws and over pairs. Scores, pieces and the board so far are kept in OUT as
they end, so that a time limit loses nothing: run it again to go on. Further rankings are added by name in `RANKINGS`;
"matryoshka+" and "adversarial+" are learned from the iterated ranking on. What learns is dear (70 to 140 forward passes
of the scored pairs, "edge-pruning" 650 to 1,380), and not among the usual ones.

`--prices` says what each ranking, and ACDC within the circuit of `eap-ig`, takes in token-layers and in seconds: those
of this process alone, whatever else the machine does, and in units of `eap`, which is run anew before each. Rows are
kept as they end.

    python benchmarks/scoreboard.py --model smollm2-135m --out out/scoreboard
    python benchmarks/scoreboard.py --tasks ioi --rankings eap-ig,iterated --pairs 16 --held-out 32 --out out/scoreboard
    python benchmarks/scoreboard.py --judge ioi --rankings iterated,matryoshka+ --out out/scoreboard
    python benchmarks/scoreboard.py --rankings iterated,balanced --parts curve --pairs 16 --draws 0 1 2 --out out/draws
    python benchmarks/scoreboard.py --prices --judge ioi --rankings eap-ig,iterated,balanced --pairs 16 --out out/prices
    python benchmarks/scoreboard.py --collect out/scoreboard        # the tables as Markdown, without running anything
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from common import TASKS, header, table

import veracausa as vc
from veracausa.discovery.evaluation import random_ranking
from veracausa.tasks.task import Task


def preset(method: str) -> Callable[..., vc.Scores]:
    """A one-shot estimate."""
    return lambda lm, task, seed, given: vc.attribute(lm, task, units="edges", method=method)


def random(lm: vc.Model, task: Task, seed: int, given: Any) -> vc.Scores:
    """Edges in a random order, which costs nothing."""
    drawn = random_ranking(vc.attribute(lm, task, units="edges", method="eap", show_progress=False), seed)
    return replace(drawn, cost=replace(drawn.cost, forward=0, backward=0))


def learned(how: str, start: str = "") -> Callable[..., vc.Scores]:
    """Gates, learned for all sizes or for the size that is attacked, from nothing or from the ranking `start` on.

    Each takes steps of its own where none are given.
    """

    def score(lm: vc.Model, task: Task, seed: int, given: Any) -> vc.Scores:
        begin = scores_of(lm, task, start, given)[0] if start else None
        options = {"keep": given.size, "steps": given.steps or None, "start": begin, "seed": seed, "out": given.out}
        found = vc.circuits.learn(lm, task, how=how, **options)
        return found if begin is None else replace(found, cost=found.cost + begin.cost)

    return score


#: Rounds at the size that is attacked in which removed edges may return; the same where others are restored in each.
SETTLE, GUARDED, GUARD = 4, 6, (30, 100)

#: What ACDC lets the mean KL rise by for one edge, in nats.
TAU = 0.005

#: Name → how it is scored, given the model, the pairs, a seed, and the options of this benchmark.
RANKINGS: dict[str, Callable[[vc.Model, Task, int, Any], vc.Scores]] = {
    "eap": preset("eap"),
    "eap-ig": preset("eap-ig"),
    "iterated": lambda lm, task, seed, given: vc.circuits.iterate(lm, task),
    "iterated-kl": lambda lm, task, seed, given: vc.circuits.iterate(lm, task, loss="kl"),
    "balanced": lambda lm, task, seed, given: vc.circuits.iterate(lm, task, by="balanced"),
    "settled": lambda lm, task, seed, given: vc.circuits.iterate(
        lm, task, by="balanced", smallest=given.size, settle=SETTLE
    ),
    "guarded": lambda lm, task, seed, given: vc.circuits.iterate(
        lm, task, by="balanced", smallest=given.size, settle=GUARDED, guard=GUARD
    ),
    "learned": learned("top-k"),
    "matryoshka": learned("matryoshka"),
    "matryoshka+": learned("matryoshka", start="iterated"),
    "adversarial": learned("adversarial"),
    "adversarial+": learned("adversarial", start="iterated"),
    "edge-pruning": learned("edge-pruning"),
    "ugs": learned("ugs"),
    "random": random,
}
#: Those that learn, whose scores depend on the seed; those that are made for one size.
LEARNED = {"learned", "matryoshka", "matryoshka+", "adversarial", "adversarial+", "edge-pruning", "ugs"}
SIZED = {*LEARNED, "settled", "guarded"}
SEEDED = {*LEARNED, "random"}
#: Columns whose means over draws and tasks are told.
MEANT = ("CMD log", "KL log", "bounded", "price")
#: Those that are judged where none are named.
USUAL = ("eap", "eap-ig", "iterated", "random")


def acdc(lm: vc.Model, task: Task, seed: int, given: Any) -> vc.Circuit:
    """ACDC within the circuit of `eap-ig` that has the size which is attacked; it is a set of edges, and no ranking."""
    scores = RANKINGS["eap-ig"](lm, task, seed, given)
    start = vc.select(scores, n=max(1, round(given.size * lm.graph.size)), how="abs")
    found = vc.circuits.acdc(lm, task, tau=TAU, start=start)
    return replace(found, cost=found.cost + scores.cost)


def scores_of(lm: vc.Model, task: Task, name: str, given: Any) -> list[vc.Scores]:
    """A ranking, once for every seed where it has any; kept in a file each."""
    found = []
    for seed in range(given.seeds if name in SEEDED else 1):
        own = f"{given.steps}-{given.size:g}" if name in SIZED else str(given.steps)
        path = given.out / f"{given.model}-{task.name}-{name}-{task.digest()[:8]}-{seed}-{own}.safetensors"
        if not path.exists():
            RANKINGS[name](lm, task, seed, given).save(path)
        found.append(vc.open(path))
    return found


def judge(lm: vc.Model, name: str, names: list[str], draw: int, given: Any) -> None:
    """One task, one draw of its pairs: every ranking scored and judged, the board so far written after each."""
    n = given.pairs + given.held_out
    every = {one: vc.tasks.build(one, lm, n=n, seed=draw) for one in given.tasks.split(",")}
    task, rankings = every[name], {}
    others = {one: pairs[given.pairs :][: given.other_pairs] for one, pairs in every.items() if one != name}
    for ranking in names:
        try:
            rankings[ranking] = scores_of(lm, task[: given.pairs], ranking, given)
        except vc.VeracausaError as error:  # a ranking that this model or task refuses leaves the others
            print(f"{name}: {ranking} is left out: {error}", flush=True)
            continue
        board = vc.circuits.scoreboard(
            lm, task[given.pairs :], rankings, tasks=others or None, size=given.size, restored=given.restored,
            largest=given.largest, parts=given.parts.split(",") if given.parts else None, out=given.out,
        )  # fmt: skip
        board.save(given.out / f"board-{given.model}-{name}-{given.held_out}-{draw}.json")
        print(f"{name}, draw {draw}: {ranking} is judged", flush=True)


def priced(lm: vc.Model, task: Task, names: list[str], given: Any) -> Path:
    """What every way takes on these pairs, one row of a file of JSON lines each; rows that are there are not made anew.

    `seconds`: processor time of this process; `eap`: that of `eap` on the same pairs just before.
    """
    asked = {"model": given.model, "task": task.name, "pairs": len(task), "threads": torch.get_num_threads()}
    path = given.out / f"prices-{given.model}-{task.name}-{task.digest()[:8]}-{given.steps}-{given.size:g}.jsonl"
    known = {row["ranking"] for row in rows_of(path)}
    for name in names:
        if name not in known:
            row = asked | {"ranking": name} | price(lm, task, name, given)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    return path


def price(lm: vc.Model, task: Task, name: str, given: Any) -> dict[str, float]:
    """One way, run whole, in a folder where nothing is kept yet."""
    ways = RANKINGS | {"acdc": acdc}
    with TemporaryDirectory() as empty:
        mine = argparse.Namespace(**{**vars(given), "out": Path(empty)})
        beside, _, _ = clocked(lambda: RANKINGS["eap"](lm, task, 0, mine))
        seconds, wall, cost = clocked(lambda: ways[name](lm, task, 0, mine))
    spent = {"token_layers": cost.token_layers, "passes": cost.forward_equivalents}
    return spent | {"seconds": seconds, "wall": wall, "eap": beside}


def clocked(run: Callable[[], Any]) -> tuple[float, float, vc.Cost]:
    """Seconds of this process, seconds that went by, and what it says it cost."""
    began, own = time.perf_counter(), time.process_time()
    found = run()
    return time.process_time() - own, time.perf_counter() - began, found.cost


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def prices(out: Path) -> list[str]:
    """What is known of prices, as Markdown."""
    lines = list[str]()
    for path in sorted(out.glob("prices-*.jsonl")):
        rows = rows_of(path)
        title = "## Prices: {model}, {task}, {pairs} pairs, {threads} threads".format(**rows[0])
        told = [
            [row["ranking"], f"{row['token_layers']:,}", f"{row['passes']:.1f}", f"{row['seconds']:.1f}",
             f"{row['seconds'] / row['eap']:.1f}", f"{row['eap']:.1f}"]
            for row in rows
        ]  # fmt: skip
        columns = ["way", "token-layers", "forward passes", "seconds of the process", "times eap", "eap's seconds"]
        lines += ["", title, "", table(columns, told)]
    return lines


def collect(out: Path, command: str) -> str:
    """All boards in a folder as Markdown, and every cell in one JSON file; with several draws their means first."""
    cells, own = list[dict[str, Any]](), list[str]()
    for path in sorted(out.glob("board-*.json")):
        board, draw = vc.open(path), int(path.stem.rpartition("-")[2])
        judged = f"{board.model['source']}; judged on {board.task['description']}"
        own += ["", f"## {path.stem.removeprefix('board-')}", "", judged, ""]
        own += [table(["", *board.rankings], board.shown().to_numpy().tolist()), ""]
        own += [f"* {one}" for one in (*board.sentences, *board.notes)]
        about = {"model": board.model["source"], "pairs": board.task["n"], "task": board.task["name"], "draw": draw}
        for ranking, row in board.cells.items():
            for column, cell in row.items():
                told = {"value": cell.value, "stderr": cell.stderr, "beyond": cell.beyond, "why": cell.why}
                cells.append({**about, "ranking": ranking, "column": column, "shown": str(cell), **told})
    (out / "cells.json").write_text(json.dumps(cells, indent=1))
    return "\n".join([header(command), *prices(out), *(means(pd.DataFrame(cells)) if cells else ()), *own])


def means(cells: pd.DataFrame) -> list[str]:
    """Means over draws of each task, and of all tasks, as Markdown: value ± error over draws (error over pairs)."""
    lines = list[str]()
    known = cells[cells.column.isin(MEANT) & cells.value.notna() & ~cells.beyond.astype(bool)]
    for (model, pairs, column), found in known.groupby(["model", "pairs", "column"]):
        rankings = list(found.ranking.unique())
        counts = found.groupby(["task", "draw"]).size()
        whole = counts[counts == len(rankings)].index
        draws = {name: {draw for task, draw in whole if task == name} for name in TASKS}
        draws = {name: own for name, own in draws.items() if own}
        rows = [[name, told(own), *(mean(found, [name], own, one) for one in rankings)] for name, own in draws.items()]
        if draws and (every := set.intersection(*draws.values())):
            rows.append([f"all {len(draws)}", told(every), *(mean(found, [*draws], every, one) for one in rankings)])
        title = f"## {column}: {model}, {pairs} pairs"
        lines += ["", title, "", table(["task", "draws", *rankings], rows)]
    return lines


def told(draws: set[int]) -> str:
    """Which draws."""
    return ", ".join(map(str, sorted(draws)))


def mean(found: pd.DataFrame, tasks: list[str], draws: set[int], ranking: str) -> str:
    """Mean over tasks and draws of one ranking; its error over draws, in brackets that over pairs within them."""
    mine = found[(found.ranking == ranking) & found.task.isin(tasks) & found.draw.isin(draws)]
    each, errors = mine.groupby("draw").value.mean(), mine.stderr.astype(float)
    if errors.isna().any():
        return f"{each.mean():,.0f}"
    spread = f" ± {each.sem():.3f}" if len(draws) > 1 else ""
    return f"{each.mean():.3f}{spread} ({(errors**2).sum() ** 0.5 / len(errors):.3f})"


def main() -> None:
    """Judge all rankings on all tasks, and print the boards as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tasks", default=",".join(TASKS), help="judged one by one; the others show specificity")
    parser.add_argument("--judge", default="", help="of these tasks, only those that are judged; default all")
    parser.add_argument("--rankings", default=",".join(USUAL), help=f"of {', '.join(RANKINGS)}")
    parser.add_argument("--pairs", type=int, default=8, help="that are scored")
    parser.add_argument("--held-out", type=int, default=32, help="that rankings are judged on")
    parser.add_argument("--other-pairs", type=int, default=12, help="of every other task")
    parser.add_argument("--draws", type=int, nargs="+", default=[0], help="of pairs: seeds of the tasks")
    parser.add_argument("--seeds", type=int, default=3, help="of rankings that have one")
    parser.add_argument("--steps", type=int, default=0, help="of what learns; 0: its own number")
    parser.add_argument("--size", type=float, default=0.02, help="share of the edges that is attacked and ablated")
    parser.add_argument("--restored", type=int, nargs="+", default=[10, 30, 100, 300, 1000], help="by the adversary")
    parser.add_argument("--largest", type=float, nargs="+", default=[0.01, 0.03, 0.1, 0.3, 1.0], help="its weights")
    parser.add_argument("--parts", default="", help="curve,cause,adversary,specificity; default all")
    parser.add_argument("--out", type=Path, default=Path("out/scoreboard"))
    parser.add_argument("--prices", action="store_true", help="of the rankings and acdc, seconds; nothing is judged")
    parser.add_argument("--collect", type=Path, help="only print the boards of this folder")
    given = parser.parse_args()
    command = "python benchmarks/scoreboard.py"
    if given.collect:
        print(collect(given.collect, command))
        return
    judged = (given.judge or given.tasks).split(",")
    if unknown := [name for name in judged if name not in given.tasks.split(",")]:
        parser.error(f"--judge {','.join(unknown)}: not among --tasks {given.tasks}")
    given.out.mkdir(parents=True, exist_ok=True)
    lm = vc.load(given.model, device=given.device)
    for name in judged if given.prices else ():
        task = vc.tasks.build(name, lm, n=given.pairs + given.held_out, seed=given.draws[0])
        priced(lm, task[: given.pairs], given.rankings.split(","), given)
    for draw in () if given.prices else given.draws:
        for name in judged:
            judge(lm, name, given.rankings.split(","), draw, given)
    print(collect(given.out, f"{command} --model {given.model} --device {given.device}"))


if __name__ == "__main__":
    main()

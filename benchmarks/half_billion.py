"""A real model that is not tiny: contracts, exact effects, edges and one circuit of Qwen2.5-Coder-0.5B, task by task.

Every task is tried first: how large its gap is on this model, and on how many pairs the clean prompt's answer is
likelier than the other. Then, on the six tasks that results are about: exact effects of all heads and MLPs, eap-ig of
all edges, and how faithful the circuit of a fiftieth of the edges is, that one on pairs that did not choose it.
float32, two cores.

    python benchmarks/half_billion.py             about six minutes on two cores
    python benchmarks/half_billion.py --n 2 --tasks ioi
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

from common import TASKS, header, peak_gib, table

import veracausa as vc
from veracausa.errors import VeracausaError
from veracausa.tasks.registry import BUILTIN
from veracausa.tasks.task import Task

T = TypeVar("T")
MODEL = "qwen2.5-coder-0.5b"
#: Share of the edges that the circuit keeps.
SHARE = 0.02


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and its seconds."""
    began = time.perf_counter()
    found = run()
    return found, time.perf_counter() - began


def gaps(lm: vc.Model, n: int) -> None:
    """A line for every built-in task: its gap on this model, or why it has none."""
    rows: list[list[object]] = []
    for name in BUILTIN:
        try:
            measured = lm.measure(vc.tasks.build(name, lm, n=n))
        except VeracausaError as error:
            rows.append([name, "–", "–", "–", str(error).split(". ")[0]])
            continue
        right = (measured.clean > 0).double().mean()
        cells = f"{measured.gap.mean():.2f}", f"{measured.gap.std():.2f}", f"{right:.0%}"
        rows.append([name, *cells, ""])
    print(table(["task", "mean gap", "deviation", "M > 0 on clean", "refused because"], rows), flush=True)


def measured(lm: vc.Model, name: str, n: int) -> list[object]:
    """One task: seconds of each part, its strongest unit, and the circuit's faithfulness on pairs of its own."""
    task: Task = vc.tasks.build(name, lm, n=2 * n)
    chosen, held = task[:n], task[n:]
    heads, of_heads = timed(lambda: vc.exact(lm, chosen, units="heads", show_progress=False))
    mlps, of_mlps = timed(lambda: vc.exact(lm, chosen, units="mlps", show_progress=False))
    edges, of_edges = timed(lambda: vc.attribute(lm, chosen, units="edges", method="eap-ig", show_progress=False))
    circuit = vc.select(edges, n=max(1, round(SHARE * lm.graph.size)))
    faithful, of_circuit = timed(lambda: vc.faithfulness(lm, held, circuit=circuit, show_progress=False))
    first = [one.top(1).iloc[0] for one in (heads, mlps)]
    seconds = [f"{took:.1f}" for took in (of_heads, of_mlps, of_edges, of_circuit)]
    return [
        name,
        *seconds,
        *(f"{one['name']} {one['share']:+.2f}" for one in first),
        f"{faithful.f:.2f}",
        f"{peak_gib():.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=4, help="pairs of each half")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    asked = parser.parse_args()
    print(header("python benchmarks/half_billion.py") + "\n", flush=True)
    lm, loading = timed(lambda: vc.load(MODEL, device="cpu"))
    outcomes, checking = timed(lambda: lm.check(strict=False))
    failed = [str(one) for one in outcomes if not one.ok]
    print(
        f"{lm}: loaded in {loading:.1f} s, {len(outcomes) - len(failed)} of {len(outcomes)} contracts hold "
        f"({checking:.0f} s); {peak_gib():.1f} GiB. {' '.join(failed)}\n",
        flush=True,
    )
    gaps(lm, 8)
    columns = [
        *(
            "task",
            "s, exact heads",
            "s, exact MLPs",
            "s, eap-ig edges",
            "s, circuit",
            "strongest head",
            "strongest MLP",
        ),
        *("faithfulness", "GiB at most"),
    ]
    rows = []
    for name in asked.tasks:
        rows.append(measured(lm, name, asked.n))
        print("   ", *rows[-1], flush=True)
    print(
        f"\n{asked.n} pairs, the circuit on {asked.n} others; effects as shares of the gap.\n\n{table(columns, rows)}"
    )


if __name__ == "__main__":
    main()

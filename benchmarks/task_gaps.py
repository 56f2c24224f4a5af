"""How well the packaged models do on every built-in task, under every kind of corrupted prompts: the table of
docs/tasks.md.

    python benchmarks/task_gaps.py --models smollm2-135m gemma3-270m --n 24
"""

from __future__ import annotations

import argparse

import veracausa as vc
from veracausa.tasks.registry import BUILTIN, CORRUPTIONS


def rows(model: str, names: list[str], n: int) -> dict[tuple[str, str], str]:
    """(task, corruption) → share of clean prompts that are answered right, the mean gap, pairs right both ways."""
    lm, found = vc.load(model, device="cpu"), {}
    for name in names:
        for kind in CORRUPTIONS.get(name, ("",)):
            task = vc.tasks.build(name, lm, n=n, **({"corruption": kind} if kind else {}))
            measured = lm.measure(task)
            right, both = measured.clean > 0, (measured.clean > 0) & (measured.corrupted < 0)
            found[name, kind] = f"{right.float().mean():.0%}, {measured.gap.mean():+.2f}, {both.float().mean():.0%}"
            print(f"{model}: {name} {kind}: {found[name, kind]}", flush=True)
    return found


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser()
    options.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m"])
    options.add_argument("--n", type=int, default=24)
    options.add_argument("--tasks", nargs="+", default=list(BUILTIN))
    asked = options.parse_args()
    found = {model: rows(model, asked.tasks, asked.n) for model in asked.models}
    print(f"| task | corruption | {' | '.join(found)} |\n|---|---|{'---|' * len(found)}")
    for name, kind in next(iter(found.values())):
        print(f"| {name} | {kind} | {' | '.join(cells[name, kind] for cells in found.values())} |")


if __name__ == "__main__":
    main()

"""The verified mode among all neurons at a tenth of the full exact run's cost: what it finds, and what it certifies.

For one pair of each of three tasks: exact effects of every neuron (kept in OUT, so that a killed run continues), then
`vc.verify(vc.attribute(…), budget=0.1)`, which sees none of them. Recall: the share of the neurons above 1% of the gap
that are among the verified ones. Certified: at most so many unverified ones are that strong (95%).

    python benchmarks/receipts.py --out out/receipts
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import header, table

import veracausa as vc
from veracausa.tasks.task import Task

TAU = 0.01
METHODS = ("atp", "atp-star", "relp", "eap-ig")


def tasks(lm: vc.Model) -> list[Task]:
    """One pair each: the published one, and the first of two other tasks."""
    return [vc.tasks.published_pair(lm), vc.tasks.greater_than(lm, n=1), vc.tasks.subject_verb(lm, n=1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("out/receipts"))
    parser.add_argument("--top", type=int, default=50, help="the budget is spent in the proportion top : sample")
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--methods", default=",".join(METHODS))
    chosen = parser.parse_args()
    lm = vc.load(chosen.model, device="cpu")
    rows = []
    for task in tasks(lm):
        every = vc.exact(lm, task, units="neurons", out=chosen.out)
        strong = {name for name, effect in zip(every.units.names, every.normalised(), strict=True) if abs(effect) > TAU}
        for method in chosen.methods.split(","):
            estimate = vc.attribute(lm, task, units="neurons", method=method, show_progress=False)
            receipt = vc.verify(lm, task, estimate, top=chosen.top, sample=chosen.sample, budget=0.1, tau=TAU)
            found = strong & set(receipt.exact.units.names)
            rows.append(
                [
                    task.name,
                    method,
                    f"{vc.agreement(estimate, every).r:.3f}",
                    f"{len(found)} of {len(strong)}",
                    f"{len(found) / len(strong):.3f}" if strong else "none is strong",
                    receipt.missed,
                    len(strong) - len(found),
                    f"{receipt.cost_share:.2%}",
                ]
            )
            print(rows[-1], flush=True)
    print(header("python benchmarks/receipts.py"))
    print(f"\nAll {len(every):,} neurons; strong: |E| over {TAU:.0%} of the gap.\n")
    columns = [
        "task",
        "estimate",
        "r, all neurons",
        "strong, verified",
        "recall",
        "certified missed",
        "truly missed",
        "cost",
    ]
    print(table(columns, rows))


if __name__ == "__main__":
    main()

"""Why attribution patching misses heads of several tasks: softmax, norms or MLPs, on average and pair by pair.

For each built-in task: exact effects of all heads and attribution patching; the heads farthest outside the limits of
their mean–difference analysis (`vc.agreement`, at most `--heads`); for each of these where its curvature E − AtP arises
(`vc.causes.locate`: Shapley parts of the kinds of nonlinear parts, summing to it), and what integrated gradients give
instead (`vc.causes.disagreement`). A pair's cause follows the rule of `Location.cause`: the one kind that makes more
than half of that pair's curvature, "several" where none or two do, "none" where the curvature is under 0.1% of the gap.

    python benchmarks/causes.py --out out/causes     # a task done is kept there as it was printed
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import torch
from common import TASKS, header, table

import veracausa as vc
from veracausa.causes.locations import HALF, NEGLIGIBLE


def pair_causes(found: vc.causes.Locations, unit: int) -> list[str]:
    """The cause of each pair's curvature."""
    curvature, parts = found.runs[unit, -1] - found.runs[unit, 0], found.by_kind()[unit]
    least = NEGLIGIBLE * abs(float(found.gap.mean()))
    said = []
    for total, own in zip(curvature.tolist(), parts.T.tolist(), strict=True):
        most = [kind for kind, part in zip(found.kinds, own, strict=True) if total and part / total > HALF]
        said.append("none" if abs(total) < least else most[0] if len(most) == 1 else "several")
    return said


def of_task(lm: vc.Model, name: str, n: int, seed: int, heads: int) -> str:
    """One task's tables, as Markdown."""
    began, quiet = time.process_time(), {"show_progress": False}
    task = vc.tasks.build(name, lm, n=n, seed=seed)
    exact = vc.exact(lm, task, units="heads", **quiet)
    atp = vc.attribute(lm, task, units="heads", method="atp", **quiet)
    agreed = vc.agreement(atp, exact)
    located, refused = {}, []
    for head in agreed.outliers[:heads]:
        try:
            located[head] = vc.causes.locate(lm, task, units=[head], **quiet)
        except (
            vc.errors.NumericsError
        ):  # a run with tangents in the place of some parts may overflow behind early heads
            refused.append(head)
    outliers = list(located)
    if not outliers:
        return f"### {name}: nothing could be located ({', '.join(refused)})\n"
    others = vc.causes.disagreement(
        lm, task, units=outliers, nodes=8, zero_nodes=None, known={"exact": exact, "atp": atp}, **quiet
    )
    rows, totals = [], Counter[str]()
    for head, found in located.items():
        one, causes = found[head], pair_causes(found, 0)
        counts = Counter(causes)
        totals.update(counts)
        kinds = [one.kinds[kind] for kind in found.kinds]
        by_pair = ", ".join(f"{cause} {count}" for cause, count in counts.most_common())
        ig, why = others.share("ig", head), others.cause(head, "ig").cause
        rows.append([head, one.exact, one.atp, one.curvature, *kinds, one.cause, by_pair, causes[0], ig, why])
    kinds, left = located[outliers[0]].kinds, f" but for {', '.join(refused)}, refused" if refused else ""
    columns = ["head", "exact", "atp", "E − AtP", *kinds, "cause of the mean", "pair by pair", "first pair"]
    told = ", ".join(f"{cause} {count}" for cause, count in totals.most_common())
    return "\n".join(
        [
            f"### {name}: {len(task)} pairs, seed {seed}, gap {exact.gap.mean():.2f}",
            "",
            f"r {agreed.r:.3f}, {agreed.sign_errors} of {agreed.strong} strong signs wrong, {len(agreed.outliers)} "
            f"outliers, the {len(outliers)} farthest here{left}; over {sum(totals.values())} pairs × heads: {told}. "
            f"Gaps from {exact.gap.min():.2f} to {exact.gap.max():.2f}; {time.process_time() - began:.0f} s of a core.",
            "",
            table([*columns, "ig", "ig's cause"], rows),
            "",
        ]
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--tasks", nargs="+", default=TASKS)
    options.add_argument("--n", type=int, default=32)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--heads", type=int, default=6)
    options.add_argument("--out", type=Path, required=True)
    chosen = options.parse_args()
    lm = vc.load("smollm2-135m", device="cpu")
    chosen.out.mkdir(parents=True, exist_ok=True)
    print(header("python benchmarks/causes.py --out out/causes"), "\n", flush=True)
    for name in chosen.tasks:
        kept = chosen.out / f"{name}-{chosen.n}-{chosen.seed}-{chosen.heads}.md"
        if not kept.exists():
            kept.write_text(of_task(lm, name, chosen.n, chosen.seed, chosen.heads), encoding="utf-8")
        print(kept.read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

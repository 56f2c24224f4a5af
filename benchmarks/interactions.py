"""Interactions of two layers of SmolLM2-135M: what integrated gradients cost against ablating every source, and agree.

1. Counts: token-layers of a prompt by integrated gradients (8 nodes), forward by sources and backward by readers, by
   random signs, by one gradient, and by running without each source. Told beforehand; nothing is run.
2. Agreement with exact interactions, and how much of the change its grid leaves out.
3. Random signs: error of strengths against the exact sum over positions, beside the standard error that is given.
4. How much an average over prompts hides, and how stable and how unusual modules of six layers are.

    python benchmarks/interactions.py            about three minutes on one core
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
from common import header, table

import veracausa as vc

QUIET = {"show_progress": False}
SIDES = [("heads:10", "neurons:12"), ("heads:10", "heads:12"), ("neurons:10", "heads:12"), ("neurons:10", "neurons:12"),
         ("neurons:10", ["m12.n472"]), ("features:10", "features:20"), ("heads:2", "neurons:28")]  # fmt: skip
WAYS = {
    "ig, forward": {"mode": "forward"}, "ig, backward": {"mode": "reverse"},
    "ig, 4 probes": {"mode": "reverse", "probes": 4}, "gradient": {"method": "gradient"}, "exact": {"method": "exact"},
}  # fmt: skip


def counts(lm: vc.Model, task: vc.Task) -> list[list[str]]:
    """Token-layers of the rows between the layers, in units of those of exact interactions."""
    rows = []
    for sources, readers in SIDES:
        works = {name: vc.interactions.work(lm, task, sources, readers, **how) for name, how in WAYS.items()}
        exact = works["exact"]
        between = {name: work.between(work.chosen) for name, work in works.items()}
        size = f"{len(exact.source):,} × {len(exact.reader):,}"
        named = readers if isinstance(readers, str) else readers[0]
        rows.append([f"{sources} → {named}", size, f"{between['exact'] / len(task):,.0f}"])
        rows[-1] += [f"{between[name] / between['exact']:,.3g}" for name in WAYS if name != "exact"]
    return rows


def agreement(lm: vc.Model, task: vc.Task, sides, n: int) -> list[list[str]]:
    """Over all pairs of numbers; the errors of dictionaries, vectors that outweigh all features, are left out."""
    rows = []
    for sources, readers in sides:
        exact, own = timed(lm, task[:n], sources, readers, method="exact")
        kept = [not name.endswith("error") for name in exact.readers], [not n.endswith("error") for n in exact.sources]
        for method in ("ig", "gradient"):
            found, seconds = timed(lm, task[:n], sources, readers, method=method)
            both = [one.strength[np.ix_(*kept)].ravel() for one in (found, exact)]
            strong = both[1] > 0.1 * both[1].max()
            ratio = np.median(both[0][strong] / both[1][strong])
            mean = [one.mean[np.ix_(*kept)].ravel()[strong] for one in (found, exact)]
            wrong = "–" if np.isnan(mean[1]).all() else f"{np.mean(np.sign(mean[0]) != np.sign(mean[1])):.1%}"
            rows.append([f"{sources} → {readers}", n, method, f"{np.corrcoef(*both)[0, 1]:.3f}", f"{ratio:.3f}", wrong,
                         f"{found.residual:.1e}", f"{exact.residual:.2f}", f"{seconds:.1f}", f"{own:.1f}"])  # fmt: skip
    return rows


def timed(lm: vc.Model, task: vc.Task, sources, readers, **how):
    """(result, seconds of the process)."""
    began = time.process_time()
    found = vc.interactions(lm, task, sources, readers, **how, **QUIET)
    return found, time.process_time() - began


def probes(lm: vc.Model, task: vc.Task) -> list[list[str]]:
    readers = [f"m12.n{i}" for i in (20, 58, 333, 426, 472, 475, 573, 900)]
    exact, _ = timed(lm, task, "heads:10", readers)
    rows = []
    for count in (1, 4, 16, 64):
        found, _ = timed(lm, task, "heads:10", readers, mode="reverse", probes=count)
        error = np.sqrt(np.mean((found.strength / exact.strength - 1) ** 2))
        told = np.sqrt(np.mean((found.stderr / exact.strength) ** 2)) if count > 1 else float("nan")
        rows.append([str(count), f"{error:.1%}", "–" if count == 1 else f"{told:.1%}",
                     f"{found.cost.token_layers / exact.cost.token_layers:.2f}"])  # fmt: skip
    return rows


def main() -> None:
    """Print the tables."""
    lm = vc.load("smollm2-135m")
    laid = lm.reading(*(vc.dictionary(lm, f"smollm2-135m-r{layer}") for layer in (10, 20)))
    task = vc.tasks.ioi(lm, n=16)
    print(header("python benchmarks/interactions.py"))
    print("\n" + table(["interactions", "pairs", "exact, token-layers a prompt", *list(WAYS)[:-1]], counts(laid, task)))
    titles = ["interactions", "n", "method", "r", "ratio", "wrong sign", "Σ off", "together", "s", "exact, s"]
    print("\n" + table(titles, agreement(lm, task, [SIDES[k] for k in (0, 1, 6)], 4)))
    print("\n" + table(titles, agreement(laid, task, [SIDES[5]], 1)))
    print("\n" + table(["probes", "error", "told", "cost"], probes(lm, task[:4])))
    found = vc.interactions(lm, task, "heads:10", "neurons:12", method="exact", **QUIET)
    spread = found.spread(10)
    print(f"\nSingle prompts, n = {found.n}: {found.overlap(10).mean():.0%} of a prompt's ten strongest are among the "
          f"average's ten; median prompt {np.median(spread['median'] / spread.strength):.2f} of the average; the "
          f"strongest tenth of the prompts brings {spread.carried.median():.0%} of the mean square.")  # fmt: skip
    chain = [f"heads:{layer}" for layer in range(14, 20)]
    layers = [vc.interactions(lm, task, one, other, method="exact", **QUIET) for one, other in pairwise(chain)]
    for weight in ("share", "log"):
        print(f"\n{weight}: {' '.join(vc.interplay.modules(layers, keep=40, weight=weight).sentences)}")


if __name__ == "__main__":
    main()

"""How well estimates of features agree with their exact effects, with the error and without it, on two tasks.

The four dictionaries of SmolLM2-135M that come along (768 features, TopK 32). Exact effects of all features that differ
somewhere; attribution patching, integrated gradients with features straight between their ends and encoded anew on the
way; correlations of means over pairs, of all parts and of the features alone; wrong signs among those worth a percent
of the gap; what the error carries, and whether it is the strongest part; what the dictionary explains, and how much of
the gap is left with its reconstruction.

    python benchmarks/feature_agreement.py --n 8      (about ten minutes on one core)
"""

from __future__ import annotations

import argparse

import numpy as np
from common import header, table

import veracausa as vc

DICTIONARIES = ("smollm2-135m-r10", "smollm2-135m-r20", "smollm2-135m-m10", "smollm2-135m-m20")
TASKS = ("ioi", "subject-verb")
METHODS = {"atp": "atp", "ig": "ig", "re-encoded": vc.Method(path="encoded", combine="increments")}
QUIET = {"show_progress": False}


def row(lm: vc.Model, task: vc.Task, name: str) -> list[object]:
    """One dictionary on one task."""
    dic = vc.dictionary(lm, name)
    laid = lm.reading(dic)
    exact = vc.exact(laid, task, units="features", **QUIET)
    names, means = exact.units.names, exact.values.mean(0).double().numpy()
    error = next(name for name in names if name.endswith("error"))
    own = np.array([name != error for name in names])
    quality = dic.check(lm, task)
    told: list[object] = []
    for method, asked in METHODS.items():
        if method == "re-encoded" and dic.transcodes:
            told += ["–", "–"]
            continue
        found = vc.agreement(vc.attribute(laid, task, units="features", method=asked, **QUIET), exact)
        alone = np.corrcoef(found.exact[own], found.estimate[own])[0, 1]
        told += [f"{found.r:.2f}, {alone:.2f}", f"{found.sign_errors} of {found.strong}"]
    share = float(means[names.index(error)] / exact.gap.mean())
    first = "yes" if np.abs(means).argmax() == names.index(error) else "no"
    return [task.name, name.removeprefix("smollm2-135m-"), len(names), *told, f"{share:+.2f}", first,
            f"{quality.variance_explained:.2f}", f"{quality.gap_share:.2f}"]  # fmt: skip


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=8, help="pairs of each task")
    n = parser.parse_args().n
    lm = vc.load("smollm2-135m")
    print(header(f"python benchmarks/feature_agreement.py --n {n}"))
    print(f"\n{lm.source}; {n} pairs of each task; noising, counterfactual.\n")
    columns = ["task", "dictionary", "parts"]
    for method in METHODS:
        columns += [f"{method}: r, features alone", "wrong signs"]
    columns += ["error, of the gap", "strongest", "variance explained", "gap kept"]
    lines = table(columns, [])
    print(lines)
    for task in TASKS:
        pairs = vc.tasks.build(task, lm, n=n, seed=0)
        for name in DICTIONARIES:
            print(table(columns, [row(lm, pairs, name)]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()

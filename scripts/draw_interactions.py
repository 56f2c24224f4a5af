"""Draw the pictures of docs/interactions.md: modules of heads of SmolLM2, and true pairs of features beside all others.

python scripts/draw_interactions.py
"""

from itertools import pairwise
from pathlib import Path

import numpy as np

import veracausa as vc
from veracausa.report.charts.data import Datasets
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.strengths import strips_view

FOLDER = Path(__file__).parent.parent / "docs" / "images"
QUIET = {"show_progress": False}


def modules() -> None:
    lm = vc.load("smollm2-135m")
    task = vc.tasks.ioi(lm, n=8)
    chain = [f"heads:{layer}" for layer in range(14, 20)]
    found = [vc.interactions(lm, task, one, other, method="exact", **QUIET) for one, other in pairwise(chain)]
    made = vc.interplay.modules(found, keep=40)
    made.chart().save(FOLDER / "modules.png")
    print(made)


def truth() -> None:
    """Strengths of all pairs by three methods and two kinds of readers, those of the true ones apart."""
    lm, known = vc.ground_truth.load_superposed()
    task, own, strips = known.task(n=100), np.eye(known.features, dtype=bool), {}
    dic = vc.fitting.train(lm, known.prompts(3000), "r1", features=32, k=5, steps=1500, rate=5e-3, **QUIET)
    nearest = vc.ground_truth.features_found(lm, dic, known).nearest
    for name, readers, order in (("trained", dic, nearest), ("linear", known.dictionary(), range(known.features))):
        laid = lm.reading(known.before(), readers)
        sides = [f"f0.{j}" for j in range(known.features)], [f"f1.{i}" for i in dict.fromkeys(order)]
        for method in ("ig", "gradient", "exact"):
            found = vc.interactions(laid, task, *sides, method=method, ablation="zero", **QUIET)
            got = np.stack([found.strength[sides[1].index(f"f1.{i}")] for i in order])
            strips |= {f"{name}, {method}: true": got[own], f"{name}, {method}: others": got[~own]}
    data = Datasets()
    parts = tuple(
        Part(f"{name} readers", strips_view(data, name, {kind.partition(", ")[2]: values for kind, values in
             strips.items() if kind.startswith(name)}, "strength"), data, "")
        for name in ("trained", "linear")
    )  # fmt: skip
    figure = Figure("truth", "Interactions whose truth is known", parts, "", width=330)
    (FOLDER / "interactions-truth.png").write_bytes(figure.png())


if __name__ == "__main__":
    truth()
    modules()

"""Removing components of weights one by one against four estimates of it: where are they not much different?

Exact: each component taken out of its map alone, by running the model (zero ablation). Estimates: the gradient,
⟨∂M/∂W, −u_c v_cᵀ⟩; integrated gradients along W − α u_c v_cᵀ of one component at a time (path "unit") and of all
components of the map at once ("ig"); a learned mask whose closed gates take components out of the weights (without
sign: the probability that a gate is open); the norm over outputs of 2501.14926.

First on models whose components are known, where the closed form is the judge of all, then on all singular directions
of maps of SmolLM2-135M.

    python benchmarks/components.py --known                                  (seconds)
    python benchmarks/components.py --specific                               (minutes)
    python benchmarks/components.py --n 4 --maps m20.down a20.ov m15.gate    (an hour on one busy core)
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from common import TASKS, header, table

import veracausa as vc
from veracausa.ground_truth.gated import MODES

QUIET: dict[str, Any] = {"show_progress": False}
#: Points of integrated gradients.
NODES = 16
MASK = "learned mask"
#: The share of the components that a mask keeps: of models of ten to thirty parts, and of hundreds of directions.
KEPT = {True: 0.25, False: 0.1}
COLUMNS = [
    "estimate",
    "r",
    "Spearman",
    "Jaccard of the top 10 (a third of few)",
    "slope",
    "wrong signs of strong",
    "price",
]


def estimates(
    lm: vc.Model, task: vc.Task, units: Any, steps: int, *, alone: bool, outputs: int
) -> dict[str, vc.Scores]:
    """Every estimate of removing the units; `alone`: also the path on which one moves at a time."""
    zero = {"units": units, "baseline": "zero"}
    found = {"gradient": vc.attribute(lm, task, method="atp", **zero, **QUIET)}
    if alone:
        unit = vc.Method(path="unit", combine="increments", nodes=NODES, baseline="zero")
        found["ig, one at a time"] = vc.attribute(lm, task, units=units, method=unit, **QUIET)
    found["ig, all at once"] = vc.attribute(lm, task, method="ig", nodes=NODES, **zero, **QUIET)
    found["output norm, answers"] = vc.estimates.output_norm(lm, task, units=units, **QUIET)
    found[f"output norm, {outputs} tokens"] = vc.estimates.output_norm(lm, task, units=units, outputs=outputs, **QUIET)
    try:
        how: dict[str, Any] = {"keep": KEPT[alone], "steps": steps, "ablation": "zero"}
        found[MASK] = vc.estimates.learn_mask(lm, task, units=units, **how, **QUIET)
    except vc.VeracausaError as error:
        print(f"({MASK}: {error})\n")
    return found


def compared(found: Mapping[str, vc.Scores], exact: vc.Scores, passes: float) -> list[list[object]]:
    """A row for every estimate; the price in forward passes of all pairs."""
    rows = []
    for name, one in found.items():
        told = vc.agreement(one, exact)
        signs = f"{told.sign_errors} of {told.strong}" if one.signed else "–"
        slope = f"{told.slope:.2f}" if one.signed else "–"
        price = f"{one.cost.token_layers / passes:,.0f}"
        rows.append(
            [
                name,
                f"{told.r:.3f}",
                f"{told.spearman:.3f}",
                f"{told.jaccard(min(10, len(exact) // 3)):.2f}",
                slope,
                signs,
                price,
            ]
        )
    return rows


def passes_of(lm: vc.Model, task: vc.Task) -> float:
    """Token-layers of one forward pass of the clean prompts."""
    return float(lm.layers * sum(map(len, task.clean)))


def against(lm: vc.Model, task: vc.Task, units: Any, found: Mapping[str, vc.Scores]) -> list[list[object]]:
    """Rows of all estimates, of the exact effects' price, and of the mask against what it estimates."""
    exact, passes = vc.exact(lm, task, units=units, ablation="zero", **QUIET), passes_of(lm, task)
    rows = compared(found, exact, passes)
    return [*rows, ["exact", "1", "1", "1", "1", "–", f"{exact.cost.token_layers / passes:,.0f}"]]


def known(steps: int) -> None:
    """The models whose components are known."""
    lm, truth = vc.ground_truth.load_gated()
    lm = lm.reading(*vc.components(lm, truth.map, factors=truth.factors))
    names = [f"{truth.map}.own{i}" for i in range(len(truth.names))]
    print("\n## Gated: means over the four prompts of each mode; the metric's own units\n")
    rows = []
    for at, mode in enumerate(MODES):
        task, own = truth.task(modes=[mode]), [2 * at, 2 * at + 1]
        sets = truth.effects(task, [[own[0]], [own[1]], own]).mean(0)
        found = estimates(lm, task, names, steps, alone=True, outputs=14)
        columns = [*(name for name in found if name != MASK), MASK]
        told = [_of_parts(found.get(name), own) for name in columns]
        rows.append([mode, " ".join(f"{float(one):+.2f}" for one in sets[:2]), f"{float(sets[2]):+.2f}", *told])
    print(table(["mode", "exact x y", "both", *columns], rows))
    for load in (vc.ground_truth.load_gated, vc.ground_truth.load_bottleneck, vc.ground_truth.load_compressed):
        lm, truth = load()
        task = truth.task()
        lm = lm.reading(*vc.components(lm, truth.map, factors=truth.factors))
        names = [f"{truth.map}.own{i}" for i in range(len(truth.names))]
        exact = vc.exact(lm, task, units=names, ablation="zero", **QUIET)
        off = (exact.values - truth.effects(task, [[i] for i in range(len(names))])).abs().max()
        print(
            f"\n## {lm.source}: {len(names)} parts of {truth.map}, {len(task)} pairs; closed form − exact ≤ {off:.1e}\n"
        )
        found = estimates(lm, task, names, steps, alone=True, outputs=min(14, lm.hf.config.vocab_size))
        print(table(COLUMNS, against(lm, task, names, found)))
        curve = vc.effects.removal_curve(lm, task, exact, sizes=(1, 3, 5, len(names)), pairs=0, **QUIET)
        print("\n" + curve.table()[["units", "together", "sum", "rest"]].round(2).to_string(index=False))


def _of_parts(scores: vc.Scores | None, parts: list[int]) -> str:
    """Means of some parts; a dash where there are no scores."""
    return "–" if scores is None else " ".join(f"{float(scores.mean()[i]):+.2f}" for i in parts)


def real(n: int, maps: list[str], steps: int, outputs: int) -> None:
    """All singular directions of some maps of SmolLM2-135M."""
    lm = vc.load("smollm2-135m")
    task = vc.tasks.ioi(lm, n=n)
    print(f"\n{lm.source}; ioi, {n} pairs (seed 0), logit difference, zero ablation; masks of {steps} steps.")
    for name in maps:
        units = f"{name[:-3]}.h*.ov*" if name.endswith(".ov") else f"{name}.c*"
        found = estimates(lm, task, units, steps, alone=False, outputs=outputs)
        rows = against(lm, task, units, found)
        print(f"\n## {name}: {len(found['gradient'])} singular directions\n\n{table(COLUMNS, rows)}", flush=True)


def specific(count: int = 20, layers: range = range(16, 26)) -> None:
    """What taking out the strongest value-output directions of each task does to all six, on pairs not ranked on."""
    lm = vc.load("smollm2-135m")
    units, ranked, held = [f"a{layer}.h*.ov*" for layer in layers], {}, {}
    for name in TASKS:
        seen, held[name] = (vc.tasks.build(name, lm, n=n, seed=seed) for n, seed in ((8, 0), (4, 1)))
        ranked[name] = vc.attribute(lm, seen, units=units, method="atp", baseline="zero", **QUIET)
    found = vc.circuits.specificity(lm, held, ranked, n=count, draws=3, ablation="zero", **QUIET)
    print(found)
    for i, name in enumerate(TASKS):
        print(f"{name}: own less the mean of the others {found.margin(i):.3f} ± {found.margin_stderr(i):.3f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", action="store_true", help="the models whose components are known, alone")
    parser.add_argument("--specific", action="store_true", help="components of six tasks taken out on each")
    parser.add_argument("--n", type=int, default=4, help="pairs")
    parser.add_argument("--maps", nargs="+", default=["m20.down", "a20.ov", "m15.gate"])
    parser.add_argument("--steps", type=int, default=200, help="of learned masks")
    parser.add_argument("--outputs", type=int, default=16, help="tokens of the norm over outputs")
    asked = parser.parse_args()
    torch.manual_seed(0)
    print(header("python benchmarks/components.py " + ("--known" if asked.known else f"--n {asked.n}")))
    if asked.specific:
        specific()
    elif asked.known:
        known(asked.steps)
    else:
        real(asked.n, asked.maps, asked.steps, asked.outputs)


if __name__ == "__main__":
    main()

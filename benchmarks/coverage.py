"""How often 95% intervals over pairs hold the figure that they are about, by how many pairs there are.

Populations of 2,000 pairs are made whose figures are known: 60 units of which eight are strong; effects grow and shrink
together from pair to pair (so does the gap) and scatter by themselves, with normal noise, heavy tails (Student's t of 4
degrees) or sizes that vary lognormally; an estimate takes each unit by a wrong factor and adds noise of its own. Others
are made of real effects, exact and estimated, over 600 pairs of compiled programs and of the trained model. Pairs are
drawn from them, intervals are taken as the library takes them, and it is counted how often they hold the population's
figure: figures of agreement (`statistics.intervals`), a share of the gap ± Student's t times its standard error
(`statistics.ratios`), and the bootstrap interval of a mean effect, by which `vc.select(bootstrap=…)` filters.

The criterion: nominal 95% holds in at least 90% of the draws that have an interval, in each population; what misses it
has no interval. "given": in how many draws the tables are reliable enough for one of r and of the slope
(`intervals.RELIABLE`).

    python benchmarks/coverage.py
"""

from __future__ import annotations

import numpy as np
import torch
from common import header, table
from scipy import stats

import veracausa as vc
from veracausa.ground_truth import load_compiled, load_trained
from veracausa.statistics import bootstrap, intervals
from veracausa.statistics.ratios import ratios

PAIRS = (3, 8, 16, 32, 64, 96)
REPEATS = 400
#: Models of known circuits and the kinds of units that are compared there, of so many pairs.
REAL = {"trained": "neurons edges heads", "sort": "neurons edges", "double_histogram": "neurons edges",
        "pair_balance": "neurons edges"}  # fmt: skip
REAL_PAIRS = 600
UNITS, STRONG, SIZE = 60, 8, 2000


def real(name: str, units: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact effects and attribution patching's estimates [pairs, units] of a model, and gaps [pairs]."""
    lm, known = load_trained() if name == "trained" else load_compiled(name)
    task, quiet = known.task(n=REAL_PAIRS), {"show_progress": False}
    exact = vc.exact(lm, task, units=units, **quiet)
    estimate = vc.attribute(lm, task, units=units, method="eap" if units == "edges" else "atp", **quiet)
    return tuple(one.double().numpy() for one in (exact.values, estimate.values, exact.gap))


def population(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact effects, estimates [pairs, units] and gaps [pairs]."""
    random = np.random.default_rng(5)
    mean = 0.01 * random.normal(size=UNITS)
    mean[:STRONG] = random.normal(size=STRONG) * [-0.6, 0.5, -0.4, 0.3, -0.3, 0.2, -0.15, 0.1]
    shared = (
        np.exp(0.8 * random.normal(size=(SIZE, 1))) if kind == "lognormal" else 1 + 0.5 * random.normal(size=(SIZE, 1))
    )
    noise = random.normal(size=(SIZE, UNITS)) if kind == "normal" else random.standard_t(4, size=(SIZE, UNITS))
    exact = mean * shared + noise * (0.3 * np.abs(mean) + 0.02)
    factor = 0.8 + 0.2 * random.normal(size=UNITS)
    estimate = exact * factor + random.normal(size=(SIZE, UNITS)) * (0.15 * np.abs(mean) + 0.01)
    return exact, estimate, np.abs(shared[:, 0]) + 0.3 * random.random(SIZE)


def held(exact: np.ndarray, estimate: np.ndarray, gap: np.ndarray, pairs: int) -> dict[str, float]:
    """Share of the intervals, from draws of so many pairs, that hold the population's figure; NaN: no draw has one."""
    whole = [intervals.shares(values, gap, np.ones((1, len(gap)))) for values in (exact, estimate)]
    truth = {name: one[0] for name, one in intervals.figures(*whole, signed=True, top=10).items()}
    strong = np.argsort(-np.abs(exact.mean(0)))[:STRONG]
    random = np.random.default_rng(pairs)
    counts, given = dict.fromkeys([*truth, "share ± t·SE", "mean"], 0.0), dict.fromkeys(truth, 0)
    for draw in range(REPEATS):
        which = random.integers(len(gap), size=pairs)
        found = intervals.agreement_intervals(
            exact[which], estimate[which], (gap[which], gap[which]), signed=True, top=10, draws=200, seed=draw
        )
        for name, (low, high) in found.items():
            counts[name] += bool(low <= truth[name] <= high)
            given[name] += bool(np.isfinite(low))
        ratio, error, _ = ratios(torch.from_numpy(exact[which][:, strong]), torch.from_numpy(gap[which]))
        off = np.abs(ratio.numpy() - whole[0][0, strong])
        known = np.isfinite(error.numpy())
        counts["share ± t·SE"] += np.where(known, off <= stats.t.ppf(0.975, pairs - 1) * error.numpy(), True).mean()
        drawn = bootstrap.with_replacement(pairs, pairs, 400, draw) @ exact[which][:, strong] / pairs
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        counts["mean"] += ((low <= exact.mean(0)[strong]) & (exact.mean(0)[strong] <= high)).mean()
    of = {name: count / max(given.get(name, REPEATS), 1) for name, count in counts.items()}
    return {"given": given["r"] / REPEATS} | {name: of[name] if given.get(name, 1) else np.nan for name in of}


def main() -> None:
    """Print coverage by population and number of pairs."""
    intervals.LEAST_OF = dict.fromkeys(intervals.FIGURES, 2)  # take every interval, to see from where on it holds
    print(header("python benchmarks/coverage.py"), "\n")
    made = {kind: population(kind) for kind in ("normal", "t", "lognormal")}
    made |= {f"{name}, {units}": real(name, units) for name, kinds in REAL.items() for units in kinds.split()}
    rows = []
    for kind, (exact, estimate, gap) in made.items():
        for pairs in PAIRS:
            found = held(exact, estimate, gap, pairs)
            rows.append([kind, pairs, *("–" if share != share else f"{100 * share:.0f}%" for share in found.values())])
    print(table(["population", "pairs", *found], rows))


if __name__ == "__main__":
    main()

"""Four hypothesis tests of a circuit (Shi et al., 2410.13032), with their null hypotheses said.

M is the score of a pair, C the circuit, C̄ all other edges of the graph, δ(e, C) = mean |M(C) − M(C ∖ e)| over pairs as
a share of the mean gap.

* **equivalence.** H0: |P(M(C) > M(full)) − ½| ≤ margin over pairs. Sign test, ties (equal up to rounding) left out.
  Rejected: one of both does better too often; the circuit is not equivalent to the model.
* **independence.** H0: M(C̄) is independent of M(full) over pairs. HSIC, by permutation. Rejected: what is left without
  the circuit still follows the model. With counterfactual ablation the corrupted run itself may follow the model's
  clean one (its answers are made of the same words): where the same test rejects M(∅), too, it says nothing. Zero or
  mean ablation leaves less of the pair in M(∅).
* **minimality.** H0, of every edge e of C: P(δ(e, C) > δ(r, C ∪ way)) ≥ quantile, for a random way from the input to
  the logits added to C and r one of its new edges. Binomial test, Bonferroni over the edges tested. Rejected for an
  edge: it does no more than an edge that came in by chance.
* **random.** H0: P(mean |M(full) − M(C)| < mean |M(full) − M(R)|) ≤ quantile, for random circuits R of as many edges,
  made of such ways. Binomial test. Rejected: the circuit is closer to the model than nearly all random ones (the only
  test of the four that a good circuit should fail).

Each test is at level α by itself; nothing corrects for their being four. A hypothesis that is not rejected is not
proved: with few pairs nothing can be rejected, and the outcome says where that is so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.choices import Ablation
from veracausa.circuits.knockouts import mask_to_test, require_count, without_edges
from veracausa.circuits.random_circuits import inflated, random_circuit
from veracausa.circuits.runs.run_circuits import CircuitRuns, Judged, Outcomes, Ran
from veracausa.cost import Cost
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.guard import precision_of
from veracausa.engine.validate import tolerance
from veracausa.engine.work import gives
from veracausa.errors import CircuitError, MethodError
from veracausa.statistics.permutation import bonferroni, hsic_test, often_closer, seldom_larger, sign_test
from veracausa.storage.files import write_tensors

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Float, Int

    from veracausa.circuits.circuit import Circuit
    from veracausa.circuits.knockouts import Mask
    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task


@dataclass(frozen=True)
class Verdict:
    """One test's outcome. `holds`: what a good circuit should show; None: the test cannot tell."""

    test: str
    null: str
    seen: str
    p: float
    rejected: bool
    holds: bool | None
    meaning: str

    def __repr__(self) -> str:
        word = {True: "holds", False: "FAILS", None: "open"}[self.holds]
        sign = "rejected" if self.rejected else "not rejected"
        return f"{word:5}  {self.test}: {self.meaning}\n       H0 {self.null}: {sign}, p = {self.p:.3g}; {self.seen}"


@dataclass(frozen=True, eq=False)
class CircuitTests(Ran):
    """Outcomes of the four tests, and what they are made of; see the module.

    `edges`: names of the edges tested for minimality, `effect`: δ of each, `beaten`: how many of `random_effect` it
    exceeds, `corrected`: p-values, Bonferroni. `f`, `random_f`: faithfulness of the circuit and of the random ones.
    `idle_p`: p-value of the independence test of M(∅), nothing kept.

    >>> tests = vc.circuits.tests(lm, held_out, circuit)
    >>> tests["equivalence"].holds, tests.idle
    """

    verdicts: tuple[Verdict, ...]
    alpha: float
    pairs: int
    size: int
    edges: tuple[str, ...]
    effect: Float[np.ndarray, " edges"]
    beaten: Int[np.ndarray, " edges"]
    corrected: Float[np.ndarray, " edges"]
    random_effect: Float[np.ndarray, " draws"]
    f: float
    random_f: Float[np.ndarray, " draws"]
    idle_p: float
    cost: Cost
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]

    def __getitem__(self, test: str) -> Verdict:
        return {verdict.test: verdict for verdict in self.verdicts}[test]

    @property
    def idle(self) -> list[str]:
        """Edges that do no more than random ones, by the minimality test."""
        return [name for name, p in zip(self.edges, self.corrected, strict=True) if p <= self.alpha]

    def table(self) -> pd.DataFrame:
        """One row per test: test, H0, what was seen, p, whether H0 is rejected, whether the circuit passes."""
        import pandas as pd

        columns = ("test", "null", "seen", "p", "rejected", "holds", "meaning")
        return pd.DataFrame([{name: getattr(verdict, name) for name in columns} for verdict in self.verdicts])

    def edge_table(self) -> pd.DataFrame:
        """One row per edge tested for minimality, the weakest first: name, δ, share of random edges beaten, p."""
        import pandas as pd

        share = self.beaten / len(self.random_effect)
        columns = {"name": self.edges, "effect": self.effect, "beaten": share, "p (Bonferroni)": self.corrected}
        return pd.DataFrame(columns).sort_values("effect", kind="stable", ignore_index=True)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What each test says of the circuit."""
        word = {True: "passes", False: "fails", None: "cannot be judged by"}
        return tuple(
            f"The circuit {word[one.holds]} the test of {one.test}: {one.meaning} (p = {one.p:.3g})."
            for one in self.verdicts
        )

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {name: getattr(self, name) for name in PLAIN}
        header |= {"verdicts": [asdict(verdict) for verdict in self.verdicts], "cost": self.cost.to_dict()}
        arrays = {name: torch.from_numpy(np.asarray(getattr(self, name))) for name in ARRAYS}
        return write_tensors(path, FORMAT, header, arrays)

    def describe(self) -> str:
        """The four outcomes, two lines each."""
        head = (
            f"tests of a circuit of {self.size:,} edges · {self.pairs} pair{'s' * (self.pairs > 1)}, level "
            f"{self.alpha:g} each, {len(self.random_f)} random draws · {self.ablation} ablation"
        )
        return "\n".join([head, *map(repr, self.verdicts)])

    def __repr__(self) -> str:
        return self.describe()


#: What headers say of the tests.
_ASKED = ("draws", "edges", "margin", "quantile", "alpha", "permutations", "seed")


@dataclass(frozen=True)
class _Tests:
    """What is asked of the outcomes of `_masks`; see `tests`."""

    lm: Model
    names: tuple[str, ...]
    size: int
    edges: int | None
    draws: int
    margin: float
    quantile: float
    alpha: float
    permutations: int
    seed: int

    def judge(self, found: Outcomes) -> CircuitTests:
        """All four verdicts."""
        metric, full, nothing = (
            m.double().numpy() for m in (found.metric, found.measured.clean, found.measured.corrupted)
        )
        own, complement, randoms, larger, smaller, without = np.split(
            metric, np.cumsum([1, 1, self.draws, self.draws, self.draws])
        )
        gap = float((full - nothing).mean())
        noise = tolerance(precision_of(self.lm.decoder).dtype)
        floor = noise * abs(gap)

        def effects(before: np.ndarray, after: np.ndarray) -> np.ndarray:
            effect: np.ndarray = np.abs(before - after).mean(1) / abs(gap)
            return np.where(effect <= noise, 0.0, effect)

        random_effect, effect = effects(larger, smaller), effects(own, without)
        beaten, p_edges = seldom_larger(effect, random_effect, self.quantile)
        corrected = bonferroni(p_edges)
        idle_p = hsic_test(
            _steady(nothing, floor), _steady(full, floor), permutations=self.permutations, seed=self.seed
        )[1]
        distance, distances = effects(own, full[None])[0], effects(randoms, full[None])
        verdicts = (
            _equivalence(own[0], full, floor, self.margin, self.alpha),
            _independence(
                _steady(complement[0], floor), _steady(full, floor), idle_p, self.permutations, self.seed, self.alpha
            ),
            _minimality(beaten, corrected, self.draws, self.quantile, self.alpha),
            _random(distance, distances, self.quantile, self.alpha),
        )
        f = (np.concatenate([own, randoms]) - nothing).mean(1) / gap
        asked = {name: getattr(self, name) for name in _ASKED}
        return CircuitTests(
            verdicts, self.alpha, len(full), self.size, self.names, effect, beaten, corrected, random_effect,
            float(f[0]), f[1:], idle_p, found.cost, found.model, found.task, found.settings | asked,
        )  # fmt: skip


@gives(CircuitTests)
def tests(
    lm: Model,
    task: Task,
    circuit: Circuit,
    *,
    draws: int = 100,
    edges: int | None = 200,
    margin: float = 0.1,
    quantile: float = 0.9,
    alpha: float = 0.05,
    permutations: int = 1000,
    seed: int = 0,
    ablation: Ablation = "counterfactual",
    reference: Reference | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> Judged[CircuitTests]:
    """Test whether a circuit is equivalent to the model, solely responsible, minimal, and better than chance.

    Args:
        lm: the model that the circuit belongs to.
        task: pairs on which the circuit was not found; about 50 or more, if anything is to be told from them.
        circuit: the circuit.
        draws: random circuits, and random ways added to the circuit.
        edges: at most so many of the circuit's edges are tested for minimality, drawn at random; None: all.
        margin: how far P(circuit does better) may be from ½.
        quantile: share of random edges (circuits) that an edge (the circuit) should exceed.
        alpha: level of each test.
        permutations: of the independence test.
        seed: of all draws (and of resampling); draw k does not depend on how many are made.
        ablation: what removed edges carry, and `reference`: the set it is taken from; see `vc.faithfulness`. "optimal"
            learns constants for every circuit that is run.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `CircuitTests`: the null hypotheses, statistics, p-values and what they mean; see the module.

    Raises:
        CircuitError: a circuit of another model or graph, an empty one, or the whole graph (which is the model itself).
        MethodError: options out of range.
        GapError, ContractError, NumericsError, OutOfMemoryError: see `run_circuits`.

    Cost: 2 + 3 · draws + edges runs of circuits, one of them of nearly the whole graph, the others of about the
    circuit's size.

    >>> tests = vc.circuits.tests(lm, held_out, circuit)
    >>> tests["minimality"], tests.idle
    """
    mask, whole = mask_to_test(lm, circuit), all_edges_mask(lm.graph)
    require_count(draws=draws, permutations=permutations)
    if edges is not None:
        require_count(edges=edges)
    if not (0 <= margin < 0.5 and 0 < quantile < 1 and 0 < alpha < 1):
        raise MethodError(
            f"margin={margin}, quantile={quantile}, alpha={alpha}: margin lies in [0, ½), the others between 0 and 1."
        )
    if (mask == whole).all():
        raise CircuitError(
            "The circuit is the whole graph: its run is the model's own, and there is nothing to test. Select fewer "
            "edges."
        )
    tested = circuit.edges[np.sort(np.random.default_rng([seed, 2]).permutation(len(circuit))[:edges])]
    masks = _masks(lm, mask, tested.writer, tested.reader, draws, seed)
    how: dict[str, Any] = {"ablation": ablation, "reference": reference, "seed": seed}
    judge = _Tests(
        lm, tuple(tested.names), len(circuit), edges, draws, margin, quantile, alpha, permutations, seed
    ).judge
    what = f"runs of a circuit, of {3 * draws:,} by chance and without each of {len(tested):,} edges"
    return Judged(CircuitRuns.of(lm, task, masks, **how), judge, what)


FORMAT = "veracausa-circuit-tests-1"
#: Fields of the tests that their file's header holds as they are, and those that are arrays.
PLAIN = ("alpha", "pairs", "size", "edges", "f", "idle_p", "model", "task", "settings")
ARRAYS = ("effect", "beaten", "corrected", "random_effect", "random_f")


def _masks(lm: Model, mask: Mask, writer: np.ndarray, reader: np.ndarray, draws: int, seed: int) -> list[Mask]:
    """The circuit, all but it, random circuits, inflated circuits, these without a random edge, each edge removed."""
    graph, size = lm.graph, int(mask.sum())
    randoms = [random_circuit(graph, size, np.random.default_rng([seed, 0, draw])) for draw in range(draws)]
    larger, smaller = [], []
    for draw in range(draws):
        more, edge = inflated(graph, mask, np.random.default_rng([seed, 1, draw]))
        larger.append(more)
        smaller.append(more.copy())
        smaller[-1][edge] = False
    return [mask, all_edges_mask(graph) & ~mask, *randoms, *larger, *smaller, *without_edges(mask, writer, reader)]


def _steady(values: np.ndarray, floor: float) -> np.ndarray:
    """The values; their mean, if they differ by no more than rounding."""
    return np.full_like(values, values.mean()) if np.ptp(values) <= floor else values


def _equivalence(own: np.ndarray, full: np.ndarray, floor: float, margin: float, alpha: float) -> Verdict:
    moved = np.abs(own - full) > floor
    wins, n = int((own > full)[moved].sum()), int(moved.sum())
    p = sign_test(wins, n, margin)
    rejected = p <= alpha
    holds: bool | None = not rejected
    if not n:
        meaning = "circuit and model are equal on every pair"
    elif rejected:
        meaning = f"the circuit does {'better' if 2 * wins > n else 'worse'} than the model too often"
    elif sign_test(len(own), len(own), margin) > alpha:
        meaning, holds = f"{len(own)} pairs are too few to tell: even all of them on one side would not reject", None
    else:
        meaning = "neither does better more often than the margin allows"
    seen = f"the circuit does better on {wins} of {n} pairs, {len(own) - n} ties"
    return Verdict("equivalence", f"|P(circuit does better) − ½| ≤ {margin:g}", seen, p, rejected, holds, meaning)


def _independence(
    rest: np.ndarray, full: np.ndarray, idle_p: float, permutations: int, seed: int, alpha: float
) -> Verdict:
    statistic, p = hsic_test(rest, full, permutations=permutations, seed=seed)
    rejected = p <= alpha
    holds: bool | None = not rejected
    if rejected and idle_p <= alpha:
        meaning, holds = "says nothing: the run with nothing kept follows the model's metric, too", None
    elif rejected:
        meaning = "without the circuit the model's behaviour still shows"
    elif np.ptp(rest) == 0 and len(rest) > 1:
        meaning = "without the circuit M is the same on every pair"
    elif math.factorial(min(len(full), 20)) * alpha < 1 or (1 + permutations) * alpha < 1:
        meaning, holds = "too few pairs or permutations to tell", None
    else:
        meaning = "without the circuit nothing of the model's behaviour shows"
    seen = f"HSIC {statistic:.4f}, {permutations:,} permutations; with nothing kept p = {idle_p:.3g}"
    return Verdict("independence", "M without the circuit ⫫ M of the model", seen, p, rejected, holds, meaning)


def _minimality(beaten: np.ndarray, corrected: np.ndarray, draws: int, quantile: float, alpha: float) -> Verdict:
    idle, n = int((corrected <= alpha).sum()), len(corrected)
    holds: bool | None = not idle
    if idle:
        meaning = f"{idle:,} of {n:,} edges do no more than edges that came in by chance"
    elif n * (1 - quantile) ** draws > alpha:
        meaning, holds = f"{draws} draws are too few to tell for {n:,} edges", None
    else:
        meaning = f"no edge of {n:,} does less than random edges do"
    seen = f"the weakest edge beats {beaten.min()} of {draws} random ones, the median one {int(np.median(beaten))}"
    null = f"every edge beats a random one with P ≥ {quantile:g}"
    return Verdict("minimality", null, f"{seen}; Bonferroni", float(corrected.min()), idle > 0, holds, meaning)


def _random(distance: float, distances: np.ndarray, quantile: float, alpha: float) -> Verdict:
    beaten, p = often_closer(distance, distances, quantile)
    rejected, n = p <= alpha, len(distances)
    holds: bool | None = rejected
    if rejected:
        meaning = "closer to the model than nearly all random circuits of its size"
    elif quantile**n > alpha:
        meaning, holds = f"{n} draws are too few to tell: take {math.ceil(math.log(alpha) / math.log(quantile))}", None
    else:
        meaning = "not clearly closer to the model than random circuits of its size"
    seen = f"distance {distance:.3f} of the gap, closer than {beaten} of {n} (their median {np.median(distances):.3f})"
    return Verdict("random", f"the circuit is closer than a random one with P ≤ {quantile:g}", seen, p, rejected, holds,
                   meaning)  # fmt: skip

"""From a task to a circuit in one call: score the edges, select, check, and evaluate on pairs that were held out.

The pairs are split; edges are scored and selected on one part, and the circuit is run on the other, so that it is not
judged by what it was fitted to. The scores get a receipt (exact effects of the strongest edges and of a random sample),
the selection its stability over bootstrap draws, and the evaluation a random ranking beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.attribution.estimate import attribute
from veracausa.attribution.exact import exact
from veracausa.attribution.methods import Method
from veracausa.attribution.receipts import Receipt
from veracausa.attribution.scores import Scores
from veracausa.attribution.verify import verify
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.curve import SIZES, require_sizes
from veracausa.circuits.evaluation import Evaluation, measured, seen_by
from veracausa.circuits.forecast import running, scoring, timed, verifying
from veracausa.circuits.iterated import iterate
from veracausa.circuits.learned import learn_edges
from veracausa.circuits.select import ranked_by, select
from veracausa.circuits.stability import CircuitStability, circuit_stability
from veracausa.engine.guard import borrowed
from veracausa.errors import MethodError
from veracausa.forecast import Step, after, told
from veracausa.progress import announce, duration
from veracausa.statistics.bootstrap import LEAST
from veracausa.storage.files import at
from veracausa.storage.origin import model_header

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: The name of the evaluation that a discovery makes itself.
HELD_OUT = "held-out"
#: The folder of unfinished pieces.
PIECES = "pieces"
#: Exact effects that a receipt takes where nothing else is asked for: of the strongest edges, and of a random sample.
TOP, SAMPLE = 100, 50
#: Bootstrap draws of the selection's stability.
_DRAWS = 50


@dataclass(frozen=True, eq=False)
class Discovery:
    """A circuit, where it comes from, and what it is worth.

    `asked`: all that the call was asked for. `task`: the pairs that the edges were scored and selected on; `scores`,
    `circuit`: of them. `receipt`: exact effects that check the scores (None: not verified, or exact already).
    `stability`: of the selection (None: a single pair, one ranking for all pairs, or an integer program). `evaluation`:
    on the pairs that were held out; `further`: what `vc.evaluate` added. `steps`: what each step cost; `plan`: what it
    was forecast to cost.

    >>> found = vc.discover(lm, vc.tasks.ioi(lm, n=32), edges=200, out="out/")
    >>> found.circuit, found.evaluation.circuit.f, found.save("out/")
    """

    asked: dict[str, Any]
    task: Task
    scores: Scores
    circuit: Circuit
    receipt: Receipt | None
    stability: CircuitStability | None
    evaluation: Evaluation
    further: tuple[Evaluation, ...]
    steps: tuple[Step, ...]
    plan: tuple[Step, ...]
    versions: dict[str, str]
    machine: str
    date: str
    command: str
    seconds: float

    @property
    def verified(self) -> str:
        """How far the scores can be trusted: the receipt in a line, "exact effects", or "not verified"."""
        return self.scores.verified

    @property
    def checked(self) -> int:
        """How many of the circuit's edges have a known exact effect."""
        return int(self.edges()["exact"].notna().sum())

    def edges(self) -> pd.DataFrame:
        """One row per kept edge, the strongest first.

        Columns: name, writer, reader, layer, importance, stderr, share (importance / mean gap), exact (the exact
        importance, where it was verified), chosen (share of the bootstrap draws that keep the edge).
        """
        table = self.circuit.to_pandas()
        place = {name: i for i, name in enumerate(self.scores.units.names)}
        rows = [place[name] for name in table["name"]]
        if self.scores.per_example:  # ranks have neither an error nor a share of the gap
            table["stderr"] = self.scores.stderr().double().numpy()[rows]
        if self.scores.has_shares:
            table["share"] = table["importance"] / float(self.scores.gap.mean())
        truth = self._exact()
        table["exact"] = [truth.get(name, float("nan")) for name in table["name"]]
        if self.stability is not None:
            table["chosen"] = self.stability.probability[rows]
        return table.sort_values("importance", key=lambda x: -x.abs(), kind="stable").reset_index(drop=True)

    def describe(self) -> str:
        """The discovery in a few lines: circuit, faithfulness, areas, trust, stability, cost."""
        found, curve, chance = self.evaluation.circuit, self.evaluation.curve, self.evaluation.random_curve
        error = {name: f" ± {value:.3f}" if value == value else "" for name, value in curve.stderr().items()}
        lines = [
            *(line for line in self.circuit.describe().splitlines() if not line.startswith("trust")),
            f"pairs   selected on {len(self.task):,}, evaluated on {len(self.evaluation.task):,}; "
            f"{self.evaluation.held_out}",
            *found.describe().splitlines()[1:],
            f"random  f = {self.evaluation.random.f:.3f} for a random ranking, selected in the same way",
            f"areas   over {len(curve.sizes)} sizes: CPR {curve.cpr:.3f}{error['cpr']} (random {chance.cpr:.3f}), "
            f"CMD {curve.cmd:.3f}{error['cmd']} (random {chance.cmd:.3f}); log axis {curve.cpr_log:.3f}"
            f"{error['cpr_log']} ({chance.cpr_log:.3f}), {curve.cmd_log:.3f}{error['cmd_log']} ({chance.cmd_log:.3f})",
            f"trust   {self.verified}",
            f"        exact effects are known of {self.checked:,} of the circuit's {len(self.circuit):,} edges",
        ]
        if self.stability is not None:
            lines.append(
                f"stable  mean Jaccard {self.stability.jaccard:.2f} between the circuits of {self.stability.draws} "
                "bootstrap draws"
            )
        cost = sum(step.token_layers for step in self.steps)
        lines.append(f"cost    {cost:,.0f} token-layers, {duration(self.seconds)}")
        return "\n".join(lines)

    def save(self, out: str | Path) -> Path:
        """Write the folder with scores, circuit, tables and the offline page; returns the path of report.html.

        run.json, pairs.json (those selected on), scores.safetensors, circuit.json, circuit.graphml, edges.csv,
        receipt.safetensors; for each evaluation a folder with pairs.json, faithfulness.csv, curve.csv and what they
        were made from; figures as PNG. `vc.load_discovery` reads it. Every file is whole or absent; report.html is
        written last.

        Raises:
            FileError: the folder cannot be written, or belongs to something else.
        """
        from veracausa.circuits.discovery_files import save_discovery

        return save_discovery(self, at(out))

    def __repr__(self) -> str:
        return self.describe()

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.describe())}</pre>{self.edges()[:10].to_html(index=False)}"

    def _exact(self) -> dict[str, float]:
        """Name of each verified edge → its exact importance."""
        known = self.receipt.exact if self.receipt else self.scores if self.scores.method == "exact" else None
        if known is None:
            return {}
        return dict(zip(known.units.names, known.importance().double().tolist(), strict=True))


def discover(
    lm: Model,
    task: Task,
    *,
    method: str | Method = "eap-ig",
    edges: int = 200,
    how: str = "connected",
    by: str | None = None,
    held_out: Task | None = None,
    sizes: Sequence[float] = SIZES,
    top: int = TOP,
    sample: int = SAMPLE,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Discovery:
    """Find the circuit of a behaviour, check its scores, and evaluate it on pairs that it was not selected on.

    Args:
        lm: the model.
        task: the prompt pairs. Without `held_out` half of them are held out (a single pair cannot be split: then the
            circuit is evaluated on it, and every output says so).
        method: what scores the edges: a method of edges ("eap", "eap-ig", "eap-gp", …), a `vc.Method`, "iterated"
            (scored anew in the shrinking circuit), "learned" (gates for all sizes, `vc.learn_edges`), or "exact" (exact
            effects of all edges). "ifr" has no receipt.
        edges: edges asked for; pruning dead ends may leave fewer.
        how: how they are selected: "connected", "greedy", "top", "abs" or "optimal"; by: see `vc.select`.
        by: see `vc.select`.
        held_out: other pairs to evaluate on; then all of `task` is selected on.
        sizes: shares of the edges at which the ranking's curve is taken.
        top: exact effects of this many of the strongest edges by |score|,
        sample: and of this many others, drawn at random, make the receipt; both 0: the scores stay "not verified".
        seed: of the split, of the sample, of the random ranking and of the bootstrap.
        out: keep finished pieces in this folder: an interrupted call with the same arguments continues from them.
            `Discovery.save(out)` writes the rest, and the page.
        show_progress: show what it will cost, then progress bars.

    Returns:
        `Discovery`. Importances are positive where an edge supports the behaviour (−E).

    Raises:
        MethodError: unknown methods, ways of selecting, sizes, numbers of edges. GapError: no gap on either part.
        FileError: `out` holds another discovery, another command's results, or a damaged piece.
        ContractError, NumericsError, OutOfMemoryError: as for `vc.exact`.

    >>> found = vc.discover(lm, vc.tasks.ioi(lm, n=32), method="eap-ig", edges=200)
    >>> found.evaluation.circuit.f
    """
    from veracausa.circuits import discovery_files as files
    from veracausa.comparison.origin import command, machine, versions

    began = time.monotonic()
    if how == "iterated":
        raise MethodError("how='iterated' is a way of scoring here: take method='iterated', how='top' or 'connected'.")
    by = ranked_by(how, by, edges, lm.graph.size)
    require_sizes(sizes)
    if min(top, sample, seed) < 0:
        raise MethodError(f"top={top}, sample={sample}, seed={seed}: they are 0 or more.")
    chosen, other = _parts(task, held_out, seed)
    work = _plan(lm, chosen, other, method, len(sizes), _checks(method, top, sample, lm.graph.size))
    asked = {
        "method": method if isinstance(method, str) else asdict(method),
        "edges": edges,
        "how": how,
        "by": by,
        "sizes": list(sizes),
        "top": top,
        "sample": sample,
        "seed": seed,
        "model": model_header(lm),
        "selected on": {"description": chosen.describe(), "digest": chosen.digest()},
        "evaluated on": {"description": other.describe(), "digest": other.digest()},
        "version": versions()["veracausa"],
    }
    parts = {part.digest(): part for part in (chosen, other)}
    ends = {digest: lm.measure(part) for digest, part in parts.items()}
    for digest, part in parts.items():
        ends[digest].require_gap(part)
    folder = None if out is None else files.claim(at(out), asked)
    with borrowed(lm.decoder):
        work = timed(lm, chosen, work) if show_progress else work
        announce(told(work, "selecting the circuit", "drawing the page"), show_progress)
        scores = files.kept_scores(
            lm,
            ends[chosen.digest()],
            folder,
            asked,
            lambda: score(lm, chosen, method, edges, seed, folder, show_progress),
        )
        steps = [Step.done(work[0].what, work[0].kind, scores.cost)]
        announce(after(work, steps), show_progress)
        circuit = select(scores, n=edges, how=how, by=by)
        stability = stability_of(scores, edges, how, by, seed)
        receipt = None
        if _checks(method, top, sample, lm.graph.size):
            receipt = verify(
                lm, chosen, scores, top=top, sample=sample, seed=seed,
                out=folder and folder / PIECES, show_progress=show_progress,
            )  # fmt: skip
            scores = receipt.scores
            circuit = replace(circuit, settings={**circuit.settings, "verified": scores.verified})
            steps.append(Step.done(work[1].what, work[1].kind, receipt.exact.cost))
            announce(after(work, steps), show_progress)
        evaluation = measured(
            lm, HELD_OUT, other, circuit, scores, seen=seen_by(other, chosen), sizes=sizes, seed=seed,
            folder=folder and files.place(folder, HELD_OUT), now=ends[other.digest()], show_progress=show_progress,
        )  # fmt: skip
    runs = (evaluation.circuit, evaluation.curve.signed[0], evaluation.random, evaluation.random_curve.signed[0])
    steps += [Step.done(plan.what, plan.kind, one.cost) for plan, one in zip(work[-4:], runs, strict=True)]
    return Discovery(
        asked=asked,
        task=chosen,
        scores=scores,
        circuit=circuit,
        receipt=receipt,
        stability=stability,
        evaluation=evaluation,
        further=(),
        steps=tuple(steps),
        plan=tuple(work),
        versions=versions(),
        machine=machine(lm),
        date=date.today().isoformat(),
        command=command(),
        seconds=time.monotonic() - began,
    )


def score(
    lm: Model, task: Task, method: str | Method, edges: int, seed: int, folder: Path | None, show_progress: bool
) -> Scores:
    """Scores of all edges by a method of edges, "iterated", "learned" or "exact"."""
    if method == "exact":
        return exact(lm, task, units="edges", out=folder and folder / PIECES, show_progress=show_progress)
    if method == "iterated":
        return iterate(lm, task, show_progress=show_progress)
    if method == "learned":
        return learn_edges(lm, task, how="top-k", keep=edges, seed=seed, show_progress=show_progress)
    return attribute(lm, task, units="edges", method=method, show_progress=show_progress)


def _parts(task: Task, held_out: Task | None, seed: int) -> tuple[Task, Task]:
    """The pairs to select on, and those to evaluate on."""
    if held_out is not None:
        return task, held_out
    return (task, task) if len(task) == 1 else task.split(0.5, seed)


def _checks(method: str | Method, top: int, sample: int, size: int) -> int:
    """How many exact effects the receipt takes; exact scores need none, and shares of a sum have no exact effect."""
    return 0 if method in ("exact", "ifr") else min(top + sample, size)


def _plan(lm: Model, chosen: Task, other: Task, method: str | Method, sizes: int, checks: int) -> list[Step]:
    """The steps of a discovery with their costs; a MethodError for what cannot be done."""
    return [
        scoring(lm, chosen, method),
        *([verifying(lm, chosen, checks)] if checks else []),
        running(lm, other, 1, "the circuit"),
        running(lm, other, 2 * sizes, "the curve"),
        running(lm, other, 1, "a random circuit"),
        running(lm, other, sizes, "a random curve"),
    ]


def stability_of(scores: Scores, edges: int, how: str, by: str, seed: int) -> CircuitStability | None:
    """Stability where it is cheap and means something."""
    if how == "optimal" or scores.n < LEAST or not scores.per_example:
        return None
    return circuit_stability(scores, n=edges, how=how, by=by, draws=_DRAWS, seed=seed)

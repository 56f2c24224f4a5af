"""What `vc.discover` returns: the scores, the circuit, its evaluations and what it says about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.choices import EdgeRanking, Selection
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.selection.stability import CircuitStability, stability
from veracausa.cost import Cost, Step
from veracausa.discovery.evaluation import Evaluation
from veracausa.doors import through
from veracausa.progress import duration
from veracausa.receipts.receipts import Receipt
from veracausa.result import Paged
from veracausa.scores.scores import Scores
from veracausa.statistics.bootstrap import LEAST
from veracausa.storage.files import at

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.tasks.task import Task


#: The name of the evaluation that a discovery makes itself.
HELD_OUT = "held-out"


#: Bootstrap draws of the selection's stability.
_DRAWS = 50


@dataclass(frozen=True, eq=False)
class Discovery(Paged):
    """A circuit, where it comes from, and what it is worth.

    `asked`: all that the call was asked for. `pairs`: those that the edges were scored and selected on; `scores`,
    `circuit`: of them. `receipt`: exact effects that check the scores (None: not verified, or exact already).
    `stability`: of the selection (None: a single pair, one ranking for all pairs, or an integer program).
    `by_position`: the circuit's edges scored at every position (None: not asked for). `evaluation`: on the pairs that
    were held out; `further`: what `vc.discovery.evaluate` added. `steps`: what each step cost; `plan`: what it was
    forecast to cost.

    >>> found = vc.discover(lm, vc.tasks.ioi(lm, n=32), edges=200, out="out/")
    >>> found.circuit, found.evaluation.circuit.f, found.save("out/")
    """

    asked: dict[str, Any]
    pairs: Task
    scores: Scores
    circuit: Circuit
    receipt: Receipt | None
    stability: CircuitStability | None
    by_position: Scores | None
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
    def model(self) -> dict[str, str]:
        """The model of the scores."""
        return self.scores.model

    @property
    def task(self) -> dict[str, Any]:
        """The header of the pairs that the edges were selected on."""
        return self.scores.task

    @property
    def settings(self) -> dict[str, Any]:
        """All that was asked for."""
        return self.asked

    @property
    def cost(self) -> Cost:
        """Of scores, receipt and all evaluations; an interrupted step counts what it spent before."""
        known = [one.cost for one in (self.scores, self.by_position, self.receipt) if one is not None]
        return sum((one.cost for one in (self.evaluation, *self.further)), start=sum(known, start=Cost()))

    def __or__(self, other: Any) -> Any:
        """Both side by side, of discoveries and circuits: edges of both, of one only, ranks, f at equal sizes.

        >>> (vc.open("out/eap") | vc.open("out/eap-ig")).page("compared.html")
        """
        return through("Circuit.beside", self, other)

    @property
    def verified(self) -> str:
        """How far the scores can be trusted: the receipt in a line, "exact effects", or "not verified"."""
        return self.scores.verified

    @property
    def checked(self) -> int:
        """How many of the circuit's edges have a known exact effect."""
        return int(self.table()["exact"].notna().sum())

    def table(self) -> pd.DataFrame:
        """One row per kept edge, the strongest first.

        Columns: name, writer, reader, layer, importance, stderr, share (importance / mean gap), exact (the exact
        importance, where it was verified), chosen (share of the bootstrap draws that keep the edge).
        """
        table = self.circuit.table()
        place = {name: i for i, name in enumerate(self.scores.units.names)}
        rows = [place[name] for name in table["name"]]
        if self.scores.per_example:  # ranks have neither an error nor a share of the gap
            table["stderr"] = self.scores.stderr().double().numpy()[rows]
        if self.scores.has_shares:
            table["share"] = table["importance"] / float(self.scores.gap.mean())
        truth = self.exact()
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
            f"pairs   selected on {len(self.pairs):,}, evaluated on {len(self.evaluation.pairs):,}; "
            f"{self.evaluation.held_out}",
            *found.describe().splitlines()[1:],
            f"random  f = {self.evaluation.random.f:.3f} for a random ranking, selected in the same way",
            f"areas   over {len(curve.sizes)} sizes: CPR {curve.cpr:.3f}{error['cpr']} (random {chance.cpr:.3f}), "
            f"CMD {curve.cmd:.3f}{error['cmd']} (random {chance.cmd:.3f}); log axis {curve.cpr_log:.3f}"
            f"{error['cpr_log']} ({chance.cpr_log:.3f}), {curve.cmd_log:.3f}{error['cmd_log']} ({chance.cmd_log:.3f})",
            *([self.evaluation.attack.radii()] if self.evaluation.attack else []),
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

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the circuit restores on pairs that were held out, beside chance, and how far its scores are verified."""
        known = f"Exact effects are known of {self.checked:,} of its {len(self.circuit):,} edges: {self.verified}."
        stable = self.stability
        steady = (
            [f"Circuits of {stable.draws} bootstrap draws share {stable.jaccard:.2f} of their edges (Jaccard)."]
            if stable
            else []
        )
        return (*self.evaluation.sentences, known, *steady)

    def save(self, path: str | Path) -> Path:
        """Write the folder with scores, circuit, tables and the offline page; returns the path of report.html.

        run.json, pairs.json (those selected on), scores.safetensors, circuit.json, circuit.graphml, edges.csv,
        positions.safetensors (where asked for), receipt.safetensors; for each evaluation a folder with pairs.json,
        faithfulness.csv, curve.csv and what they were made from; figures as PNG. `vc.open` reads it. Every file is
        whole or absent; report.html is written last.

        Raises:
            FileError: the folder cannot be written, or belongs to something else.
        """
        saved: Path = through("Discovery.save", self, at(path))
        return saved

    def __repr__(self) -> str:
        return self.describe()

    def exact(self) -> dict[str, float]:
        """Name of each verified edge → its exact importance."""
        known = self.receipt.exact if self.receipt else self.scores if self.scores.method == "exact" else None
        if known is None:
            return {}
        return dict(zip(known.units.names, known.importance().double().tolist(), strict=True))


def stability_of(scores: Scores, edges: int, how: Selection, by: EdgeRanking, seed: int) -> CircuitStability | None:
    """Stability where it is cheap and means something."""
    if how == "optimal" or scores.n < LEAST or not scores.per_example:
        return None
    return stability(scores, n=edges, how=how, by=by, draws=_DRAWS, seed=seed)

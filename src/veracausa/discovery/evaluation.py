"""What a circuit and the ranking that it was selected from are worth on some pairs, beside a random ranking.

Four runs over the same pairs: the circuit; the curve of the ranking; a circuit selected in the same way from a random
ranking of the same edges; the curve of that ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ablation, Selection
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.quality.curve import Curve, curve, pack_curve
from veracausa.circuits.quality.faithfulness import Faithfulness, faithfulness, pack_runs
from veracausa.circuits.quality.files import load_curve, load_faithfulness
from veracausa.circuits.runs.run_circuits import Judged
from veracausa.circuits.selection.select import select
from veracausa.errors import FileError
from veracausa.result import Shown
from veracausa.scores.scores import Scores
from veracausa.statistics.means import mean_of_known
from veracausa.storage.files import keep, write_tensors
from veracausa.storage.origin import require_same_ends
from veracausa.tasks.task import task_content
from veracausa.words import sentence, share

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.cost import Cost
    from veracausa.model import Model
    from veracausa.tasks.measurement import Measurement
    from veracausa.tasks.task import Task

#: Files of an evaluation in its folder, without their ending.
CIRCUIT, CURVE, RANDOM, RANDOM_CURVE = "circuit", "curve", "random-circuit", "random-curve"
#: … in words, in the order in which they are run.
PARTS = {CIRCUIT: "the circuit", CURVE: "the curve", RANDOM: "a random circuit", RANDOM_CURVE: "a random curve"}
_T = TypeVar("_T", Faithfulness, Curve)


@dataclass(frozen=True, eq=False)
class Evaluation(Shown):
    """A circuit on some pairs.

    `name`: of its folder and section. `seen`: how many of the `pairs` the selection saw, too. `circuit`, `curve`: of
    the circuit and of the ranking that it comes from; `random`, `random_curve`: the same from a random ranking.

    >>> found = vc.discover(lm, task).evaluation
    >>> found.circuit.f, found.random.f, found.table()
    """

    name: str
    pairs: Task
    seen: int
    circuit: Faithfulness
    curve: Curve
    random: Faithfulness
    random_curve: Curve

    @property
    def model(self) -> dict[str, str]:
        """The model that was run."""
        return self.circuit.model

    @property
    def task(self) -> dict[str, Any]:
        """The pairs' header."""
        return self.circuit.task

    @property
    def settings(self) -> dict[str, Any]:
        """The ablation, and what it depends on."""
        return self.circuit.settings

    @property
    def cost(self) -> Cost:
        """Of all four runs."""
        return self.circuit.cost + self.curve.cost + self.random.cost + self.random_curve.cost

    @property
    def ablation(self) -> str:
        """What stands in the place of edges that are not kept."""
        return self.circuit.ablation

    @property
    def held_out(self) -> str:
        """In words, whether the selection saw these pairs."""
        if not self.seen:
            return "held out: the selection saw none of these pairs"
        if self.seen == len(self.pairs):
            return "not held out: the circuit was selected on these very pairs"
        return f"not all held out: the selection saw {self.seen:,} of these {len(self.pairs):,} pairs"

    def table(self) -> pd.DataFrame:
        """The circuit and its ranking beside the random ones: edges, f, its error, KL, NDF, CPR, CMD, both also log."""
        import pandas as pd

        rows = []
        for ranking, one, areas in (
            (self.curve.method, self.circuit, self.curve),
            ("random ranking", self.random, self.random_curve),
        ):
            rows.append(
                {
                    "ranking": ranking,
                    "edges": one.edges,
                    "f": one.f,
                    "stderr": one.stderr(),
                    "KL": float(one.kl.mean()),
                    "NDF": mean_of_known(one.ndf),
                    "CPR": areas.cpr,
                    "CMD": areas.cmd,
                    "CPR log": areas.cpr_log,
                    "CMD log": areas.cmd_log,
                }
            )
        return pd.DataFrame(rows)

    def by_pair(self) -> pd.DataFrame:
        """One row per pair: prompts, M of the circuit and of both bare runs, f, KL, NDF, the random circuit's f."""
        import pandas as pd

        found, task = self.circuit, self.pairs
        return pd.DataFrame(
            {
                "pair": range(len(task)),
                "clean": [task.clean_text[i] or "".join(task.tokens(i)[0]) for i in range(len(task))],
                "corrupted": [task.corrupted_text[i] or "".join(task.tokens(i)[1]) for i in range(len(task))],
                "metric": found.metric.numpy(),
                "full": found.measured.clean.numpy(),
                "none": found.measured.corrupted.numpy(),
                "f": found.per_example.numpy(),
                "KL": found.kl.numpy(),
                "NDF": found.ndf.numpy(),
                "f random": self.random.per_example.numpy(),
            }
        )

    def sizes(self) -> pd.DataFrame:
        """`Curve.table` of the ranking and of the random one, one below the other."""
        import pandas as pd

        tables = []
        for name, one in ((self.curve.method, self.curve), ("random", self.random_curve)):
            table = one.table()
            table.insert(0, "scores", name)
            tables.append(table[table["ranking"] == "signed"] if name == "random" else table)
        return pd.concat(tables, ignore_index=True)

    def keep(self, folder: Path) -> None:
        """Write what was run, file by file."""
        self.circuit.save(folder / f"{CIRCUIT}.safetensors")
        self.curve.save(folder / f"{CURVE}.safetensors")
        self.random.save(folder / f"{RANDOM}.safetensors")
        self.random_curve.save(folder / f"{RANDOM_CURVE}.safetensors")

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        parts = {CIRCUIT: pack_runs((self.circuit,)), CURVE: pack_curve(self.curve)}
        parts |= {RANDOM: pack_runs((self.random,)), RANDOM_CURVE: pack_curve(self.random_curve)}
        header: dict[str, Any] = {name: own for name, (own, _) in parts.items()}
        header |= {"name": self.name, "seen": self.seen, "pairs": task_content(self.pairs)}
        tensors = {f"{name}/{key}": one for name, (_, own) in parts.items() for key, one in own.items()}
        return write_tensors(path, FORMAT, header, tensors)

    def describe(self) -> str:
        """The figures in a few lines."""
        table = self.table().round(4).to_string(index=False)
        return "\n".join([self.pairs.describe(), self.held_out, self.circuit.describe(), table])

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the circuit restores, what a random one does, and whether the selection saw these pairs."""
        chance = f"A random circuit of that making restores {share(self.random.f, self.random.stderr())}."
        return (*self.circuit.sentences, chance, sentence(self.held_out))

    def __repr__(self) -> str:
        return self.describe()


FORMAT = "veracausa-evaluation-1"


@dataclass(eq=False)
class Evaluating:
    """An evaluation on its way: the `work` of each of its four parts, and what is `found`.

    `folder`: parts are kept there, and read if they are there. `now`: what the bare model gives, if that is known.
    """

    name: str
    task: Task
    seen: int
    work: dict[str, Judged[Faithfulness] | Judged[Curve]]
    folder: Path | None = None
    now: Measurement | None = None
    show: bool = True
    found: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        lm: Model,
        name: str,
        task: Task,
        circuit: Circuit,
        scores: Scores,
        *,
        seen: int,
        sizes: Sequence[float],
        seed: int,
        ablation: Ablation = "counterfactual",
    ) -> Evaluating:
        """The circuit, the curve of its ranking, and both of a random ranking."""
        chance = random_ranking(scores, seed)
        how: dict[str, Any] = {"ablation": ablation, "seed": seed}
        work: dict[str, Judged[Faithfulness] | Judged[Curve]] = {
            CIRCUIT: faithfulness.work(lm, task, circuit, **how),
            CURVE: curve.work(lm, task, scores, sizes=sizes, **how),
            RANDOM: faithfulness.work(lm, task, alike(circuit, chance), **how),
            RANDOM_CURVE: curve.work(lm, task, chance, sizes=sizes, **how),
        }
        return cls(name, task, seen, work)

    def do(self, part: str) -> Cost:
        """Run one of the four, or read it from the folder; what it cost."""
        self.found[part] = self._read(part) or self._run(part)
        cost: Cost = self.found[part].cost
        return cost

    def result(self) -> Evaluation:
        """What was found, when all four are done."""
        return Evaluation(self.name, self.task, self.seen, *(self.found[part] for part in PARTS))

    def _run(self, part: str) -> Faithfulness | Curve:
        found = self.work[part].run(self.show)
        if self.folder is not None:
            path = self.folder / f"{part}.safetensors"
            keep(lambda: found.save(path))
        return found

    def _read(self, part: str) -> Faithfulness | Curve | None:
        path = None if self.folder is None else self.folder / f"{part}.safetensors"
        if path is None or not path.exists():
            return None
        load = load_faithfulness if part in (CIRCUIT, RANDOM) else load_curve
        found: Faithfulness | Curve = of_task(load(path), self.task, path)  # type: ignore[type-var]
        lm = self.work[part].lm
        self.now = self.now or lm.measure(self.task)
        require_same_ends(lm, _ends(_measured(found)), _ends(self.now), path)
        return found


def read(folder: Path, name: str, task: Task, seen: int) -> Evaluation:
    """An evaluation whose files are all there.

    Raises:
        FileError: a file is missing, damaged, cut short, or about other pairs.
    """
    circuits = [of_task(load_faithfulness(folder / f"{file}.safetensors"), task, folder) for file in (CIRCUIT, RANDOM)]
    curves = [of_task(load_curve(folder / f"{file}.safetensors"), task, folder) for file in (CURVE, RANDOM_CURVE)]
    return Evaluation(name, task, seen, circuits[0], curves[0], circuits[1], curves[1])


def random_ranking(scores: Scores, seed: int) -> Scores:
    """The same edges in random order, as magnitudes in (0, 1); one ranking for all pairs."""
    drawn = np.random.default_rng(seed).random((1, len(scores)))
    return replace(
        scores,
        values=torch.as_tensor(drawn, dtype=scores.values.dtype),
        clean=scores.clean[:1],
        corrupted=scores.corrupted[:1],
        method="random",
        settings={"direction": "noising", "seed": seed, "per_example": False, "unit": "rank"},
        completeness=None,
        draw_stderr=None,
        signed=False,
        notes=(),
    )


def alike(circuit: Circuit, ranking: Scores) -> Circuit:
    """What a ranking gives, selected from as the circuit was (by whole ways in place of the integer program)."""
    settings = circuit.settings
    how: Selection = "connected" if settings["how"] == "optimal" else settings["how"]
    return select(ranking, n=int(settings["asked"]), how=how, prune=bool(settings["pruned"]))


def seen_by(task: Task, other: Task) -> int:
    """How many pairs of a task another one has, too, prompt by prompt."""
    known = set(zip(other.clean, other.corrupted, strict=True))
    return sum(pair in known for pair in zip(task.clean, task.corrupted, strict=True))


def _measured(found: Faithfulness | Curve) -> Measurement:
    return (found.signed[0] if isinstance(found, Curve) else found).measured


def _ends(measured: Measurement) -> Tensor:
    return torch.stack([measured.clean, measured.corrupted])


def of_task(found: _T, task: Task, path: Path) -> _T:
    """What was read, if it is about this task: its pairs, answers and metric."""
    one = found.signed[0] if isinstance(found, Curve) else found
    if one.task["digest"] != task.digest():
        raise FileError(
            f"{path} is about {one.task['description']!r} ({len(one.metric)} pairs), not about {task.describe()!r}. "
            "Delete it and run again."
        )
    return found

"""What a circuit and the ranking that it was selected from are worth on some pairs, beside a random ranking.

Four runs over the same pairs: the circuit; the curve of the ranking; a circuit selected in the same way from a random
ranking of the same edges; the curve of that ranking. Where it is asked for, an adversary tries which of the other
edges, restored, change f (`circuits.attacks`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from veracausa.choices import Ablation, Selection
from veracausa.circuits.attacks.attack import Attack, pack_attack
from veracausa.circuits.attacks.attacking import AdversaryWork, adversary
from veracausa.circuits.attacks.files import load_attack
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.quality.curve import Curve, curve, pack_curve
from veracausa.circuits.quality.faithfulness import Faithfulness, faithfulness, pack_runs
from veracausa.circuits.quality.files import load_curve, load_faithfulness
from veracausa.circuits.runs.run_circuits import Judged
from veracausa.circuits.selection.select import select
from veracausa.discovery.steps import PIECES
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
CIRCUIT, CURVE, RANDOM, RANDOM_CURVE, ATTACK = "circuit", "curve", "random-circuit", "random-curve", "attack"
#: … in words, in the order in which they are run; the last one where it is asked for.
PARTS = {
    CIRCUIT: "the circuit", CURVE: "the curve", RANDOM: "a random circuit", RANDOM_CURVE: "a random curve",
    ATTACK: "an adversary",
}  # fmt: skip
_LOADS: dict[str, Callable[[Path], Faithfulness | Curve | Attack]] = {
    CIRCUIT: load_faithfulness, CURVE: load_curve, RANDOM: load_faithfulness, RANDOM_CURVE: load_curve,
    ATTACK: load_attack,
}  # fmt: skip
#: What an evaluation's adversary tries: less than `vc.circuits.adversary` by itself, whose largest sizes and free
#: weights are dear; every radius is narrowed down from these.
TRIED: dict[str, Any] = {
    "budgets": ("sparse", "bounded"), "sizes": (10, 30, 100, 300), "largest": (0.1, 0.3, 1.0),
}  # fmt: skip
NOT_TRIED = "No adversary was asked (attack=True, --attack) whether some of the other edges, restored, would change f."
_T = TypeVar("_T", Faithfulness, Curve, Attack)


@dataclass(frozen=True, eq=False)
class Evaluation(Shown):
    """A circuit on some pairs.

    `name`: of its folder and section. `seen`: how many of the `pairs` the selection saw, too. `circuit`, `curve`: of
    the circuit and of the ranking that it comes from; `random`, `random_curve`: the same from a random ranking.
    `attack`: what an adversary made of the edges outside, on these pairs (None: it was not asked for).

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
    attack: Attack | None = None

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
        """Of all runs."""
        found = self.circuit.cost + self.curve.cost + self.random.cost + self.random_curve.cost
        return found + self.attack.cost if self.attack else found

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
        if self.attack is not None:
            self.attack.save(folder / f"{ATTACK}.safetensors")

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        parts = {CIRCUIT: pack_runs((self.circuit,)), CURVE: pack_curve(self.curve)}
        parts |= {RANDOM: pack_runs((self.random,)), RANDOM_CURVE: pack_curve(self.random_curve)}
        parts |= {ATTACK: pack_attack(self.attack)} if self.attack else {}
        header: dict[str, Any] = {name: own for name, (own, _) in parts.items()}
        header |= {"name": self.name, "seen": self.seen, "pairs": task_content(self.pairs)}
        tensors = {f"{name}/{key}": one for name, (_, own) in parts.items() for key, one in own.items()}
        return write_tensors(path, FORMAT, header, tensors)

    def describe(self) -> str:
        """The figures in a few lines."""
        table = self.table().round(4).to_string(index=False)
        radii = [self.attack.radii()] if self.attack else []
        return "\n".join([self.pairs.describe(), self.held_out, self.circuit.describe(), *radii, table])

    @property
    def attacked(self) -> tuple[str, ...]:
        """What the adversary needs to move f, and which pairs it chose by; none if it was not asked for."""
        chosen = "The adversary chose by these very pairs: on others the same edges may do less."
        return (*self.attack.said(), chosen) if self.attack else ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the circuit restores, what a random one does, if these pairs are new, what an adversary needs."""
        chance = f"A random circuit of that making restores {share(self.random.f, self.random.stderr())}."
        return (*self.circuit.sentences, chance, sentence(self.held_out), *self.attacked)

    def __repr__(self) -> str:
        return self.describe()


FORMAT = "veracausa-evaluation-1"


@dataclass(eq=False)
class Evaluating:
    """An evaluation on its way: the `work` of each of its parts, and what is `found`.

    `folder`: parts are kept there, and read if they are there. `now`: what the bare model gives, if that is known.
    """

    name: str
    task: Task
    seen: int
    work: dict[str, Judged[Faithfulness] | Judged[Curve] | AdversaryWork]
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
        attack: bool = False,
    ) -> Evaluating:
        """The circuit, the curve of its ranking, both of a random ranking, and an adversary if `attack`."""
        chance = random_ranking(scores, seed)
        how: dict[str, Any] = {"ablation": ablation, "seed": seed}
        work: dict[str, Judged[Faithfulness] | Judged[Curve] | AdversaryWork] = {
            CIRCUIT: faithfulness.work(lm, task, circuit, **how),
            CURVE: curve.work(lm, task, scores, sizes=sizes, **how),
            RANDOM: faithfulness.work(lm, task, alike(circuit, chance), **how),
            RANDOM_CURVE: curve.work(lm, task, chance, sizes=sizes, **how),
        }
        if attack:
            work[ATTACK] = adversary_of(lm, task, circuit, **how)
        return cls(name, task, seen, work)

    def do(self, part: str) -> Cost:
        """Run one of them, or read it from the folder; what it cost."""
        self.found[part] = self._read(part) or self._run(part)
        cost: Cost = self.found[part].cost
        return cost

    def result(self) -> Evaluation:
        """What was found, when all are done; an adversary's that an earlier call left in the folder stays."""
        every = self.found | ({} if ATTACK in self.found else {ATTACK: self._read(ATTACK)})
        return Evaluation(self.name, self.task, self.seen, *(every[part] for part in PARTS))

    def _run(self, part: str) -> Faithfulness | Curve | Attack:
        pieces = self.folder / PIECES if self.folder is not None and part == ATTACK else None
        found = self.work[part].run(self.show, pieces)
        if self.folder is not None:
            path = self.folder / f"{part}.safetensors"
            keep(lambda: found.save(path))
        return found

    def _read(self, part: str) -> Faithfulness | Curve | Attack | None:
        path = None if self.folder is None else self.folder / f"{part}.safetensors"
        if path is None or not path.exists():
            return None
        found: Faithfulness | Curve | Attack = of_task(_LOADS[part](path), self.task, path)  # type: ignore[type-var]
        lm, one = self.work[CIRCUIT].lm, _runs(found)
        self.now = self.now or lm.measure(self.task)
        require_same_ends(lm, _ends(one.measured, one.ablation), _ends(self.now, one.ablation), path)
        return found


def read(folder: Path, name: str, task: Task, seen: int) -> Evaluation:
    """An evaluation whose files are all there.

    Raises:
        FileError: a file is missing, damaged, cut short, or about other pairs.
    """
    circuits = [of_task(load_faithfulness(folder / f"{file}.safetensors"), task, folder) for file in (CIRCUIT, RANDOM)]
    curves = [of_task(load_curve(folder / f"{file}.safetensors"), task, folder) for file in (CURVE, RANDOM_CURVE)]
    path = folder / f"{ATTACK}.safetensors"
    attack = of_task(load_attack(path), task, path) if path.exists() else None
    return Evaluation(name, task, seen, circuits[0], curves[0], circuits[1], curves[1], attack)


def adversary_of(lm: Model, task: Task, circuit: Circuit, **how: Any) -> AdversaryWork:
    """The adversary of an evaluation; `how`: ablation and seed.

    Raises:
        MethodError: constants that are learned for one circuit mean nothing where others are restored.
    """
    return adversary.work(lm, task, circuit, **TRIED, **how)


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


def _runs(found: Faithfulness | Curve | Attack) -> Faithfulness | Attack:
    return found.signed[0] if isinstance(found, Curve) else found


def _ends(measured: Measurement, ablation: str) -> Tensor:
    """M of the bare runs: without any edge the corrupted one runs, unless something else is ablated to."""
    return torch.stack([measured.clean, *([measured.corrupted] if ablation == "counterfactual" else [])])


def of_task(found: _T, task: Task, path: Path) -> _T:
    """What was read, if it is about this task: its pairs, answers and metric."""
    one = _runs(found)
    if one.task["digest"] != task.digest():
        pairs = len(one.measured.clean)
        raise FileError(
            f"{path} is about {one.task['description']!r} ({pairs} pairs), not about {task.describe()!r}. "
            "Delete it and run again."
        )
    return found

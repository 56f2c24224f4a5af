"""`Specificity`: what ablating each circuit does to each task, beside random circuits of the same layer profile.

    damage(c, t) = 1 − (mean M(whole without c) − mean M(∅)) / (mean M(full) − mean M(∅))     over the pairs of task t

0: the task does without the circuit; 1: nothing of its gap is left; negative: the circuit worked against it. M(∅) is
the run in which all edges are ablated. A circuit is specific to a task where its damage there is larger than elsewhere,
and larger than that of random circuits with as many edges from each layer to each other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.circuits.runs.run_circuits import Ran
from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.statistics.ratios import ratios
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, reading, record, require_tensors, text, whole
from veracausa.tasks.measurement import Measurement
from veracausa.words import counted, listed, plain, share

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Specificity(Ran):
    """A matrix of circuits × tasks; see the module.

    `circuits`: their names; `kept`: how many edges, or units, each has (`of`); `tasks`: the tasks' headers by name;
    `metrics`: for every task M of the whole model without each circuit (draw 0) and without each of its random circuits
    (the others); `ends`: for every task M of the bare clean run and of the run without edges (of sets of units: of the
    bare corrupted run).

    >>> found = vc.circuits.specificity(lm, {"ioi": ioi, "greater-than": years}, {"ioi": circuit})
    >>> found.damage, found.table()
    """

    circuits: tuple[str, ...]
    kept: tuple[int, ...]
    tasks: dict[str, dict[str, Any]]
    metrics: tuple[Float[Tensor, "circuits draws examples"], ...]
    ends: tuple[Measurement, ...]
    cost: Cost
    model: dict[str, str]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> dict[str, Any]:  # type: ignore[override]
        """The first task's header; `tasks` has all."""
        return next(iter(self.tasks.values()))

    @property
    def of(self) -> str:
        """What is counted: "edges" of circuits, or the kind of units in sets of such."""
        return str(self.settings.get("of", "edges"))

    @property
    def _set(self) -> str:
        return "circuit" if self.of == "edges" else "set"

    @cached_property
    def _shares(self) -> tuple[Float[Tensor, "circuits draws tasks"], Float[Tensor, "circuits draws tasks"]]:
        """Damage by every circuit and random circuit, and its standard errors."""
        found = [
            ratios((metric - ends.corrupted).flatten(0, 1).T.double(), ends.gap)[:2]
            for metric, ends in zip(self.metrics, self.ends, strict=True)
        ]
        like = self.metrics[0].shape[:2]
        values, errors = (torch.stack([one[k].unflatten(0, like) for one in found], -1) for k in (0, 1))
        return 1 - values, errors

    @property
    def damage(self) -> Float[Tensor, "circuits tasks"]:
        """What ablating each circuit takes from each task, as a share of its gap."""
        return self._shares[0][:, 0]

    @property
    def stderr(self) -> Float[Tensor, "circuits tasks"]:
        """Standard errors of `damage` over pairs, to first order; NaN where not known."""
        return self._shares[1][:, 0]

    @property
    def random(self) -> Float[Tensor, "circuits draws tasks"]:
        """Damage by random circuits of each one's layer profile."""
        return self._shares[0][:, 1:]

    def own(self, circuit: int) -> int | None:
        """The task that bears a circuit's name, if one does."""
        name = self.circuits[circuit]
        return [*self.tasks].index(name) if name in self.tasks else None

    def margin(self, circuit: int) -> float:
        """Damage to the circuit's own task minus the mean damage to the others; NaN where there are none of either."""
        own, row = self.own(circuit), self.damage[circuit].double()
        if own is None or len(row) < 2:
            return float("nan")
        return float(row[own] - row[[i for i in range(len(row)) if i != own]].mean())

    def margin_stderr(self, circuit: int) -> float:
        """Its standard error: pairs of different tasks are drawn independently."""
        own, row = self.own(circuit), self.stderr[circuit].double()
        if own is None or len(row) < 2:
            return float("nan")
        weights = torch.full_like(row, 1 / (len(row) - 1))
        weights[own] = 1
        return float((weights * row).square().sum().sqrt())

    def table(self) -> pd.DataFrame:
        """One row per circuit and task: edges, damage, its error, mean and standard deviation of random circuits'."""
        import pandas as pd

        rows = []
        for i, circuit in enumerate(self.circuits):
            for j, task in enumerate(self.tasks):
                drawn = self.random[i, :, j].numpy()
                rows.append(
                    {
                        "circuit": circuit,
                        "edges": self.kept[i],
                        "task": task,
                        "damage": float(self.damage[i, j]),
                        "stderr": float(self.stderr[i, j]),
                        "random": float(drawn.mean()) if len(drawn) else float("nan"),
                        "random_sd": float(drawn.std(ddof=1)) if len(drawn) > 1 else float("nan"),
                    }
                )
        return pd.DataFrame(rows)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Of every circuit what its ablation takes from its own task and from the others, and what random ones do."""
        return tuple(self._said(number) for number in range(len(self.circuits)))

    def _said(self, number: int) -> str:
        own, names = self.own(number), [*self.tasks]
        damage, error = self.damage[number].tolist(), self.stderr[number].tolist()
        told = [f"{share(damage[j], error[j])[damage[j] >= 0 :]} of {names[j]}'s gap" for j in self._order(own)]
        drawn = self.random[number].double()
        random = ""
        if len(drawn):
            beside = [plain(one, 2) for one in drawn.mean(0)[self._order(own)].tolist()]
            random = f"; random {self._set}s of its layer profile take {listed(beside)}"
        return f"Without {self.circuits[number]} ({self.kept[number]:,} {self.of}) {listed(told)} is gone{random}."

    def _order(self, own: int | None) -> list[int]:
        """Tasks as they are told: the circuit's own first."""
        rest = [j for j in range(len(self.tasks)) if j != own]
        return rest if own is None else [own, *rest]

    def describe(self) -> str:
        """What was run, and the matrix."""
        import pandas as pd

        pairs = ", ".join(f"{name} {len(one.gap)}" for name, one in zip(self.tasks, self.ends, strict=True))
        matrix = pd.DataFrame(self.damage.numpy(), index=pd.Index(self.circuits), columns=pd.Index([*self.tasks]))
        lines = [
            f"specificity of {counted(len(self.circuits), self._set)} on {counted(len(self.tasks), 'task')} "
            f"(pairs: {pairs}) · "
            f"{self.ablation} ablation · {self.metrics[0].shape[1] - 1} random {self._set}s each",
            f"model   {self.model['source']}",
            f"damage, share of each task's gap that is gone without the {self._set}",
            matrix.to_string(float_format="{:.3f}".format),
            f"cost    {self.cost.describe()}",
        ]
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return self.describe()

    def page(self, path: str | Path) -> Path:
        """Write its page, one offline file.

        >>> found.page("found.html")
        """
        written: Path = through("Specificity.page", self, path)
        return written

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        plainly = ("circuits", "kept", "notes", "model", "settings")
        header: dict[str, Any] = {name: getattr(self, name) for name in plainly}
        header |= {"names": list(self.tasks), "tasks": list(self.tasks.values()), "cost": self.cost.to_dict()}
        tensors = {f"{i}/metric": one for i, one in enumerate(self.metrics)}
        tensors |= {f"{i}/{name}": one for i, ends in enumerate(self.ends) for name, one in ends.ends.items()}
        return write_tensors(path, FORMAT, header, tensors)


FORMAT = "veracausa-specificity-1"
_HEADER = record(
    circuits=many(text, least=1), kept=many(whole(), least=1), names=many(text, least=1), tasks=many(TASK, least=1),
    notes=many(text), model=MODEL, cost=cost, settings=record(ablation=text),
)  # fmt: skip


def load_specificity(path: str | Path) -> Specificity:
    """Read what `Specificity.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        told = _HEADER(header)
        sizes = {"circuits": len(told["circuits"]), "draws": tensors["0/metric"].shape[1]}
        for i in range(len(told["tasks"])):
            wanted = dict.fromkeys(("clean", "corrupted"), f"finite pairs{i}")
            wanted["metric"] = f"finite circuits draws pairs{i}"
            require_tensors(tensors, {f"{i}/{name}": how for name, how in wanted.items()}, **sizes)
        if len(told["kept"]) != len(told["circuits"]) or not sizes["draws"]:
            raise ValueError("its circuits have no sizes, or were not run")
        if len({*told["names"]}) != len(told["tasks"]):
            raise ValueError("its tasks have no names of their own")
        metrics = tuple(tensors[f"{i}/metric"] for i in range(len(told["tasks"])))
        ends = tuple(Measurement(tensors[f"{i}/clean"], tensors[f"{i}/corrupted"]) for i in range(len(told["tasks"])))
        tasks = dict(zip(told["names"], told["tasks"], strict=True))
        plainly = {name: told[name] for name in ("circuits", "kept", "cost", "model", "settings", "notes")}
        return Specificity(tasks=tasks, metrics=metrics, ends=ends, **plainly)

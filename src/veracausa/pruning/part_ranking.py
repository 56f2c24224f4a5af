"""`PartRanking`: parts of a model in the order in which they would be cut out.

Of each task c (a class in FGP's words) a part u has a number v_uc, and its share of the task's sum,
s_uc = v_uc / Σ_u v_uc. Sizes are counted in parameters, so parts are compared by s_uc / parameters_u.

    fgp     a part is kept if it is in the smallest set that holds a share T of the support for any task: with the parts
            of each task sorted by s_uc / parameters_u, T_u = min_c (share of those ahead of u), the largest go first
    random  the smallest go first, whatever their size
    others  the smallest max_c s_uc / parameters_u go first
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.cost import Cost
from veracausa.errors import MethodError
from veracausa.pruning.names import KINDS, RANKINGS, kinds_in_words
from veracausa.pruning.parts import Parts
from veracausa.result import Shown
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, one_of, reading, record, require_tensors, whole
from veracausa.words import counted, listed, plain

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class PartRanking(Shown):
    """Parts in the order in which they are cut; made by `vc.pruning.rank`.

    `how`: what ranks them (`names.RANKINGS`). `values`: the measure of each task, at least 0, larger where a part is
    worth more. `order`: indices of the parts, the first to be cut first. `tasks`: headers of the tasks. `settings`: all
    else that the order depends on.

    >>> ranking = vc.pruning.rank(lm, task, how="fgp", units="neurons")
    >>> ranking.cut(0.2).sum(), ranking.table()
    """

    how: str
    parts: Parts
    values: Float[np.ndarray, "tasks parts"]
    order: Int[np.ndarray, " parts"]
    tasks: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    model: dict[str, str]
    cost: Cost

    @property
    def task(self) -> dict[str, Any]:
        """The first task's header."""
        return self.tasks[0]

    def cut(self, size: float, *, per_layer: bool = False) -> Bool[np.ndarray, " parts"]:
        """The parts that go when at most this share of all parts' parameters is cut: as many of the order as fit.

        `per_layer`: the same number in every layer, the order's first in each.

        Raises:
            MethodError: the share is not between 0 and 1, or too small for one part of each layer.
        """
        if not 0 <= size <= 1:
            raise MethodError(f"A size of {size} is no share of the parameters: it lies between 0 and 1.")
        gone = np.zeros(len(self.parts), dtype=bool)
        if not per_layer:
            fits = np.cumsum(self.parts.parameters[self.order]) <= size * self.parts.total * (1 + 1e-12)
            gone[self.order[fits]] = True
            return gone
        for own in self._layers():
            gone[own[: int(size * len(own) + 1e-9)]] = True
        if size and not gone.any():
            raise MethodError(
                f"A share of {size:g} is less than one of the parts of a layer; cut more, or not per_layer."
            )
        return gone

    def _layers(self) -> list[Int[np.ndarray, " parts"]]:
        """The parts of each kind and layer, in order."""
        where = list(zip(self.parts.kind[self.order].tolist(), self.parts.layer[self.order].tolist(), strict=True))
        found: dict[tuple[int, int], list[int]] = {}
        for part, one in zip(self.order.tolist(), where, strict=True):
            found.setdefault(one, []).append(part)
        return [np.array(own) for own in found.values()]

    @property
    def strength(self) -> Float[np.ndarray, " parts"]:
        """What the parts are compared by; see the module."""
        return strengths(self.values, self.parts.parameters, self.how)

    def table(self) -> pd.DataFrame:
        """One row per part, in the order in which they go: kind, layer, parameters, and its number for each task."""
        import pandas as pd

        names, kinds = np.array(self.parts.names), np.array(self.parts.kinds)
        columns: dict[str, Any] = {
            "name": names[self.order], "kind": kinds[self.parts.kind[self.order]],
            "layer": self.parts.layer[self.order], "parameters": self.parts.parameters[self.order],
        }  # fmt: skip
        columns |= {name: own[self.order] for name, own in zip(self._named(), self.values, strict=True)}
        return pd.DataFrame(columns)

    def _named(self) -> list[str]:
        """Columns of the tasks."""
        names = [one["name"] for one in self.tasks]
        return names if len({*names}) == len(names) else [f"{name} {i}" for i, name in enumerate(names)]

    @property
    def sentences(self) -> tuple[str, ...]:
        """Which parts go first and which last, and how uneven the measure is."""
        names = self.parts.names
        first, last = listed([names[i] for i in self.order[:3]]), names[self.order[-1]]
        said = [f"By {RANKINGS[self.how]} the first of {len(names):,} parts to go are {first}; the last is {last}."]
        if self.how == "random":
            return tuple(said)
        for name, own in zip(self._named(), self.values, strict=True):
            if own.sum() > 0:
                share = np.sort(own)[::-1][: max(1, len(own) // 10)].sum() / own.sum()
                said.append(f"A tenth of the parts holds {plain(100 * share, 0)} % of {name}'s sum.")
        return tuple(said)

    def describe(self) -> str:
        """What was ranked, by what, on what."""
        kinds = kinds_in_words(self.parts.kinds)
        return "\n".join(
            [
                f"ranking of {len(self.parts):,} {kinds} by {self.how} ({RANKINGS[self.how]})",
                f"model   {self.model['source']}",
                *(f"task    {one['description']}" for one in self.tasks),
                f"sizes   {self.parts.total:,} parameters of {self.parts.whole:,} are these parts'",
                f"order   the first go first; {counted(len(self.tasks), 'task')}, {self._rounds()}",
                f"cost    {self.cost.describe()}",
            ]
        )

    def _rounds(self) -> str:
        rounds = int(self.settings.get("rounds", 1))
        return "ranked once" if rounds == 1 else f"ranked anew {rounds} times, with what goes cut out"

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.table()[:10].to_string(index=False)}"

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {
            "how": self.how, "tasks": list(self.tasks), "settings": self.settings, "model": self.model,
            "cost": self.cost.to_dict(), **packed_header(self.parts),
        }  # fmt: skip
        tensors = {"values": torch.from_numpy(self.values), "order": torch.from_numpy(self.order)}
        return write_tensors(path, FORMAT, header, tensors | packed(self.parts))


def strengths(
    values: Float[np.ndarray, "tasks parts"], parameters: Int[np.ndarray, " parts"], how: str
) -> Float[np.ndarray, " parts"]:
    """What parts are compared by, larger where one is worth more; see the module."""
    if how == "random":
        return np.asarray(values.max(0))
    total = values.sum(1, keepdims=True)
    shares = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    worth = shares / parameters
    if how != "fgp":
        return worth.max(0)
    ahead = np.empty_like(shares)
    for own, each, share in zip(ahead, worth, shares, strict=True):
        ranked = np.argsort(-each, kind="stable")
        own[ranked] = np.concatenate([[0.0], np.cumsum(share[ranked])[:-1]])
    found: Float[np.ndarray, " parts"] = 1 - ahead.min(0)
    return found


def ordered(strength: Float[np.ndarray, " parts"]) -> Int[np.ndarray, " parts"]:
    """The weakest first; of equals the last in the table first."""
    found: Int[np.ndarray, " parts"] = np.argsort(strength[::-1], kind="stable")
    return len(strength) - 1 - found


FORMAT = "veracausa-part-ranking-1"
PARTS = {"kinds": many(one_of(*KINDS), least=1), "whole": whole(1)}
_HEADER = record(
    how=one_of(*RANKINGS), tasks=many(TASK, least=1), settings=record(seed=whole(), rounds=whole(1)), model=MODEL,
    cost=cost, **PARTS,
)  # fmt: skip
#: Tensors of a table of parts → their types and axes.
PACKED = {f"parts/{name}": "index parts" for name in ("kind", "layer", "index", "parameters")}


def packed_header(parts: Parts) -> dict[str, Any]:
    """What a file's header says of a table of parts."""
    return {"kinds": list(parts.kinds), "whole": parts.whole}


def packed(parts: Parts) -> dict[str, torch.Tensor]:
    """A table of parts as tensors."""
    return {name: torch.from_numpy(getattr(parts, name.partition("/")[2])) for name in PACKED}


def unpacked(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Parts:
    """The table of parts of a file."""
    kind, layer, index, sizes = (tensors[name].numpy() for name in PACKED)
    if kind.max(initial=0) >= len(header["kinds"]) or kind.min(initial=0) < 0:
        raise ValueError("its parts are of no kind")
    return Parts(tuple(header["kinds"]), kind, layer, index, sizes, header["whole"])


def load_part_ranking(path: str | Path) -> PartRanking:
    """Read what `PartRanking.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        told = _HEADER(header)
        wanted = {"values": "finite tasks parts", "order": "index parts", **PACKED}
        require_tensors(tensors, wanted, tasks=len(told["tasks"]))
        order = tensors["order"].numpy()
        if sorted(order.tolist()) != list(range(len(order))):
            raise ValueError("its order does not name every part once")
        names = ("how", "settings", "model", "cost")
        rest = {name: told[name] for name in names}
        return PartRanking(
            parts=unpacked(told, tensors),
            values=tensors["values"].numpy(),
            order=order,
            tasks=tuple(told["tasks"]),
            **rest,
        )

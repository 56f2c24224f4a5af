"""`Pruned`: a model without some of its parts: which went, what that saves, and what it costs, by exact joint removal.

Every ranking was cut at every size, the same pairs and the same text judged each. An interval is Student's over pairs
(metric) or over rows of text (KL, cross-entropy), Wilson's of an accuracy, 95% each. Perplexity is e to the mean
cross-entropy of a token.

A level's interval says where the cut model's mean lies, over pairs that may differ much among each other. What the cut
*changes* is known far closer, since both models saw the same pairs: its interval is Student's over the differences
M(cut) − M(full) of pairs, and of perplexity that of the ratio, e to the mean difference in cross-entropy of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.pruning.names import RANKINGS, kinds_in_words
from veracausa.pruning.part_ranking import PACKED, PARTS, packed, packed_header, unpacked
from veracausa.pruning.parts import Parts
from veracausa.result import Shown
from veracausa.statistics.accuracy import wilson
from veracausa.statistics.ratios import mean_interval
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import (
    MODEL,
    TASK,
    cost,
    many,
    number,
    one_of,
    reading,
    record,
    require_tensors,
    text,
    whole,
)
from veracausa.words import counted, listed, plain, signed

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float
    from torch import Tensor

    from veracausa.model import Model
    from veracausa.pruning.exported import Exported

#: What a mean is, and its 95% interval.
Figure = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Pruned(Shown):
    """A cut, its joint check, and other rankings beside it at the same sizes; made by `vc.pruning.prune`.

    `rankings`: what ranked the parts; the first made the cut. `sizes`: shares of the parts' parameters, rising, `share`
    among them. `gone[r, s]`: the parts that ranking r loses at size s. `metric`, `right`: of every held-out pair, task
    by task, [1 + rankings · sizes, pairs]; the first row is the full model, then size by size of each ranking. `text`:
    KL and cross-entropy of every row of plain text, [1 + rankings · sizes, 2, rows]. `passed`: weights that a token is
    multiplied with, of the full model. `said`: what the text is. `constants`: of mean ablation, what cut parts of a
    site (place, layer) are.

    >>> found = vc.pruning.prune(lm, task, how=["fgp", "magnitude"], share=0.2, sizes=[0.1, 0.2, 0.4])
    >>> found.table(), found.cut
    """

    parts: Parts
    rankings: tuple[str, ...]
    sizes: tuple[float, ...]
    share: float
    gone: Bool[np.ndarray, "rankings sizes parts"]
    metric: tuple[Float[Tensor, "cuts pairs"], ...]
    right: tuple[Float[Tensor, "cuts pairs"], ...]
    text: Float[Tensor, "cuts 2 rows"]
    said: str
    passed: int
    tasks: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    model: dict[str, str]
    cost: Cost
    notes: tuple[str, ...] = ()
    constants: dict[tuple[str, int], Float[Tensor, " site"]] = field(default_factory=dict)

    @property
    def task(self) -> dict[str, Any]:
        """The first task's header; `tasks` has all, each of its held-out pairs."""
        return self.tasks[0]

    @property
    def chosen(self) -> Bool[np.ndarray, " parts"]:
        """Which parts the cut takes out."""
        return np.asarray(self.gone[0, self.sizes.index(self.share)])

    @property
    def cut(self) -> list[str]:
        """Names of the parts that the cut takes out."""
        return [name for name, out in zip(self.parts.names, self.chosen, strict=True) if out]

    @property
    def saved(self) -> int:
        """Parameters of what is cut."""
        return self.parts.saved(self.chosen)

    @property
    def flops(self) -> tuple[int, int]:
        """Floating-point operations of a token's linear maps, 2 a weight, of the full and of the cut model."""
        return 2 * self.passed, 2 * (self.passed - self.saved)

    def _row(self, ranking: int, size: int) -> int:
        return 1 + ranking * len(self.sizes) + size

    def figures(self, row: int, task: int) -> dict[str, float]:
        """Metric and accuracy of a cut on a task, with their intervals; NaN where there is no number.

        "change": of the metric, cut − full, paired, with an interval of its own; see the module.
        """
        own = self.metric[task]
        found = dict(zip(("metric", "low", "high"), _mean(own[row]), strict=True))
        found |= dict(zip(("change", "change_low", "change_high"), _mean(own[row] - own[0]), strict=True))
        right = self.right[task][row]
        known = bool(torch.isfinite(right).all())
        shares = (float(right.mean()), *wilson(int(right.sum()), len(right))) if known else (math.nan,) * 3
        return found | dict(zip(("accuracy", "accuracy_low", "accuracy_high"), shares, strict=True))

    def on_text(self, row: int) -> dict[str, float]:
        """KL to the full model and perplexity of a cut on plain text, with their intervals, which end where they can:
        KL at 0, perplexity at 1. "times": how many times the full model's perplexity that is, paired; see the module.
        """
        names = [f"{name}{end}" for name in ("kl", "perplexity", "times") for end in ("", "_low", "_high")]
        if not self.text.shape[2]:
            return dict.fromkeys(names, math.nan)
        kl, entropy = (_not_below_0(_mean(own)) for own in self.text[row])
        change = _mean(self.text[row][1] - self.text[0][1])
        return dict(zip(names, (*kl, *(math.exp(one) for one in (*entropy, *change))), strict=True))

    def table(self) -> pd.DataFrame:
        """One row for the full model and for every ranking and size, on every task, and on plain text.

        Columns: ranking, size (share of the parts' parameters), parts and parameters that are gone; on; the figures.
        """
        import pandas as pd

        cuts = [("full model", 0.0, np.zeros(len(self.parts), dtype=bool))]
        cuts += [
            (ranking, size, self.gone[r, s])
            for r, ranking in enumerate(self.rankings)
            for s, size in enumerate(self.sizes)
        ]
        rows: list[dict[str, Any]] = []
        for row, (ranking, size, gone) in enumerate(cuts):
            own = {"ranking": ranking, "size": size, "parts": int(gone.sum()), "parameters": self.parts.saved(gone)}
            rows += [own | {"on": one["name"]} | self.figures(row, i) for i, one in enumerate(self.tasks)]
            rows += [own | {"on": "plain text"} | self.on_text(row)] if self.text.shape[2] else []
        return pd.DataFrame(rows)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is cut, what is saved, what is left of each task and of the text, and which ranking does best."""
        row, parts = self._row(0, self.sizes.index(self.share)), self.parts
        kinds = kinds_in_words(parts.kinds)
        said = [
            f"Cut: {int(self.chosen.sum()):,} of {len(parts):,} {kinds} by {RANKINGS[self.rankings[0]]}, "
            f"{self.saved:,} parameters: {_percent(self.saved / parts.total)} of theirs, "
            f"{_percent(self.saved / parts.whole)} of the model's."
        ]
        for i, task in enumerate(self.tasks):
            full, cut, n = self.figures(0, i), self.figures(row, i), len(self.metric[i][0])
            text = (
                f"On {counted(n, 'held-out pair')} of {task['name']} the metric goes from {signed(full['metric'], 2)}"
            )
            text += f" to {signed(cut['metric'], 2)}, by {signed(cut['change'], 2)}{_interval(cut, 'change_', signed)}"
            if math.isfinite(cut["accuracy"]):
                text += f", accuracy from {_percent(full['accuracy'])} to {_percent(cut['accuracy'])}"
            said.append(f"{text}.")
        if self.text.shape[2]:
            full, cut = self.on_text(0), self.on_text(row)
            said.append(
                f"On plain text ({self.said}) KL to the full model is {plain(cut['kl'], 3)} nats a token"
                f"{_interval(cut, 'kl_', plain)}, and perplexity goes from {plain(full['perplexity'], 1)} to "
                f"{plain(cut['perplexity'], 1)}, {plain(cut['times'], 3)} times{_interval(cut, 'times_', plain)}."
            )
        return (*said, *self._compared(), *self.notes)

    def _compared(self) -> list[str]:
        """Which ranking is best at the cut's size, on each task by the metric, and on text by KL."""
        if len(self.rankings) < 2:
            return []
        size = self.sizes.index(self.share)
        rows = [self._row(r, size) for r in range(len(self.rankings))]
        best = [
            f"{self.rankings[int(np.argmax([self.figures(row, i)['metric'] for row in rows]))]} on {one['name']}"
            for i, one in enumerate(self.tasks)
        ]
        if self.text.shape[2]:
            best.append(
                f"{self.rankings[int(np.argmin([self.on_text(row)['kl'] for row in rows]))]} on plain text (KL)"
            )
        where = f"Of {len(self.rankings)} rankings at {_percent(self.share)}"
        return [f"{where} the highest metric, or the lowest KL, is that of {listed(best)}."]

    def describe(self) -> str:
        """What was cut and how it was judged."""
        sizes = ", ".join(_percent(size) for size in self.sizes)
        before, after = self.flops
        return "\n".join(
            [
                f"{kinds_in_words(self.parts.kinds)} cut by {listed(self.rankings)} at {sizes} of "
                f"their parameters · {self.settings['ablation']} ablation",
                f"model   {self.model['source']}",
                *(f"task    {one['description']} Held out." for one in self.tasks),
                f"text    {self.said}",
                f"saved   {self.saved:,} of {self.parts.whole:,} parameters; {before:,} → {after:,} operations a token",
                f"cost    {self.cost.describe()}",
            ]
        )

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.table().round(3).to_string(index=False, na_rep='–')}"

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        names = ("rankings", "sizes", "share", "said", "passed", "tasks", "settings", "model", "notes")
        header = {name: getattr(self, name) for name in names} | packed_header(self.parts)
        tensors = packed(self.parts) | {"gone": torch.from_numpy(self.gone), "text": self.text}
        for i, (metric, right) in enumerate(zip(self.metric, self.right, strict=True)):
            tensors |= {f"{i}/metric": metric, f"{i}/right": right}
        tensors |= {f"constant/{place}/{layer}": value for (place, layer), value in self.constants.items()}
        return write_tensors(path, FORMAT, header | {"cost": self.cost.to_dict()}, tensors)

    def export(self, lm: Model, folder: str | Path) -> Exported:
        """Write the model without its parts as an ordinary smaller checkpoint, which plain transformers load.

        Its logits are those of the model without the parts (compared before it is written). The tokenizer goes along,
        and a receipt, veracausa-pruned.json. A config has one number of heads and of neurons for all layers: what a
        layer keeps less than the others is padding, which saves nothing, and is counted. `per_layer=True` leaves
        none of neurons and layers; heads go in whole K/V groups, in families whose config has a number of them.

        Raises:
            MethodError, ArchitectureError, ContractError, FileError: see `pruning.exporting`.

        >>> found.export(lm, "smaller").describe()
        """
        return through("Pruned.export", self, lm, folder)

    def page(self, path: str | Path, exported: Exported | None = None) -> Path:
        """Write one offline page: what is cut, what is left by size, what is saved; `exported`: of the checkpoint.

        >>> found.page("report.html")
        """
        return through("Pruned.page", self, path, exported)


def _mean(values: Tensor) -> Figure:
    return float(values.double().mean()), *mean_interval(values)


def _not_below_0(figure: Figure) -> Figure:
    """A figure whose interval ends at 0 at the latest; NaN stays."""
    value, low, high = figure
    return value, max(low, 0.0) if math.isfinite(low) else low, high


def _percent(value: float) -> str:
    return f"{plain(100 * value, 0 if round(value, 3) >= 0.1 or value == 0 else 1)} %"


def _interval(found: dict[str, float], of: str, how: Any) -> str:
    """ " (95% 3.1 to 3.5)"; nothing where there is none."""
    low, high = found[f"{of}low"], found[f"{of}high"]
    return f" (95% {how(low, 3)} to {how(high, 3)})" if math.isfinite(low) else ""


FORMAT = "veracausa-pruned-1"
_HEADER = record(
    rankings=many(one_of(*RANKINGS), least=1), sizes=many(number(0, 1), least=1), share=number(0, 1), said=text,
    passed=whole(1), tasks=many(TASK, least=1), settings=record(ablation=text), model=MODEL, notes=many(text),
    cost=cost, **PARTS,
)  # fmt: skip


def load_pruned(path: str | Path) -> Pruned:
    """Read what `Pruned.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        told = _HEADER(header)
        sizes, count = list(told["sizes"]), len(told["rankings"])
        wanted = {**PACKED, "gone": "flag rankings sizes parts", "text": "finite cuts two rows"}
        for i in range(len(told["tasks"])):
            wanted |= {f"{i}/metric": f"finite cuts pairs{i}", f"{i}/right": f"float cuts pairs{i}"}
        axes = {"rankings": count, "sizes": len(sizes), "cuts": 1 + count * len(sizes), "two": 2}
        require_tensors(tensors, wanted, **axes)
        if sizes != sorted({*sizes}) or told["share"] not in sizes:
            raise ValueError("its sizes do not rise, or the cut's is not among them")
        both = (tuple(tensors[f"{i}/{name}"] for i in range(len(told["tasks"]))) for name in ("metric", "right"))
        metric, right = both
        names = ("rankings", "sizes", "share", "said", "passed", "tasks", "settings", "model", "notes", "cost")
        rest: dict[str, Any] = {name: told[name] for name in names}
        rest |= {name: tuple(told[name]) for name in ("rankings", "sizes", "tasks", "notes")}
        return Pruned(
            parts=unpacked(told, tensors), gone=tensors["gone"].bool().numpy(), metric=metric, right=right,
            text=tensors["text"], constants=_constants(tensors), **rest,
        )  # fmt: skip


def _constants(tensors: dict[str, Tensor]) -> dict[tuple[str, int], Tensor]:
    """What stands in cut parts' place, by site."""
    found = {}
    for name in (name for name in tensors if name.startswith("constant/")):
        _, place, layer = name.split("/")
        require_tensors(tensors, {name: "finite site"})
        found[place, int(layer)] = tensors[name]
    return found

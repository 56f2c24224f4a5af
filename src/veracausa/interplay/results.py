"""What `vc.interactions` finds: how strongly every source drives every reader, point by point."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.result import ROWS, Shown
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, many, reading, record, require_tensors, text
from veracausa.storage.schema import cost as cost_of
from veracausa.words import counted, listed, plain

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float, Int

FORMAT = "veracausa-interactions-1"
_HEADER = record(
    sources=many(text, least=1), readers=many(text, least=1), notes=many(text), settings=record(method=text, way=text),
    model=MODEL, task=TASK, cost=cost_of,
)  # fmt: skip
#: How J is found, in words.
HOW = {"ig": "integrated gradients", "gradient": "one gradient", "exact": "exact removal"}
#: Pairs that sentences name.
_NAMED = 3


@dataclass(frozen=True, eq=False)
class Interactions(Shown):
    """Interactions of the parts of one site with those of a later one; made by `vc.interactions`.

    `squares`: mean over the reader's positions in every prompt of J², summed over the numbers of a reader that has
    several; `means`: the mean of J (of the sum over such numbers: NaN), [examples, readers, sources] each, and NaN
    where a prompt lacks the source's span or position, or the reader's. `positions`: of each reader in every prompt.
    `rest`, `change`: means of (Σ_j J − change)² and of change², where change = f(own) − f(baseline); of
    "exact" the rest is what sources do together and not one by one. `error`: standard errors of `squares` over random
    signs.

    >>> found = vc.interactions(lm, task, "heads:10", "neurons:12")
    >>> found.top(5)
    """

    sources: tuple[str, ...]
    readers: tuple[str, ...]
    squares: Float[Tensor, "examples readers sources"]
    means: Float[Tensor, "examples readers sources"]
    positions: Int[Tensor, "examples readers"]
    rest: Float[Tensor, "examples readers"]
    change: Float[Tensor, "examples readers"]
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost
    error: Float[Tensor, "examples readers sources"] | None = None
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Prompts."""
        return len(self.squares)

    @property
    def method(self) -> str:
        """How J was found: "ig", "gradient" or "exact"."""
        return str(self.settings["method"])

    @property
    def exact(self) -> bool:
        """Whether every number was run."""
        return self.method == "exact"

    def shares(self, values: Tensor, times: Tensor | None = None) -> Tensor:
        """How much a prompt's means count: by the reader's positions, where there are `values`; 1 in all.

        `times`: how often each prompt is taken (default: once).
        """
        taken = self.positions if times is None else self.positions * times[:, None]
        weight = taken.view(*taken.shape, *[1] * (values.ndim - 2)).to(values) * ~values.isnan()
        return weight / weight.sum(0)

    def over(self, values: Tensor, times: Tensor | None = None) -> Tensor:
        """Means over all positions of all prompts, of means over those of each; NaN of what no prompt has."""
        return (self.shares(values, times) * values.nan_to_num()).sum(0)

    @cached_property
    def strength(self) -> Float[np.ndarray, "readers sources"]:
        """√E: the root mean square of J, in units of the reader."""
        return np.asarray(self.over(self.squares).double().clamp_min(0).sqrt().numpy())

    @cached_property
    def mean(self) -> Float[np.ndarray, "readers sources"]:
        """The mean of J, in which what differs in sign cancels; NaN for readers of several numbers."""
        return np.asarray(self.over(self.means).double().numpy())

    @cached_property
    def stderr(self) -> Float[np.ndarray, "readers sources"] | None:
        """Standard errors of `strength` over the random signs; None where none were drawn."""
        if self.error is None:
            return None
        error = (self.shares(self.error) ** 2 * self.error.nan_to_num() ** 2).sum(0).sqrt().double().numpy()
        return np.asarray(error / (2 * np.maximum(self.strength, 1e-30)))

    @property
    def residual(self) -> float:
        """Root mean square of Σ_j J − (f(own) − f(baseline)), as a share of the change's; NaN if nothing moves."""
        rest, change = (float(self.over(each).sum()) for each in (self.rest, self.change))
        return (rest / change) ** 0.5 if change else float("nan")

    def ranking(self) -> Int[np.ndarray, "2 pairs"]:
        """All (reader, source), the strongest first."""
        order = np.argsort(-self.strength, axis=None, kind="stable")
        return np.stack(np.unravel_index(order, self.strength.shape))

    def top(self, n: int = ROWS) -> pd.DataFrame:
        """The strongest pairs: source, reader, strength, mean J, and what is said of its trust."""
        import pandas as pd

        i, j = self.ranking()[:, :n]
        found = {
            "source": [self.sources[k] for k in j], "reader": [self.readers[k] for k in i],
            "strength": self.strength[i, j], "mean": self.mean[i, j],
        }  # fmt: skip
        if self.stderr is not None:
            found["stderr"] = self.stderr[i, j]
        return pd.DataFrame({**found, "verified": self.exact})

    def table(self) -> pd.DataFrame:
        """One row per pair of a source and a reader, the strongest first."""
        return self.top(self.strength.size)

    def head(self) -> pd.DataFrame:
        """The ten strongest pairs."""
        return self.top()

    def spread(self, n: int = ROWS) -> pd.DataFrame:
        """Single prompts beside the average, of the strongest pairs: how much does the average hide?

        `strength`: over all prompts; `low`, `median`, `high`: the least, median and largest of single prompts';
        `share`: of prompts in which the pair is among the n strongest; `carried`: the part of the mean square that the
        strongest tenth of the prompts (at least one) brings.
        """
        import pandas as pd

        single, (i, j) = self.squares.double().sqrt().numpy(), self.ranking()[:, :n]
        flat = np.nan_to_num(single.reshape(self.n, -1))
        bar = np.sort(flat, axis=1)[:, -min(n, flat.shape[1])]
        own, there = single[:, i, j], ~np.isnan(single[:, i, j])
        most = max(1, self.n // 10)
        shares = self.shares(self.squares)[:, i, j].double().numpy()
        weighed = np.sort(shares * np.nan_to_num(own) ** 2, axis=0)
        return pd.DataFrame({
            "source": [self.sources[k] for k in j], "reader": [self.readers[k] for k in i],
            "strength": self.strength[i, j], "low": np.nanmin(own, axis=0), "median": np.nanmedian(own, axis=0),
            "high": np.nanmax(own, axis=0), "share": ((own >= bar[:, None]) & (own > 0)).sum(0) / there.sum(0),
            "carried": weighed[-most:].sum(0) / np.maximum(weighed.sum(0), 1e-30),
        })  # fmt: skip

    def overlap(self, n: int = ROWS) -> Float[np.ndarray, " examples"]:
        """Of every prompt, the share of its own n strongest pairs that are among the n strongest of the average."""
        flat = self.squares.flatten(1)
        n = min(n, flat.shape[1])
        every = np.ravel_multi_index(tuple(self.ranking()[:, :n]), self.strength.shape)
        own = np.argsort(-flat.numpy(), axis=1, kind="stable")[:, :n]
        return np.asarray(np.isin(own, every).mean(1))

    @property
    def sentences(self) -> tuple[str, ...]:
        """Which pairs are strongest, how much they carry, how much single prompts differ, and how sure it is."""
        first = self.top(_NAMED)
        named = [f"{row.source} → {row.reader} {plain(row.strength, 3)}" for row in first.itertuples()]
        pairs = f"{counted(len(self.sources), 'source')} and {counted(len(self.readers), 'reader')}"
        said = [f"Strongest of {pairs} by {self._how}: {listed(named)} (root mean square, in units of the reader)."]
        if self.n > 1:
            said.append(
                f"Of a single prompt's ten strongest pairs {self.overlap().mean():.0%} are among the average's ten "
                f"(mean over {self.n} prompts)."
            )
        said.append("Every number was run." if self.exact else "That is not verified: see vc.interplay.check.")
        return tuple(said)

    @property
    def _how(self) -> str:
        return HOW[self.method]

    @property
    def _positions(self) -> str:
        """How many positions readers have in all prompts."""
        every = self.positions.sum(0)
        few, many = int(every.min()), int(every.max())
        return f"{many:,} positions" if few == many else f"{few:,} to {many:,} positions a reader"

    def describe(self) -> str:
        """What these numbers are."""
        s = self.settings
        lines = [
            f"interactions · {s['sources']} → {s['readers']} · {self._how} · {s['way']} · {s['products']}",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            f"J       {'f − f with the source replaced' if self.exact else 'Δ · ∂f summed over source positions'}; "
            f"replaced by {s['ablation']}, positions {s['positions']}",
            f"sum     Σ J differs from the whole change by {self.residual:.2g} of it"
            + (" (what sources do together)" if self.exact else ""),
            f"n       {counted(self.n, 'prompt')}, {self._positions}",
            f"cost    {self.cost.describe()}",
            f"trust   {'exact' if self.exact else 'not verified'}",
            *(f"note    {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.head().to_string(index=False, float_format=lambda x: f'{x:+.4f}')}"

    def page(self, path: str | Path) -> Path:
        """Write these numbers as one offline page: a grid, the strongest pairs, single prompts beside the average.

        Raises:
            FileError: it cannot be written, or not made.

        >>> found.page("interactions.html")
        """
        written: Path = through("Interactions.page", self, path)
        return written

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        return write_tensors(path, FORMAT, *packed(self))


_TENSORS = ("squares", "means", "positions", "rest", "change")


def packed(found: Interactions) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Interactions as the header and the tensors of a file."""
    header: dict[str, Any] = {name: list(getattr(found, name)) for name in ("sources", "readers", "notes")}
    header |= {"settings": found.settings, "model": found.model, "task": found.task, "cost": found.cost.to_dict()}
    tensors = {name: getattr(found, name) for name in _TENSORS}
    return header, tensors | ({} if found.error is None else {"error": found.error})


def unpacked(header: dict[str, Any], tensors: dict[str, Tensor]) -> Interactions:
    """What `packed` made; ValueError, KeyError where it does not hold together."""
    found = _HEADER(header)
    sizes = {"readers": len(found["readers"]), "sources": len(found["sources"])}
    every = "examples readers sources"
    wanted = {"squares": f"float {every}", "means": f"float {every}", "positions": "index examples readers",
              "rest": "finite examples readers", "change": "finite examples readers"}  # fmt: skip
    if "error" in tensors:
        wanted["error"] = f"float {every}"
    require_tensors(tensors, wanted, **sizes)
    if any((tensors[name] < 0).any() for name in ("squares", "rest", "change")) or (tensors["positions"] < 0).any():
        raise ValueError("a mean of squares is below 0, or a count of positions")
    if tensors["squares"].isinf().any() or tensors["squares"].isnan().all(0).any():
        raise ValueError("a strength is no number")
    names = ("sources", "readers", "notes", "settings", "model", "task", "cost")
    parts: dict[str, Any] = {name: found[name] for name in names} | {name: tensors[name] for name in wanted}
    return Interactions(**parts)


def load_interactions(path: str | Path) -> Interactions:
    """Read what `Interactions.save` wrote; FileError for any other file."""
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        return unpacked(header, tensors)

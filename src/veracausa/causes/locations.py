"""What `vc.causes.locate` finds: where between the patch and the metric attribution patching goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.causes.saturation import Saturation
from veracausa.cost import Cost
from veracausa.result import Shown
from veracausa.scores.packed import pack_units
from veracausa.statistics.ratios import Share, pairs_in_words, share_of_gap
from veracausa.storage.files import write_tensors
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

#: Kinds of nonlinear parts in words.
WORDS = {
    "softmax": "the attention's softmax",
    "norm": "the norms",
    "MLP": "the MLPs' activations",
    "metric": "the metric itself",
}
#: A kind is the cause if it makes up more than this part of the curvature, and no other does.
HALF = 0.5
#: Shares of the gap that are not worth a word.
NEGLIGIBLE = 1e-3
_FORMAT = "veracausa-locations-2"
_TENSORS = ("runs", "sublayers", "heads", "clean", "corrupted")
_WATCHED = ("entropy", "largest", "key", "query", "visible")


@dataclass(frozen=True)
class Location:
    """Where E − AtP of one unit arises, in shares of the gap.

    `kinds`: the part of each kind of nonlinearity; they sum to `curvature` = `exact` − `atp`. `sublayers`: the
    increments of "a5", "m5", …, of the patch's own post-norm ("patch") and of the final norm with the metric
    ("logits"); they sum to it, too. `heads`: those of the heads behind it. `cause`: "softmax", "norm", "MLP",
    "metric"; "several" where no single kind makes up most of it, or Student's 95% interval of it or of that kind's part
    holds 0; "none" where there is no curvature to speak of (0.1% of the gap).
    """

    unit: str
    n: int
    atp: Share
    exact: Share
    curvature: Share
    kinds: dict[str, Share]
    sublayers: dict[str, Share]
    heads: dict[str, Share]
    saturation: Saturation | None

    @property
    def cause(self) -> str:
        """The kind of nonlinearity that makes up most of the curvature."""
        total = self.curvature.value
        if abs(total) < NEGLIGIBLE:
            return "none"
        most = [kind for kind, share in self.kinds.items() if total and share.value / total > HALF]
        clear = self.curvature.clear and len(most) == 1 and self.kinds[most[0]].clear
        return most[0] if clear else "several"

    @property
    def sentence(self) -> str:
        """What a researcher would write: how much, which kind, where, and the attention there."""
        text = (
            f"For {self.unit} attribution patching says {self.atp} of the gap, the exact effect is {self.exact} "
            f"({pairs_in_words(self.n)})."
        )
        if self.cause == "none":
            return f"{text} There is no curvature to speak of."
        told = ", ".join(f"{share} comes from {WORDS[kind]}" for kind, share in _largest(self.kinds, len(self.kinds)))
        text += f" Of the curvature {self.curvature}, {told}."
        if places := _largest(self.sublayers, 2):
            text += f" It arises most in {' and '.join(self._place(name, share) for name, share in places)}."
        if self.cause == "softmax" and self.saturation is not None:
            text += f" {self.saturation.sentence}"
        return text

    def _place(self, name: str, share: Share) -> str:
        """A sublayer with its step, and its head with the largest one."""
        inside = {head: own for head, own in self.heads.items() if head.startswith(f"{name}.")}
        of_which = [f", {head} {own}" for head, own in _largest(inside, 1)]
        return f"{name} ({share}{''.join(of_which)})"


@dataclass(frozen=True, eq=False)
class Locations(Mapping[str, Location], Shown):
    """A mapping unit → `Location`.

    `runs` [units, 2^k, examples]: M minus M(clean) with only some kinds live (bit i of the index: `kinds[i]`), so the
    first is AtP and the last E. `sublayers` [units, 2L + 2, examples], `heads` [units, L, H, examples]: increments.
    `laid`: the dictionaries whose parts the units are, if they are such.

    >>> found = vc.causes.locate(lm, task, units=["a20.h0"])
    >>> found["a20.h0"].kinds, found.by_kind()
    """

    units: Units
    kinds: tuple[str, ...]
    runs: Float[Tensor, "units choices examples"]
    sublayers: Float[Tensor, "units places examples"]
    heads: Float[Tensor, "units layers heads examples"]
    saturation: tuple[Saturation | None, ...]
    clean: Float[Tensor, " examples"]
    corrupted: Float[Tensor, " examples"]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost
    laid: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Effects of noising towards the corrupted prompt."""
        return {"direction": "noising", "ablation": "counterfactual", "kinds": self.kinds, **self.laid}

    @property
    def gap(self) -> Float[Tensor, " examples"]:
        """M(x) − M(x′) of every example."""
        return self.clean - self.corrupted

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.clean)

    def by_kind(self) -> Float[Tensor, "units kinds examples"]:
        """Shapley value of each kind: its effect on the run when it comes alive, averaged over all orders."""
        k = len(self.kinds)
        found = torch.zeros(len(self.units), k, self.n, dtype=self.runs.dtype)
        for kind in range(k):
            others = [bit for bit in range(k) if bit != kind]
            for size in range(k):
                weight = factorial(size) * factorial(k - size - 1) / factorial(k)
                for before in combinations(others, size):
                    choice = sum(1 << bit for bit in before)
                    found[:, kind] += weight * (self.runs[:, choice | 1 << kind] - self.runs[:, choice])
        return found

    def __getitem__(self, unit: str) -> Location:
        i = self.units.find(unit)
        atp, exact = self.runs[i, 0], self.runs[i, -1]
        ends = share_of_gap(torch.stack([atp, exact, exact - atp]), self.gap)
        layers, heads = self.heads.shape[1:3]
        return Location(
            unit,
            self.n,
            atp=ends[0],
            exact=ends[1],
            curvature=ends[2],
            kinds=dict(zip(self.kinds, share_of_gap(self.by_kind()[i], self.gap), strict=True)),
            sublayers=dict(zip(places(layers), share_of_gap(self.sublayers[i], self.gap), strict=True)),
            heads=dict(zip(head_names(layers, heads), share_of_gap(self.heads[i], self.gap), strict=True)),
            saturation=self.saturation[i],
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.units.names)

    def __len__(self) -> int:
        return len(self.units)

    def table(self) -> pd.DataFrame:
        """One row per unit: AtP, exact effect, curvature and each kind's part with standard errors, cause, n."""
        import pandas as pd

        rows = []
        for name, one in self.items():
            row: dict[str, Any] = {"name": name}
            figures = {"atp": one.atp, "exact": one.exact, "curvature": one.curvature, **one.kinds}
            for key, share in figures.items():
                row |= {key: share.value, f"{key} stderr": share.stderr}
            rows.append(row | {"cause": one.cause, "n": one.n})
        return pd.DataFrame(rows)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each unit's sentence."""
        return tuple(one.sentence for one in self.values())

    def describe(self) -> str:
        """What these numbers are: model, task, sign, n, cost, verified or not."""
        plural = "" if self.n == 1 else "s"
        worst = float(
            (self.sublayers.sum(1) - (self.runs[:, -1] - self.runs[:, 0])).abs().max() / self.gap.mean().abs()
        )
        return "\n".join(
            [
                f"where E − AtP arises · {len(self)} {self.units.kind} · counterfactual, noising",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                "sign    E = M(clean, unit replaced) − M(clean); shares of the mean gap",
                f"n       {self.n} pair{plural}; metric {self.clean.mean():+.3f} clean, "
                f"{self.corrupted.mean():+.3f} corrupted",
                f"cost    {self.cost.token_layers:,} token-layers, {self.cost.seconds:.1f} s",
                f"trust   exact runs; sublayers sum to E − AtP within {worst:.1e} of the gap",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {sentence}" for sentence in self.sentences)])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in _TENSORS} | pack_units(self.units)
        watched: list[dict[str, Any] | None] = []
        for i, one in enumerate(self.saturation):
            watched.append(None if one is None else {"head": one.head, "alphas": one.alphas, "texts": one.texts})
            tensors |= {} if one is None else {f"{i}.{name}": getattr(one, name) for name in _WATCHED}
        header = {
            "unit_kind": self.units.kind,
            "kinds": self.kinds,
            "laid": dict(self.laid),
            "model": self.model,
            "task": self.task,
            "cost": self.cost.to_dict(),
            "saturation": watched,
        }
        return write_tensors(path, _FORMAT, header, tensors)


def places(layers: int) -> list[str]:
    """Names of the increments, along the forward pass."""
    return ["patch", *(f"{part}{layer}" for layer in range(layers) for part in "am"), "logits"]


def head_names(layers: int, heads: int) -> list[str]:
    """Names of all heads, layer by layer."""
    return [f"a{layer}.h{head}" for layer in range(layers) for head in range(heads)]


def _largest(shares: dict[str, Share], most: int) -> list[tuple[str, Share]]:
    found = sorted(shares.items(), key=lambda item: -abs(item[1].value))[:most]
    return [(name, share) for name, share in found if abs(share.value) >= NEGLIGIBLE]

"""What `vc.causes.surface` finds: the metric on a grid of two units, its corners and their interaction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from veracausa.cost import Cost
from veracausa.errors import MethodError
from veracausa.result import Shown
from veracausa.statistics.ratios import Share, pairs_in_words, share_of_gap
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, number, reading, record, require_tensors, text

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float


_FORMAT = "veracausa-surface-2"
_AXIS = many(number(), least=2)
_HEADER = record(units=many(text, 2), alphas=_AXIS, betas=_AXIS, model=MODEL, task=TASK, cost=cost)


@dataclass(frozen=True, eq=False)
class Surface(Shown):
    """S(α, β) of two units: `values` [alphas, betas, examples], in units of the metric; 0 at (0, 0).

    >>> found = vc.causes.surface(lm, task, units=("a17.h4", "a20.h0"))
    >>> found.interaction, found.at(1.0, 1.0)
    """

    units: tuple[str, str]
    alphas: Float[np.ndarray, " alphas"]
    betas: Float[np.ndarray, " betas"]
    values: Float[Tensor, "alphas betas examples"]
    clean: Float[Tensor, " examples"]
    corrupted: Float[Tensor, " examples"]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost

    @property
    def settings(self) -> dict[str, Any]:
        """Effects of noising towards the corrupted prompt, and how far both units were moved."""
        grid = {"alphas": self.alphas.tolist(), "betas": self.betas.tolist()}
        return {"direction": "noising", "ablation": "counterfactual", **grid}

    @property
    def gap(self) -> Float[Tensor, " examples"]:
        """M(x) − M(x′) of every example."""
        return self.clean - self.corrupted

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.clean)

    def at(self, alpha: float, beta: float) -> Share:
        """S at a point of the grid, share of the gap."""
        return share_of_gap(self._at(alpha, beta), self.gap)[0]

    @property
    def interaction(self) -> Share:
        """S(1, 1) − S(1, 0) − S(0, 1), pair by pair, as a share of the gap."""
        return share_of_gap(self._at(1, 1) - self._at(1, 0) - self._at(0, 1), self.gap)[0]

    @property
    def kind(self) -> str:
        """ "redundancy" (a unit's effect is larger once the other is gone), "synergy" (smaller), or "none clear"."""
        if not self.interaction.clear:
            return "none clear"
        first, last = self.at(1, 0).value, self.at(1, 1).value - self.at(0, 1).value
        return "redundancy" if abs(last) > abs(first) else "synergy"

    def means(self) -> Float[np.ndarray, "alphas betas"]:
        """Mean surface, shares of the gap."""
        shares = share_of_gap(self.values, self.gap)
        return np.array([share.value for share in shares]).reshape(len(self.alphas), len(self.betas))

    def table(self) -> pd.DataFrame:
        """One row per point: both shares of the way, effect as a share of the gap, standard error, n."""
        import pandas as pd

        shares = share_of_gap(self.values, self.gap)
        points = [(a, b) for a in self.alphas.tolist() for b in self.betas.tolist()]
        u, v = self.units
        return pd.DataFrame(
            [
                {u: a, v: b, "effect": share.value, "stderr": share.stderr, "n": self.n}
                for (a, b), share in zip(points, shares, strict=True)
            ]
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """The corners and the interaction, in words."""
        u, v = self.units
        said = {
            "redundancy": f"either matters more once the other is gone: {u} and {v} cover for each other",
            "synergy": f"either matters less once the other is gone: {u} and {v} work together",
            "none clear": "no interaction that is more than two standard errors from 0",
        }[self.kind]
        return (
            f"Replacing {u} changes the metric by {self.at(1, 0)} of the gap, replacing {v} by {self.at(0, 1)}, "
            f"replacing both by {self.at(1, 1)} ({pairs_in_words(self.n)}). The interaction is "
            f"{self.interaction}: {said}.",
        )

    def describe(self) -> str:
        """What these numbers are: model, task, sign, n, cost, verified or not."""
        plural = "" if self.n == 1 else "s"
        return "\n".join(
            [
                f"surface of {self.units[0]} and {self.units[1]} · counterfactual, noising",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                "sign    S = M(both moved) − M(clean); shares of the mean gap",
                f"n       {self.n} pair{plural}; {len(self.alphas)} × {len(self.betas)} points",
                f"cost    {self.cost.token_layers:,} token-layers, {self.cost.seconds:.1f} s",
                "trust   exact runs at every point",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {sentence}" for sentence in self.sentences)])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {"units": self.units, "alphas": self.alphas.tolist(), "betas": self.betas.tolist()}
        header |= {"model": self.model, "task": self.task, "cost": self.cost.to_dict()}
        tensors = {"values": self.values, "clean": self.clean, "corrupted": self.corrupted}
        return write_tensors(path, _FORMAT, header, tensors)

    def _at(self, alpha: float, beta: float) -> Float[Tensor, " examples"]:
        a, b = (np.flatnonzero(axis == share) for axis, share in ((self.alphas, alpha), (self.betas, beta)))
        if not len(a) or not len(b):
            first, second = (", ".join(f"{share:g}" for share in axis) for axis in (self.alphas, self.betas))
            raise MethodError(
                f"({alpha:g}, {beta:g}) is no point of this surface. It has α = {first} and β = {second}."
            )
        return self.values[int(a[0]), int(b[0])]


def load_surface(path: str | Path) -> Surface:
    """Read a surface that `Surface.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("surface.safetensors").interaction
    """
    header, tensors = read_tensors(path, _FORMAT)
    with reading(at(path)):
        found = _HEADER(header)
        sizes = {name: len(found[name]) for name in ("alphas", "betas")}
        wanted = {"values": "finite alphas betas examples", "clean": "finite examples", "corrupted": "finite examples"}
        require_tensors(tensors, wanted, **sizes)
        for name in ("alphas", "betas"):
            if not {0.0, 1.0} <= set(found[name]):
                raise ValueError(f"{name} lack 0 or 1")
        parts: dict[str, Any] = {name: tensors[name] for name in wanted}
        parts |= {name: found[name] for name in ("model", "task", "cost")}
        return Surface(
            found["units"],
            np.array(found["alphas"]),
            np.array(found["betas"]),
            **parts,
        )

"""Steering: what becomes of the metric as a vector is added to a unit, at several scales.

E_u(s) = M(clean run with a_u + s · v_u) − M(clean run)          E_u(0) = 0
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.result import Shown
from veracausa.scores.files import unpack_units
from veracausa.scores.packed import pack_units
from veracausa.statistics.means import standard_error
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, many, number, reading, record, require_tensors
from veracausa.storage.schema import cost as cost_of
from veracausa.units.table import Units
from veracausa.words import counted

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

_FORMAT = "veracausa-steering-1"
_HEADER = record(scales=many(number(), least=2), settings=record(), model=MODEL, task=TASK, cost=cost_of)


@dataclass(frozen=True, eq=False)
class Steering(Shown):
    """What `vc.effects.steering` found. `effects`: E_u(s), in units of the metric; `clean`: M of the clean runs.

    `scales` rise, and 0 is among them. NaN: the example has no such position.

    >>> found = vc.effects.steering(lm, task, {"r10": direction})
    >>> found.mean(), found.table()
    """

    units: Units
    scales: Float[np.ndarray, " scales"]
    effects: Float[Tensor, "scales examples units"]
    clean: Float[Tensor, " examples"]
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost

    def mean(self) -> Float[Tensor, "scales units"]:
        """Mean effects over the examples."""
        return self.effects.nanmean(1)

    def stderr(self) -> Float[Tensor, "scales units"]:
        """Standard errors of `mean` over the examples; NaN for a single one."""
        return torch.stack([standard_error(each) for each in self.effects])

    def table(self) -> pd.DataFrame:
        """One row per unit and scale: mean effect, its standard error, the mean metric then, n."""
        import pandas as pd

        mean, error, start = self.mean().numpy(), self.stderr().numpy(), float(self.clean.mean())
        rows = [
            {"name": name, "scale": float(scale), "effect": float(mean[s, u]), "stderr": float(error[s, u]),
             "metric": start + float(mean[s, u]), "n": len(self.clean)}
            for u, name in enumerate(self.units.names) for s, scale in enumerate(self.scales)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Of every unit the scales that move the metric farthest up and down."""
        said, means, start = [], self.mean(), float(self.clean.mean())
        for u, name in enumerate(self.units.names):
            ends = (int(means[:, u].argmax()), int(means[:, u].argmin()))
            high, low = (f"{start + float(means[s, u]):+.3f} at scale {self.scales[s]:g}" for s in ends)
            said.append(f"{name}: the metric, {start:+.3f} without steering, is highest, {high}, and lowest, {low}.")
        return tuple(said)

    def describe(self) -> str:
        """What these numbers are."""
        low, high, n = self.scales.min(), self.scales.max(), len(self.clean)
        lines = [
            f"steering · {len(self.units)} {self.units.kind} · scales from {low:g} to {high:g}, {len(self.scales)} of "
            f"them · vectors {self.settings['replacement_digest']}",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            "sign    E = M(clean run with the vector added) − M(clean)",
            f"n       {counted(n, 'prompt')}; metric {float(self.clean.mean()):+.3f}",
            f"cost    {self.cost.token_layers:,} token-layers, {self.cost.seconds:.1f} s",
            "trust   exact effects",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {sentence}" for sentence in self.sentences)])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {"kind": self.units.kind, "scales": self.scales.tolist(), "settings": self.settings}
        header |= {"model": self.model, "task": self.task, "cost": self.cost.to_dict()}
        columns = pack_units(self.units)
        return write_tensors(path, _FORMAT, header, columns | {"effects": self.effects, "clean": self.clean})


def load_steering(path: str | Path) -> Steering:
    """Read what `Steering.save` wrote; FileError for any other file."""
    header, tensors = read_tensors(path, _FORMAT)
    with reading(at(path)):
        units, found = unpack_units(header["kind"], tensors), _HEADER(header)
        wanted = {"effects": "float scales examples units", "clean": "finite examples"}
        require_tensors(tensors, wanted, scales=len(found["scales"]), units=len(units))
        if 0.0 not in found["scales"] or list(found["scales"]) != sorted(set(found["scales"])):
            raise ValueError("its scales do not rise, or lack 0")
        parts = {name: found[name] for name in ("model", "task", "cost")}
        settings = dict(header["settings"])
        return Steering(units, np.array(found["scales"]), tensors["effects"], tensors["clean"], settings, **parts)

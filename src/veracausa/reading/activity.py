"""What `vc.reading.activations` finds: every unit at every position of both runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.cost import Cost
from veracausa.result import Shown
from veracausa.scores.files import kind_of_units, unpack_units
from veracausa.scores.packed import pack_units
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, reading, record, require_tensors, text
from veracausa.units.table import Units
from veracausa.words import counted, plain

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float
    from torch import Tensor

FORMAT = "veracausa-activations-1"
_HEADER = record(
    kind=kind_of_units, runs=many(text, least=1), prompts=many(many(many(text, least=1), least=1), least=1),
    settings=record(), model=MODEL, task=TASK, cost=cost,
)  # fmt: skip
#: Tokens that are shown on each side of one on which a unit is large.
_AROUND = 4


@dataclass(frozen=True, eq=False)
class Activations(Shown):
    """Units at every position of every prompt; made by `vc.reading.activations`.

    `runs`: "clean" and, where there is one, "corrupted". `values`: [runs, examples, units, positions], NaN behind a
    prompt's end; numbers as they are, in units of their site, vectors by their length. `prompts`: the tokens as text,
    run by run and pair by pair.

    >>> found = vc.reading.activations(lm, task, units=["f20.517", "f20.error"])
    >>> found.strongest("f20.517"), found.pair(0)
    """

    runs: tuple[str, ...]
    values: Float[Tensor, "runs examples units positions"]
    units: Units
    prompts: tuple[tuple[tuple[str, ...], ...], ...]
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.values.shape[1]

    def table(self) -> pd.DataFrame:
        """One row a unit: the share of tokens where it is not 0, in each run, and the token where it is largest.

        `text`: that token, marked, and what stands around it; `value`: the unit there.
        """
        import pandas as pd

        return pd.DataFrame([self._row(u, name) for u, name in enumerate(self.units.names)])

    def strongest(self, name: str, n: int = 10) -> pd.DataFrame:
        """The tokens of all prompts on which a unit is largest (in size), each prompt that both runs share once.

        Raises:
            UnitError: no such unit.
        """
        import pandas as pd

        return pd.DataFrame([self._place(*one) for one in self._largest(self.units.find(name), n)])

    def pair(self, example: int) -> pd.DataFrame:
        """One row for each run and token of a pair, a column for each unit."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"run": name, "position": p, "token": token}
                | dict(zip(self.units.names, self.values[run, example, :, p].tolist(), strict=True))
                for run, name in enumerate(self.runs)
                for p, token in enumerate(self.prompts[run][example])
            ]
        )

    def _row(self, unit: int, name: str) -> dict[str, Any]:
        shares = {}
        for run, own in zip(self.runs, self.values[:, :, unit], strict=True):
            known = own[~own.isnan()]
            shares[f"fires {run}"] = float((known != 0).double().mean())
        best = self._largest(unit, 1)
        return {"name": name, **shares, **(self._place(*best[0]) if best else {})}

    def _largest(self, unit: int, n: int) -> list[tuple[int, int, int, float]]:
        """(run, pair, position, value) of the largest values that are not 0, equal prompts once."""
        own = self.values[:, :, unit].double().numpy()
        size = np.nan_to_num(np.abs(own), nan=0.0)
        found: list[tuple[int, int, int, float]] = []
        seen = set[tuple[tuple[str, ...], int]]()
        for place in np.argsort(-size, axis=None, kind="stable"):
            run, example, position = (int(i) for i in np.unravel_index(place, own.shape))
            if len(found) == n or not size[run, example, position]:
                break
            key = self.prompts[run][example][: position + 1], position  # what stands behind changes nothing
            if key not in seen:
                seen.add(key)
                found.append((run, example, position, float(own[run, example, position])))
        return found

    def _place(self, run: int, example: int, position: int, value: float) -> dict[str, Any]:
        tokens = self.prompts[run][example]
        before, behind = tokens[max(0, position - _AROUND) : position], tokens[position + 1 : position + 1 + _AROUND]
        lead = "…" if position > _AROUND else ""
        rest = "…" if position + 1 + _AROUND < len(tokens) else ""
        body = tokens[position].lstrip(" ")
        space = tokens[position][: len(tokens[position]) - len(body)]
        said = f"{lead}{''.join(before)}{space}«{body}»{''.join(behind)}{rest}"
        return {"value": value, "token": tokens[position], "text": said, "run": self.runs[run], "pair": example,
                "position": position}  # fmt: skip

    @property
    def sentences(self) -> tuple[str, ...]:
        """Where the first units are largest."""
        said = []
        for u, name in enumerate(self.units.names[:_SAID]):
            best = self._largest(u, 1)
            if not best:
                said.append(f"{name} is 0 at every token.")
                continue
            found = self._place(*best[0])
            said.append(
                f"{name} is largest ({plain(found['value'])}) on {found['text'].strip()} ({found['run']}, pair "
                f"{found['pair']})."
            )
        return tuple(said)

    def describe(self) -> str:
        """What these numbers are."""
        lines = [
            f"What {counted(len(self.units), 'unit')} are at every position",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            *([f"of      {self.settings['dictionary']}"] if "dictionary" in self.settings else []),
            f"n       {counted(self.n, 'pair')}",
            f"cost    {self.cost.describe()}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {sentence}" for sentence in self.sentences)])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {name: getattr(self, name) for name in ("runs", "prompts", "settings", "model", "task")}
        header |= {"kind": self.units.kind, "cost": self.cost.to_dict()}
        return write_tensors(path, FORMAT, header, {"values": self.values, **pack_units(self.units)})


#: Units that are said in words.
_SAID = 6


def load_activations(path: str | Path) -> Activations:
    """Read what `Activations.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("activations.safetensors").table()
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        found = _HEADER(header)
        units = unpack_units(found["kind"], tensors)
        sizes = require_tensors(
            {"values": tensors["values"]}, {"values": "float runs examples units positions"},
            runs=len(found["runs"]), units=len(units),
        )  # fmt: skip
        prompts = tuple(tuple(map(tuple, run)) for run in found["prompts"])
        if {len(run) for run in prompts} != {sizes["examples"]} or len(prompts) != sizes["runs"]:
            raise ValueError("its prompts are not those of its numbers")
        if max(len(one) for run in prompts for one in run) != sizes["positions"]:
            raise ValueError("its prompts have other lengths than its numbers")
        names = ("settings", "model", "task", "cost")
        return Activations(
            runs=tuple(found["runs"]), values=tensors["values"], units=units, prompts=prompts,
            **{name: found[name] for name in names},
        )  # fmt: skip

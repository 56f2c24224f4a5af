"""What a sweep has come to: its cells with what is done of each, and their results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.progress import duration
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.merging import merge
from veracausa.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.result import Result


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep in its folder; `sweep[0]`, or a name of `table()`, is a cell's result, merged when it is asked for.

    >>> sweep = vc.sweep("plan.toml", out="out/sweep")
    >>> sweep[0].top(5)
    """

    folder: Folder

    def __len__(self) -> int:
        return len(self.folder.cells)

    def __iter__(self) -> Iterator[Result]:
        return (self[cell] for cell in range(len(self)))

    def __getitem__(self, cell: int | str) -> Result:
        """A cell's result.

        Raises:
            KeyError: there is no such cell. FileError: not all of its items are done, or one is damaged.
        """
        number = self.names.index(cell) if isinstance(cell, str) and cell in self.names else cell
        if not isinstance(number, int) or not 0 <= number < len(self):
            raise KeyError(f"{cell!r} is no cell of this sweep. Cells: {', '.join(self.names)}")
        return merge(self.folder, number)

    @property
    def names(self) -> list[str]:
        """The cells' names, in order."""
        return [cell.name for cell in self.folder.cells]

    @cached_property
    def _state(self) -> list[dict[str, Any]]:
        rows = []
        for cell, name in enumerate(self.names):
            items = self.folder.of_cell(cell)
            done = [item for item in items if self.folder.done(item)]
            aside = [item for item in items if item not in done and self.folder.set_aside(item)]
            rows.append(
                {
                    "cell": name,
                    "items": len(items),
                    "done": len(done),
                    "set aside": len(aside),
                    "token-layers": sum(item.token_layers for item in items),
                    "seconds": _sum(item.seconds for item in items),
                }
            )
        return rows

    def table(self) -> pd.DataFrame:
        """One row per cell: items, how many are done and set aside, token-layers and seconds by the forecast."""
        import pandas as pd

        return pd.DataFrame(self._state)

    def done(self, cell: int) -> bool:
        """Whether every item of a cell is done."""
        return self._state[cell]["done"] == self._state[cell]["items"]

    @property
    def finished(self) -> bool:
        """Whether every item is done."""
        return all(row["done"] == row["items"] for row in self._state)

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Items that are set aside: the cell of each, and why it failed last."""
        folder = self.folder
        aside = [item for item in folder.items if not folder.done(item) and folder.set_aside(item)]
        return [(folder.cells[item.cell].name, str(folder.failures(item)[-1]["why"])) for item in aside]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is done, what is left, and what failed."""
        items = sum(row["items"] for row in self._state)
        done, aside = sum(row["done"] for row in self._state), sum(row["set aside"] for row in self._state)
        left = _sum(item.seconds for item in self.folder.open_items())
        rest = "" if self.finished or left is None else f"; about {duration(left)} of one worker are left"
        said = [f"{done} of {counted(items, 'item')} of {counted(len(self), 'cell')} are done{rest}."]
        if aside:
            said.append(f"{counted(aside, 'item')} failed {self.folder.tries} times and are set aside:")
            said += [f"{cell}: {why}" for cell, why in dict.fromkeys(self.failures)]
        return tuple(said)

    def describe(self) -> str:
        """The same as text, with the cells."""
        table = self.table()
        said = table.drop(columns="cell").to_string(index=False, float_format="{:,.0f}".format).splitlines()
        names = ["cell", *table["cell"]]
        return "\n".join([*self.sentences, *(f"{row}  {name}" for row, name in zip(said, names, strict=True))])

    def __repr__(self) -> str:
        return self.describe()


def open_sweep(path: str | Path) -> Sweep:
    """The sweep in a folder, as far as it has come.

    Raises:
        FileError: there is none, or its list of items is damaged.
    """
    return Sweep(Folder.open(path))


def _sum(seconds: Any) -> float | None:
    every = list(seconds)
    return None if any(one is None for one in every) else float(sum(every))

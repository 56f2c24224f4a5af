"""What a sweep has come to: its cells with what is done of each, and their results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.doors import through
from veracausa.extras import require_extra
from veracausa.progress import duration
from veracausa.storage.files import at
from veracausa.sweeps.exporting import to_parquet
from veracausa.sweeps.folder import Folder, Seen
from veracausa.sweeps.merging import merge
from veracausa.sweeps.totals import Totals, totals_of
from veracausa.sweeps.verbs import SCORED
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
        return merge(self.folder, self._number(cell))

    def _number(self, cell: int | str) -> int:
        number = self.names.index(cell) if isinstance(cell, str) and cell in self.names else cell
        if not isinstance(number, int) or not 0 <= number < len(self):
            raise KeyError(f"{cell!r} is no cell of this sweep. Cells: {', '.join(self.names)}")
        return number

    def totals(self, cell: int | str, *, strongest: int = 100) -> Totals:
        """Means, standard errors and tops of a cell's scores, added up item by item in one pass; see `Totals`.

        For scores that do not fit into memory. `strongest`: how many of the largest single effects are kept.

        Raises:
            KeyError: there is no such cell. MethodError: its answer is no scores. FileError: as for `sweep[cell]`.

        >>> sweep.totals(1).agreement(sweep.totals(0))
        """
        return totals_of(self.folder, self._number(cell), strongest)

    def export(self, out: str | Path | None = None) -> list[Path]:
        """Write the scores of every cell that is done as Parquet, one file a cell (default: in the sweep's `parquet`).

        One row per pair and unit: cell, pair, unit, layer, effect, clean, corrupted; see `exporting`. Cells with other
        answers than scores are left out.

        Raises:
            ExtraError: pyarrow is missing. FileError: an item is damaged, or a file cannot be written.
        """
        require_extra("parquet")
        where = self.folder.path / "parquet" if out is None else at(out)
        cells = [cell for cell in range(len(self)) if self.done(cell) and self.folder.cells[cell].ask in SCORED]
        return [
            to_parquet(self.folder, cell, where / self.folder.result(cell).with_suffix(".parquet").name)
            for cell in cells
        ]

    def page(self, path: str | Path | None = None) -> Path:
        """Write the sweep as one offline page (default: `sweep.html` in its folder): a grid of its cells.

        Models and tasks are rows, questions columns; each cell says its state and what it took beside its forecast, and
        leads to its result's findings and file. Cells that are done are merged for it.

        Raises:
            ExtraError: charts' libraries are missing. FileError: an item is damaged, or it cannot be written.
        """
        require_extra("charts")
        found: Path = through("Sweep.page", self, self.folder.path / "sweep.html" if path is None else path)
        return found

    @property
    def names(self) -> list[str]:
        """The cells' names, in order."""
        return [cell.name for cell in self.folder.cells]

    @cached_property
    def _seen(self) -> Seen:
        return self.folder.seen()

    @cached_property
    def _state(self) -> list[dict[str, Any]]:
        rows, taken = [], self.folder.taken()
        for cell, name in enumerate(self.names):
            items = self.folder.of_cell(cell)
            rows.append(
                {
                    "cell": name,
                    "state": self._seen.state(items),
                    "items": len(items),
                    "done": sum(item.id in self._seen.done for item in items),
                    "set aside": sum(item.id in self._seen.aside for item in items),
                    "token-layers": sum(item.token_layers for item in items),
                    "seconds": _sum(item.seconds for item in items),
                    "taken": sum(taken.get(item.id, 0.0) for item in items if item.id in self._seen.done),
                }
            )
        return rows

    def table(self) -> pd.DataFrame:
        """One row per cell: its state, items, how many are done and set aside, what it costs, what it took so far.

        `token-layers`, `seconds`: of all its items by the forecast, one worker; `taken`: seconds of those done.
        """
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
        aside = [item for item in folder.items if item.id in self._seen.aside]
        return [(folder.cells[item.cell].name, str(folder.failures(item)[-1]["why"])) for item in aside]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is done, what is left, and what failed."""
        items = sum(row["items"] for row in self._state)
        done, aside = sum(row["done"] for row in self._state), sum(row["set aside"] for row in self._state)
        left = _sum(item.seconds for item in self._seen.left(self.folder.items))
        rest = "" if self.finished or left is None else f"; about {duration(left)} of one worker are left"
        said = [f"{done} of {counted(items, 'item')} of {counted(len(self), 'cell')} are done{rest}."]
        if aside:
            said.append(f"{counted(aside, 'item')} failed {self.folder.tries} times and are set aside:")
            said += [f"{cell}: {why}" for cell, why in dict.fromkeys(self.failures)]
            said.append(f"To have them tried again, delete {self.folder.path / 'failed'} and run the sweep again.")
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

"""`Scoreboard`: what every ranking of edges is worth, column by column; a cell that is missing says why.

Bounded areas count f as 1 − min(|1 − f|, 1), so that overshoot earns nothing: 1 is the model's behaviour, 0 is as far
from it as the run without any edge, on either side.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from veracausa.circuits.scoreboards.columns import COLUMNS, NEITHER, SMALLER
from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.errors import MethodError
from veracausa.result import Shown
from veracausa.storage.files import at, read_json, write_json
from veracausa.storage.schema import MODEL, TASK, cost, flag, many, mapped, maybe, number, reading, record, text
from veracausa.suggestions import not_known
from veracausa.words import counted, listed

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


@dataclass(frozen=True)
class Cell:
    """A figure (None: missing, and `why`), its standard error where one is known; `beyond`: it is more than that."""

    value: float | None = None
    stderr: float | None = None
    why: str = ""
    beyond: bool = False

    @classmethod
    def of(cls, value: float, stderr: float = float("nan")) -> Cell:
        """A figure, whose standard error may be NaN."""
        return cls(float(value), None if stderr != stderr else float(stderr))

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        whole = self.value == int(self.value) and (abs(self.value) >= 1 or (self.value == 0 and self.stderr is None))
        shown = f"{self.value:,.0f}" if whole else f"{self.value:.3f}"
        shown = shown.replace("-", "−") + ("" if self.stderr is None else f" ± {self.stderr:.3f}")
        return f"> {shown}" if self.beyond else shown


@dataclass(frozen=True, eq=False)
class Scoreboard(Shown):
    """Rankings × columns; see the module and `columns.COLUMNS`.

    `rankings`: their names; `cells`: for every ranking its cells by column; `size`: share of the edges that attacked
    circuits have; `task`: the pairs that all were judged on.

    >>> board = vc.circuits.scoreboard(lm, held_out, {"eap": eap, "eap-ig": eap_ig})
    >>> board.table(), board.best("bounded")
    """

    rankings: tuple[str, ...]
    cells: dict[str, dict[str, Cell]]
    cost: Cost
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Those that some ranking has a cell of, in order."""
        return [name for name in COLUMNS if any(name in own for own in self.cells.values())]

    def best(self, column: str) -> str | None:
        """The ranking that leads alone in a column; None where no cell is known, or several are as good."""
        leaders = self.leaders(column)
        return leaders[0] if len(leaders) == 1 else None

    def leaders(self, column: str) -> tuple[str, ...]:
        """Those with the best figure of a column, none where no cell is known. Beyond a bound counts as infinite.

        >>> board.leaders("radius k")
        ('eap', 'eap-ig')
        """
        if column not in COLUMNS:
            raise MethodError(not_known("column of a scoreboard", column, COLUMNS))
        sign = -1 if column in SMALLER else 1
        known = {name: sign * _number(self.cells[name].get(column, Cell())) for name in self.rankings}
        known = {name: figure for name, figure in known.items() if figure == figure}
        return tuple(name for name, figure in known.items() if figure == max(known.values()))

    def table(self) -> pd.DataFrame:
        """One row per ranking: columns, with standard errors; infinity where a cell is beyond, NaN where missing."""
        import pandas as pd

        rows = []
        for name in self.rankings:
            row: dict[str, Any] = {"ranking": name}
            for column in self.columns:
                cell = self.cells[name].get(column, Cell())
                row[column] = _number(cell)
                if any(own.get(column, Cell()).stderr is not None for own in self.cells.values()):
                    row[f"{column} ±"] = float("nan") if cell.stderr is None else cell.stderr
            rows.append(row)
        return pd.DataFrame(rows)

    def shown(self) -> pd.DataFrame:
        """The same as text, a column per ranking: figures with their errors, "–" where there is none."""
        import pandas as pd

        cells = {name: [str(self.cells[name].get(column, Cell())) for column in self.columns] for name in self.rankings}
        return pd.DataFrame({"": self.columns, **cells})

    @property
    def missing(self) -> tuple[str, ...]:
        """Which cells are missing, and why."""
        found: dict[tuple[str, str], list[str]] = {}
        for name, own in self.cells.items():
            for column, cell in own.items():
                if cell.value is None:
                    found.setdefault((name, cell.why), []).append(column)
        return tuple(f"{name} has no {listed(columns)}: {why}" for (name, why), columns in found.items())

    @property
    def sentences(self) -> tuple[str, ...]:
        """Who leads in each column that judges, on how many pairs; and what is missing."""
        led: dict[tuple[str, ...], list[str]] = {}
        for column in self.columns:
            if column not in NEITHER and (names := self.leaders(column)):
                led.setdefault(names, []).append(column)
        words = {True: "leads", False: "are as good and lead"}
        leads = [f"{listed(names)} {words[len(names) == 1]} in {listed(columns)}." for names, columns in led.items()]
        pairs = counted(int(self.task["n"]), "pair")
        return (
            f"{counted(len(self.rankings), 'ranking')} judged on {pairs}.",
            *leads,
            *(f"{one}." for one in self.missing),
        )

    def describe(self) -> str:
        """The board as text, what is missing, and what it cost."""
        lines = [
            f"scoreboard of {counted(len(self.rankings), 'ranking')} of edges · "
            f"circuits of {float(self.settings['size']):.1%}",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            self.shown().to_string(index=False),
            *(f"–       {one}" for one in self.missing),
            f"cost    {self.cost.describe()}",
        ]
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return self.describe()

    def page(self, path: str | Path) -> Path:
        """Write its page, one offline file.

        >>> board.page("board.html")
        """
        written: Path = through("Scoreboard.page", self, path)
        return written

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, whole or not at all; `vc.open` reads it."""
        cells = {name: {column: asdict(cell) for column, cell in own.items()} for name, own in self.cells.items()}
        body: dict[str, Any] = {"format": FORMAT, "rankings": list(self.rankings), "cells": cells}
        body |= {"cost": self.cost.to_dict(), "model": self.model, "task": self.task}
        return write_json(path, body | {"settings": self.settings, "notes": list(self.notes)})


def _number(cell: Cell) -> float:
    """A cell as a number: infinity where it is beyond, NaN where it is missing."""
    if cell.value is None:
        return float("nan")
    return float("inf") if cell.beyond else cell.value


FORMAT = "veracausa-scoreboard-1"
_CELL = record(value=maybe(number()), stderr=maybe(number(0)), why=text, beyond=flag)
_HEADER = record(
    rankings=many(text, least=1), cells=mapped(mapped(_CELL)), cost=cost, model=MODEL, task=TASK,
    settings=record(size=number(0, 1)), notes=many(text),
)  # fmt: skip


def load_scoreboard(path: str | Path) -> Scoreboard:
    """Read what `Scoreboard.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    found = read_json(path, "a scoreboard")
    with reading(at(path)):
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}")
        told = _HEADER(found)
        cells = {name: {column: Cell(**cell) for column, cell in own.items()} for name, own in told["cells"].items()}
        if set(cells) != {*told["rankings"]} or any({*own} - {*COLUMNS} for own in cells.values()):
            raise ValueError("its cells are not those of its rankings")
        rest = {name: told[name] for name in ("cost", "model", "task", "settings", "notes")}
        return Scoreboard(told["rankings"], cells, **rest)

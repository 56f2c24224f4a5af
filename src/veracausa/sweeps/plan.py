"""What a sweep is about, declared: models × tasks × questions; each combination is a *cell*, one result of the sweep.

    models = ["smollm2-135m"]          # what vc.load takes, or tables: {name = "…", dtype = "bfloat16"}
    seconds = 60                       # how long an item may take, by the forecast

    [[tasks]]
    name = "ioi"                       # a built-in task and its options, or file = "pairs.csv"
    n = 64
    seed = [0, 1]                      # a list stands for several: here two tasks

    [[questions]]
    ask = "exact"                      # a verb (`asks.ASKS`) and its options
    units = ["heads", "mlps"]

Lists multiply. Names of single units are one text: units = "a9.h6,m3". Files and folders of models are found from the
plan's own folder, wherever a worker is started (from this process's, if the plan is a dict). Nothing here needs torch
or a model.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veracausa.arguments import kind_and_value, shown
from veracausa.errors import FileError, MethodError
from veracausa.storage.files import at
from veracausa.suggestions import did_you_mean
from veracausa.sweeps.verbs import VERBS

#: Seconds that an item may take where the plan does not say.
_SECONDS = 60.0
#: How often an item is tried before it is set aside, where the plan does not say.
_TRIES = 3
_KEYS = ("models", "tasks", "questions", "seconds", "tries")
_MODEL = ("name", "dtype", "device", "anatomy")


@dataclass(frozen=True)
class Cell:
    """One result of a sweep: a question about a task of a model. `options`: the verb's, by name.

    `base`: the folder that relative paths in it are meant from; not a part of what is asked.
    """

    model: Mapping[str, Any]
    task: Mapping[str, Any]
    ask: str
    options: Mapping[str, Any]
    base: str = ""

    def placed(self, name: str) -> str:
        """A name that may be that of a file or folder: where that is, if it is there; else as it stands."""
        path = Path(self.base) / at(name)
        return str(path) if self.base and path.exists() else name

    def asked(self) -> dict[str, Any]:
        """What is asked, as plain values."""
        return {"model": dict(self.model), "task": dict(self.task), "ask": self.ask, "options": dict(self.options)}

    @property
    def name(self) -> str:
        """In words: "smollm2-135m · ioi n=64 seed=0 · exact units=heads"."""
        return " · ".join((_called(self.model), _called(self.task), f"{self.ask} {_listed(self.options)}".strip()))


@dataclass(frozen=True)
class Plan:
    """A sweep as it was declared. `seconds`: forecast time of an item at most. `tries`: of an item that fails.

    >>> plan_of("plan.toml").cells[0].name
    'smollm2-135m · ioi n=64 seed=0 · exact units=heads'
    """

    cells: tuple[Cell, ...]
    seconds: float = _SECONDS
    tries: int = _TRIES

    def digest(self) -> str:
        """A hash of the cells: two plans that ask the same have the same, however they cut it."""
        asked = [cell.asked() for cell in self.cells]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def to_list(self) -> list[dict[str, Any]]:
        """The cells as plain values."""
        return [cell.asked() | {"base": cell.base} for cell in self.cells]


def plan_of(source: str | Path | Mapping[str, Any]) -> Plan:
    """The plan in `source`: a TOML file, or a dict of the same form; all that needs no model is checked.

    Raises:
        FileError: there is no such file, or it is no TOML. MethodError: something in it that no sweep has.

    >>> vc.sweeps.plan_of("plan.toml").cells[0].name
    """
    content, where = (source, "the plan") if isinstance(source, Mapping) else (_read(at(source)), str(source))
    base = Path.cwd() if isinstance(source, Mapping) else Path(os.path.abspath(at(source))).parent
    _require_known(content, _KEYS, where)
    models = [_model(one, where) for one in _several(content, "models", where)]
    tasks = [made for one in _several(content, "tasks", where) for made in _alternatives(_task(one, where, base))]
    asked = [made for one in _several(content, "questions", where) for made in _alternatives(_question(one, where))]
    cells = [
        Cell(model, task, str(question["ask"]), _but(question, "ask"), str(base))
        for model, task, question in itertools.product(models, tasks, asked)
    ]
    if twice := [cell.name for at, cell in enumerate(cells) if cell in cells[:at]]:
        raise MethodError(f"{where} asks for {twice[0]} twice. Name each model, task and question once.")
    seconds, tries = content.get("seconds", _SECONDS), content.get("tries", _TRIES)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise MethodError(f"{where}: seconds is how long an item may take, above 0, but it is {shown(seconds)}.")
    if isinstance(tries, bool) or not isinstance(tries, int) or tries < 1:
        raise MethodError(f"{where}: tries is how often an item is tried, at least 1, but it is {shown(tries)}.")
    return Plan(tuple(cells), float(seconds), tries)


def _read(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"There is no plan {path}.") from None
    except OSError as error:
        raise FileError(f"The plan {path} cannot be read: {error}") from error
    except ValueError as error:
        raise FileError(f"{path} is no plan: it is not TOML ({error}).") from error


def _require_known(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in table:
        if name not in known:
            raise MethodError(
                f"{where} has {name!r}, which no sweep knows.{did_you_mean(name, known)} Known: {', '.join(known)}."
            )


def _several(content: Mapping[str, Any], name: str, where: str) -> list[Any]:
    found = content.get(name)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise MethodError(f"{where} needs a list of {name}, at least one; this is {kind_and_value(found)}.")
    return list(found)


def _table(value: Any, what: str, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise MethodError(f"{where}: {what} is a table, but this is {kind_and_value(value)}.")
    return dict(value)


def _model(value: Any, where: str) -> dict[str, Any]:
    table = {"name": value} if isinstance(value, str) else _table(value, "a model", where)
    _require_known(table, _MODEL, f"{where}: a model")
    if not isinstance(table.get("name"), str):
        raise MethodError(f"{where}: a model needs a name, as vc.load takes it; this is {shown(value)}.")
    return table


def _but(table: Mapping[str, Any], lacking: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != lacking}


def _task(value: Any, where: str, base: Path) -> dict[str, Any]:
    from veracausa.tasks.custom import PUBLISHED
    from veracausa.tasks.registry import named

    table = {"name": value} if isinstance(value, str) else _table(value, "a task", where)
    if ("name" in table) == ("file" in table):
        raise MethodError(f"{where}: a task has a name (a built-in one) or a file, one of the two; this is {table}.")
    for name in _listing(table["name"]) if "name" in table else ():
        named(name, (PUBLISHED,))
    for file in _listing(table.get("file", [])):
        if not (base / at(file)).is_file():
            raise FileError(f"{where}: there is no file {base / at(file)} with pairs.")
    return table


def _question(value: Any, where: str) -> dict[str, Any]:
    table = _table(value, "a question", where)
    asks = _listing(table.get("ask", []))
    if not asks:
        raise MethodError(f"{where}: a question says what it asks: ask = one of {', '.join(VERBS)}.")
    for ask in asks:
        if ask not in VERBS:
            known = ", ".join(VERBS)
            raise MethodError(
                f"{where}: ask = {ask!r} is no question of a sweep.{did_you_mean(ask, VERBS)} Known: {known}."
            )
        for name in table:
            if name != "ask" and name not in VERBS[ask]:
                raise MethodError(
                    f"{where}: {ask} takes no option {name!r}.{did_you_mean(name, VERBS[ask])} It takes "
                    f"{', '.join(VERBS[ask])}."
                )
    return table


def _listing(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _alternatives(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The tables that one with lists stands for."""
    for values in itertools.product(*map(_listing, table.values())):
        yield dict(zip(table, values, strict=True))


def _called(table: Mapping[str, Any]) -> str:
    first = str(table.get("name", table.get("file")))
    return " ".join((first, *(f"{name}={value}" for name, value in table.items() if name not in ("name", "file"))))


def _listed(table: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in table.items())

"""Which columns of a table hold prompts and answers: by their names, by the names that are given, or as published sets
of pairs have them.

Published sets are recognised by their columns: circuit-discovery CSVs of the EAP-IG line (answers by token id), sparse
feature circuits (JSON lines), auto-circuit (one JSON object) and the MIB benchmark (nested counterfactuals).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veracausa.arguments import is_list, shown
from veracausa.errors import TaskError
from veracausa.suggestions import did_you_mean

#: What a pair is made of.
COLUMNS = ("clean", "corrupted", "correct", "incorrect")
#: What becomes of pairs that do not fit a tokenizer.
UNEQUAL = {"refuse": "an error", "skip": "left out, counted and listed"}
#: Row → what a pair is made of, by name, and everything else of the row.
Reader = Callable[[Mapping[str, Any]], dict[str, Any]]
#: Columns whose name ends so hold token ids.
_IDS = "_idx"
_COUNTERFACTUAL = "_counterfactual"
#: A prompt of the greater-than set, whose column says from which year on: "… from the year 1352 to the year 13".
_YEARS = re.compile(r"(\d\d)(\d\d)\D+\1$")


@dataclass(frozen=True)
class Layout:
    """How the columns of a table are read.

    `name`: the published set that it is of, if any. `read`: see `Reader`. `ids`: what of a pair is given by token ids.
    """

    name: str
    read: Reader
    ids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Published:
    """A set's way to write pairs down. `columns`: what a pair is made of → the column that holds it."""

    name: str
    columns: Mapping[str, str]

    def layout(self, found: Sequence[str], asked: Mapping[str, str]) -> Layout | None:
        """This set's layout, if the columns are there; `asked` may name another column of it."""
        columns = {**self.columns, **asked}
        return _renamed(self.name, columns) if set(columns.values()) <= set(found) else None


#: Those that only name their columns in another way.
PUBLISHED = tuple(
    Published(name, dict(zip(COLUMNS, columns.split(), strict=True)))
    for name, columns in (
        ("EAP-IG", "clean corrupted correct_idx incorrect_idx"),
        ("EAP-IG", "clean corrupted country_idx corrupted_country_idx"),
        ("EAP-IG", "clean corrupted clean_answer_idx corrupted_answer_idx"),
        ("EAP-IG", "clean corrupted answers_idx corrupted_answers_idx"),
        ("feature circuits", "clean_prefix patch_prefix clean_answer patch_answer"),
        ("auto-circuit", "clean corrupt answers wrong_answers"),
    )
)


def layout(found: Sequence[str], asked: Mapping[str, str], required: Sequence[str], where: str) -> Layout:
    """How rows with these columns are read; `asked`: names that the user gives, `required`: what a pair must have.

    Raises:
        TaskError: a column that is there twice, is asked for but not there, or of which none holds what is required.

    >>> layout(["clean_prefix", "patch_prefix", "clean_answer", "patch_answer"], {}, COLUMNS, "pairs.json").name
    'feature circuits'
    """
    if twice := sorted({name for name in found if list(found).count(name) > 1}):
        raise TaskError(f"{where}: column {_listed(twice)} is there twice")
    if unknown := [name for name in asked if name not in COLUMNS]:
        raise TaskError(
            f"columns={shown(dict(asked))}: {_listed(unknown)} is nothing that a pair is made of. Name the columns of "
            f"{', '.join(COLUMNS)}: columns={{'clean': 'my column'}}."
        )
    if lost := [name for name in asked.values() if name not in found]:
        raise TaskError(
            f"{where}: column {_listed(lost)} is missing; {_has(found)}.{did_you_mean(lost[0], list(found))}"
        )
    own = {name: asked.get(name, name) for name in COLUMNS if asked.get(name, name) in found}
    if set(required) <= set(own):
        return _renamed("", own)
    known = (*(one.layout(found, asked) for one in PUBLISHED), _greater_than(found, asked), _mib(found, asked, where))
    if (made := next((one for one in known if one is not None), None)) is not None:
        return made
    missing = [name for name in required if name not in own]
    raise TaskError(
        f"{where}: column {_listed(missing)} is missing; {_has(found)}. Say which is which: "
        f"columns={{{missing[0]!r}: '…'}}."
    )


def _renamed(name: str, columns: Mapping[str, str]) -> Layout:
    """Columns under other names; those of token ids as whole numbers."""
    ids = frozenset(part for part, column in columns.items() if column.endswith(_IDS))

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        pair = {part: token_ids(row.get(at)) if part in ids else row.get(at) for part, at in columns.items()}
        return {**{at: value for at, value in row.items() if at not in columns.values()}, **pair}

    return Layout(name, read, ids)


def token_ids(value: Any) -> Any:
    """Whole numbers of a cell that holds some, as text or not: 5, "5", "[5, 7]", "5|7"; else the cell as it is."""
    if isinstance(value, str) and "|" in value:
        parts = [token_ids(part) for part in value.split("|")]
        return parts if all(isinstance(one, int) for one in parts) else value
    try:
        found = ast.literal_eval(value.strip()) if isinstance(value, str) else value
        return [_whole(one) for one in found] if is_list(found) else _whole(found)
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        return value


def _whole(value: Any) -> int:
    """A whole number, also where a table with gaps has made a fraction of it (5.0)."""
    if isinstance(value, (bool, str)) or type(value).__name__ == "bool" or int(value) != value:
        raise ValueError(value)
    return int(value)


def _greater_than(found: Sequence[str], asked: Mapping[str, str]) -> Layout | None:
    """Right is every two-digit year above the one that the column says, wrong are that one and all below."""
    column = next((name for name in ("label", "correct_idx") if name in found), None)
    if asked or column is None or not {"clean", "corrupted"} <= set(found):
        return None

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        prompt, year = row.get("clean"), token_ids(row.get(column))
        year = year if isinstance(year, int) else -1
        match = _YEARS.search(prompt) if isinstance(prompt, str) else None
        if match is None or year != int(match[2]):
            raise TaskError(
                f"column {column!r} holds {shown(row.get(column))}, which answers nothing by itself: it is read as a "
                "year where the prompt ends '… from the year 1352 to the year 13' and it is 52. Give columns with the "
                "answers: columns={'correct': '…', 'incorrect': '…'}"
            )
        years = [f"{one:02d}" for one in range(100)]
        return {**row, "correct": years[year + 1 :], "incorrect": years[: year + 1]}

    return Layout("EAP-IG greater-than", read)


def _mib(found: Sequence[str], asked: Mapping[str, str], where: str) -> Layout | None:
    """A prompt with its choices, and counterfactuals as records of the same kind; which one, the user says."""
    others = [name for name in found if name.endswith(_COUNTERFACTUAL)]
    if not others or not {"prompt", "choices", "answerKey"} <= set(found):
        return None
    if set(asked) - {"corrupted"}:
        raise TaskError(
            f"{where}: of MIB's sets columns= chooses the counterfactual, and nothing else: columns={{'corrupted': "
            f"{others[0]!r}}}; the answers are those of its choices."
        )
    if "corrupted" not in asked and len(others) > 1:
        raise TaskError(
            f"{where}: it has several counterfactuals: {', '.join(others)}. Choose one: columns={{'corrupted': "
            f"{others[0]!r}}}."
        )
    column = asked.get("corrupted", others[0])

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        other = row.get(column)
        if not isinstance(other, Mapping):
            raise TaskError(f"column {column!r} holds no counterfactual: {shown(other)}")
        right, wrong = _choice(row), _choice(other)
        if right == wrong:
            wrong = next((one for one in _choices(row) if one != right), "")
        rest = {name: value for name, value in row.items() if not name.endswith(_COUNTERFACTUAL)}
        pair = {"clean": row["prompt"], "corrupted": other.get("prompt"), "correct": right, "incorrect": wrong}
        return {**rest, **pair}

    return Layout("MIB", read)


def _choices(row: Mapping[str, Any]) -> list[str]:
    """What can be answered, each behind a space: names, or the letters before them."""
    choices = row.get("choices")
    named: Any = choices.get("label") if isinstance(choices, Mapping) else choices
    return [f" {str(one).lstrip()}" for one in named] if is_list(named) else []


def _choice(row: Mapping[str, Any]) -> str:
    choices, key = _choices(row), token_ids(row.get("answerKey"))
    if not isinstance(key, int) or not 0 <= key < len(choices):
        raise TaskError(
            f"answerKey {shown(row.get('answerKey'))} is none of its {len(choices)} choices, counted from 0"
        )
    return choices[key]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _has(found: Sequence[str]) -> str:
    return f"there are {_listed(found)}" if found else "there is no column"

"""The reference set: prompts whose activations replace those of a unit, however they are given.

    a task                          all its prompts, the clean ones and their counterparts
    a list of texts                 sentences (or chats, or rows of token ids), one prompt each
    a table                         its column "text", or "clean" and "corrupted"; or the one that is named
    a file                          .txt: a sentence a line; .csv, .json, .jsonl, .parquet: a table

Whatever is given becomes a task of prompts without a counterpart, of which the metric is never read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from veracausa.arguments import is_list, kind_and_value
from veracausa.choices import PairPrompts
from veracausa.errors import FileError, TaskError
from veracausa.storage.files import at
from veracausa.suggestions import not_known
from veracausa.tasks.custom import task
from veracausa.tasks.files import ENDINGS, table_of
from veracausa.tasks.rows import Table, is_rows, table_in_memory
from veracausa.tasks.task import Task
from veracausa.typed import require

#: Prompts of a pair that are taken.
PROMPTS: dict[PairPrompts, str] = {"both": "the clean prompts and their counterparts", "clean": "the clean ones alone"}
#: Columns of a table that hold prompts, where none is named: the first of these, or the two of a pair.
_COLUMNS = ("text", "sentence", "prompt")
_PAIR = ("clean", "corrupted")
#: A file of sentences.
_SENTENCES = ".txt"
#: How a file of references is called.
REFERENCE_FILES = (_SENTENCES, *ENDINGS)


class Frame(Protocol):
    """A DataFrame of pandas or polars."""

    @property
    def columns(self) -> Any:
        """The columns' names."""
        ...


#: What `reference=` takes.
Reference: TypeAlias = Task | Sequence[Any] | Mapping[str, Any] | Path | Frame


def reference(lm: Any, data: Reference, *, column: str | None = None, prompts: PairPrompts = "both") -> Task:
    """Prompts that means and other prompts' values are taken from, as a task: what `reference=` makes of its argument.

    Args:
        lm: the model, or a tokenizer.
        data: a task; texts, chats or rows of token ids; a table (a DataFrame of pandas or polars, a dataset of Hugging
            Face, a list of records, a dict of columns); a file (.txt with a sentence a line, or a table).
        column: the table's column that holds the prompts (default: "text", "sentence" or "prompt", else "clean" and
            "corrupted").
        prompts: of pairs "both", or the "clean" ones alone.

    Raises:
        TaskError: no prompts, no such column, an empty cell, something else. FileError: a missing or damaged file.
        PromptError: an empty or a padded prompt. All say which.

    >>> vc.exact(lm, task, ablation="mean", reference=["The weather is fine today.", "He went home early."])
    >>> vc.exact(lm, task, ablation="mean", reference=vc.tasks.reference(lm, task, prompts="clean"))
    """
    require(column, "str | None", "vc.tasks.reference: column", {}, TaskError)
    if prompts not in PROMPTS:
        raise TaskError(not_known("prompts", prompts, PROMPTS))
    if isinstance(data, Task):
        if column is not None:
            raise TaskError(f"column={column!r} is one of a table, but the reference is a task. Leave it out.")
        return _clean(data) if prompts == "clean" and data.paired else data
    if isinstance(data, os.PathLike) or (isinstance(data, str) and Path(data).suffix.lower() in REFERENCE_FILES):
        return _of_texts(lm, prompts_in(at(data), column, prompts), at(data).stem)
    if is_rows(data):
        return _of_texts(lm, _cells(table_in_memory(data), column, prompts), "table")
    if column is not None:
        raise TaskError(f"column={column!r} is one of a table, but the reference is {kind_and_value(data)}.")
    texts: Any = [data] if isinstance(data, str) else data
    if not is_list(texts):
        raise TaskError(
            f"A reference set is a task, a list of texts, a table or a file, but this is {kind_and_value(data)}."
        )
    return _of_texts(lm, list(texts), "sentences")


def reference_set(lm: Any, given: Reference | None) -> Task | None:
    """The same of an argument that may be left out."""
    return None if given is None else reference(lm, given)


def prompts_in(path: Path, column: str | None = None, prompts: PairPrompts = "both") -> list[Any]:
    """The prompts of a file, before any model is asked; errors as in `reference`."""
    return _lines(path) if path.suffix.lower() == _SENTENCES else _cells(table_of(path), column, prompts)


def _clean(paired: Task) -> Task:
    """The clean prompts of a task of pairs."""
    name = f"{paired.name}, clean prompts"
    return replace(paired, name=name, corrupted=(), corrupted_text=(), spans=(), paired=False)


def _of_texts(lm: Any, prompts: list[Any], name: str) -> Task:
    if not prompts:
        raise TaskError("The reference set has no prompts; it needs at least one.")
    return task(lm, clean=prompts, paired=False, metric="entropy", name=name)


def _lines(path: Path) -> list[str]:
    """The lines of a text file; blank ones are passed over."""
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise FileError(f"there is no file {path}") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is damaged or not UTF-8 text: {error}") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error}") from error


def _cells(table: Table, column: str | None, prompts: PairPrompts) -> list[Any]:
    """The prompts of a table, column by column."""
    known = list(table.columns or dict.fromkeys(name for _, row in table.rows for name in row))
    pair = _PAIR if prompts == "both" else _PAIR[:1]
    found = [column] if column is not None else [name for name in _COLUMNS if name in known][:1]
    found = found or [name for name in pair if name in known]
    if not found or found[0] not in known:
        raise TaskError(
            f"{table.where} has no column {column or _COLUMNS[0]!r} that prompts could be taken from; it has "
            f"{', '.join(map(repr, known)) or 'none'}. Name one: vc.tasks.reference(lm, table, column=…)."
        )
    cells = []
    for name in found:
        for place, row in table.rows:
            cell = row.get(name)
            if not (isinstance(cell, str) and cell.strip()) and not is_list(cell):
                raise TaskError(f"{table.where}, {place}, column {name!r}: a prompt is text, but this is "
                                f"{kind_and_value(cell)}")  # fmt: skip
            cells.append(cell)
    return cells

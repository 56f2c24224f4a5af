"""A `Task`: pairs of clean and corrupted prompts, their answers, and the metric that reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.arguments import entries, kind_and_value
from veracausa.choices import MetricName
from veracausa.errors import AnswerError, FileError, PromptError, TaskError, VeracausaError
from veracausa.storage.files import at, require_seal, write_json
from veracausa.tasks.metrics import Answers, metric
from veracausa.tasks.spans import Span, names_of, plain, require_spans, spans_of
from veracausa.typed import require, require_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

Ids = tuple[tuple[int, ...], ...]
#: Fields that are rows of token ids → the error that another content raises.
_ROWS: dict[str, type[VeracausaError]] = {
    "clean": PromptError, "corrupted": PromptError, "correct": AnswerError, "incorrect": AnswerError
}  # fmt: skip
_PER_EXAMPLE = ("clean", "corrupted", "correct", "incorrect", "clean_text", "corrupted_text", "info", "spans")


@dataclass(frozen=True, eq=False)
class Task:
    """Clean/corrupted token pairs, answers and a metric: everything a method needs to know of a behaviour.

    `clean`, `corrupted`: token ids (lists, arrays or tensors of whole numbers), never padded, equally long within a
    pair, the start token included where the tokenizer adds one. The metric is read at the last position. `correct` (one
    or more) and `incorrect` (none only for metrics that don't need it): answer token ids per example. `info`: one dict
    per example (template, names, …); `options`: what the whole set was made with (seed, corruption, …); `vocabulary`:
    token id → text, for showing. Padded ids are refused by every call, since only the model's tokenizer knows them.
    `spans`: per example, name → tokens in both prompts, {"subject": (3, 5)} or [(3, 5), (4, 6)] where they are others
    in the corrupted one; examples may lack some (see `tasks.spans`).

    Raises PromptError (lengths differ, equal or empty prompts, spans that are empty or overlap), AnswerError (no
    correct answer, overlap, the metric lacks incorrect ones), MethodError (unknown metric) and TaskError (no example).

    >>> task = vc.tasks.ioi(lm, n=8)
    >>> len(task[:4]), task.with_metric("prob").metric
    (4, 'prob')
    """

    name: str
    clean: Ids
    corrupted: Ids
    correct: Ids
    incorrect: Ids
    metric: MetricName = "logit_diff"
    clean_text: tuple[str, ...] = ()
    corrupted_text: tuple[str, ...] = ()
    info: tuple[dict[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Mapping[int, str] = field(default_factory=dict)
    spans: tuple[Mapping[str, Span], ...] = ()

    def __post_init__(self) -> None:
        require_fields(self, {}, TaskError)
        for name, error in _ROWS.items():
            object.__setattr__(self, name, _rows(getattr(self, name), f"vc.Task: {name}", error))
        n = len(self.clean)
        if n == 0:
            raise TaskError(f"task {self.name!r} has no examples; a task needs at least one pair")
        blank: dict[str, tuple[Any, ...]] = {
            "clean_text": ("",) * n,
            "corrupted_text": ("",) * n,
            "info": tuple({} for _ in range(n)),
            "spans": tuple({} for _ in range(n)),
            "incorrect": ((),) * n,
        }
        for name in _PER_EXAMPLE:
            values = tuple(getattr(self, name)) or blank.get(name, ())
            object.__setattr__(self, name, values)
            if len(values) != n:
                raise TaskError(f"task {self.name!r}: {n} clean prompts but {len(values)} of {name!r}; give one each")
        where = f"of task {self.name!r}"
        object.__setattr__(self, "spans", tuple(spans_of(one, f"pair {i} {where}") for i, one in enumerate(self.spans)))
        needs_incorrect = metric(self.metric).needs_incorrect
        for i in range(n):
            self._check(i, needs_incorrect)

    def _check(self, i: int, needs_incorrect: bool) -> None:
        clean, corrupted = self.clean[i], self.corrupted[i]
        where = f"pair {i} of task {self.name!r}"
        if not clean or not corrupted:
            raise PromptError(f"{where}: the {'corrupted' if clean else 'clean'} prompt has no tokens")
        if len(clean) != len(corrupted):
            shown = [[self._string(t) for t in ids] for ids in (clean, corrupted)]
            raise PromptError(
                f"{where}: the clean prompt is {len(clean)} tokens and the corrupted one {len(corrupted)}, so their "
                f"positions do not correspond\n  clean:     {shown[0]}\n  corrupted: {shown[1]}\n"
                "Choose words that tokenise to equally many tokens."
            )
        if clean == corrupted:
            raise PromptError(
                f"{where}: the clean and the corrupted prompt are the same tokens, so there is nothing to trace: "
                f"{[self._string(t) for t in clean]}"
            )
        require_spans(self.spans[i], len(clean), where)
        correct, incorrect = self.correct[i], self.incorrect[i]
        if not correct:
            raise AnswerError(f"{where} has no correct answer; give at least one")
        if both := set(correct) & set(incorrect):
            shown_both = sorted(self._string(t) for t in both)
            raise AnswerError(f"{where}: {shown_both} are both correct and incorrect answers; a token can be only one")
        for kind, ids in (("correct", correct), ("incorrect", incorrect)):
            if len(set(ids)) < len(ids):
                shown_all = [self._string(t) for t in ids]
                raise AnswerError(f"{where}: a {kind} answer is given twice (as tokens): {shown_all}")
        if needs_incorrect and not incorrect:
            raise AnswerError(
                f"{where}: the metric {self.metric!r} compares correct with incorrect answers, but there are no "
                "incorrect ones; give some, or use metric='logprob' or 'prob'"
            )

    def _string(self, token: int) -> str:
        return self.vocabulary.get(token, f"#{token}")

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        return f"<Task {self.describe()}>"

    def __getitem__(self, which: int | slice | Iterable[int]) -> Task:
        """A task of some of the examples: one index, a slice, or a list of indices (repeats allowed)."""
        if isinstance(which, slice):
            rows: Sequence[int] = range(len(self))[which]
        elif isinstance(which, Iterable):
            rows = [operator.index(i) for i in which]
        else:
            rows = [operator.index(which)]
        for i in rows:
            if not -len(self) <= i < len(self):
                raise IndexError(f"task {self.name!r} has {len(self)} examples, so there is no example {i}")
        if not rows:
            raise TaskError(f"no example of task {self.name!r} is selected by {which!r}; it has {len(self)}")
        chosen: dict[str, Any] = {k: tuple(getattr(self, k)[i] for i in rows) for k in _PER_EXAMPLE}
        return dataclasses.replace(self, **chosen)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens per pair (the clean and the corrupted prompt are equally long)."""
        return tuple(len(ids) for ids in self.clean)

    @property
    def first_difference(self) -> tuple[int, ...]:
        """Per pair, the index of the first token in which clean and corrupted differ; all before it is shared."""
        return tuple(
            next(k for k, (a, b) in enumerate(zip(c, d, strict=True)) if a != b)
            for c, d in zip(self.clean, self.corrupted, strict=True)
        )

    @property
    def span_names(self) -> tuple[str, ...]:
        """The names of its spans, in the order in which the examples have them."""
        return names_of(self.spans)

    def tokens(self, i: int) -> tuple[list[str], list[str]]:
        """Token strings of pair i, clean and corrupted, for showing: ([' Mary', …], [' John', …])."""
        clean, corrupted = self.clean[i], self.corrupted[i]
        return [self._string(t) for t in clean], [self._string(t) for t in corrupted]

    def answer_strings(self, i: int) -> tuple[list[str], list[str]]:
        """The correct and the incorrect answers of pair i as text."""
        return [self._string(t) for t in self.correct[i]], [self._string(t) for t in self.incorrect[i]]

    def answers(self, examples: Sequence[int] | None = None) -> Answers:
        """The padded answer table of the given examples (all of them by default), one row each."""
        rows = range(len(self)) if examples is None else [operator.index(i) for i in examples]
        return Answers.of([self.correct[i] for i in rows], [self.incorrect[i] for i in rows])

    def with_metric(self, name: MetricName) -> Task:
        """The same pairs under another metric; MethodError or AnswerError if that cannot be."""
        return dataclasses.replace(self, metric=name)

    def split(self, fraction: float, seed: int = 0) -> tuple[Task, Task]:
        """Two disjoint tasks, the first with `fraction` of the examples (rounded), both in the original order.

        >>> train, test = task.split(0.75, seed=0)
        """
        require(fraction, "float", "task.split: fraction", {}, TaskError)
        require(seed, "int", "task.split: seed", {}, TaskError)
        if not 0 < fraction < 1:
            raise TaskError(f"the fraction of a split lies between 0 and 1, but it is {fraction}")
        size = round(fraction * len(self))
        if not 0 < size < len(self):
            raise TaskError(f"{len(self)} examples cannot be split {fraction:g} to {1 - fraction:g}: one part is empty")
        order = sorted(range(len(self)), key=lambda i: hashlib.sha256(f"split {seed} {i}".encode()).digest())
        return self[sorted(order[:size])], self[sorted(order[size:])]

    def digest(self) -> str:
        """SHA-256 (hex) over tokens, answers and metric: equal for two tasks that give the same numbers."""
        content = [self.clean, self.corrupted, self.correct, self.incorrect, self.metric]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def describe(self) -> str:
        """One sentence: name, size, how it was made, lengths, metric."""
        made = ", ".join(f"{len(v)} {k}" if isinstance(v, list) else f"{k} {v}" for k, v in self.options.items())
        short, long = min(self.lengths), max(self.lengths)
        span = f"{short}" if short == long else f"{short} to {long}"
        pairs = "1 pair" if len(self) == 1 else f"{len(self)} pairs"
        return f"{self.name}: {pairs}{f' ({made})' if made else ''} of {span} tokens, metric {self.metric}."

    def save(self, path: str | Path) -> Path:
        """Write the task as JSON, whole or not at all; `vc.open` reads it."""
        return save_task(self, path)


def _rows(values: Any, what: str, error: type[VeracausaError]) -> Ids:
    """Rows of token ids, whatever holds them; `error` for a table, a text, or numbers that are not whole."""
    rows = []
    for i, row in enumerate(entries(values, what, error)):
        ids = entries(row, f"{what}[{i}]", error)
        try:
            rows.append(tuple(operator.index(token) for token in ids))
        except TypeError:
            raise error(
                f"{what}[{i}] is a list of token ids, which are whole numbers, but this is {kind_and_value(row)}; "
                "texts become tokens in vc.task(lm, clean=…)"
            ) from None
    return tuple(rows)


FORMAT = "veracausa.task"


VERSION = 3
#: Versions that are still read; tasks had no spans before 3.
_READ = (2, 3)


_FIELDS = ("clean", "corrupted", "correct", "incorrect", "clean_text", "corrupted_text", "info")


def save_task(task: Task, path: str | Path) -> Path:
    """Write a task; a crash leaves the old file or none, never half a file."""
    return write_json(path, task_content(task))


def load_task(path: str | Path) -> Task:
    """Read what `save_task` wrote; FileError says what is wrong with any other file."""
    path = at(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"there is no task file {path}") from None
    except OSError as error:
        raise FileError(f"the task file {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a task file, or it is cut short: {error}") from error
    return task_of(content, path, sealed=True)


def task_content(task: Task) -> dict[str, Any]:
    """A task as what a JSON file can hold, for files that keep a task beside something else."""
    content: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": task.name, "metric": task.metric}
    content |= {"digest": task.digest(), "options": dict(task.options)}
    content |= {name: getattr(task, name) for name in _FIELDS}
    content |= {"spans": [plain(one) for one in task.spans]} if task.span_names else {}
    return content | {"vocabulary": {str(k): v for k, v in task.vocabulary.items()}}


def task_of(content: Any, path: Path, *, sealed: bool = False) -> Task:
    """The task that `task_content` wrote down; FileError names `path` if it is something else, or damaged."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileError(
            f"{path} is JSON, but not a task that veracausa saved; prompts of your own are read by vc.task(lm, path)"
        )
    if content.get("version") not in _READ:
        raise FileError(
            f"{path} has version {content.get('version')!r} of the task format; this library reads "
            f"{' and '.join(map(str, _READ))}"
        )
    if sealed:
        require_seal(content, path, "a task file")
    try:
        task = Task(
            name=content["name"],
            metric=content["metric"],
            options=dict(content["options"]),
            vocabulary={int(k): v for k, v in content["vocabulary"].items()},
            spans=tuple(content.get("spans", ())),
            **{name: tuple(content[name]) for name in _FIELDS},
        )
        digest = content["digest"]
    except (KeyError, TypeError, ValueError, AttributeError, VeracausaError, OverflowError, IndexError) as error:
        raise FileError(f"the task file {path} is damaged: {type(error).__name__}: {error}") from error
    if digest != task.digest():
        raise FileError(f"the task file {path} was changed after it was saved: its digest does not fit its content")
    return task

"""A `Task`: pairs of clean and corrupted prompts, their answers, and the metric that reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from veracausa.arguments import entries, kind_and_value
from veracausa.choices import Align, MetricName, Over
from veracausa.errors import AnswerError, FileError, MethodError, PromptError, TaskError, VeracausaError
from veracausa.storage.files import at, require_seal, write_json
from veracausa.storage.plain import as_json
from veracausa.suggestions import not_known
from veracausa.tasks.aligned import ALIGNED, counterpart, require_aligned, shared_start
from veracausa.tasks.metrics import COMBINED, Answers, Metric, metric
from veracausa.tasks.own_metrics import OwnMetric, digest_of, is_function
from veracausa.tasks.spans import Span, names_of, plain, require_spans, spans_of
from veracausa.typed import require, require_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

Ids = tuple[tuple[int, ...], ...]
#: Fields that are rows of token ids → the error that another content raises.
_ROWS: dict[str, type[VeracausaError]] = {
    "clean": PromptError, "corrupted": PromptError, "correct": AnswerError, "incorrect": AnswerError, "read": TaskError
}  # fmt: skip
_PER_EXAMPLE = (
    "clean", "corrupted", "correct", "incorrect", "clean_text", "corrupted_text", "info", "read", "number",
    "spans",
)  # fmt: skip
#: Metrics of answers of several tokens, and what becomes of the tokens.
CONTINUED: dict[str, Over] = {"logprob": "sum", "prob": "product"}


@dataclass(frozen=True, eq=False)
class Task:
    """Clean/corrupted token pairs, answers and a metric: everything a method needs to know of a behaviour.

    `clean`, `corrupted`: token ids (lists, arrays or tensors of whole numbers), never padded, equally long within a
    pair (but see `align`), the start token included where the tokenizer adds one. `corrupted` may be left out: such a
    task has no counterpart (`paired` is False), and units are replaced by zero, means or other prompts' values.
    `correct` (one or
    more) and `incorrect` (none only for metrics that don't need it): answer token ids per example. `info`: one dict per
    example (template, names, …); `options`: what the whole set was made with (seed, corruption, …); `vocabulary`: token
    id → text, for showing. Padded ids are refused by every call, since only the model's tokenizer knows them.

    `read`: the positions of each example at which the metric is read, that is, where the token behind it is predicted
    (default: the last one, −1; others count from the end, too), and `over`, what becomes of several: their mean, sum or
    product. `continued`: the correct answers of an example are one token for each of these positions, in order, as a
    continuation that the prompt holds already. `function`: the metric, if it is one of your own (`with_metric`).
    `spans`: per example, name → tokens in both prompts, {"subject": (3, 5)} or [(3, 5), (4, 6)] where they are others
    in the corrupted one; examples may lack some (see `tasks.spans`). `align`: what corresponds in spans of unequal
    lengths, "last" or "mean" (see `tasks.aligned`); the prompts of a pair that has spans may then differ in length, and
    effects are had at spans and at the end.

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
    read: Ids = ()
    over: Over = "mean"
    continued: bool = False
    function: Callable[..., Any] | None = None
    number: tuple[int, ...] = ()
    paired: bool = True
    align: Align | None = None

    def __post_init__(self) -> None:
        require_fields(self, {}, TaskError)
        for name, error in _ROWS.items():
            object.__setattr__(self, name, _rows(getattr(self, name), f"vc.Task: {name}", error))
        n = len(self.clean)
        if n == 0:
            raise TaskError(f"task {self.name!r} has no examples; a task needs at least one pair")
        if not (self.corrupted and self.paired):
            object.__setattr__(self, "paired", False)
            object.__setattr__(self, "corrupted", self.clean)
            object.__setattr__(self, "corrupted_text", self.clean_text)
        blank: dict[str, tuple[Any, ...]] = {
            "clean_text": ("",) * n,
            "corrupted_text": ("",) * n,
            "info": tuple({} for _ in range(n)),
            "spans": tuple({} for _ in range(n)),
            "correct": ((),) * n,
            "incorrect": ((),) * n,
            "read": ((-1,),) * n,
            "number": tuple(range(n)),
        }
        if set(self.read) <= {(-1,)}:  # read at the end, however many there are now (`dataclasses.replace`)
            object.__setattr__(self, "read", ())
        if not any(self.spans):
            object.__setattr__(self, "spans", ())
        if len(self.number) != n:
            object.__setattr__(self, "number", ())
        for name in _PER_EXAMPLE:
            values = tuple(getattr(self, name)) or blank.get(name, ())
            object.__setattr__(self, name, values)
            if len(values) != n:
                raise TaskError(f"task {self.name!r}: {n} clean prompts but {len(values)} of {name!r}; give one each")
        where = f"of task {self.name!r}"
        object.__setattr__(self, "spans", tuple(spans_of(one, f"pair {i} {where}") for i, one in enumerate(self.spans)))
        if self.over not in COMBINED:
            raise TaskError(not_known("over", self.over, COMBINED))
        if self.align is not None and self.align not in ALIGNED:
            raise TaskError(not_known("align", self.align, ALIGNED))
        for i in range(n):
            self._check_prompts(i)
        _ = self.places, self.counterparts
        for i in range(n):
            self._check_answers(i)

    @cached_property
    def places(self) -> Ids:
        """The positions where each example is read, in order, counted from its start."""
        return tuple(self._places(i) for i in range(len(self)))

    @cached_property
    def counterparts(self) -> Ids:
        """The same positions of the corrupted prompts; others where their lengths differ."""
        return tuple(self._counterparts(i) for i in range(len(self)))

    @cached_property
    def uneven(self) -> frozenset[int]:
        """The pairs whose prompts have different lengths, which spans alone align."""
        pairs = enumerate(zip(self.clean, self.corrupted, strict=True))
        return frozenset(i for i, (clean, corrupted) in pairs if len(clean) != len(corrupted))

    @cached_property
    def sides(self) -> tuple[Task, Task]:
        """The clean prompts alone and the corrupted prompts alone, each read where it is here, without counterparts."""
        alone: dict[str, Any] = {"corrupted": (), "corrupted_text": (), "paired": False, "align": None}
        own, other = ([{name: Span(one.of(clean), one.of(clean)) for name, one in each.items()} for each in self.spans]
                      for clean in (True, False))  # fmt: skip
        ends = zip(self.counterparts, self.corrupted, strict=True)
        read = tuple(tuple(at - len(ids) for at in places) for places, ids in ends)
        there = {"clean": self.corrupted, "clean_text": self.corrupted_text, "spans": tuple(other), "read": read}
        return (
            dataclasses.replace(self, spans=tuple(own), **alone),
            dataclasses.replace(self, **(alone | there)),
        )

    def side(self, clean: bool) -> Task:
        """One of the `sides`."""
        return self.sides[0] if clean else self.sides[1]

    @property
    def measure(self) -> Metric | OwnMetric:
        """The metric itself; MethodError where it is a function that a file could not keep."""
        if self.function is not None:
            return OwnMetric(self.function)
        if is_function(self.metric):
            raise MethodError(
                f"The metric of {self.name!r}, {self.metric}, is a function, which files do not keep. Give it again: "
                f"task.with_metric({self.metric.removesuffix('()')})."
            )
        return metric(self.metric)

    def _places(self, i: int) -> tuple[int, ...]:
        """Where an example is read, in order, counted from its start."""
        length, where = len(self.clean[i]), f"pair {i} of task {self.name!r}"
        if not self.read[i]:
            raise TaskError(f"{where} is read at no position; give at least one (−1 is the last)")
        if beyond := [at for at in self.read[i] if not -length <= at < length]:
            raise TaskError(
                f"{where} is read at position {beyond[0]}, but it has {length} tokens: positions 0 … {length - 1}, or "
                f"−1 … −{length} from the end"
            )
        places = [at % length for at in self.read[i]]
        if sorted(set(places)) != places:
            raise TaskError(f"{where} is read at positions {places}: give each once, in order")
        return tuple(places)

    def _counterparts(self, i: int) -> tuple[int, ...]:
        """Where its corrupted prompt is read."""
        if i not in self.uneven:
            return self.places[i]
        found = [counterpart(at, self.clean[i], self.corrupted[i], self.spans[i]) for at in self.places[i]]
        there = [at for at in found if at is not None]
        if len(there) < len(found) or sorted(set(there)) != there:
            raise TaskError(
                f"pair {i} of task {self.name!r} is read at positions {list(self.places[i])}, of which the corrupted "
                f"prompt has not all, in order, since its prompts have {len(self.clean[i])} and "
                f"{len(self.corrupted[i])} tokens. Read such pairs at their end (−1), or at a span that is equally "
                "long in both prompts."
            )
        return tuple(there)

    def _check_prompts(self, i: int) -> None:
        clean, corrupted = self.clean[i], self.corrupted[i]
        where = f"pair {i} of task {self.name!r}"
        if not clean or not corrupted:
            raise PromptError(f"{where}: the {'corrupted' if clean else 'clean'} prompt has no tokens")
        require_spans(self.spans[i], (len(clean), len(corrupted)), where)
        if not self.paired:
            return
        if len(clean) != len(corrupted):
            shown = [[self._string(t) for t in ids] for ids in (clean, corrupted)]
            require_aligned(self.align, self.spans[i], shown[0], shown[1], where)
        if clean == corrupted:
            raise PromptError(
                f"{where}: the clean and the corrupted prompt are the same tokens, so there is nothing to trace: "
                f"{[self._string(t) for t in clean]}"
            )

    def _check_answers(self, i: int) -> None:
        correct, incorrect, where = self.correct[i], self.incorrect[i], f"pair {i} of task {self.name!r}"
        asked = None if is_function(self.metric) else metric(self.metric)
        if not correct and (asked is None or not asked.answered):
            return
        if not correct:
            raise AnswerError(f"{where} has no correct answer; give at least one")
        if self.continued:
            self._check_continuation(i)
            return
        if both := set(correct) & set(incorrect):
            shown_both = sorted(self._string(t) for t in both)
            raise AnswerError(f"{where}: {shown_both} are both correct and incorrect answers; a token can be only one")
        for kind, ids in (("correct", correct), ("incorrect", incorrect)):
            if len(set(ids)) < len(ids):
                shown_all = [self._string(t) for t in ids]
                raise AnswerError(f"{where}: a {kind} answer is given twice (as tokens): {shown_all}")
        if asked and asked.needs_incorrect and not incorrect:
            raise AnswerError(
                f"{where}: the metric {self.metric!r} compares correct with incorrect answers, but there are no "
                "incorrect ones; give some, or use metric='logprob' or 'prob'"
            )

    def _check_continuation(self, i: int) -> None:
        where = f"pair {i} of task {self.name!r}"
        if len(self.correct[i]) != len(self.read[i]):
            raise AnswerError(
                f"{where}: a continuation has one token for each position where it is read, but there are "
                f"{len(self.correct[i])} tokens and {len(self.read[i])} positions"
            )
        if self.metric not in CONTINUED and not is_function(self.metric) and metric(self.metric).answered:
            raise AnswerError(
                f"{where}: the answer {self._string_of(self.correct[i])!r} has several tokens, which the metric "
                f"{self.metric!r} cannot read. Use metric={' or '.join(map(repr, CONTINUED))}, or answers of one token."
            )
        if self.incorrect[i]:
            raise AnswerError(
                f"{where}: metrics of answers of several tokens read the correct one alone; leave incorrect= out"
            )

    def _string_of(self, ids: Sequence[int]) -> str:
        return "".join(map(self._string, ids))

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
        """Tokens of each clean prompt; of its counterpart, too, but for the `uneven` pairs."""
        return tuple(len(ids) for ids in self.clean)

    @property
    def first_difference(self) -> tuple[int, ...]:
        """Per pair, the index of the first token in which clean and corrupted differ; all before it is shared.

        The length, where there is no counterpart.
        """
        return tuple(map(shared_start, self.clean, self.corrupted))

    @property
    def span_names(self) -> tuple[str, ...]:
        """The names of its spans, in the order in which the examples have them."""
        return names_of(self.spans)

    @property
    def prompts(self) -> Ids:
        """All prompts, the clean ones and then their counterparts."""
        return (*self.clean, *self.corrupted) if self.paired else self.clean

    def tokens(self, i: int) -> tuple[list[str], list[str]]:
        """Token strings of pair i, clean and corrupted, for showing: ([' Mary', …], [' John', …])."""
        clean, corrupted = self.clean[i], self.corrupted[i]
        return [self._string(t) for t in clean], [self._string(t) for t in corrupted]

    def answer_strings(self, i: int) -> tuple[list[str], list[str]]:
        """The correct and the incorrect answers of pair i as text."""
        if self.continued:
            return [self._string_of(self.correct[i])], []
        return [self._string(t) for t in self.correct[i]], [self._string(t) for t in self.incorrect[i]]

    def answers(self, examples: Sequence[int] | None = None) -> Answers:
        """The padded answer table of the given examples (all of them by default), one row each.

        Where any is read at several positions, as many rows of each: an example's positions in order, then its first
        one again.
        """
        rows = range(len(self)) if examples is None else [operator.index(i) for i in examples]
        most = max((len(self.read[i]) for i in rows), default=1)
        correct: list[Sequence[int]] = []
        incorrect: list[Sequence[int]] = []
        for i in rows:
            own: list[Sequence[int]] = [self.correct[i]] * len(self.read[i])
            own = [(one,) for one in self.correct[i]] if self.continued else own
            correct += own + own[:1] * (most - len(own))
            incorrect += [self.incorrect[i]] * most
        return Answers.of(correct, incorrect)

    def tail(self, examples: Sequence[int] | None = None) -> int:
        """How many last positions the given examples are read at (all of them by default), from the first on.

        Counted from the end of the longest.
        """
        rows = range(len(self)) if examples is None else examples
        return max(self.lengths[i] for i in rows) - min(self.places[i][0] for i in rows)

    @property
    def answered_at_the_end(self) -> bool:
        """Whether each example has an answer that its last position is read for: what is said is right or wrong."""
        return all(self.correct) and all(at == (n - 1,) for at, n in zip(self.places, self.lengths, strict=True))

    def require_last(self, what: str) -> None:
        """MethodError unless every example is read at its last position alone, for what reads nowhere else."""
        for i, places in enumerate(self.places):
            if places != (self.lengths[i] - 1,):
                raise MethodError(
                    f"{what} read the last position alone, but pair {i} of {self.name!r} is read at {list(places)} of "
                    f"its {self.lengths[i]} tokens{' (an answer of several tokens)' if self.continued else ''}."
                )

    def with_metric(self, metric: MetricName | str | Callable[..., Any]) -> Task:
        """The same pairs under another metric, by its name or as a function of the logits (see `OwnMetric`).

        Raises MethodError or AnswerError if that cannot be.

        >>> task.with_metric("neg_kl_t2")
        >>> task.with_metric(lambda logits: -logits.log_softmax(-1).exp().square().sum(-1))
        """
        if callable(metric):
            own = OwnMetric(metric)
            return dataclasses.replace(self, metric=cast("MetricName", own.name), function=metric)
        over: Over = "product" if self.continued and metric == "prob" else self.over
        over = "sum" if over == "product" and metric != "prob" else over
        return dataclasses.replace(self, metric=cast("MetricName", metric), function=None, over=over)

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
        content: list[Any] = [self.clean, self.corrupted, self.correct, self.incorrect, self.metric]
        elsewhere = any(places != (n - 1,) for places, n in zip(self.places, self.lengths, strict=True))
        if elsewhere or self.continued:
            content.append([self.places, self.over, self.continued])
        if self.function is not None:
            content.append([self._function_digest, self.number])
        if self.align is not None:
            content.append(["align", self.align, [sorted(plain(one).items()) for one in self.spans]])
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def _function_digest(self) -> str:
        return "" if self.function is None else digest_of(self.function)

    def describe(self) -> str:
        """One sentence: name, size, how it was made, lengths, metric."""
        made = ", ".join(f"{len(v)} {k}" if isinstance(v, list) else f"{k} {v}" for k, v in self.options.items())
        tokens = {len(prompt) for prompt in self.prompts}
        short, long = min(tokens), max(tokens)
        span = f"{short}" if short == long else f"{short} to {long}"
        what = "pair" if self.paired else "prompt"
        pairs = f"1 {what}" if len(self) == 1 else f"{len(self)} {what}s"
        return (
            f"{self.name}: {pairs}{f' ({made})' if made else ''} of {span} tokens{self._aligned()}, metric "
            f"{self.metric}{self._where()}."
        )

    def _aligned(self) -> str:
        """How many pairs spans alone align, in words."""
        return f" ({len(self.uneven)} of unequal prompts, aligned at spans)" if self.uneven else ""

    def _where(self) -> str:
        """Where the metric is read, in words; nothing where that is the last position alone."""
        counts = {len(read) for read in self.read}
        if self.continued:
            text = all(ids[1:] == own for ids, own in zip(self.clean, self.correct, strict=True))
            return f" ({self.over} over {_several(counts)} of the {'text' if text else 'answer'})"
        ends = {at - n for places, n in zip(self.places, self.lengths, strict=True) for at in places}
        if ends == {-1}:
            return ""
        if counts == {1}:
            return f" at position {min(ends)}" if len(ends) == 1 else " at a position of each prompt's own"
        return f" ({self.over} over {_several(counts)})"

    def save(self, path: str | Path) -> Path:
        """Write the task as JSON, whole or not at all; `vc.open` reads it. Tuples and arrays in `info` become lists.

        Raises:
            FileError: it cannot be written, or holds what JSON cannot (`storage.plain`).
        """
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


def _several(counts: Collection[int]) -> str:
    """So many positions: "3 positions", "2 to 5 positions"."""
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} {'position' if high == 1 else 'positions'}"


FORMAT = "veracausa.task"


VERSION = 3
#: Versions that are still read; before 3 tasks had no spans, and were read at their last position alone.
_READ = (2, 3)


_FIELDS = ("clean", "corrupted", "correct", "incorrect", "clean_text", "corrupted_text", "info")
#: Fields that version 2 did not have; without them they are what they were then.
_LATER = ("read", "over", "continued", "number", "paired")


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
    """A task as what a JSON file can hold, for files that keep a task beside something else.

    Raises:
        FileError: a text, or something of `info` or `options`, that no JSON file could give back.
    """
    content: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": task.name, "metric": task.metric}
    content |= {"digest": task.digest(), "options": dict(task.options)}
    content |= {name: getattr(task, name) for name in (*_FIELDS, *_LATER)}
    content |= {"spans": [plain(one) for one in task.spans]} if task.span_names else {}
    content |= {} if task.align is None else {"align": task.align}
    content |= {"vocabulary": {str(k): v for k, v in task.vocabulary.items()}}
    free = ("name", "options", "info", "clean_text", "corrupted_text", "vocabulary")
    return content | {name: as_json(content[name], f"The task's {name}") for name in free}


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
            align=content.get("align"),
            **cast("dict[str, Any]", {name: tuple(content[name]) for name in _FIELDS}),
            **cast("dict[str, Any]", {name: content[name] for name in _LATER if name in content}),
        )
        digest = content["digest"]
    except (KeyError, TypeError, ValueError, AttributeError, VeracausaError, OverflowError, IndexError) as error:
        raise FileError(f"the task file {path} is damaged: {type(error).__name__}: {error}") from error
    if digest != task.digest() and not is_function(task.metric):  # which is in the digest, but not in the file
        raise FileError(f"the task file {path} was changed after it was saved: its digest does not fit its content")
    return task

"""A `Task`: pairs of clean and corrupted prompts, their answers, and the metric that reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from veracausa.choices import MetricName, Over
from veracausa.errors import MethodError, TaskError
from veracausa.storage.files import write_json
from veracausa.storage.plain import as_json
from veracausa.tasks.aligned import shared_start
from veracausa.tasks.checked_pairs import PER_EXAMPLE, CheckedPairs, Ids
from veracausa.tasks.metrics import Answers, Metric, metric
from veracausa.tasks.own_metrics import OwnMetric, digest_of, is_function
from veracausa.tasks.spans import Span, names_of, plain
from veracausa.typed import require

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, eq=False)
class Task(CheckedPairs):
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
        chosen: dict[str, Any] = {k: tuple(getattr(self, k)[i] for i in rows) for k in PER_EXAMPLE}
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
        return [self.string(t) for t in clean], [self.string(t) for t in corrupted]

    def answer_strings(self, i: int) -> tuple[list[str], list[str]]:
        """The correct and the incorrect answers of pair i as text."""
        if self.continued:
            return [self.string_of(self.correct[i])], []
        return [self.string(t) for t in self.correct[i]], [self.string(t) for t in self.incorrect[i]]

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


def _several(counts: Collection[int]) -> str:
    """So many positions: "3 positions", "2 to 5 positions"."""
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} {'position' if high == 1 else 'positions'}"


FORMAT = "veracausa.task"
VERSION = 3
FIELDS = ("clean", "corrupted", "correct", "incorrect", "clean_text", "corrupted_text", "info")
#: Fields that version 2 did not have; without them they are what they were then.
LATER = ("read", "over", "continued", "number", "paired")


def save_task(task: Task, path: str | Path) -> Path:
    """Write a task; a crash leaves the old file or none, never half a file."""
    return write_json(path, task_content(task))


def task_content(task: Task) -> dict[str, Any]:
    """A task as what a JSON file can hold, for files that keep a task beside something else.

    Raises:
        FileError: a text, or something of `info` or `options`, that no JSON file could give back.
    """
    content: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": task.name, "metric": task.metric}
    content |= {"digest": task.digest(), "options": dict(task.options)}
    content |= {name: getattr(task, name) for name in (*FIELDS, *LATER)}
    content |= {"spans": [plain(one) for one in task.spans]} if task.span_names else {}
    content |= {} if task.align is None else {"align": task.align}
    content |= {"vocabulary": {str(k): v for k, v in task.vocabulary.items()}}
    free = ("name", "options", "info", "clean_text", "corrupted_text", "vocabulary")
    return content | {name: as_json(content[name], f"The task's {name}") for name in free}

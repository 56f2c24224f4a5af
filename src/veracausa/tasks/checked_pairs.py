"""What a task consists of, and what must hold of each of its pairs: prompts, answers, where it is read."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from veracausa.arguments import entries, kind_and_value
from veracausa.choices import Align, MetricName, Over
from veracausa.errors import AnswerError, PromptError, TaskError, VeracausaError
from veracausa.suggestions import not_known
from veracausa.tasks.aligned import ALIGNED, counterpart, require_aligned
from veracausa.tasks.metrics import COMBINED, metric
from veracausa.tasks.own_metrics import is_function
from veracausa.tasks.spans import Span, require_spans, spans_of
from veracausa.typed import require_fields

Ids = tuple[tuple[int, ...], ...]
#: Metrics of answers of several tokens, and what becomes of the tokens.
CONTINUED: dict[str, Over] = {"logprob": "sum", "prob": "product"}
#: Fields that are rows of token ids → the error that another content raises.
_ROWS: dict[str, type[VeracausaError]] = {
    "clean": PromptError, "corrupted": PromptError, "correct": AnswerError, "incorrect": AnswerError, "read": TaskError
}  # fmt: skip
PER_EXAMPLE = (
    "clean", "corrupted", "correct", "incorrect", "clean_text", "corrupted_text", "info", "read", "number",
    "spans",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class CheckedPairs:
    """The fields of a `Task`, which says what each is, completed and checked when it is made."""

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
            self._put(name, _rows(getattr(self, name), f"vc.Task: {name}", error))
        if not self.clean:
            raise TaskError(f"task {self.name!r} has no examples; a task needs at least one pair")
        self._complete()
        where = f"of task {self.name!r}"
        self._put("spans", tuple(spans_of(one, f"pair {i} {where}") for i, one in enumerate(self.spans)))
        if self.over not in COMBINED:
            raise TaskError(not_known("over", self.over, COMBINED))
        if self.align is not None and self.align not in ALIGNED:
            raise TaskError(not_known("align", self.align, ALIGNED))
        for i in range(len(self)):
            self._check_prompts(i)
        _ = self.places, self.counterparts
        for i in range(len(self)):
            self._check_answers(i)

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _complete(self) -> None:
        """Give every field an entry for each example; TaskError where one has another number of them."""
        n = len(self)
        if not (self.corrupted and self.paired):
            self._put("paired", False)
            self._put("corrupted", self.clean)
            self._put("corrupted_text", self.clean_text)
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
            self._put("read", ())
        if not any(self.spans):
            self._put("spans", ())
        if len(self.number) != n:
            self._put("number", ())
        for name in PER_EXAMPLE:
            values = tuple(getattr(self, name)) or blank.get(name, ())
            self._put(name, values)
            if len(values) != n:
                raise TaskError(f"task {self.name!r}: {n} clean prompts but {len(values)} of {name!r}; give one each")

    def __len__(self) -> int:
        return len(self.clean)

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

    def string_of(self, ids: Sequence[int]) -> str:
        """The text of several tokens."""
        return "".join(map(self.string, ids))

    def string(self, token: int) -> str:
        """The text of a token; its number, where the vocabulary lacks it."""
        return self.vocabulary.get(token, f"#{token}")

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
        """PromptError unless both prompts of a pair have tokens, differ, and are equally long or aligned by spans."""
        clean, corrupted = self.clean[i], self.corrupted[i]
        where = f"pair {i} of task {self.name!r}"
        if not clean or not corrupted:
            raise PromptError(f"{where}: the {'corrupted' if clean else 'clean'} prompt has no tokens")
        require_spans(self.spans[i], (len(clean), len(corrupted)), where)
        if not self.paired:
            return
        if len(clean) != len(corrupted):
            shown = [[self.string(t) for t in ids] for ids in (clean, corrupted)]
            require_aligned(self.align, self.spans[i], shown[0], shown[1], where)
        if clean == corrupted:
            raise PromptError(
                f"{where}: the clean and the corrupted prompt are the same tokens, so there is nothing to trace: "
                f"{[self.string(t) for t in clean]}"
            )

    def _check_answers(self, i: int) -> None:
        """AnswerError unless a pair has the answers that the metric reads, each of them once."""
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
            shown_both = sorted(self.string(t) for t in both)
            raise AnswerError(f"{where}: {shown_both} are both correct and incorrect answers; a token can be only one")
        for kind, ids in (("correct", correct), ("incorrect", incorrect)):
            if len(set(ids)) < len(ids):
                shown_all = [self.string(t) for t in ids]
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
                f"{where}: the answer {self.string_of(self.correct[i])!r} has several tokens, which the metric "
                f"{self.metric!r} cannot read. Use metric={' or '.join(map(repr, CONTINUED))}, or answers of one token."
            )
        if self.incorrect[i]:
            raise AnswerError(
                f"{where}: metrics of answers of several tokens read the correct one alone; leave incorrect= out"
            )


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

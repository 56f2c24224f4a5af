"""From texts to a validated `Task`: every builder and every file goes through here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from veracausa.arguments import is_list, kind_and_value, shown
from veracausa.choices import Align, MetricName
from veracausa.errors import AnswerError, PromptError, TaskError
from veracausa.tasks.aligned import require_aligned
from veracausa.tasks.checked_pairs import CONTINUED
from veracausa.tasks.finding import Prompt, Sought, find
from veracausa.tasks.metrics import metric as metric_of
from veracausa.tasks.spans import Span, require_spans
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import encode_answer, encode_continuation, encode_prompt, prompt_ids, strings
from veracausa.typed import is_whole


@dataclass(frozen=True)
class Pair:
    """One example: two prompts, as text or token ids, and the answers, as text (leading spaces matter) or token ids.

    `corrupted`: None, where there is no counterpart. `info`: what it was made from. `start`: whether the tokenizer's
    start token belongs in front; a chat's text has its own. `spans`: what to look for in both prompts, by name.
    """

    clean: str | Sequence[int]
    corrupted: str | Sequence[int] | None
    correct: Sequence[str | int]
    incorrect: Sequence[str | int] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    start: bool = True
    spans: Mapping[str, Sought] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoded:
    """A `Pair` with its token ids; `texts`: its two prompts as text; `spans`: what was looked for and found.

    `continued`: `correct` is one answer of several tokens, in order.
    """

    pair: Pair
    texts: tuple[str, str]
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    correct: tuple[int, ...]
    incorrect: tuple[int, ...]
    spans: Mapping[str, Span] = field(default_factory=dict)
    continued: bool = False


def encode_pair(
    tokenizer: Any,
    pair: Pair,
    where: str,
    metric: str = "logit_diff",
    without: Collection[str] = (),
    align: Align | None = None,
) -> Encoded:
    """Token ids of one pair; `align`: as in `Task`.

    PromptError if the prompts are empty, equal, or of different lengths (with both token lists); AnswerError if an
    answer is missing (but those that a pair may be `without`), is several tokens where the metric reads one, or is both
    correct and incorrect. PromptError for spans as in `finding`.
    """
    text, clean = _prompt(tokenizer, pair.clean, f"{where}, clean prompt", pair.start)
    if pair.corrupted is None:
        alone = Encoded(pair, (text, text), clean, clean, (), ())
        return _answered(tokenizer, _with_spans(tokenizer, alone, where), where, metric, without)
    other, corrupted = _prompt(tokenizer, pair.corrupted, f"{where}, corrupted prompt", pair.start)
    if clean == corrupted:
        raise PromptError(f"{where}: the clean and the corrupted prompt are the same: {shown(text)}")
    if len(clean) != len(corrupted) and align is None:
        require_aligned(align, {}, strings(tokenizer, clean), strings(tokenizer, corrupted), where)
    both = _with_spans(tokenizer, Encoded(pair, (text, other), clean, corrupted, (), ()), where)
    if len(clean) != len(corrupted):
        require_aligned(align, both.spans, strings(tokenizer, clean), strings(tokenizer, corrupted), where)
    return _answered(tokenizer, both, where, metric, without)


def _with_spans(tokenizer: Any, prompts: Encoded, where: str) -> Encoded:
    """The same with the spans that are looked for."""
    if not prompts.pair.spans:
        return prompts
    text, other = prompts.texts
    both = Prompt.of(tokenizer, text, prompts.clean), Prompt.of(tokenizer, other, prompts.corrupted)
    spans = find(*both, prompts.pair.spans, where)
    require_spans(spans, (len(prompts.clean), len(prompts.corrupted)), where)
    return replace(prompts, spans=spans)


def _answered(tokenizer: Any, prompts: Encoded, where: str, metric: str, without: Collection[str]) -> Encoded:
    """The same with the token ids of its answers."""
    pair, text, clean = prompts.pair, prompts.texts[0], prompts.clean
    if not pair.correct and "correct" in without:
        return prompts
    if not pair.correct:
        raise AnswerError(f"{where} has no correct answer; give at least one")
    if metric in CONTINUED and len(pair.correct) == 1 and isinstance(pair.correct[0], str) and pair.correct[0]:
        behind = [*dict.fromkeys([(text, clean), (prompts.texts[1], prompts.corrupted)])]
        found = encode_continuation(tokenizer, behind, pair.correct[0], f"{where}, correct", start=pair.start)
        if len(found) > 1:
            return replace(prompts, correct=found, continued=True)
    ids = {
        kind: tuple(encode_answer(tokenizer, text, clean, a, f"{where}, {kind}", start=pair.start) for a in answers)
        for kind, answers in (("correct", pair.correct), ("incorrect", pair.incorrect))
    }
    if both := set(ids["correct"]) & set(ids["incorrect"]):
        raise AnswerError(
            f"{where}: {strings(tokenizer, sorted(both))} are both correct and incorrect answers; a token can be only "
            "one of them"
        )
    return replace(prompts, correct=ids["correct"], incorrect=ids["incorrect"])


def _prompt(tokenizer: Any, prompt: Any, where: str, start: bool) -> tuple[str, tuple[int, ...]]:
    """A prompt as text and as token ids, whichever it was given as."""
    if isinstance(prompt, str) or not is_list(prompt):
        return prompt, encode_prompt(tokenizer, prompt, where, start=start)
    ids = prompt_ids(tokenizer, prompt, where)
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)), ids


def assemble(
    tokenizer: Any,
    name: str,
    encoded: Sequence[Encoded],
    *,
    metric: MetricName,
    options: Mapping[str, Any] | None = None,
    **how: Any,
) -> Task:
    """A `Task` from encoded pairs, `how` it is read as in `Task`; TaskError if there are none.

    Where an answer has several tokens, prompts hold all but the last token of theirs, and are read where each of them
    is predicted.
    """
    if not encoded:
        raise TaskError(f"task {name!r} has no examples; a task needs at least one pair")
    if any(e.continued for e in encoded):
        encoded = [_continued(tokenizer, e) for e in encoded]
        how = {"read": tuple(tuple(range(-len(e.correct), 0)) for e in encoded), "over": CONTINUED[metric]} | how
        how["continued"] = True
    seen: set[int] = set()
    for e in encoded:
        seen.update(e.clean, e.corrupted, e.correct, e.incorrect)
    used = sorted(seen)
    return Task(
        name=name,
        clean=tuple(e.clean for e in encoded),
        corrupted=tuple(e.corrupted for e in encoded if e.pair.corrupted is not None),
        correct=tuple(e.correct for e in encoded),
        incorrect=tuple(e.incorrect for e in encoded),
        metric=metric,
        clean_text=tuple(e.texts[0] for e in encoded),
        corrupted_text=tuple(e.texts[1] for e in encoded),
        info=tuple(dict(e.pair.info) for e in encoded),
        options=dict(options or {}),
        vocabulary=dict(zip(used, strings(tokenizer, used), strict=True)),
        spans=tuple(e.spans for e in encoded),
        **how,
    )


def _continued(tokenizer: Any, one: Encoded) -> Encoded:
    """A pair whose prompts go on with all but the last token of the answer."""
    if not one.continued and len(one.correct) > 1:
        raise AnswerError(
            f"{shown(one.texts[0])} has several answers, while another pair has an answer of several tokens: then "
            "every pair has one correct answer"
        )
    before = one.correct[:-1]
    text = "".join(strings(tokenizer, before))
    texts = (one.texts[0] + text, one.texts[1] + text)
    return replace(one, texts=texts, clean=one.clean + before, corrupted=one.corrupted + before, incorrect=())


def collect(
    tokenizer: Any,
    name: str,
    candidates: Iterable[Pair | None],
    *,
    n: int,
    seed: int,
    metric: MetricName,
    most: int | None = None,
    why: str = "",
    options: Mapping[str, Any] | None = None,
    continued: bool = False,
) -> Task:
    """The first n distinct usable pairs of a stream of candidates; unusable ones (None, or unequal) are passed over.

    `most`: an upper bound known beforehand, so that an impossible n fails at once. `why`: what limits the number,
    for the message. `continued`: answers may have several tokens, which the metric reads one by one. TaskError says how
    many pairs there are.
    """
    limit = f"; {why}" if why else ""
    if most is not None and n > most:
        raise TaskError(f"{name}: {n} pairs are asked for, but at most {most} can be made for this tokenizer{limit}")
    kept: list[Encoded] = []
    seen: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    failure = ""
    for pair in candidates:
        if pair is None:
            continue
        try:
            encoded = encode_pair(tokenizer, pair, f"a pair of {name}", metric if continued else "logit_diff")
        except (PromptError, AnswerError) as error:
            failure = failure or str(error)
            continue
        key = (encoded.clean, encoded.corrupted)
        if key in seen:
            continue
        seen.add(key)
        kept.append(encoded)
        if len(kept) == n:
            return assemble(tokenizer, name, kept, metric=metric, options={"seed": seed, **(options or {})})
    first = f"\nThe first pair passed over: {failure}" if failure else ""
    can = f"only {len(kept)}" if kept else "none"
    raise TaskError(f"{name}: {n} pairs are asked for, but {can} can be made for this tokenizer{limit}{first}")


def checked(n: Any, seed: Any, metric: str) -> tuple[int, int]:
    """What every builder checks first: n and seed as whole numbers (else TaskError), the metric (else MethodError)."""
    metric_of(metric)
    return _whole(n, "the number of pairs, n,", 1), _whole(seed, "the seed", None)


def _whole(value: Any, what: str, least: int | None) -> int:
    if not is_whole(value) or (least is not None and value < least):
        at_least = "" if least is None else f" of at least {least}"
        raise TaskError(f"{what} is a whole number{at_least}, but this is {kind_and_value(value)}")
    return int(value)

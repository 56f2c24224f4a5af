"""Tasks from the user's own prompts, and the one published pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from veracausa.arguments import entries, is_list, shown
from veracausa.choices import Align, MetricName, Over, Unequal
from veracausa.errors import AnswerError, PromptError, TaskError
from veracausa.suggestions import not_known
from veracausa.tasks.aligned import ALIGNED
from veracausa.tasks.chat import Message, chat_text, is_chat
from veracausa.tasks.columns import UNEQUAL
from veracausa.tasks.finding import sought
from veracausa.tasks.metrics import metric as metric_of
from veracausa.tasks.own_metrics import OwnMetric
from veracausa.tasks.pairs import Encoded, Pair, assemble, encode_pair
from veracausa.tasks.reading import Read, lacking, read_at
from veracausa.tasks.slots import prompts
from veracausa.tasks.tables import read_pairs
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import id_row, tokenizer_of
from veracausa.typed import require

#: One prompt per example: texts, chats or rows of token ids; or a tokenizer's batch.
Prompts = Sequence[str | Sequence[Message] | Sequence[int]] | Mapping[str, Any] | str
#: One entry per example: an answer (text or token id), or several.
AnswersOf = Sequence[str | int | Sequence[str | int]] | str
#: What the published pair is called.
PUBLISHED = "ioi-published"
#: From how many answers on it shows whether ids are those of this tokenizer.
_TELLING = 8


def task(
    lm: Any,
    data: Any = None,
    *,
    clean: Prompts | None = None,
    corrupted: Prompts | None = None,
    correct: AnswersOf | None = None,
    incorrect: AnswersOf | None = None,
    columns: Mapping[str, str] | None = None,
    unequal: Unequal = "refuse",
    metric: MetricName | str | Callable[..., Any] = "logit_diff",
    spans: Mapping[Any, Any] | None = None,
    align: Align | None = None,
    read: Read = -1,
    over: Over | None = None,
    paired: bool = True,
    name: str | None = None,
    chat: bool | Mapping[str, Any] = False,
) -> Task:
    """A task from your own pairs: prompts as text, chats or token ids, answers as text with their leading space.

    `clean`, `corrupted`, `correct` and `incorrect` have one entry per example (one string alone is one example); an
    entry of `correct` and `incorrect` is one answer or a list of answers. Every answer must be one token after its
    prompt (or is a token id itself).

    Or `data` is a table with one pair a row: a file (.csv, .json, .jsonl, .parquet), a DataFrame of pandas or polars, a
    dataset of Hugging Face, a list of records, a dict of columns. `columns` says which of its columns are which where
    they are not called so: columns={"clean": "prompt", "correct": "answer"}; published sets of EAP-IG, feature
    circuits, auto-circuit and MIB are known by their columns. Several answers are a list, in CSV a text with "|"
    between them; columns whose name ends with "_idx" hold token ids (of one tokenizer: make sure that it is this
    model's). Other columns are kept in `info`.

    A pair that does not fit this tokenizer (prompts of different lengths, an answer of several tokens) is an error;
    with unequal="skip" it is left out, and the task says how many were and why (`options["left out"]` lists them).

    A prompt is a text; or a chat, as a list of messages [{"role": "user", "content": "…"}], put into text by the
    model's own template and read where the assistant's answer begins (behind its first words, where the last message
    is the assistant's); or a row of token ids, whose padding is left out. `chat=True` takes texts as users' messages;
    a dict is True with options of the template, such as {"enable_thinking": False}. A tokenizer's batch works, too,
    clean=tokenizer(texts, padding=True): its attention mask says what is padding.

    `spans` names what stands somewhere in the prompts, so that effects can be had there ("heads@spans"): a text,
    {"subject": "Eiffel Tower"}; a pattern, re.compile(r"the (\\w+) is") (its first group); characters of the prompt's
    text, slice(4, 16); or tokens, range(2, 5). One for all pairs, or a list with one per pair (None: it lacks the
    span); {"clean": …, "corrupted": …} where the prompts say it differently. In a table they are columns called "span
    subject", or one column "spans" with a dict a row.

    `align` lets the prompts of a pair differ in length, where both name the same spans: effects are then had at spans
    and at the end ("heads@spans", "a9.h6@subject", "mlps@end"). Tokens of a span that is equally long in both prompts
    correspond one by one; of others "last" patches the last token with the other's last, "mean" every token with the
    mean over the other's, which is an activation of neither run. Spans may come in another order in each prompt.

    `metric` is a name (see `tasks.metrics`), or a function of your own: it is given the logits where the task is
    read, [rows, vocabulary], and returns one number a row, higher = more of the behaviour; it may ask by name for
    `pair`, the rows' numbers in this task, and `clean`, the clean run's log-probabilities. Answers are needed only by
    metrics that read them.

    `read` says where: a position of every prompt (−1, the last, from the end), or one entry a prompt, a position or a
    list of them; a span's name; "all" positions; or "text": every token of the clean prompt is the answer to what
    stands before it (metric "logprob": minus the text's mean loss). What is read at position p is the prediction of
    token p + 1. `over`: the "mean" (default), "sum" or "product" over several positions.

    An answer of several tokens, correct=" South Korea", is read by metric="logprob" (Σ_t log p(y_t | x, y_<t)) and
    "prob" (their product): the prompts then go on with all but its last token (teacher forcing), both alike.

    `paired=False`: prompts without a counterpart, whose units are replaced by zero, means or other prompts' values
    (ablation="zero", "mean", "resample"); effects are then in units of the metric.

    Raises PromptError for a pair whose prompts are of different lengths (showing both token lists; but see `align`),
    equal, empty, or padded, and for a span that is in one prompt alone, there twice, empty, a part of a token or
    overlaps another;
    AnswerError for an answer of several tokens or on both sides; MethodError for an unknown metric; TaskError for lists
    of different lengths, a missing column, an empty cell, for a table of which no pair fits, and for a chat where there
    is no template or it refuses; FileError for a file that is missing or damaged. All say in which row.

    >>> vc.task(lm, clean="The keys to the cabinet", corrupted="The key to the cabinet",
    ...         correct=" are", incorrect=" is")
    """
    for what, value, kind in (
        ("name", name, "str | None"), ("metric", metric, "str | Callable"), ("chat", chat, "bool | Mapping"),
        ("columns", columns, "Mapping[str, str] | None"), ("unequal", unequal, "str"), ("over", over, "str | None"),
        ("paired", paired, "bool"), ("spans", spans, "Mapping | None"), ("align", align, "str | None"),
    ):  # fmt: skip
        require(value, kind, f"vc.task: {what}", {}, TaskError)
    if unequal not in UNEQUAL:
        raise TaskError(not_known("unequal", unequal, UNEQUAL))
    if align is not None and align not in ALIGNED:
        raise TaskError(not_known("align", align, ALIGNED))
    if align is not None and not paired:
        raise TaskError("vc.task: align= is about the two prompts of a pair, but paired=False. Leave one of them out.")
    function = metric if callable(metric) else None
    called: MetricName = metric if function is None else OwnMetric(function).name  # type: ignore[assignment]
    how: dict[str, Any] = {"metric": called, "chat": chat, "unequal": unequal}
    how |= {"function": function, "read": read, "over": over, "align": align}
    own = {"clean": clean, "corrupted": corrupted, "correct": correct}
    if data is not None:
        if both := [what for what, value in (own | {"incorrect": incorrect}).items() if value is not None]:
            raise TaskError(f"vc.task: data holds the pairs, and so does {', '.join(both)}. Give one of them.")
        given = read_pairs(data, columns, lacking(called, read, paired))
        rows = _with_spans(given.rows, spans)
        made = from_pairs(lm, rows, name=given.name if name is None else name, **how, **given.options)
        if given.ids and not columns:
            _require_own_ids(made)
        return made
    without = lacking(called, read, paired)
    if missing := [what for what, value in own.items() if value is None and what not in without]:
        alone = "" if "corrupted" not in missing else " Prompts without a counterpart: paired=False."
        raise TaskError(
            f"vc.task: {', '.join(missing)} is missing. Give prompts and answers, or a table of them.{alone}"
        )
    if corrupted is not None and not paired:
        raise TaskError(
            "vc.task: paired=False says that there are no corrupted prompts, but there are. Give one of them."
        )
    if columns is not None:
        raise TaskError("vc.task: columns= are those of a table: vc.task(lm, table, columns={…}).")
    rows = _with_spans(_rows(clean, corrupted, correct, incorrect, name or "custom"), spans)
    return from_pairs(lm, rows, name=name or "custom", **how)


def _with_spans(rows: list[tuple[str, Pair]], spans: Mapping[Any, Any] | None) -> list[tuple[str, Pair]]:
    """The pairs with what `spans=` looks for, beside what they look for already."""
    if spans is None:
        return rows
    wanted = sought(spans, len(rows), "vc.task: spans")
    if twice := [name for name in spans if any(name in pair.spans for _, pair in rows)]:
        raise TaskError(f"vc.task: the span {twice[0]!r} is said by spans= and by the table; say it once")
    return [
        (where, replace(pair, spans={**pair.spans, **one})) for (where, pair), one in zip(rows, wanted, strict=True)
    ]


def _require_found(task: Task, rows: Sequence[tuple[str, Pair]]) -> Task:
    """The task; TaskError for a span that is looked for and that no pair has."""
    asked = dict.fromkeys(name for _, pair in rows for name in pair.spans)
    if lost := [name for name in asked if name not in task.span_names]:
        raise TaskError(
            f"task {task.name!r}: no prompt has the span {lost[0]!r}; the first is {shown(task.clean_text[0])}. Look "
            "for what stands there, or leave the span out."
        )
    return task


def _require_own_ids(task: Task) -> None:
    """TaskError where a set's answers by id read like tokens at random, as those of another tokenizer do."""
    answers = [one for i in range(len(task)) for one in task.answer_strings(i)[0]]
    spaced = sum(one.startswith(" ") for one in answers) / len(answers)
    if len(answers) >= _TELLING and 0.05 < spaced < 0.95:
        raise TaskError(
            f"{task.name}: the answers are token ids, which read {', '.join(map(repr, answers[:4]))}, … by this "
            "tokenizer, so they seem to be another one's. Give the answers as text, or say that they are this one's: "
            "columns={'correct': 'correct_idx', 'incorrect': 'incorrect_idx'}."
        )


def _rows(clean: Any, corrupted: Any, correct: Any, incorrect: Any, name: str) -> list[tuple[str, Pair]]:
    """Pairs of lists, with what each is called in messages."""
    prompts = {"clean": _prompts(clean, "clean")}
    n = len(prompts["clean"])
    prompts["corrupted"] = [None] * n if corrupted is None else _prompts(corrupted, "corrupted")
    answers = {
        "correct": [()] * n if correct is None else _entries(correct, "correct"),
        "incorrect": [()] * n if incorrect is None else _entries(incorrect, "incorrect"),
    }
    for column, values in (prompts | answers).items():
        if len(values) != n:
            raise TaskError(
                f"task {shown(name)}: {n} clean prompts but {len(values)} entries of {column!r}; give one per example"
            )
    return [
        (f"pair {i} of task {shown(name)}", Pair(c, d, _answers(good), _answers(bad)))
        for i, (c, d, good, bad) in enumerate(zip(*prompts.values(), *answers.values(), strict=True))
    ]


def from_pairs(
    lm: Any,
    rows: Sequence[tuple[str, Pair]],
    *,
    metric: MetricName,
    name: str,
    chat: bool | Mapping[str, Any] = False,
    unequal: Unequal = "refuse",
    function: Callable[..., Any] | None = None,
    read: Read = -1,
    over: Over | None = None,
    align: Align | None = None,
    **options: Any,
) -> Task:
    """A task from (where it comes from, pair) rows, chats by the model's template; the place is named in errors."""
    if function is None:
        metric_of(metric)
    how: dict[str, Any] = {"metric": metric, "function": function, "align": align}
    if align is not None and not any(pair.spans for _, pair in rows):
        raise TaskError(
            f"task {name!r}: align={align!r} says what corresponds in spans of unequal lengths, but no pair names a "
            "span. Give spans={'subject': …}, or leave align= out."
        )
    without = lacking(metric, read, paired=True)
    tokenizer = tokenizer_of(lm)
    written = [(where, _written(tokenizer, pair, where, chat)) for where, pair in rows]
    if not all(pair.start for _, pair in written):
        options["prompts"] = "chats"
    if unequal == "refuse":
        encoded = [encode_pair(tokenizer, pair, where, metric, without, align) for where, pair in written]
        return _require_found(_task(tokenizer, name, encoded, options, read, over, how), rows)
    fitting, reasons = [], []
    for where, pair in written:
        try:
            one = encode_pair(tokenizer, pair, where, metric, without, align)
            _task(tokenizer, name, [one], {}, -1 if is_list(read) else read, over, how)  # which refuses more
            fitting.append(one)
        except (PromptError, AnswerError) as error:
            reasons.append(str(error).splitlines()[0].replace(f"pair 0 of task {name!r}", where))
    if not fitting:
        raise TaskError(f"None of the {len(rows)} pairs fits this tokenizer. The first: {reasons[0]}")
    if reasons:
        options["left out"] = reasons
    return _require_found(_task(tokenizer, name, fitting, options, read, over, how), rows)


def _task(
    tokenizer: Any,
    name: str,
    encoded: Sequence[Encoded],
    options: Mapping[str, Any],
    read: Read,
    over: Over | None,
    how: Mapping[str, Any],
) -> Task:
    pairs, places = read_at(read, over, encoded, how["metric"])
    return assemble(tokenizer, name, pairs, options=options, **how, **places)


def _written(tokenizer: Any, pair: Pair, where: str, chat: bool | Mapping[str, Any]) -> Pair:
    """The pair with its chats put into text; the pair itself where it has none."""
    settings = dict(chat) if isinstance(chat, Mapping) else {}
    prompts = {"clean": pair.clean} | ({} if pair.corrupted is None else {"corrupted": pair.corrupted})
    chats = [is_chat(p) or (isinstance(p, str) and chat is not False) for p in prompts.values()]
    if not any(chats):
        return pair
    if not all(chats):
        raise TaskError(f"{where}: one prompt is a chat, the other is not; give both as messages or both as text")
    texts: dict[str, Any] = {
        kind: chat_text(tokenizer, prompt, f"{where}, {kind} prompt", **settings)  # type: ignore[arg-type]
        for kind, prompt in prompts.items()
    }
    return replace(pair, **texts, start=False)


def published_pair(lm: Any) -> Task:
    """The pair of the published agreement study: John and Mary, Mary (clean) or John (corrupted) gives.

    Clean: "After John and Mary went to the store, Mary gave a bottle of milk to" → " John", not " Mary"; the
    corrupted prompt says "John gave". Logit difference of SmolLM2-135M: +5.137 clean, −3.829 corrupted.

    >>> vc.tasks.published_pair(lm).tokens(0)
    """
    template, names = "After {A} and {B} went to the store, {S} gave a bottle of milk to", {"A": "John", "B": "Mary"}
    both = prompts(template, {**names, "S": "Mary"}, {**names, "S": "John"}, {"IO": "A", "S1": "B", "S2": "S"})
    info = {"template": "published", "order": "ABBA", "indirect_object": "John", "subject": "Mary"}
    pair = Pair(**both, correct=(" John",), incorrect=(" Mary",), info=info)
    return from_pairs(lm, [("the published pair", pair)], metric="logit_diff", name=PUBLISHED, corruption="swap")


def _prompts(values: Any, what: str) -> list[Any]:
    """One prompt per example; a text or chat alone is one, and of a tokenizer's batch what its mask leaves."""
    if isinstance(values, Mapping) and "input_ids" in values:
        rows = entries(values["input_ids"], f"{what}['input_ids']", TaskError)
        masks = entries(values.get("attention_mask", [None] * len(rows)), f"{what}['attention_mask']", TaskError)
        return [_unmasked(row, mask, f"{what}[{i}]") for i, (row, mask) in enumerate(zip(rows, masks, strict=True))]
    return [values] if is_chat(values) else _entries(values, what)


def _unmasked(row: Any, mask: Any, where: str) -> tuple[int, ...]:
    ids = id_row(row, where)
    kept = (1,) * len(ids) if mask is None else id_row(mask, f"{where}, attention mask")
    return tuple(i for i, keep in zip(ids, kept, strict=True) if keep)


def _entries(values: Any, what: str) -> list[Any]:
    return [values] if isinstance(values, str) else entries(values, what, TaskError)


def _answers(entry: Any) -> tuple[Any, ...]:
    return tuple(entry) if is_list(entry) else (entry,)

"""Tasks from the user's own prompts, and the one published pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from veracausa.arguments import entries, is_list, shown
from veracausa.choices import MetricName
from veracausa.errors import TaskError
from veracausa.tasks.chat import Message, chat_text, is_chat
from veracausa.tasks.metrics import metric as metric_of
from veracausa.tasks.pairs import Pair, assemble, encode_pair
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import id_row, tokenizer_of
from veracausa.typed import require

#: One prompt per example: texts, chats or rows of token ids; or a tokenizer's batch.
Prompts = Sequence[str | Sequence[Message] | Sequence[int]] | Mapping[str, Any] | str
#: One entry per example: an answer (text or token id), or several.
AnswersOf = Sequence[str | int | Sequence[str | int]] | str
#: What the published pair is called.
PUBLISHED = "ioi-published"


def task(
    lm: Any,
    *,
    clean: Prompts,
    corrupted: Prompts,
    correct: AnswersOf,
    incorrect: AnswersOf | None = None,
    metric: MetricName = "logit_diff",
    name: str = "custom",
    chat: bool | Mapping[str, Any] = False,
) -> Task:
    """A task from your own pairs: prompts as text, chats or token ids, answers as text with their leading space.

    Each argument has one entry per example (one string alone is one example); an entry of `correct` and `incorrect`
    is one answer or a list of answers. Every answer must be one token after its prompt (or is a token id itself).

    A prompt is a text; or a chat, as a list of messages [{"role": "user", "content": "…"}], put into text by the
    model's own template and read where the assistant's answer begins (behind its first words, where the last message
    is the assistant's); or a row of token ids, whose padding is left out. `chat=True` takes texts as users' messages;
    a dict is True with options of the template, such as {"enable_thinking": False}. A tokenizer's batch works, too,
    clean=tokenizer(texts, padding=True): its attention mask says what is padding.

    Raises PromptError for a pair whose prompts are of different lengths (showing both token lists), equal, empty, or
    padded; AnswerError for an answer of several tokens or on both sides; MethodError for an unknown metric; TaskError
    for lists of different lengths, and for a chat where there is no template or it refuses.

    >>> vc.task(lm, clean="The keys to the cabinet", corrupted="The key to the cabinet",
    ...         correct=" are", incorrect=" is")
    """
    for what, value, kind in (("name", name, "str"), ("metric", metric, "str"), ("chat", chat, "bool | Mapping")):
        require(value, kind, f"vc.task: {what}", {}, TaskError)
    prompts = {"clean": _prompts(clean, "clean"), "corrupted": _prompts(corrupted, "corrupted")}
    n = len(prompts["clean"])
    answers = {
        "correct": _entries(correct, "correct"),
        "incorrect": [()] * n if incorrect is None else _entries(incorrect, "incorrect"),
    }
    for column, values in (prompts | answers).items():
        if len(values) != n:
            raise TaskError(
                f"task {shown(name)}: {n} clean prompts but {len(values)} entries of {column!r}; give one per example"
            )
    rows = [
        (f"pair {i} of task {shown(name)}", Pair(c, d, _answers(good), _answers(bad)))
        for i, (c, d, good, bad) in enumerate(zip(*prompts.values(), *answers.values(), strict=True))
    ]
    return from_pairs(lm, rows, metric=metric, name=name, chat=chat)


def from_pairs(
    lm: Any,
    rows: Sequence[tuple[str, Pair]],
    *,
    metric: MetricName,
    name: str,
    chat: bool | Mapping[str, Any] = False,
    **options: Any,
) -> Task:
    """A task from (where it comes from, pair) rows, chats by the model's template; the place is named in errors."""
    metric_of(metric)
    tokenizer = tokenizer_of(lm)
    written = [(where, _written(tokenizer, pair, where, chat)) for where, pair in rows]
    if not all(pair.start for _, pair in written):
        options["prompts"] = "chats"
    encoded = [encode_pair(tokenizer, pair, where) for where, pair in written]
    return assemble(tokenizer, name, encoded, metric=metric, options=options)


def _written(tokenizer: Any, pair: Pair, where: str, chat: bool | Mapping[str, Any]) -> Pair:
    """The pair with its chats put into text; the pair itself where it has none."""
    settings = dict(chat) if isinstance(chat, Mapping) else {}
    chats = [is_chat(p) or (isinstance(p, str) and chat is not False) for p in (pair.clean, pair.corrupted)]
    if not any(chats):
        return pair
    if not all(chats):
        raise TaskError(f"{where}: one prompt is a chat, the other is not; give both as messages or both as text")
    texts = [
        chat_text(tokenizer, prompt, f"{where}, {kind} prompt", **settings)  # type: ignore[arg-type]
        for kind, prompt in (("clean", pair.clean), ("corrupted", pair.corrupted))
    ]
    return replace(pair, clean=texts[0], corrupted=texts[1], start=False)


def published_pair(lm: Any) -> Task:
    """The pair of the published agreement study: John and Mary, Mary (clean) or John (corrupted) gives.

    Clean: "After John and Mary went to the store, Mary gave a bottle of milk to" → " John", not " Mary"; the
    corrupted prompt says "John gave". Logit difference of SmolLM2-135M: +5.137 clean, −3.829 corrupted.

    >>> vc.tasks.published_pair(lm).tokens(0)
    """
    text = "After John and Mary went to the store, {} gave a bottle of milk to"
    info = {"template": "published", "order": "ABBA", "indirect_object": "John", "subject": "Mary"}
    pair = Pair(text.format("Mary"), text.format("John"), (" John",), (" Mary",), info)
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

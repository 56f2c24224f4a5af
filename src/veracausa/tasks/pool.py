"""A pool of pairs for a search: the same clean prompts under every corruption, and with single words exchanged.

Every pair says in its `info` which prompt of the task it is made from (`pair`), and how:

* a corruption's name, for the task's corruptions;
* "names 3 → new": the third word of the list "names" in the prompt becomes one that the prompt has not;
* "names 3 → names 1": it becomes the first one.

Counting words of a list, not positions, makes the same edit mean the same in prompts of other wording and length, so
that what was found on some prompts can be made anew on others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from veracausa.errors import TaskError
from veracausa.tasks.data.ioi import PLACES
from veracausa.tasks.data.names import FEMALE, MALE
from veracausa.tasks.draw import shuffled
from veracausa.tasks.registry import CORRUPTIONS, build
from veracausa.tasks.spans import Span
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import encode, single, string, tokenizer_of

#: Word lists by name.
LISTS: dict[str, tuple[str, ...]] = {"names": (*FEMALE, *MALE), "places": PLACES}
#: A pair of a pool: its prompt, how it was made, the corrupted prompt as ids and (if known) as text, its spans.
_Chosen = tuple[int, str, tuple[int, ...], str, Mapping[str, Span]]
#: What the task's own pairs are called where it has no named corruption.
OWN = "own"


def pool(
    lm: Any,
    task: Task,
    *,
    corruptions: Sequence[str] | Mapping[str, Task] | None = None,
    edits: Sequence[str] | Mapping[str, Sequence[str]] = ("names",),
    positions: Sequence[int] | None = None,
    most: int = 4,
    seed: int = 0,
) -> Task:
    """All pairs that a search may choose from, as one task.

    Args:
        lm: the model, or its tokenizer.
        task: its clean prompts are kept, with answers and metric; its own pairs are part of the pool.
        corruptions: names of the built-in task's corruptions (default: all it has), or name → task with the same
            clean prompts.
        edits: word lists, "names" and "places" by name or your own as name → words. One word of a list at a time
            becomes another of the list; words that are not one token are left out.
        positions: edit only these positions (default: wherever a word of a list stands).
        most: words that are tried at each place beside those of the prompt, drawn for every prompt and place.
        seed: of the draw.

    Returns:
        A `Task` whose `info[i]` has "pair", "how" and "own" (whether it is one of the task's own pairs).

    Raises:
        TaskError: a corruption or list that does not exist, or one with other clean prompts.

    >>> pool = vc.counterfactuals.pool(lm, vc.tasks.ioi(lm, n=8), edits=("names", "places"))
    >>> pool.info[0]["how"]
    'swap'
    """
    tokenizer = tokenizer_of(lm)
    lists = _lists(tokenizer, edits)
    own = str(task.options.get("corruption", OWN))
    tasks = {own: task} | {name: one for name, one in _siblings(lm, task, corruptions).items() if name != own}
    chosen: list[_Chosen] = []
    for i, clean in enumerate(task.clean):
        seen = {clean}
        for name, one in tasks.items():
            if one.corrupted[i] not in seen:
                seen.add(one.corrupted[i])
                chosen.append((i, name, one.corrupted[i], one.corrupted_text[i], one.spans[i]))
        for how, ids in _edited(clean, lists, positions, most, seed, i):
            if ids not in seen:
                seen.add(ids)
                same = {name: Span(span.clean, span.clean) for name, span in task.spans[i].items()}
                chosen.append((i, how, ids, "", same))
    return _assembled(tokenizer, task, own, chosen)


def merged(one: Task, other: Task) -> Task:
    """Two pools as one; prompts of the second are counted on from those of the first."""
    first = 1 + max(int(info["pair"]) for info in one.info)
    columns = (
        "clean", "corrupted", "correct", "incorrect", "clean_text", "corrupted_text", "spans", "read", "number",
    )  # fmt: skip
    joined: dict[str, Any] = {column: getattr(one, column) + getattr(other, column) for column in columns}
    info = (*one.info, *({**info, "pair": int(info["pair"]) + first} for info in other.info))
    return replace(one, **joined, info=info, vocabulary={**one.vocabulary, **other.vocabulary})


@dataclass(frozen=True)
class _Words:
    """A word list as token ids."""

    name: str
    ids: tuple[int, ...]


def _lists(tokenizer: Any, edits: Sequence[str] | Mapping[str, Sequence[str]]) -> list[_Words]:
    if isinstance(edits, str):
        edits = (edits,)
    if not isinstance(edits, Mapping):
        if unknown := [name for name in edits if name not in LISTS]:
            raise TaskError(
                f"edits={unknown}: there is no such word list; known are {', '.join(LISTS)}, or give words."
            )
        edits = {name: LISTS[name] for name in edits}
    found = []
    for name, words in edits.items():
        known = [f" {word.strip()}" for word in words if single(tokenizer, f" {word.strip()}")]
        ids = tuple(dict.fromkeys(encode(tokenizer, word, start=False)[0] for word in known))
        if len(ids) < 2:
            raise TaskError(f"The word list {name!r} has {len(ids)} words that are one token; an edit needs two.")
        found.append(_Words(name, ids))
    return found


def _siblings(lm: Any, task: Task, corruptions: Sequence[str] | Mapping[str, Task] | None) -> dict[str, Task]:
    """Name → task with another corruption of the same clean prompts."""
    if isinstance(corruptions, Mapping):
        tasks = dict(corruptions)
    else:
        known = CORRUPTIONS.get(task.name, ())
        asked = known if corruptions is None else tuple(corruptions)
        if unknown := [name for name in asked if name not in known]:
            raise TaskError(f"{task.name} has no corruption {unknown[0]!r}; it has {', '.join(known) or 'one only'}.")
        made = {"n": len(task), "seed": int(task.options.get("seed", 0)), "metric": task.metric}
        tasks = {name: build(task.name, lm, corruption=name, **made) for name in asked}
    for name, one in tasks.items():
        if one.clean != task.clean:
            raise TaskError(
                f"Corruption {name!r} does not have the clean prompts of {task.name!r}. A task that was cut or joined "
                "cannot be built again: give corruptions={name: task} made the same way, or corruptions=()."
            )
    return tasks


def _edited(
    clean: tuple[int, ...],
    lists: Sequence[_Words],
    positions: Sequence[int] | None,
    most: int,
    seed: int,
    prompt: int,
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """How and what: every exchange of one word of a prompt."""
    for words in lists:
        places = [t for t, token in enumerate(clean) if token in words.ids]
        present = {clean[t]: k for k, t in reversed(list(enumerate(places, 1)))}
        for k, t in enumerate(places, 1):
            if positions is not None and t not in positions:
                continue
            new = [token for token in words.ids if token not in present]
            for token in shuffled(new, "pool", seed, prompt, words.name, k)[:most]:
                yield f"{words.name} {k} → new", (*clean[:t], token, *clean[t + 1 :])
            for token, first in sorted(present.items(), key=lambda item: item[1]):
                if token != clean[t]:
                    yield f"{words.name} {k} → {words.name} {first}", (*clean[:t], token, *clean[t + 1 :])


def _assembled(tokenizer: Any, task: Task, own: str, chosen: Sequence[_Chosen]) -> Task:
    index = [i for i, *_ in chosen]
    corrupted = tuple(ids for _, _, ids, *_ in chosen)
    tokens = {token for ids in corrupted for token in ids} - set(task.vocabulary)
    texts = tuple(text or _text(tokenizer, ids) for _, _, ids, text, _ in chosen)
    info = tuple({**task.info[i], "pair": i, "how": how, "own": how == own} for i, how, *_ in chosen)
    kinds = len({how for _, how, *_ in chosen})
    picked: dict[str, Any] = {
        column: tuple(getattr(task, column)[i] for i in index)
        for column in ("clean", "correct", "incorrect", "clean_text", "read", "number")
    }
    options = {key: value for key, value in task.options.items() if key != "corruption"}
    return replace(
        task,
        name=f"{task.name} pool",
        corrupted=corrupted,
        corrupted_text=texts,
        info=info,
        spans=tuple(spans for *_, spans in chosen),
        options=options | {"kinds": kinds, "prompts": len(task)},
        vocabulary={**task.vocabulary, **{token: string(tokenizer, token) for token in tokens}},
        **picked,
    )


def _text(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

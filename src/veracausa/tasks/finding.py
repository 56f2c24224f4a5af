"""From words to tokens: where something that is looked for in a prompt's text is among its tokens.

What can be looked for: a text ("Eiffel Tower"), a pattern (re.compile(r"the (\\w+) is"): its first group, or all of
it), characters (slice(4, 16)), or tokens (range(2, 5)), which are counted from 0 with the start token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from veracausa.arguments import entries, is_list, kind_and_value, shown
from veracausa.errors import PromptError, TaskError
from veracausa.tasks.spans import Range, Span, require_name
from veracausa.tasks.tokens import encode

Where = str | re.Pattern[str] | slice | range
#: A character that is spread over several tokens, of which some are missing.
_PARTIAL = "\ufffd"


@dataclass(frozen=True)
class Sought:
    """What to look for in the clean and in the corrupted prompt of a pair.

    `asked`: of "pair" it must be there, once in each prompt; of "all" pairs alike, both prompts may lack it; a "slot"
    of a template may also share a token with what stands beside it, and is left out where it does.
    """

    clean: Where
    corrupted: Where
    asked: Literal["pair", "all", "slot"] = "pair"


@dataclass(frozen=True)
class Prompt:
    """A prompt's text with the characters of every token; `characters` is None where they cannot be told."""

    text: str
    ids: tuple[int, ...]
    characters: Sequence[Range] | None

    @classmethod
    def of(cls, tokenizer: Any, text: str, ids: tuple[int, ...]) -> Prompt:
        """What the tokenizer says of its own text, or what its tokens read one after the other."""
        return cls(text, ids, _told(tokenizer, text, ids) or _read(tokenizer, text, ids))


def sought(spans: Any, n: int, where: str) -> list[dict[str, Sought]]:
    """What `spans=` asks for, pair by pair.

    Raises:
        TaskError: a name that cannot be one, lists of another length, or something that nothing can be looked for by.

    >>> sought({"subject": "Rome"}, 1, "spans")[0]["subject"].asked
    'all'
    """
    if not isinstance(spans, Mapping):
        raise TaskError(f"{where} is name → what to look for, but this is {kind_and_value(spans)}")
    found: list[dict[str, Sought]] = [{} for _ in range(n)]
    for name, value in spans.items():
        what = f"{where}: the span {require_name(name, where)!r}"
        apart = isinstance(value, Mapping)
        if apart and set(value) != {"clean", "corrupted"}:
            raise TaskError(f"{what} as a dict has 'clean' and 'corrupted', but this has {', '.join(map(repr, value))}")
        sides = [_side(value[side] if apart else value, n, what) for side in ("clean", "corrupted")]
        alike = not any(is_list(one) and not isinstance(one, range) for one in (value.values() if apart else [value]))
        for i, (clean, corrupted) in enumerate(zip(*sides, strict=True)):
            if (clean is None) != (corrupted is None):
                missing = "clean" if clean is None else "corrupted"
                raise TaskError(f"{what}, pair {i}: the {missing} prompt has none; both prompts have it, or neither")
            if clean is not None and corrupted is not None:
                found[i][name] = Sought(clean, corrupted, "all" if alike else "pair")
    return found


def _side(value: Any, n: int, what: str) -> list[Where | None]:
    """One entry per pair."""
    if not is_list(value) or isinstance(value, range):
        return [_where(value, what)] * n
    listed = entries(value, what, TaskError)
    if len(listed) != n:
        raise TaskError(f"{what} has {len(listed)} entries for {n} pairs; give one each, None where a pair lacks it")
    return [None if one is None else _where(one, f"{what}, pair {i}") for i, one in enumerate(listed)]


def _where(value: Any, what: str) -> Where:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        return value
    if isinstance(value, slice) and value.step in (None, 1):
        return value
    if isinstance(value, range) and value.step == 1 and value.start >= 0:
        return value
    raise TaskError(
        f"{what} is a text, a pattern re.compile(r'…'), characters slice(4, 16) or tokens range(2, 5), but this is "
        f"{kind_and_value(value)}"
    )


def find(clean: Prompt, corrupted: Prompt, wanted: Mapping[str, Sought], where: str) -> dict[str, Span]:
    """Where a pair has what is looked for; what it lacks, and may lack, is not among it.

    Raises:
        PromptError: something is in one prompt alone, in none where it must be, in one twice, empty, or a part of a
            token.
    """
    found = {}
    for name, one in wanted.items():
        what = f"{where}: the span {name!r}"
        try:
            sides = [_range(clean, one.clean, f"{what}, clean prompt"),
                     _range(corrupted, one.corrupted, f"{what}, corrupted prompt")]  # fmt: skip
        except PromptError:
            if one.asked != "slot":
                raise
            continue
        first, other = sides
        if first is not None and other is not None:
            found[name] = Span(first, other)
        elif one.asked == "pair" or (one.asked == "all" and first != other):
            prompt, looked = ("clean", one.clean) if first is None else ("corrupted", one.corrupted)
            text = clean.text if first is None else corrupted.text
            raise PromptError(
                f"{what}: {_said(looked)} is not in the {prompt} prompt, {shown(text)}. Say what stands there: "
                f"spans={{{name!r}: {{'clean': …, 'corrupted': …}}}}, each a text or a list with one entry per pair "
                "(None in both where a pair lacks it)."
            )
    return found


def _said(where: Where) -> str:
    return shown(where.pattern) if isinstance(where, re.Pattern) else shown(where)


def _range(prompt: Prompt, where: Where, what: str) -> Range | None:
    """The tokens of what is looked for; None if it is not there."""
    if isinstance(where, range):
        if not where or where.stop > len(prompt.ids):
            raise PromptError(f"{what}: {where} is none of its {len(prompt.ids)} tokens, counted from 0")
        return where.start, where.stop
    places = _places(where, prompt.text)
    if len(places) > 1:
        raise PromptError(
            f"{what}: {_said(where)} is there {len(places)} times, so which is meant is open: {shown(prompt.text)}. "
            "Give a pattern with its surroundings, re.compile(r', (\\w+) gave'), or characters, slice(4, 16)."
        )
    return _tokens(prompt, *places[0], what) if places else None


def _places(where: Any, text: str) -> list[Range]:
    """Where in a text something is; of a text its whole words, if it is any."""
    if isinstance(where, slice):
        return [where.indices(len(text))[:2]]
    if isinstance(where, re.Pattern):
        group = 1 if where.groups else 0
        return [one.span(group) for one in where.finditer(text) if one.span(group) != (-1, -1)]
    words = [one.span() for one in re.finditer(rf"(?<!\w){re.escape(where)}(?!\w)", text)]
    return words or [one.span() for one in re.finditer(re.escape(where), text)]


def _tokens(prompt: Prompt, start: int, end: int, what: str) -> Range:
    """The tokens of some characters, without the white space around them."""
    text = prompt.text
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start >= end:
        raise PromptError(f"{what}: no character is in it; leave it out of this pair (None)")
    if prompt.characters is None:
        raise PromptError(
            f"{what}: this tokenizer does not tell which characters a token has. Give tokens, range(2, 5), instead."
        )
    own = [k for k, (a, b) in enumerate(prompt.characters) if max(a, start) < min(b, end)]
    beside = [text[prompt.characters[k][0] : start] + text[end : prompt.characters[k][1]] for k in own]
    if not own or any(one.strip() for one in beside):
        wider = f": the token {_wider(prompt, own, beside)} goes beyond it" if own else ""
        raise PromptError(
            f"{what}: {shown(text[start:end])} is no run of whole tokens{wider}. Take the whole word, or tokens, "
            "range(2, 5)."
        )
    return own[0], own[-1] + 1


def _wider(prompt: Prompt, own: list[int], beside: list[str]) -> str:
    """The first token that has something beside what is looked for."""
    assert prompt.characters is not None
    k = next(k for k, one in zip(own, beside, strict=True) if one.strip())
    return repr(prompt.text[slice(*prompt.characters[k])])


def _told(tokenizer: Any, text: str, ids: tuple[int, ...]) -> list[Range] | None:
    """Offsets by the tokenizer, if it gives any and they are of these ids; start tokens have no characters."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    made = tokenizer(text, add_special_tokens=False, padding=False, truncation=False, return_offsets_mapping=True)
    plain, before = tuple(made["input_ids"]), len(ids) - len(made["input_ids"])
    if before < 0 or ids[before:] != plain:
        return None
    return [(0, 0)] * before + [(int(a), int(b)) for a, b in made["offset_mapping"]]


def _read(tokenizer: Any, text: str, ids: tuple[int, ...]) -> list[Range] | None:
    """The characters that every further token adds to what the tokens before it read; None if that is not the text."""
    for before in dict.fromkeys((0, max(0, len(ids) - len(encode(tokenizer, text, start=False))))):
        own = ids[before:]
        read = [str(tokenizer.decode(list(own[:k]), clean_up_tokenization_spaces=False)) for k in range(len(own) + 1)]
        whole = [one.rstrip(_PARTIAL) for one in read]
        if whole[-1] != text or not all(text.startswith(one) for one in whole):
            continue
        ends = [len(one) for one in whole]
        # a token that ends within a character has that character, too
        last = [next((e for e in ends[k:] if e > ends[k] or read[k] == whole[k]), ends[k]) for k in range(len(ends))]
        return [(0, 0)] * before + list(zip(ends[:-1], last[1:], strict=True))
    return None

"""From text to token ids and back: the one place in `tasks/` that calls a tokenizer."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from veracausa.arguments import entries, kind_and_value, shown
from veracausa.errors import AnswerError, PromptError, TaskError
from veracausa.tasks.padding import Specials


def tokenizer_of(lm: Any) -> Any:
    """The tokenizer of a model, or the tokenizer itself; TaskError if there is none."""
    tokenizer = getattr(lm, "tokenizer", lm)
    if tokenizer is None:
        name = getattr(lm, "name", None) or type(lm).__name__
        raise TaskError(f"{name} has no tokenizer, so no text can be made into tokens; load it with one (tokenizer=…)")
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise TaskError(
            f"a task needs a model with a tokenizer, or a Hugging Face tokenizer, but got {type(lm).__name__}"
        )
    return tokenizer


def encode(tokenizer: Any, text: str, *, start: bool = True) -> tuple[int, ...]:
    """Token ids of a prompt, with the start token if this tokenizer adds one, and nothing after the text.

    A text that begins with its start token, as chat templates write it, keeps that one. A token that the tokenizer
    appends (end of text) is dropped: the metric reads the position after the last word. `start=False`: the text's own
    tokens alone.
    """
    if not start:
        return _call(tokenizer, text, special=False)
    ids = _call(tokenizer, text, special=True)
    plain = _call(tokenizer, text, special=False)
    if ids == plain or not plain:
        return plain
    for end in range(len(plain), len(ids) + 1):
        if ids[end - len(plain) : end] == plain:
            return _joined(ids[: end - len(plain)], plain)
    return ids


def _joined(added: tuple[int, ...], plain: tuple[int, ...]) -> tuple[int, ...]:
    """What the tokenizer puts in front, and the text's tokens; what the text begins with itself is there once."""
    both = next((n for n in range(len(added), 0, -1) if added[-n:] == plain[:n]), 0)
    return added + plain[both:]


def encode_prompt(tokenizer: Any, text: str, where: str, *, start: bool = True) -> tuple[int, ...]:
    """`encode`, with PromptError for what is no text, is empty, or has padding or the end of a text at its ends."""
    if not isinstance(text, str):
        raise PromptError(f"{where}: a prompt is text, but this is {kind_and_value(text)}")
    if not text.strip():
        raise PromptError(f"{where} is empty")
    if half := _half(text):
        raise PromptError(f"{where} holds {half}: no text in UTF-8 has it. Read the file with its own encoding.")
    ids = encode(tokenizer, text, start=start)
    if not ids:
        raise PromptError(f"{where}: the tokenizer makes no token of {shown(text)}")
    specials = Specials.of(tokenizer)
    before = specials.padding_before(ids)
    if not before and specials.start in ids[1:3] and text.lstrip() != text:
        before = ids.index(specials.start, 1)  # white space, then the start token
    if before:
        raise PromptError(
            f"{where} begins with {strings(tokenizer, ids[: before + 1])}: before its own start there is padding, "
            "white space or a start token too many, and the model would read it. Leave it out of the text."
        )
    if behind := specials.padding_behind(ids):
        raise PromptError(
            f"{where} ends in {strings(tokenizer, ids[-behind:])}, where a text is over or padded: the metric would be "
            "read behind it. Leave it out; a chat without its end comes from messages (see vc.task)."
        )
    return ids


def prompt_ids(tokenizer: Any, row: Any, where: str) -> tuple[int, ...]:
    """Token ids given in the place of a text, without the padding of the batch that they were a row of.

    PromptError for what is no row of token ids, and where one token is start and padding, so that nobody can tell which
    is which.
    """
    ids = id_row(row, where)
    if foreign := [i for i in ids if not 0 <= i < len(tokenizer)]:
        raise PromptError(f"{where}: {foreign[0]} is no token id; this tokenizer has 0 to {len(tokenizer) - 1}")
    specials = Specials.of(tokenizer)
    if specials.leading in ids[: specials.padding_before(ids)]:
        raise PromptError(
            f"{where} begins with {string(tokenizer, ids[0])!r} more than once, as a start of the text or to pad it. "
            "Give the prompt without padding, or with its attention mask: clean=tokenizer(texts, padding=True)."
        )
    return specials.stripped(ids)


def id_row(row: Any, where: str) -> tuple[int, ...]:
    """A row of token ids as a tuple; PromptError if it is no flat list of whole numbers."""
    ids = [_index(i) for i in entries(row, where, PromptError)]
    if foreign := [i for i, found in enumerate(ids) if found is None]:
        raise PromptError(
            f"{where}: a prompt is a text, or a list of token ids, which are whole numbers; but this is "
            f"{kind_and_value(row)}, with {shown(row[foreign[0]])} among them"
        )
    return tuple(i for i in ids if i is not None)


def continuation(
    tokenizer: Any, prompt: str, text: str, prompt_ids: tuple[int, ...] | None = None, *, start: bool = True
) -> tuple[int, ...] | None:
    """Token ids of a text where it follows a prompt; None if it joins the prompt's last token.

    `prompt_ids`: the prompt's encoding where it is known; `start` as in `encode`, the same for both.
    """
    head = encode(tokenizer, prompt, start=start) if prompt_ids is None else prompt_ids
    joined = encode(tokenizer, prompt + text, start=start)
    return joined[len(head) :] if joined[: len(head)] == head and len(joined) > len(head) else None


def encode_continuation(
    tokenizer: Any, prompts: Sequence[tuple[str, tuple[int, ...]]], answer: str, where: str, *, start: bool = True
) -> tuple[int, ...]:
    """Token ids of an answer of one or several tokens, the same behind each of the prompts, (text, ids).

    As for `encode_answer`; AnswerError where the prompts make different tokens of it.
    """
    if half := _half(answer):
        raise AnswerError(f"{where}: an answer holds {half}: no text in UTF-8 has it.")
    found = {_following(tokenizer, text, ids, answer, start) for text, ids in prompts}
    if len(found) > 1:
        shown_all = " and ".join(str(strings(tokenizer, ids)) for ids in found)
        raise AnswerError(
            f"{where}: the answer {shown(answer)} is different tokens behind the two prompts: {shown_all}"
        )
    (ids,) = found
    if getattr(tokenizer, "unk_token_id", None) in ids:
        raise AnswerError(f"{where}: the answer {shown(answer)} is not in this tokenizer's vocabulary (unknown token)")
    return ids


def encode_answer(
    tokenizer: Any, prompt: str, prompt_ids: tuple[int, ...], answer: str | int, where: str, *, start: bool = True
) -> int:
    """Token id of an answer: the one token that follows the prompt in `prompt + answer`.

    Where the text joins the prompt's last token (no boundary), the answer's own encoding counts. A token id stands
    for itself. AnswerError with the pieces if the answer is not exactly one token.
    """
    token = _index(answer)
    if token is not None:
        if not 0 <= token < len(tokenizer):
            raise AnswerError(
                f"{where}: {shown(answer)} is not a token id; this tokenizer has 0 to {len(tokenizer) - 1}"
            )
        return token
    if not isinstance(answer, str):
        raise AnswerError(f"{where}: an answer is text (or a token id), but this is {kind_and_value(answer)}")
    if not answer:
        raise AnswerError(f"{where}: an answer is empty")
    if half := _half(answer):
        raise AnswerError(f"{where}: an answer holds {half}: no text in UTF-8 has it.")
    follow = partial(continuation, tokenizer, start=start)
    pieces = _following(tokenizer, prompt, prompt_ids, answer, start)
    if len(pieces) != 1:
        raise AnswerError(
            f"{where}: the answer {shown(answer)} is {len(pieces)} tokens for this tokenizer: "
            f"{strings(tokenizer, pieces[:20])}; metrics compare single next tokens, so "
            f"{_instead(tokenizer, follow, prompt, pieces)}"
        )
    if pieces[0] == getattr(tokenizer, "unk_token_id", None):
        raise AnswerError(f"{where}: the answer {answer!r} is not in this tokenizer's vocabulary (unknown token)")
    return pieces[0]


def _half(text: str) -> str:
    """Half of a character (a lone surrogate) in a text, which tokenizers and files cannot hold; nothing without one."""
    found = next((character for character in text if "\ud800" <= character <= "\udfff"), "")
    return f"half of a character, {found!a}" if found else ""


def _following(tokenizer: Any, prompt: str, ids: tuple[int, ...], answer: str, start: bool) -> tuple[int, ...]:
    """An answer's tokens behind a prompt; its own where it joins the prompt's last token."""
    return continuation(tokenizer, prompt, answer, ids, start=start) or encode(tokenizer, answer, start=False)


def _index(value: Any) -> int | None:
    """A whole number of Python, numpy or torch as an int; None for anything else, True and False included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _instead(tokenizer: Any, follow: Any, prompt: str, pieces: tuple[int, ...]) -> str:
    """What to give in place of an answer of several tokens; what is advised here is accepted by `encode_answer`."""
    if not pieces:
        return "choose a word that is one token"
    first = string(tokenizer, pieces[0])
    if first.isspace() and len(pieces) > 1:
        following, longer = string(tokenizer, pieces[1]), prompt + first
        if follow(longer, following) == pieces[1:2]:
            return (
                f"choose a word that is one token, or end both prompts with the white space, {shown(longer[-20:])}, "
                f"and give the token behind it, {following!r}"
            )
    reached = follow(prompt, first) or encode(tokenizer, first, start=False)
    named = f"{first!r}" if reached == pieces[:1] else f"by its id, {pieces[0]} ({first!r})"
    return f"choose a word that is one token, or give its first token, {named}"


def single(tokenizer: Any, word: str, *, before: str = "The") -> bool:
    """Whether a word is one known token inside a sentence, with its leading space if it has one.

    >>> single(tokenizer, " Mary")
    True
    """
    try:
        encode_answer(tokenizer, before, encode(tokenizer, before), word, "")
    except AnswerError:
        return False
    return True


def strings(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """Each token as a reader sees it, with its leading space: [' Mary', ' gave']."""
    return [string(tokenizer, i) for i in ids]


def string(tokenizer: Any, token: int) -> str:
    """One token as a reader sees it; a token that is part of a character keeps its raw name."""
    raw = str(tokenizer.convert_ids_to_tokens(int(token)))
    text = str(tokenizer.decode([int(token)], clean_up_tokenization_spaces=False))
    if "\ufffd" in text or not text:
        return raw
    # SentencePiece decoders drop the space of a first piece, which is the one thing to see here
    return " " + text if raw[0] in "▁Ġ" and not text[0].isspace() else text


def _call(tokenizer: Any, text: str, *, special: bool) -> tuple[int, ...]:
    ids = tokenizer(text, add_special_tokens=special, padding=False, truncation=False)["input_ids"]
    return tuple(int(i) for i in ids)


def width(tokenizer: Any, word: str, *, before: str = "The") -> int:
    """Tokens that a word adds inside a sentence (with its leading space), the first sieve for pairs of equal length."""
    return len(encode(tokenizer, f"{before} {word}")) - len(encode(tokenizer, before))

"""From text to token ids and back: the one place in `tasks/` that calls a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from veracausa.errors import AnswerError, PromptError, TaskError


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

    A token that the tokenizer appends (end of text) is dropped: the metric reads the position after the last word.
    `start=False`: the text's own tokens alone.
    """
    if not start:
        return _call(tokenizer, text, special=False)
    ids = _call(tokenizer, text, special=True)
    plain = _call(tokenizer, text, special=False)
    if ids == plain or not plain:
        return plain
    for end in range(len(plain), len(ids) + 1):
        if ids[end - len(plain) : end] == plain:
            return ids[:end]
    return ids


def encode_prompt(tokenizer: Any, text: str, where: str) -> tuple[int, ...]:
    """`encode`, with PromptError for a prompt that is not text or has no tokens of its own."""
    if not isinstance(text, str):
        raise PromptError(f"{where}: a prompt is text, but this is {type(text).__name__}: {text!r}")
    if not text.strip():
        raise PromptError(f"{where} is empty")
    ids = encode(tokenizer, text)
    if not ids:
        raise PromptError(f"{where}: the tokenizer makes no token of {text!r}")
    return ids


def continuation(
    tokenizer: Any, prompt: str, text: str, prompt_ids: tuple[int, ...] | None = None, *, start: bool = True
) -> tuple[int, ...] | None:
    """Token ids of a text where it follows a prompt; None if it joins the prompt's last token.

    `prompt_ids`: the prompt's encoding where it is known; `start` as in `encode`, the same for both.
    """
    head = encode(tokenizer, prompt, start=start) if prompt_ids is None else prompt_ids
    joined = encode(tokenizer, prompt + text, start=start)
    return joined[len(head) :] if joined[: len(head)] == head and len(joined) > len(head) else None


def encode_answer(tokenizer: Any, prompt: str, prompt_ids: tuple[int, ...], answer: str | int, where: str) -> int:
    """Token id of an answer: the one token that follows the prompt in `prompt + answer`.

    Where the text joins the prompt's last token (no boundary), the answer's own encoding counts. A token id stands
    for itself. AnswerError with the pieces if the answer is not exactly one token.
    """
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(tokenizer):
            raise AnswerError(f"{where}: {answer} is not a token id; this tokenizer has 0 to {len(tokenizer) - 1}")
        return answer
    if not isinstance(answer, str):
        raise AnswerError(
            f"{where}: an answer is text (or a token id), but this is {type(answer).__name__}: {answer!r}"
        )
    if not answer.strip():
        raise AnswerError(f"{where}: an answer is empty")
    pieces = continuation(tokenizer, prompt, answer, prompt_ids) or encode(tokenizer, answer, start=False)
    if len(pieces) != 1:
        shown = strings(tokenizer, pieces)
        raise AnswerError(
            f"{where}: the answer {answer!r} is {len(pieces)} tokens for this tokenizer: {shown}; metrics compare "
            "single next tokens, so choose a word that is one token, or its first token"
        )
    if pieces[0] == getattr(tokenizer, "unk_token_id", None):
        raise AnswerError(f"{where}: the answer {answer!r} is not in this tokenizer's vocabulary (unknown token)")
    return pieces[0]


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

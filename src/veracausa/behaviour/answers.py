"""Right answers as token sequences, and which continuations begin with one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.errors import AnswerError, MethodError
from veracausa.tasks.tokens import continuation, encode, tokenizer_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Beside token ids: any token (behind a short answer), and one that nothing equals (in place of an answer).
_ANY, _NONE = -2, -3

#: The right answers of every prompt, each a sequence of token ids.
Answers = tuple[tuple[tuple[int, ...], ...], ...]


def answer_tokens(
    lm: Model, task: Task, answers: Sequence[Sequence[str | Sequence[int]]] | None, new_tokens: int
) -> Answers:
    """The task's correct answers, or the given ones as token ids.

    Raises:
        AnswerError: a prompt without an answer, an empty one, or another number of entries than prompts.
        MethodError: no new token, or an answer that is longer than what is generated.
    """
    if new_tokens < 1:
        raise MethodError(f"new_tokens={new_tokens}: generate at least one token.")
    if answers is None and not all(task.correct):
        raise AnswerError(
            f"Pair {[bool(own) for own in task.correct].index(False)} of {task.name!r} has no answer that what is "
            "generated could be compared with: give answers=, one list per prompt."
        )
    if answers is None:
        return tuple(tuple((token,) for token in correct) for correct in task.correct)
    if len(answers) != len(task):
        raise AnswerError(f"There are {len(answers)} entries of answers for {len(task)} prompts; give one list each.")
    found = tuple(
        tuple(_tokens(lm, task, i, one) for one in ([entry] if isinstance(entry, str) else entry))
        for i, entry in enumerate(answers)
    )
    for i, own in enumerate(found):
        if not own or not all(own):
            raise AnswerError(f"Pair {i} of {task.name!r} has no right answer, or an empty one; give at least one.")
    longest = max(len(one) for own in found for one in own)
    if longest > new_tokens:
        raise MethodError(
            f"new_tokens={new_tokens}, but an answer has {longest} tokens: generate at least so many, or shorten it."
        )
    return found


def begins_right(tokens: Int[Tensor, "conditions prompts new"], answers: Answers) -> Bool[Tensor, "conditions prompts"]:
    """Whether each continuation begins with one of its prompt's answers."""
    most, longest = max(map(len, answers)), max(len(one) for own in answers for one in own)
    table = torch.full((len(answers), most, longest), _ANY)
    for i, own in enumerate(answers):
        table[i, len(own) :] = _NONE
        for k, one in enumerate(own):
            table[i, k, : len(one)] = torch.tensor(one)
    found = [((rows[:, None, :longest] == table) | (table == _ANY)).all(-1).any(-1) for rows in tokens]
    return torch.stack(found)


def _tokens(lm: Model, task: Task, i: int, answer: str | Sequence[int]) -> tuple[int, ...]:
    if not isinstance(answer, str):
        return tuple(int(token) for token in answer)
    tokenizer = tokenizer_of(lm)
    after = continuation(tokenizer, task.clean_text[i], answer, task.clean[i])
    return after or encode(tokenizer, answer, start=False)

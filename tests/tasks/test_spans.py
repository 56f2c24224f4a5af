"""Spans of a task: what is looked for in prompts, which tokens it is, and what is refused."""

import pytest

from veracausa.tasks.tokens import tokenizer_of

PAIR = {"clean": "Paris is the capital of France and of", "corrupted": "Rome is the capital of Italy and of"}
ANSWERS = {"correct": " Paris", "incorrect": " Rome"}


@pytest.fixture(params=["smollm2", "gemma3"])
def tokenizer(request):
    """GPT-2's kind, and SentencePiece's with a start token."""
    return tokenizer_of(request.getfixturevalue(request.param))


def words(task, i=0):
    """What the spans of a pair read, in both prompts."""
    one, other = task.tokens(i)
    return {
        name: ("".join(one[slice(*span.clean)]).strip(), "".join(other[slice(*span.corrupted)]).strip())
        for name, span in task.spans[i].items()
    }

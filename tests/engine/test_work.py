"""A verb's work: made from the verb's own arguments, and never done before it is asked to be."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

from veracausa.engine.work import gives
from veracausa.errors import MethodError
from veracausa.typed import typed

DONE = []


@dataclass(frozen=True)
class Adding:
    lm: str
    task: int
    more: int
    kind: str = "exact"

    def tokens(self):
        return float(self.more)

    def batches(self):
        return 1

    def run(self, show_progress=True, out=None):
        DONE.append((show_progress, out))
        return self.task + self.more


@gives(int)
def add(lm: str, task: int, *, more: int = 3, out: str | None = None, show_progress: bool = True) -> Adding:
    """Add more."""
    if more < 0:
        raise MethodError("less is not more")
    return Adding(lm, task, more)


def test_the_work_is_made_from_the_verbs_arguments_and_defaults():
    DONE.clear()
    assert add.work("lm", 1) == Adding("lm", 1, 3)
    assert add.work("lm", task=1, more=5, out="here", show_progress=False).tokens() == 5
    assert DONE == []
    assert add("lm", 1, out="here") == add.work("lm", 1).run(out="here") == 4
    assert DONE == [(True, "here")] * 2


def test_a_verb_says_what_it_gives():
    assert inspect.signature(add).return_annotation == "int"
    assert list(inspect.signature(add).parameters) == ["lm", "task", "more", "out", "show_progress"]
    assert add.__doc__ == "Add more."


def test_the_work_refuses_what_the_verb_refuses():
    with pytest.raises(MethodError, match="less"):
        add.work("lm", 1, more=-1)
    with pytest.raises(TypeError, match="fewer"):
        add.work("lm", 1, fewer=1)


def test_a_public_verb_says_in_words_what_its_work_wants():
    public = typed(add, "vc.numbers")
    assert public.work("lm", 1, more=2).run() == 3
    with pytest.raises(MethodError, match=r"vc\.numbers\.add: more is a whole number"):
        public.work("lm", 1, more="two")

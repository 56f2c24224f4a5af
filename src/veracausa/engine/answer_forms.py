"""Answers whose other form is what the model says: "Paris" for " Paris", " paris" for " Paris".

They are different tokens, and a metric of the one that the model never says is a number about nothing. Both
probabilities are in the logits that a call reads anyway, so looking costs no forward.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from veracausa.errors import AnswerFormWarning
from veracausa.tasks.tokens import string

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Another form is told of where the given one is rarer than this, and the other so many times as likely …
RARE, TIMES = 0.1, 10
#: … and not itself a rarity, on at least half of the pairs.
LIKELY = 0.01
_SPACES = "Ġ▁"  # how byte-level and SentencePiece vocabularies write the space before a word


@dataclass
class _Seen:
    """What was read of a task's pairs so far: pair → (probability of the given form, of the likelier, which)."""

    pairs: dict[int, tuple[float, float, str]] = field(default_factory=dict)
    told: bool = False


_READ: WeakKeyDictionary[Task, _Seen] = WeakKeyDictionary()


def note_forms(
    lm: Model, task: Task, examples: Sequence[int], logits: Float[Tensor, "examples vocabulary"] | None
) -> None:
    """Read the forms of some pairs' answers; once all of a task's pairs are read, warn if another form is meant."""
    seen = _READ.setdefault(task, _Seen())
    if lm.tokenizer is None or logits is None or seen.told or not task.measure.answered:
        return
    if task.continued or any(task.places[i] != (task.lengths[i] - 1,) for i in examples):
        return
    chances = logits.detach().float().softmax(-1)
    for row, i in enumerate(examples):
        given = float(chances[row, list(task.correct[i])].sum())
        forms = _forms_of(lm.tokenizer, task, i) if given < RARE else {}
        likely = {form: float(chances[row, ids].sum()) for form, ids in forms.items()}
        best = max(likely, key=likely.__getitem__, default="")
        seen.pairs[i] = (given, likely.get(best, 0.0), best)
    if len(seen.pairs) == len(task):
        seen.told = True
        _tell(lm, task, seen)


def other_forms(tokenizer: Any, token: int) -> dict[str, int]:
    """The other forms of a word that are one token each: how it is changed → token.

    >>> other_forms(tokenizer, id_of(" Paris"))
    {'space': id_of("Paris"), 'capital': id_of(" paris"), 'space and capital': id_of("paris")}
    """
    raw = str(tokenizer.convert_ids_to_tokens(token))
    space, word = (raw[0], raw[1:]) if raw[:1] and raw[0] in _SPACES else ("", raw)
    if not word[:1].isalnum():
        return {}
    swapped = word[0].swapcase() + word[1:]
    prefixes = [""] if space else list(_SPACES)
    found = {
        "space": _first(tokenizer, [prefix + word for prefix in prefixes]),
        "capital": _first(tokenizer, [space + swapped]),
        "space and capital": _first(tokenizer, [prefix + swapped for prefix in prefixes]),
    }
    return {form: other for form, other in found.items() if other is not None and other != token}


def _first(tokenizer: Any, names: Sequence[str]) -> int | None:
    """The first of some tokens that the vocabulary has."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    ids = (tokenizer.convert_tokens_to_ids(name) for name in names)
    return next((int(i) for i in ids if i is not None and i != unknown), None)


def _forms_of(tokenizer: Any, task: Task, example: int) -> dict[str, list[int]]:
    """Each form's tokens of a pair's correct answers, without those that are answers already."""
    forms: dict[str, list[int]] = {}
    answers = {*task.correct[example], *task.incorrect[example]}
    for token in task.correct[example]:
        for form, other in other_forms(tokenizer, token).items():
            if other not in answers:
                forms.setdefault(form, []).append(other)
    return forms


def _tell(lm: Model, task: Task, seen: _Seen) -> None:
    found = {
        i: form
        for i, (given, other, form) in seen.pairs.items()
        if given < RARE and other >= max(LIKELY, TIMES * given)
    }
    if 2 * len(found) < len(task):
        return
    first = min(found)
    given, other, form = seen.pairs[first]
    token = next(t for t in task.correct[first] if form in other_forms(lm.tokenizer, t))
    names = [string(lm.tokenizer, one) for one in (token, other_forms(lm.tokenizer, token)[form])]
    warnings.warn(
        f"{lm.name} hardly says the correct answers of {task.name!r} as they are written, but says another form of "
        f"them on {len(found)} of {len(task)} pairs: on pair {first} P({names[0]!r}) = {given:.2g}, P({names[1]!r}) = "
        f"{other:.2g}. Write the answers so (correct={names[1]!r}, the incorrect ones likewise), unless the rare form "
        "is what you ask about.",
        AnswerFormWarning,
        stacklevel=_level(),
    )


def _level() -> int:
    """The `stacklevel` of the first caller outside this package, as seen from the caller of `warnings.warn`."""
    # decorators of torch and context managers stand between
    inside = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), str(contextlib.__file__))
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level

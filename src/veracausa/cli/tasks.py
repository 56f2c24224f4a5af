"""Commands about tasks: which there are, and what the pairs of one look like to a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from veracausa.cli.command import spread
from veracausa.cli.options import Json, Show
from veracausa.cli.output import print_json
from veracausa.cli.setup import TaskSetup
from veracausa.tasks.aligned import shared_end, shared_start
from veracausa.terminal import echo

if TYPE_CHECKING:
    from torch import Tensor

    from veracausa.tasks.measurement import Measurement
    from veracausa.tasks.task import Task

#: Answers of an example that are shown.
_ANSWERS = 3


class Words:
    """A tokenizer of whole words and pairs of digits, to show examples of tasks without any model."""

    def __init__(self) -> None:
        self._words: list[str] = []

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """The words of a text."""
        return {"input_ids": [self._id(word) for word in re.findall(r" ?[^\W\d]+| ?\d\d|\s|.", text)]}

    def __len__(self) -> int:
        return len(self._words)

    def _id(self, word: str) -> int:
        if word not in self._words:
            self._words.append(word)
        return self._words.index(word)

    def convert_ids_to_tokens(self, token: int) -> str:
        """The word itself."""
        return self._words[token]

    def decode(self, tokens: list[int], **_: Any) -> str:
        """The text of words one after the other."""
        return "".join(self._words[token] for token in tokens)


def tasks(json: Json = False) -> None:
    """Which tasks are built in, with an example pair, kinds of corrupted prompts and the metric of each."""
    found = [_about(name) for name in _names()]
    if json:
        print_json(found)
        return
    for one in found:
        echo(f"{one['task']}: {one['description']}")
        echo(f"  clean       {one['clean']}  →{_listed(one['correct'])}")
        echo(f"  corrupted   {one['corrupted']}  →{_listed(one['incorrect'])}")
        echo(f"  metric      {one['metric']}")
        if one["spans"]:
            echo(f"  spans       {', '.join(one['spans'])}, end (--units heads@spans, a9.h6@{one['spans'][0]})")
        if one["corruptions"]:
            echo(f"  corruption  {', '.join(one['corruptions'])} (--corruption; the first is the default)")
        echo()
    from veracausa.tasks.columns import COLUMNS
    from veracausa.tasks.files import ENDINGS

    echo(f"Or pairs of your own: a file ({', '.join(ENDINGS)}) with the columns {', '.join(COLUMNS)}.")
    echo("`veracausa task NAME --model MODEL` shows pairs as a model reads them, and how well it does.")


def _names() -> list[str]:
    from veracausa.tasks.custom import PUBLISHED
    from veracausa.tasks.registry import BUILTIN

    return [*BUILTIN, PUBLISHED]


def _about(name: str) -> dict[str, Any]:
    """A task in words, with the first pair that its own builder makes for a tokenizer of words."""
    from veracausa.tasks import published_pair
    from veracausa.tasks.registry import BUILTIN, CORRUPTIONS

    builder = BUILTIN.get(name)
    built = published_pair(Words()) if builder is None else builder(Words(), n=1)
    correct, incorrect = built.answer_strings(0)
    return {
        "task": name,
        "description": ((builder or published_pair).__doc__ or "").strip().splitlines()[0],
        "clean": built.clean_text[0],
        "corrupted": built.corrupted_text[0],
        "correct": correct,
        "incorrect": incorrect,
        "metric": built.metric,
        "corruptions": list(CORRUPTIONS.get(name, ())),
        "spans": list(built.span_names),
    }


def _listed(answers: list[str]) -> str:
    return ",".join(f" {one.strip()}" for one in answers[:_ANSWERS]) + ", …" * (len(answers) > _ANSWERS)


@spread
def task(setup: TaskSetup, show: Show = 5) -> None:
    """Print prompt pairs with their tokens and answers, and how well the model does on them."""
    lm, built = setup.ready()
    measured = lm.measure(built)
    if setup.json:
        print_json(_body(built, measured, lm.header()))
        return
    echo(built.describe())
    for i in range(min(show, len(built))):
        _print_pair(built, measured, i)
    for line in _summary(built, measured):
        echo(line)


def _print_pair(built: Task, measured: Measurement, i: int) -> None:
    clean, corrupted = ([token.replace("\n", "⏎") for token in tokens] for tokens in built.tokens(i))
    correct, incorrect = built.answer_strings(i)
    echo(f"\n{i}  clean      {'|'.join(clean)}")
    if built.paired:
        echo(f"   corrupted  {'|'.join(_differing(clean, corrupted))}")
    echo(f"   correct    {'|'.join(correct)}    incorrect  {'|'.join(incorrect) or '(none)'}")
    if built.spans[i]:
        echo(
            f"   spans      {', '.join(f'{name} {_read(clean, span.clean)}' for name, span in built.spans[i].items())}"
        )
    other = f" clean, {measured.corrupted[i]:+.3f} corrupted" if built.paired else ""
    echo(f"   metric     {measured.clean[i]:+.3f}{other}")


def _differing(clean: list[str], corrupted: list[str]) -> list[str]:
    """The corrupted prompt's tokens, with dots for those that are the clean one's.

    Of prompts of different lengths for those that both begin with, or end with.
    """
    if len(clean) == len(corrupted):
        return [b if a != b else "·" * len(b) for a, b in zip(clean, corrupted, strict=True)]
    first, last = shared_start(clean, corrupted), len(corrupted) - shared_end(clean, corrupted)
    found = [token if first <= k < last else "·" * len(token) for k, token in enumerate(corrupted)]
    return found if clean[-1] == corrupted[-1] else [*found[:-1], corrupted[-1]]


def _read(tokens: list[str], span: tuple[int, int]) -> str:
    """A span's tokens, with their positions: "IO ' Mary' (@4)"."""
    first, end = span
    return f"{''.join(tokens[first:end])!r} (@{first if end - first == 1 else f'{first}-{end - 1}'})"


def _summary(built: Task, measured: Measurement) -> list[str]:
    from veracausa.statistics.gaps import cautions
    from veracausa.tasks.metrics import compares_answers

    top = [] if measured.right is None else [_said_right(built, measured.right)]
    if not built.paired:
        return [f"\nmean {built.metric}: {measured.clean.mean():+.3f}", *top]
    share = (measured.clean > 0).double().mean()
    compared = compares_answers(built.metric)
    return [
        f"\nmean {built.metric}: {measured.clean.mean():+.3f} clean, {measured.corrupted.mean():+.3f} corrupted, "
        f"gap {measured.gap.mean():.3f}",
        *(f"caution: {caution}" for caution in cautions(measured.clean, measured.corrupted, compares=compared)),
        f"positive on {share:.0%} of the clean prompts; hardly separated (under a tenth of the mean gap): "
        f"{len(measured.weak)} of {len(built)} pairs",
        *top,
    ]


def _said_right(built: Task, right: Tensor) -> str:
    clean, corrupted = right.sum(1).tolist()
    other = f", of {corrupted} corrupted ones" if built.paired else ""
    return f"the likeliest of all tokens is a right answer of {clean} of {len(built)} clean prompts{other}"


def _body(built: Task, measured: Measurement, model: dict[str, str]) -> dict[str, Any]:
    from veracausa.tasks.spans import plain

    rows = []
    for i in range(len(built)):
        (clean, corrupted), (correct, incorrect) = built.tokens(i), built.answer_strings(i)
        row: dict[str, Any] = {"clean": clean, "corrupted": corrupted, "correct": correct, "incorrect": incorrect}
        row |= {"spans": plain(built.spans[i])}
        row |= {} if measured.right is None else {"right": bool(measured.right[0, i])}
        rows.append({**row, "metric clean": float(measured.clean[i]), "metric corrupted": float(measured.corrupted[i])})
    gap = float(measured.gap.mean())
    return {"model": model, "task": built.describe(), "metric": built.metric, "gap": gap, "table": rows}

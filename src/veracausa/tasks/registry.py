"""The built-in tasks by the names that the command line uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from veracausa.arguments import shown
from veracausa.errors import TaskError
from veracausa.suggestions import did_you_mean
from veracausa.tasks.arithmetic import CORRUPTIONS as ARITHMETIC
from veracausa.tasks.arithmetic import arithmetic
from veracausa.tasks.capital_country import capital_country
from veracausa.tasks.coloured_objects import CORRUPTIONS as COLOURED_OBJECTS
from veracausa.tasks.coloured_objects import coloured_objects
from veracausa.tasks.docstring import CORRUPTIONS as DOCSTRING
from veracausa.tasks.docstring import docstring
from veracausa.tasks.factual_recall import CORRUPTIONS as FACTUAL_RECALL
from veracausa.tasks.factual_recall import factual_recall
from veracausa.tasks.gendered_pronoun import gendered_pronoun
from veracausa.tasks.greater_than import CORRUPTIONS as GREATER_THAN
from veracausa.tasks.greater_than import greater_than
from veracausa.tasks.hypernymy import hypernymy
from veracausa.tasks.induction import CORRUPTIONS as INDUCTION
from veracausa.tasks.induction import induction
from veracausa.tasks.ioi import CORRUPTIONS as IOI
from veracausa.tasks.ioi import ioi
from veracausa.tasks.multiple_choice import CORRUPTIONS as MULTIPLE_CHOICE
from veracausa.tasks.multiple_choice import multiple_choice
from veracausa.tasks.negation import CORRUPTIONS as NEGATION
from veracausa.tasks.negation import negation
from veracausa.tasks.sentiment import CORRUPTIONS as SENTIMENT
from veracausa.tasks.sentiment import sentiment
from veracausa.tasks.subject_verb import subject_verb
from veracausa.tasks.task import Task
from veracausa.typed import require

BUILTIN: dict[str, Callable[..., Task]] = {
    "ioi": ioi,
    "greater-than": greater_than,
    "subject-verb": subject_verb,
    "gendered-pronoun": gendered_pronoun,
    "capital-country": capital_country,
    "hypernymy": hypernymy,
    "induction": induction,
    "docstring": docstring,
    "coloured-objects": coloured_objects,
    "multiple-choice": multiple_choice,
    "arithmetic": arithmetic,
    "factual-recall": factual_recall,
    "negation": negation,
    "sentiment": sentiment,
}

#: The kinds of corrupted prompts of the tasks that have several.
CORRUPTIONS: dict[str, tuple[str, ...]] = {
    "ioi": tuple(IOI),
    "greater-than": GREATER_THAN,
    "induction": INDUCTION,
    "docstring": DOCSTRING,
    "coloured-objects": COLOURED_OBJECTS,
    "multiple-choice": MULTIPLE_CHOICE,
    "arithmetic": ARITHMETIC,
    "factual-recall": FACTUAL_RECALL,
    "negation": NEGATION,
    "sentiment": SENTIMENT,
}


def named(name: str, more: tuple[str, ...] = ()) -> str:
    """The name of a built-in task as `BUILTIN` has it; TaskError lists them if there is none (`more`: further names).

    >>> named("Greater_Than")
    'greater-than'
    """
    require(name, "str", "tasks.build: name", {}, TaskError)
    plain = name.strip().lower().replace("_", "-")
    known = (*BUILTIN, *more)
    if plain not in known:
        raise TaskError(
            f"there is no task {shown(name)}; the built-in ones are {', '.join(known)}.{did_you_mean(plain, known)}"
        )
    return plain


def build(name: str, lm: Any, **options: Any) -> Task:
    """A built-in task by its name ("greater-than", "greater_than"); options go to its builder.

    TaskError lists the names if there is none, or the builder's options if it does not take one.

    >>> vc.tasks.build("greater-than", lm, n=16, seed=1)
    """
    import inspect

    builder = BUILTIN[named(name)]
    known = [p for p in inspect.signature(builder).parameters if p != "lm"]
    if unknown := [option for option in options if option not in known]:
        raise TaskError(
            f"task {name!r} has no option {', '.join(unknown)}; its options are {', '.join(known)}."
            f"{did_you_mean(unknown[0], known)}"
        )
    return builder(lm, **options)


def corruptions_of(task: Task) -> tuple[str, ...]:
    """The kinds of corruption that a task's builder has; none for tasks that no builder made.

    >>> corruptions_of(vc.tasks.ioi(lm))
    ('swap', 'third', 'abc', 'order', 'words')
    """
    import importlib

    builder = BUILTIN.get(task.name)
    return () if builder is None else tuple(getattr(importlib.import_module(builder.__module__), "CORRUPTIONS", ()))


def rebuilt(lm: Any, task: Task, **changes: Any) -> Task | None:
    """A built-in task made again with other options (n=1000, corruption="abc"); None if no builder made it.

    With the same seed the first pairs are the same, and under another corruption the clean prompts.

    >>> rebuilt(lm, task, n=1000)
    """
    import inspect

    builder = BUILTIN.get(task.name)
    if builder is None or "seed" not in task.options:
        return None
    known = inspect.signature(builder).parameters
    own = {"n": len(task), "metric": task.metric, **task.options, **changes}
    return builder(lm, **{name: value for name, value in own.items() if name in known})

"""Coloured objects: "I bought a red pen, a blue cup and a green book. The cup that I bought is" → " blue"."""

from __future__ import annotations

from typing import Any

from veracausa.choices import ColouredObjectsCorruption, MetricName
from veracausa.tasks.corruption import pick, require_corruption, whole_words
from veracausa.tasks.data.coloured_objects import TEMPLATES
from veracausa.tasks.data.nouns import COLOURS, OBJECTS
from veracausa.tasks.draw import draw, shuffled, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import tokenizer_of

CORRUPTIONS = ("question", "colours", "new")
_THINGS, _SETS = 3, 512


def coloured_objects(
    lm: Any,
    n: int = 64,
    *,
    seed: int = 0,
    corruption: ColouredObjectsCorruption = "question",
    metric: MetricName = "logit_diff",
) -> Task:
    """Three things of three colours; correct: the colour of the one that is asked for.

    `corruption="question"`: another of the things is asked for. `"colours"`: that one and the asked one change
    colours. `"new"`: the asked one has a colour that was not there. Incorrect is what the corrupted prompt asks for.
    All give the same clean prompts for the same seed. Colours and things are single tokens.
    Spans: "colour" and "object" (of the thing that is asked for), "other_colour" and "other_object" (of the thing that
    is asked for, or has its colour, in the corrupted prompt of "question" and "colours"), "asked" (in the question).
    Raises TaskError if n is more than can be made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.coloured_objects(lm, n=32)
    """
    require_corruption("coloured-objects", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    colours, objects = (whole_words(tokenizer, listed) for listed in (COLOURS, OBJECTS))
    enough = len(colours) > _THINGS and len(objects) >= _THINGS
    strata = [((t,), range(_THINGS), range(_SETS if enough else 0)) for t in range(len(TEMPLATES))]

    def pair(choice: tuple[Any, ...]) -> Pair:
        t, asked, _ = choice
        hues = shuffled(colours, "coloured-objects", seed, *choice, "colours")
        things = shuffled(objects, "coloured-objects", seed, *choice, "objects")
        other = pick([k for k in range(_THINGS) if k != asked], "coloured-objects", seed, *choice, "other")
        clean = {f"c{k}": hues[k] for k in range(_THINGS)} | {f"o{k}": things[k] for k in range(_THINGS)}
        clean["asked"] = things[asked]
        changed, wrong = dict(clean), hues[other]
        if corruption == "question":
            changed["asked"] = things[other]
        elif corruption == "colours":
            changed |= {f"c{asked}": hues[other], f"c{other}": hues[asked]}
        else:
            changed[f"c{asked}"] = wrong = hues[_THINGS]
        spans = {"colour": f"c{asked}", "object": f"o{asked}", "other_colour": f"c{other}"}
        spans |= {"other_object": f"o{other}", "asked": "asked"}
        return Pair(
            **prompts(TEMPLATES[t], clean, changed, spans),
            correct=(f" {hues[asked]}",),
            incorrect=(f" {wrong}",),
            info={"template": t, "colours": hues[:_THINGS], "objects": things[:_THINGS], "asked": things[asked]},
        )

    return collect(
        tokenizer,
        "coloured-objects",
        (pair(choice) for choice in draw(strata, "coloured-objects", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(colours)} colours and {len(objects)} things are single tokens",
        options={"corruption": corruption},
    )

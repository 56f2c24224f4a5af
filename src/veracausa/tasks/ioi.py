"""Indirect object identification: "After John and Mary went to the store, Mary gave a bottle of milk to" → " John".

Two people are introduced, one of them (S, the subject) acts, and the sentence ends where the other one (IO) is named.
Orders: ABBA introduces IO first, BABA introduces S first.
"""

from __future__ import annotations

from typing import Any

from veracausa.errors import TaskError
from veracausa.tasks.data.ioi import OBJECTS, PLACES, TEMPLATES
from veracausa.tasks.data.names import FEMALE, MALE
from veracausa.tasks.draw import draw, number, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import single, tokenizer_of

CORRUPTIONS = ("swap", "abc")


def ioi(lm: Any, n: int = 64, *, seed: int = 0, corruption: str = "swap", metric: str = "logit_diff") -> Task:
    """Indirect-object pairs: correct = the indirect object of the clean prompt, incorrect = its subject.

    Names are single tokens of this tokenizer. The templates and both orders (ABBA, BABA) take turns.
    `corruption="swap"`: the acting person becomes the other one, which makes the other answer right (as in the
    published pair; gap about twice the clean metric). `"abc"`: three unrelated names stand in the three places, which
    removes the information. Both give the same clean prompts for the same seed.
    Raises TaskError if n is more than can be made or the tokenizer has too few names, MethodError for a metric that
    does not exist.

    >>> task = vc.tasks.ioi(lm, n=64, seed=0)
    >>> task.clean_text[0], task.answer_strings(0)
    """
    if corruption not in CORRUPTIONS:
        raise TaskError(f"ioi has no corruption {corruption!r}; choose one of {', '.join(CORRUPTIONS)}")
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    names = [name for name in (*FEMALE, *MALE) if single(tokenizer, f" {name}")]
    least = 2 if corruption == "swap" else 5
    if len(names) < least:
        raise TaskError(
            f"ioi with corruption {corruption!r} needs {least} names that are one token each, but this tokenizer has "
            f"{len(names)} of the {len(FEMALE) + len(MALE)} on the list"
        )
    strata = []
    for t, template in enumerate(TEMPLATES):
        places = PLACES if "{place}" in template else ("",)
        strata += [((t,), (order,), places, OBJECTS, names, names[:-1]) for order in ("ABBA", "BABA")]

    def pair(choice: tuple[Any, ...]) -> Pair:
        t, order, place, thing, indirect, other = choice
        # this slot lacks the last name, which stands in where it would name the same person twice
        subject = names[-1] if other == indirect else other
        template = TEMPLATES[t]
        first, second = (indirect, subject) if order == "ABBA" else (subject, indirect)
        words = {"place": place, "object": thing}
        if corruption == "swap":
            others = {"A": first, "B": second, "S": indirect}
        else:
            pool = [name for name in names if name not in (indirect, subject)]
            others = {}
            for role in "ABS":
                others[role] = pool.pop(number("ioi", seed, "abc", *choice, role) % len(pool))
        info = {
            "template": t,
            "order": order,
            "corruption": corruption,
            "indirect_object": indirect,
            "subject": subject,
            "place": place,
            "object": thing,
            "corrupted_names": list(others.values()),
        }
        return Pair(
            clean=template.format(A=first, B=second, S=subject, **words),
            corrupted=template.format(**others, **words),
            correct=(f" {indirect}",),
            incorrect=(f" {subject}",),
            info=info,
        )

    return collect(
        tokenizer,
        "ioi",
        (pair(choice) for choice in draw(strata, "ioi", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(names)} names of the list are single tokens",
        options={"corruption": corruption},
    )

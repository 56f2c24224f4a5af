"""Indirect object identification: "After John and Mary went to the store, Mary gave a bottle of milk to" → " John".

Two people are introduced, one of them (S, the subject) acts, and the sentence ends where the other one (IO) is named.
Orders: ABBA introduces IO first, BABA introduces S first.
"""

from __future__ import annotations

from typing import Any

from veracausa.choices import IoiCorruption, MetricName
from veracausa.errors import TaskError
from veracausa.tasks.corruption import require_corruption
from veracausa.tasks.data.ioi import OBJECTS, PLACES, TEMPLATES
from veracausa.tasks.data.names import FEMALE, MALE
from veracausa.tasks.draw import draw, number, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import single, tokenizer_of, width

#: Kind → names that it needs, those of the clean prompt among them.
CORRUPTIONS = {"swap": 2, "third": 3, "abc": 5, "order": 2, "words": 2}


def ioi(
    lm: Any, n: int = 64, *, seed: int = 0, corruption: IoiCorruption = "swap", metric: MetricName = "logit_diff"
) -> Task:
    """Indirect-object pairs: correct = the indirect object of the clean prompt, incorrect = its subject.

    Names are single tokens of this tokenizer. The templates and both orders (ABBA, BABA) take turns.
    `corruption="swap"`: the acting person becomes the other one, which makes the other answer right (as in the
    published pair; gap about twice the clean metric). `"third"`: a person who was not introduced acts, so neither
    answer is favoured. `"abc"`: three unrelated names stand in the three places, which removes the information.
    `"order"`: the two are introduced the other way round, and `"words"`: another place and another object (a control);
    the answer of both is that of the clean prompt, so their gap is small. All give the same clean prompts for the same
    seed, "words" where the tokenizer has another place or object of as many tokens.
    Spans: "IO", "S1", "S2" (the places of the names, with their roles in the clean prompt), "place", "object".
    Raises TaskError if n is more than can be made or the tokenizer has too few names, MethodError for a metric that
    does not exist.

    >>> task = vc.tasks.ioi(lm, n=64, seed=0)
    >>> task.clean_text[0], task.answer_strings(0)
    """
    require_corruption("ioi", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    names = [name for name in (*FEMALE, *MALE) if single(tokenizer, f" {name}")]
    least = CORRUPTIONS[corruption]
    if len(names) < least:
        raise TaskError(
            f"ioi with corruption {corruption!r} needs {least} names that are one token each, but this tokenizer has "
            f"{len(names)} of the {len(FEMALE) + len(MALE)} on the list"
        )
    strata = []
    for t, template in enumerate(TEMPLATES):
        places = PLACES if "{place}" in template else ("",)
        strata += [((t,), (order,), places, OBJECTS, names, names[:-1]) for order in ("ABBA", "BABA")]

    alike = {kind: _by_width(tokenizer, kind) if corruption == "words" else {} for kind in (PLACES, OBJECTS)}

    def pair(choice: tuple[Any, ...]) -> Pair | None:
        t, order, place, thing, indirect, other = choice
        # this slot lacks the last name, which stands in where it would name the same person twice
        subject = names[-1] if other == indirect else other
        template = TEMPLATES[t]
        first, second = (indirect, subject) if order == "ABBA" else (subject, indirect)
        words = {"place": place, "object": thing}
        others, new = {"A": first, "B": second, "S": subject}, dict(words)
        unused = [name for name in names if name not in (indirect, subject)]

        def drawn(role: str, pool: list[str]) -> str:
            return pool.pop(number("ioi", seed, corruption, *choice, role) % len(pool))

        if corruption == "swap":
            others["S"] = indirect
        elif corruption == "third":
            others["S"] = drawn("S", unused)
        elif corruption == "abc":
            others = {role: drawn(role, unused) for role in "ABS"}
        elif corruption == "order":
            others |= {"A": second, "B": first}
        else:
            for slot, kind in (("place", PLACES), ("object", OBJECTS)):
                if pool := [word for word in alike[kind].get(words[slot], ()) if word != words[slot]]:
                    new[slot] = drawn(slot, pool)
            if new == words:
                return None
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
        named = {"IO": "A", "S1": "B"} if order == "ABBA" else {"S1": "A", "IO": "B"}
        spans = {**named, "S2": "S", "place": "place", "object": "object"}
        return Pair(
            **prompts(template, {"A": first, "B": second, "S": subject, **words}, {**others, **new}, spans),
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


def _by_width(tokenizer: Any, words: tuple[str, ...]) -> dict[str, list[str]]:
    """Word → the words of the list that are as many tokens."""
    widths = {word: width(tokenizer, word) for word in words}
    return {word: [other for other in words if widths[other] == widths[word]] for word in words}

"""Templates: sentences with slots, and where in the sentence the words of a slot stand."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from veracausa.tasks.finding import Sought

#: A slot by its name, or that of them which comes as often before (counted from 0).
Slot = str | tuple[str, int]


def filled(template: str, words: Mapping[str, str]) -> tuple[str, dict[tuple[str, int], slice]]:
    """The sentence, as `template.format(**words)` makes it, and the characters of every slot, by name and occurrence.

    >>> filled("{A} met {B}", {"A": "Ann", "B": "Bob"})
    ('Ann met Bob', {('A', 0): slice(0, 3), ('B', 0): slice(8, 11)})
    """
    text = ""
    places: dict[tuple[str, int], slice] = {}
    for before, name, _, _ in Formatter().parse(template):
        text += before
        if name is not None:
            count = sum(one == name for one, _ in places)
            places[name, count] = slice(len(text), len(text) + len(words[name]))
            text += words[name]
    return text, places


def prompts(
    template: str, clean: Mapping[str, str], corrupted: Mapping[str, str], names: Mapping[str, Slot], *,
    other: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Both prompts of a pair and the spans of their slots, as `Pair` takes them.

    `names`: span → slot, of those that the template has. `other`: the corrupted prompt's template, if it has its own.

    >>> prompts("{A} met {B}", {"A": "Ann", "B": "Bob"}, {"A": "Eve", "B": "Bob"}, {"who": "A"})["corrupted"]
    'Eve met Bob'
    """
    one, here = filled(template, clean)
    two, there = filled(template if other is None else other, corrupted)
    slots = {name: (slot, 0) if isinstance(slot, str) else slot for name, slot in names.items()}
    spans = {name: Sought(here[at], there[at], "slot") for name, at in slots.items() if at in here and at in there}
    return {"clean": one, "corrupted": two, "spans": spans}

"""Sentences as the page shows them: jargon that explains itself on demand, names of units that can be chosen, code."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

from veracausa.report.readable import readable

#: Words that a newcomer does not know → what they mean. Each is explained where it first stands in a text.
TERMS = {
    "head": "One of the parts of a model that look back at earlier words and copy something from them. Every layer has "
    "several, side by side; a9.h6 is head 6 of layer 9, both counted from 0.",
    "layer": "A model computes in layers, one after the other, counted from 0: each reads what the ones before it "
    "wrote, and adds to it.",
    "prompt": "A text that the model is given, and goes on from with a next word.",
    "preference": "How much the model leans to the right answer rather than to a wrong one, as its own scores of both "
    "have it.",
    "MLP": "The part of a layer that works on each word by itself, after the heads; m3 is that of layer 3.",
    "effect": "What changes in the answer when this one part is replaced and everything behind it is computed anew: "
    "run, not estimated. Blue on the map: the part helps the answer; orange: it works against it.",
    "gap": "How far the preference for the right answer differs between the two prompts of a pair. 44 % of the gap: "
    "nearly half of that difference.",
    "attribution patching": "An estimate of all effects at once from one backward pass: as if the answer were a "
    "straight line in every part. Cheap, and wrong where it bends.",
    "integrated gradients": "An estimate that follows the model from one prompt to the other in small steps and adds "
    "up the slopes on the way. Costs more than attribution patching, and follows bends.",
    "correlation": "How well two lists of numbers go up and down together: 1 perfectly, 0 not at all.",
    "standard error": "How far a mean over so many pairs typically is from the mean over very many.",
    "circuit": "A small set of parts and of connections between them that does what the whole model does here.",
    "edge": "A connection: what one part writes, as one later part alone reads it. Without it that part reads the "
    "corrupted prompt's value there, and all others what they did.",
    "wrong sign": "The estimate says that a part helps where it works against the answer, or the other way round.",
    "pair": "A prompt with a known answer, and one that differs from it in a few words and has another answer.",
}

#: Terms by how they stand in a sentence, whatever letter they begin with.
_ALIKE = {term.lower().removesuffix("s"): term for term in TERMS}
_NAME = r"(?<![\w.])[amxrf]\d+(?:\.\w+)?(?![\w(])"
_EDGE = r"(?<![\w.])(?:input|[amx]\d+(?:\.\w+)?)->(?:logits|[amx]\d+(?:\.\w+)?(?:<\w+>)?)"


def marked(text: str, units: Iterable[str], done: set[str]) -> Markup:
    """A text as HTML: first mentions of `TERMS` and all names of `units` as buttons, `code` as code.

    `done`: the terms that the page has explained already; those of this text are added.
    """
    names = set(units)
    words = "|".join(sorted((re.escape(term) + "s?" for term in TERMS), key=len, reverse=True))
    parts: list[Markup] = []
    end = 0
    for found in re.finditer(rf"`([^`]+)`|({_EDGE}|{_NAME})|\b((?i:{words}))\b", readable(text)):
        piece = _piece(found, names, done)
        if piece is not None:
            parts += [escape(readable(text)[end : found.start()]), piece]
            end = found.end()
    return Markup("").join([*parts, escape(readable(text)[end:])])


def _piece(found: re.Match[str], names: set[str], done: set[str]) -> Markup | None:
    code, unit, word = found.groups()
    if code:
        return Markup("<code>{}</code>").format(code)
    if unit:
        return _UNIT.format(unit, unit) if unit in names else None
    term = _ALIKE[word.lower().removesuffix("s")]
    if term in done:
        return None
    done.add(term)
    anchor = f"meaning-{term.replace(' ', '-').lower()}"
    return _TERM.format(anchor, word, anchor, TERMS[term])


_UNIT = Markup('<button type="button" class="name" data-unit="{}">{}</button>')
_TERM = Markup(
    '<button type="button" class="term" popovertarget="{}">{}</button><span class="meaning" popover id="{}">{}</span>'
)

"""Units, sizes and answers in words that need no field."""

from __future__ import annotations

import math

from veracausa.report.readable import readable, shortened
from veracausa.units.kinds import singular
from veracausa.units.table import Units

#: Longest answer in a sentence.
_LONGEST = 24
#: Kinds of which a layer has one → what it is called there.
_WHOLE = {"mlps": "MLP", "attention": "attention", "mixers": "mixer"}
#: Kinds whose index counts within a layer, so that "head 3 of layer 9" says it all.
_COUNTED = ("heads", "neurons", "mixer_heads", "channels", "experts")


def in_full(units: Units, i: int) -> str:
    """A unit with its name: "head 3 of layer 23 (a23.h3)", "the MLP of layer 0 (m0)", "feature f10.12"."""
    name, position, pattern = units.names[i], int(units.position[i]), in_place(units.kind)
    if "{layer}" not in pattern:
        return f"{pattern} {name}"
    at = "" if position < 0 else f" at position {position}"
    return f"{pattern.format(index=int(units.index[i]), layer=int(units.layer[i]))}{at} ({name})"


def in_place(kind: str) -> str:
    """How units of a kind are told by their place: "head {index} of layer {layer}"; else what they are: "feature"."""
    if kind in _COUNTED:
        return f"{singular(kind)} {{index}} of layer {{layer}}"
    return f"the {_WHOLE[kind]} of layer {{layer}}" if kind in _WHOLE else singular(kind)


def percent(value: float, least: float = 0.001) -> str:
    """A share in percent, with its sign: −44 %, +0.4 %; under `least` it is "under 0.1 %".

    >>> percent(-0.4404), percent(0.0042), percent(0.00001)
    ('−44 %', '+0.4 %', 'under 0.1 %')
    """
    if not math.isfinite(value):
        return "–"
    size = 100 * abs(value)
    if size < 100 * least:
        return "0 %" if value == 0 else f"under {100 * least:g} %"
    digits = 0 if size >= 9.95 else 1
    return f"{'−' if value < 0 else '+'}{size:,.{digits}f} %"


def quoted(text: str) -> str:
    """An answer as a sentence has it: “Mary”; a blank or a line end is shown."""
    bare = text.strip() or text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    return f"“{shortened(readable(bare), _LONGEST)}”"

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
    said, name = in_place(units, i), units.names[i]
    return f"{said} ({name})" if said else f"{singular(units.kind)} {name}"


def in_place(units: Units, i: int) -> str:
    """What a unit is and where: "head 3 of layer 23"; nothing of kinds whose names say it all."""
    layer, index = int(units.layer[i]), int(units.index[i])
    at = "" if units.position[i] < 0 else f" at position {int(units.position[i])}"
    if units.kind in _COUNTED and index >= 0:
        return f"{singular(units.kind)} {index} of layer {layer}{at}"
    return f"the {_WHOLE[units.kind]} of layer {layer}{at}" if units.kind in _WHOLE else ""


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

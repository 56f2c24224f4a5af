"""Which kinds of units a study is about, by what the model has: heads, or mixers in their place; neurons, or channels.

Where every block mixes positions by attention the study is about heads, or whole attentions if heads cannot be told.
Else it is about mixers: their heads where they
have some, whole mixers where they have not; a hybrid's attention heads stand beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from veracausa.units.kinds import Kind

if TYPE_CHECKING:
    from veracausa.model import Model


def main_kind(lm: Model) -> Kind:
    """The kind that further questions are about."""
    if not lm.decoder.has_mixers:
        return "attention" if "heads" in lm.decoder.lacks else "heads"
    return "mixers" if "mixer_heads" in lm.decoder.lacks else "mixer_heads"


def whole_kinds(lm: Model) -> list[Kind]:
    """The kinds all of whose units get exact effects: the main one first."""
    beside: list[Kind] = ["heads"] if lm.decoder.has_mixers and "heads" not in lm.decoder.lacks else []
    behind: list[Kind] = [] if "mlps" in lm.decoder.lacks else ["mlps"]
    return [main_kind(lm), *beside, *behind]


def many_kind(lm: Model) -> Kind:
    """The kind of which there are thousands: neurons, or channels of mixers where the model has no neurons."""
    return "channels" if lm.decoder.has_mixers and "neurons" in lm.decoder.lacks else "neurons"

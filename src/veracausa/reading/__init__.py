"""What the stream says at every layer, who wrote it, and what units are at every position."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.reading.activating import activations as activations
    from veracausa.reading.activity import Activations as Activations
    from veracausa.reading.attributing import dla as dla
    from veracausa.reading.attributions import LogitAttribution as LogitAttribution
    from veracausa.reading.component_ends import component_words as component_words
    from veracausa.reading.lenses import Lens as Lens
    from veracausa.reading.looking import lens as lens

#: Public name → where it lives.
_HOMES = {
    "Activations": "veracausa.reading.activity",
    "Lens": "veracausa.reading.lenses",
    "LogitAttribution": "veracausa.reading.attributions",
    "activations": "veracausa.reading.activating",
    "component_words": "veracausa.reading.component_ends",
    "dla": "veracausa.reading.attributing",
    "lens": "veracausa.reading.looking",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

"""Dictionaries of features: encoders and decoders of a site's activations, as tensors."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.dictionaries.code import Code as Code
    from veracausa.dictionaries.dictionary import Dictionary as Dictionary
    from veracausa.dictionaries.encoder import Encoder as Encoder
    from veracausa.dictionaries.onward import Onward as Onward
    from veracausa.dictionaries.site import Site as Site

#: Public name → where it lives.
_HOMES = {
    "Code": "veracausa.dictionaries.code",
    "Dictionary": "veracausa.dictionaries.dictionary",
    "Encoder": "veracausa.dictionaries.encoder",
    "Onward": "veracausa.dictionaries.onward",
    "Site": "veracausa.dictionaries.site",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

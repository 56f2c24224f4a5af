"""Dictionaries of features: encoders and decoders of a site's activations, as tensors."""

from veracausa.dictionaries.dictionary import Dictionary as Dictionary
from veracausa.dictionaries.encoder import Encoder as Encoder
from veracausa.dictionaries.site import Site as Site

__all__ = ["Dictionary", "Encoder", "Site"]

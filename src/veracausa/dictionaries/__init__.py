"""Dictionaries of features: encoders and decoders of a site's activations, as tensors."""

from veracausa.dictionaries.code import Code as Code
from veracausa.dictionaries.dictionary import Dictionary as Dictionary
from veracausa.dictionaries.encoder import Encoder as Encoder
from veracausa.dictionaries.site import Site as Site

__all__ = ["Code", "Dictionary", "Encoder", "Site"]

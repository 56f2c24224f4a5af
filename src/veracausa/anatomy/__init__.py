"""Where each family keeps its blocks, norms, projections and MLPs; the only package that names an architecture."""

from veracausa.anatomy.decoder import Block, Decoder, decoder_of
from veracausa.anatomy.families import FAMILIES, Anatomy

__all__ = ["FAMILIES", "Anatomy", "Block", "Decoder", "decoder_of"]

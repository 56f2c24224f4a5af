"""Where each family keeps its blocks, norms, projections and MLPs; the only package that names an architecture."""

from veracausa.anatomy.anatomy import Anatomy
from veracausa.anatomy.binding import decoder_of, require_family
from veracausa.anatomy.block import Block, NoNorm
from veracausa.anatomy.decoder import Decoder
from veracausa.anatomy.families import FAMILIES
from veracausa.anatomy.proposals import proposals

__all__ = ["FAMILIES", "Anatomy", "Block", "Decoder", "NoNorm", "decoder_of", "proposals", "require_family"]

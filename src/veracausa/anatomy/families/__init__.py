"""Where each family of decoders keeps its parts: one frozen `Anatomy` per family.

This is the only package that names an architecture. A family states names; what is done with them is in `decoder.py`.
To add one, add an entry to the table of its kind and let `lm.check()` and the contract tests judge it.
"""

from __future__ import annotations

from veracausa.anatomy.anatomy import Anatomy
from veracausa.anatomy.families.dense import DENSE
from veracausa.anatomy.families.hybrids import HYBRIDS
from veracausa.anatomy.families.mixtures import MIXTURES

#: `config.model_type` → anatomy.
FAMILIES: dict[str, Anatomy] = DENSE | MIXTURES | HYBRIDS

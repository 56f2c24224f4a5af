"""Directions and dictionaries fitted to a model's own activations, and how well a dictionary fits them.

>>> dic = vc.fitting.pca(lm, task, site="r10", k=8)              # d10.pc0 …
>>> dic = vc.fitting.difference(lm, task, site="r10")            # clean − corrupted
>>> dic = vc.fitting.train(lm, texts, site="r10", features=1024, k=32)
>>> dic.check(lm, task)
"""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.fitting.makers import difference as difference
    from veracausa.fitting.makers import pca as pca
    from veracausa.fitting.makers import probe as probe
    from veracausa.fitting.qualities import Quality as Quality
    from veracausa.fitting.training import train as train

#: Public name → where it lives.
_HOMES = {
    "Quality": "veracausa.fitting.qualities",
    "difference": "veracausa.fitting.makers",
    "pca": "veracausa.fitting.makers",
    "probe": "veracausa.fitting.makers",
    "train": "veracausa.fitting.training",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

"""Parts of a model cut out for good: ranked by what they are worth, cut, checked by exact joint removal, exported.

>>> ranking = vc.pruning.rank(lm, task, how="fgp", units="neurons")
>>> found = vc.pruning.prune(lm, task, how=["fgp", "magnitude"], units="neurons", share=0.2)
"""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.pruning.exported import Exported as Exported
    from veracausa.pruning.part_ranking import PartRanking as PartRanking
    from veracausa.pruning.pruned import Pruned as Pruned
    from veracausa.pruning.pruner import prune as prune
    from veracausa.pruning.ranking_parts import rank as rank

#: Public name → where it lives.
_HOMES = {
    "Exported": "veracausa.pruning.exported",
    "PartRanking": "veracausa.pruning.part_ranking",
    "Pruned": "veracausa.pruning.pruned",
    "prune": "veracausa.pruning.pruner",
    "rank": "veracausa.pruning.ranking_parts",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

"""Which parts of two layers talk to each other: interactions, their check, and modules of many layers.

The first question is `vc.interactions`; here is what follows from its answer.
"""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.interplay.checked import CheckedInteractions as CheckedInteractions
    from veracausa.interplay.checking import check as check
    from veracausa.interplay.clustering import modules as modules
    from veracausa.interplay.module_results import Modules as Modules
    from veracausa.interplay.results import Interactions as Interactions

#: Public name → where it lives.
_HOMES = {
    "CheckedInteractions": "veracausa.interplay.checked",
    "check": "veracausa.interplay.checking",
    "Modules": "veracausa.interplay.module_results",
    "modules": "veracausa.interplay.clustering",
    "Interactions": "veracausa.interplay.results",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

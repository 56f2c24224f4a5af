"""Sweeps: many questions about many tasks and models, cut into items that any number of processes may do."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.sweeps.folder import Folder as Folder
    from veracausa.sweeps.items import Item as Item
    from veracausa.sweeps.plan import Cell as Cell
    from veracausa.sweeps.plan import Plan as Plan
    from veracausa.sweeps.plan import plan_of as plan_of
    from veracausa.sweeps.results import Sweep as Sweep
    from veracausa.sweeps.totals import Totals as Totals

#: Public name → where it lives.
_HOMES = {
    "Cell": "veracausa.sweeps.plan",
    "Folder": "veracausa.sweeps.folder",
    "Item": "veracausa.sweeps.items",
    "Plan": "veracausa.sweeps.plan",
    "Sweep": "veracausa.sweeps.results",
    "Totals": "veracausa.sweeps.totals",
    "plan_of": "veracausa.sweeps.plan",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

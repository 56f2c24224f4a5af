"""Which counterfactual shows which component: search, corruptions, baselines, general-purpose units, head roles."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.counterfactuals.compared_baselines import Baselines as Baselines
    from veracausa.counterfactuals.compared_corruptions import CounterfactualComparison as CounterfactualComparison
    from veracausa.counterfactuals.comparing_baselines import baselines as baselines
    from veracausa.counterfactuals.comparing_corruptions import corruptions as corruptions
    from veracausa.counterfactuals.finding_general import general_purpose as general_purpose
    from veracausa.counterfactuals.general_units import GeneralPurpose as GeneralPurpose
    from veracausa.counterfactuals.roles import HeadRoles as HeadRoles
    from veracausa.counterfactuals.roles import head_roles as head_roles
    from veracausa.counterfactuals.searches import Search as Search
    from veracausa.counterfactuals.searching import search as search
    from veracausa.tasks.pool import pool as pool

#: Public name → where it lives.
_HOMES = {
    "Baselines": "veracausa.counterfactuals.compared_baselines",
    "CounterfactualComparison": "veracausa.counterfactuals.compared_corruptions",
    "GeneralPurpose": "veracausa.counterfactuals.general_units",
    "HeadRoles": "veracausa.counterfactuals.roles",
    "Search": "veracausa.counterfactuals.searches",
    "baselines": "veracausa.counterfactuals.comparing_baselines",
    "corruptions": "veracausa.counterfactuals.comparing_corruptions",
    "general_purpose": "veracausa.counterfactuals.finding_general",
    "head_roles": "veracausa.counterfactuals.roles",
    "pool": "veracausa.tasks.pool",
    "search": "veracausa.counterfactuals.searching",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

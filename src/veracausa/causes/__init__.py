"""Why two methods disagree about a unit, and where in the model the reason lies."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.causes.curves.responding import responses as responses
    from veracausa.causes.curves.responses import Response as Response
    from veracausa.causes.curves.responses import Responses as Responses
    from veracausa.causes.curves.surface import surface as surface
    from veracausa.causes.curves.surfaces import Surface as Surface
    from veracausa.causes.disagree import disagreement as disagreement
    from veracausa.causes.locating import locate as locate
    from veracausa.causes.locations import Location as Location
    from veracausa.causes.locations import Locations as Locations
    from veracausa.causes.naming import Cause as Cause
    from veracausa.causes.results import Disagreement as Disagreement

#: Public name → where it lives.
_HOMES = {
    "Cause": "veracausa.causes.naming",
    "Disagreement": "veracausa.causes.results",
    "Location": "veracausa.causes.locations",
    "Locations": "veracausa.causes.locations",
    "Response": "veracausa.causes.curves.responses",
    "Responses": "veracausa.causes.curves.responses",
    "Surface": "veracausa.causes.curves.surfaces",
    "disagreement": "veracausa.causes.disagree",
    "locate": "veracausa.causes.locating",
    "responses": "veracausa.causes.curves.responding",
    "surface": "veracausa.causes.curves.surface",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

"""Studies: many questions about one task in one call, compared with each other."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.studies.laying import beside as beside
    from veracausa.studies.levels import Level as Level
    from veracausa.studies.results import Failure as Failure
    from veracausa.studies.results import Panel as Panel
    from veracausa.studies.results import Section as Section

#: Public name → where it lives.
_HOMES = {
    "Failure": "veracausa.studies.results",
    "Level": "veracausa.studies.levels",
    "Panel": "veracausa.studies.results",
    "Section": "veracausa.studies.results",
    "beside": "veracausa.studies.laying",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

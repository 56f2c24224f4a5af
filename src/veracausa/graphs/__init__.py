"""Attribution graphs of transcoders: built, scored, pruned, exchanged, and checked against the live model."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.graphs.building import attribution_graph as attribution_graph
    from veracausa.graphs.checked import GraphCheck as GraphCheck
    from veracausa.graphs.checking import check as check
    from veracausa.graphs.exchange import read_graph_json as read_graph_json
    from veracausa.graphs.exchange import write_graph_json as write_graph_json
    from veracausa.graphs.graph import AttributionGraph as AttributionGraph
    from veracausa.graphs.prompting import prompt as prompt

#: Public name → where it lives.
_HOMES = {
    "AttributionGraph": "veracausa.graphs.graph",
    "GraphCheck": "veracausa.graphs.checked",
    "attribution_graph": "veracausa.graphs.building",
    "check": "veracausa.graphs.checking",
    "prompt": "veracausa.graphs.prompting",
    "read_graph_json": "veracausa.graphs.exchange",
    "write_graph_json": "veracausa.graphs.exchange",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

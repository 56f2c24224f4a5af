"""Sites that write: the input, then heads (or mixer) and MLP of every block, and which writers are a site's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from veracausa.anatomy.graph import Graph as Wiring
from veracausa.engine.patches import where
from veracausa.estimates.paths.bucket import Site

if TYPE_CHECKING:
    from veracausa.anatomy import Decoder


def sites_of(decoder: Decoder) -> list[Site]:
    """The input, then heads (or mixer) and MLP of every block, as they write."""
    sites = [Site(0, "input", (0, False))]
    for layer, block in enumerate(decoder.blocks):
        stem: dict[str, str] = {"attention": "a", "mixer": "x"}
        for part in block.mixers:
            sites.append(Site(len(sites), f"{stem[part.mixing]}{layer}", where(decoder, "z", layer).join))
        if block.has_mlp:
            sites.append(Site(len(sites), f"m{layer}", where(decoder, "mlp", layer).join))
    return sites


def writers_of(graph: Wiring, site: Site) -> range:
    """Writers of the graph that are a site's."""
    if site.number == 0:
        return range(1)
    name = str(site.name)
    at = graph.block(int(name[1:]))
    own = at.mlp if name.startswith("m") else at.of({"a": "attention", "x": "mixer"}[name[0]])[0]
    return range(own.start, own.stop)

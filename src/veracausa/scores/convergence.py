"""Whether a path was walked finely enough: its scores sum to what they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from veracausa.scores.completeness import Completeness

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

#: A completeness residual over this share of the gap is worth a note.
COARSE = 0.01
#: How the note begins.
UNCONVERGED = "not converged"


def unconverged(
    completeness: Completeness | None, gap: Float[Tensor, " examples"] | None, places: Sequence[int | str], nodes: int
) -> tuple[str, ...]:
    """A note that names the layers, or sites, whose scores do not sum to what they should: the grid is too coarse.

    A sum that misses is compared with the gap; where there is none, with the sites' own effects.
    """
    if completeness is None:
        return ()
    known = gap is not None and bool(gap.any())
    share = completeness.shares(gap if gap is not None and known else completeness.true.flatten())
    coarse = [f"{place} ({share[i]:.0%})" for i, place in enumerate(places) if share[i] > COARSE]
    if not coarse:
        return ()
    what, of = "sites" if isinstance(places[0], str) else "layers", "gap" if known else "effect of a site"
    return (
        f"{UNCONVERGED} with {nodes} nodes in {what} {', '.join(coarse)}: scores there miss the site's effect, "
        f"pair by pair, by that share of the mean |{of}|. A coarse grid is another estimate than the converged "
        "path: raise nodes=",
    )

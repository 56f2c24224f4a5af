"""Mean gradients of dictionaries' sites along the way to their replacements, number by number: what integrated
gradients multiply the change of each part with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from veracausa.dictionaries.words import ERROR
from veracausa.effects.crossing_rows import crosses
from veracausa.effects.replacements import Counterfactual, Replacement, Zero
from veracausa.engine.bucket import Bucket
from veracausa.engine.coded import widened
from veracausa.engine.patches import depth_behind
from veracausa.engine.session import Session
from veracausa.estimates.method import Method
from veracausa.estimates.paths.bucket import PathBucket, SiteRuns, columns
from veracausa.estimates.paths.feature_sums import FeatureSums
from veracausa.estimates.paths.sites import walk_layer
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model


@dataclass(eq=False)
class _Kept(FeatureSums):
    """Σ_k w_k g_k of every site, not contracted."""

    found: dict[int, Tensor] = field(default_factory=dict)

    def add_sites(self, ran: SiteRuns) -> None:
        """See `Sums.add_sites`."""
        for (site, rows), slope in zip(ran.by_site, ran.slopes, strict=True):
            example, weights = columns(rows, slope)
            into = self.found.setdefault(self.layers[site.number], slope.new_zeros(len(self.values), *slope.shape[1:]))
            into.index_add_(0, example, slope * weights[:, None, None])


def mean_slopes(
    call: Session,
    bucket: Bucket,
    sites: Collection[tuple[str, int]],
    noising: bool,
    zero: bool,
    nodes: int,
) -> dict[tuple[str, int], Float[Tensor, "examples positions site"]]:
    """Of some dictionaries, by kind and layer, at α = 0, 1/nodes, …, (nodes − 1)/nodes (Marks et al. 2403.19647).

    `bucket`: recorded without a graph.
    """
    lm = _told_apart(bucket.lm, sites)
    whole = bucket if lm is bucket.lm else _with(bucket, lm)
    method = Method(path="layer", grid="left", nodes=nodes, baseline="zero" if zero else "corrupted")
    source: Replacement = Zero() if zero else Counterfactual(noising)
    found: dict[tuple[str, int], Tensor] = {}
    for kind in sorted({kind for kind, _ in sites}):
        layers = np.array(sorted(layer for own, layer in sites if own == kind), dtype=np.int64)
        units = Units(kind, layers, np.full(len(layers), ERROR), np.full(len(layers), -1))  # type: ignore[arg-type]
        sums = _Kept(PathBucket.of(whole, method, noising, call.advance), units, source)
        walk_layer(sums)
        found |= {(kind, layer): slopes.detach() for layer, slopes in sums.found.items()}
    codes = bucket.lm.decoder.codes
    return found if whole is bucket else {at: codes[at].narrowed(slopes) for at, slopes in found.items()}


def _told_apart(lm: Model, sites: Collection[tuple[str, int]]) -> Model:
    """A model that tells all features of cross-layer transcoders apart: each writes to later layers by itself."""
    for kind in {kind for kind, _ in sites if crosses(lm, kind)}:
        lm = widened(lm, kind)
    return lm


def _with(bucket: Bucket, lm: Model) -> Bucket:
    """The same recording, with the dictionaries of such a model."""
    tape = bucket.tape
    clean, corrupted = (replace(run, codes=lm.decoder.codes, coded={}) for run in (tape.clean, tape.corrupted))
    return replace(bucket, lm=lm, tape=replace(tape, clean=clean, corrupted=corrupted))


def walked(lm: Model, sites: Collection[tuple[str, int]], nodes: int) -> float:
    """Token-layers of that, of one token."""
    kinds, depths = {kind for kind, _ in sites}, [depth_behind(lm.decoder, *site) for site in sites]  # type: ignore[arg-type]
    return len(kinds) * lm.layers + (2 * nodes + 1) * sum(depths)

"""`vc.directions`: directions of a site as a dictionary of linear features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from veracausa.dictionaries import Dictionary, Encoder, Site
from veracausa.errors import MethodError
from veracausa.loading.dictionaries.adapting import require_site
from veracausa.loading.dictionaries.plain import tensor_of
from veracausa.model import Model

#: A direction that the others make up to this share of its norm has no feature of its own.
_DEPENDENT = 1e-5


def directions(
    lm: Model,
    vectors: Mapping[str, Any] | Any,
    site: str,
    *,
    center: Any = None,
    name: str = "",
) -> Dictionary:
    """Directions of a site as features: f = (x − center) D⁺ and x̂ = f D + center, D the rows, D⁺ its pseudo-inverse.

    Of one direction d that is f = (x − center)·d / ‖d‖²; of orthonormal rows the projections. What no direction spans
    is the error.

    Args:
        lm: the model.
        vectors: name → vector, whose names are those of the features (`d10.subject`), or a matrix [directions, width],
            whose features are `d10.v0`, `d10.v1`, ….
        site: where, such as "r10".
        center: what comes off first, [width]; default nothing.
        name: tells it apart from others of one layer.

    Raises:
        MethodError: a vector is none, of another width, or made up of the others; the model has no such site.

    >>> dic = vc.directions(lm, {"truth": w}, site="r10")
    """
    at = Site.of(site)
    given = {key: tensor_of(f"vectors[{key!r}]", value) for key, value in vectors.items()} if isinstance(
        vectors, Mapping) else {f"v{i}": row for i, row in enumerate(_matrix(vectors))}  # fmt: skip
    if not all(isinstance(key, str) for key in given):
        raise MethodError("Directions have names: {'truth': vector}.")
    if not given:
        raise MethodError("There is no direction; give {'name': vector}, or a matrix [directions, width].")
    for key, row in given.items():
        if row.ndim != 1:
            raise MethodError(f"A direction is a vector, but {key} has the shape {list(row.shape)}.")
        require_site(lm, at, len(row))
    rows = torch.stack([row.to(lm.device, lm.score_dtype) for row in given.values()])
    _require_apart(rows, list(given))
    middle = rows.new_zeros(rows.shape[1]) if center is None else tensor_of("center", center).to(rows)
    norms = rows.double().norm(dim=-1)  # of lengths that differ much, the short ones would be taken for rounding
    inverse = torch.linalg.pinv(rows.double() / norms[:, None]) / norms
    encoder = Encoder(inverse.to(rows), rows.new_zeros(len(rows)), "linear", before=middle)
    return Dictionary(at, at, encoder, rows, middle, name=name, labels=tuple(given), source="directions")


def _matrix(vectors: Any) -> Tensor:
    found = tensor_of("vectors", vectors)
    if found.ndim != 2:
        raise MethodError(f"Directions are a matrix [directions, width], but this has the shape {list(found.shape)}.")
    return found


def _require_apart(rows: Tensor, names: list[str]) -> None:
    norms = rows.norm(dim=-1)
    if not bool((norms > 0).all()):
        raise MethodError(f"{names[int((norms == 0).nonzero()[0])]} is 0 everywhere, which is no direction.")
    if len(rows) > rows.shape[1] or torch.linalg.svdvals((rows / norms[:, None]).double())[-1] < _DEPENDENT:
        raise MethodError(
            f"These {len(rows)} directions are not independent (one is made up of the others), so no feature is its "
            "own. Leave some out, or give each in a call of its own."
        )

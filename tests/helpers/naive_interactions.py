"""Interactions of two sites by whole runs of the plain model with hooks, one gradient for every number of a reader.

A site is (name, layer) as in `naive`, or one of a dictionary: a `naive_features.Plain`. Values of a site are
[n, numbers]; `groups` say which of the numbers each part is: a slice of them, or a mask [n, numbers].
"""

from __future__ import annotations

from collections.abc import Sequence

import naive
import torch
from torch import Tensor


def values(model, family: str, ids: Sequence[int], site) -> Tensor:
    """A site's own values in a plain run."""
    return naive.activations(model, family, ids)[site[0]][site[1]]


def read(model, family: str, ids: Sequence[int], source, new: Tensor, reader) -> Tensor:
    """The reader's values [n, d] in a run whose source site is `new`."""
    found = []

    def keep(a):
        found.append(a)
        return a

    naive._run(model, family, ids, [(*source, lambda a: new.to(a)), (*reader, keep)])
    return found[0]


def ig(model, family, ids, source, own, baseline, reader, groups, nodes) -> Tensor:
    """J, [reader's numbers, positions, sources]: a loop over readers, positions and nodes."""
    delta, grid = own - baseline, naive.gauss_legendre(nodes)
    n, width = read(model, family, ids, source, own, reader).shape
    found = torch.zeros(width, n, len(groups), dtype=own.dtype)
    for alpha, weight in grid:
        at = (baseline + float(alpha) * delta).requires_grad_(True)
        f = read(model, family, ids, source, at, reader)
        for i in range(width):
            for t in range(n):
                (g,) = torch.autograd.grad(f[t, i], at, retain_graph=True, allow_unused=True)
                if g is None:
                    continue
                for j, own_numbers in enumerate(groups):
                    found[i, t, j] += float(weight) * (g * delta)[_at(own_numbers)].sum()
    return found


def _at(own):
    return own if isinstance(own, Tensor) else (slice(None), own)


@torch.no_grad()
def exact(model, family, ids, source, own, baseline, reader, groups) -> Tensor:
    """f − f with a source at its baseline, everything between live."""
    f = read(model, family, ids, source, own, reader)
    found = []
    for own_numbers in groups:
        new = own.clone()
        new[_at(own_numbers)] = baseline[_at(own_numbers)]
        found.append((f - read(model, family, ids, source, new, reader)).T)
    return torch.stack(found, -1)


def kept(j: Tensor, readers: Sequence) -> tuple[Tensor, Tensor]:
    """Mean squares and means over positions, [readers, sources]; of readers of several numbers the sums over them."""
    squares = torch.stack([(j[own] ** 2).sum(0).mean(0) for own in readers])
    means = torch.stack([j[own].sum(0).mean(0) for own in readers])
    return squares, means

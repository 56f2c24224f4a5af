"""Directions of a site, made from a model's own runs: principal components, difference of means, a probe's weight.

A direction is a row of the decoder; its feature is what the pseudo-inverse of all rows gives: f = (x − before) D⁺. Of
orthonormal rows that is the projection. Features are linear in x, so their effects are those of the parts of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from veracausa.dictionaries import Dictionary, Site
from veracausa.errors import MethodError
from veracausa.fitting.sites import activations, prompts_of
from veracausa.loading.dictionaries.adapting import require_site
from veracausa.loading.dictionaries.directions import directions
from veracausa.model import Model
from veracausa.tasks.task import Task


def pca(
    lm: Model, task: Task | Sequence[str | Sequence[int]], site: str, *, k: int = 8, last: bool = False, name: str = ""
) -> Dictionary:
    """The first principal components of a site's activations over a task's prompts, both runs: `d10.pc0`, `d10.pc1`, …

    The mean over the tokens comes off first and stands in the dictionary's bias, so that features are about it.

    Args:
        lm: the model.
        task: its prompts, or texts, or token ids.
        site: where, such as "r10".
        k: how many components.
        last: of the prompts' last tokens alone; else of all but each prompt's first, whose norm is like no other's.
        name: of the dictionary.

    Raises:
        MethodError: the model has no such site, or there are fewer tokens than components.

    >>> dic = vc.fitting.pca(lm, task, "r10", k=8)
    """
    x = _recorded(lm, prompts_of(lm, task), site, last)
    if not 1 <= k <= min(len(x) - 1, x.shape[1]):
        most = min(len(x) - 1, x.shape[1])
        raise MethodError(f"k={k}: {len(x)} tokens at a site of width {x.shape[1]} have 1 … {most} components.")
    mean = x.mean(0)
    _, _, rows = torch.linalg.svd((x - mean).double(), full_matrices=False)
    rows = rows[:k] * _signs(rows[:k])
    vectors = {f"pc{i}": row.to(x.dtype) for i, row in enumerate(rows)}
    return directions(lm, vectors, site, center=mean, name=name)


def difference(
    lm: Model, task: Task, site: str, *, last: bool = True, name: str = "", label: str = "difference"
) -> Dictionary:
    """The difference of means of a task's clean and corrupted prompts at a site, clean − corrupted: `d10.difference`.

    Args:
        lm: the model.
        task: pairs of prompts.
        site: where, such as "r10".
        last: at the prompts' last tokens; else over all but each prompt's first.
        name: of the dictionary.
        label: of the direction.

    Raises:
        MethodError: the model has no such site, the task has no counterparts, or the means are equal.

    >>> dic = vc.fitting.difference(lm, task, "r10")
    """
    if not task.paired:
        raise MethodError(f"{task.name!r} has no counterparts, so no difference; vc.fitting.probe takes two lists.")
    return _between(lm, task.clean, task.corrupted, site, last, name, label)


def probe(
    lm: Model,
    yes: Sequence[str | Sequence[int]],
    no: Sequence[str | Sequence[int]],
    site: str,
    *,
    penalty: float = 1.0,
    last: bool = True,
    name: str = "",
    label: str = "probe",
) -> Dictionary:
    """The weight of a logistic probe that tells two kinds of texts apart at a site: `d10.probe`, of norm 1.

    loss = Σ log(1 + exp(−s (w·u + b))) + penalty/2 ‖w‖², u = (x − mean) / sd of all numbers; s = 1 of `yes`, −1 of
    `no`; solved by LBFGS in float64.

    Args:
        lm: the model.
        yes: texts or token ids of one kind.
        no: of the other.
        site: where, such as "r10".
        penalty: on the squared weight.
        last: at the texts' last tokens; else at all but each text's first.
        name: of the dictionary.
        label: of the direction.

    Raises:
        MethodError: the model has no such site, or a number makes no sense.

    >>> dic = vc.fitting.probe(lm, ["I loved it."], ["I hated it."], "r10")
    """
    if not penalty > 0:
        raise MethodError(f"penalty={penalty}: above 0; without one a probe that tells all texts apart has no end.")
    groups = [_recorded(lm, prompts_of(lm, texts), site, last) for texts in (yes, no)]
    x = torch.cat(groups).double()
    sign = torch.cat([x.new_full((len(g),), s) for g, s in zip(groups, (1.0, -1.0), strict=True)])
    u = (x - x.mean(0)) / x.std()
    with torch.enable_grad():
        weight = _fitted(u, sign, penalty)
    return directions(lm, {label: (weight / weight.norm()).to(groups[0].dtype)}, site, name=name)


def _fitted(u: Tensor, sign: Tensor, penalty: float) -> Tensor:
    weight = torch.zeros(u.shape[1] + 1, dtype=u.dtype, device=u.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        found = torch.nn.functional.softplus(-sign * (u @ weight[:-1] + weight[-1])).sum()
        found = found + penalty / 2 * weight[:-1].square().sum()
        found.backward()
        return found

    solver.step(loss)
    return weight.detach()[:-1]


def _between(
    lm: Model,
    yes: Sequence[Sequence[int]],
    no: Sequence[Sequence[int]],
    site: str,
    last: bool,
    name: str,
    label: str,
) -> Dictionary:
    means = [_recorded(lm, [tuple(ids) for ids in texts], site, last).mean(0) for texts in (yes, no)]
    found = means[0] - means[1]
    if not found.norm() > 1e-6 * means[0].norm():
        raise MethodError(f"Both kinds of prompts have the same mean at {site}, so there is no direction between them.")
    return directions(lm, {label: found}, site, name=name)


def _recorded(lm: Model, prompts: Sequence[tuple[int, ...]], site: str, last: bool) -> Tensor:
    """Activations of all tokens but each prompt's first, or of its last one."""
    at = Site.of(site)
    require_site(lm, at)
    return activations(lm, prompts, [at], start=-1 if last else 1)[at]


def _signs(rows: Tensor) -> Tensor:
    """So that each row's largest number is above 0: a component's own sign means nothing, and differs by machine."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(rows)

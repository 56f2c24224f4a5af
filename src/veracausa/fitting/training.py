"""Training of TopK dictionaries: sparse autoencoders, and transcoders from one site to another.

With u = c (x − mean x) and v = c′ (y − mean y), c and c′ such that the mean square of a coordinate is 1:

    f = the k largest of ReLU(u W + b),   v̂ = f D + b′,   loss = mean w ‖v − v̂‖² + AUX · the same of the dead ones

(2406.04093). Rows of D have norm 1 after every step. Features that have been silent for `SILENT` tokens predict what
the others leave over, so that they come back to life. Scales and means are folded into the dictionary at the end.

Some tokens, the first of a text above all, have a norm like no other's in many models. Means and scales are those of
all others, and w counts them by their relative error: w = min(1, TALL · median ‖v‖² / ‖v‖²).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.dictionaries import Dictionary, Encoder, Site
from veracausa.errors import MethodError
from veracausa.fitting.sites import activations, prompts_of
from veracausa.loading.dictionaries.adapting import require_site
from veracausa.model import Model
from veracausa.progress import progress
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from jaxtyping import Float

#: Weight of what the dead features predict; tokens without a feature after which it counts as dead.
AUX, SILENT = 1 / 32, 10_000
#: Squared norm, in medians, above which a token is one of those that count by their relative error.
TALL = 16.0


def train(
    lm: Model,
    texts: Task | Sequence[str | Sequence[int]],
    site: str,
    *,
    writes: str | None = None,
    features: int = 1024,
    k: int = 32,
    steps: int = 1000,
    rows: int = 512,
    rate: float = 1e-3,
    seed: int = 0,
    name: str = "",
    show_progress: bool = True,
) -> Dictionary:
    """A TopK dictionary of a site, trained on the activations of texts; with `writes` a transcoder between two.

    Seeded; on one machine with one thread every run gives the same.

    Args:
        lm: the model.
        texts: a task (its prompts), texts (cut at 128 tokens), or token ids.
        site: where it reads, such as "r10"; of a transcoder "n10", with writes="m10".
        writes: where it writes, if elsewhere.
        features: how many.
        k: how many are active at a token.
        steps: steps of Adam, of `rows` tokens each.
        rows: tokens of a step.
        rate: the learning rate, which falls to 0 over the last fifth.
        seed: of the start and of the order of tokens.
        name: of the dictionary.
        show_progress: draw a bar.

    Raises:
        MethodError: the model has no such site, or a number makes no sense.

    >>> dic = vc.fitting.train(lm, texts, "r10", features=1024, k=32)
    """
    reads, target = Site.of(site), Site.of(site if writes is None else writes)
    for one in (reads, target):
        require_site(lm, one)
    sites = list(dict.fromkeys((reads, target)))
    found = activations(lm, prompts_of(lm, texts), sites)
    plan = Plan(features, k, steps, rows, rate, seed)
    dic = trained(found[reads], found[target], plan, site=site, writes=writes, show_progress=show_progress)
    return dic.named(name)


@dataclass(frozen=True)
class Plan:
    """How a dictionary is trained; see `train`.

    Raises:
        MethodError: a number makes no sense.
    """

    features: int = 1024
    k: int = 32
    steps: int = 1000
    rows: int = 512
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.features or self.steps < 1 or self.rows < 1 or not self.rate > 0:
            raise MethodError(
                f"features={self.features}, k={self.k}, steps={self.steps}, rows={self.rows}, rate={self.rate}: k is "
                "1 … features, and all others are above 0."
            )


@torch.enable_grad()
def trained(
    x: Float[Tensor, "tokens read"],
    y: Float[Tensor, "tokens written"],
    plan: Plan,
    *,
    site: str,
    writes: str | None = None,
    show_progress: bool = False,
) -> Dictionary:
    """A dictionary trained on activations that are there already: x at `site`, y at `writes`, token by token."""
    generator = torch.Generator().manual_seed(plan.seed)
    into, out = Scaling.of(x), Scaling.of(y)
    decoder = torch.randn(plan.features, y.shape[1], generator=generator).to(x)
    decoder /= decoder.norm(dim=-1, keepdim=True)
    same = x.shape[1] == y.shape[1]
    start = decoder.T.clone() if same else torch.randn(x.shape[1], plan.features, generator=generator).to(x) / 20
    weights = [start, x.new_zeros(plan.features), decoder, y.new_zeros(y.shape[1])]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, lr=plan.rate, betas=(0.9, 0.999))
    silent = torch.zeros(plan.features, dtype=torch.long, device=x.device)
    with progress(f"training {plan.features:,} features", plan.steps, show_progress) as tick:
        order = torch.randperm(len(x), generator=generator)
        for step in range(plan.steps):
            at = torch.arange(step * plan.rows, (step + 1) * plan.rows) % len(x)
            if int(at[0]) < plan.rows:
                order = torch.randperm(len(x), generator=generator)
            chosen = order[at].to(x.device)
            loss, active = _loss(into(x[chosen]), out(y[chosen]), weights, plan.k, silent > SILENT)
            optimizer.param_groups[0]["lr"] = plan.rate * min(1.0, (step + 1) / 50, 5 * (1 - step / plan.steps))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                decoder /= decoder.norm(dim=-1, keepdim=True)
                silent += len(chosen)
                silent[active] = 0
            tick(1)
    weight, bias, rows, offset = (one.detach() for one in weights)
    encoder = Encoder(weight * into.scale, bias, "topk", before=into.mean, k=plan.k)
    return Dictionary.of(encoder, rows / out.scale, offset / out.scale + out.mean, site=site, writes=writes)


@dataclass(frozen=True)
class Scaling:
    """u = scale · (x − mean)."""

    mean: Float[Tensor, " width"]
    scale: float

    @classmethod
    def of(cls, x: Float[Tensor, "tokens width"]) -> Scaling:
        """So that the mean square of a coordinate is 1; without tokens of very large norm."""
        squares = (x - x.median(0).values).square().sum(-1)
        usual = x[squares <= TALL * squares.median()]
        mean = usual.mean(0)
        return cls(mean, float((usual - mean).square().mean()) ** -0.5)

    def __call__(self, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        """u."""
        return (x - self.mean) * self.scale


def _loss(
    u: Float[Tensor, "rows read"], v: Float[Tensor, "rows written"], weights: list[Tensor], k: int, dead: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of some tokens, and which features were active."""
    weight, bias, decoder, offset = weights
    pre = u @ weight + bias
    kept, where = pre.topk(k, dim=-1, sorted=False)
    f = torch.zeros_like(pre).scatter(-1, where, kept.relu())
    left = v - f @ decoder - offset
    each = v.square().mean(-1, keepdim=True)  # of a usual token 1
    weight_of = (TALL / each).clamp(max=1)
    loss = (weight_of * left.square()).mean()
    if count := int(dead.sum()):
        most = min(count, v.shape[1] // 2)
        kept, where = pre.masked_fill(~dead, -torch.inf).topk(most, dim=-1, sorted=False)
        revived = torch.zeros_like(pre).scatter(-1, where, kept.relu())
        rest = left.detach()
        loss = loss + AUX * (weight_of * (rest - revived @ decoder).square()).mean()
    return loss, (f.detach() > 0).any(0)

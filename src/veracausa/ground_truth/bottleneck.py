"""Superposition seen from the weights: a map whose known parts are more than its rank.

    prompt:  f3.1 f17.2 f8.1 f20.3 read      (feature 3 of strength 1, feature 17 of strength 2, …)

Features go through a bottleneck that has fewer dimensions than there are features, and out again (the toy model of
2209.10652 as a block of a decoder): neurons of block 0 hold the strengths f, `m0.down` writes h = Σ_c f_c w_c, unit
vectors w_c far apart as `superposed` makes them, and block 1 reads logit_c = relu(w_c · h − θ) with θ = ½ against
interference. So `m0.down` = Σ_c w_c e_cᵀ has a part for every feature, none of them a singular direction of it.
Removing part c does to the metric what the formula says with f_c = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from veracausa.errors import MethodError
from veracausa.ground_truth.by_hand import KnownParts, Prompts, Written, generator, model_named, model_of, rotation
from veracausa.ground_truth.superposed import ACTIVE, STRENGTHS, spread
from veracausa.model import Model
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

#: What a feature must have for its logit to be over 0.
_THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class Bottleneck(KnownParts):
    """The true parts of `load_bottleneck`. `directions`: w_c, [features, bottleneck]."""

    directions: Float[Tensor, "features bottleneck"]

    @property
    def features(self) -> int:
        """How many there are."""
        return len(self.directions)

    def codes(self, prompts: Prompts) -> Float[Tensor, "prompts parts"]:
        """The strength of every feature in each prompt."""
        ids = torch.tensor(prompts)[:, :-1]
        found = torch.zeros(len(ids), self.features).to(self.directions)
        return found.scatter_add_(1, ids // STRENGTHS, (ids % STRENGTHS + 1).to(found))

    def logits(self, prompts: Prompts, codes: Float[Tensor, "prompts parts"]) -> Float[Tensor, "prompts tokens"]:
        """Every token of a feature has the feature's logit; `read` has 0."""
        found = (codes @ self.directions @ self.directions.T - _THRESHOLD).relu()
        return torch.cat([found.repeat_interleave(STRENGTHS, 1), torch.zeros_like(found[:, :1])], 1)

    def task(self, n: int | None = None, *, seed: int = 0) -> Task:
        """32 pairs, or `n`, that differ in one feature of strength 1: M = logit of the clean one − of the other."""
        g = generator(seed)
        clean: list[tuple[int, ...]] = []
        corrupted, right, wrong = list(clean), list(clean), list(clean)
        for _ in range(32 if n is None else n):
            a, b, *others = torch.rand(self.features, generator=g).topk(ACTIVE + 1).indices.tolist()
            rest = [i * STRENGTHS + int(torch.randint(STRENGTHS, (1,), generator=g)) for i in others]
            for side, one, answers in ((clean, a, right), (corrupted, b, wrong)):
                side.append((one * STRENGTHS, *rest, self.features * STRENGTHS))
                answers.append((one * STRENGTHS,))
        return Task("bottleneck", tuple(clean), tuple(corrupted), tuple(right), tuple(wrong))


def load_bottleneck(
    features: int = 24, width: int = 12, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Model, Bottleneck]:
    """A Llama whose `m0.down` has a known part for every feature, more than its rank.

    Args:
        features: how many.
        width: dimensions of the bottleneck.
        seed: of the directions and of what turns the stream.
        dtype: precision of the weights: float32 or float64.

    Raises:
        MethodError: a size is too small, or another precision.

    >>> lm, truth = vc.ground_truth.load_bottleneck()
    >>> truth.effects(truth.task(), [[c] for c in range(truth.features)])
    """
    if width < 2 or features < ACTIVE + 1:
        raise MethodError(f"features={features}, width={width}: at least {ACTIVE + 1} features and a width of 2.")
    rows = spread(features, width, seed).double()
    places = features + 1 + width + features  # strengths, one, bottleneck, logits
    places += places % 2
    turn, eye = rotation(places, seed + 1), torch.eye(places, dtype=torch.float64)
    held, one, narrow = eye[:features], eye[features], eye[features + 1 : features + 1 + width]
    out = eye[features + 1 + width : features + 1 + width + features]
    embedding = torch.cat([(held[:, None] * torch.arange(1, STRENGTHS + 1)[:, None]).flatten(0, 1), eye[:1] * 0])
    unembedding = torch.cat([out.repeat_interleave(STRENGTHS, 0), eye[:1] * 0])
    strengths = (one.expand(features, -1), held, narrow.T @ rows.T)
    answers = (rows @ narrow - _THRESHOLD * one, one.expand(features, -1), out.T)
    size = features + features % 2
    written = Written(
        embedding + one, unembedding, torch.cat([held, eye[:1].expand(size - features, -1) * 0]),
        (ACTIVE + 1) * torch.cat([held, eye[:1].expand(size - features, -1) * 0]).T, 1, (strengths, answers),
    )  # fmt: skip
    names = tuple(f"f{i}" for i in range(features))
    right = torch.eye(features, dtype=dtype)
    truth = Bottleneck("m0.down", names, (turn @ narrow.T @ rows.T).to(dtype), right, rows.to(dtype))
    told = f"{features} features through {width} dimensions, seed {seed}"
    return model_named(model_of(written, turn, dtype), "bottleneck", told, truth.task(2)), truth

"""A model whose features are known: more of them than the stream is wide, each with a direction of its own.

    prompt:  f3.1 f17.2 f8.1 f20.3 read      (feature 3 of strength 1, feature 17 of strength 2, …)

The stream entering block 1 is Σᵢ fᵢ wᵢ at every position (compressed features, "superposition"; 2209.10652): token
f3.2 is embedded as 2 · w₃, and one head that looks at all positions alike adds up what they hold. At `read`, whose own
embedding is 0, fᵢ is the strength of feature i in the prompt; at a feature's own position it counts twice. Logits are
wᵢ · stream times the strength of the token, so that what a feature does to the metric is known, too:
−fᵢ wᵢ · (w_a − w_b) where it is removed and M = logit a − logit b.

The wᵢ are unit vectors whose largest |cosine| was made small by descent: with 24 of them in 12 dimensions about 0.35,
which no feature can see in itself, and which is what a sparse dictionary has to find its way around.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from veracausa.anatomy import decoder_of
from veracausa.dictionaries import Dictionary, Encoder, Site
from veracausa.errors import MethodError
from veracausa.fitting.sites import activations
from veracausa.ground_truth.compiled import CompiledConfig, CompiledForCausalLM
from veracausa.model import Model
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

#: Features that are active in a prompt, and strengths that one can have.
ACTIVE, STRENGTHS = 4, 3
#: Where the features are.
SITE = "r1"


@dataclass(frozen=True, eq=False)
class Superposition:
    """The true features. `directions`: wᵢ, [features, width]."""

    directions: Float[Tensor, "features width"]

    @property
    def features(self) -> int:
        """How many there are."""
        return len(self.directions)

    @property
    def read(self) -> int:
        """The token that reads."""
        return self.features * STRENGTHS

    @property
    def interference(self) -> float:
        """The largest |cosine| of two directions."""
        cosines = self.directions @ self.directions.T
        return float((cosines - torch.eye(self.features).to(cosines)).abs().max())

    def prompts(self, n: int, *, seed: int = 0) -> list[tuple[int, ...]]:
        """Random prompts: four different features of random strengths, then `read`."""
        g = torch.Generator().manual_seed(seed)
        which = torch.rand(n, self.features, generator=g).topk(ACTIVE).indices
        tokens = which * STRENGTHS + torch.randint(STRENGTHS, which.shape, generator=g)
        return [(*row, self.read) for row in tokens.tolist()]

    def values(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "prompts positions features"]:
        """The true f at every position of the stream entering block 1."""
        ids = torch.tensor(prompts)
        own = torch.zeros(*ids.shape, self.features + 1).to(self.directions)
        own.scatter_(-1, (ids // STRENGTHS)[..., None], (ids % STRENGTHS + 1).to(own)[..., None])
        own = own[..., :-1]  # the last one is `read`
        return own + own.sum(1, keepdim=True)

    def interactions(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "features features"]:
        """True strengths of the stream entering block 0 on that entering block 1, [readers, sources].

        √ mean over prompts and positions of J², where a feature is taken out of all positions of the earlier stream:
        it takes itself out of the later one, and nothing else.
        """
        return (self.values(prompts) ** 2).mean((0, 1)).sqrt().diag()

    def before(self) -> Dictionary:
        """The true features of the stream entering block 0, where a position holds one: with nothing left over."""
        rows = self.directions
        return Dictionary.of(Encoder(rows.T.clone(), rows.new_zeros(len(rows)), "topk", k=1), rows, site="r0")

    def task(self, n: int = 32, *, seed: int = 0) -> Task:
        """Pairs that differ in one feature of strength 1: M = logit of the clean one − logit of the corrupted one."""
        g = torch.Generator().manual_seed(seed)
        clean: list[tuple[int, ...]] = []
        corrupted, right, wrong = list(clean), list(clean), list(clean)
        for _ in range(n):
            a, b, *others = torch.rand(self.features, generator=g).topk(ACTIVE + 1).indices.tolist()
            rest = [i * STRENGTHS + int(torch.randint(STRENGTHS, (1,), generator=g)) for i in others]
            for side, one, answers in ((clean, a, right), (corrupted, b, wrong)):
                side.append((one * STRENGTHS, *rest, self.read))
                answers.append((one * STRENGTHS,))
        return Task("superposed", tuple(clean), tuple(corrupted), tuple(right), tuple(wrong))

    def dictionary(self) -> Dictionary:
        """The true directions as rows of a decoder, with f = x · wᵢ, which others' interference is in."""
        rows = self.directions
        return Dictionary.of(Encoder(rows.T.clone(), rows.new_zeros(len(rows)), "linear"), rows, site=SITE)


def load_superposed(
    features: int = 24, width: int = 12, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Model, Superposition]:
    """A model of one layer of features in superposition, and its true features.

    Args:
        features: how many.
        width: of the stream.
        seed: of the directions.
        dtype: precision of the weights.

    Raises:
        MethodError: a size is too small.

    >>> lm, truth = vc.ground_truth.load_superposed()
    >>> dic = vc.fitting.train(lm, truth.prompts(4000), "r1", features=32, k=5, steps=1500, rate=5e-3)
    >>> vc.ground_truth.features_found(lm, dic, truth)
    """
    if width < 2 or features < ACTIVE + 1:
        raise MethodError(f"features={features}, width={width}: at least {ACTIVE + 1} features and a width of 2.")
    rows = spread(features, width, seed)
    strengths = torch.arange(1, STRENGTHS + 1)[None, :, None]
    tokens = torch.cat([(rows[:, None] * strengths).flatten(0, 1), torch.zeros(1, width)])
    length = ACTIVE + 1
    config = CompiledConfig(
        vocab_size=len(tokens), outputs=len(tokens), hidden_size=width, intermediate_size=1, num_hidden_layers=2,
        num_attention_heads=1, head_dim=width,
    )  # fmt: skip
    hf = CompiledForCausalLM(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        hf.model.embed_tokens.weight.copy_(tokens)
        hf.lm_head.weight.copy_(tokens)
        first = hf.model.layers[0].self_attn
        first.v_proj.weight.copy_(torch.eye(width))
        first.o_proj.weight.copy_(length * torch.eye(width))  # the mean of all positions, times how many there are
    hf = hf.eval().to(dtype=dtype)
    truth = Superposition(rows.to(dtype))
    source = f"{features} features in {width} dimensions, seed {seed}, {str(dtype).removeprefix('torch.')}"
    return Model(hf, None, "superposed", source, decoder_of(hf), probe=truth.task(2)), truth


@torch.enable_grad()
def spread(features: int, width: int, seed: int) -> Float[Tensor, "features width"]:
    """Unit vectors that descent has moved apart: Σ cosine⁶ over pairs, 500 steps."""
    rows = torch.randn(features, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows.requires_grad_(True)
    optimizer = torch.optim.Adam([rows], lr=0.02)
    off = 1 - torch.eye(features, dtype=torch.float64)
    for _ in range(500):
        unit = normalize(rows, dim=-1)
        loss = ((unit @ unit.T * off) ** 6).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return normalize(rows.detach(), dim=-1).float()


@dataclass(frozen=True, eq=False)
class FeaturesFound:
    """True features and the dictionary's nearest, feature by feature (`features_found`).

    `nearest`: the dictionary's feature whose row has the largest cosine with the true direction; `cosine`: that;
    `correlation`: of its activations with the true values, over tokens.

    >>> vc.ground_truth.features_found(lm, dic, truth).mean_cosine
    """

    nearest: tuple[int, ...]
    cosine: tuple[float, ...]
    correlation: tuple[float, ...]
    tokens: int

    @property
    def mean_cosine(self) -> float:
        """The mean of the largest cosines."""
        return sum(self.cosine) / len(self.cosine)

    @property
    def found(self) -> float:
        """Share of the true features with a cosine of 0.9 or more, each by a feature of its own."""
        own = {which for which, cosine in zip(self.nearest, self.cosine, strict=True) if cosine >= 0.9}
        return len(own) / len(self.cosine)

    def table(self) -> pd.DataFrame:
        """One row a true feature."""
        import pandas as pd

        columns = {"feature": range(len(self.cosine)), "nearest": self.nearest, "cosine": self.cosine,
                   "correlation": self.correlation}  # fmt: skip
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        mean = sum(self.correlation) / len(self.correlation)
        return (
            f"{self.found:.0%} of {len(self.cosine)} true features found (mean largest cosine {self.mean_cosine:.3f}; "
            f"mean correlation of activations {mean:.3f} over {self.tokens:,} tokens)"
        )


def features_found(lm: Model, dic: Dictionary, truth: Superposition, *, n: int = 500, seed: int = 1) -> FeaturesFound:
    """How well a dictionary has found the true features, on prompts that it was not trained on.

    Args:
        lm: the model of `load_superposed`.
        dic: a dictionary at "r1".
        truth: the true features.
        n: prompts.
        seed: of the prompts.

    Raises:
        MethodError: the dictionary is of another site.

    >>> vc.ground_truth.features_found(lm, dic, truth).found
    """
    if dic.writes != Site.of(SITE) or dic.transcodes:
        raise MethodError(f"The true features are at {SITE}, but this dictionary is of {dic.reads.name}.")
    prompts = truth.prompts(n, seed=seed)
    f = dic.encode(activations(lm, prompts, [dic.reads])[dic.reads].to(dic.weight.dtype)).double()
    true = truth.values(prompts).flatten(0, 1).to(f)
    cosine, nearest = (normalize(truth.directions.to(dic.weight), dim=-1) @ normalize(dic.weight, dim=-1).T).max(-1)
    correlation = tuple(_correlation(true[:, i], f[:, at]) for i, at in enumerate(nearest.tolist()))
    return FeaturesFound(tuple(nearest.tolist()), tuple(cosine.tolist()), correlation, len(f))


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else 0.0

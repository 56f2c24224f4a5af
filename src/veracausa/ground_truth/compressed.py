"""Compressed computation: a trained MLP that computes more functions than it has neurons (2501.14926, section 3.3).

    prompt:  x3=1 x17=−½ x8=−1 read          y_i = x_i + relu(x_i), for each of 32 numbers, by 16 neurons

`scripts/train_compressed.py` trained y = x + B relu(A x) on sparse x; what came out is ¾ of each relu, by about five
neurons each. Here x is gathered into the stream, A is `m0.gate`
(its up branch is 1), B is `m0.down`, and logit_i = y_i. The parts of `m0.gate` are the 32 rank-one maps a_i e_iᵀ that
read one number each: without part i the MLP runs as if x_i were 0, while the skip still has it. That is exact, whatever
the neurons do; which neurons do it is spread, so no neuron is a part. Parts interact through the neurons they share.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load

from veracausa.ground_truth.by_hand import KnownParts, Prompts, Written, generator, model_named, model_of, rotation
from veracausa.model import Model
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

#: What a number can be.
VALUES = (-1.0, -0.5, 0.5, 1.0)
#: Numbers in a prompt that are not 0.
ACTIVE = 3


@dataclass(frozen=True, eq=False)
class Compressed(KnownParts):
    """The true parts of `load_compressed`. `inward`, `outward`: A [neurons, numbers] and B [numbers, neurons]."""

    inward: Float[Tensor, "neurons numbers"]
    outward: Float[Tensor, "numbers neurons"]

    @property
    def numbers(self) -> int:
        """How many functions are computed."""
        return self.inward.shape[1]

    def codes(self, prompts: Prompts) -> Float[Tensor, "prompts parts"]:
        """x of each prompt."""
        ids = torch.tensor(prompts)[:, :-1]
        found = torch.zeros(len(ids), self.numbers).to(self.inward)
        return found.scatter_add_(1, ids // len(VALUES), torch.tensor(VALUES).to(found)[ids % len(VALUES)])

    def logits(self, prompts: Prompts, codes: Float[Tensor, "prompts parts"]) -> Float[Tensor, "prompts tokens"]:
        """y, with these codes in the MLP's place of x; every token of a number has its logit, `read` has 0."""
        found = self.codes(prompts) + (codes @ self.inward.T).relu() @ self.outward.T
        return torch.cat([found.repeat_interleave(len(VALUES), 1), torch.zeros_like(found[:, :1])], 1)

    def task(self, n: int | None = None, *, seed: int = 0) -> Task:
        """32 pairs, or `n`, that differ in which number is 1: M = y of the clean one − y of the other."""
        g = generator(seed)
        clean: list[tuple[int, ...]] = []
        corrupted, right, wrong = list(clean), list(clean), list(clean)
        for _ in range(32 if n is None else n):
            a, b, *others = torch.rand(self.numbers, generator=g).topk(ACTIVE + 1).indices.tolist()
            rest = [i * len(VALUES) + int(torch.randint(len(VALUES), (1,), generator=g)) for i in others]
            for side, one, answers in ((clean, a, right), (corrupted, b, wrong)):
                side.append((one * len(VALUES) + len(VALUES) - 1, *rest, self.numbers * len(VALUES)))
                answers.append((one * len(VALUES) + len(VALUES) - 1,))
        return Task("compressed", tuple(clean), tuple(corrupted), tuple(right), tuple(wrong))


def load_compressed(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Model, Compressed]:
    """A Llama whose first MLP computes 32 functions by 16 neurons, as it was trained to.

    Args:
        seed: of what turns the stream.
        dtype: precision of the weights: float32 or float64.

    Raises:
        MethodError: another precision.

    >>> lm, truth = vc.ground_truth.load_compressed()
    >>> truth.effects(truth.task(), [[c] for c in range(truth.numbers)])
    """
    stored = load((files("veracausa.ground_truth") / "data" / "compressed.safetensors").read_bytes())
    inward, outward = stored["inward"].double(), stored["outward"].double()
    count = inward.shape[1]
    places = 2 * count + 2  # numbers, one, results
    turn, eye = rotation(places, seed), torch.eye(places, dtype=torch.float64)
    held, one, out = eye[:count], eye[count], eye[count + 1 : 2 * count + 1]
    embedding = torch.cat([(held[:, None] * torch.tensor(VALUES)[:, None]).flatten(0, 1), eye[:1] * 0]) + one
    unembedding = torch.cat([(held + out).repeat_interleave(len(VALUES), 0), eye[:1] * 0])
    functions = (inward @ held, one.expand(len(inward), -1), out.T @ outward)
    written = Written(embedding, unembedding, held, (ACTIVE + 1) * held.T, 1, (functions,))
    names = tuple(f"x{i}" for i in range(count))
    parts = (inward.to(dtype), (held @ turn.T).to(dtype))
    truth = Compressed("m0.gate", names, *parts, inward.to(dtype), outward.to(dtype))
    told = f"{count} functions by {len(inward)} trained neurons, seed {seed}"
    return model_named(model_of(written, turn, dtype), "compressed", told, truth.task(2)), truth

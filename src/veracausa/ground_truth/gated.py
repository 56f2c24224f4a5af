"""A model of ten known parts of one map, of which each prompt uses two: where gradients and ablations part.

    prompt:  mode x y read        mode: one of five; x, y: numbers 0, 1, 2

`m0.down` has ten parts of rank 1. Part (mode, x) holds x where the prompt has that mode, else 0, and so does (mode, y).
What the rest of the model makes of the two numbers is another function in each mode, logit(yes) − logit(no) =

    sum         x + y                           all methods agree, singles add up
    or          min(1, x + y)                   redundant: single effects and gradients are 0, both together are not
    and         relu(x + y − 3/2)               needed together: singles sum to more than both, gradients overshoot
    saturated   min(1, 2x) + min(1, 2y)         gradients are 0, effects are not; singles add up
    cancel      x − y                           singles of opposite signs, together x − y: nothing where x = y

The parts of the heads' value-output maps are known, too: `a0.h0` copies each of the five modes, `a0.h1` copies x and y.
Neurons of block 0 mix the modes: neuron i holds Σ_w G_iw [mode = w] x with positive random G, so no neuron is a part,
and parts are told by the pseudo-inverse of G.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.errors import MethodError, TaskError
from veracausa.ground_truth.by_hand import KnownParts, Prompts, Written, generator, model_named, model_of, rotation
from veracausa.model import Model
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from jaxtyping import Float

#: The modes, in the order of the parts.
MODES = ("sum", "or", "and", "saturated", "cancel")
#: Numbers that x and y can be.
_NUMBERS = 3
_READ, _YES, _NO = 11, 12, 13
WORDS = (*MODES, "x0", "x1", "x2", "y0", "y1", "y2", "read", "yes", "no")
#: Neurons that hold x, and as many that hold y.
_MIXED = 8
_LENGTH = 4
#: Places of the stream before it is turned: modes, x, y, one, the ten codes, the answer.
_X, _Y, _ONE, _CODE, _OUT, _WIDTH = 5, 6, 7, 8, 18, 20


@dataclass(frozen=True, eq=False)
class Gated(KnownParts):
    """The true parts of `load_gated`; `heads`: factors of "a0.h0" and "a0.h1" as (left, right), part by part.

    `head_names`: what each of these copies.
    """

    heads: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    head_names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def codes(self, prompts: Prompts) -> Float[Tensor, "prompts parts"]:
        """x, y of the mode's own two parts, 0 of the others."""
        found = torch.zeros(len(prompts), len(MODES), 2).to(self.left)
        for i, (mode, x, y, _) in enumerate(prompts):
            found[i, mode] = torch.tensor([x - len(MODES), y - len(MODES) - _NUMBERS])
        return found.flatten(1)

    def logits(self, prompts: Prompts, codes: Float[Tensor, "prompts parts"]) -> Float[Tensor, "prompts tokens"]:
        """All but that of "yes" are 0."""
        x, y = codes.unflatten(1, (-1, 2)).unbind(-1)
        either, both, saturated = x[:, 1] + y[:, 1], x[:, 2] + y[:, 2], torch.stack([x[:, 3], y[:, 3]]) * 2
        yes = x[:, 0] + y[:, 0] + either - (either - 1).relu() + (both - 1.5).relu()
        yes = yes + (saturated - (saturated - 1).relu()).sum(0) + x[:, 4] - y[:, 4]
        found = yes.new_zeros(len(yes), len(WORDS))
        found[:, _YES] = yes
        return found

    def task(self, n: int | None = None, *, modes: Sequence[str] = MODES, seed: int = 0) -> Task:
        """Pairs whose corrupted prompts have 0 in the place of both numbers; all of them, or `n` drawn.

        `modes`: those that prompts have. Raises TaskError if there are not so many pairs, MethodError for other modes.
        """
        if unknown := [mode for mode in modes if mode not in MODES]:
            raise MethodError(f"{unknown[0]!r} is no mode. Known: {', '.join(MODES)}.")
        numbers = [(x, y) for x in range(1, _NUMBERS) for y in range(1, _NUMBERS)]
        every = [(MODES.index(mode), len(MODES) + x, len(MODES) + _NUMBERS + y) for mode in modes for x, y in numbers]
        if n is not None and not 0 < n <= len(every):
            raise TaskError(f"There are {len(every)} pairs of these modes, so n={n} cannot be drawn.")
        chosen = every if n is None else random.Random(seed).sample(every, n)
        clean = tuple((*one, _READ) for one in chosen)
        corrupted = tuple((mode, len(MODES), len(MODES) + _NUMBERS, _READ) for mode, _, _ in chosen)
        texts = (tuple(" ".join(WORDS[token] for token in one) for one in side) for side in (clean, corrupted))
        clean_text, corrupted_text = texts
        answers = (((_YES,),) * len(clean), ((_NO,),) * len(clean))
        return Task("gated", clean, corrupted, *answers, clean_text=clean_text, corrupted_text=corrupted_text)


def load_gated(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Model, Gated]:
    """A Llama whose `m0.down` has ten known parts, and what any share of each does; see the module.

    Args:
        seed: of what mixes the neurons and turns the stream.
        dtype: precision of the weights: float32 or float64.

    Raises:
        MethodError: another precision.

    >>> lm, truth = vc.ground_truth.load_gated()
    >>> truth.effects(truth.task(modes=["or"]), [[2], [3], [2, 3]]).mean(0)    # 0, 0, −1
    """
    mix = torch.rand(2, _MIXED, len(MODES), generator=generator(seed), dtype=torch.float64) + 0.1
    turn, eye = rotation(_WIDTH, seed + 1), torch.eye(_WIDTH, dtype=torch.float64)
    left, right = _parts(mix)
    values, outputs, heads = _copies(turn, seed + 2)
    mlps = (_holds(mix, left @ right), _answers())
    hf = model_of(Written(_embedding(), _unembedding(), values, outputs, 2, mlps), turn, dtype)
    names = tuple(f"{mode}.{number}" for mode in MODES for number in "xy")
    told = {"a0.h0": MODES, "a0.h1": ("x", "y")}
    factors = {name: (own.to(dtype), other.to(dtype)) for name, (own, other) in heads.items()}
    truth = Gated("m0.down", names, (turn @ eye[:, _CODE:_OUT]).to(dtype), right.to(dtype), factors, told)
    return model_named(hf, "gated", f"ten gated parts, seed {seed}", truth.task(2)), truth


def _strengths() -> Float[Tensor, " modes"]:
    """How much less than 1 a mode's token holds, which its copy makes up for: no two parts are equally large."""
    return 1 + torch.arange(len(MODES), dtype=torch.float64) / 4


def _embedding() -> Float[Tensor, "tokens width"]:
    rows = torch.zeros(len(WORDS), _WIDTH, dtype=torch.float64)
    rows[:, _ONE] = 1
    rows[range(len(MODES)), range(len(MODES))] = 1 / _strengths()
    for number in range(_NUMBERS):
        rows[len(MODES) + number, _X] = rows[len(MODES) + _NUMBERS + number, _Y] = number
    return rows


def _unembedding() -> Float[Tensor, "tokens width"]:
    """What is linear in the codes, and the answer's own place."""
    rows = torch.zeros(len(WORDS), _WIDTH, dtype=torch.float64)
    linear = torch.tensor([[1, 1], [1, 1], [0, 0], [2, 2], [1, -1]], dtype=torch.float64)
    rows[_YES, _CODE:_OUT], rows[_YES, _OUT] = linear.flatten(), 1
    return rows


def _parts(mix: Float[Tensor, "2 mixed modes"]) -> tuple[Float[Tensor, "width 10"], Float[Tensor, "10 neurons"]]:
    """Where each code is written, and how it is told from the neurons."""
    left = torch.zeros(_WIDTH, 2 * len(MODES), dtype=torch.float64)
    left[_CODE:_OUT] = torch.eye(2 * len(MODES), dtype=torch.float64)
    told = torch.linalg.pinv(mix)  # [2, modes, mixed]
    right = torch.zeros(len(MODES), 2, 2, _MIXED, dtype=torch.float64)
    right[:, 0, 0], right[:, 1, 1] = told[0], told[1]
    return left, right.flatten(2).flatten(0, 1)


def _copies(turn: Tensor, seed: int) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The heads' value and output maps, and the parts of their products, in the turned stream."""
    size, strengths = _MIXED, _strengths()
    values, outputs = torch.zeros(2 * size, _WIDTH).double(), torch.zeros(_WIDTH, 2 * size).double()
    heads: dict[str, tuple[Tensor, Tensor]] = {}
    for head, places in enumerate((range(len(MODES)), (_X, _Y))):
        basis = rotation(size, seed + head)[:, : len(places)]
        gain = _LENGTH * (strengths if head == 0 else torch.ones(len(places)).double())
        own = torch.zeros(_WIDTH, len(places)).double()
        own[list(places), range(len(places))] = 1
        values[head * size : (head + 1) * size] = basis @ own.T
        outputs[:, head * size : (head + 1) * size] = own * gain @ basis.T
        heads[f"a0.h{head}"] = turn @ (own * gain), own.T @ turn.T
    return values, outputs, heads


def _holds(mix: Float[Tensor, "2 mixed modes"], down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Block 0: neurons that hold mixtures of modes, times x or times y."""
    gate, up = torch.zeros(2, 2, _MIXED, _WIDTH, dtype=torch.float64)
    gate[:, :, : len(MODES)] = mix
    up[0, :, _X] = up[1, :, _Y] = 1
    return gate.flatten(0, 1), up.flatten(0, 1), down


def _answers() -> tuple[Tensor, Tensor, Tensor]:
    """Block 1: relu(x + y − 1) of "or", relu(x + y − 3/2) of "and", relu(2x − 1) and relu(2y − 1) of "saturated"."""
    gate, up, down = (torch.zeros(4, _WIDTH).double(), torch.zeros(4, _WIDTH).double(), torch.zeros(_WIDTH, 4).double())
    gate[0, _CODE + 2 : _CODE + 4] = gate[1, _CODE + 4 : _CODE + 6] = 1
    gate[2, _CODE + 6] = gate[3, _CODE + 7] = 2
    gate[:, _ONE] = -torch.tensor([1, 1.5, 1, 1])
    up[:, _ONE] = 1
    down[_OUT] = torch.tensor([-1, 1, -1, -1])
    return gate, up, down

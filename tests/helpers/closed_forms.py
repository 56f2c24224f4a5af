"""Llama models whose metric is a formula of what the first layer's heads write, so that every effect is known.

Prompts are two tokens long: a first one that all share, and one that says what the heads of layer 0 read. Each head
copies its number into a coordinate of its own, s_h; the two blocks compute M = f(s_0 … s_7), position by position,
with the real modules of a `LlamaForCausalLM` and weights set by hand:

    product    M = s_0 · s_1                          gated MLP of layer 0; SiLU(s) = s where s is large
    maximum    M = max(s_0, s_1) = s_1 + relu(s_0 − s_1)        MLP of layer 0 with gate relu; s_1 also goes straight
    softmax    M = 5 · σ(s_0)                          pattern of head a1.h0, saturated in the clean run
    backup     M = s_0 + 4 · σ(8 · (1.5 − s_0))        head a1.h0 attends only once s_0 is gone
    either     M = min(s_0 + s_1, 1)                   MLP of layer 0: one of the two is enough
    both       M = relu(s_0 + s_1 − 1)                 MLP of layer 0: one of the two is not enough

**Norms.** One coordinate holds C = 1e8 and every RMSNorm's weight is C/√width, so that it multiplies by
C/√(C² + |x|²) = 1 − |x|²/2C², which for |x| ≤ 100 is 1 − 5e-13. **Rotation**: transformers' cosines are float32, so
that a query and a key of one position meet with cos² + sin² = 1 ± 6e-8. The models follow the formulas to `CLOSE`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tiny_models
import torch
from bridges import as_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from veracausa.model import Model
from veracausa.tasks.task import Task

#: Agreement of the models with their formulas: the rotation's 6e-8, times scores of at most 40, times slopes of at most
#: 5 · ¼; without a softmax it is 1e-11.
CLOSE = 3e-6

C, HEADS, WIDTH, NEURONS = 1e8, 8, 32, 4
CONST, MARK, READ, WRITTEN, OUT = 0, 1, 2, 2 + HEADS, 2 + 2 * HEADS  # coordinates of the stream
FIRST, CORRECT, INCORRECT, PAIRS = 0, 1, 2, 3  # tokens


@dataclass(frozen=True)
class ClosedForm:
    """A model, a task whose pair i has the values `clean[i]`, `corrupted[i]` [pairs, heads], and the formula.

    `straight`: M if only the final stream changed: what is read off s itself. All effects are of noising.
    """

    lm: Model
    task: Task
    formula: Callable[[Tensor], Tensor]
    straight: Callable[[Tensor], Tensor]
    clean: Tensor
    corrupted: Tensor

    def value(self, moved: np.ndarray | list[float], to: Tensor | None = None) -> Tensor:
        """v(S) [pairs]: the effect of moving head h by the share `moved[h]` of its way to `to`."""
        share = torch.as_tensor(moved, dtype=torch.float64)
        new = self.clean + share * ((self.corrupted if to is None else to) - self.clean)
        return self.formula(new) - self.formula(self.clean)

    @property
    def exact(self) -> Tensor:
        """E [pairs, heads]."""
        return torch.stack([self.value(row) for row in np.eye(HEADS)], 1)

    @property
    def last_in(self) -> Tensor:
        """F [pairs, heads]."""
        every = np.ones(HEADS)
        return torch.stack([self.value(every) - self.value(every - row) for row in np.eye(HEADS)], 1)

    @property
    def direct(self) -> Tensor:
        """D [pairs, heads]."""
        before, changes = self.straight(self.clean), []
        for row in np.eye(HEADS):
            new = self.clean + torch.as_tensor(row) * (self.corrupted - self.clean)
            changes.append(self.straight(new) - before)
        return torch.stack(changes, 1)

    @property
    def atp(self) -> Tensor:
        """Slope at the clean run times difference [pairs, heads]."""
        return self._slope(self.clean) * (self.corrupted - self.clean)

    def ig(self, to: Tensor | None = None, nodes: int = 20000) -> Tensor:
        """Integrated gradients along the joint straight path, by the midpoint rule [pairs, heads]."""
        move = (self.corrupted if to is None else to) - self.clean
        alphas = (torch.arange(nodes, dtype=torch.float64)[:, None, None] + 0.5) / nodes
        return self._slope(self.clean + alphas * move).mean(0) * move

    @property
    def shapley(self) -> Tensor:
        """Shapley values by their definition, over the heads that move [pairs, heads]."""
        players = torch.nonzero((self.clean != self.corrupted).any(0)).flatten().tolist()
        values, count = torch.zeros_like(self.clean), math.factorial(len(players))
        for order in itertools.permutations(players):
            inside = np.zeros(HEADS)
            for head in order:
                before = self.value(inside)
                inside[head] = 1
                values[:, head] += (self.value(inside) - before) / count
        return values

    def _slope(self, at: Tensor) -> Tensor:
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(self.formula(leaf).sum(), leaf)[0]


def product() -> ClosedForm:
    """M = s_0 · s_1. Bilinear: no curvature, and the interaction is exactly ½(F − E)."""
    hf = _blank("silu")
    _neuron(hf, 0, gate={WRITTEN: 1}, up={WRITTEN + 1: 1}, down=1)
    values = _pairs([[50, 2], [60, 2.5], [55, 2.2]], [[40, 5], [45, 6], [41, 5]])
    return _form(hf, lambda s: s[..., 0] * s[..., 1], lambda s: 0 * s[..., 0], *values)


def maximum() -> ClosedForm:
    """M = max(s_0, s_1) with s_0 the larger in the clean run: s_1 stands by."""
    hf = _blank("relu")
    _neuron(hf, 0, gate={WRITTEN: 1, WRITTEN + 1: -1}, up={CONST: 1 / C}, down=1)
    _read(hf, {WRITTEN + 1: 1})
    values = _pairs([[3, 2], [3.5, 2.2], [3.2, 1.9]], [[0, 0.1], [0.3, 0.2], [0.1, 0.3]])
    return _form(hf, lambda s: torch.maximum(s[..., 0], s[..., 1]), lambda s: s[..., 1], *values)


def softmax() -> ClosedForm:
    """M = 5 · σ(s_0), σ(s_0) all but 1 in the clean run: the slope says nothing, the effect is large."""
    hf = _blank("silu")
    _attend(hf, {WRITTEN: 1}, 5)
    values = _pairs([[20], [22], [21]], [[-1], [-2], [-1.5]])
    return _form(hf, lambda s: 5 * s[..., 0].sigmoid(), lambda s: 0 * s[..., 0], *values)


def backup() -> ClosedForm:
    """M = s_0 + 4 · σ(8 · (1.5 − s_0)): a later head attends, and makes up for s_0, only once s_0 is gone."""
    hf = _blank("silu")
    _attend(hf, {WRITTEN: -8, MARK: 12}, 4)
    _read(hf, {WRITTEN: 1})
    values = _pairs([[6], [6.5], [5.5]], [[0], [0.2], [0.1]])
    return _form(hf, lambda s: s[..., 0] + 4 * (8 * (1.5 - s[..., 0])).sigmoid(), lambda s: s[..., 0], *values)


def either() -> ClosedForm:
    """M = min(s_0 + s_1, 1): redundancy. Neither matters while the other is there."""
    hf = _blank("relu")
    for sign, less in ((1, 0), (-1, 1)):
        _neuron(hf, less, gate={WRITTEN: 1, WRITTEN + 1: 1, CONST: -less / C}, up={CONST: 1 / C}, down=sign)
    values = _pairs([[1.4, 1.5], [1.5, 1.6], [1.3, 1.4]], [[0, 0], [0.1, 0.05], [0.05, 0.1]])
    return _form(hf, lambda s: (s[..., 0] + s[..., 1]).clamp(0, 1), lambda s: 0 * s[..., 0], *values)


def both() -> ClosedForm:
    """M = relu(s_0 + s_1 − 1): synergy. Without one of them the other does nothing."""
    hf = _blank("relu")
    _neuron(hf, 0, gate={WRITTEN: 1, WRITTEN + 1: 1, CONST: -1 / C}, up={CONST: 1 / C}, down=1)
    values = _pairs([[0.9, 0.8], [0.95, 0.9], [0.9, 0.9]], [[0, 0], [0.01, 0.05], [0.05, 0.02]])
    return _form(hf, lambda s: (s[..., 0] + s[..., 1] - 1).clamp_min(0), lambda s: 0 * s[..., 0], *values)


FORMS: dict[str, Callable[[], ClosedForm]] = {
    form.__name__: form for form in (product, maximum, softmax, backup, either, both)
}


# ---- building -----------------------------------------------------------------------------------------------------


def _blank(act: str) -> LlamaForCausalLM:
    """Two layers of eight heads that do nothing yet, but for layer 0's heads, which copy what they read."""
    config = LlamaConfig(
        vocab_size=16, hidden_size=WIDTH, intermediate_size=NEURONS, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, head_dim=2, hidden_act=act, max_position_embeddings=8, tie_word_embeddings=False,
        pad_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    hf = LlamaForCausalLM(config).eval().to(torch.float64)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            weight.fill_(C / math.sqrt(WIDTH) if "norm" in name else 0.0)
        attention = hf.model.layers[0].self_attn
        for head in range(HEADS):  # no query: it attends evenly to itself and the first token, which holds nothing
            attention.v_proj.weight[2 * head, READ + head] = 2
            attention.o_proj.weight[WRITTEN + head, 2 * head] = 1
        hf.lm_head.weight[CORRECT, OUT] = 1
    return tiny_models.compute_in_float64(hf)


@torch.no_grad()
def _neuron(hf: LlamaForCausalLM, neuron: int, *, gate: dict[int, float], up: dict[int, float], down: float) -> None:
    """A neuron of layer 0's MLP that adds down · act(gate) · up to the output coordinate."""
    mlp = hf.model.layers[0].mlp
    for module, reads in ((mlp.gate_proj, gate), (mlp.up_proj, up)):
        for coordinate, weight in reads.items():
            module.weight[neuron, coordinate] = weight
    mlp.down_proj.weight[OUT, neuron] = down


@torch.no_grad()
def _attend(hf: LlamaForCausalLM, score: dict[int, float], gives: float) -> None:
    """Head a1.h0 adds gives · σ(score): it attends to its own position by so much more than to the first token."""
    attention = hf.model.layers[1].self_attn
    attention.q_proj.weight[0, CONST] = math.sqrt(2) / C  # scores are divided by √head_dim
    for coordinate, weight in score.items():
        attention.k_proj.weight[0, coordinate] = weight
    attention.v_proj.weight[0, MARK] = 1  # the first token has no mark
    attention.o_proj.weight[OUT, 0] = gives


@torch.no_grad()
def _read(hf: LlamaForCausalLM, reads: dict[int, float]) -> None:
    """The logits read these coordinates, too."""
    for coordinate, weight in reads.items():
        hf.lm_head.weight[CORRECT, coordinate] = weight


def _pairs(clean: list[list[float]], corrupted: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Values of all heads of every pair; heads without a value read 0."""
    values = torch.zeros(2, len(clean), HEADS, dtype=torch.float64)
    values[0, :, : len(clean[0])], values[1, :, : len(clean[0])] = torch.tensor(clean), torch.tensor(corrupted)
    return values[0], values[1]


def _form(hf: LlamaForCausalLM, formula: Callable, straight: Callable, clean: Tensor, corrupted: Tensor) -> ClosedForm:
    """Embeddings that give each pair its values, and a task of all pairs."""
    with torch.no_grad():
        embed = hf.model.embed_tokens.weight
        embed[:, CONST] = C
        for i, row in enumerate(torch.stack([clean, corrupted], 1).flatten(0, 1)):
            embed[PAIRS + i, MARK] = 1
            embed[PAIRS + i, READ : READ + HEADS] = row
    n = len(clean)
    tokens = [tuple((FIRST, PAIRS + 2 * i + which) for i in range(n)) for which in (0, 1)]
    task = Task("closed form", *tokens, ((CORRECT,),) * n, ((INCORRECT,),) * n)
    return ClosedForm(as_model(hf, "llama"), task, formula, straight, clean, corrupted)

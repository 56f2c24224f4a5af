"""Llama decoders whose weights are set by hand, so that what every part of a map does is known in closed form.

Their norms do nothing: weight 10⁶ and ε = 10¹², so that 10⁶ x / √(mean x² + 10¹²) = x · (1 − mean x² / 2·10¹²) — x to
rounding, with Llama's own code. Attention looks at all positions alike (queries and keys are 0), and the factor T of
its output map makes a sum of a mean over the T tokens of a prompt. MLPs are relu(gate · x) · (up · x). All of this is
written in coordinates that are easy to read, and then the stream is turned by a random rotation, so that neither its
coordinates nor singular directions of the maps are the parts that were put in.

A model is described by the parts of one of its maps, W = Σ_c u_c v_cᵀ (`KnownParts`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from veracausa.anatomy import decoder_of
from veracausa.errors import MethodError
from veracausa.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.tasks.task import Task

#: Weight of the norms; the square of it is added under their root.
_SCALE = 1e6

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class KnownParts(ABC):
    """The true parts of one map of a model: W = Σ_c u_c v_cᵀ, and what the model does with any share of each.

    `map`: its name; `names`: of the parts; `left`, `right`: u_c [outputs, parts] and v_c [parts, inputs], in the
    model's own basis.

    >>> lm, truth = vc.ground_truth.load_gated()
    >>> truth.effects(truth.task(), [[0], [1], [0, 1]])   # M without part 0, without part 1, without both, less M
    """

    map: str
    names: tuple[str, ...]
    left: Float[Tensor, "outputs parts"]
    right: Float[Tensor, "parts inputs"]

    @property
    def factors(self) -> tuple[Float[Tensor, "parts outputs"], Float[Tensor, "inputs parts"]]:
        """U and V of `vc.components(lm, truth.map, factors=truth.factors)`, whose units are `m0.down.own0`, …"""
        return self.left.T.contiguous(), self.right.T.contiguous()

    @abstractmethod
    def codes(self, prompts: Prompts) -> Float[Tensor, "prompts parts"]:
        """v_cᵀ x of every part at each prompt's last position; other positions do not matter."""

    @abstractmethod
    def logits(self, prompts: Prompts, codes: Float[Tensor, "prompts parts"]) -> Float[Tensor, "prompts tokens"]:
        """The last position's logits, had the parts these codes."""

    @abstractmethod
    def task(self, n: int | None = None, *, seed: int = 0) -> Task:
        """Pairs on which the parts show."""

    def metric(self, task: Task, codes: Float[Tensor, "examples parts"]) -> Float[Tensor, " examples"]:
        """Logit of the correct token − that of the incorrect one on the clean prompts, had the parts these codes."""
        logits = self.logits(task.clean, codes)
        right, wrong = (torch.tensor([[one] for (one,) in side]) for side in (task.correct, task.incorrect))
        return (logits.gather(1, right) - logits.gather(1, wrong))[:, 0]

    def effects(self, task: Task, sets: Sequence[Sequence[int]], share: float = 0.0) -> Float[Tensor, "examples sets"]:
        """E of sets of parts, each scaled to a `share` of itself (0: removed): M then − M, on the clean prompts."""
        codes = self.codes(task.clean)
        start, found = self.metric(task, codes), []
        for one in sets:
            scale = torch.ones(len(self.names)).to(codes)
            scale[list(one)] = share
            found.append(self.metric(task, codes * scale) - start)
        return torch.stack(found, 1)

    @torch.enable_grad()
    def slopes(self, task: Task) -> Float[Tensor, "examples parts"]:
        """What the gradient says of removing each part: −c · ∂M/∂c."""
        codes = self.codes(task.clean).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.metric(task, codes).sum(), codes)
        return -codes.detach() * slope


@dataclass(frozen=True)
class Written:
    """Weights of a decoder of blocks with these MLPs, the first of which also has the attention, in plain coordinates.

    `embedding`, `unembedding`: [tokens, width]; `values`: [heads · head size, width]; `outputs`: [width, heads · head
    size]; `mlps`: gate and up [neurons, width], down [width, neurons] of every block.
    """

    embedding: Float[Tensor, "tokens width"]
    unembedding: Float[Tensor, "tokens width"]
    values: Float[Tensor, "inner width"]
    outputs: Float[Tensor, "width inner"]
    heads: int
    mlps: tuple[tuple[Tensor, Tensor, Tensor], ...]


def rotation(width: int, seed: int) -> Float[Tensor, "width width"]:
    """A random orthogonal matrix, float64."""
    return torch.linalg.qr(torch.randn(width, width, generator=generator(seed), dtype=torch.float64))[0]


def generator(seed: int) -> torch.Generator:
    """A generator of its own for every seed."""
    return torch.Generator().manual_seed(seed)


def model_of(written: Written, turn: Float[Tensor, "width width"], dtype: torch.dtype) -> LlamaForCausalLM:
    """The Llama that has these weights, in a stream that is turned.

    Raises:
        MethodError: a precision that the norms' weights do not fit into.
    """
    if dtype not in (torch.float32, torch.float64):
        raise MethodError(f"dtype={dtype}: models that are written by hand are in float32 or float64.")
    inner, width = written.values.shape
    neurons = max(len(gate) for gate, _, _ in written.mlps)
    config = LlamaConfig(
        vocab_size=len(written.embedding), hidden_size=width, intermediate_size=neurons, hidden_act="relu",
        num_hidden_layers=len(written.mlps), num_attention_heads=written.heads, num_key_value_heads=written.heads,
        head_dim=inner // written.heads, max_position_embeddings=64, rms_norm_eps=_SCALE**2, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    hf = LlamaForCausalLM(config).double()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(_SCALE if "norm" in name else 0.0)
        hf.model.embed_tokens.weight.copy_(written.embedding @ turn.T)
        hf.lm_head.weight.copy_(written.unembedding @ turn.T)
        hf.model.layers[0].self_attn.v_proj.weight.copy_(written.values @ turn.T)
        hf.model.layers[0].self_attn.o_proj.weight.copy_(turn @ written.outputs)
        for block, (gate, up, down) in zip(hf.model.layers, written.mlps, strict=True):
            block.mlp.gate_proj.weight[: len(gate)] = gate @ turn.T
            block.mlp.up_proj.weight[: len(up)] = up @ turn.T
            block.mlp.down_proj.weight[:, : down.shape[1]] = turn @ down
    hf.eval().to(dtype=dtype)
    return hf


def model_named(hf: LlamaForCausalLM, name: str, told: str, probe: Task) -> Model:
    """A model of `hf`, which says of itself what it is."""
    dtype = str(hf.dtype).removeprefix("torch.")
    return Model(hf, None, name, f"{told}, {dtype}", decoder_of(hf), probe=probe)

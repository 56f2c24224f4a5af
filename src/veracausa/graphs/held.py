"""A prompt as an attribution graph takes it: transcoders in place of MLPs, patterns and norms held, errors kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.anatomy import Block
from veracausa.cost import Cost
from veracausa.dictionaries.code import Code
from veracausa.engine.bucket import Bucket
from veracausa.engine.coded import SITES
from veracausa.engine.frozen_network import FrozenNetwork
from veracausa.errors import ArchitectureError, MethodError
from veracausa.reading.frozen import metric_direction

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task


def _usual(block: Block) -> bool:
    """Whether a block is an attention and an MLP, and nothing beside."""
    return block.mixing == "attention" and block.beside is None and block.has_mlp


def laid_transcoders(lm: Model) -> dict[int, Code]:
    """Layer → the transcoder laid on its MLP.

    Raises:
        MethodError: there is none, or one that is not linear between features. ArchitectureError: a model with blocks
            that are not an attention and an MLP.
    """
    if odd := [block.layer for block in lm.decoder.blocks if not _usual(block)]:
        raise ArchitectureError(
            f"An attribution graph takes every block for an attention and an MLP; block {odd[0]} of {lm.name} is none "
            "such. Ask for exact effects or estimates of its features instead."
        )
    found: dict[int, Code] = {}
    for (_, layer), code in lm.decoder.codes.items():
        own = code.dictionary
        if not own.transcodes or own.writes.kind != "m" or own.reads.kind not in ("n", "r", "mid") or own.labels:
            raise MethodError(f"An attribution graph takes transcoders of MLPs (n{layer} → m{layer}); this is {own}.")
        if own.reads.layer > layer or layer in found:
            raise MethodError(f"Layer {layer} needs one transcoder that reads before it writes; there is {own}.")
        if own.encoder.norm != "none" or own.encoder.activation == "gated":
            raise MethodError(
                f"{own} has a norm or a gate in its encoder, which is not linear in what it reads, so it can be part "
                "of no attribution graph. Take one with relu, jumprelu or topk."
            )
        found[layer] = code
    if not found:
        raise MethodError("An attribution graph needs transcoders: dictionary=[…], or lm.reading(…).")
    return dict(sorted(found.items()))


@dataclass(frozen=True, eq=False)
class Held:
    """A prompt in the frozen network. `active`: [(layer, position, feature)]; `values`: their activations.

    `errors`: ε of every layer, or of an MLP without a transcoder what no feature of an earlier layer writes there, [n,
    width]. `written`: (layer, layer written to) → what each active feature of the first writes to the second, [active
    of it, width]. `direction`: of the metric, [n, width]; `offset`: what its unembedding's bias adds.
    """

    lm: Model
    network: FrozenNetwork
    active: Int[Tensor, "active 3"]
    values: Float[Tensor, " active"]
    errors: list[Tensor]
    written: dict[tuple[int, int], Tensor]
    direction: Float[Tensor, "positions width"]
    offset: float

    @classmethod
    def of(cls, lm: Model, one: Task, codes: dict[int, Code], cost: Cost) -> Held:
        """Record a borrowed model's run, and hold it against the bare model's."""
        with torch.no_grad():
            bucket = Bucket.record_clean(lm, one, (0,), cost, sites=SITES)
            network = FrozenNetwork.of(lm.decoder, torch.tensor([one.clean[0]], device=lm.device), codes, cost)
            along, bias = metric_direction(bucket, lm.score_dtype)
            n = network.positions
            direction = along.new_zeros(n, along.shape[-1])
            places = (bucket.read.places[0] + n - bucket.tape.tail).to(direction.device)
            direction.index_add_(0, places, along[0])
            rows, values, errors = [], [], [write[0].to(lm.score_dtype) for write in network.writes]
            written: dict[tuple[int, int], Tensor] = {}
            for layer, code in codes.items():
                dictionary, x = code.dictionary, network.reads[layer][0].to(lm.score_dtype)
                f = dictionary.encode(x)
                at = f.nonzero()
                rows.append(torch.cat([torch.full_like(at[:, :1], layer), at], 1))
                values.append(f[at[:, 0], at[:, 1]])
                errors[layer] = errors[layer] - dictionary.reconstruct(x)
                for to in dictionary.layers:
                    written[layer, to] = dictionary.rows(at[:, 1], to)
                for to in dictionary.layers[1:]:
                    errors[to] = errors[to].index_add(0, at[:, 0], -values[-1][:, None] * written[layer, to])
        offset = 0.0 if bias is None else float(bias.sum())
        return cls(lm, network, torch.cat(rows), torch.cat(values), errors, written, direction, offset)

    @property
    def codes(self) -> dict[int, Code]:
        """Layer → its transcoder."""
        return dict(self.network.codes)

    def metric(self, end: Float[Tensor, "rows positions width"]) -> Float[Tensor, " rows"]:
        """The task's metric, before any cap, of the final norm's outputs."""
        return (end.to(self.direction) * self.direction).sum((1, 2)) + self.offset

    def skipped(self, layer: int, read: Tensor) -> Tensor | float:
        """What a skip transcoder writes straight from what it reads."""
        skip = self.codes[layer].dictionary.skip if layer in self.codes else None
        return 0.0 if skip is None else read @ skip.to(read)

"""What each write adds to the metric, the final norm's denominator held at what it is in the run.

The logits before any cap are y W_U + b, y = γ ⊙ (C x) / s + β, and x is a sum of writes w. With the metric's own mix of
answers c (Σ_v c_v ℓ_v), D = Σ_v c_v W_U[:, v] and s a number of the run,

    M = Σ_w ⟨w, g⟩ + ⟨β, D⟩ + ⟨c, b⟩,   g = C (γ ⊙ D) / s

exactly: nothing is left over. A norm behind a sublayer (Gemma) is treated alike, its own denominator held, so g goes
through it to the parts of what it is given. Where a family scales the stream behind its blocks (Gemma 4), a write
arrives multiplied by the scales of its own block and the later ones, and so is its g.

Cost: products with g at the positions that are read, of each layer's weights once; no block is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from veracausa.anatomy import Block, Decoder
from veracausa.engine.bucket import Bucket
from veracausa.engine.norms import norm_form
from veracausa.engine.tape import State
from veracausa.engine.writes import output_of, values_of
from veracausa.reading.both_runs import at_places

if TYPE_CHECKING:
    from jaxtyping import Float

#: What a tape must hold of a run.
SITES = ("z", "attention", "channels", "mixed", "mlp")


@dataclass(frozen=True, eq=False)
class Frozen:
    """A bucket's run, and g at the places where it is read, weighted as the metric weighs these.

    `total`: M before any cap. `constants`: what no write gives, by name, [examples, places].
    """

    bucket: Bucket
    state: State
    gradient: Float[Tensor, "examples places width"]
    total: Float[Tensor, " examples"]
    constants: dict[str, Float[Tensor, "examples places"]]

    @classmethod
    def of(cls, bucket: Bucket, state: State) -> Frozen:
        """Read off a recorded run."""
        decoder, end = bucket.lm.decoder, at_places(bucket, state.residual[-1])
        direction, bias = metric_direction(bucket, end.dtype)
        hidden, form = _exact(decoder.final_norm(_as(end, state))), norm_form(decoder, decoder.final_norm)
        gradient = form.pull_back(end, form.inverse(end, hidden), direction[None], True)[0]
        own = (hidden * direction).sum(-1)
        constants = {} if form.bias is None else {"norm.bias": (direction * form.bias).sum(-1)}
        if bias is not None:
            own, constants["unembedding.bias"] = own + bias, bias
        return cls(bucket, state, gradient, own.sum(-1), constants)

    @property
    def decoder(self) -> Decoder:
        """The model's anatomy."""
        return self.bucket.lm.decoder

    def parts(
        self, neurons: Sequence[int] = ()
    ) -> Iterator[tuple[Sequence[str], Float[Tensor, "examples places parts"]]]:
        """Names of writes with what they add at each place, in the order of the stream, constants last."""
        yield ["input"], self._along(self.state.residual[0], 0)[..., None]
        for layer in range(self.decoder.layers):
            for part in self.decoder.blocks[layer].mixers:
                yield from self._attention(part)
            if self.decoder.blocks[layer].has_mlp:
                yield from self._neurons(layer) if layer in neurons else self._mlp(layer)
        for name, values in self.constants.items():
            yield [name], values[..., None]

    def _attention(self, part: Block) -> Iterator[tuple[Sequence[str], Tensor]]:
        graph, layer = self.decoder.structure, part.layer
        writers, _ = graph.block(layer).of(part.mixing)
        z = at_places(self.bucket, values_of(self.state, part)).unflatten(-1, (self.decoder.writers_of(part), -1))
        yield graph.writer_names[writers], (z * self.values_gradient(part)).sum(-1)
        yield from self._bias(
            f"{'x' if part.mixing == 'mixer' else 'a'}{layer}.bias", layer, self._behind_attention(part),
            part.head_map.bias, part.attention_post_norm, part.attention_factor,
        )  # fmt: skip

    def _mlp(self, layer: int) -> Iterator[tuple[Sequence[str], Tensor]]:
        write = self.decoder.blocks[layer].mlp_write(self.state.sites["mlp"][layer])
        yield [f"m{layer}"], self._along(write, layer)[..., None]

    def _neurons(self, layer: int) -> Iterator[tuple[Sequence[str], Tensor]]:
        block = self.decoder.blocks[layer]
        gradient = self._behind(block.mlp_post_norm, block.mlp_factor, layer, self.state.sites["mlp"][layer])
        active = at_places(self.bucket, self.state.sites["neurons"][layer])
        yield (
            [f"m{layer}.n{index}" for index in range(self.decoder.neurons)],
            active * (gradient @ _exact(block.neuron_weights).T),
        )
        yield from self._bias(
            f"m{layer}.bias", layer, gradient, block.neuron_map.bias, block.mlp_post_norm, block.mlp_factor
        )

    def values_gradient(self, part: Block) -> Float[Tensor, "examples places heads head_dim"]:
        """What g is at the values z of an attention's heads, or of a mixer's writers."""
        weights = _exact(part.head_weights)
        return (self._behind_attention(part) @ weights.T).unflatten(-1, (self.decoder.writers_of(part), -1))

    def by_key(self, layer: int) -> Float[Tensor, "examples places heads keys"]:
        """What each head brings from each key: its weight there times the value, along g."""
        values = _exact(self.state.values[layer])
        values = values.repeat_interleave(self.decoder.heads // values.shape[1], 1)
        pattern = at_places(self.bucket, self.state.sites["pattern"][layer].transpose(1, 2))
        return torch.einsum("ephd,ehkd->ephk", self.values_gradient(self.decoder.blocks[layer]), values) * pattern

    def _behind_attention(self, part: Block) -> Tensor:
        return self._behind(part.attention_post_norm, part.attention_factor, part.layer, output_of(self.state, part))

    def _behind(
        self, norm: nn.Module | None, factor: float, layer: int, output: Tensor
    ) -> Float[Tensor, "examples places width"]:
        """g at what a sublayer gives before the norm behind it, if it has one; that norm's output is times `factor`."""
        gradient = self._scaled(layer)
        if norm is None:
            return gradient
        given, form = at_places(self.bucket, output), norm_form(self.decoder, norm)
        inverse = form.inverse(given, _exact(norm(_as(given, self.state))))
        return form.pull_back(given, inverse, gradient[None] * factor, True)[0]

    def _bias(
        self, name: str, layer: int, gradient: Tensor, bias: Tensor | None, norm: nn.Module | None, factor: float
    ) -> Iterator[tuple[Sequence[str], Tensor]]:
        """The constant of a sublayer: its output's bias, and that of the norm behind it."""
        behind = None if norm is None else norm_form(self.decoder, norm).bias
        behind_norm = self._scaled(layer) * factor
        found = [(g * _exact(b)).sum(-1) for g, b in ((gradient, bias), (behind_norm, behind)) if b is not None]
        if found:
            yield [name], torch.stack(found).sum(0)[..., None]

    def _along(self, write: Float[Tensor, "examples positions width"], layer: int) -> Float[Tensor, "examples places"]:
        return (at_places(self.bucket, write) * self._scaled(layer)).sum(-1)

    def _scaled(self, layer: int) -> Float[Tensor, "examples places width"]:
        """g at what a block writes to the stream."""
        scale = self.decoder.scale_between(layer, self.decoder.layers)
        return self.gradient if scale == 1 else self.gradient * scale


def metric_direction(bucket: Bucket, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """D of every place, weighted as the metric weighs the places, and the same of the unembedding's bias.

    Places that an example does not have weigh nothing.
    """
    read, answers, unembedding = bucket.read, bucket.read.answers, bucket.lm.decoder.unembedding_map
    mix = _share(answers.correct, dtype)
    if read.metric.name == "logit_diff":
        mix = mix - _share(answers.incorrect, dtype)
    weight = read.read.to(dtype)
    weight = weight / weight.sum(-1, keepdim=True) if read.over == "mean" else weight
    mix = mix * weight.reshape(-1, 1) * bucket.lm.decoder.logit_scale
    tokens, shape = answers.tokens, read.places.shape
    direction = torch.einsum("ra,raw->rw", mix, unembedding.weight.T[tokens].to(dtype)).unflatten(0, shape)
    bias = unembedding.bias
    return direction, None if bias is None else (mix * bias[tokens].to(dtype)).sum(-1).unflatten(0, shape)


def _share(chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """1 / n for each of the n answers of a row."""
    return chosen.to(dtype) / chosen.sum(-1, keepdim=True).clamp_min(1)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _as(tensor: Tensor, state: State) -> Tensor:
    """A tensor as the model computes it."""
    return tensor.to(state.residual[-1].dtype)

"""The local replacement model of one prompt: everything between features is linear.

Attention patterns and the denominators of norms are constants, taken from the clean run. Every MLP is replaced by what
is given for it: features of its transcoder and an error, or its whole output as a constant. From the stream and these
writes to what transcoders read, and to the final norm's output, the network is then affine: its gradients are exact
direct effects, and a run with all of its sources at 0 gives what biases add.

It is the model's own backbone under hooks, so nothing of a block is written again here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from veracausa.anatomy import Decoder
from veracausa.anatomy.block import NoNorm
from veracausa.cost import Cost
from veracausa.dictionaries.code import Code
from veracausa.engine.attention import SUFFIX
from veracausa.engine.coded import read_by
from veracausa.engine.guard import attention_function, changing, giving, hooks
from veracausa.engine.norms import NormForm, norm_form
from veracausa.engine.recording import record

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Layer, what its transcoder reads in this run → what is written there.
Write = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """One prompt's clean run, held.

    `stream`: what enters block 0, [1, n, width]. `reads`: what each transcoder reads, by the layer that it writes.
    `writes`: outputs of every MLP where they are replaced (behind the post-norm, where a transcoder explains that),
    `end`: the final norm's output, each [1, n, width]. `codes`: transcoders by the layer that they write.
    """

    decoder: Decoder
    codes: Mapping[int, Code]
    stream: Float[Tensor, "one positions width"]
    reads: dict[int, Tensor]
    writes: list[Tensor]
    end: Tensor
    patterns: list[Tensor]
    norms: dict[nn.Module, tuple[NormForm, Tensor]] = field(repr=False)
    cost: Cost = field(default_factory=Cost)

    @classmethod
    def of(cls, decoder: Decoder, ids: Int[Tensor, "one positions"], codes: Mapping[int, Code], cost: Cost) -> Any:
        """Record the clean run of a borrowed model."""
        kept: dict[nn.Module, tuple[NormForm, Tensor]] = {}
        ends: list[Tensor] = []

        def keep(norm: nn.Module) -> Any:
            form = norm_form(decoder, norm)

            def hook(_: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
                kept[norm] = form, form.inverse(args[0], output).reshape(1, -1, 1)

            return norm.register_forward_hook(hook)

        handles = [keep(norm) for norm in _frozen_norms(decoder)]
        handles.append(decoder.final_norm.register_forward_hook(lambda _, __, output: ends.append(output)))
        with hooks(*handles), torch.no_grad():
            state, _ = record(decoder, ids, sites=("pattern", "mlp", "mlp_in"), cost=cost)
            writes = list(state.sites["mlp"])
            for layer, code in codes.items():
                writes[layer] = writes[layer] if code.posted is None else code.posted(writes[layer])
        reads = {layer: read_by(state, code.dictionary.reads) for layer, code in codes.items()}
        return cls(decoder, codes, state.residual[0], reads, writes, ends[0], state.sites["pattern"], kept, cost)

    @property
    def positions(self) -> int:
        """Tokens of the prompt."""
        return self.stream.shape[1]

    def run(self, stream: Float[Tensor, "rows positions width"], write: Write) -> tuple[dict[int, Tensor], Tensor]:
        """What transcoders read, by the layer that they write, and the final norm's output, of rows of streams."""
        reads: dict[int, Tensor] = {}
        end: list[Tensor] = []
        with attention_function(self.decoder, SUFFIX), self._held(stream, write, reads, end):
            self.decoder.backbone(inputs_embeds=stream.detach(), use_cache=False)
        self.cost.add(len(stream), self.positions * self.decoder.layers)
        return reads, end[0]

    @contextmanager
    def _held(self, stream: Tensor, write: Write, reads: dict[int, Tensor], end: list[Tensor]) -> Iterator[None]:
        handles = [self.decoder.blocks[0].module.register_forward_pre_hook(giving(lambda _: stream), with_kwargs=True)]
        handles += [norm.register_forward_hook(self._linear(*held)) for norm, held in self.norms.items()]
        handles.append(self.decoder.final_norm.register_forward_hook(lambda _, __, output: end.append(output)))
        for block in self.decoder.blocks:
            handles.append(block.attention.register_forward_pre_hook(self._pattern(block.layer), with_kwargs=True))
            at, scale = block.mlp_end, 1.0
            if (code := self.codes.get(block.layer)) is not None and code.posted is not None:
                at, scale = block.mlp_post_norm or at, block.mlp_factor
            handles.append(changing(at, self._written(block.layer, scale, write, reads)))
        for layer, code in self.codes.items():
            site = code.dictionary.reads
            own = self.decoder.blocks[site.layer]
            part = {"n": own.mlp_start, "mid": own.before_mlp}.get(site.kind, own.module)
            handles.append(part.register_forward_pre_hook(giving(self._keep(layer, reads)), with_kwargs=True))
        with hooks(*handles):
            yield

    def _keep(self, layer: int, reads: dict[int, Tensor]) -> Callable[[Tensor], Tensor]:
        def keep(x: Tensor) -> Tensor:
            reads[layer] = x if x.ndim == 3 else x.unflatten(0, (-1, self.positions))
            return x

        return keep

    def _written(self, layer: int, scale: float, write: Write, reads: dict[int, Tensor]) -> Callable[[Tensor], Tensor]:
        def written(output: Tensor) -> Tensor:
            new = write(layer, reads[layer]) if layer in self.codes else write(layer, output)
            return (new if scale == 1 else new / scale).reshape(output.shape).to(output.dtype)

        return written

    def _linear(self, form: NormForm, inverse: Tensor) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
        def linear(_: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = form.linear(args[0])
            x = x * inverse if x.ndim == 3 else (x.unflatten(0, (-1, self.positions)) * inverse).flatten(0, 1)
            return (x if form.bias is None else x + form.bias).to(output.dtype)

        return linear

    def _pattern(self, layer: int) -> Any:
        def look(pattern: Tensor) -> Tensor:
            return self.patterns[layer].expand_as(pattern)

        return lambda _, args, kwargs: (args, kwargs | {"look": look})


def _frozen_norms(decoder: Decoder) -> list[nn.Module]:
    """Every norm but those of queries and keys, which act on patterns alone."""
    inner = {norm for block in decoder.blocks for norm in block.qk_norms}
    return [norm for norm in decoder.norms if norm not in inner and not isinstance(norm, NoNorm)]

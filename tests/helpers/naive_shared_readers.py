"""The naive reference of edges into readers that heads share: flat norms of queries and keys, latent attention.

Whole prompts, one run after the other, plain hooks on the bare model. A reader that sees another stream is a projection
that is *given* another input: the whole query path (`a1<q>`), the whole latent vector (`a1<kv>`), or some columns of
what it gives (`a1.h2<q>`, `a1.kv0<v>`). Norms, rotations and what is made of latent vectors are the model's own.
Shares no code with the library.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Family → module of a block by the letters of its reader, norm before and behind the attention, before and behind the
#: MLP (None: there is none).
_QKV = {letter: f"self_attn.{letter}_proj" for letter in "qkv"}
_BEFORE = ("input_layernorm", None, "post_attention_layernorm", None)
_BEHIND = (None, "post_attention_layernorm", None, "post_feedforward_layernorm")
_LATENT = {"q": "self_attn.q_a_proj", "kv": "self_attn.kv_a_proj_with_mqa"}
_WHOLE = _LATENT | {"q": "self_attn.q_proj"}
FAMILIES = {
    "olmo2": (_QKV, *_BEHIND),
    "olmo3": (_QKV, *_BEHIND),
    "flex_olmo": (_QKV, *_BEHIND),
    "olmoe": (_QKV, *_BEFORE),
    "minimax_m2": (_QKV, *_BEFORE),
    "deepseek_v3": (_LATENT, *_BEFORE),
    "deepseek_v3-whole": (_WHOLE, *_BEFORE),
    "minicpm3": (_LATENT, *_BEFORE),
}


@dataclass
class Run:
    """One run: streams [1, n, width] that attentions and MLPs read and the last; writes by name."""

    logits: Tensor
    stream: list[Tensor] = field(default_factory=list)
    middle: list[Tensor] = field(default_factory=list)
    writes: dict[str, Tensor] = field(default_factory=dict)


class Bare:
    """A bare model of one of the families."""

    def __init__(self, hf, family: str) -> None:
        self.hf, self.blocks = hf, hf.model.layers
        self.modules, *self.norms = FAMILIES[family]
        self.heads, self.size = hf.config.num_attention_heads, hf.config.hidden_size
        self.scale = float(getattr(self.blocks[0], "residual_scale", 1.0))

    def embedded(self, ids) -> Tensor:
        """Embeddings of a prompt."""
        with torch.no_grad():
            return self.hf.get_input_embeddings()(torch.tensor([list(ids)]))

    def logits(self, embeds: Tensor, *handles) -> Tensor:
        """Logits at the last position of a run under hooks, which are taken away."""
        try:
            return self.hf(inputs_embeds=embeds, use_cache=False).logits[0, -1]
        finally:
            for handle in handles:
                handle.remove()

    def part(self, layer: int, path: str | None):
        """A module of a block; without a path the identity."""
        return torch.nn.Identity() if path is None else self.blocks[layer].get_submodule(path)

    def run(self, embeds: Tensor, *handles) -> Run:
        """A run with its streams and writes, under hooks."""
        seen: list[Tensor] = []
        z: list[Tensor] = []
        outputs: list[Tensor] = []
        watching = [*handles]
        for block in self.blocks:
            watching.append(block.register_forward_pre_hook(lambda _, args: seen.append(args[0])))
            watching.append(block.self_attn.o_proj.register_forward_pre_hook(lambda _, args: z.append(args[0])))
            watching.append(block.mlp.register_forward_hook(
                lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out)))  # fmt: skip
        watching.append(self.hf.model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0])))
        with torch.no_grad():
            found = Run(self.logits(embeds, *watching), stream=seen)
            found.writes["input"] = seen[0]
            for layer in range(len(self.blocks)):
                written = self.written(layer, z[layer])
                found.writes |= written
                found.middle.append(seen[layer] + sum(written.values()))
                mlp = self.part(layer, self.norms[3])(outputs[layer])
                found.writes[f"m{layer}"] = mlp.view_as(seen[layer]) * self.scale
        return found

    def written(self, layer: int, z: Tensor) -> dict[str, Tensor]:
        """What each head of a block writes: behind a norm, its share of what that norm makes of the sum."""
        out, norm = self.blocks[layer].self_attn.o_proj, self.part(layer, self.norms[1])
        total, factor = out(z), self.scale
        if self.norms[1] is not None:
            factor = norm.weight * torch.rsqrt(total.square().mean(-1, keepdim=True) + norm.variance_epsilon)
        rows = out.weight.T.unflatten(0, (self.heads, -1))
        parts = z.unflatten(-1, (self.heads, -1))
        return {f"a{layer}.h{h}": parts[..., h, :] @ rows[h] * factor for h in range(self.heads)}

    def hears(self, reader: str, stream: Tensor):
        """The hook by which a reader sees this stream in the place of its own."""
        if reader == "logits":
            return self.hf.model.norm.register_forward_pre_hook(lambda _, __: (stream,))
        stem, _, letter = reader.rstrip(">").partition("<")
        layer = int(stem[1:].partition(".")[0])
        if not letter:
            normed = self.part(layer, self.norms[2])(stream)
            return self.blocks[layer].mlp.register_forward_pre_hook(lambda _, __: (normed,))
        module, normed = self.part(layer, self.modules[letter]), self.part(layer, self.norms[0])(stream)
        if "." not in stem:
            return module.register_forward_pre_hook(lambda _, __: (normed,))
        number, attention = int(stem.split(".")[1].lstrip("hkv")), self.blocks[layer].self_attn
        size = getattr(attention, "qk_head_dim", None) or attention.head_dim
        own, cut = module(normed).clone(), slice(number * size, (number + 1) * size)

        def put(_, __, output):
            output = output.clone()
            output[..., cut] = own[..., cut]
            return output

        return module.register_forward_hook(put)

    @torch.no_grad()
    def edge(self, metric, embeds: Tensor, base: Run, name: str, change: Tensor) -> float:
        """M of a run in which the reader of an edge (at one position, if it has one) alone sees a change."""
        edge, _, position = name.partition("@")
        reader = edge.split("->")[1]
        if position:
            change = torch.zeros_like(change).index_copy(1, torch.tensor([int(position)]), change[:, [int(position)]])
        stream = base.middle if reader.startswith("m") else base.stream
        layer = -1 if reader == "logits" else int(reader[1:].partition(".")[0].partition("<")[0])
        return float(metric(self.logits(embeds, self.hears(reader, stream[layer] + change))))

    def effects(self, metric, own, other, names, zero=False) -> list[float]:
        """Exact effects of edges by name on one pair."""
        embeds = self.embedded(own)
        base, towards = self.run(embeds), self.run(self.embedded(other))
        start, found = metric(base.logits), []
        for name in names:
            writer = name.split("->")[0]
            change = (0 if zero else towards.writes[writer]) - base.writes[writer]
            found.append(self.edge(metric, embeds, base, name, change) - float(start))
        return found

    def slopes(self, metric, own, other, names, points=((0.0, 1.0),), step=1e-4) -> list[float]:
        """Central differences along an edge's change, at points (α, weight) between the embeddings of both prompts."""
        ends = self.embedded(own), self.embedded(other)
        base, towards = map(self.run, ends)
        total = [0.0] * len(names)
        for alpha, weight in points:
            embeds = ends[0] + alpha * (ends[1] - ends[0])
            there = self.run(embeds)
            for i, name in enumerate(names):
                change = towards.writes[name.split("->")[0]] - base.writes[name.split("->")[0]]
                high, low = (self.edge(metric, embeds, there, name, sign * step * change) for sign in (1, -1))
                total[i] += weight * (high - low) / (2 * step)
        return total

    @torch.no_grad()
    def circuit(self, metric, own, other, kept: set[str], readers: list[str], zero=False) -> float:
        """M of a circuit on one pair; outside of it edges carry the other run's writes, or nothing (no biases here)."""
        embeds = self.embedded(other)
        corrupted = self.run(embeds)
        if zero:
            corrupted.stream, corrupted.middle = ([0 * x for x in xs] for xs in (corrupted.stream, corrupted.middle))
            corrupted.writes = {name: 0 * x for name, x in corrupted.writes.items()}
        written = {"input": self.embedded(own)}

        def stream(base, reader):
            new = [w for w in written if f"{w}->{reader}" in kept]
            return base + sum((written[w] - corrupted.writes[w] for w in new), torch.zeros_like(base))

        for layer in range(len(self.blocks)):
            mine = [reader for reader in readers if reader.partition(".")[0].partition("<")[0] == f"a{layer}"]
            z: list[Tensor] = []
            hooks = [self.hears(reader, stream(corrupted.stream[layer], reader)) for reader in mine]
            keep = self.blocks[layer].self_attn.o_proj.register_forward_pre_hook(lambda _, args, z=z: z.append(args[0]))
            self.logits(embeds, *hooks, keep)
            new = self.written(layer, z[0])
            written |= new
            seen = self.part(layer, self.norms[2])(stream(corrupted.middle[layer], f"m{layer}"))
            mlp = self.blocks[layer].mlp(seen)
            mlp = self.part(layer, self.norms[3])(mlp[0] if isinstance(mlp, tuple) else mlp)
            written[f"m{layer}"] = mlp.view_as(seen) * self.scale
        end = stream(corrupted.stream[-1], "logits")
        return float(metric(self.logits(embeds, self.hears("logits", end))))

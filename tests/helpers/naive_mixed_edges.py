"""Edges of state-space and hybrid models by hand: every reader's input is put together write by write.

Knows nothing of the library: a model is a list of sublayers, each a norm, a module and the linear map that it ends in,
and a run goes through them one by one, every reader with an input of its own. Slow and plain on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Per family: where blocks and the last norm are, and per block (norm, module, output map, kind) of what there may be.
_LONE = [("norm", "mixer", "mixer.out_proj", "mixer"), ("norm", "mixer", "mixer.o_proj", "attention"),
         ("norm", "mixer", "mixer.down_proj", "mlp")]  # fmt: skip


def _pair(before: str, mixer: str, out: str, attention: str, o: str, behind: str, mlp: str) -> list[tuple[str, ...]]:
    return [(before, mixer, f"{mixer}.{out}", "mixer"), (before, attention, f"{attention}.{o}", "attention"),
            (behind, mlp, "", "mlp")]  # fmt: skip


_HYBRID = _pair("input_layernorm", "mamba", "out_proj", "self_attn", "o_proj", "pre_ff_layernorm", "feed_forward")
LAYOUTS: dict[str, tuple[str, str, list[tuple[str, ...]]]] = {
    **dict.fromkeys(("mamba", "falcon_mamba", "mamba2"), ("backbone.layers", "backbone.norm_f", _LONE[:1])),
    "nemotron_h": ("model.layers", "model.norm_f", _LONE),
    **dict.fromkeys(("bamba", "jamba"), ("model.layers", "model.final_layernorm", _HYBRID)),
    "falcon_h1": ("model.layers", "model.final_layernorm", [_HYBRID[1], _HYBRID[0], _HYBRID[2]]),  # both in each block
    "granitemoehybrid": ("model.layers", "model.norm", _pair(
        "input_layernorm", "mamba", "out_proj", "self_attn", "o_proj", "post_attention_layernorm", "shared_mlp")),
    "lfm2": ("model.layers", "model.embedding_norm", _pair(
        "operator_norm", "conv", "out_proj", "self_attn", "out_proj", "ffn_norm", "feed_forward")),
    "recurrent_gemma": ("model.layers", "model.final_norm", _pair(
        "temporal_pre_norm", "temporal_block", "linear_out", "temporal_block", "o_proj", "channel_pre_norm",
        "mlp_block")),
}  # fmt: skip


def part(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name, None)
    return root


@dataclass
class Sublayer:
    """`heads`, `groups`: writers, and key/value heads; `call`: arguments of the module, beside what it reads.

    `scale`, `given`: what its output and what it is given are multiplied by; `beside`: reads what the one before reads.
    """

    kind: str
    layer: int
    norm: Any
    module: Any
    out: Any
    heads: int
    groups: int
    call: dict[str, Any]
    scale: float
    given: float
    beside: bool

    @property
    def writers(self) -> list[str]:
        if self.kind == "mlp":
            return [f"m{self.layer}"]
        stem = f"{'x' if self.kind == 'mixer' else 'a'}{self.layer}"
        return [f"{stem}.h{i}" for i in range(self.heads)] if self.heads else [stem]

    @property
    def readers(self) -> list[str]:
        if self.kind == "attention":
            keys = [f"a{self.layer}.kv{i}<{kind}>" for kind in "kv" for i in range(self.groups)]
            return [f"a{self.layer}.h{i}<q>" for i in range(self.heads)] + keys
        return [f"{'x' if self.kind == 'mixer' else 'm'}{self.layer}"]


@dataclass
class Run:
    """Writes by writer, what stands in the stream before each sublayer and at the end, and logits at the end."""

    writes: dict[str, Tensor]
    streams: list[Tensor]
    logits: Tensor


class Naive:
    """A model as sublayers; `run` goes through them."""

    def __init__(self, hf: Any, family: str, heads: int = 0):
        """`heads`: of a mixer, where it has some."""
        blocks, final, kinds = LAYOUTS[family]
        self.hf, self.final, self.parts = hf, part(hf, final), []
        scale = float(getattr(hf.config, "residual_multiplier", 1.0))
        self.blocks = part(hf, blocks)
        for layer, block in enumerate(self.blocks):
            for norm, module, out, kind in kinds:
                if part(block, module) is None or (out and part(block, out) is None):
                    continue
                many = {"mixer": heads, "attention": hf.config.num_attention_heads if kind == "attention" else 0}
                groups = getattr(hf.config, "num_key_value_heads", 0) if kind == "attention" else 0
                ends = part(block, out) if kind != "mlp" else None
                own = {"attention": "attn_out_multiplier", "mixer": "ssm_out_multiplier"}.get(kind, "")
                given = float(getattr(block, "attention_in_multiplier", 1.0)) if kind == "attention" else 1.0
                factors = scale * float(getattr(block, own, 1.0)), given
                beside = bool(self.parts) and family == "falcon_h1" and kind == "mixer"
                modules = part(block, norm), part(block, module), ends
                self.parts.append(Sublayer(kind, layer, *modules, many.get(kind, 0), groups, {}, *factors, beside))

    @property
    def edges(self) -> list[str]:
        """Names of all edges, reader by reader."""
        found, seen, before = [], ["input"], ["input"]
        for one in self.parts:
            before = before if one.beside else seen
            found += [f"{writer}->{reader}" for reader in one.readers for writer in before]
            seen = [*seen, *one.writers]
        return found + [f"{writer}->logits" for writer in seen]

    def embedded(self, tokens: list[int]) -> Tensor:
        """What enters the first block, and every sublayer's keyword arguments in that run."""
        found: list[Tensor] = []

        def entering(_: Any, args: tuple[Any, ...], kw: dict[str, Any]) -> None:
            found.append((args[0] if args else kw["hidden_states"]).clone())

        handles = [self.blocks[0].register_forward_pre_hook(entering, with_kwargs=True)]

        def keep(one: Sublayer) -> Any:
            def kept(_: Any, args: tuple[Any, ...], kw: dict[str, Any]) -> None:
                dropped = ("hidden_states", "past_key_values", "cache_params", "use_cache", "x")
                one.call = {name: value for name, value in kw.items() if name not in dropped}
                one.call |= {"args": args[1:]}

            return kept

        handles += [one.module.register_forward_pre_hook(keep(one), with_kwargs=True) for one in self.parts]
        with torch.no_grad():
            self.bare = self.hf(input_ids=torch.tensor([tokens]), use_cache=False).logits
        for handle in handles:
            handle.remove()
        return found[0]

    def run(self, embedded: Tensor, see: Callable[[str, int, Tensor, dict[str, Tensor]], Tensor]) -> Run:
        """`see(reader, place, stream, writes)`: what a reader sees."""
        writes, streams, stream = {"input": embedded}, [], embedded
        before = writes
        for place, one in enumerate(self.parts):
            streams.append(streams[-1] if one.beside else stream)
            before = before if one.beside else writes
            own = {reader: see(reader, place, streams[-1], before) for reader in one.readers}
            output, z = self._called(one, own)
            if one.kind == "mlp":
                new = [output]
            else:
                count, weight = max(1, one.heads), one.out.weight
                new = [z[..., c] @ weight[:, c].T for c in torch.arange(z.shape[-1]).chunk(count)]
            writes = writes | {name: write * one.scale for name, write in zip(one.writers, new, strict=True)}
            stream = stream + output * one.scale
        streams.append(stream)
        end = see("logits", len(self.parts), stream, writes)
        logits = self.hf.lm_head(self.final(end))[:, -1] / float(getattr(self.hf.config, "logits_scaling", 1.0))
        logits = logits * float(getattr(self.hf.config, "lm_head_multiplier", 1.0))
        cap = getattr(self.hf.config, "logits_soft_cap", None)
        return Run(writes, streams, logits if cap is None else cap * torch.tanh(logits / cap))

    def _called(self, one: Sublayer, seen: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        handles = []
        if one.out is not None:
            handles.append(one.out.register_forward_pre_hook(lambda _, args: kept.append(args[0])))
        given = one.norm(next(iter(seen.values()))) * one.given
        if one.kind == "attention":
            inputs = {name: one.norm(x) * one.given for name, x in seen.items()}
            for kind, letter, many in (("q", "h", one.heads), ("k", "kv", one.groups), ("v", "kv", one.groups)):
                projection = getattr(one.module, f"{kind}_proj")
                names = [f"a{one.layer}.{letter}{i}<{kind}>" for i in range(many)]

                def joined(_: Any, __: Any, output: Tensor, names: Any = names, projection: Any = projection) -> Tensor:
                    size = output.shape[-1] // len(names)
                    return torch.cat(
                        [
                            torch.nn.functional.linear(inputs[name], projection.weight, projection.bias)[
                                ..., i * size : (i + 1) * size
                            ]
                            for i, name in enumerate(names)
                        ],
                        -1,
                    )

                handles.append(projection.register_forward_hook(joined))
        call = {name: value for name, value in one.call.items() if name != "args"}
        output = one.module(given, *one.call.get("args", ()), **call)
        for handle in handles:
            handle.remove()
        return (output[0] if isinstance(output, tuple) else output), kept[0] if kept else output


def as_it_is(_: str, __: int, stream: Tensor, ___: dict[str, Tensor]) -> Tensor:
    """Every reader sees the stream."""
    return stream


class NaiveEdges:
    """Circuits and gradients of edges on one pair; `correct`, `incorrect`: answer tokens."""

    def __init__(self, naive: Naive, clean: list[int], corrupted: list[int], correct: int, incorrect: int):
        self.naive, self.answers = naive, (correct, incorrect)
        with torch.no_grad():
            self.other = naive.run(naive.embedded(corrupted), as_it_is)
            self.embedded = naive.embedded(clean)
            self.clean = naive.run(self.embedded, as_it_is)
        assert torch.allclose(
            self.clean.logits, naive.bare[:, -1].to(self.clean.logits), atol=1e-4
        )  # the plain model's own

    def metric(self, run: Run) -> Tensor:
        return run.logits[0, self.answers[0]] - run.logits[0, self.answers[1]]

    def circuit(self, kept: set[str], zero: bool = False) -> float:
        """M where edges that are not kept carry the corrupted run's writes (or nothing; constants stay)."""

        def see(reader: str, place: int, _: Tensor, writes: dict[str, Tensor]) -> Tensor:
            others, base = self.other.writes, self.other.streams[place]
            if zero:
                base = base - sum((others[u] for u in writes), torch.zeros(()))
                others = dict.fromkeys(writes, torch.zeros(()))
            changes = [w - others[u] for u, w in writes.items() if f"{u}->{reader}" in kept]
            return base + sum(changes, torch.zeros(()))

        with torch.no_grad():
            return float(self.metric(self.naive.run(self.embedded, see)))

    def effect(self, edge: str) -> float:
        """Noising one edge alone."""
        return self.circuit(set(self.naive.edges) - {edge}) - float(self.metric(self.clean))

    def gradients(self, embedded: Tensor) -> tuple[dict[str, Tensor], Run]:
        """∂M/∂(what each reader sees), in the run of these embeddings, and that run."""
        leaves: dict[str, Tensor] = {}

        def see(reader: str, _: int, stream: Tensor, __: dict[str, Tensor]) -> Tensor:
            leaves[reader] = torch.zeros_like(stream, requires_grad=True)
            return stream + leaves[reader]

        run = self.naive.run(embedded, see)
        found = torch.autograd.grad(self.metric(run), [*leaves.values()])
        return dict(zip(leaves, found, strict=True)), run

    def slopes(self, weights: dict[float, float]) -> dict[str, float]:
        """Σ_t w_t g_v(t) · (corrupted − clean write), at embeddings (1 − t) clean + t corrupted; {0: 1}: eap."""
        end = self.other.writes["input"]
        found: dict[str, float] = {}
        for t, weight in weights.items():
            gradients, _ = self.gradients((1 - t) * self.embedded + t * end)
            for edge in self.naive.edges:
                writer, reader = edge.split("->")
                change = self.other.writes[writer] - self.clean.writes[writer]
                found[edge] = found.get(edge, 0.0) + weight * float((gradients[reader] * change).sum())
        return found

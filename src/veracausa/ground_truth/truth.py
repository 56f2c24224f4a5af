"""The true circuit of a compiled model, by its definition and by nothing else.

    E(u → v) = M(clean run in which reader v, and v alone, sees writer u's corrupted write) − M(clean run)

An edge is true if |E| is not zero on at least one pair; a node (head, MLP) likewise, when all its readers see its
corrupted write. Every effect is one run of the whole model in float64, written out here in a dozen lines, so that it
can judge the engine without sharing code with it.

"Not zero": over `THRESHOLD` of the pair's gap. Compiled weights are exact zeros and ones, but attention is a softmax: a
query looks away from a key by a factor e^(−100/√head_dim), and leaks that much. That and rounding lie far below the
threshold, true effects far above (see `docs/ground-truth.md` for the figures).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.ground_truth.compiled import CompiledForCausalLM
from veracausa.ground_truth.programs import Pair, Program

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: An effect over this share of the gap is not zero.
THRESHOLD = 1e-4

#: Pairs of one batch.
ROWS = 4096


def writers_before(layer: int, heads: int, *, mlp: bool) -> list[str]:
    """Writers that a reader of `layer` can see: an MLP (`mlp`) sees its own layer's heads, too."""
    blocks = [[*(f"a{i}.h{h}" for h in range(heads)), f"m{i}"] for i in range(layer)]
    own = [f"a{layer}.h{h}" for h in range(heads)] if mlp else []
    return ["input", *(writer for block in blocks for writer in block), *own]


def all_edges(layers: int, heads: int) -> list[tuple[str, str]]:
    """Every (writer, reader), readers in the order of the stream."""
    found: list[tuple[str, str]] = []
    for layer in range(layers):
        readers = [f"a{layer}.h{h}<q>" for h in range(heads)]
        readers += [f"a{layer}.kv{h}<{which}>" for h in range(heads) for which in "kv"]
        found += [(u, v) for v in readers for u in writers_before(layer, heads, mlp=False)]
        found += [(u, f"m{layer}") for u in writers_before(layer, heads, mlp=True)]
    return [*found, *((u, "logits") for u in writers_before(layers, heads, mlp=False))]


def run(
    hf: CompiledForCausalLM,
    ids: Int[Tensor, "rows positions"],
    readers: Iterable[str] = (),
    change: Float[Tensor, "rows positions width"] | float = 0.0,
) -> tuple[Float[Tensor, "rows positions outputs"], dict[str, Tensor]]:
    """Logits and every writer's write, in a run in which `readers` see the stream changed by `change`."""
    changed, size = set(readers), hf.config.head_dim
    stream = hf.model.embed_tokens(ids)
    writes = {"input": stream}

    def seen_by(reader: str) -> Tensor:
        return stream + change if reader in changed else stream

    for layer, block in enumerate(hf.model.layers):
        attention = block.self_attn
        for head in range(hf.config.num_attention_heads):
            part = slice(head * size, (head + 1) * size)
            query = seen_by(f"a{layer}.h{head}<q>") @ attention.q_proj.weight[part].T
            key = seen_by(f"a{layer}.kv{head}<k>") @ attention.k_proj.weight[part].T
            value = seen_by(f"a{layer}.kv{head}<v>") @ attention.v_proj.weight[part].T
            pattern = (query @ key.transpose(1, 2) / size**0.5).softmax(-1)
            writes[f"a{layer}.h{head}"] = pattern @ value @ attention.o_proj.weight[:, part].T
        stream = stream + sum(writes[f"a{layer}.h{head}"] for head in range(hf.config.num_attention_heads))
        writes[f"m{layer}"] = block.mlp(seen_by(f"m{layer}"))
        stream = stream + writes[f"m{layer}"]
    return hf.lm_head(seen_by("logits")), writes


def _batches(program: Program, pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    for length in range(1, program.longest + 1):
        alike = [pair for pair in pairs if len(pair.clean) == length]
        yield from (alike[first : first + ROWS] for first in range(0, len(alike), ROWS))


def effects(
    hf: CompiledForCausalLM, program: Program, pairs: Sequence[Pair]
) -> tuple[list[str], Float[Tensor, "pairs parts"]]:
    """Exact effects, as shares of each pair's gap, of every edge and then of every node; and their names.

    `hf` is in float64. Rows are sorted by length, in the order of `pairs` within a length.
    """
    edges = all_edges(hf.config.num_hidden_layers, hf.config.num_attention_heads)
    nodes = list(dict.fromkeys(writer for writer, _ in edges if writer != "input"))
    parts = [(u, (v,)) for u, v in edges] + [(u, tuple(v for w, v in edges if w == u)) for u in nodes]
    rows = []
    with torch.no_grad():
        for batch in _batches(program, pairs):
            clean, corrupted = (torch.tensor([program.tokens(words) for words in side]) for side in _sides(batch))
            row, read = torch.arange(len(batch)), torch.tensor([pair.read + 1 for pair in batch])
            correct, incorrect = torch.tensor([program.answers(pair) for pair in batch]).T

            def metric(logits: Tensor) -> Tensor:
                return logits[row, read, correct] - logits[row, read, incorrect]  # noqa: B023

            (bare, ours), (other, theirs) = run(hf, clean), run(hf, corrupted)
            gap = metric(bare) - metric(other)
            patched = [metric(run(hf, clean, readers, theirs[u] - ours[u])[0]) for u, readers in parts]
            rows.append((torch.stack(patched, -1) - metric(bare)[:, None]) / gap[:, None])
    return [f"{u}->{v}" for u, v in edges] + nodes, torch.cat(rows)


def _sides(pairs: Sequence[Pair]) -> tuple[list[tuple], list[tuple]]:
    return [pair.clean for pair in pairs], [pair.corrupted for pair in pairs]


def true_parts(names: Sequence[str], shares: Float[Tensor, "pairs parts"]) -> tuple[list[str], list[str]]:
    """(nodes, edges) that are not zero on at least one pair."""
    largest = shares.abs().amax(0)
    true = [name for name, share in zip(names, largest.tolist(), strict=True) if share > THRESHOLD]
    return [name for name in true if "->" not in name], [name for name in true if "->" in name]

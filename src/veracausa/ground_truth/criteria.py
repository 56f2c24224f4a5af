"""What a model trained to a given circuit must fulfil, and the exact effects that say which parts are true.

*Accuracy*: the best answer is the algorithm's. *Interchange accuracy* of an aligned node or edge: with its value from
a source input, the best answer is the one that the causal model gives after the same interchange. *Leak* of a part
outside the circuit: the largest change of any difference of two answers when it carries what it carries on the source,
as a share of the mean gap (twice the mean margin of the best answer: one answer down, another up).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from veracausa.ground_truth.interchange import graph, run
from veracausa.ground_truth.known import Pair
from veracausa.ground_truth.registers import (
    SIZE,
    TRUE_EDGES,
    TRUE_NODES,
    WORDS,
    Registers,
    inputs,
    outcome,
    words_of,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

#: What is asked of the stored model on held-out inputs: accuracies at least, leaks at most.
ACCURACY, LEAK = 0.99, 0.02

#: An effect over this share of the gap, on at least one pair, makes an edge or a node true.
FLOOR = 0.1

#: Share of the inputs that training never sees, neither as base nor as source.
HELD_OUT = 0.2

#: Rows of one run.
ROWS = 128


@dataclass(frozen=True)
class Criteria:
    """See the module. `edges`, `nodes`: interchange accuracies of the true ones; `leaks`: of each node that is not
    aligned, and of all false edges at once (`together`)."""

    accuracy: float
    edges: dict[str, float]
    nodes: dict[str, float]
    leaks: dict[str, float]
    together: float

    @property
    def hold(self) -> bool:
        """Whether every criterion is fulfilled."""
        accuracies = (self.accuracy, *self.edges.values(), *self.nodes.values())
        return min(accuracies) >= ACCURACY and max(*self.leaks.values(), self.together) <= LEAK

    def __str__(self) -> str:
        part, leak = max(self.leaks.items(), key=lambda item: item[1])
        return (
            f"accuracy {self.accuracy:.3f}; interchange accuracy at least {min(self.nodes.values()):.3f} of nodes, "
            f"{min(self.edges.values()):.3f} of edges; largest leak {leak:.3f} ({part}), all false edges at once "
            f"{self.together:.3f}"
        )


def split(seed: int = 0) -> tuple[Int[Tensor, "train 6"], Int[Tensor, "held 6"]]:
    """Inputs to train on, and inputs held out."""
    values = inputs()
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    held = round(HELD_OUT * len(values))
    return values[order[held:]], values[order[:held]]


def tokens(values: Int[Tensor, "rows 6"]) -> Int[Tensor, "rows 6"]:
    """Token ids of inputs, the start word first."""
    return torch.tensor([[WORDS.index(word) for word in ("BOS", *words_of(row))] for row in values])


def masks(hf: GPT2LMHeadModel) -> tuple[Bool[Tensor, "edges readers writers"], Bool[Tensor, "readers writers"]]:
    """The true edges, each as a mask in the order of `TRUE_EDGES`; and all false ones in one mask."""
    names = graph(hf)
    true = torch.zeros(len(TRUE_EDGES), names.readers, names.writers, dtype=torch.bool)
    for i, edge in enumerate(TRUE_EDGES):
        writer, reader = names.parse(edge)
        true[i, reader, writer] = True
    false = torch.zeros_like(true[0])
    writers, readers = map(torch.from_numpy, names.edges)
    false[readers, writers] = True
    return true, false & ~true.any(0)


@torch.no_grad()
def judge(hf: GPT2LMHeadModel, values: Int[Tensor, "rows 6"], *, seed: int = 0) -> Criteria:
    """All criteria on these inputs, each with another one of them as its source."""
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).roll(1)
    source, ids = values[order], tokens(values)
    logits, writes = run(hf, ids)
    answers, right = logits[:, -SIZE:], outcome(values)
    best, second = answers.topk(2, dim=-1).values.unbind(-1)
    gap = 2 * float((best - second).mean())
    true, false = masks(hf)
    names = graph(hf)

    def answers_with(edges: Tensor) -> Tensor:
        return run(hf, ids, edges.expand(len(ids), -1, -1), writes[order])[0][:, -SIZE:]

    def interchange(chosen: list[int]) -> float:
        taken = torch.zeros(len(values), len(TRUE_EDGES), dtype=torch.bool)
        taken[:, chosen] = True
        expected = outcome(values, source, taken)
        return float((answers_with(true[chosen].any(0)).argmax(-1) == expected).float().mean())

    def leak(edges: Tensor) -> float:
        change = answers_with(edges) - answers
        return float((change.amax(-1) - change.amin(-1)).max()) / gap

    def out_of(writer: str) -> Tensor:
        edges = torch.zeros_like(false)
        column = names.writer_names.index(writer)
        edges[:, column] = (false | true.any(0))[:, column]
        return edges

    out = {node: [i for i, edge in enumerate(TRUE_EDGES) if edge.startswith(f"{node}->")] for node in TRUE_NODES}
    return Criteria(
        accuracy=float((answers.argmax(-1) == right).float().mean()),
        edges={edge: interchange([i]) for i, edge in enumerate(TRUE_EDGES)},
        nodes={node: interchange(chosen) for node, chosen in out.items()},
        leaks={node: leak(out_of(node)) for node in names.writer_names[1:] if node not in TRUE_NODES},
        together=leak(false),
    )


@torch.no_grad()
def effects(
    hf: GPT2LMHeadModel, program: Registers, pairs: Sequence[Pair]
) -> tuple[list[str], Float[Tensor, "pairs parts"]]:
    """Exact effects, as shares of each pair's gap, of every edge and then of every node; and their names."""
    names = graph(hf)
    writers, readers = names.edges
    nodes = names.writer_names[1:]
    masks = torch.zeros(len(writers) + len(nodes), names.readers, names.writers, dtype=torch.bool)
    masks[torch.arange(len(writers)), torch.from_numpy(readers), torch.from_numpy(writers)] = True
    for i in range(len(nodes)):
        masks[len(writers) + i, :, i + 1] = masks[: len(writers), :, i + 1].any(0)
    found = []
    for first in range(0, len(pairs), ROWS):
        batch = pairs[first : first + ROWS]
        clean, corrupted = (torch.tensor([program.tokens(words) for words in side]) for side in _sides(batch))
        correct, incorrect = torch.tensor([program.answers(pair) for pair in batch]).T
        row = torch.arange(len(batch))
        (logits, _), (others, source) = run(hf, clean), run(hf, corrupted)
        bare = logits[row, correct] - logits[row, incorrect]
        gap = bare - (others[row, correct] - others[row, incorrect])
        shares = []
        for mask in masks:
            patched = run(hf, clean, mask.expand(len(batch), -1, -1), source)[0]
            shares.append((patched[row, correct] - patched[row, incorrect] - bare) / gap)
        found.append(torch.stack(shares, -1))
    pair_names = [f"{names.writer_names[w]}->{names.reader_names[r]}" for w, r in zip(writers, readers, strict=True)]
    return pair_names + nodes, torch.cat(found)


def _sides(pairs: Sequence[Pair]) -> tuple[list[tuple], list[tuple]]:
    return [pair.clean for pair in pairs], [pair.corrupted for pair in pairs]

"""Edges and circuits on random GPT-2 small: seconds and memory against passes of the bare model in the same run.

10 pairs of 16 tokens in one task that first differ at positions 4, 8 and 12, all 32,491 edges, float32, frozen
parameters. One circuit includes recording both runs; ten nested circuits (0.1 to 100% of the edges) record once.

    python benchmarks/edges.py
    python benchmarks/edges.py --count    # multiplications and additions of each, in those of the bare passes
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from common import header, peak_gib, seconds, table
from transformers import GPT2Config, GPT2LMHeadModel

import veracausa as vc
from veracausa.anatomy import decoder_of
from veracausa.circuits.quality.curve import SIZES
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.engine.circuit_forward import Wiring
from veracausa.model import Model
from veracausa.tasks.task import Task


def pairs() -> Task:
    """Random pairs that differ in one token."""
    clean = np.random.default_rng(0).integers(100, 40_000, (10, 16))
    corrupted = clean.copy()
    for i, at in enumerate(np.resize([4, 8, 12], 10)):
        corrupted[i, at] += 1
    rows = [tuple(map(tuple, prompts.tolist())) for prompts in (clean, corrupted)]
    return Task("differ-at-4-8-12", rows[0], rows[1], ((5,),) * 10, ((6,),) * 10)


def random_model(layers: int = 12) -> Model:
    """GPT-2 small (or its first blocks alone) with random weights, frozen."""
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config(n_layer=layers)).eval().requires_grad_(False)
    return Model(hf, None, "gpt2-random", "random weights", decoder_of(hf))


def products(lm: Model, scores: vc.Scores, behind: int) -> float:
    """Operations of `eap` or `eap-ig`: its passes; gradients at readers and changes of writers, once; all edges.

    `behind`: positions of all pairs that can differ.
    """
    graph, width = lm.graph, lm.width
    passes = 2.0 * block_weights(lm) * (scores.cost.forward + scores.cost.backward)
    read = 2.0 * width * lm.decoder.blocks[0].head_dim * 3 * lm.heads * lm.layers
    written = 2.0 * width * width * lm.layers
    return passes + behind * (read + written + 2.0 * width * graph.size)


def of_circuit(lm: Model, mask: np.ndarray) -> float:
    """Operations of a circuit's run at one position: its live readers' mixes and projections, live heads and MLPs."""
    wiring, graph, width, found = Wiring(lm.graph, mask), lm.graph, lm.width, 0.0
    head = 2.0 * width * lm.decoder.blocks[0].head_dim
    for layer in range(lm.layers):
        readers, heads = wiring.readers(layer, tuple(graph.attention_readers(layer))), wiring.heads(layer)
        before = int((wiring.live & (graph.writer_layer < layer)).sum())
        if len(heads):
            found += len(readers) * (2.0 * width * before + head) + len(heads) * head
        if wiring.mlp(layer):
            found += 2.0 * width * (before + len(heads)) + 4.0 * width * lm.neurons
    return found


def block_weights(lm: Model) -> int:
    """Weights of a block's linear maps."""
    return sum(one.numel() for one in lm.decoder.blocks[0].module.parameters() if one.ndim == 2)


def count(lm: Model, task: Task) -> None:
    """Operations of each call, in those of a forward and a backward pass of the bare model, unembedding left out."""
    tokens = sum(task.lengths)
    bare = 4.0 * block_weights(lm) * lm.layers * tokens
    behind = len(task) * (task.lengths[0] - min(task.first_difference))
    print("| | of the bare passes' operations |\n| --- | --- |")
    for method in ("eap", "eap-ig"):
        scores = vc.attribute(lm, task, units="edges", method=method, show_progress=False)
        print(f"| {method} | {products(lm, scores, behind) / bare:.2f} |", flush=True)
    recorded = 2.0 * block_weights(lm) * lm.layers * (2 * tokens - len(task) * min(task.first_difference))
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    ranking = np.array(scores.ranking())
    runs = 0.0
    for share in SIZES:
        kept = ranking[: max(1, round(share * lm.graph.size))]
        runs += behind * of_circuit(lm, scores.units[kept].mask)
    print(f"| recording both runs | {recorded / bare:.2f} |\n| ten nested circuits behind it | {runs / bare:.2f} |")


def main() -> None:
    lm, task = random_model(), pairs()
    if "--count" in sys.argv:
        count(lm, task)
        return
    hf: Any = lm.hf
    ids = torch.tensor(task.clean)

    def both() -> None:
        embeddings = hf.get_input_embeddings()(ids).requires_grad_()
        hf(inputs_embeds=embeddings, logits_to_keep=1).logits[:, -1, 5].sum().backward()

    with torch.no_grad():
        forward = seconds(lambda: hf(ids, logits_to_keep=1))
    whole = seconds(both)
    before, rows = peak_gib(), []
    for method in ("eap", "eap-ig", "eap-gp", "ceap", "relp"):
        took = seconds(
            lambda method=method: vc.attribute(lm, task, units="edges", method=method, show_progress=False), 2
        )
        rows.append([method, f"{took:.2f}", f"{took / whole:.2f}"])
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    ranking = np.array(scores.ranking())

    def mask(count: int) -> np.ndarray:
        return scores.units[ranking[:count]].mask

    for name, counts in (
        ("one circuit of 1,000 edges", [1000]),
        ("the whole graph", [lm.graph.size]),
        ("ten nested circuits", [max(1, round(share * lm.graph.size)) for share in SIZES]),
    ):
        masks = [mask(count) for count in counts]
        took = seconds(lambda masks=masks: run_circuits(lm, task, masks, show_progress=False), 2)
        rows.append([name, f"{took:.2f}", f"{took / whole:.2f}"])
    print(header("python benchmarks/edges.py"))
    print(f"\nBare model: forward {forward:.2f} s, forward and backward {whole:.2f} s.\n")
    print(table(["", "seconds", "/ forward and backward"], rows))
    print(f"\nPeak memory above what it was before: {peak_gib() - before:.2f} GiB.")


if __name__ == "__main__":
    main()

"""Edges and circuits on random GPT-2 small: seconds and memory against passes of the bare model in the same run.

10 pairs of 16 tokens in one task that first differ at positions 4, 8 and 12, all 32,491 edges, float32, frozen
parameters. One circuit includes recording both runs; ten nested circuits (0.1 to 100% of the edges) record once.

    python benchmarks/edges.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import header, peak_gib, seconds, table
from transformers import GPT2Config, GPT2LMHeadModel

import veracausa as vc
from veracausa.anatomy import decoder_of
from veracausa.circuits.quality.curve import SIZES
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.engine.circuit_forward import kept_by
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


def main() -> None:
    lm, task = random_model(), pairs()
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
        return kept_by(lm.graph, scores.units.writer[ranking[:count]], scores.units.reader[ranking[:count]])

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

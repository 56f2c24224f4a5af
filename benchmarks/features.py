"""Exact effects of features of SmolLM2-135M against exact effects of neurons of the same layer, in the same run.

A random TopK dictionary of 4,096 features at the stream (r), the MLP's output (m), and a transcoder (n → m) of a layer:
milliseconds per feature that moves, per neuron of that layer, and their ratio; features that are the same in both runs,
which cost nothing; seconds of attribution patching of all features; and how far all parts together are from the site.

A feature's row runs the blocks behind its site, as a neuron's does; beside that it is one multiple of a row of the
decoder. What the dictionary adds is encoding both runs once: 2 · width · features operations a token and run.

    python benchmarks/features.py            layers 5, 15, 25 (about a minute)
"""

from __future__ import annotations

import time

import numpy as np
import torch
from common import header, table

import veracausa as vc
from veracausa.dictionaries import Dictionary, Encoder

LAYERS, SIZE, K, ROWS = (5, 15, 25), 4096, 32, 256


def random_dictionary(lm: vc.Model, site: str, writes: str | None = None) -> Dictionary:
    """A TopK dictionary of random features, whose decoder is its encoder turned round."""
    drawn = torch.randn(lm.width, SIZE, generator=torch.Generator().manual_seed(0))
    weight = drawn / drawn.norm(dim=0)
    encoder = Encoder(weight, torch.zeros(SIZE), "topk", k=K)
    return Dictionary.of(encoder, weight.T.contiguous(), site=site, writes=writes)


def timed(call):
    """(result, seconds), the best of three: of the process, which suffers less from neighbours than the clock's."""
    found, times = None, []
    for _ in range(3):
        began = time.process_time()
        found = call()
        times.append(time.process_time() - began)
    return found, min(times)


def main() -> None:
    """Print the table."""
    lm = vc.load("smollm2-135m")
    task = vc.tasks.ioi(lm, n=2)
    print(header("python benchmarks/features.py"))
    rows = []
    for layer in LAYERS:
        names = [f"m{layer}.n{i}" for i in range(ROWS)]
        _, seconds = timed(lambda names=names: vc.exact(lm, task, units=names, show_progress=False))
        per_neuron = seconds / (ROWS * len(task))
        for site, writes in ((f"r{layer}", None), (f"m{layer}", None), (f"n{layer}", f"m{layer}")):
            own = lm.reading(random_dictionary(lm, site, writes))
            every = vc.exact(own, task, units="features", show_progress=False)
            moving = int((every.values[:, :-1] != 0).sum())
            order = np.argsort(-every.values[:, :-1].abs().sum(0).numpy())[:ROWS]
            chosen = every.units[order]
            found, taken = timed(lambda own=own, chosen=chosen: vc.exact(own, task, units=chosen, show_progress=False))
            ran = int((found.values != 0).sum())
            _, slopes = timed(lambda own=own: vc.attribute(own, task, units="features", show_progress=False))
            whole = f"{site} → {writes}" if writes else site
            told = (1000 * per_neuron, 1000 * taken / ran, taken / ran / per_neuron)
            rows.append([whole, *(f"{one:.2f}" for one in told), f"{moving:,}", f"{slopes:.2f}"])
    columns = ["site", "ms a neuron", "ms a feature", "ratio", f"of {SIZE:,} × {len(task)} pairs move", "atp of all, s"]
    print(table(columns, rows))


if __name__ == "__main__":
    main()

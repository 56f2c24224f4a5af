"""What attribution patching costs, against the bare model's passes that it cannot do without.

    reference = one corrupted forward + one clean forward-backward of the bare model (parameters frozen, the same pairs
    in one batch, the metric read off the logits at the last position alone), in the same run.

The shared prefix is what makes the ratio small: it is run once, without a graph, and the backward pass stops where the
prompts begin to differ. The second table has pairs that differ from the first token on, where nothing is shared.

    python benchmarks/estimates.py
"""

from __future__ import annotations

import random

import torch
from common import header, seconds, table

import veracausa as vc
from veracausa.tasks.task import Task

PAIRS = 16


def reference(lm: vc.Model, task: Task) -> float:
    """Seconds of a corrupted forward and a clean forward-backward of the bare model."""
    clean, corrupted = (torch.tensor(ids) for ids in (task.clean, task.corrupted))
    answers = task.answers()
    rows = torch.arange(len(task))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        last = logits[:, -1]
        return (last[rows, answers.tokens[:, 0]] - last[rows, answers.tokens[:, 1]]).sum()

    def run() -> None:
        with torch.no_grad():
            lm.hf(corrupted, logits_to_keep=1)
        embeddings = lm.decoder.embeddings(clean).detach().requires_grad_()
        metric(lm.hf(inputs_embeds=embeddings, logits_to_keep=1).logits).backward()

    return seconds(run)


def pairs(lm: vc.Model, shared: int, length: int = 16) -> Task:
    """Random pairs of one length that differ in the token at `shared`."""
    draw = random.Random(0)
    clean = [[draw.randrange(100, 40_000) for _ in range(length)] for _ in range(PAIRS)]
    corrupted = [[*row[:shared], row[shared] + 1, *row[shared + 1 :]] for row in clean]
    return Task(f"differ-at-{shared}", clean, corrupted, [(5,)] * PAIRS, [(6,)] * PAIRS)  # type: ignore[arg-type]


def main() -> None:
    lm = vc.load("smollm2-135m")
    for parameter in lm.hf.parameters():
        parameter.requires_grad_(False)
    print(header("python benchmarks/estimates.py"))
    print(f"\n{PAIRS} pairs of 16 tokens in one batch, SmolLM2-135M, float32.\n")
    rows = []
    for shared in (9, 0):
        task = pairs(lm, shared)
        bare = reference(lm, task)
        for units in ("heads", "neurons"):
            ours = seconds(lambda task=task, units=units: vc.attribute(lm, task, units=units, show_progress=False))
            rows.append([shared, units, f"{bare:.2f}", f"{ours:.2f}", f"{ours / bare:.2f}"])
    print(table(["first differing position", "units", "bare passes s", "atp s", "ratio"], rows))


if __name__ == "__main__":
    main()

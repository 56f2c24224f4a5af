"""What a circuit's run costs against a bare forward of the same pairs: both runs recorded once, apart.

For random GPT-2 small (10 pairs of 16 tokens) and SmolLM2-135M (8 IOI pairs): the whole graph, every reader rewritten,
and circuits of the strongest 0.1% to 50% of the edges by |eap|; without and with the prefix that both prompts share.
Processor seconds of this process, the fastest of some runs, so that a busy machine matters little.

    python benchmarks/circuit_runs.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from common import header, table
from edges import pairs, random_model

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.circuits.runs.tapes import record_all
from veracausa.cost import Cost
from veracausa.engine.ablated import OtherRun
from veracausa.engine.attention import SUFFIX
from veracausa.engine.circuit_forward import CircuitForward, all_edges_mask, wiring_of
from veracausa.engine.guard import attention_function, borrowed
from veracausa.model import Model
from veracausa.tasks.task import Task

SHARES = (0.001, 0.01, 0.1, 0.5)


def processor_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Fastest of some runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


def ratios(lm: Model, task: Task) -> list[list[object]]:
    """Seconds of each circuit's run / seconds of a bare forward of the clean prompts."""
    lengths = {len(ids): [other for other in task.clean if len(other) == len(ids)] for ids in task.clean}
    batches = [torch.tensor(prompts) for prompts in lengths.values()]
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    ranking = np.array(scores.ranking("abs_mean"))
    masks = {"the whole graph": all_edges_mask(lm.graph)}
    for share in SHARES:
        kept = ranking[: round(share * len(ranking))]
        masks[f"{share:.1%} of the edges"] = scores.units[kept].mask
    rows: list[list[object]] = [[name] for name in masks]
    with borrowed(lm.decoder), torch.no_grad():
        bare = processor_seconds(lambda: [lm.hf(ids, logits_to_keep=1) for ids in batches])
        for share_prefix in (False, True):
            buckets, _ = record_all(lm, task, Cost(), share_prefix)
            runs = [
                (CircuitForward(lm.decoder, one.tape, OtherRun(lm.decoder, one.tape), Cost()), one.read)
                for one in buckets
            ]
            for row, mask in zip(rows, masks.values(), strict=True):
                wiring = wiring_of(lm.decoder, mask)

                def run(runs: list = runs, wiring: object = wiring) -> None:
                    with attention_function(lm.decoder, SUFFIX):
                        for forward, read in runs:
                            every = slice(0, len(forward.tape.examples))
                            read(forward(wiring, every), torch.arange(every.stop))

                row.append(f"{processor_seconds(run) / bare:.2f}")
    found = run_circuits(lm, task, list(masks.values()), show_progress=False)
    for row, metric in zip(rows, found.metric, strict=True):
        row.append(f"{float((metric - found.measured.corrupted).mean() / found.measured.gap.mean()):.3f}")
    return rows


def main() -> None:
    print(header("python benchmarks/circuit_runs.py"))
    smollm2 = vc.load("smollm2-135m", device="cpu")
    for lm, task in ((random_model(), pairs()), (smollm2, vc.tasks.ioi(smollm2, n=8))):
        print(f"\n{lm.name}, {len(task)} pairs of {task.name}; a bare forward of the clean prompts = 1.\n")
        print(table(["circuit", "nothing shared", "prefix shared", "f"], ratios(lm, task)))


if __name__ == "__main__":
    main()

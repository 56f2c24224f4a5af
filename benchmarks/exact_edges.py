"""The exact effect of every edge of SmolLM2-135M on one IOI pair, against one bare forward an edge.

What must be paid: an edge into block l runs the later blocks at the positions from the first that differs. The bare
way runs the whole prompt through all blocks once an edge, one row at a time; 30 such passes are timed in this run.
Finished pieces are kept in OUT, so that a killed run continues (its seconds are then those of the rest alone).

    python benchmarks/exact_edges.py --out out/exact-edges
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import header, peak_gib, seconds, table

import veracausa as vc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    lm = vc.load(chosen.model, device="cpu")
    task = vc.tasks.published_pair(lm)
    ids = torch.tensor(task.clean)
    with torch.no_grad():
        bare = seconds(lambda: lm.hf(ids, logits_to_keep=1), 30)
    before, began = peak_gib(), time.perf_counter()
    scores = vc.exact(lm, task, units="edges", out=chosen.out)
    took, tokens = time.perf_counter() - began, task.lengths[0]
    edges, full = len(scores), len(scores) * lm.layers * tokens
    print(header("python benchmarks/exact_edges.py"))
    print(f"\n{edges:,} edges, one pair of {tokens} tokens; a bare forward of one row takes {bare * 1e3:.1f} ms.\n")
    rows = [
        ["seconds", f"{took:,.0f}", f"{edges * bare:,.0f}", f"{edges * bare / took:.1f}×"],
        ["token-layers", f"{scores.cost.token_layers:,}", f"{full:,}", f"{full / scores.cost.token_layers:.2f}×"],
    ]
    print(table(["", "vc.exact", "bare forwards, one an edge", "ratio"], rows))
    print(f"\nPeak memory above what it was before: {peak_gib() - before:.2f} GiB.")


if __name__ == "__main__":
    main()

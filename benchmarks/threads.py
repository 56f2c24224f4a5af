"""Seconds of a forward and backward pass by threads and how they wait, the ways taking turns.

Each is a process of its own, since OpenMP reads its environment once: GPT-2 with 4 random blocks, 10 prompts of 16
tokens. Wall and processor seconds of one pass; what else the machine does counts, so its load stands beside them.

    python benchmarks/threads.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from statistics import median

from common import header, table

WAYS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads, 300,000 turns (OpenMP's own)": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "300000"},
    "2 threads, 1,000 turns (veracausa's)": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"},
    "2 threads, none (OMP_WAIT_POLICY=passive)": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
}
PASS = """
import time, torch
from transformers import GPT2Config, GPT2LMHeadModel
hf = GPT2LMHeadModel(GPT2Config(n_layer=4)).eval().requires_grad_(False)
ids = torch.randint(0, 40_000, (10, 16))
def both():
    embeddings = hf.get_input_embeddings()(ids).requires_grad_()
    hf(inputs_embeds=embeddings, logits_to_keep=1).logits[:, -1, 5].sum().backward()
both()
wall, processor = time.perf_counter(), time.process_time()
for _ in range(5):
    both()
print((time.perf_counter() - wall) / 5, (time.process_time() - processor) / 5)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    took = defaultdict(list)
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    loads = [os.getloadavg()[0]]
    for _ in range(rounds):
        for name, environment in WAYS.items():
            told = subprocess.run(
                [sys.executable, "-c", PASS], env=bare | environment, capture_output=True, text=True, check=True
            )
            took[name].append([float(word) for word in told.stdout.split()])
        loads.append(os.getloadavg()[0])
    print(header("python benchmarks/threads.py"))
    print(f"\nLoad of the machine (processes that run or wait) {min(loads):.1f} to {max(loads):.1f}.\n")
    rows = [
        [name, *(f"{median(column):.2f} ({min(column):.2f}–{max(column):.2f})" for column in zip(*own, strict=True))]
        for name, own in took.items()
    ]
    print(table(["", "wall s", "processor s"], rows))


if __name__ == "__main__":
    main()

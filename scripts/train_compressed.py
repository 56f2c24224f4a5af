"""Train the toy of compressed computation: y = x + B relu(A x), 32 functions x + relu(x) by 16 neurons, and store it.

    python scripts/train_compressed.py                      # writes the package's file
    python scripts/train_compressed.py --steps 100 --out out

(2501.14926, section 3.3.) Numbers are sparse: each is uniform in [−1, 1] with probability 2%, else 0. The loss is the
fourth power of y's error, under which all functions come out alike: about ¾ of relu(1), by five neurons each. With the
square, 0.495 of the error that no neuron leaves was left after 6,000 steps; sixteen neurons that compute sixteen
functions leave 0.5 of it, so that was as good as no compression. The script says what came out. Seeded: on one machine,
with one thread, every run gives the same file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

DATA = Path(__file__).parent.parent / "src" / "veracausa" / "ground_truth" / "data"
NUMBERS, NEURONS, ACTIVE, BATCH, RATE = 32, 16, 0.02, 4096, 3e-3


def drawn(rows: int, generator: torch.Generator) -> Tensor:
    """Sparse inputs."""
    size = (rows, NUMBERS)
    return (torch.rand(size, generator=generator) * 2 - 1) * (torch.rand(size, generator=generator) < ACTIVE)


def error(x: Tensor, inward: Tensor, outward: Tensor) -> Tensor:
    """Mean fourth power of y's error."""
    return ((x @ inward.T).relu() @ outward.T - x.relu()).pow(4).mean()


def trained(steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """A and B after so many steps, the rate falling to 0."""
    generator = torch.Generator().manual_seed(seed)
    inward = torch.randn(NEURONS, NUMBERS, generator=generator).div(NUMBERS**0.5).requires_grad_(True)
    outward = torch.randn(NUMBERS, NEURONS, generator=generator).div(NEURONS**0.5).requires_grad_(True)
    optimizer = torch.optim.Adam([inward, outward], lr=RATE)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        error(drawn(BATCH, generator), inward, outward).backward()
        optimizer.step()
        falls.step()
    return inward.detach(), outward.detach()


def main() -> None:
    """Train, say how good it is, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DATA)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    inward, outward = trained(asked.steps, asked.seed)
    alone = ((torch.eye(NUMBERS) @ inward.T).relu() @ outward.T).diag()
    print(f"relu(1) of each function alone: from {float(alone.min()):.2f} to {float(alone.max()):.2f}")
    asked.out.mkdir(parents=True, exist_ok=True)
    save_file({"inward": inward.contiguous(), "outward": outward.contiguous()}, asked.out / "compressed.safetensors")


if __name__ == "__main__":
    main()

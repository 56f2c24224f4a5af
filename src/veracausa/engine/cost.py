"""Token-layers: what a computation costs, as a count that does not depend on the machine.

One token through one block forward = 1; backward to its activations = 1 more (parameters are frozen). A block of
which only a part runs (the last block reads its MLP at one position only) is counted whole.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Cost:
    """Running count of token-layers; `full` = token-layers of one bare forward over the same prompts."""

    forward: int = 0
    backward: int = 0
    full: int = 0
    seconds: float = 0.0

    @property
    def token_layers(self) -> int:
        """Forward and backward token-layers together."""
        return self.forward + self.backward

    @property
    def forward_equivalents(self) -> float:
        """Token-layers in units of one bare forward pass over all the task's clean prompts."""
        return self.token_layers / self.full if self.full else float("nan")

    def add(self, rows: int, positions: int, backward: bool = False) -> None:
        """Count `rows` × `positions` tokens through one block."""
        self.forward += rows * positions
        if backward:
            self.backward += rows * positions

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            max(self.full, other.full),
            self.seconds + other.seconds,
        )

    @classmethod
    def from_dict(cls, counts: dict[str, float]) -> Cost:
        """What `to_dict` wrote."""
        whole = {name: int(counts[name]) for name in ("forward", "backward", "full")}
        return cls(**whole, seconds=float(counts["seconds"]))

    def to_dict(self) -> dict[str, float]:
        """Plain numbers for headers and tables."""
        return {
            "token_layers": self.token_layers,
            "forward": self.forward,
            "backward": self.backward,
            "full": self.full,
            "forward_equivalents": self.forward_equivalents,
            "seconds": self.seconds,
        }

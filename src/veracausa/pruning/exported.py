"""`Exported`: a smaller checkpoint that was written, and what it saves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from veracausa.words import plain

#: Tokens that both models run, to be compared and timed (rows, at most so many in each); how often they are timed.
TOKENS, TIMES = (4, 64), 3


@dataclass(frozen=True)
class Exported:
    """A folder with a smaller checkpoint, and what it saves.

    `before`, `after`: parameters. `padded`: parameters that were cut and are in the checkpoint all the same, since a
    config has one number for all layers. `seconds`: of the full and of the smaller model for the same tokens, the best
    of three runs. `off`: largest difference of logits from the model without the parts, as a share of the largest.
    """

    folder: Path
    before: int
    after: int
    padded: int
    counts: dict[str, int]
    seconds: tuple[float, float]
    off: float

    @property
    def faster(self) -> str:
        """How much less time the smaller model takes, in words; within 2 % both take the same."""
        share = 1 - self.seconds[1] / self.seconds[0]
        if abs(share) < 0.02:
            return "the same to 2 %"
        return f"{plain(100 * abs(share), 0)} % {'less' if share > 0 else 'more'} time"

    def describe(self) -> str:
        """In a few lines."""
        counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in self.counts.items())
        full, small = self.seconds
        pad = (
            f"; {self.padded:,} more were cut and stay as padding: per_layer=True leaves none of neurons and "
            "layers, and heads go in whole K/V groups, where the family's config has a number of them"
            if self.padded
            else ""
        )
        return "\n".join(
            [
                f"{self.folder}: {counts} (heads and neurons: of each layer)",
                f"{self.before:,} → {self.after:,} parameters ({plain(100 * (1 - self.after / self.before), 1)} % saved"
                f"{pad})",
                f"{plain(full, 3)} → {plain(small, 3)} s for the same tokens, best of {TIMES} ({self.faster})",
                f"logits are those of the model without the parts, to {self.off:.1g} of the largest",
            ]
        )

    __repr__ = describe

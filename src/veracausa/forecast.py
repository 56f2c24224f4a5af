"""Steps of long work with what they cost: told before it begins, compared with afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from veracausa.engine.cost import Cost


@dataclass(frozen=True)
class Step:
    """A step of the work, forecast or done: token-layers, in forward passes over its pairs, seconds (None: unknown).

    `batches`: of prompts that are recorded, each of which takes a while to begin. `kind`: which rate it runs at, as the
    forecast that made it names them ("gradients", "exact", …).
    """

    what: str
    kind: str
    token_layers: float
    passes: float
    seconds: float | None = None
    batches: int = 0

    @classmethod
    def done(cls, what: str, kind: str, cost: Cost) -> Step:
        """A step that has run."""
        return cls(what, kind, cost.token_layers, cost.forward_equivalents, cost.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        return asdict(self)


def told(steps: Sequence[Step]) -> str:
    """Steps as lines of text, with their sum."""
    rows = [(step.what, step.token_layers, step.passes, step.seconds) for step in steps]
    known = [step.seconds for step in steps if step.seconds is not None]
    total = sum(known) if known and len(known) == len(steps) else None
    rows.append(("together, about", sum(step.token_layers for step in steps), float("nan"), total))
    width = max(len(what) for what, *_ in rows)
    lines = [f"{'':<{width}}  token-layers  passes  seconds"]
    for what, count, passes, seconds in rows:
        shown = "" if passes != passes else f"{passes:,.1f}"
        last = "–" if seconds is None else f"{seconds:,.1f}"
        lines.append(f"{what:<{width}}  {count:>12,.0f}  {shown:>6}  {last:>7}")
    return "\n".join(lines)

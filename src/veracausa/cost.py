"""Token-layers: what a computation costs, as a count that does not depend on the machine.

One token through one block forward = 1; backward to its activations = 1 more (parameters are frozen). A block of
which only a part runs (the last block reads its MLP at one position only) is counted whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from veracausa.progress import duration
from veracausa.words import listed


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

    def describe(self) -> str:
        """The same in words: "12,345 token-layers = 3.2 forward passes, 0.4 s"."""
        return (
            f"{self.token_layers:,} token-layers = {self.forward_equivalents:,.1f} forward passes, {self.seconds:.1f} s"
        )

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


#: A step that takes less than this part of its forecast was read from finished pieces, and tells nothing about speed.
_READ = 0.1


@dataclass(frozen=True)
class Step:
    """A step of the work, forecast or done: token-layers, in forward passes over its pairs, seconds (None: unknown).

    `batches`: of prompts that are recorded, each of which takes a while to begin. `kind`: which rate it runs at, as the
    forecast that made it names them ("gradients", "exact", …). `most`: token-layers at most, where what will be run
    shows only on the way (None: just as many as forecast). `supposing`: what the forecast takes for granted ("").
    """

    what: str
    kind: str
    token_layers: float
    passes: float
    seconds: float | None = None
    batches: int = 0
    most: float | None = None
    supposing: str = ""

    @classmethod
    def done(cls, what: str, kind: str, cost: Cost) -> Step:
        """A step that has run."""
        return cls(what, kind, cost.token_layers, cost.forward_equivalents, cost.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        return asdict(self)


def bounds(work: Any) -> dict[str, Any]:
    """What a work says of its forecast, as fields of its step: token-layers at most, and what is supposed."""
    if not hasattr(work, "at_most"):
        return {}
    return {"most": work.at_most(), "supposing": getattr(work, "supposing", "")}


def told(steps: Sequence[Step], *besides: str) -> str:
    """Steps as lines of text, with their sum, and what their seconds leave out (`besides`: further parts)."""
    rows = [(step.what, step.token_layers, step.passes, step.seconds) for step in steps]
    total = _sum(steps)
    rows.append(("together, about", sum(step.token_layers for step in steps), float("nan"), total))
    width = max(len(what) for what, *_ in rows)
    lines = [f"{'':<{width}}  token-layers  passes  seconds"]
    for what, count, passes, seconds in rows:
        shown = "" if passes != passes else f"{passes:,.1f}"
        last = "–" if seconds is None else f"{seconds:,.1f}"
        lines.append(f"{what:<{width}}  {count:>12,.0f}  {shown:>6}  {last:>7}")
    more = [step for step in steps if step.most is not None and step.most > step.token_layers]
    if more:
        most = sum(step.token_layers if step.most is None else step.most for step in steps)
        names = listed([step.what for step in more])
        lines.append(f"token-layers at most: {most:,.0f}, by what is found on the way ({names})")
        lines += [f"supposed: {one}" for one in dict.fromkeys(step.supposing for step in more) if one]
    if total is not None:
        without = ", ".join(("loading the model", "timing it", *besides))
        lines.append(
            f"seconds: at the speed that this machine had just now, corrected as steps end; left out: {without}"
        )
    return "\n".join(lines)


def corrected(plan: Sequence[Step], done: Sequence[Step]) -> list[Step]:
    """The steps that are left, with the seconds that they will take as far as the finished ones tell.

    `plan`: all steps with their forecast; `done`: the first of them with what they took.

    >>> plan = [Step("heads", "exact", 1000, 2, seconds=10), Step("neurons", "exact", 2000, 4, seconds=20)]
    >>> corrected(plan, [replace(plan[0], seconds=27)])[0].seconds
    54.0
    """
    pairs = [
        (one.kind, one.seconds, took.seconds)
        for one, took in zip(plan, done, strict=False)
        if one.seconds and took.seconds is not None and took.seconds >= _READ * one.seconds
    ]

    def ratio(kind: str) -> float:
        own = [pair for pair in pairs if pair[0] == kind] or pairs
        return sum(taken for *_, taken in own) / sum(seconds for _, seconds, _ in own) if own else 1.0

    return [
        one if one.seconds is None else replace(one, seconds=one.seconds * ratio(one.kind)) for one in plan[len(done) :]
    ]


def after(plan: Sequence[Step], done: Sequence[Step]) -> str:
    """What to say when a step has ended: what it took, and what the others will about take now.

    "step 2 of 9 took 27 s (forecast 10 s): … · 7 steps left, about 1 min 54 s (42 s before)"
    """
    last, was, rest = done[-1], plan[len(done) - 1], corrected(plan, done)
    forecast = "" if was.seconds is None else f" (forecast {duration(was.seconds)})"
    text = f"step {len(done)} of {len(plan)} took {duration(last.seconds or 0)}{forecast}: {last.what}"
    if not rest:
        return text
    text += f" · {len(rest)} step{'' if len(rest) == 1 else 's'} left"
    known, before = _sum(rest), _sum(corrected(plan, done[:-1])[1:])
    return text if known is None or before is None else f"{text}, about {duration(known)} ({duration(before)} before)"


def _sum(steps: Sequence[Step]) -> float | None:
    """Seconds of all steps; None where those of one are unknown."""
    known = [step.seconds for step in steps if step.seconds is not None]
    return sum(known) if len(known) == len(steps) and known else None

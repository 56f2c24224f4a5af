"""How well a dictionary fits, in figures; made by `dic.check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.cost import Cost
from veracausa.result import Shown
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, maybe, number, reading, record, text, whole
from veracausa.words import plain, signed

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "veracausa-dictionary-quality-1"
_FIGURES = (
    "residue", "variance_explained", "active", "dead", "cross_entropy", "with_reconstruction", "with_mean", "with_zero",
)  # fmt: skip
_GAPS = ("gap", "gap_kept")
_HEADER = record(
    dictionary=text, site=text, digest=text, tokens=whole(1), model=MODEL, task=TASK, cost=cost,
    **dict.fromkeys(_FIGURES, number(nan=True)), **dict.fromkeys(_GAPS, maybe(number(nan=True))),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Quality(Shown):
    """Figures of one dictionary on some texts (`dic.check(lm, texts)`); NaN where there is nothing to divide by.

    `residue`: largest |ŷ + ε − y| in units of the largest |y|, which rounding alone makes. `cross_entropy` and its
    sisters: nats a token. `gap`, `gap_kept`: the metric's mean gap of the model as it is, and with ŷ; None of texts.
    `dictionary`, `site`, `digest`: which it is, in words and by a hash.

    >>> found = dic.check(lm, vc.tasks.ioi(lm, n=16))
    >>> found.variance_explained, found.table()
    """

    dictionary: str
    site: str
    digest: str
    tokens: int
    residue: float
    variance_explained: float
    active: float
    dead: float
    cross_entropy: float
    with_reconstruction: float
    with_mean: float
    with_zero: float
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost
    gap: float | None = None
    gap_kept: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Which dictionary it is about."""
        return {"dictionary": self.dictionary, "dictionary_digest": self.digest}

    @property
    def recovered(self) -> float:
        """Loss recovered, against the mean."""
        return share_of(self.with_mean - self.with_reconstruction, self.with_mean - self.cross_entropy)

    @property
    def recovered_from_zero(self) -> float:
        """Loss recovered, against 0."""
        return share_of(self.with_zero - self.with_reconstruction, self.with_zero - self.cross_entropy)

    @property
    def gap_share(self) -> float | None:
        """How much of a task's gap is left with ŷ in the place of y in both runs; None of texts."""
        return None if self.gap is None or self.gap_kept is None else share_of(self.gap_kept, self.gap)

    def figures(self) -> dict[str, float]:
        """All numbers by name, rounded to four places."""
        names = ("tokens", *_FIGURES, *_GAPS, "recovered", "recovered_from_zero")
        found = {name: getattr(self, name) for name in names}
        return {name: round(value, 4) for name, value in found.items() if value is not None}

    def table(self) -> pd.DataFrame:
        """One row a figure, with what it is."""
        import pandas as pd

        return pd.DataFrame(self._lines(), columns=["figure", "value", "what it is"])

    def _lines(self) -> list[tuple[str, float, str]]:
        lines = [
            ("variance explained", self.variance_explained, "1 − Σ‖ε‖² / Σ‖y − mean y‖²"),
            ("active features", self.active, "mean of a token"),
            ("dead features", self.dead, "share, active at no token"),
            ("cross-entropy", self.cross_entropy, "of the model as it is, nats a token"),
            ("… with ŷ", self.with_reconstruction, "the reconstruction in the place of y"),
            ("… with the mean", self.with_mean, "y's mean at every token"),
            ("… with 0", self.with_zero, "nothing in the place of y"),
            ("loss recovered", self.recovered, "against the mean"),
            ("… against 0", self.recovered_from_zero, "against 0"),
            ("largest residue", self.residue, "|ŷ + ε − y| / largest |y|"),
        ]
        if self.gap is not None and self.gap_kept is not None:
            lines += [("gap", self.gap, "mean M(clean) − M(corrupted), of the model as it is"),
                      ("… with ŷ", self.gap_kept, "in both runs")]  # fmt: skip
        return lines

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is explained, and what the model loses with the reconstruction."""
        lost = self.with_reconstruction - self.cross_entropy
        said = [
            f"The dictionary of {self.site} explains {plain(100 * self.variance_explained, 0)} % of the variance of "
            f"these prompts’ activations with {plain(self.active, 1)} active features a token.",
            f"With the reconstruction in their place cross-entropy changes by {signed(lost)} nats a token "
            f"({self.tokens:,} tokens); {plain(100 * self.recovered, 0)} % of the loss is recovered against the mean.",
        ]
        if self.gap_share is not None:
            said.append(
                f"Of the task’s gap {plain(100 * self.gap_share, 0)} % is left; the rest is in what it leaves out."
            )
        return tuple(said)

    def describe(self) -> str:
        """What these figures are about."""
        return "\n".join(
            [f"Quality of {self.dictionary} on {self.tokens:,} tokens", f"model   {self.model['source']}",
             f"texts   {self.task['description']}", f"cost    {self.cost.describe()}"]
        )  # fmt: skip

    def __repr__(self) -> str:
        rows = "\n".join(f"  {name:<20}{value:>10.4g}   {what}" for name, value, what in self._lines())
        return f"Quality of {self.dictionary} on {self.tokens:,} tokens\n{rows}"

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        names = ("dictionary", "site", "digest", "tokens", *_FIGURES, *_GAPS, "model", "task")
        return write_tensors(
            path, FORMAT, {name: getattr(self, name) for name in names} | {"cost": self.cost.to_dict()}, {}
        )


def share_of(part: float, whole: float) -> float:
    """A part of a whole; NaN of nothing."""
    return part / whole if whole else float("nan")


def load_quality(path: str | Path) -> Quality:
    """Read what `Quality.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("quality.safetensors").variance_explained
    """
    header, _ = read_tensors(path, FORMAT)
    with reading(at(path)):
        return Quality(**_HEADER(header))

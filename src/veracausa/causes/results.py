"""What `vc.causes.disagreement` returns: the differences, and the causes that they name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from veracausa.causes.differences import _FORMAT, LABELS, RATED, Differences, Place
from veracausa.causes.naming import Cause, name_cause
from veracausa.causes.telling import told
from veracausa.result import Shown
from veracausa.scores.bundles import read_all, write_all
from veracausa.scores.files import same_table
from veracausa.storage.files import at
from veracausa.storage.schema import cost, one_of, reading, text


@dataclass(frozen=True, eq=False)
class Disagreement(Differences, Shown):
    """Scores of the same units by several methods, their differences, and the causes of the outliers.

    >>> found = vc.causes.disagreement(lm, task)
    >>> found.causes[0].sentences
    """

    @property
    def model(self) -> dict[str, str]:
        """The model of the scores."""
        return self.scores["exact"].model

    @property
    def task(self) -> dict[str, Any]:
        """The task of the scores."""
        return self.scores["exact"].task

    @property
    def settings(self) -> dict[str, Any]:
        """How each of the scores was made."""
        return {name: one.settings for name, one in self.scores.items()}

    @cached_property
    def causes(self) -> tuple[Cause, ...]:
        """The cause of every outlier of every rated method, the farthest first, method by method."""
        return tuple(
            self.cause(unit, method) for method in RATED if method in self.scores for unit in self.outliers(method)
        )

    def cause(self, unit: str, method: str = "atp") -> Cause:
        """Why a method disagrees with the exact effect of a unit: see `causes.naming`.

        Raises:
            MethodError: the method is not among those that are rated. UnitError: no such unit.
        """
        return name_cause(self, unit, method)

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """What a researcher would write about all units together."""
        return told(self, self.causes)

    def describe(self) -> str:
        """What these numbers are, line by line."""
        exact = self.scores["exact"]
        plural = "" if self.n == 1 else "s"
        lines = [
            f"disagreement · {len(self.units):,} {self.units.kind} · {', '.join(LABELS[name] for name in self.scores)}",
            f"model   {exact.model['source']}",
            f"task    {exact.task['description']}",
            "sign    noising: negative means that the unit supported the behaviour; shares of the mean gap",
            f"n       {self.n} pair{plural}; metric {exact.clean.mean():+.3f} clean, {exact.corrupted.mean():+.3f} "
            "corrupted",
            f"cost    {self.cost.token_layers:,} token-layers, {self.cost.seconds:.1f} s",
            *(f"caution {caution}" for caution in exact.cautions),
            "trust   exact: exact, last-in and direct effects; the estimates are compared with them here",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        places = {unit: {"cause": one.cause, "sentence": one.sentence} for unit, one in self.locations.items()}
        return write_all(path, _FORMAT, {"cost": self.cost.to_dict(), "locations": places}, self.scores)


def load_disagreement(path: str | Path) -> Disagreement:
    """Read what `Disagreement.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("out/disagreement.safetensors").sentences
    """
    header, scores = read_all(path, _FORMAT)
    with reading(at(path)):
        same_table(scores)
        for name in scores:
            one_of("exact", "atp", "ig", "last-in", "direct", "ig-zero", "shapley")(name)
        for name in ("exact", "atp", "ig", "last-in", "direct"):
            scores[name]
        places: dict[str, Any] = {
            text(unit): Place(**{name: text(place[name]) for name in ("cause", "sentence")})
            for unit, place in header["locations"].items()
        }
        return Disagreement(scores, cost(header["cost"]), places)

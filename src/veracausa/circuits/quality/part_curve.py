"""Circuits of features: how faithful and how complete are the strongest parts of a ranking, size by size.

    faithfulness(C) = (m(C) − m(∅)) / (m(M) − m(∅))        all parts outside of C replaced
    completeness(C) = (m(M∖C) − m(∅)) / (m(M) − m(∅))      all parts of C replaced; 0 where nothing is left without C

(Marks et al. 2403.19647), means over pairs above and below the line; ∅: every part of the ranking replaced, M: none.
A circuit is one set of parts, patched at once with all that follows live (`units.groups`). Errors of dictionaries are

* "node": parts like features, ranked with them;
* "kept": the model's own in every run, also in ∅;
* "moved": replaced in every run but M's, as the features outside are (under zero ablation: left out), so that the
  circuit of all features says what the dictionaries hold of the behaviour. Errors of dictionaries that the ranking
  has no part of stay as they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from veracausa.arguments import rising_sizes, shown
from veracausa.choices import Ablation
from veracausa.circuits.featured import FeatureCircuit
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.dictionaries.words import ERROR
from veracausa.effects.exact import ExactWork, exact
from veracausa.engine.work import Derived, gives
from veracausa.errors import MethodError, UnitError
from veracausa.scores.bundles import read_all, write_all
from veracausa.scores.made_of import MadeOfScores
from veracausa.scores.scores import Scores
from veracausa.statistics.ratios import ratios
from veracausa.storage.files import at
from veracausa.storage.schema import many, one_of, reading, record, text, whole
from veracausa.tasks.references import Reference
from veracausa.units.kinds import KINDS
from veracausa.words import counted, share

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

Errors = Literal["node", "kept", "moved"]
ERRORS: tuple[Errors, ...] = ("node", "kept", "moved")
_EMPTY = "∅"


@dataclass(frozen=True, eq=False)
class PartCurve(MadeOfScores):
    """Circuits of the strongest parts of a ranking. `ranked`: the parts' names, strongest first; `sizes`: how many of
    them each circuit has; `errors`: what was done with errors; `scores`: the exact effects of all sets that were run,
    `"outside 10"` (faithfulness) and `"inside 10"` (completeness), and "∅".

    >>> curve = vc.circuits.part_curve(lm, task, vc.attribute(lm, task, units="features"), sizes=(10, 100))
    >>> curve.table()
    """

    ranked: tuple[str, ...]
    sizes: tuple[int, ...]
    errors: Errors
    scores: Scores

    @property
    def parts(self) -> tuple[Scores]:
        """The scores that it is made of; the ranking cost its own."""
        return (self.scores,)

    @property
    def settings(self) -> dict[str, Any]:
        """What replaces the parts outside of a circuit, the dictionaries, and what was done with errors."""
        return {**self.scores.settings, "errors": self.errors}

    def _kept(self, sets: str) -> tuple[Float[Tensor, " sizes"], Float[Tensor, " sizes"]]:
        """1 − E(set) / E(∅) of each size, and its standard error over pairs (NaN: not known)."""
        names = self.scores.units.names
        columns = [names.index(f"{sets} {size}") for size in self.sizes if f"{sets} {size}" in names]
        below = self.scores.values[:, names.index(_EMPTY)].double()
        gone, error, _ = ratios(self.scores.values[:, columns].double(), below)
        found, spread = below.new_zeros(2, len(self.sizes))
        here = [i for i, size in enumerate(self.sizes) if f"{sets} {size}" in names]
        found[here], spread[here] = gone, error
        return 1 - found, spread

    @property
    def faithfulness(self) -> Float[Tensor, " sizes"]:
        """Of each circuit: 1 is the model's behaviour, 0 that of the model without all parts."""
        return self._kept("outside")[0]

    @property
    def completeness(self) -> Float[Tensor, " sizes"]:
        """Faithfulness of what is left when each circuit is taken out: 0 where the circuit is all there is."""
        return self._kept("inside")[0]

    def table(self) -> pd.DataFrame:
        """One row per size: parts, faithfulness and completeness with their standard errors over pairs."""
        import pandas as pd

        columns: dict[str, Any] = {"parts": self.sizes}
        for name, sets in (("faithfulness", "outside"), ("completeness", "inside")):
            value, error = self._kept(sets)
            columns |= {name: value.numpy(), f"{name}_stderr": error.numpy()}
        return pd.DataFrame(columns)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the smallest and the largest circuit hold, from how many parts on half is there, what errors were."""
        rows = self.table()
        first, last, over = rows.iloc[0], rows.iloc[-1], counted(self.scores.n, "pair")
        half = rows["parts"][rows["faithfulness"] >= 0.5]
        there = (
            f"half of the behaviour is there with {int(half.iloc[0]):,}" if len(half) else "no size holds half of it"
        )
        holds = "holds" if int(first["parts"]) == 1 else "hold"
        parts = f"T{_strongest(first)[1:]} of {len(self.ranked):,} parts {holds} {_share(first)}"
        more = "" if len(rows) == 1 else f", {_strongest(last)} {_share(last)}"
        without = share(float(last["completeness"]), float(last["completeness_stderr"]))
        return (
            f"{parts} of the behaviour{more}; {there} ({over}, {self.settings['ablation']} ablation).",
            f"Without {_strongest(last)} {without} of it is left.",
            _SAID[self.errors],
        )

    def describe(self) -> str:
        """What was run, and the table."""
        settings = self.scores.settings
        return (
            f"circuits of the strongest of {len(self.ranked):,} parts · errors {self.errors} · ablation "
            f"{settings['ablation']} · {self.scores.n:,} pairs · {settings['dictionary']}\n"
            f"{self.table().to_string(index=False, float_format='{:.3f}'.format)}"
        )

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {"ranked": list(self.ranked), "sizes": list(self.sizes), "errors": self.errors}
        return write_all(path, FORMAT, header, {"sets": self.scores})

    def __repr__(self) -> str:
        return self.describe()


FORMAT = "veracausa-part-curve-1"
_HEADER = record(ranked=many(text, least=1), sizes=many(whole(), least=1), errors=one_of(*ERRORS))
_SAID = {
    "node": "Errors of dictionaries are parts like features.",
    "kept": "Errors of dictionaries are the model's own in every run, so that nothing is said of them.",
    "moved": "Errors of dictionaries are replaced in every run, so that circuits say what features hold.",
}


def _strongest(row: Any) -> str:
    count = int(row["parts"])
    return "the strongest one" if count == 1 else f"the {count:,} strongest"


def _share(row: Any) -> str:
    return share(float(row["faithfulness"]), float(row["faithfulness_stderr"]))


def load_part_curve(path: str | Path) -> PartCurve:
    """Read what `PartCurve.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, scores = read_all(path, FORMAT)
    with reading(at(path)):
        found, sets = _HEADER(header), scores["sets"]
        sizes = found["sizes"]
        if list(sizes) != sorted({*sizes}) or sizes[-1] > len(found["ranked"]):
            raise ValueError("its sizes do not rise, or are more than its parts")
        wanted = {_EMPTY, *(f"outside {size}" for size in sizes if size < len(found["ranked"]))}
        if not wanted <= {*sets.units.names}:
            raise ValueError("it lacks the effects of some of its circuits")
        return PartCurve(tuple(found["ranked"]), tuple(sizes), found["errors"], sets)


@dataclass(frozen=True, eq=False)
class PartCurveWork(Derived):
    """The exact effects of all sets of a curve, and what follows from them; see `part_curve`."""

    effects: ExactWork
    ranked: tuple[str, ...]
    sizes: tuple[int, ...]
    errors: Errors

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> PartCurve:
        """Run all sets."""
        return PartCurve(self.ranked, self.sizes, self.errors, self.effects.run(show_progress, out))


@gives(PartCurve)
def part_curve(
    lm: Model,
    task: Task,
    scores: Scores | Sequence[Scores] | FeatureCircuit,
    *,
    sizes: Sequence[int] | None = None,
    errors: Errors = "node",
    by: Literal["abs_mean", "importance"] = "abs_mean",
    ablation: Ablation = "counterfactual",
    reference: Reference | None = None,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    rows: int | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> PartCurveWork:
    """Faithfulness and completeness of circuits of features (with errors, skips), of several sizes.

    Args:
        scores: a ranking of parts of dictionaries, exact or estimated, at all positions or one by one; or several, of
            dictionaries of several names, which are ranked together; or a circuit, whose nodes they then are.
        sizes: how many parts each circuit has (default: about six, each three times the one before, and all; of a
            circuit its own).
        errors: "node", "kept" or "moved"; see the module.
        by: strongest by |mean| or by signed importance.
        ablation, reference, rows, out, memory, show_progress: as in `vc.exact`.
        dictionary: where none is laid on the model.

    Raises:
        UnitError: the scores are not of parts of dictionaries, or leave no part to rank. MethodError: see each message.

    >>> vc.circuits.part_curve(lm, task, vc.exact(lm, task, units="features"), errors="moved").chart()
    """
    if isinstance(scores, FeatureCircuit):
        rankings, sizes = list(scores.nodes), (len(scores.parts),) if sizes is None else sizes
    else:
        rankings = [scores] if isinstance(scores, Scores) else list(scores)
    for one in rankings:
        if not (one.units.kind in KINDS and KINDS[one.units.kind].coded):
            raise UnitError(f"part_curve ranks parts of dictionaries; these scores are of {one.units.kind}.")
    if errors not in ERRORS:
        raise MethodError(f"errors={shown(errors)} is not known. Known: {', '.join(ERRORS)}.")
    ranked, moved = _ranked(rankings, errors, by)
    counts = rising_sizes(sizes, len(ranked))
    sets = {_EMPTY: [*ranked, *moved]}
    sets |= {f"outside {size}": [*ranked[size:], *moved] for size in counts}
    sets |= {f"inside {size}": [*ranked[:size], *moved] for size in counts}
    groups = {name: parts for name, parts in sets.items() if parts}
    asked: dict[str, Any] = {"ablation": ablation, "reference": reference, "dictionary": dictionary, "rows": rows}
    return PartCurveWork(exact.work(lm, task, units=groups, **asked), ranked, counts, errors)


def _ranked(rankings: Sequence[Scores], errors: Errors, by: str) -> tuple[tuple[str, ...], list[str]]:
    """The parts that are ranked, strongest first, and the errors that move in every run."""
    names = [name for one in rankings for name in one.units.names]
    if len({*names}) < len(names):
        raise UnitError("The rankings hold some part twice. Give one of each kind of parts.")
    is_error = np.concatenate([one.units.index == ERROR for one in rankings])
    apart = np.zeros_like(is_error) if errors == "node" else is_error
    means = [one.mean().abs() if by == "abs_mean" else one.importance() for one in rankings]
    strength = np.nan_to_num(np.concatenate([one.double().numpy() for one in means]), nan=-np.inf)
    ranked = tuple(names[i] for i in np.argsort(-strength, kind="stable").tolist() if not apart[i])
    if not ranked:
        raise UnitError("There is no part to rank: all are errors, which are not nodes here.")
    return ranked, [names[i] for i in np.flatnonzero(apart)] if errors == "moved" else []

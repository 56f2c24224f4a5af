"""Files of agreements and stabilities: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from veracausa.scores import agreement as agreements
from veracausa.scores import comparison as comparisons
from veracausa.scores import stable
from veracausa.scores.agreement import Agreement
from veracausa.scores.bundles import read_all, read_with_tensors
from veracausa.scores.comparison import Compared, Comparison
from veracausa.scores.stable import Stability
from veracausa.storage.files import at, read_tensors
from veracausa.storage.schema import (
    MODEL,
    TASK,
    flag,
    many,
    mapped,
    maybe,
    number,
    reading,
    record,
    require_tensors,
    text,
    whole,
)

_FIGURE = number(nan=True)
_AGREEMENT = record(
    method=text,
    signed=flag,
    strong=whole(),
    sign_errors=whole(),
    model=MODEL,
    task=TASK,
    settings=record(),
    residual=maybe(number(0)),
    n=whole(1),
    fewest=whole(),
    unit=text,
    names=many(text, least=1),
    intervals=mapped(many(_FIGURE, 2)),
    cautions=many(text),
    **dict.fromkeys(
        ("r", "spearman", "slope", "median_error", "bias", "sd", "proportional_bias", "proportional_p"), _FIGURE
    ),
)
_CURVE = many(many(number(0), 2), least=1)
_COMPARISON = record(
    compared=many(record(title=text, paired=flag, alone=many(whole(), 2)), least=1), left=many(text)
)  # fmt: skip
_STABILITY = record(
    top=whole(1), by=text, bar=number(0, 1), draws=whole(2), seed=whole(), jaccard=number(0, 1),
    bootstrap=_CURVE, fresh=_CURVE,
)  # fmt: skip


def load_agreement(path: str | Path) -> Agreement:
    """Read an agreement that `Agreement.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, agreements.FORMAT)
    with reading(at(path)):
        found = _AGREEMENT(header)
        require_tensors(tensors, dict.fromkeys(("exact", "estimate"), "finite units"), units=len(found["names"]))
        parts: dict[str, Any] = {name: found[name] for name in (*agreements.PLAIN, "names", "cautions")}
        return Agreement(
            exact=tensors["exact"].numpy(),
            estimate=tensors["estimate"].numpy(),
            intervals={name: (low, high) for name, (low, high) in found["intervals"].items()},
            against=text(found.get("against", agreements.EXACT)),  # not in files of the first days
            **parts,
        )


def load_comparison(path: str | Path) -> Comparison:
    """Read a comparison that `Comparison.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, scores = read_all(path, comparisons.FORMAT)
    with reading(at(path)):
        found = _COMPARISON(header)
        compared = tuple(
            Compared(row["title"], scores[f"one{i}"], scores[f"other{i}"], row["paired"], tuple(row["alone"]))
            for i, row in enumerate(found["compared"])
        )
        for one in compared:
            if one.one.units.keys != one.other.units.keys:
                raise ValueError(f"{one.title}: not the same units in both")
        return Comparison(compared, tuple(found["left"]))


def load_stability(path: str | Path) -> Stability:
    """Read a stability that `Stability.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, scores, tensors = read_with_tensors(path, stable.FORMAT)
    with reading(at(path)):
        found, units = _STABILITY(header), scores["scores"]
        require_tensors(tensors, {"probability": "finite units"}, units=len(units))
        units.ranking(found["by"])  # refuses another way to rank
        parts: dict[str, Any] = {name: found[name] for name in (*stable.Stability.ASKED, "jaccard")}
        parts |= {name: {int(size): share for size, share in found[name]} for name in ("bootstrap", "fresh")}
        return Stability(scores=units, probability=tensors["probability"], **parts)

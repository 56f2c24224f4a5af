"""The sentences about all units of a `Disagreement`, each made from its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from veracausa.causes.differences import LABELS, RATED
from veracausa.units.kinds import in_words
from veracausa.words import listed

if TYPE_CHECKING:
    from veracausa.causes.differences import Differences
    from veracausa.causes.naming import Cause

#: Units under this share of the gap are not spoken of.
STRONG = 0.01


def told(found: Differences, causes: Sequence[Cause]) -> tuple[str, ...]:
    """Outliers and their causes, what interactions, later units and baselines do, who agrees with whom."""
    over = f"{len(found.units):,} {in_words(found.units.kind)}, n = {found.n} pair{'' if found.n == 1 else 's'}"
    said = [_outliers(found, causes, over), _sites(found), _downstream(found)]
    if "baseline" in found.figures:
        said.append(_baseline(found))
    if "shapley" in found.scores:
        said.append(_shapley(found))
    if found.n == 1:
        said.append("One pair: no standard error is known, so that every cause is named for this pair alone.")
    return tuple(said)


def _outliers(found: Differences, named: Sequence[Cause], over: str) -> str:
    parts = []
    for method in (name for name in RATED if name in found.scores):
        counts = Counter(cause.cause for cause in named if cause.method == method)
        causes = listed([f"{cause} ({count})" for cause, count in counts.most_common()])
        many = sum(counts.values())
        outliers = "outlier" if many == 1 else "outliers"
        parts.append(f"{LABELS[method]} has {many or 'no'} {outliers}{': ' if causes else ''}{causes}")
    return f"Causes of the units that a method gets most wrong ({over}): {'; '.join(parts)}."


def _sites(found: Differences) -> str:
    names = found.units.names
    strong = [i for i in range(len(names)) if max(_size(found, "exact", i), _size(found, "last-in", i)) > STRONG]
    kinds = {i: found.kind(names[i]) for i in strong}
    redundant = [i for i in strong if kinds[i] == "redundancy"]
    synergetic = [i for i in strong if kinds[i] == "synergy"]
    text = (
        f"Of {len(strong)} {in_words(found.units.kind)} worth over {STRONG:.0%} of the gap, alone or last-in, "
        f"{len(redundant)} {'is' if len(redundant) == 1 else 'are'} clearly redundant "
        f"within the layer and {len(synergetic)} synergetic"
    )
    if redundant:
        most = max(redundant, key=lambda i: _size(found, "pairwise", i))
        first, last = found.shares("exact")[most], found.shares("last-in")[most]
        text += f"; {names[most]} is worth {first} alone and {last} when the rest of its layer is gone"
    x, y = (np.array([s.value for s in found.shares(name)]) for name in ("pairwise", "interaction"))
    if np.ptp(x) and np.ptp(y):
        r, slope = float(np.corrcoef(x, y)[0, 1]), float(np.polyfit(x, y, 1)[0])
        text += f". IG − E follows ½ (F − E), what pairs of units would give, with r = {_plain(r)}, "
        text += f"slope {_plain(slope)}"
    return text + "."


def _downstream(found: Differences) -> str:
    names = found.units.names
    strong = [i for i in range(len(names)) if _size(found, "direct", i) > STRONG]
    covered = [i for i in strong if found.backed_up(names[i])]
    text = (
        f"Of {len(strong)} {in_words(found.units.kind)} with a direct effect over {STRONG:.0%} of the gap, later units "
        f"clearly work against {len(covered)}"
    )
    if covered:
        most = max(covered, key=lambda i: _size(found, "downstream", i))
        text += f", most for {names[most]} (direct {found.shares('direct')[most]}, exact {found.shares('exact')[most]})"
    return text + "."


def _baseline(found: Differences) -> str:
    most = int(np.argmax([abs(share.value) for share in found.shares("baseline")]))
    return (
        f"Zero in place of the corrupted prompt moves integrated gradients most for {found.units.names[most]}: "
        f"{found.shares('ig-zero')[most]} instead of {found.shares('ig')[most]}."
    )


def _shapley(found: Differences) -> str:
    values = {name: np.array([s.value for s in found.shares(name)]) for name in ("shapley", "exact", "last-in", "ig")}
    middle = values | {"½ (E + F)": (values["exact"] + values["last-in"]) / 2}
    far = {
        name: float(np.abs(middle[name] - values["shapley"]).mean()) for name in ("exact", "last-in", "ig", "½ (E + F)")
    }
    told = listed([f"{LABELS.get(name, name)} {value:.4f}" for name, value in sorted(far.items(), key=lambda x: x[1])])
    permutations = found.scores["shapley"].settings["permutations"]
    how = "all coalitions" if permutations == "all" else f"{permutations} permutations a pair"
    return f"Mean distance from the Shapley values ({how}), as a share of the gap: {told}."


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _size(found: Differences, name: str, unit: int) -> float:
    return abs(found.shares(name)[unit].value)

"""Numbers as text, and the sentence under every figure, made from the figure's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from veracausa.report.charts.data import Row, plural
from veracausa.report.charts.scatters import RINGED
from veracausa.scores.agreement import Agreement, strongest_of
from veracausa.scores.scores import METRIC
from veracausa.studies.results import Panel
from veracausa.words import joined, p_value, plain, signed, whole


def map_sentence(
    kind: str,
    names: Sequence[str],
    exact: np.ndarray,
    estimates: dict[str, np.ndarray],
    limit: float,
    unit: str = " of the gap",
) -> str:
    """The strongest unit, what methods make of it, and whether colours are cut off; `unit`: " of the gap", or ""."""
    best = int(np.argmax(np.abs(np.nan_to_num(exact))))
    says = joined([f"{label} gives it {signed(float(values[best]))}" for label, values in estimates.items()])
    text = f"Replacing {names[best]} changes the metric most, by {signed(float(exact[best]))}{unit}"
    text += f"; {says}." if estimates else "."
    over = [
        f"{label} ({whole(int((np.abs(values) > limit * 1.0001).sum()))})"
        for label, values in estimates.items()
        if (np.abs(values) > limit * 1.0001).any()
    ]
    if over:
        text += f" The scale ends at the largest exact effect; {plural(kind)} beyond it have the end colour: "
        text += f"{joined(over)}."
    return text


def scatter_sentence(kind: str, agreements: Sequence[Agreement], drawn: int) -> str:
    """Which method is nearest to the diagonal, and which units are farthest from it."""
    ranked = sorted(agreements, key=lambda a: -math.inf if math.isnan(a.r) else a.r, reverse=True)
    figures = [f"{a.method} r {plain(a.r)}" + (f", slope {plain(a.slope, 2)}" if a.signed else "") for a in ranked]
    text = f"On the dashed diagonal a method would be right: {'; '.join(figures)}. "
    worst = ranked[-1]
    if others := [f"{a.method} ({a.unit})" for a in agreements if a.unit != METRIC]:
        text += f"In units of their own, for which the diagonal says nothing: {joined(others)}. "
    if worst.outliers:
        many = max(len(a.outliers) for a in ranked) > RINGED
        text += (
            f"Ringed {plural(kind)} lie outside bias ± 1.96 SD{f' (the {RINGED} farthest)' if many else ''}; for "
            f"{worst.method} farthest off are {joined(worst.outliers[:3])}."
        )
    count = len(ranked[0].names)
    if drawn < count:
        text += (
            f" Of {whole(count)} {plural(kind)} {whole(drawn)} are drawn: all extreme ones; the weak middle is thinned."
        )
    return text


def difference_sentence(kind: str, agreements: Sequence[Agreement]) -> str:
    """How many units lie outside the limits, and whether the difference grows with the effect."""
    agreements = [a for a in agreements if a.unit == METRIC]
    if not agreements:
        return "No method gives effects on the metric, so their sizes are not compared."
    count = len(agreements[0].names)
    outside = [
        f"{a.method} {whole(len(a.outliers))} ({signed(a.limits[0])} to {signed(a.limits[1])})" for a in agreements
    ]
    trend, none = [], []
    for a in agreements:
        if math.isfinite(a.proportional_bias) and a.proportional_p < 0.05:
            slope = signed(a.proportional_bias, 2)
            trend.append(f"{a.method} ({slope} per unit of effect, {p_value(a.proportional_p)})")
        else:
            none.append(f"{a.method} ({p_value(a.proportional_p)})")
    text = f"Outside bias ± 1.96 SD, of {whole(count)} {plural(kind)}: {joined(outside)}. "
    if trend:
        text += f"The difference depends on the size of the effect (dotted line): {joined(trend)}"
        text += f"; not for {joined(none)}." if none else "."
    else:
        text += f"For no method does it depend on the size of the effect: {joined(none)}."
    return text


def jaccard_sentence(kind: str, agreements: Sequence[Agreement]) -> str:
    """The overlap at ten units, and what the end of the curve means."""
    count = len(agreements[0].names)
    k = strongest_of(count)
    says = joined([f"{a.method} {a.jaccard(k):.2f}" for a in agreements])
    return (
        f"Overlap of the {k} strongest {plural(kind)} by each method with the {k} strongest by exact effect: {says} "
        f"(1 = the same {plural(kind)}). At k = {whole(count)} all are chosen and every method reaches 1."
    )


def cost_sentence(rows: Sequence[Row]) -> str:
    """For every kind of unit, what the cheapest and the best estimate cost against exact effects."""
    parts = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        exact = next(row for row in own if row["method"] == "exact")
        rated = [row for row in own if row["method"] != "exact" and row["r"] is not None]
        if not rated:
            continue
        best = max(rated, key=lambda row: row["r"])
        times = exact["cost"] / best["cost"]
        if times >= 1.5:
            ratio = f"{times:,.0f} times less than" if times >= 10 else f"{times:.1f} times less than"
        elif times > 0.7:
            ratio = "about as much as"
        else:
            ratio = f"{1 / times:,.1f} times as much as"
        parts.append(
            f"for {plural(kind)} {best['method']} comes closest (r {plain(best['r'])}) at {whole(best['cost'])} "
            f"token-layers, {ratio} the exact effects of {whole(exact['units'])}"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if parts else "No method could be rated."


def chosen_sentence(panel: Panel) -> str:
    """How the compared units were chosen."""
    count, kind = len(panel.exact), plural(panel.kind)
    every = max((len(one.units) for one in panel.estimates), default=count)
    if not panel.sampled and every > count:
        return (
            f"Exact effects of {whole(count)} of {whole(every)} {kind}, the strongest by {_chosen_by(panel, count)}, "
            "so agreement over them says little about the rest."
        )
    if not panel.sampled:
        return f"Exact effects of all {whole(count)} {kind}."
    top = count - panel.sampled
    return (
        f"Exact effects of {whole(count)} {kind}: the {whole(top)} strongest by {_chosen_by(panel, top)}, and "
        f"{whole(panel.sampled)} drawn at random from the others. The strongest were picked by an estimate, so "
        f"agreement over all of them says little about the rest; the random draw does."
    )


def _chosen_by(panel: Panel, top: int) -> str:
    """The estimate whose strongest units were computed exactly, if one of them it is."""
    wanted = set(panel.exact.units[:top].names)
    for scores, label in zip(panel.estimates, panel.labels, strict=True):
        best = scores.ranking()[:top]
        if set(scores.units[best].names) == wanted:
            return label
    return "an estimate"

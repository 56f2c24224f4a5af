"""Where attribution patching goes wrong: kinds of parts, the account along the forward pass, the attention there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import altair as alt
import numpy as np

from veracausa.causes.locations import Location, Locations
from veracausa.report.chapters.responses import SOLID
from veracausa.report.charts import theme
from veracausa.report.charts.data import Datasets, Row, number, plural
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.maps import SIGNED, zero_line
from veracausa.report.tables import Column, Table
from veracausa.statistics.ratios import pairs_in_words
from veracausa.words import joined, signed

#: Units that figures draw, those with the most curvature; tables have all.
SHOWN = 12
#: Units whose account along the forward pass is drawn.
PROFILES = 6
#: The attention behind a unit is drawn if the softmax makes up this share of the gap.
WATCHED = 0.02
#: Steps that are neither attention's nor an MLP's: the patch's own post-norm, and the end.
REST = "norms and metric"
#: Where the steps of a block are drawn, beside each other.
SLOTS = (("a", -0.25, "attention"), ("m", 0.25, "MLP"))
LABELS = {"softmax": "softmax", "norm": "norms", "MLP": "MLPs", "metric": "metric"}


def figures(found: Locations, name: str) -> list[Figure]:
    """Parts by kind; the account along the forward pass; attention along the path, where the softmax matters."""
    ranked = sorted(found.values(), key=lambda one: -abs(one.curvature.value))
    ranked = [one for one in ranked if one.cause != "none"] or ranked[:1]
    drawn = [_kinds(found, ranked[:SHOWN], f"{name}-kinds"), _profiles(found, ranked[:PROFILES], f"{name}-profile")]
    watched = [one for one in ranked if one.saturation and abs(one.kinds["softmax"].value) >= WATCHED][:PROFILES]
    return [*drawn, _attention(found, watched, f"{name}-attention")] if watched else drawn


def tables(found: Locations, name: str) -> list[Table]:
    """Every unit's parts by kind; its largest sublayers and heads; the attention there."""
    return [_kinds_table(found, f"{name}-kinds"), _places_table(found, f"{name}-places"), _attention_table(found, name)]


def _kinds(found: Locations, shown: Sequence[Location], name: str) -> Figure:
    data = Datasets()
    rows: list[Row] = []
    for one in shown:
        for kind, share in one.kinds.items():
            low, high = share.value - share.stderr, share.value + share.stderr
            row: Row = {"unit": one.unit, "kind": LABELS[kind], "value": number(share.value)}
            rows.append(row | {"low": number(low), "high": number(high), "stderr": number(share.stderr)})
    totals = [
        {"unit": one.unit, "value": number(one.curvature.value), "stderr": number(one.curvature.stderr)}
        for one in shown
    ]
    order, kinds = [one.unit for one in shown], [LABELS[kind] for kind in found.kinds]
    scale = alt.Scale(domain=kinds)
    y = alt.Y("unit:N", sort=order, title=None, axis=alt.Axis(domain=False, ticks=False))
    offset = alt.YOffset("kind:N", sort=kinds)
    base = alt.Chart(data.add(name, rows))
    tips = [alt.Tooltip("unit:N"), alt.Tooltip("kind:N"), alt.Tooltip("value:Q", format="+.4f"),
            alt.Tooltip("stderr:Q", title="± SE", format=".4f")]  # fmt: skip
    x = alt.X("value:Q", title="part of exact − AtP, share of the gap", axis=alt.Axis(tickCount=5, labelExpr=SIGNED))
    bars = base.mark_bar(cornerRadius=1).encode(
        x=x, y=y, yOffset=offset, color=alt.Color("kind:N", scale=scale, title=None), tooltip=tips
    )
    whiskers = base.mark_rule(style=theme.GUIDE).encode(x="low:Q", x2="high:Q", y=y, yOffset=offset)
    total = alt.Chart(data.add(f"{name}-total", totals)).mark_tick(style=theme.EXACT, thickness=3, opacity=1)
    total = total.encode(x="value:Q", y=y, tooltip=[*tips[:1], alt.Tooltip("value:Q", title="sum", format="+.4f")])
    view = alt.layer(bars, whiskers, total, zero_line(x=True)).properties(height=max(70, 44 * len(shown)))
    causes = [one.cause for one in shown]
    counts = [f"{_cause(cause)} for {causes.count(cause)}" for cause in dict.fromkeys(causes)]
    title = "Which kind of part makes attribution patching miss"
    strongest = shown[0]
    sentence = (
        f"Bars sum to exact − AtP (black tick), whiskers are ± 1 standard error ({pairs_in_words(found.n)}). "
        f"Of {len(shown)} {plural(found.units.kind)} the cause is {joined(counts)}. Farthest off is {strongest.unit} "
        f"({strongest.curvature}): {joined([f'{LABELS[kind]} {share}' for kind, share in strongest.kinds.items()])}."
    )
    return Figure(name, title, (Part("", view, data, sentence),), sentence, least=420, width=520)


def _cause(cause: str) -> str:
    return {
        "softmax": "the attention's softmax", "norm": "the norms", "MLP": "the MLPs' activations",
        "metric": "the metric's own curvature", "several": "no single kind", "none": "nothing",
    }[cause]  # fmt: skip


def _profiles(found: Locations, shown: Sequence[Location], name: str) -> Figure:
    parts = [_profile(found, one, name) for one in shown]
    first = shown[0]
    ranked = sorted(first.sublayers, key=lambda place: -abs(first.sublayers[place].value))
    sentence = (
        "The staircase begins at AtP right behind the patch and ends at the exact effect; each step is what one "
        f"attention or MLP adds ({pairs_in_words(found.n)}). The steps of {first.unit} are largest in "
        f"{joined([f'{place} ({first.sublayers[place]})' for place in ranked[:3]])}."
    )
    return Figure(name, "Where along the forward pass the estimate goes wrong", tuple(parts), sentence, columns=3)


def _profile(found: Locations, one: Location, name: str) -> Part:
    """A staircase from AtP to the exact effect: each step is what one sublayer adds."""
    data, layers = Datasets(), found.heads.shape[1]
    key = f"{name}-{one.unit}"
    first = int(found.units.layer[found.units.find(one.unit)])
    where = [("patch", first - 0.75, REST)]
    where += [(f"{part}{n}", n + x, what) for n in range(first, layers) for part, x, what in SLOTS]
    steps: list[Row] = []
    reached = one.atp.value
    for place, left, what in [*where, ("logits", layers - 0.25, REST)]:
        share = one.sublayers[place]
        row: Row = {"place": place, "part": what, "left": left, "right": left + 0.5, "step": number(share.value)}
        row |= {"before": number(reached), "after": number(reached + share.value), "stderr": number(share.stderr)}
        steps.append(row)
        reached += share.value
    low, high = first - 1.0, layers + 0.6
    line = [{"x": low, "y": number(one.atp.value)}, *({"x": row["right"], "y": row["after"]} for row in steps)]
    ticks = [layer for layer in range(first, layers) if layer % 5 == 0]
    axis = alt.Axis(values=[*ticks, layers], labelExpr=f"datum.value == {layers} ? 'end' : datum.value", grid=False)
    x = alt.X("left:Q", title="block", axis=axis, scale=alt.Scale(domain=[low, high], nice=False))
    heights = [row["y"] for row in line]
    room = 0.14 * (max(heights) - min(heights)) or 0.1
    scale = alt.Scale(domain=[min(heights) - room, max(heights) + room], nice=False, zero=False)
    y = alt.Y("before:Q", title="account, share of the gap", scale=scale, axis=alt.Axis(tickCount=5, labelExpr=SIGNED))
    tips = [alt.Tooltip("place:N"), alt.Tooltip("step:Q", format="+.4f"),
            alt.Tooltip("stderr:Q", title="± SE", format=".4f")]  # fmt: skip
    color = alt.Color("part:N", scale=alt.Scale(domain=["attention", "MLP", REST]), title=None)
    bars = alt.Chart(data.add(key, steps)).mark_bar()
    bars = bars.encode(x=x, x2="right:Q", y=y, y2="after:Q", tooltip=tips, color=color)
    running = alt.Chart(data.add(f"{key}-line", line)).mark_line(style=theme.GUIDE, interpolate="step-before")
    labels = []
    # each beside the line's end, on the side that the first and the last step of some size leave free
    moves = [move for move in np.diff(heights).tolist() if abs(move) > 0.03 * np.ptp(heights)] or [0.0]
    up, down = moves[0] > 0, moves[-1] < 0
    texts: list[tuple[Literal["left", "right"], Row, str, bool]] = [
        ("left", line[0], f"AtP {signed(one.atp.value)}", up),
        ("right", line[-1], f"exact {signed(one.exact.value)}", down),
    ]
    for align, at, text, below in texts:
        end = alt.Chart(data.add(f"{key}-{align}", [at | {"text": text}]))
        mark = end.mark_text(style=theme.NAME, align=align, fontWeight="bold", dy=11 if below else -9)
        labels.append(mark.encode(x="x:Q", y="y:Q", text="text:N"))
    view = alt.layer(bars, running.encode(x="x:Q", y="y:Q"), *labels).properties(height=200)
    alt_text = f"{one.unit}: from AtP {one.atp} to exact {one.exact}, block by block."
    return Part(one.unit, view, data, alt_text, f"exact − AtP {one.curvature}")


def _attention(found: Locations, shown: Sequence[Location], name: str) -> Figure:
    parts = [_attended(one, name) for one in shown]
    first = shown[0]
    assert first.saturation is not None
    said = first.saturation.sentence
    sentence = (
        "For each unit the head behind it that adds most to exact − AtP, at the position where it adds most: largest "
        "attention probability, and entropy as a share of an even spread, along the unit's own path; bands are ± 1 "
        f"standard error ({pairs_in_words(found.n)}), marks on the right the corrupted run. "
        f"Behind {first.unit}: {said[0].lower()}{said[1:]}"
    )
    return Figure(name, "How sharp the attention is where the softmax bends", tuple(parts), sentence, columns=3)


def _attended(one: Location, name: str) -> Part:
    assert one.saturation is not None
    data, watched = Datasets(), one.saturation
    key = f"{name}-{one.unit}"
    means = watched.table()
    points = [0.0, 0.0, *watched.alphas]
    rows: list[Row] = []
    for i, alpha in enumerate(points):
        for label, column in (("largest probability", "largest"), ("entropy, share of even", "entropy share")):
            value, spread = float(means[column][i]), float(np.nan_to_num(means[f"{column} stderr"][i]))
            row: Row = {"run": means["run"][i], "alpha": alpha, "what": label, "value": number(value)}
            rows.append(row | {"low": number(value - spread), "high": number(value + spread)})
    along = [row for row in rows if row["run"] != "corrupted"]
    beside = max(points) + 0.25
    other = [row | {"alpha": beside} for row in rows if row["run"] == "corrupted"]
    scale = alt.Scale(domain=["largest probability", "entropy, share of even"])
    color = alt.Color("what:N", scale=scale, title=None, legend=SOLID)
    text = f"datum.value == {beside} ? 'corrupted' : format(datum.value, '.2~f')"
    axis = alt.Axis(grid=False, values=[0, *watched.alphas, beside], labelExpr=text)
    domain = alt.Scale(domain=[min(points), beside + 0.15], nice=False)
    x = alt.X("alpha:Q", title="α (0 = clean, 1 = replaced)", axis=axis, scale=domain)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    tips = [alt.Tooltip("run:N"), alt.Tooltip("what:N"), alt.Tooltip("value:Q", format=".3f")]
    base = alt.Chart(data.add(key, along))
    band = base.mark_area(opacity=0.18, clip=True).encode(x=x, y="low:Q", y2="high:Q", color=color)
    lines = base.mark_line(point=alt.OverlayMarkDef(size=26), strokeWidth=2).encode(x=x, y=y, color=color, tooltip=tips)
    ends = alt.Chart(data.add(f"{key}-corrupted", other)).mark_point(shape="diamond", size=55, filled=True)
    view = alt.layer(band, lines, ends.encode(x=x, y=y, color=color, tooltip=tips)).properties(height=190)
    softmax = one.kinds["softmax"]
    return Part(f"{watched.head} behind {one.unit}", view, data, watched.sentence, f"softmax part {softmax}")


def _kinds_table(found: Locations, name: str) -> Table:
    frame = found.table()
    columns = [
        Column("name", "unit"), Column("cause", "cause"),
        *(
            column
            for key, title in (("atp", "AtP"), ("exact", "exact"), ("curvature", "exact − AtP"))
            for column in (Column(key, title, "signed"), Column(f"{key} stderr", "± SE", "plain"))
        ),
        *(
            column
            for kind in found.kinds
            for column in (Column(kind, LABELS[kind], "signed"), Column(f"{kind} stderr", "± SE", "plain"))
        ),
        Column("n", "n", "whole"),
    ]  # fmt: skip
    rows = tuple(dict(row) for row in frame.to_dict("records"))
    note = "Shares of the gap. Kinds sum to exact − AtP: exact runs in which the other kinds are their tangents."
    return Table(name, "Exact − AtP by kind of nonlinear part", tuple(columns), rows, note)


def _places_table(found: Locations, name: str, most: int = 5) -> Table:
    rows = []
    for unit, one in found.items():
        for what, shares in (("sublayer", one.sublayers), ("head", one.heads)):
            ranked = sorted(shares.items(), key=lambda item: -abs(item[1].value))
            for place, share in [item for item in ranked if item[1].value][:most]:
                rows.append({"unit": unit, "what": what, "place": place, "value": share.value, "stderr": share.stderr})
    columns = (
        Column("unit", "unit"), Column("what", "of"), Column("place", "place"), Column("value", "step", "signed", 4),
        Column("stderr", "± SE", "plain", 4),
    )  # fmt: skip
    note = f"Shares of the gap; the {most} largest steps of each unit. All sublayers together sum to exact − AtP."
    return Table(name, "Where exact − AtP arises", columns, tuple(rows), note)


def _attention_table(found: Locations, name: str) -> Table:
    rows: list[Row] = []
    for unit, one in found.items():
        if one.saturation is not None:
            rows += [
                {"unit": unit, "head": one.saturation.head, **row}
                for row in one.saturation.table().to_dict("records")
            ]  # fmt: skip
    columns = (
        Column("unit", "unit"), Column("head", "head"), Column("run", "run"),
        Column("entropy", "entropy, nats", "plain"), Column("entropy stderr", "± SE", "plain"),
        Column("entropy share", "of even", "percent", 0), Column("entropy share stderr", "± SE", "percent", 0),
        Column("largest", "largest p", "plain"), Column("largest stderr", "± SE", "plain"), Column("n", "n", "whole"),
    )  # fmt: skip
    note = "At each pair's own query position, where the head adds most to exact − AtP."
    return Table(f"{name}-attention", "Attention of the head that adds most", columns, tuple(rows), note)

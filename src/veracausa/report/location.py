"""Where attribution patching goes wrong: kinds of parts, the account along the forward pass, the attention there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import altair as alt
import numpy as np

from veracausa.attribution.ratios import pairs_in_words
from veracausa.causes.locations import Location, Locations
from veracausa.report import theme
from veracausa.report.data import Datasets, Row, number, plural
from veracausa.report.figures import Figure, Part
from veracausa.report.maps import SIGNED, zero_line
from veracausa.report.responses import SOLID
from veracausa.report.tables import Column, Table
from veracausa.report.words import joined, signed

#: Units that figures draw, those with the most curvature; tables have all.
SHOWN = 12
#: Units whose account along the forward pass is drawn.
PROFILES = 6
#: The attention behind a unit is drawn if the softmax makes up this share of the gap.
WATCHED = 0.02
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
        "The line begins at AtP right behind the patch and ends at the exact effect; the bars are its steps, block by "
        f"block, and sum to the difference ({pairs_in_words(found.n)}). The steps of {first.unit} are largest in "
        f"{joined([f'{place} ({first.sublayers[place]})' for place in ranked[:3]])}."
    )
    return Figure(name, "Where along the forward pass the estimate goes wrong", tuple(parts), sentence, columns=3)


def _profile(found: Locations, one: Location, name: str) -> Part:
    """Bars of each block's attention and MLP, and the running account from AtP to the exact effect."""
    data, layers = Datasets(), found.heads.shape[1]
    key = f"{name}-{one.unit}"
    first = int(found.units.layer[found.units.find(one.unit)])
    reached = one.atp.value + one.sublayers["patch"].value
    steps: list[Row] = []
    line: list[Row] = [{"layer": first - 0.5, "value": number(reached)}]
    for layer in range(first, layers):
        for part, label in (("a", "attention"), ("m", "MLP")):
            share = one.sublayers[f"{part}{layer}"]
            reached += share.value
            steps.append({"layer": layer, "part": label, "value": number(share.value), "stderr": number(share.stderr)})
        line.append({"layer": layer + 0.5, "value": number(reached)})
    end = one.sublayers["logits"]
    steps.append({"layer": layers, "part": "end", "value": number(end.value), "stderr": number(end.stderr)})
    line.append({"layer": layers + 0.5, "value": number(reached + end.value)})
    order = ["attention", "MLP", "end"]
    # rectangles beside each other within a block, so that the axis of layers stays a number line
    for row in steps:
        left = {"attention": -0.4, "MLP": 0.0, "end": -0.4}[row["part"]]
        row |= {"left": row["layer"] + left, "right": row["layer"] + (0.4 if row["part"] == "end" else left + 0.4)}
    ticks = [layer for layer in range(layers) if layer % 5 == 0 and layer >= first]
    axis = alt.Axis(values=[*ticks, layers], labelExpr=f"datum.value == {layers} ? 'end' : datum.value", grid=False)
    x = alt.X("left:Q", title="block", axis=axis, scale=alt.Scale(domain=[first - 0.6, layers + 0.6], nice=False))
    y = alt.Y("value:Q", title="share of the gap", axis=alt.Axis(tickCount=5, labelExpr=SIGNED))
    tips = [alt.Tooltip("part:N"), alt.Tooltip("layer:O", title="block"), alt.Tooltip("value:Q", format="+.4f"),
            alt.Tooltip("stderr:Q", title="± SE", format=".4f")]  # fmt: skip
    bars = alt.Chart(data.add(key, steps)).mark_bar().encode(
        x=x, x2="right:Q", y=y, y2=alt.datum(0), tooltip=tips,
        color=alt.Color("part:N", scale=alt.Scale(domain=order), title=None),
    )  # fmt: skip
    running = alt.Chart(data.add(f"{key}-line", line)).mark_line(style=theme.TRUTH, interpolate="step-before")
    ends = [
        {"layer": first - 0.5, "value": line[0]["value"], "text": f"AtP {signed(one.atp.value)}"},
        {"layer": layers + 0.5, "value": line[-1]["value"], "text": f"exact {signed(one.exact.value)}"},
    ]
    labels = []
    # each beside the line's end, on the side that the line does not come from or go to
    up = max(line[1:4], key=lambda row: abs(row["value"] - line[0]["value"]))["value"] > line[0]["value"]
    down = max(line[-6:-1], key=lambda row: abs(row["value"] - line[-1]["value"]))["value"] > line[-1]["value"]
    sides: list[tuple[Literal["left", "right"], int]] = [("left", 11 if up else -9), ("right", 12 if down else -9)]
    for end_row, (align, dy) in zip(ends, sides, strict=True):
        mark = alt.Chart(data.add(f"{key}-{align}", [end_row])).mark_text(style=theme.NAME, align=align, dy=dy)
        labels.append(mark.encode(x="layer:Q", y="value:Q", text="text:N"))
    view = alt.layer(zero_line(x=False), bars, running.encode(x="layer:Q", y="value:Q"), *labels)
    alt_text = f"{one.unit}: from AtP {one.atp} to exact {one.exact}, block by block."
    return Part(one.unit, view.properties(height=190), data, alt_text, f"exact − AtP {one.curvature}")


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

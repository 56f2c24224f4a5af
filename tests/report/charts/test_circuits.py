"""Pictures of circuits and curves of faithfulness: places, numbers and words against the circuit's own."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict

import altair as alt
import numpy as np
import pytest

import veracausa as vc
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.known import published
from veracausa.circuits.quality.curve import Curve
from veracausa.errors import CircuitError, MethodError
from veracausa.report.charts.charts import painted
from veracausa.report.charts.circuit_drawing import AGAINST, NEITHER, SUPPORTS
from veracausa.report.charts.circuits import circuit_figure
from veracausa.report.charts.faithfulness import curves_figure
from veracausa.report.charts.figures import png, spec_of
from veracausa.report.charts.theme import LIGHT
from veracausa.report.pages.frame import embed
from veracausa.report.pages.library import library

FAMILIES = ("gpt2", "llama", "gpt_neox", "olmo2")


def scores_in(lm, task, units="edges"):
    return vc.attribute(lm, task, units=units, method="eap", show_progress=False)


def circuit_in(lm, task, n=60, how="abs") -> Circuit:
    return vc.select(scores_in(lm, task), n=n, how=how, prune=False)


#: What tells the records of a chart apart: a field of the one, and none of those before it.
FIELDS = {"edge": "edges", "node": "nodes", "x1": "joins", "x": "places", "f": "curve", "level": "levels", "to": "over"}


def rows_of(chart: alt.LayerChart) -> dict[str, list[dict]]:
    """The records inside a chart by what they are, each once; altair validates the chart on the way."""
    found: dict[str, list[dict]] = defaultdict(list)
    layers = [chart.to_dict()]
    while layers:
        layer = layers.pop()
        layers += layer.get("layer", [])
        rows = layer.get("data", {}).get("values", [])
        what = next(what for field, what in FIELDS.items() if field in rows[0]) if rows else ""
        found[what] += [row for row in rows if row not in found[what]]
    return found


def shared(node: str) -> bool:
    """Whether a node is what several heads read by."""
    return ".kv" in node or "<" in node


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_holds_the_circuit(tiny, task_of, family):
    circuit = circuit_in(tiny(family), task_of(6))
    rows = rows_of(circuit.chart())
    drawn = {row["edge"]: row for row in rows["edges"]}
    assert set(drawn) == set(circuit.names)
    for name, importance in zip(circuit.names, circuit.importance, strict=True):
        assert drawn[name]["importance"] == pytest.approx(importance, rel=1e-5)  # six digits are kept
        assert drawn[name]["sign"] == (SUPPORTS if importance >= 0 else AGAINST)
        assert drawn[name]["y2"] > drawn[name]["y1"]  # the stream flows upwards
    strengths = [row["strength"] for row in rows["edges"]]
    assert strengths == sorted(strengths)  # the strongest is drawn last, on top
    nodes = {row["node"]: row for row in rows["nodes"]}
    assert {name for name in nodes if not shared(name)} == set(circuit.nodes)


@pytest.mark.parametrize("family", FAMILIES)
def test_nodes_count_their_edges_as_networkx_does(tiny, task_of, family):
    circuit = circuit_in(tiny(family), task_of(6))
    rows = rows_of(circuit.chart())
    graph = circuit.to_networkx()  # one line there for each head that a key or value touches
    for row in rows["nodes"]:
        name = row["node"]
        if shared(name):
            names = [edge for edge in circuit.names if f"->{name}" in edge]
            assert row["into"] == len(names) and row["out"] == 0
            continue
        into = [what["importance"] for *_, what in graph.in_edges(name, data=True)]
        out = {what["edge"]: what["importance"] for *_, what in graph.out_edges(name, data=True)}
        assert (row["into"], row["out"]) == (len(into), len(out))
        assert row["into_importance"] == pytest.approx(sum(into), rel=1e-4, abs=1e-6)
        assert row["out_importance"] == pytest.approx(sum(out.values()), rel=1e-4, abs=1e-6)


def test_only_the_strongest_are_drawn_and_that_is_said(tiny, task_of):
    circuit = circuit_in(tiny("llama"), task_of(6))
    chart = circuit.chart(most=10)
    rows = rows_of(chart)
    strongest = np.argsort(-np.abs(circuit.importance), kind="stable")[:10]
    assert {row["edge"] for row in rows["edges"]} == {circuit.names[i] for i in strongest}
    assert "10 of 60 edges drawn: the strongest" in chart.to_dict()["title"]["subtitle"]
    ends = {end.split("<")[0] for row in rows["edges"] for end in row["edge"].split("->")}
    nodes = {row["node"]: row["seen"] for row in rows["nodes"]}
    assert all(nodes[end] for end in ends) and not all(nodes.values())
    whole = circuit.chart().to_dict()["title"]
    assert not any("drawn" in line for line in whole["subtitle"])
    assert whole["text"].startswith("eap: circuit of 60 of ")
    assert "llama" in whole["subtitle"][0] and "1 pair" in whole["subtitle"][0] and "−effect" in whole["subtitle"][1]


@pytest.mark.parametrize("family", ["llama", "olmo2"])
def test_nodes_do_not_lie_on_each_other_and_edges_end_at_them(tiny, task_of, family):
    circuit = circuit_in(tiny(family), task_of(6))
    rows = rows_of(circuit.chart())
    places = Counter((row["x"], row["y"]) for row in rows["nodes"])
    assert max(places.values()) == 1
    at = {row["node"]: row for row in rows["nodes"]}
    for row in rows["edges"]:
        start, end = row["edge"].split("->")
        if start != "input":
            assert (row["x1"], row["y1"]) == (at[start]["x"], at[start]["y"])
        if end != "logits":
            node = at.get(end.split("<")[0]) or at[end]
            assert row["y2"] == node["y"] and abs(row["x2"] - node["x"]) < 0.2


def test_a_published_circuit_is_neutral_and_names_its_groups():
    circuit = published("ioi-gpt2")
    chart = circuit.chart()
    rows = rows_of(chart)
    assert {row["sign"] for row in rows["edges"]} == {NEITHER}
    assert {row["node"]: row["group"] for row in rows["nodes"]}["a9.h9"] == "name movers"
    assert "importances are not known" in chart.to_dict()["title"]["subtitle"]


def test_magnitudes_have_no_sign(tiny, task_of):
    scores = dataclasses.replace(scores_in(tiny("gpt2"), task_of(6)), signed=False)
    circuit = vc.select(dataclasses.replace(scores, values=scores.values.abs()), n=20)
    chart = circuit.chart()
    assert {row["sign"] for row in rows_of(chart)["edges"]} == {NEITHER}
    assert any("no sign" in line for line in chart.to_dict()["title"]["subtitle"])


@pytest.mark.parametrize("family", FAMILIES)
def test_positions(tiny, task_of, family):
    lm, task = tiny(family), task_of(6)
    circuit = circuit_in(lm, task)
    scores = scores_in(lm, task, "edges@positions")
    chart = circuit.chart(positions=scores, tokens=["<b>", "b", "c", "d", "e", "f"], most=40)
    rows = rows_of(chart)
    importance = dict(zip(scores.units.names, scores.importance().tolist(), strict=True))
    inside = {name: value for name, value in importance.items() if name.split("@")[0] in set(circuit.names)}
    best = sorted(inside, key=lambda name: -abs(inside[name]))[:40]
    assert {row["edge"] for row in rows["edges"]} == set(best)
    assert all(row["importance"] == pytest.approx(inside[row["edge"]], rel=1e-5) for row in rows["edges"])
    at = {row["node"]: (row["x"], row["y"]) for row in rows["nodes"]}
    assert len(set(at.values())) == len(at)
    columns = {int(node.split("@")[1]): x for node, (x, _) in at.items()}
    assert [columns[p] for p in sorted(columns)] == sorted(columns.values())
    for join in rows["joins"]:  # attention carries to the same or a later position
        assert join["x2"] > join["x1"] - 0.7
    spec = chart.to_dict()
    assert any("edges at positions drawn" in line for line in spec["title"]["subtitle"])


def test_scores_of_edges_draw_their_strongest(tiny, task_of):
    scores = scores_in(tiny("llama"), task_of(6))
    rows = rows_of(scores.chart(most=15))
    assert {row["edge"] for row in rows["edges"]} == set(scores.top(15)["name"])
    scores_in(tiny("gpt2"), task_of(6), "edges@positions").chart().to_dict()


def test_what_cannot_be_drawn_is_refused(tiny, task_of):
    lm, task = tiny("gpt2"), task_of(6)
    circuit = circuit_in(lm, task)
    with pytest.raises(CircuitError, match="edges@positions"):
        circuit.chart(positions=scores_in(lm, task))
    with pytest.raises(CircuitError, match="not of heads"):
        circuit.chart(positions=vc.exact(lm, task, units="heads", show_progress=False))
    with pytest.raises(CircuitError, match="graph"):
        circuit.chart(positions=scores_in(tiny("llama"), task, "edges@positions"))


def test_figures_draw_without_a_browser(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    figure = circuit_figure(circuit_in(lm, task), "c")
    assert figure.png()[:4] == b"\x89PNG" and figure.sentence.endswith(".")
    assert set(figure.parts[0].data) <= set(figure.specs()[0]["datasets"]) and figure.layout["width"] > 0
    scores = scores_in(lm, task, "edges@positions")
    assert circuit_figure(circuit_in(lm, task), "p", positions=scores).png()[:4] == b"\x89PNG"


def test_charts_that_stand_alone_can_be_put_beside_each_other(tiny, task_of):
    lm, task = tiny("gpt2"), task_of(6)
    heads = vc.exact(lm, task, units="heads", show_progress=False).chart()
    few = circuit_in(lm, task, n=8)
    assert png(spec_of(heads | few.chart() | few.chart(most=4)))[:4] == b"\x89PNG"


def test_paint_replaces_roles_and_leaves_data_alone():
    spec = {"mark": {"type": "rule", "style": "guide", "strokeWidth": 9}, "data": {"values": [{"style": "guide"}]},
            "encoding": {"color": {"scale": {"range": "ordinal"}}}}  # fmt: skip
    made = painted(spec, LIGHT.config())
    assert made["mark"] == {**LIGHT.config()["style"]["guide"], "type": "rule", "strokeWidth": 9}
    assert made["encoding"]["color"]["scale"]["range"] == [LIGHT.diverging[-2], LIGHT.muted, LIGHT.diverging[1]]
    assert made["data"] == spec["data"]


@pytest.fixture(scope="module")
def curve(tiny, task_of) -> Curve:
    lm, task = tiny("llama"), task_of((5, 7), n=4)
    return vc.curve(lm, task, scores_in(lm, task), sizes=(0.01, 0.1, 0.5, 1.0), show_progress=False)


def test_a_curve_draws_its_table(curve):
    rows = rows_of(curve.chart())["curve"]
    table = curve.table()
    assert [row["f"] for row in rows] == pytest.approx(table["f"].tolist(), rel=1e-5)
    assert [row["edges"] for row in rows] == table["edges"].tolist()
    for row, (_, wanted) in zip(rows, table.iterrows(), strict=True):
        if wanted["stderr"] != wanted["stderr"]:  # not known: no band
            assert row["low"] is row["high"] is row["stderr"] is None
            continue
        assert row["high"] - row["f"] == pytest.approx(wanted["stderr"], abs=1e-4)
        assert row["f"] - row["low"] == pytest.approx(wanted["stderr"], abs=1e-4)


def test_several_curves_share_a_chart(curve):
    other = dataclasses.replace(curve, method="another")
    chart = curve.chart(other)
    rows = rows_of(chart)
    assert {row["method"] for row in rows["curve"]} == {"eap", "another"}
    assert len({row["series"] for row in rows["curve"]}) == 4
    assert {row["level"] for row in rows["levels"]} == {0, 1}
    with pytest.raises(MethodError, match="different methods"):
        curve.chart(curve)
    assert curves_figure([curve, other], "c").png()[:4] == b"\x89PNG"


def test_overshoot_is_marked_and_a_single_pair_has_no_band(curve):
    measured = curve.signed[0].measured
    beyond = dataclasses.replace(curve.signed[1], metric=measured.corrupted + 2 * measured.gap)
    over = dataclasses.replace(curve, signed=(curve.signed[0], beyond, *curve.signed[2:]))
    figure = curves_figure([over], "c")
    assert "overshoots to 2.00" in figure.sentence and "c-over" in figure.parts[0].data
    one = dataclasses.replace(measured, clean=measured.clean[:1], corrupted=measured.corrupted[:1])
    single = [dataclasses.replace(f, metric=f.metric[:1], kl=f.kl[:1], measured=one) for f in curve.signed]
    alone = curves_figure([dataclasses.replace(curve, signed=tuple(single), absolute=tuple(single))], "c")
    assert all(row["low"] is None for row in alone.parts[0].data["c"])
    assert "bands" not in alone.parts[0].subtitle and "±" not in alone.parts[0].subtitle
    assert "counterfactual ablation · 1 pair" in alone.parts[0].subtitle


@pytest.mark.browser
@pytest.mark.slow
def test_pointing_in_a_browser(chromium, tiny, task_of, tmp_path):
    """Tooltips name a node and an edge; pointing at a node is noticed; nothing goes wrong."""
    circuit = circuit_in(tiny("llama"), task_of(6))
    figure = circuit_figure(circuit, "c")
    fluid = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}  # as the page draws it
    spec = figure.specs()[0] | fluid | {"config": LIGHT.config()}
    draw = "vegaEmbed('#here', SPEC, {renderer: 'canvas'}).then((made) => { window.drawn = made.view; })"
    path = tmp_path / "c.html"
    path.write_text(
        f"<meta charset=utf-8><div id=here style='width:700px'></div><script>{library()}</script>"
        f"<script>const SPEC = {embed(spec)}; {draw};</script>",
        encoding="utf-8",
    )
    page = chromium.new_page(viewport={"width": 800, "height": 900})
    log: list[str] = []
    page.on("console", lambda message: log.append(message.text))
    page.on("pageerror", lambda error: log.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("window.drawn !== undefined")
    box = page.locator("#here canvas").bounding_box()

    def point(x: float, y: float) -> str:
        at = page.evaluate(
            f"(() => {{ const [a, b] = drawn.origin(), p = drawn.padding();"
            f"return [drawn.scale('x')({x}) + a + p.left, drawn.scale('y')({y}) + b + p.top]; }})()"
        )
        page.mouse.move(box["x"] + at[0], box["y"] + at[1])
        page.wait_for_timeout(100)
        return page.inner_text("#vg-tooltip-element")

    rows = figure.parts[0].data
    node = next(row for row in rows["c-nodes"] if row["kind"] == "mlp" and row["out"])
    assert node["node"] in point(node["x"], node["y"])
    (over,) = [one["name"] for one in spec["params"]]
    assert page.evaluate(f"drawn.signal('{over}').node") == [node["node"]]
    edge = max(rows["c-edges"], key=lambda row: row["strength"])
    s = 0.5
    x = edge["x1"] + (edge["x2"] - edge["x1"]) * (3 - 2 * s) * s * s + 3 * edge["swing"] * s * (1 - s)
    assert edge["edge"] in point(x, edge["y1"] + (edge["y2"] - edge["y1"]) * s)
    assert log == []
    page.close()

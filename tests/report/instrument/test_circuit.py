"""A circuit, live, in a real browser: its sizes, what was measured, its edges, groups, and files of other programs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import veracausa as vc
from veracausa.circuits.circuit import graph_of
from veracausa.report.pages.discovery import page as page_of

SIZES = {"wide": {"width": 1400, "height": 900}, "phone": {"width": 390, "height": 800}}


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama", dtype=torch.float32)


@pytest.fixture(scope="module")
def found(lm, task_of):
    """A small discovery; heads share keys and values, and both rankings have three sizes."""
    task = task_of((5, 7), n=8)
    asked = {"edges": 60, "sizes": (0.05, 0.3, 1.0), "top": 12, "sample": 8, "positions": True}
    return vc.discover(lm, task, **asked, show_progress=False)


@pytest.fixture(scope="module", params=["wide", pytest.param("phone", marks=pytest.mark.slow)])
def opened(request, chromium, found, tmp_path_factory):
    """The discovery's page, what it said, and what it asked for."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page_of(found), encoding="utf-8")
    dark = request.param == "phone"
    page = chromium.new_page(viewport=SIZES[request.param], color_scheme="dark" if dark else "light")
    log: list[str] = []
    page.on("console", lambda message: log.append(message.text))
    page.on("pageerror", lambda error: log.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith("file:") else log.append(asked.url))
    yield page, path.as_uri()
    assert log == []
    page.close()


@pytest.fixture
def fresh(opened):
    page, address = opened

    def open_at(state: str = ""):
        page.goto("about:blank")
        page.goto(f"{address}#{state}" if state else address)
        page.locator("#circuit-live .told .big").wait_for()
        return page

    return open_at


def download(page, title: str) -> str:
    with page.expect_download() as waiting:
        page.locator("#circuit-live .downloads").get_by_role("button", name=title, exact=True).click()
    return waiting.value.path().read_text(encoding="utf-8")


def told(page) -> str:
    return page.locator("#circuit-live .told").inner_text()


def ranked(found, by: str) -> list[str]:
    return [found.scores.units.names[i] for i in found.scores.ranking(by)]


@pytest.mark.browser
def test_every_size_has_the_strongest_edges_and_what_was_measured_of_them(fresh, found):
    curve = found.evaluation.curve
    for ranking, by, measured in (("signed", "importance", curve.signed), ("abs", "abs_mean", curve.absolute)):
        one = measured[1]
        page = fresh(f"ranking={ranking}&size={one.edges}")
        assert f"{one.edges} edges" in told(page) and f"{one.f:.3f}".replace("-", "−")[-4:] in told(page)
        file = json.loads(download(page, "JSON"))
        assert {row["name"] for row in file["edges"]} == set(ranked(found, by)[: one.edges])
        assert file["circuit"]["measured"]["f"] == pytest.approx(one.f, rel=1e-5)  # six digits are written
        importance = dict(zip(found.scores.units.names, found.scores.importance().tolist(), strict=True))
        for row in file["edges"]:
            assert row["importance"] == pytest.approx(importance[row["name"]], rel=1e-4)
        exact = {row["name"]: row["exact"] for row in file["edges"] if row["exact"] is not None}
        assert exact == pytest.approx({name: value for name, value in found.exact().items() if name in exact}, rel=1e-4)
        between = one.edges + 1
        page.locator("#circuit-live input[type=number]").first.fill(str(between))
        page.keyboard.press("Enter")
        page.wait_for_function(f"document.querySelector('#circuit-live .told').innerText.includes('{between} edges')")
        assert "Not measured at this size" in told(page) and f"{one.edges} edges: f {one.f:.3f}" in told(page)
        assert json.loads(download(page, "JSON"))["circuit"]["measured"] is None


@pytest.mark.browser
def test_the_threshold_moves_by_keys_and_from_one_measured_size_to_the_next(fresh, found):
    page = fresh("ranking=abs&size=40")
    sizes = [one.edges for one in found.evaluation.curve.absolute]
    page.get_by_role("button", name="measured →").click()
    page.wait_for_function("document.querySelector('#circuit-live .told').innerText.includes('Measured at this size')")
    assert veracausa_size(page) == min(size for size in sizes if size > 40)
    slider = page.locator("#circuit-live input[type=range]")
    slider.focus()
    before = veracausa_size(page)
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"Number(veracausa.store.get().size) < {before}")
    assert "edges" in slider.get_attribute("aria-valuetext")
    page.wait_for_function("location.hash.includes(`size=${veracausa.store.get().size}`)")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def veracausa_size(page) -> int:
    return int(page.evaluate("veracausa.store.get().size"))


@pytest.mark.browser
def test_how_small_a_circuit_keeps_a_share_is_read_off_what_was_run(fresh, found):
    page = fresh()
    for wanted in (10, 90):
        page.locator("#circuit-live .keeps input").fill(str(wanted))
        said = page.locator("#circuit-live .found").inner_text()
        curve = found.evaluation.curve
        for title, sizes in (("By importance", curve.signed), ("By |importance|", curve.absolute)):
            enough = [one for one in sizes if one.f >= wanted / 100]
            line = next(line for line in said.splitlines() if line.startswith(title))
            assert (f"{enough[0].edges} edges, f = {enough[0].f:.3f}" if enough else "none that was run") in line


@pytest.mark.browser
def test_signs_and_readers_filter_what_is_shown(fresh, found):
    importance = dict(zip(found.circuit.names, found.circuit.importance, strict=True))
    for state, passes in (
        ("edges=against", lambda name: importance[name] < 0),
        ("edges=for&reads=k", lambda name: importance[name] > 0 and name.endswith("<k>")),
        ("reads=mlp", lambda name: name.split("->")[1].startswith("m")),
    ):
        file = json.loads(download(fresh(state), "JSON"))
        assert {row["name"] for row in file["edges"]} == {name for name in importance if passes(name)}


@pytest.mark.browser
def test_over_positions_the_parts_of_the_circuits_edges_are_drawn_and_the_address_says_so(fresh, found):
    page = fresh()
    page.get_by_label("Drawn over").select_option("positions")
    page.wait_for_function("location.hash.includes('over=positions')")
    scores = found.by_position
    known = dict(zip(scores.units.names, scores.importance().tolist(), strict=True))
    file = json.loads(download(page, "JSON"))
    rows = {row["name"]: row["importance"] for row in file["edges"]}
    assert rows == pytest.approx({name: value for name, value in known.items() if value and value == value}, rel=1e-4)
    assert file["circuit"]["over"] == "positions" and {name.split("@")[0] for name in rows} <= set(found.circuit.names)
    page = fresh("over=positions&edges=against&ranking=abs&size=20")
    shown = {row["name"]: row["importance"] for row in json.loads(download(page, "JSON"))["edges"]}
    strongest = set(ranked(found, "abs_mean")[:20])
    assert shown.keys() == {name for name, value in rows.items() if value < 0 and name.split("@")[0] in strongest}
    assert "Thin grey lines" in page.locator(".live .legend").inner_text()
    name = max(rows, key=lambda one: abs(rows[one]))
    page.evaluate("(name) => veracausa.store.choose(name)", name)
    panel = page.locator("#unit").inner_text()
    assert "Importance" in panel and "at positions by size" in panel
    page.locator("#unit button.name").first.click()  # a node at a position: its edges there
    assert "@" in page.locator("#unit h2").inner_text() and "at positions" in page.locator("#unit").inner_text()
    page.locator("#circuit-live canvas").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert "@" in page.evaluate("veracausa.store.get().units[0]")
    assert download(page, "SVG").count("<path") > 5


@pytest.mark.browser
def test_which_edges_feed_a_head_is_answered_by_keys_alone(fresh, found):
    """`/`, its name, Enter; Enter once more leads into the panel, whose first edge is chosen by Tab and Enter."""
    page, importance = fresh(), dict(zip(found.scores.units.names, found.scores.importance().tolist(), strict=True))
    node = max(found.circuit.nodes[1:-1], key=lambda one: sum(name.startswith(f"{one}->") for name in importance))
    for key in ("/", *node, "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("veracausa.store.get().units") == [node] and "Its edges" in page.locator("#unit").inner_text()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('#unit') !== null")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "find"
    page.locator("#find").fill("->m1")
    into = sorted((name for name in importance if "->m1" in name), key=lambda name: -abs(importance[name]))
    rows = page.locator("#finder tbody tr td:first-child").all_inner_texts()
    assert rows == into[:25]
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.evaluate("veracausa.store.get().units") == [into[0]]


@pytest.mark.browser
def test_files_of_other_programs_are_those_that_the_library_writes(fresh, found, lm, tmp_path):
    nx = pytest.importorskip("networkx")
    page = fresh()
    (tmp_path / "page.csv").write_text(download(page, "CSV"), encoding="utf-8")
    assert vc.circuits.read(tmp_path / "page.csv", lm).names == found.circuit.names
    assert pd.read_csv(tmp_path / "page.csv")["importance"].abs().is_monotonic_decreasing
    (tmp_path / "page.graphml").write_text(download(page, "GraphML"), encoding="utf-8")
    ours, theirs = nx.read_graphml(tmp_path / "page.graphml", force_multigraph=True), graph_of(found.circuit)
    assert dict(ours.nodes(data=True)) == dict(theirs.nodes(data=True))

    def edges(graph):
        return {(a, b, e["edge"]): (e["reader"], e["importance"]) for a, b, e in graph.edges(data=True)}

    assert edges(ours).keys() == edges(theirs).keys()
    for key, (reader, importance) in edges(theirs).items():
        assert edges(ours)[key] == (reader, pytest.approx(importance, rel=1e-4))
    svg = download(page, "SVG")
    assert svg.startswith("<svg") and svg.count("<path") > 5 and ">logits<" in svg


@pytest.mark.browser
def test_neuronpedias_graph_is_the_one_that_the_library_writes_but_for_the_probability(fresh, found, lm, tmp_path):
    ours = json.loads(download(fresh(), "Neuronpedia’s graph"))
    path = vc.circuits.write(found.circuit, tmp_path / "n.json", format="neuronpedia", lm=lm, task=found.pairs)
    theirs = json.loads(path.read_text(encoding="utf-8"))
    assert [one["node_id"] for one in ours["nodes"]] == [one["node_id"] for one in theirs["nodes"]]
    for one, other in zip(ours["nodes"][:-1], theirs["nodes"][:-1], strict=True):
        assert one.pop("influence") == pytest.approx(other.pop("influence"), abs=1e-3)  # importances have five digits
        assert one == other

    def links(graph):
        return {(one["source"], one["target"]): one["weight"] for one in graph["links"]}

    assert links(ours) == pytest.approx(links(theirs), rel=1e-3, abs=1e-7)
    assert "probability is not known" in ours["metadata"]["info"]["description"]
    assert ours["metadata"]["prompt_tokens"] == theirs["metadata"]["prompt_tokens"]


@pytest.mark.browser
def test_a_part_has_its_edges_in_the_panel_and_an_edge_can_be_chosen(fresh, found):
    page = fresh()
    node = next(name for name in found.circuit.nodes if name.startswith("m"))
    page.evaluate("(name) => veracausa.store.choose(name)", node)
    importance = dict(zip(found.scores.units.names, found.scores.importance().tolist(), strict=True))
    into = [name for name in importance if name.endswith(f"->{node}")]
    out = [name for name in importance if name.startswith(f"{node}->")]
    order = [sorted(names, key=lambda name: -abs(importance[name]))[:8] for names in (into, out)]
    shown = page.locator("#unit table.edges").evaluate_all(
        "all => all.map((t) => [...t.querySelectorAll('button')].map((b) => b.dataset.unit))"
    )
    assert shown == [names for names in order if names]
    edge = order[0][0]
    page.locator(f"#unit button[data-unit='{edge}']").click()
    assert page.evaluate("veracausa.store.get().units") == [edge] and "unit=" in page.url
    text = page.locator("#unit").inner_text()
    assert f"{importance[edge]:+.4f}".replace("-", "−") in text
    rank = 1 + ranked(found, "abs_mean").index(edge)
    assert f"number {rank} of {len(importance)} edges by size" in text.lower()
    exact = found.exact().get(edge)
    assert ("not run" if exact is None else f"{exact:+.4f}".replace("-", "−")) in text
    rows = page.locator("#edges tr.chosen").evaluate_all("all => all.map((one) => one.dataset.unit)")
    assert rows == ([edge] if edge in found.circuit.names else [])


@pytest.mark.browser
def test_groups_are_named_coloured_pinned_and_kept_in_the_address(fresh, found):
    page = fresh("ranking=abs&size=1")
    strongest = ranked(found, "abs_mean")
    heads = [name for name in found.circuit.nodes if name[0] in "am"][-4:]
    page.evaluate("(names) => veracausa.store.set({ units: names }, true)", heads)
    page.get_by_role("button", name="Make a group of the 4 chosen parts").click()
    name = page.get_by_label("Name of group 1")
    name.fill("late; ~ones")
    name.press("Enter")
    page.get_by_label("Colour of group 1").select_option("green")
    page.get_by_label("Pin group 1").click()
    page.wait_for_function("decodeURIComponent(location.hash).includes('~2~1~')")
    state = page.url.split("#")[1]
    page = fresh(state)
    assert page.get_by_label("Name of group 1").input_value() == "late; ~ones"
    assert page.get_by_label("Colour of group 1").input_value() == "2"
    file = json.loads(download(page, "JSON"))
    assert file["groups"] == [{"name": "late; ~ones", "colour": 2, "pinned": True, "units": heads}]
    writers = {name: name.split("->")[0] for name in strongest}
    inside = {name for name in strongest if writers[name] in heads and name.split("->")[1] in heads}
    assert {row["name"] for row in file["edges"]} >= {strongest[0], *inside}
    page.get_by_label("Remove group 1").click()
    page.wait_for_function("!location.hash.includes('groups=')")


@pytest.mark.browser
def test_the_drawing_by_keyboard_alone(fresh, found):
    page = fresh()
    page.locator("#circuit-live canvas").focus()
    assert page.locator("#spoken").inner_text().startswith("logits · ")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    (first,) = page.evaluate("veracausa.store.get().units")
    assert first in found.circuit.nodes and "Its edges" in page.locator("#unit").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Enter")
    assert len(page.evaluate("veracausa.store.get().units")) == 2
    page.keyboard.press("Escape")
    assert page.evaluate("veracausa.store.get().units") == []
    page.locator("#circuit-live details summary").click()
    region = page.locator("#circuit-live .scroll")
    region.locator("tbody tr").first.wait_for()
    region.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    best = found.circuit.names[int(np.argmax(np.abs(found.circuit.importance)))]
    assert page.evaluate("veracausa.store.get().units") == [best]

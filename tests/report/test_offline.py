"""Charts that are saved as HTML or shown in a notebook hold what they need; nobody is asked for anything."""

from __future__ import annotations

import io
import json
import re
import struct
from importlib.resources import files
from pathlib import Path

import altair as alt
import pytest

import veracausa as vc
from veracausa.report.offline import Offline
from veracausa.report.pages.library import licences


@pytest.fixture(scope="module")
def charts(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    heads = vc.exact(lm, task, show_progress=False)
    edges = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    curve = vc.curve(lm, task, edges, sizes=(0.1, 1.0), show_progress=False)
    one, circuit = heads.chart(), vc.select(edges, n=40, how="abs").chart()
    return {
        "heads": one, "circuit": circuit, "edges": edges.chart(), "curve": curve.chart(), "beside": one | circuit,
        "above": one & circuit & one, "upon": one + one, "changed": one.properties(title="Mine"),
    }  # fmt: skip


def fetched(html: str) -> list[str]:
    """What a browser would load for this page before a script asks for anything (the last test listens for that)."""
    outside = re.sub(r"(<script\b[^>]*>).*?</script", r"\1", html, flags=re.DOTALL)
    return re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=[^>]*>", outside)


def shown(chart) -> dict[str, str]:
    """What a notebook's cell keeps: the bundle, and what each method of one kind says of kinds that are not in it."""
    own = chart._repr_html_()
    return ({} if own is None else {"text/html": own}) | chart._repr_mimebundle_() | {"text/plain": repr(chart)}


NAMES = ("heads", "circuit", "edges", "curve", "beside", "above", "upon", "changed")


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", NAMES)
def test_saved_as_html_nothing_is_fetched(charts, tmp_path, name):
    assert isinstance(charts[name], Offline)
    charts[name].save(tmp_path / "chart.html")
    html = (tmp_path / "chart.html").read_text()
    assert fetched(html) == [] and len(html) > 500_000
    assert fetched(alt.Chart().mark_bar().to_html()) != []  # so would altair's own


def require_licences(html: str) -> None:
    """The notice is there, whole, in a script, and before the code that it is about."""
    notice, code = html.index("/*!\nThe libraries that draw the charts"), html.index("window.vegaEmbed=")
    assert html.rindex("<script", 0, notice) >= 0 and notice < code
    assert (files("veracausa.report") / "assets" / "licences.txt").read_text(encoding="utf-8") in html


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", NAMES)
def test_licences_stand_ahead_of_the_libraries_code(charts, tmp_path, name):
    chart = charts[name]
    chart.save(tmp_path / "chart.html")
    with (tmp_path / "file.html").open("w", encoding="utf-8") as file:
        chart.save(file, format="html")
    saved = [(tmp_path / place).read_text(encoding="utf-8") for place in ("chart.html", "file.html")]
    for html in (*saved, chart.to_html(), chart._repr_html_()):
        require_licences(html)
    assert "Copyright" not in chart.to_html(inline=False)  # the code is not in there either


@pytest.mark.parametrize("library", ["Vega", "Mike Bostock", "University of Washington Interactive Data Lab", "Mapbox"])
def test_licences_name_who_holds_the_rights(library):
    assert library in licences() and "*/" not in licences()[:-3]


@pytest.mark.parametrize("name", ["heads", "beside"])
def test_in_a_notebook_nothing_is_fetched(charts, name):
    bundle = charts[name]._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and len(bundle["text/plain"]) < 200
    assert fetched(bundle["text/html"]) == [] and bundle["text/html"].count("</script") == 1


def test_settings_of_altair_are_left_alone_and_heeded(charts):
    assert alt.renderers.active == "default" and alt.data_transformers.active == "default"
    with alt.renderers.enable("json"):
        assert "application/json" in str(charts["heads"]._repr_mimebundle_())
    with alt.renderers.enable("svg"):
        assert set(shown(charts["heads"])) == {"image/svg+xml", "text/plain"}  # a page beside it would be shown instead
    with_web = charts["heads"].to_html(inline=False)
    assert fetched(with_web) != []


def test_a_specification_is_json(charts, tmp_path):
    charts["circuit"].save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["layer"]


def sizes(path: Path) -> tuple[float, float]:
    """Width and height that a picture says it has: pixels of a PNG, points of an SVG or PDF."""
    raw = path.read_bytes()
    if path.suffix == ".png":
        assert raw.startswith(b"\x89PNG\r\n")
        return struct.unpack(">II", raw[16:24])
    if path.suffix == ".pdf":
        assert raw.startswith(b"%PDF-") and raw.rstrip().endswith(b"%%EOF")
        return tuple(float(x) for x in re.search(rb"/MediaBox ?\[ ?0 0 ([\d.]+) ([\d.]+)", raw).groups())
    head = raw.decode().partition(">")[0]
    assert head.startswith("<svg")
    return tuple(float(re.search(rf'\b{name}="([\d.]+)"', head)[1]) for name in ("width", "height"))


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("name", ["heads", "beside"])
def test_a_picture_is_as_large_as_its_scale_says(charts, tmp_path, name, suffix):
    charts[name].save(tmp_path / f"one{suffix}")
    charts[name].save(str(tmp_path / f"three{suffix}"), scale=3)
    one, three = (sizes(tmp_path / f"{which}{suffix}") for which in ("one", "three"))
    assert three == pytest.approx([3 * x for x in one], abs=3)


def test_an_svg_refers_to_nothing_outside(charts, tmp_path):
    charts["circuit"].save(tmp_path / "a.svg", scale=2)
    svg = (tmp_path / "a.svg").read_text()
    assert set(re.findall(r"\w+://[^\"' )]+", svg)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(script|image|use|style|link)\b|@import|@font-face", svg)


def test_a_larger_chart_is_a_larger_picture(charts, tiny, task_of, tmp_path):
    heads = vc.exact(tiny("llama"), task_of(6, n=2), show_progress=False)
    for which, width, height in (("one", 1000, 200), ("other", 1200, 500)):  # wider than what stands above them
        heads.chart(width=width, height=height).save(tmp_path / f"{which}.png")
    (w, h), (wide, high) = (sizes(tmp_path / f"{which}.png") for which in ("one", "other"))
    assert (wide - w, high - h) == (200, 300)


def test_what_cannot_be_saved_is_said(charts, tmp_path):
    with pytest.raises(vc.errors.MethodError, match=r"format='pgn' is not known\. Did you mean 'png'"):
        charts["heads"].save(tmp_path / "a.pgn")
    for name, scale in (("a.html", 2), ("a.json", 2), ("a.png", 0), ("a.png", float("nan"))):
        with pytest.raises(vc.errors.MethodError, match="scale="):
            charts["heads"].save(tmp_path / name, scale=scale)
    with pytest.raises(vc.errors.FileError, match="folder"):
        (tmp_path / "file").write_text("")
        charts["heads"].save(tmp_path / "file" / "a.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_open_file_is_written_to(charts):
    text, picture = io.StringIO(), io.BytesIO()
    charts["heads"].save(text, "svg")
    charts["heads"].save(picture, "png")
    assert text.getvalue().startswith("<svg") and picture.getvalue().startswith(b"\x89PNG")


def test_a_title_of_the_users_own_can_be_drawn(charts, tmp_path):
    charts["heads"].properties(title="a\x00\x1b[31m\ud800").save(tmp_path / "a.png")  # would end the process


@pytest.mark.browser
def test_a_browser_draws_both_and_asks_nobody(charts, tmp_path, chromium):
    charts["beside"].save(tmp_path / "saved.html")
    cells = "".join(charts[name]._repr_html_() for name in ("heads", "circuit"))
    (tmp_path / "cells.html").write_text(f"<!doctype html><meta charset=utf-8><body>{cells}</body>")
    for file, canvases in (("saved.html", 1), ("cells.html", 2)):
        page = chromium.new_page()
        asked: list[str] = []
        log: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("pageerror", lambda error, log=log: log.append(str(error)))
        page.goto((tmp_path / file).as_uri())
        page.wait_for_selector("canvas, svg.marks")
        page.wait_for_timeout(500)
        assert page.locator("canvas.marks, svg.marks").count() == canvases
        assert log == [] and [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
        page.close()


def test_no_name_ends_the_script_that_holds_it(tiny, task_of, tmp_path):
    name = "late</script><script>alert(1)</script><!--"
    scores = vc.exact(tiny("llama"), task_of(5), units={name: ["a0.h0", "m1"], "other": "m0"}, show_progress=False)
    page = scores.chart().save(tmp_path / "a.html") or (tmp_path / "a.html").read_text()
    for text in (page, scores.chart().to_html(), scores.chart().to_html(inline=False)):
        assert "alert(1)" in text and "</script><script>alert" not in text and "late\\u003c/script" in text


def test_charts_for_papers(tiny, task_of, tmp_path):
    """theme="paper": letters of 8 pt, no title but a description; a PDF is as large in points, and holds its fonts."""
    lm, task = tiny("llama"), task_of(6, n=2)
    scores = vc.exact(lm, task, show_progress=False)
    plain, paper = (scores.chart(width=200, height=150, **look) for look in ({}, {"theme": "paper"}))
    assert "font" not in plain.to_dict()["config"]
    spec = paper.to_dict()
    assert spec["width"] == 200 and spec["config"]["axis"]["labelFontSize"] == 8 and "title" not in spec
    assert spec["description"].startswith(plain.to_dict()["title"]["text"])
    with pytest.raises(vc.errors.MethodError, match="theme='papper' is not known"):
        scores.chart(theme="papper")
    paper.save(tmp_path / "heads.pdf")
    paper.save(tmp_path / "heads.svg")
    assert sizes(tmp_path / "heads.pdf") == pytest.approx(sizes(tmp_path / "heads.svg"), abs=1)
    content = (tmp_path / "heads.pdf").read_bytes()
    fonts = set(re.findall(rb"/BaseFont /(\S+)", content))
    assert fonts and all(re.match(rb"[A-Z]{6}\+", font) for font in fonts), "the letters that are used lie in the file"
    assert content.count(b"/FontFile") == len(fonts)


def test_every_kind_of_chart_takes_a_font(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    edges = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    curve = vc.curve(lm, task, edges, sizes=(0.1, 1.0), show_progress=False)
    for found in (edges, curve, vc.select(edges, n=9, how="abs"), edges | edges):
        look = found.chart(font="DejaVu Serif", theme="dark").to_dict()["config"]
        assert look["font"] == "DejaVu Serif" and look["background"] == "#1a1e23"

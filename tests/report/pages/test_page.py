"""What is in the folder and in the page, without a browser."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import zlib
from html import unescape

import pandas as pd
import pytest

import veracausa as vc
from veracausa.report.pages import page as page_module
from veracausa.report.pages.frame import embed
from veracausa.report.pages.library import licences


@pytest.fixture(scope="module")
def html(saved) -> str:
    return (saved / "report.html").read_text(encoding="utf-8")


def test_files_are_there_and_nothing_half_written(saved, study, views):
    files = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    assert "report.html" in files
    assert not [name for name in files if "tmp" in name]
    assert {name for name in files if name.endswith(".png")} == {
        f"figures/{figure.name}.png" for view in views for figure in page_module._figures(view)
    }
    assert len([name for name in files if name.startswith("scores/")]) == sum(
        1 + len(panel.estimates) for section in study.sections for panel in section.panels
    )


def test_page_is_one_offline_file(html):
    before_scripts = html[: html.index('<script type="application/json"')]
    assert not re.findall(r"<(?:script|link|img|iframe|source)[^>]+(?:src|href)\s*=", html[: len(before_scripts)])
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", before_scripts)
    assert not re.findall(r"@import|url\(", before_scripts)
    assert html.count("vegaEmbed=") == 1
    assert "default-src 'none'" in html
    assert len(html) < 6_000_000


def test_licences_of_the_libraries_are_in_the_page(html):
    assert html.count(licences().strip()) == 1 and "licences stand in the source of this page" in html
    assert html.index(licences()) < html.index("window.vegaEmbed=")


def test_hostile_texts_are_escaped(html):
    text = html[: html.index('<script type="application/json"')]
    assert "<script>alert" not in html.replace("\\u003c", "")
    assert "<img src=x" not in html
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in unescape(text)


def test_embedded_json_cannot_end_its_element():
    value = {"a": "</script><!--\u2028&", "b": [1.5, None]}
    text = embed(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError):
        embed({"a": float("nan")})


def test_page_says_what_was_asked(html, study):
    text = unescape(re.sub(r"<[^>]+>", "", html[: html.index('<script type="application/json"')]))
    task, measured = study.sections[0].task, study.sections[0].measured
    for words in ("First finding.", "Second finding & more.", "negative means that the unit supported", study.command):
        assert words in text
    assert f"{float(measured.gap[0]):+.3f}".replace("-", "−") in text
    differing = sum(a != b for a, b in zip(task.clean[0], task.corrupted[0], strict=True))
    own = html[html.index('id="1-the-published-pair-asked"') :]
    first_pair = own[own.index('class="pair"') : own.index('class="facts"')]
    assert first_pair.count("<mark>") == 2 * differing
    assert "the 40 strongest by atp, and 20 drawn at random" in text
    assert "mean squared" not in text


@pytest.mark.slow
def test_weak_pairs_are_listed(study):
    section = study.sections[1]
    gap = section.measured.gap.clone()
    corrupted = section.measured.corrupted.clone()
    corrupted[2] = section.measured.clean[2] - 1e-6 * gap[2]
    measured = dataclasses.replace(section.measured, corrupted=corrupted)
    html = page_module.page(dataclasses.replace(study, sections=(dataclasses.replace(section, measured=measured),)))
    assert "Weak pairs" in html and "#2 (" in html


def test_pngs_are_valid_and_not_blank(saved):
    pictures = sorted((saved / "figures").glob("*.png"))
    assert len(pictures) >= 20
    for path in pictures:
        width, height, colours = _png(path.read_bytes())
        assert width > 400 and height > 200, path.name
        assert colours > 8, path.name


def _png(content: bytes) -> tuple[int, int, int]:
    """Width, height, and the number of different bytes in the picture's data."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    at, data = 8, b""
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        if content[at + 4 : at + 8] == b"IDAT":
            data += content[at + 8 : at + 8 + size]
        at += size + 12
    return width, height, len(set(zlib.decompress(data)))


def test_tables_and_scores_come_back_as_numbers(saved, study):
    first = study.sections[0].panels[0]
    table = pd.read_csv(saved / "tables" / "1-the-published-pair-attention-heads-units.csv")
    shares = first.exact.normalised()
    assert len(table) == len(first.exact)
    assert table["exact"].abs().is_monotonic_decreasing
    for name, exact in zip(table["name"], table["exact"], strict=True):
        assert exact == pytest.approx(float(shares[first.exact.units.find(name)]), rel=1e-12)
    rated = pd.read_csv(saved / "tables" / "1-the-published-pair-attention-heads-agreement.csv")
    assert rated["r"].tolist() == pytest.approx([a.r for a in first.agreements])
    pairs = pd.read_csv(saved / "tables" / "1-the-published-pair-pairs.csv")
    assert "</script>" in pairs["clean"][0]
    again = vc.open(saved / "scores" / "1-the-published-pair-attention-heads-atp.safetensors")
    assert again.values.equal(first.estimates[0].values)


def test_random_draw_is_marked_and_rated_apart(saved, study, views):
    neurons = study.sections[0].panels[2]
    table = pd.read_csv(saved / "tables" / "1-the-published-pair-mlp-neurons-units.csv")
    drawn = set(neurons.exact.units[40:].names)
    assert set(table["name"][table["chosen"] == "at random"]) == drawn
    rated = pd.read_csv(saved / "tables" / "1-the-published-pair-mlp-neurons-agreement.csv")
    apart = rated[rated["over"] == "random draw only"]
    assert apart["units"].tolist() == [20, 20]
    assert apart["r"].tolist() == pytest.approx([a.r for a in neurons.random_agreements])
    view = views[0].panels[2]
    scatter = next(figure for figure in view.figures if figure.name.endswith("scatter"))
    points = scatter.specs()[0]["datasets"][f"{scatter.name}-atp"]
    assert {row["name"] for row in points if row["group"] == "drawn at random"} == drawn


def test_a_panel_without_estimates_is_a_map_and_a_table(study):
    section = study.sections[0]
    alone = dataclasses.replace(section.panels[0], estimates=())
    html = page_module.page(
        dataclasses.replace(study, sections=(dataclasses.replace(section, panels=(alone,), findings=()),))
    )
    assert html.count("data-view=") == 1
    assert (
        "All 12 heads" in html
        and "none" not in html[: html.index('<script type="application/json"')].split("<body>")[1]
    )


def test_every_heading_has_a_link_to_where_it_is(saved):
    text = re.sub(r"<script.*?</script>", "", (saved / "report.html").read_text(encoding="utf-8"), flags=re.S)
    # a question's link is no part of what opens it
    beside = r'(?:<a class="link"[^>]*></a>\s*<details[^>]*>\s*<summary>)?'
    headings = re.findall(beside + r'<h[1-4](?: class="called")?>.*?</h[1-4]>', text, flags=re.S)
    links = [re.findall(r'<a class="(?:link|anchor)" href="#([^"]+)"', heading) for heading in headings]
    assert len(links) > 40 and all(len(one) == 1 for one in links)
    assert {one[0] for one in links} <= set(re.findall(r' id="([^"]+)"', text))
    assert "found-what-matters" in text and 'aria-label="Link to “What matters”"' in text

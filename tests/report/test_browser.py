"""The page in a real browser: it draws, it asks nobody for anything, it sorts, it fits a phone."""

from __future__ import annotations

import json

import pandas as pd
import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(chromium, saved):
    """The page with all its charts drawn, and what it said and asked for."""
    page = chromium.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
    log: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: log.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: log.append(str(error)))
    page.on("dialog", lambda dialog: (log.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((saved / "report.html").as_uri())
    drawn = page.evaluate("veracausa.drawAll()")
    yield page, log, asked, drawn
    page.close()


def test_draws_everything_quietly_and_asks_nobody(opened, saved):
    page, log, asked, drawn = opened
    assert drawn == page.locator("[data-view]").count() > 20
    assert page.locator("[data-view] canvas").count() == drawn
    assert log == []
    assert asked == [(saved / "report.html").as_uri()]


def test_a_value_in_a_live_chart_is_the_scores_value(opened, study):
    page, *_ = opened
    name = "1-the-published-pair-attention-heads-map"
    rows = page.evaluate(f"veracausa.views['{name}-0'].data('{name}-exact')")
    exact = study.sections[0].panels[0].exact
    shares = exact.normalised()
    assert len(rows) == len(exact) == 12
    for row in rows:
        assert row["value"] == pytest.approx(float(shares[exact.units.find(row["name"])]), rel=1e-5)


def test_hostile_texts_are_shown_as_they_are(opened):
    page, log, *_ = opened
    assert "</script><script>alert(1)</script>" in page.inner_text("#\\31 -the-published-pair-asked")
    assert page.title() == "A tiny study of <script>alert(3)</script>"
    assert not any("dialog" in line for line in log)


def test_tables_sort_by_click_and_by_key(opened, study):
    page, *_ = opened
    table = page.locator("#\\31 -the-published-pair-attention-heads-units table")
    exact = next(i for i, text in enumerate(table.locator("th").all_inner_texts()) if text == "exact")
    head = table.locator("th").nth(exact)

    def column() -> list[float]:
        texts = table.locator(f"tbody td:nth-child({exact + 1})").all_inner_texts()
        return [float(text.replace("−", "-")) for text in texts]

    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    names = table.locator("th button").first
    names.click()
    first = table.locator("tbody td:first-child").all_inner_texts()
    assert first == sorted(first)


def test_follows_the_colour_scheme(opened):
    page, log, *_ = opened
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("[...document.querySelectorAll('[data-view]')].every((e) => e.dataset.drawn === 'dark')")
    page.emulate_media(color_scheme="light")
    page.wait_for_function("[...document.querySelectorAll('[data-view]')].every((e) => e.dataset.drawn === 'light')")
    assert log == []


def _download(page, button) -> tuple[str, str]:
    with page.expect_download() as waiting:
        button.click()
    name = waiting.value.suggested_filename
    return name, waiting.value.path()


def test_tables_are_handed_out_as_files(opened, saved):
    page, log, *_ = opened
    table = page.locator("#\\31 -the-published-pair-attention-heads-units")
    name, path = _download(page, table.locator("button[data-as=csv]"))
    assert name == "1-the-published-pair-attention-heads-units.csv"
    ours, beside = pd.read_csv(path), pd.read_csv(saved / "tables" / name)
    pd.testing.assert_frame_equal(ours, beside, check_dtype=False, rtol=1e-12)
    name, path = _download(page, table.locator("button[data-as=json]"))
    records = json.loads(path.read_text(encoding="utf-8"))
    assert [row["name"] for row in records] == beside["name"].tolist()
    name, path = _download(page, page.locator("button[data-page=json]"))
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert name == "report.json" and whole["title"] == page.title() and whole["summary"]
    assert {f"{one}.csv" for one in whole["tables"]} == {path.name for path in (saved / "tables").iterdir()}
    assert log == []


def test_figures_are_handed_out_whole(opened, saved, views):
    page, log, *_ = opened
    figure = views[0].panels[0].figures[1]
    place = page.locator(f"[id='{figure.name}']")
    name, path = _download(page, place.locator("button[data-as=png]"))
    assert name == f"{figure.name}.png" and path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 10_000
    name, path = _download(page, place.locator("button[data-as=svg]"))
    text = path.read_text(encoding="utf-8")
    assert name.endswith(".svg") and all(part.title in text for part in figure.parts)
    name, path = _download(page, place.locator("button[data-points]"))
    points = json.loads(path.read_text(encoding="utf-8"))
    assert set(points) == {key for part in figure.parts for key, rows in part.data.items() if rows}
    for one in views[0].panels[0].figures:  # what the page makes of the parts is what the PNG is drawn from
        assert page.evaluate("(name) => veracausa.whole(name)", one.name) == json.loads(json.dumps(one.spec()))
    assert log == []


@pytest.mark.slow
def test_prints_everything_in_light_colours(chromium, saved, tmp_path):
    page = chromium.new_page(viewport={"width": 1400, "height": 900}, color_scheme="dark")
    page.goto((saved / "report.html").as_uri())
    page.evaluate("window.dispatchEvent(new Event('beforeprint')); veracausa.drawAll()")
    assert page.locator("details.more:not([open])").count() == 0
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function("[...document.querySelectorAll('[data-view]')].every((e) => e.dataset.drawn === 'light')")
    assert page.locator("nav details[open]").is_visible() and not page.locator(".downloads").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 33, 39)"
    page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content[:5] == b"%PDF-" and len(content) > 100_000
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.more[open]").count() == 0
    page.close()


def test_fits_a_phone(chromium, saved):
    page = chromium.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.goto((saved / "report.html").as_uri())
    page.evaluate("veracausa.drawAll()")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    too_wide = page.evaluate(
        "[...document.querySelectorAll('.view canvas')].filter((c) => c.getBoundingClientRect().right > 390).length"
    )
    assert too_wide == 0
    page.close()


def test_numbers_behind_a_chart_are_a_table(chromium, saved, views):
    """For those who do not see a chart: its numbers under the names that its tips have, rows that choose units."""
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto((saved / "report.html").as_uri())
    figure = views[1].panels[0].figures[0]
    place = page.locator(f"[id='{figure.name}']")
    page.evaluate("(name) => { document.getElementById(name).closest('details').open = true; }", figure.name)
    button = place.locator("button[data-numbers]")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    tables = place.locator(".numbers table")
    assert tables.first.locator("th").first.inner_text() == "head"
    units = views[1].section.panels[0].exact.units
    assert tables.first.locator("tbody tr").count() == len(units)
    tables.first.locator("tbody tr").nth(1).click()
    assert page.evaluate("veracausa.store.get().units") == [units.names[1]]
    assert "chosen" in tables.first.locator("tbody tr").nth(1).get_attribute("class")
    button.click()
    assert place.locator(".numbers").count() == 0 and button.get_attribute("aria-expanded") == "false"
    page.close()

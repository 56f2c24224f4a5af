"""The page of two circuits side by side: nothing is fetched, and an edge chosen anywhere is marked everywhere."""

from __future__ import annotations

import json

import pytest

import veracausa as vc

QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def found(tiny, task_of):
    lm, task = tiny("llama"), task_of([6, 8], n=4, name="</script><b>x</b>")
    scores = [vc.attribute(lm, task, units="edges", method=method, **QUIET) for method in ("eap", "eap-ig")]
    return vc.select(scores[0], n=40, how="abs") | vc.select(scores[1], n=25, how="abs")


@pytest.mark.browser
def test_both_are_drawn_and_an_edge_is_chosen_by_mouse_or_keys(chromium, found, tmp_path):
    address = found.page(tmp_path / "report.html").as_uri()
    assert "</script><b>x</b>" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    page, log = chromium.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("console", lambda message: log.append(message.text))
    page.on("pageerror", lambda error: log.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith("file:") else log.append(asked.url))
    page.goto(address)
    said = page.locator("#summary").inner_text()
    assert f"{found.shared} are in both" in said and "Method: eap in A, eap-ig in B." in said
    table = found.table().set_index("name")
    for state, side in (("both", "both"), ("a", "A only"), ("b", "B only")):
        page.evaluate("(edges) => veracausa.store.set({ edges })", state)
        count = int((table["kept by"] == side).sum())
        page.wait_for_function(f"document.querySelector('.live .legend').innerText.includes('{count} edges between')")
        assert f"edges={state}" in page.url or page.wait_for_function(f"location.hash.includes('edges={state}')")
    page.evaluate("veracausa.store.set({ edges: '' })")
    page.keyboard.press("/")
    name = table.index[table["kept by"] == "A only"][0]
    page.locator("#find").fill(name)
    page.keyboard.press("Enter")
    panel = page.locator("#unit").inner_text()
    assert page.evaluate("veracausa.store.get().units") == [name] and "A only" in panel
    assert f"{table.loc[name, 'A']:+.4f}".replace("-", "−") in panel
    assert page.locator("tr.chosen").count() >= 1
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.locator("#circuits-live canvas").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert "Its edges" in page.locator("#unit").inner_text()
    svg = page.locator("#circuits-live .downloads").get_by_role("button", name="SVG")
    with page.expect_download() as waiting:
        svg.click()
    drawn = waiting.value.path().read_text(encoding="utf-8")
    theme = json.loads(page.locator("#data").inner_text())["themes"]["light"]["range"]
    assert all(colour in drawn for colour in (theme["ordinal"][1], theme["heatmap"][0]))
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert log == []
    page.close()

"""The page of two results side by side: nothing is fetched, and a unit chosen anywhere is marked everywhere."""

from pathlib import Path

import pytest

import veracausa as vc

QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def found(tiny, task_of):
    lm, task = tiny("gpt2"), task_of([6, 8], n=4, name="</script><b>x</b>")
    return vc.exact(lm, task, **QUIET) | vc.attribute(lm, task, method="atp", **QUIET)


@pytest.fixture(scope="module")
def address(found, tmp_path_factory):
    return found.page(tmp_path_factory.mktemp("compared") / "report.html").as_uri()


def test_the_page_says_first_how_both_were_made(address, found):
    text = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    assert "Method: exact in A, atp in B." in text and "How both were made: what differs" in text
    assert "</script><b>x</b>" not in text
    assert text.index("Were both made alike?") < text.index("differ significantly")


@pytest.mark.browser
def test_a_unit_is_chosen_by_mouse_or_keys_and_marked_everywhere(chromium, address, found):
    page, log = chromium.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("console", lambda message: log.append(message.text))
    page.on("pageerror", lambda error: log.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith("file:") else log.append(asked.url))
    page.goto(address)
    assert page.locator("#where select").first.input_value() == "off:B"
    page.locator(".findings button.name").first.click()
    name = page.evaluate("veracausa.store.get().units[0]")
    one, panel = found.compared[0], page.locator("#unit")
    i = one.names.index(name)
    assert panel.locator("h2").inner_text() == name
    assert [panel.locator("h3").nth(k).inner_text() for k in range(3)] == ["In A", "Do they differ?", "Side by side"]
    value = f"{100 * one.values[0][i]:+,.1f} %".replace("-", "−").replace(",", "")
    shown = f"{one.values[0][i]:+.3f}".replace("-", "−")
    assert (value if one.shares else shown) in panel.inner_text()
    assert f"It ranks {one.ranks[0][i]} in A and {one.ranks[1][i]} in B" in panel.inner_text()
    for figure in ("both", "apart", "against", "ranks"):
        view = page.locator(f"[id^='view-'][data-view*='{figure}-0']")
        view.scroll_into_view_if_needed()
        page.wait_for_function("place => Number(place.dataset.marked) > 0", arg=view.element_handle(), timeout=5000)
    assert page.locator("tr.chosen").count() >= 1
    page.keyboard.press("Escape")
    assert page.evaluate("veracausa.store.get().units") == []
    page.locator("#where canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert len(page.evaluate("veracausa.store.get().units")) == 1 and "by=" not in page.url
    page.select_option("#where select >> nth=0", "exact")
    assert "by=exact" in page.url and page.evaluate("document.querySelector('.legend .apart')") is None
    assert log == []
    page.close()


@pytest.mark.browser
def test_in_a_notebook_the_page_works_within_its_frame(chromium, found, tmp_path):
    """Links and the address stay within the frame; nothing is asked for; what is chosen there is marked there."""
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!doctype html><title>cell</title>{found._repr_html_()}", encoding="utf-8")
    page, log = chromium.new_page(viewport={"width": 1300, "height": 900}), []
    page.on("console", lambda message: log.append(message.text))
    page.on("request", lambda asked: None if asked.url.startswith("file:") else log.append(asked.url))
    page.goto(cell.as_uri())
    frame = page.frames[1]
    frame.wait_for_function("window.veracausa && veracausa.store")
    frame.locator("nav a").last.click()
    frame.locator(".findings button.name").first.click()
    name = frame.evaluate("veracausa.store.get().units[0]")
    assert frame.locator("#unit h2").inner_text() == name and frame.url.startswith("about:srcdoc#")
    assert page.url == cell.as_uri() and frame.locator("h1").inner_text() == "What differs between A and B?"
    assert log == []
    page.close()

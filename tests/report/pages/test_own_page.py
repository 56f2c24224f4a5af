"""A page of anyone's numbers: what is left out has a default, what does not fit is said, and it works in a browser."""

from __future__ import annotations

import json

import pytest

import veracausa as vc
from veracausa.errors import FileError

NAMES = [f"a{layer}.h{head}" for layer in range(3) for head in range(4)]
VALUE = [(-1) ** i * (i + 1) / 10 for i in range(12)]


def numbers(**changes):
    kind = {"kind": "heads", "names": NAMES, "layer": [i // 4 for i in range(12)], "exact": {"value": VALUE}} | changes
    return {"sections": [{"id": "mine", "title": "Mine", "kinds": [kind]}]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer": [0]}, "a list has 1 entries"),
        ({"exact": {"value": ["much"] * 12}}, "no finite number"),
        ({"names": ["a0.h0"] * 12}, "one is there twice"),
        ({"supports": 3}, "none of -1, 0, 1"),
        ({"estimates": [{"label": "b", "value": [1.0]}]}, "a list has 1 entries"),
    ],
)
def test_what_does_not_fit_together_is_said(changes, said, tmp_path):
    with pytest.raises(FileError, match=said):
        vc.page_of(numbers(**changes), tmp_path / "page.html", title="Mine")
    with pytest.raises(FileError, match="sections"):
        vc.page_of({}, tmp_path / "page.html", title="Mine")


@pytest.mark.browser
def test_it_has_a_map_a_search_and_a_panel(chromium, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(numbers(supports=1, first="gain")))
    address = vc.page_of(tmp_path / "mine.json", tmp_path / "page.html", title="</script><b>Mine</b>").as_uri()
    page, log = chromium.new_page(viewport={"width": 1200, "height": 900}), []
    page.on("console", lambda message: log.append(message.text))
    page.on("pageerror", lambda error: log.append(str(error)))
    page.goto(address)
    assert page.locator("h1").inner_text() == "</script><b>Mine</b>"
    page.locator("#where canvas").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("veracausa.store.get().units") == ["a2.h3"]  # the largest is where the keys begin
    panel = page.locator("#unit").inner_text()
    assert "−1.200" in panel and "works against the answer" in panel and "exact" not in panel.lower()
    assert page.locator("tr.chosen").count() == 1
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("a1.h1")
    page.keyboard.press("Enter")
    assert page.evaluate("veracausa.store.get().units") == ["a1.h1"] and "blue (+) supports" in page.content()
    assert log == []
    page.close()

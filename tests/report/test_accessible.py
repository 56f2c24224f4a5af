"""Pages for readers who hear them or go by keyboard: axe-core's rules for HTML, on each kind of page, all of it open.

Contrast has a test of its own: axe cannot tell what lies behind the cells of a table that scrolls.
"""

import json

import pytest

import veracausa as vc
from veracausa.report.pages.discovery import page as page_of_discovery

QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def found(tiny, task_of):
    """A small discovery, evaluated."""
    lm, task = tiny("llama"), task_of((5, 7), n=4)
    return vc.discover(lm, task, edges=20, sizes=(0.1, 1.0), top=3, sample=4, held_out=task[2:], **QUIET)


@pytest.fixture
def address(request, tiny, task_of, tmp_path):
    """The page of this kind, written."""

    def of(kind: str) -> str:
        if kind == "study":
            return (request.getfixturevalue("saved") / "report.html").as_uri()
        found, path = request.getfixturevalue("found"), tmp_path / "page.html"
        lm, task = tiny("llama"), task_of((5, 7), n=4)
        if kind == "discovery":
            path.write_text(page_of_discovery(found), encoding="utf-8")
            return path.as_uri()
        if kind == "two circuits":
            return (found.circuit | vc.select(found.scores, n=12)).page(path).as_uri()
        return vc.circuits.specificity(lm, {"one": task}, {"one": found.circuit}, draws=2, **QUIET).page(path).as_uri()

    return of


def broken(page) -> dict[str, list[str]]:
    """Rule → the elements that break it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    wanted = {"resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": False}}}
    rules = axe.run(page, options=wanted).response["violations"]
    return {rule["id"]: [node["html"][:120] for node in rule["nodes"][:3]] for rule in rules}


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["study", "discovery", "two circuits", "specificity"])
def test_no_rule_of_axe_is_broken(chromium, address, kind):
    page = chromium.new_page(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
    page.goto(address(kind))
    page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
    if kind != "specificity":
        page.evaluate("veracausa.store.choose('a1.h1')")
        page.locator("#unit").wait_for(state="visible")
    found = broken(page)
    assert not found, json.dumps(found, indent=1, ensure_ascii=False)
    if kind == "specificity":  # the smallest: what looks for faults finds one
        page.evaluate("document.querySelector('main').append(document.createElement('button'))")
        assert list(broken(page)) == ["button-name"]
    page.close()

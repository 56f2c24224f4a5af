"""The instrument with other parts than heads: features, channels of mixers, units at positions, whole mixers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from laid_features import dictionary

import veracausa as vc
from veracausa.estimates.attribute import attribute
from veracausa.report.pages.page import page as page_of
from veracausa.studies.results import Panel, Section

QUIET = {"show_progress": False}


def section(lm, task, *kinds: str) -> Section:
    """A section with exact effects and estimates of these kinds."""
    panels = []
    for kind in kinds:
        exact, atp = vc.exact(lm, task, units=kind, **QUIET), attribute(lm, task, units=kind, method="atp", **QUIET)
        panels.append(Panel(exact.units.kind, exact, (atp,)))
    return Section(f"{lm.name}: {kinds[0]}", task, lm.measure(task), tuple(panels))


@pytest.mark.browser
def test_features_mixers_and_positions_are_chosen_marked_and_told(chromium, study, tiny, task_of, tmp_path):
    laid = tiny("llama", dtype=torch.float32)
    laid = laid.reading(dictionary(laid.width, "r1", "relu", name="low")[0])
    task = task_of(6, n=3)
    sections = (
        section(tiny("mamba", dtype=torch.float32), task, "mixers", "channels"),
        section(laid, task, "features.low", "heads@positions"),
    )
    path = tmp_path / "report.html"
    path.write_text(page_of(dataclasses.replace(study, sections=sections)), encoding="utf-8")
    page, log = chromium.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("console", lambda message: log.append(message.text))
    page.on("pageerror", lambda error: log.append(str(error)))
    page.goto(path.as_uri())
    for number, one in enumerate(sections):
        for panel in one.panels:
            names = panel.exact.units.names
            best = names[panel.exact.ranking()[0]]
            asked = [best, page.evaluate("(number) => veracausa.instrument.sections[number].id", number)]
            page.evaluate("([name, task]) => veracausa.store.set({ units: [name], task })", asked)
            text = page.locator("#unit").inner_text()
            assert text.startswith(best) and f"of {len(names):,}" in text, text[:300]
            assert page.locator("#unit circle.dot").count() == 3
            rows = page.locator("main tr.chosen").evaluate_all("all => all.map((one) => one.dataset.unit)")
            assert rows and set(rows) == {best}
    assert log == []
    page.close()


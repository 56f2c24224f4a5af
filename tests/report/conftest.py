"""A small real study of a tiny random model, saved once, and a browser if there is one."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import veracausa as vc
from veracausa.estimates.attribute import attribute
from veracausa.report.pages.page import section_views
from veracausa.report.pages.panels import SectionView
from veracausa.studies.results import Panel, Section, Study
from veracausa.units.every_unit import all_units

#: What a prompt may hold: markup, the end of a script element, quotes, a line separator.
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\"'&amp;{{ 7 * 7 }}",
    "<!-- \u2028 \\ -->",
]


def hostile(task):
    """The task with token texts that would break a page that did not escape them."""
    used = dict.fromkeys(t for ids in (*task.clean, *task.corrupted, *task.correct, *task.incorrect) for t in ids)
    words = {t: HOSTILE[i % len(HOSTILE)] + str(t) for i, t in enumerate(used)}
    return dataclasses.replace(task, vocabulary=words, clean_text=("".join(HOSTILE),) * len(task))


def panel(lm, task, units="heads", *, zero: bool = False, sampled: int = 0) -> Panel:
    """Exact effects and estimates of some units."""
    exact = vc.exact(lm, task, units=units, show_progress=False)
    kind = exact.units.kind
    whole = units if isinstance(units, str) else kind
    wanted = [("atp", {}), ("ig", {"nodes": 3})] + ([("ig", {"nodes": 3, "baseline": "zero"})] if zero else [])
    estimates = tuple(attribute(lm, task, units=whole, method=m, show_progress=False, **parts) for m, parts in wanted)
    return Panel(kind, exact, estimates, sampled)


def findings(lm, task) -> tuple:
    """One of every kind that needs no built-in task."""
    heads, quiet = ["a0.h1", "a2.h0"], {"show_progress": False}
    ablated = vc.behaviour.ablation_study(lm, task, units=heads, **quiet)
    exact, atp = vc.exact(lm, task, **quiet), attribute(lm, task, **quiet)
    edges = attribute(lm, task, units="edges", method="eap", **quiet)
    return (
        vc.causes.locate(lm, task, units=heads, **quiet),
        vc.causes.disagreement(lm, task, shapley=4, nodes=3, zero_nodes=3, **quiet),
        vc.causes.responses(lm, task, units=heads, alphas=np.linspace(-1, 2, 7), **quiet),
        vc.causes.surface(lm, task, units=heads, alphas=(0, 0.5, 1), **quiet),
        ablated,
        *(ablated.against(exact, atp, ablation=ablation) for ablation in ("zero", "mean")),
        vc.counterfactuals.baselines(lm, task, ablations=("counterfactual", "zero", "mean"), nodes=3, **quiet),
        vc.counterfactuals.general_purpose(lm, task, **quiet),
        vc.counterfactuals.head_roles(lm, task),
        vc.reading.lens(lm, task, **quiet),
        vc.reading.dla(lm, task, neurons=[1], tokens=3, **quiet),
        edges,
        vc.curve(lm, task, edges, sizes=(0.1, 1.0), **quiet),
    )


@pytest.fixture(scope="session")
def study(tiny, task_of) -> Study:
    lm = tiny("gpt2")
    pair, several = hostile(task_of(7, n=1, name="<b>pair</b>")), task_of([6, 8], n=4, name="several")
    heads = panel(lm, pair, zero=True)
    ranking = attribute(lm, pair, units="neurons", show_progress=False).ranking()
    neurons = panel(lm, pair, all_units(lm, "neurons")[np.array(ranking[:40] + sorted(ranking[40:60]))], sampled=20)
    first = Section(
        "The <published> pair", pair, lm.measure(pair), (heads, panel(lm, pair, "mlps"), neurons),
        (vc.causes.locate(lm, pair, units=["a0.h1"], show_progress=False),),
    )  # fmt: skip
    second = Section(
        "Several pairs", several, lm.measure(several), (panel(lm, several), panel(lm, several, "residual@positions")),
        findings(lm, several),
    )  # fmt: skip
    return Study(
        title="A tiny study of <script>alert(3)</script>",
        model={"name": lm.name, "source": lm.source, "identity": lm.identity},
        sections=(first, second),
        summary=("First finding.", "Second finding & more."),
        versions={"veracausa": vc.__version__},
        machine="a machine",
        date="2025-01-01",
        command="veracausa study tiny --note '<x>'",
        seconds=1.5,
    )


@pytest.fixture(scope="session")
def views(study) -> list[SectionView]:
    """The study's sections, drawn once."""
    return section_views(study)


@pytest.fixture(scope="session")
def saved(study, tmp_path_factory) -> Path:
    """The folder that the study was saved in."""
    return study.save(tmp_path_factory.mktemp("report")).parent


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, driven by playwright; skips where either is missing."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: the report page was not opened in a browser")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: the report page was not opened in a browser"
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]
        )
        yield browser
        browser.close()


def pytest_terminal_summary(terminalreporter):
    """One visible line if the page was not opened in a browser."""
    for report in terminalreporter.stats.get("skipped", []):
        if "was not opened in a browser" in str(report.longrepr):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            terminalreporter.write_line(reason.removeprefix("Skipped: "))
            return

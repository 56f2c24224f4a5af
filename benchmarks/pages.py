"""Pages of a study in Chromium: bytes, seconds to interactive, frames while a hand moves, and three questions timed.

The numbers of a saved study (`make study`; --circuit for the questions about edges) are drawn as they are, and at
larger sizes: its effects repeated with noise over 100 pairs, and an effect for every one of a model's neurons. A page
is interactive once a click on its map has opened the panel, counted from asking for the page. Frames: what passes
between two of the browser's frames while the pointer moves over the drawing, or the threshold is dragged; without other
work 16.7 ms. A question's keys and clicks are counted, its seconds are the page's own answers one after the other; a
person's are reckoned by the keystroke-level model (Card, Moran & Newell 1980: .28 s a key, 1.1 s to point, .2 s to
press, 1.35 s of thought where something is read before going on).

    python benchmarks/pages.py FOLDER [--repeats 3]      # needs playwright and Chromium
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import header, table

import veracausa as vc
from veracausa.report.pages.page import page
from veracausa.scores.scores import Scores
from veracausa.studies.results import Panel, Section, Study
from veracausa.tasks.measurement import Measurement

KEY, POINT, PRESS, THINK = 0.28, 1.1, 0.2, 1.35
SIZE = {"width": 1440, "height": 900}
#: Milliseconds between two frames, as long as it runs.
FRAMES = """
window.frames_ = []; let before = performance.now(); window.going = true;
const next = (now) => { frames_.push(now - before); before = now; if (going) requestAnimationFrame(next); };
requestAnimationFrame((now) => { before = now; requestAnimationFrame(next); });
"""


def repeated(scores: Scores, pairs: int, seed: int) -> Scores:
    """The same scores over more pairs: those that there are, again and again, with noise of a tenth of their size."""
    if scores.n == 1 or len(scores.values) == pairs:
        return scores
    rows = [i % scores.n for i in range(pairs)]
    noise = 1 + 0.1 * torch.randn(pairs, len(scores), generator=torch.Generator().manual_seed(seed))
    ends = {"clean": scores.clean[rows], "corrupted": scores.corrupted[rows]}
    return dataclasses.replace(scores, values=(scores.values[rows] * noise).to(scores.values), **ends)


def of_pairs(study: Study, pairs: int) -> Study:
    """The last section's panels over so many pairs; its other findings as they are."""
    section = study.sections[-1]
    rows = [i % len(section.task) for i in range(pairs)]
    measured = section.measured
    ends = [getattr(measured, name)[rows] for name in ("clean", "corrupted")]
    panels = tuple(
        Panel(one.kind, repeated(one.exact, pairs, 0), tuple(repeated(e, pairs, 1) for e in one.estimates), one.sampled)
        for one in section.panels
    )
    larger = Section(section.title, section.task[rows], Measurement(*ends), panels, section.findings)
    return dataclasses.replace(study, sections=(*study.sections[:-1], larger))


def of_all_neurons(study: Study) -> Study:
    """With exact effects of all neurons: in their place an estimate of all with noise of a tenth of the largest."""
    section = study.sections[-1]
    panels = []
    for one in section.panels:
        if not one.sampled:
            panels.append(one)
            continue
        guess = one.estimates[0]
        noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, guess.values.shape))
        values = (guess.values + noise * guess.values.abs().max()).to(guess.values)
        exact = dataclasses.replace(one.exact, values=values, units=guess.units)
        panels.append(Panel(one.kind, exact, one.estimates))
    larger = dataclasses.replace(section, panels=tuple(panels))
    return dataclasses.replace(study, sections=(*study.sections[:-1], larger))


def opened(browser, path: Path):
    """The page, and the seconds until a click on its map has opened the panel."""
    tab = browser.new_page(viewport=SIZE)
    tab.on("console", lambda message: print("console:", message.text))
    tab.on("request", lambda asked: None if asked.url.startswith("file:") else print("asked for:", asked.url))
    began = time.perf_counter()
    tab.goto(path.as_uri(), wait_until="commit")
    tab.wait_for_function("window.veracausa?.store !== undefined")
    box = tab.locator("#where canvas").bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector("#unit:not([hidden]) h2")
    return tab, time.perf_counter() - began


def words_seen(tab) -> int:
    """Words of the first screen, nothing chosen."""
    return tab.evaluate("""() => {
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      let words = 0;
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const range = document.createRange(); range.selectNode(node);
        const box = range.getBoundingClientRect();
        const seen = box.width && box.bottom > 0 && box.top < innerHeight && node.parentElement.checkVisibility();
        if (seen) words += node.data.split(/\\s+/).filter((word) => /\\w/.test(word)).length;
      }
      return words;
    }""")


def frames(tab, move) -> str:
    """Median, 95th percentile and largest time between frames while `move` runs."""
    tab.evaluate(FRAMES)
    move()
    times = np.array(tab.evaluate("going = false, frames_"))
    return f"{np.median(times):.0f} / {np.percentile(times, 95):.0f} / {times.max():.0f}"


def hovering(tab, place: str):
    """Moves the pointer to and fro over an element, 120 steps."""
    tab.locator(place).first.scroll_into_view_if_needed()
    tab.wait_for_timeout(800)
    box = tab.locator(place).first.bounding_box()
    for k in range(120):
        x, y = (k * 7) % 100 / 100, (k * 13) % 100 / 100
        top, bottom = max(0, box["y"]), min(SIZE["height"], box["y"] + box["height"])
        tab.mouse.move(box["x"] + x * box["width"], top + y * (bottom - top))


class Hand:
    """Keys and clicks on a page, counted; `thoughts`: how often something was read before going on."""

    def __init__(self, tab) -> None:
        self.tab, self.keys, self.clicks, self.thoughts = tab, 0, 0, 0
        self.began = time.perf_counter()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tab.keyboard.press(key)
        self.keys += len(keys)

    def click(self, place) -> None:
        (self.tab.locator(place) if isinstance(place, str) else place).first.click()
        self.clicks += 1

    def reads(self, wanted: str, where: str = "#unit") -> None:
        self.tab.wait_for_function(
            "([where, text]) => document.querySelector(where).innerText.includes(text)", arg=[where, wanted]
        )
        self.thoughts += 1

    def row(self, question: str) -> list[str]:
        seconds = time.perf_counter() - self.began
        person = KEY * self.keys + (POINT + PRESS) * self.clicks + THINK * self.thoughts
        return [question, str(self.clicks), str(self.keys), f"{seconds:.1f}", f"{person:.0f}"]


def questions(browser, path: Path, study: Study) -> list[list[str]]:
    """Three questions, by mouse and by keys; which head is missed by most is known from the numbers."""
    panel = study.sections[-1].panels[0]
    off = (panel.estimates[0].mean() - panel.exact.mean()).abs()
    worst = panel.exact.units.names[int(off.argmax())]
    fed = any(isinstance(one, Scores) for one in study.sections[-1].findings)
    rows = []

    def asked(question: str, answer) -> None:
        tab = browser.new_page(viewport=SIZE)
        tab.goto(path.as_uri())
        tab.wait_for_function("window.veracausa?.store !== undefined")
        hand = Hand(tab)
        answer(hand)
        rows.append(hand.row(question))
        tab.close()

    def worst_by_mouse(hand: Hand) -> None:
        hand.click("#find-parts summary")
        hand.tab.locator("#finder select").nth(1).select_option("off:atp")
        hand.clicks += 2  # a menu is opened, an entry chosen
        hand.click("#finder tbody tr")
        hand.reads(worst)
        hand.reads("Why estimates miss it")

    def worst_by_keys(hand: Hand) -> None:
        hand.press("/", "Tab", "Tab", "ArrowDown", "Tab", "Tab", "Tab", "ArrowDown", "Enter")
        hand.reads(worst)
        hand.reads("Why estimates miss it")

    def fed_by_mouse(hand: Hand) -> None:
        hand.click(f".findings button[data-unit='{worst}'], #where canvas")
        hand.reads("Its edges")

    def fed_by_keys(hand: Hand) -> None:
        hand.press("/", *worst, "Enter")
        hand.reads("Its edges")

    def size_by_mouse(hand: Hand) -> None:
        hand.reads("keeps 80", ".findings")

    asked("which head does atp get most wrong, and why: mouse", worst_by_mouse)
    asked("the same: keys", worst_by_keys)
    if fed:
        asked("which edges feed it: mouse", fed_by_mouse)
        asked("the same: keys", fed_by_keys)
        asked("how small a circuit keeps 80 %: read off the first screen", size_by_mouse)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of a saved study")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    study = vc.open(asked.folder)
    pages = {"as saved": study, "100 pairs": of_pairs(study, 100), "all neurons": of_all_neurons(study)}
    rows, moved = [], []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        print(header(f"python benchmarks/pages.py {asked.folder}"), f"· Chromium {browser.version}")
        for name, one in pages.items():
            path = Path(folder) / f"{name.replace(' ', '-')}.html"
            path.write_text(page(one), encoding="utf-8")
            seconds = []
            for _ in range(asked.repeats):
                tab, took = opened(browser, path)
                seconds.append(took)
                tab.close()
            tab, _ = opened(browser, path)
            tab.keyboard.press("Escape")
            mega, marks = path.stat().st_size / 1e6, sum(len(p.exact) for p in one.sections[-1].panels)
            rows.append([name, f"{mega:.2f}", f"{median(seconds):.2f}", f"{words_seen(tab)}", f"{marks:,}"])
            moved.append([name, "over the map", frames(tab, lambda tab=tab: hovering(tab, "#where canvas"))])
            if tab.locator(".live").count():
                moved += live(tab, name)
            tab.close()
        print(f"\nLoad of the machine {os.getloadavg()[0]:.1f}.\n")
        print(table(["page", "MB", "s to interactive", "words at first", "parts with effects"], rows))
        print("\n" + table(["page", "what moves", "ms a frame: median / 95 % / most"], moved))
        answered = questions(browser, Path(folder) / "as-saved.html", study)
        print("\n" + table(["question", "clicks", "keys", "s of the page", "s of a person, reckoned"], answered))
        browser.close()


def live(tab, name: str) -> list[list[str]]:
    """Frames over a circuit of all edges that the page has, and while its threshold is dragged from end to end."""
    tab.evaluate("""
      const one = document.querySelector(".live");
      for (let above = one.closest("details"); above; above = above.parentElement.closest("details")) above.open = true;
      one.querySelector("canvas").scrollIntoView();
      veracausa.store.set({ size: "10000" });
    """)
    rows = [[name, "over a circuit of 10,000 edges", frames(tab, lambda: hovering(tab, ".live canvas"))]]

    def dragged() -> None:
        slider = tab.locator(".live input[type=range]").first
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        tab.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
        tab.mouse.down()
        for k in range(100):
            tab.mouse.move(box["x"] + 2 + k * (box["width"] - 4) / 100, box["y"] + box["height"] / 2)
        tab.mouse.up()

    return [*rows, [name, "the threshold, from 1 edge to all", frames(tab, dragged)]]


if __name__ == "__main__":
    main()

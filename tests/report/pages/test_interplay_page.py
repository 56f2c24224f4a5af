"""The page of interactions: its numbers are the result's, single prompts and exact runs stand beside the average."""

import re
from dataclasses import replace

import every_result
import pytest

import veracausa as vc
from veracausa.report.pages import interplay
from veracausa.words import plain, signed

QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def found():
    """An estimate of two layers of a tiny model, and a check of it."""
    lm, task = every_result.setting()
    talk = vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, **QUIET)
    return talk, vc.interplay.check(lm, task, talk, top=3, sample=4, **QUIET)


def table(text, name):
    """Rows of a table of the page, as text."""
    inside = re.search(rf'<section class="table" id="{name}">.*?</section>', text, flags=re.S).group()
    rows = re.findall(r"<tr>.*?</tr>", inside, flags=re.S)
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows if "<td" in row]


def test_the_page_has_the_results_numbers_and_stands_alone(found, tmp_path):
    talk, checked = found
    text = re.sub(r"<script.*?</script>", "", talk.page(tmp_path / "a.html").read_text(encoding="utf-8"), flags=re.S)
    first, prompts = talk.table().iloc[0], talk.spread(1).iloc[0]
    assert table(text, "pairs")[0] == [first.source, first.reader, plain(first.strength, 4), signed(first["mean"], 4)]
    assert table(text, "prompts")[0][3:6] == [plain(prompts[name], 4) for name in ("low", "median", "high")]
    assert "://" not in text and talk.task["description"] in text and "could not be" not in text
    assert 'data-view="grid-0"' in text and "check-0" not in text and "not verified" in text
    text = re.sub(r"<script.*?</script>", "", checked.page(tmp_path / "b.html").read_text(encoding="utf-8"), flags=re.S)
    frame = checked.table()
    run = frame[frame.verified == "strongest"].iloc[0]
    row = next(row for row in table(text, "pairs") if row[:2] == [run.source, run.reader])
    assert row[3] == plain(run.exact, 4) and row[-1] == "strongest"
    assert 'data-view="check-0"' in text and "could not be" not in text
    assert f"{talk.cost.token_layers + checked.cost.token_layers:,.0f}" in text


def test_one_prompt_shows_no_spread_and_an_exact_result_no_estimate(found):
    talk, _ = found
    one = {name: getattr(talk, name)[:1] for name in ("squares", "means", "positions", "rest", "change")}
    exact = replace(talk, settings={**talk.settings, "method": "exact"})
    assert 'id="prompts"' not in interplay.page(replace(talk, **one)) and 'id="prompts"' in interplay.page(exact)
    assert "no estimate" in interplay.page(exact) and "Every number was run" in interplay.page(exact)

"""Pages of scoreboards, attacks and specificity: their numbers are the results', and they stand alone."""

import re
from dataclasses import replace

import every_result
import pytest

import veracausa as vc
from veracausa.circuits.scoreboards.board import Cell
from veracausa.report.charts.scoreboards import price_part
from veracausa.report.pages.judging import page
from veracausa.words import signed

QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def judged():
    """One of each: two rankings, two circuits attacked, the same ablated on two tasks."""
    lm, task = every_result.setting()
    rankings = {name: vc.attribute(lm, task[:2], units="edges", method=name, **QUIET) for name in ("eap", "eap-ig")}
    circuits = {name: vc.select(scores, n=20, how="abs") for name, scores in rankings.items()}
    few = {"sizes": (1, 5), "largest": (0.5,), "steps": (1,), "starts": ["zero"], "draws": 1}
    board = vc.circuits.scoreboard(lm, task[2:], rankings, parts=["curve"], sizes=(0.1, 1.0), **QUIET)
    attack = vc.circuits.adversary(lm, task[:2], circuits, held_out=task[2:], **few, **QUIET)
    tasks = {"eap": task[:2], "others": task[2:]}
    return board, attack, vc.circuits.specificity(lm, tasks, circuits, draws=2, **QUIET)


def bare(text):
    """A page without its scripts."""
    return re.sub(r"<script.*?</script>", "", text, flags=re.S)


def test_each_page_has_the_numbers_of_its_result_and_stands_alone(judged, tmp_path):
    board, attack, apart = judged
    told = [bare(one.page(tmp_path / f"{i}.html").read_text(encoding="utf-8")) for i, one in enumerate(judged)]
    assert all(str(board.cells[name][column]) in told[0] for name in board.rankings for column in board.columns)
    assert all(signed(f, 3) in told[1] for f in attack.table()["f"])
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>.*?</tr>", told[1], flags=re.S)]
    for number, name in enumerate(attack.circuits):
        row = next(one for one in cells if one[:1] == [name] and "others restored" in one)
        assert row[4] == f"{attack.radius('sparse', number).inside:.0f}"
    table = apart.table()
    assert all(signed(x, 3) in told[2] for column in ("damage", "random") for x in table[column])
    assert signed(apart.margin(0), 2) in told[2]
    for one, text in zip(judged, told, strict=True):
        assert "://" not in text and one.task["description"] in text and "could not be" not in text
        assert 'data-view="' in text and f"{one.cost.token_layers:,}" in text


def test_what_is_missing_is_said_once_and_apart(judged):
    """Why a cell is missing stands among the notes, not among what was found."""
    board = judged[0]
    cells = {name: own | {"k 50%": Cell(why="no answer flips")} for name, own in board.cells.items()}
    text = re.sub("<[^>]*>", "", bare(page(replace(board, cells=cells))))
    assert text.count("eap has no k 50%: no answer flips.") == 1
    assert price_part(replace(board, rankings=("eap",)), "price") is None and "eap-ig" in price_part(board, "p").alt


def test_the_command_line_writes_a_page_of_what_has_one(judged, tmp_path):
    from typer.testing import CliRunner

    from veracausa.cli.app import app
    from veracausa.errors import MethodError

    board, saved = judged[0], tmp_path / "page.html"
    done = CliRunner().invoke(app, ["open", str(board.save(tmp_path / "board.json")), "--page", str(saved)])
    assert done.exit_code == 0 and str(saved) in done.stderr and "Rankings side by side" in saved.read_text("utf-8")
    task = every_result.setting()[1]
    refused = CliRunner().invoke(
        app, ["open", str(task.save(tmp_path / "t.json")), "--page", str(tmp_path / "no.html")]
    )
    assert isinstance(refused.exception, MethodError) and "no page that stands alone" in str(refused.exception)

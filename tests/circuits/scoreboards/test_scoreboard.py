"""Scoreboards: every cell is what the call behind it gives; what is missing says why; pieces are kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flipping import flipping

import veracausa as vc
from veracausa.circuits.scoreboards.board import Cell, Scoreboard
from veracausa.circuits.scoreboards.columns import COLUMNS, PARTS
from veracausa.circuits.scoreboards.filling import bounded, of_curve
from veracausa.cost import Cost
from veracausa.errors import MethodError, UnitError

QUIET = {"show_progress": False}
FEW = {"sizes": (0.1, 0.5, 1.0), "restored": (3, 10), "largest": (0.5,), "size": 0.2, "draws": 1}


@pytest.fixture(scope="module")
def asked(tiny, task_of):
    """A model, pairs, other pairs, and two rankings that were scored on pairs of their own."""
    lm = tiny("llama")
    task, other = flipping(lm, task_of((5, 6), n=3)), replace(task_of(7, n=2, seed=5), name="other")
    scored = task_of((5, 6), n=2, seed=9)
    rankings = {name: vc.attribute(lm, scored, units="edges", method=name, **QUIET) for name in ("eap", "eap-ig")}
    return lm, task, other, rankings


@pytest.fixture(scope="module")
def board(asked):
    lm, task, other, rankings = asked
    return vc.circuits.scoreboard(lm, task, rankings, tasks={"other": other}, **FEW, **QUIET)


def test_every_cell_is_what_its_own_call_gives(asked, board):
    lm, task, other, rankings = asked
    scores, cells = rankings["eap-ig"], board.cells["eap-ig"]
    curve = vc.curve(lm, task, scores, sizes=FEW["sizes"], **QUIET)
    assert [cells[name].value for name in ("CPR", "CMD log")] == [curve.cpr, curve.cmd_log]
    chosen = [vc.select(scores, n=round(s * lm.graph.size), how="abs", prune=False) for s in FEW["sizes"]]
    kl = [float(vc.faithfulness(lm, task, one, **QUIET).kl.double().mean()) for one in chosen]
    by_hand = ((kl[0] + kl[1]) * np.log(5) + (kl[1] + kl[2]) * np.log(2)) / 2 / np.log(10)
    assert cells["KL log"].value == pytest.approx(by_hand, rel=1e-9) and kl[0] > 0  # float64, a sum of three
    cause = vc.circuits.cause_curve(lm, task, scores, **QUIET)
    assert cells["k 50%"].value == cause.reach(0.5).at and cells["cause area"].value == cause.area
    circuit = vc.select(scores, n=round(0.2 * lm.graph.size), how="abs")
    assert cells["f"].value == pytest.approx(vc.faithfulness(lm, task, circuit, **QUIET).f, abs=1e-12)
    how = {"budgets": ["sparse", "bounded"], "sizes": FEW["restored"], "largest": FEW["largest"], "draws": 0}
    attack = vc.circuits.adversary(lm, task, circuit, **how, **QUIET)
    radius = attack.radius("sparse")
    expected = (radius.inside, True) if radius.outside is None else (radius.outside, False)
    assert (cells["radius k"].value, cells["radius k"].beyond) == expected
    apart = vc.circuits.specificity(lm, {"tiny": task, "other": other}, {"tiny": circuit}, draws=1, **QUIET)
    assert cells["own damage"].value == float(apart.damage[0, 0]) and cells["margin"].value == apart.margin(0)
    assert cells["price"].value == scores.cost.token_layers
    assert set(COLUMNS) - set(board.columns) == {"stable seeds"}


def test_bounded_areas_give_nothing_for_overshoot(asked):
    """f of 1.5 counts as one of .5, and 3 or −1 as nothing; a constant f has that area whatever the sizes."""
    lm, task, _, rankings = asked
    run = vc.curve(lm, task, rankings["eap"], sizes=(0.1, 1.0), **QUIET).signed[1]

    def of(f):
        metric = run.measured.corrupted + f * run.measured.gap
        return bounded((0.1, 1.0), [replace(run, metric=metric)] * 2)

    for f, value in ((1.0, 1), (0.5, 0.5), (1.5, 0.5), (3.0, 0), (-1.0, 0)):
        assert of(f).value == pytest.approx(value, abs=1e-12)
        assert of(f).stderr in (None, pytest.approx(0, abs=1e-9))  # every pair has the same f: no spread over pairs
    noisy = replace(run, metric=run.metric + torch.arange(3).double())
    direct = of_curve(replace(vc.curve(lm, task, rankings["eap"], sizes=(1.0,), **QUIET), absolute=(noisy,)), 0.8)
    assert direct["bounded"].stderr == pytest.approx(noisy.stderr(), nan_ok=True)  # of one size: that of f itself


def test_what_is_missing_says_why(asked):
    """A metric without wrong answers has no cause curve; all other cells are there."""
    lm, task, _, rankings = asked
    found = vc.circuits.scoreboard(
        lm, replace(task, metric="logprob"), rankings, parts=["cause", "curve"], sizes=(0.5, 1.0), **QUIET
    )
    cell = found.cells["eap"]["k 50%"]
    assert cell.value is None and "does not set right against wrong" in cell.why and str(cell) == "–"
    assert found.cells["eap"]["CPR"].value is not None
    assert "under 16 pairs" in found.cells["eap"]["stable draws"].why
    assert any(one.startswith("eap has no k 50%, k 90% and cause area: ") for one in found.missing)
    assert np.isnan(found.table().set_index("ranking").loc["eap", "k 50%"])


def test_seeds_are_compared_and_pairs_that_were_scored_are_told(asked):
    lm, task, _, rankings = asked
    same = vc.attribute(lm, task, units="edges", method="eap", **QUIET)
    seeds = [replace(one, method="masks") for one in rankings.values()]
    found = vc.circuits.scoreboard(
        lm, task, {"twice": [same, same], "both": seeds}, parts=["curve"], sizes=(1.0,), **QUIET
    )
    assert found.cells["twice"]["stable seeds"].value == 1
    tops = [{*one.ranking("abs_mean")[: found.settings["edges"]]} for one in rankings.values()]
    assert found.cells["both"]["stable seeds"].value == len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    assert len(found.notes) == 1 and found.notes[0].startswith("twice was scored on these very pairs")
    with pytest.raises(MethodError, match="one method with other seeds"):
        vc.circuits.scoreboard(lm, task, {"both": list(rankings.values())}, parts=["curve"], **QUIET)
    with pytest.raises(MethodError, match="'nope'"):
        found.best("nope")


@pytest.mark.slow
def test_an_interrupted_board_goes_on(asked, tmp_path, monkeypatch):
    """What was finished is read, and the board so far lies in the folder."""
    lm, task, _, rankings = asked
    how = {"parts": ["curve", "cause"], "sizes": (0.5, 1.0), **QUIET}
    from veracausa.circuits.quality.cause_curve import CauseWork

    with monkeypatch.context() as patched:
        patched.setattr(CauseWork, "run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            vc.circuits.scoreboard(lm, task, rankings, out=tmp_path, **how)
    (path,) = tmp_path.glob("scoreboard-*.json")
    so_far = vc.open(path)
    assert so_far.cells["eap"]["CPR"].value is not None and so_far.cells["eap"]["k 50%"].why == "not run yet"
    whole = vc.circuits.scoreboard(lm, task, rankings, out=tmp_path, **how)
    with monkeypatch.context() as patched:
        patched.setattr(CauseWork, "run", lambda *_, **__: (_ for _ in ()).throw(AssertionError))
        again = vc.circuits.scoreboard(lm, task, rankings, out=tmp_path, **how)
    fresh = vc.circuits.scoreboard(lm, task, rankings, **how)
    assert again.cells == whole.cells == fresh.cells == vc.open(path).cells


def test_it_costs_what_was_forecast(asked):
    lm, task, _, rankings = asked
    how = {"parts": ["curve", "cause"], "sizes": (0.5, 1.0)}
    price = vc.forecast(vc.circuits.scoreboard, lm, task, rankings=rankings, measure=False, **how)
    assert price.token_layers == vc.circuits.scoreboard(lm, task, rankings, **how, **QUIET).cost.token_layers
    assert len(price.steps) == 4


def test_who_leads():
    """The smallest where small is good; what is beyond a bound leads where large is good; of two alike, neither."""
    beyond = Cell(30.0, beyond=True)
    cells = {
        "a": {"k 50%": Cell.of(5), "radius k": beyond, "radius ε": beyond, "CPR": Cell.of(0.5, 0.1)},
        "b": {"k 50%": Cell.of(9), "radius k": Cell.of(100), "radius ε": beyond, "CPR": Cell(why="nothing")},
    }
    header = {"name": "made", "description": "made", "digest": "", "metric": "logit_diff", "n": 4}
    origin = {"name": "", "source": "", "identity": ""}
    found = Scoreboard(("a", "b"), cells, Cost(), origin, header, {"size": 0.02})
    assert [found.best(one) for one in ("k 50%", "radius k", "CPR", "CMD")] == ["a", "a", "a", None]
    assert found.best("radius ε") is None and found.leaders("radius ε") == ("a", "b") and found.leaders("CMD") == ()
    assert found.sentences[1:3] == ("a leads in k 50% and radius k.", "a and b are as good and lead in radius ε.")
    assert str(Cell.of(0)) == "0" and str(Cell.of(0, 0.1)) == "0.000 ± 0.100"
    assert str(cells["a"]["radius k"]) == "> 30" and str(cells["a"]["CPR"]) == "0.500 ± 0.100"
    assert found.shown().to_numpy().tolist()[-2] == ["radius k", "> 30", "100"]
    assert found.missing == ("b has no CPR: nothing",)
    assert {name for columns in PARTS.values() for name in columns} <= set(COLUMNS)


def test_what_cannot_be_asked_is_refused(asked):
    lm, task, other, rankings = asked
    ask = vc.circuits.scoreboard
    for given in ({}, {"eap": []}):
        with pytest.raises(MethodError, match="no ranking to judge"):
            ask(lm, task, given)
    with pytest.raises(UnitError, match="must rank all"):
        ask(lm, task, {"heads": vc.attribute(lm, task, method="atp", **QUIET)})
    with pytest.raises(MethodError, match="Did you mean 'curve'"):
        ask(lm, task, rankings, parts=["curves"])
    for wrong in ({"size": 0}, {"wanted": 2}, {"parts": []}):
        with pytest.raises(MethodError, match="give a part, and shares"):
            ask(lm, task, rankings, **wrong)
    with pytest.raises(MethodError, match="the one that is judged"):
        ask(lm, task, rankings, tasks={"tiny": other})

"""The benchmarks can be started: what they import is there, and the model that some of them make is one."""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from processes import python

import veracausa as vc

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_benchmarks_can_be_started(monkeypatch):
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert len(names) > 15
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    try:
        edges = [importlib.import_module(name) for name in names][names.index("edges")]
        assert edges.random_model(layers=1).measure(edges.pairs()).gap.shape == (10,)
    finally:
        for name in (set(sys.modules) - before) & set(names):
            del sys.modules[name]


def test_a_board_of_several_draws_tells_means_with_errors_over_draws_and_over_pairs(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    means = importlib.import_module("scoreboard").means
    ioi = {("ioi", 0): (0.1, 0.2), ("ioi", 1): (0.3, 0.2)}
    values = ioi | {("hypernymy", 0): (0.5, 0.4), ("hypernymy", 1): (0.9, 0.6)}
    fixed = {"model": "tiny", "pairs": 32, "column": "CMD log", "stderr": 0.04, "beyond": False}
    cells = [
        {**fixed, "task": task, "draw": draw, "ranking": ranking, "value": value}
        for (task, draw), both in values.items()
        for ranking, value in zip(("iterated", "balanced"), both, strict=True)
    ]
    cells.append({**fixed, "task": "subject-verb", "draw": 0, "ranking": "iterated", "value": 0.7})  # no balanced yet
    rows = means(pd.DataFrame(cells))[3].splitlines()
    # draws' means .3 and .6 of iterated: their error is .3 / 2; over pairs √(4 · .04²) / 4; one task: √(2 · .04²) / 2
    assert rows[-1] == "| all 2 | 0, 1 | 0.450 ± 0.150 (0.020) | 0.350 ± 0.050 (0.020) |"
    assert rows[2] == "| ioi | 0, 1 | 0.200 ± 0.100 (0.028) | 0.200 ± 0.000 (0.028) |"
    assert len(rows) == 5 and not any("subject-verb" in row for row in rows)


def test_prices_are_those_of_whole_runs_and_survive_a_second_call(monkeypatch, tmp_path, tiny, task_of):
    monkeypatch.syspath_prepend(str(FOLDER))
    board = importlib.import_module("scoreboard")
    lm, task = tiny("llama"), task_of(6, n=2)
    given = argparse.Namespace(model="tiny", steps=2, size=0.2, seeds=1, out=tmp_path)
    rows = board.rows_of(board.priced(lm, task, ["eap", "adversarial+"], given))
    begin, quiet = vc.circuits.iterate(lm, task, show_progress=False), {"show_progress": False}
    learned = vc.circuits.learn(lm, task, how="adversarial", keep=0.2, steps=2, start=begin, **quiet)
    eap = vc.attribute(lm, task, units="edges", method="eap", **quiet)
    both = learned.cost + begin.cost
    assert [row["token_layers"] for row in rows] == [eap.cost.token_layers, both.token_layers]
    assert all(row["seconds"] > 0 and row["eap"] > 0 for row in rows)
    path = board.priced(lm, task, ["eap", "adversarial+", "acdc"], given)
    assert board.rows_of(path)[:2] == rows and len(board.rows_of(path)) == 3
    assert [*tmp_path.iterdir()] == [path] and board.prices(tmp_path)[3].splitlines()[-1].startswith("| acdc | ")


@pytest.mark.slow
def test_the_gpu_benchmark_measures_every_kind_of_call_that_is_asked_for():
    kinds = ["eap", "circuits", "features", "long"]
    small = ["--shapes", "tiny", "--device", "cpu", "--pairs", "4", "--tokens", "64", "--no-contracts", "--no-measure"]
    code = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
import gpu
sys.argv = ["gpu.py", *{small!r}, "--only", *{kinds!r}]
gpu.main()
"""
    rows = [line.split(" | ") for line in python(code).splitlines() if line.startswith("| ")][2:]
    names = [row[0].removeprefix("| ") for row in rows]
    assert [name.split(",")[0] for name in names] == [
        *("eap", "10 circuits", "exact", "atp", "eap-ig", "a circuit"),
    ]
    assert all(float(row[4]) > 0 and float(row[8].replace(",", "")) > 0 for row in rows)


@pytest.fixture
def groups(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("groups")


def summed(effects):
    """A model in which effects add up; every patched unit costs nothing, every run 1."""
    return lambda blocks: (np.array([abs(effects[block].sum()) for block in blocks]), float(len(blocks)))


def test_group_testing_finds_every_strong_unit_whose_block_does_not_cancel(groups):
    effects = np.random.default_rng(0).normal(size=500) * 1e-5
    effects[[3, 77, 78, 401]] = [0.5, -0.02, -0.3, 0.04]
    blocks = groups.blocks_of(np.random.default_rng(1).random(500), np.sign(effects), 64)
    assert sorted(np.concatenate(blocks)) == [*range(500)]
    assert all(len(set(np.sign(effects[block]))) == 1 for block in blocks)
    found = groups.search(blocks, summed(effects), 0.01)
    assert sorted(found.strong) == [3, 77, 78, 401]
    assert sorted([*found.alone, *found.dropped]) == [*range(500)]
    assert found.tests == found.token_layers < 80


def test_a_block_that_cancels_is_missed_and_the_bound_says_so(groups):
    """Two strong units in one block undo each other: the bound on what was missed holds them."""
    effects = np.zeros(400)
    effects[[10, 11]] = [0.4, -0.4]
    found = groups.search([np.arange(i, i + 40) for i in range(0, 400, 40)], summed(effects), 0.01)
    assert found.strong == [] and found.tests == 10 and len(found.dropped) == 400
    strong, most, drawn = groups.spot_checked(found, np.abs(effects) > 0.01, 100)
    assert len(drawn) == 100 and strong + most >= 2
    everything = groups.spot_checked(found, np.abs(effects) > 0.01, 400)
    assert everything[:2] == (2, 0)

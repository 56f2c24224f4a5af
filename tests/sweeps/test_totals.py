"""Statistics of a cell that are added up item by item are those of its scores, held whole."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_sweeps import lay, neurons, scores
from processes import python

import veracausa as vc
from veracausa.errors import FileError, MethodError
from veracausa.statistics.running import Running

PAIRS, UNITS = 60, 7


def table(seed, lacking=True):
    """Effects around means that differ, far from 0 beside their spread; some pairs lack some units, one unit all."""
    draw = np.random.default_rng(seed)
    values = 100 + draw.normal(size=UNITS) + 0.01 * draw.normal(size=(PAIRS, UNITS))
    if lacking:
        values[draw.random((PAIRS, UNITS)) < 0.2] = np.nan
        values[:, 5] = np.nan
        values[1:, 6] = np.nan  # known of one pair alone
    clean, corrupted = 5 + draw.normal(size=PAIRS), draw.normal(size=PAIRS)
    return values, clean, corrupted


def numbers(whole):
    return lambda rows: tuple(each[rows] for each in whole)


def folder_of(path, **cells):
    """Each cell cut otherwise: the second by pairs out of order, the first by pairs and units."""
    half = [*range(0, PAIRS, 2)], [*range(1, PAIRS, 2)]
    cuts = {
        "exact": [(rows, units) for rows in half for units in ((0, 3), (3, UNITS))],
        "attribute": [(rows.tolist(), None) for rows in np.array_split(np.random.default_rng(3).permutation(PAIRS), 5)],
    }
    return lay(path, neurons(UNITS), PAIRS, {ask: (numbers(whole), cuts[ask]) for ask, whole in cells.items()})


def test_running_figures_are_those_of_the_whole_table():
    """In float64; 1e-9: means of 100 with a spread of .01 cost seven of sixteen digits where squares are summed up."""
    values, clean, corrupted = table(0)
    running, gap = Running(UNITS), clean - corrupted
    for rows in np.array_split(np.arange(PAIRS), 7):
        running.add(values[rows][:, :4], gap[rows], np.arange(4))
        running.add(values[rows][:, 4:], gap[rows], np.arange(4, UNITS))
    frame = pd.DataFrame(values)
    np.testing.assert_allclose(running.mean, frame.mean(), rtol=1e-12)
    np.testing.assert_allclose(running.mean_abs, frame.abs().mean(), rtol=1e-12)
    np.testing.assert_allclose(running.stderr(), frame.sem(), rtol=1e-9)
    held = scores("exact", neurons(UNITS), (values, clean, corrupted), PAIRS)
    np.testing.assert_allclose(running.share(), held.normalised(), rtol=1e-12)


def test_totals_are_those_of_the_merged_scores(tmp_path):
    exact = table(1)
    estimate = (0.8 * exact[0] + np.random.default_rng(2).normal(size=UNITS), *exact[1:])
    sweep = vc.open(folder_of(tmp_path, exact=exact, attribute=estimate).path)
    merged, totals = [sweep[0], sweep[1]], [sweep.totals(cell, strongest=9) for cell in (0, 1)]
    np.testing.assert_array_equal(merged[0].values, exact[0])
    for one, all_of_it in zip(totals, merged, strict=True):
        pd.testing.assert_frame_equal(one.table(), all_of_it.table(), rtol=1e-9)
        for by in ("abs_mean", "mean_abs", "importance"):
            assert one.ranking(by)[:5] == all_of_it.ranking(by)[:5]  # of the others two have no number
        assert one.cost == all_of_it.cost
        flat = all_of_it.values.abs().nan_to_num().flatten().sort(descending=True).values[:9]
        np.testing.assert_array_equal(one.strongest["effect"].abs(), flat)
        row = one.strongest.iloc[3]
        assert all_of_it.values[row["pair"], all_of_it.units.names.index(row["name"])] == row["effect"]
    streamed, held = totals[1].agreement(totals[0]), vc.agreement(merged[1], merged[0])
    assert streamed.names == held.names and streamed.row().keys() == held.row().keys()
    for name, value in held.row().items():
        same = value if isinstance(value, str) else pytest.approx(value, rel=1e-7, nan_ok=True)
        assert streamed.row()[name] == same, name
    assert (streamed.n, streamed.fewest, streamed.cautions) == (held.n, held.fewest, held.cautions)


def test_what_cannot_be_added_up_is_refused(tmp_path):
    folder = folder_of(tmp_path, exact=table(1))
    sweep = vc.open(folder.path)
    with pytest.raises(MethodError, match="Did you mean 'abs_mean'"):
        sweep.totals(0).ranking("absmean")
    folder.shard(folder.items[0]).unlink()
    with pytest.raises(FileError, match=r"1 of 4 items .* are not done"):
        sweep.totals(0)
    with pytest.raises(KeyError, match="no cell"):
        sweep.totals(1)


def test_parquet_has_a_row_for_every_number(tmp_path):
    exact = table(4)
    sweep = vc.open(folder_of(tmp_path / "sweep", exact=exact).path)
    (path,) = sweep.export(tmp_path / "out")
    found = pd.read_parquet(path)
    assert list(found) == ["cell", "pair", "unit", "layer", "effect", "clean", "corrupted"]
    assert len(found) == np.isfinite(exact[0]).sum() and (found["layer"] == 0).all()
    wide = found.pivot(index="pair", columns="unit", values="effect").reindex(columns=sweep[0].units.names)
    np.testing.assert_array_equal(wide.to_numpy(), exact[0])
    ends = found.groupby("pair")[["clean", "corrupted"]].first()
    np.testing.assert_array_equal(ends.to_numpy(), np.stack(exact[1:], 1)[ends.index])


MANY, WIDE, ITEM = 1_000_000, 300, 2_000
#: Peak memory of a process that adds up a folder, beside what it takes to import and to open it, in bytes.
PEAK = """
import sys, veracausa as vc
def peak():  # not getrusage: a new program begins with the peak of the one that started it
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
vc.open(sys.argv[1]).totals(0).table()
before = peak()
totals = vc.open(sys.argv[2]).totals(0, strongest=1000)
print(peak() - before, float(totals.mean()[7]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read where Linux says it")
def test_a_million_pairs_are_added_up_in_the_memory_that_is_said(tmp_path):
    """float32: 1.2 GB of effects; the bound of `totals` is 80 MB. Unit u has effects around u, so its mean is known."""

    def drawn(rows):
        draw = np.random.default_rng(int(rows[0]))
        values = draw.standard_normal((len(rows), WIDE), np.float32) + np.arange(WIDE, dtype=np.float32)
        return values, np.ones(len(rows), np.float32), np.zeros(len(rows), np.float32)

    cut = [(range(first, first + ITEM), None) for first in range(0, MANY, ITEM)]
    large = lay(tmp_path / "large", neurons(WIDE), MANY, {"exact": (drawn, cut)})
    small = lay(tmp_path / "small", neurons(WIDE), 2 * ITEM, {"exact": (drawn, cut[:2])})
    assert sum(path.stat().st_size for path in (large.path / "items").iterdir()) > 1.2e9
    words = str(small.path), str(large.path)
    peak, mean = python(PEAK, *words, env={"PYTHONPATH": os.pathsep.join(sys.path)}).split()
    bound = 56 * WIDE + 16 * MANY + 24 * 1000 + 5 * 4 * ITEM * WIDE + 40e6
    assert float(peak) < bound < 80e6 and abs(float(mean) - 7) < 5 / MANY**0.5
    (path,) = vc.open(large.path).export(tmp_path)
    assert Path(path).stat().st_size < 2e9

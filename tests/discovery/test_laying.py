"""Discoveries and circuits side by side: sets, ranks and f at equal sizes by hand; refusals, files, the page."""

from __future__ import annotations

import dataclasses

import pytest
from scipy import stats

import veracausa as vc
from veracausa.errors import MethodError, UnitError

QUIET = {"show_progress": False}
OPTIONS = {"edges": 40, "sizes": (0.1, 0.4, 1.0), "top": 4, "sample": 4, **QUIET}


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def both(lm, task_of):
    task = task_of((5, 7), n=12)
    turned = (lm.measure(task).gap < 0).tolist()  # answers of pairs are swapped, so that all gaps are over 0
    swapped = [(b, a) if turn else (a, b) for a, b, turn in zip(task.correct, task.incorrect, turned, strict=True)]
    correct, incorrect = zip(*swapped, strict=True)
    task = dataclasses.replace(task, correct=correct, incorrect=incorrect)
    return vc.discover(lm, task, method="eap", **OPTIONS), vc.discover(lm, task, method="eap-ig", **OPTIONS)


@pytest.fixture(scope="module")
def found(both):
    return both[0] | both[1]


def test_sets_and_ranks_are_those_counted_by_hand(both, found, lm):
    kept = [set(one.circuit.names) for one in both]
    assert set(found.edges.names) == kept[0] | kept[1] and found.shared == len(kept[0] & kept[1])
    assert found.jaccard == pytest.approx(len(kept[0] & kept[1]) / len(kept[0] | kept[1]))
    assert found.by_chance == pytest.approx(len(kept[0]) * len(kept[1]) / lm.graph.size)
    table = found.table().set_index("name")
    for name, own in table["kept by"].items():
        assert own == ("both" if name in kept[0] & kept[1] else "A only" if name in kept[0] else "B only")
    for side, one in zip("AB", both, strict=True):
        value = dict(zip(one.scores.units.names, one.scores.importance().tolist(), strict=True))
        for name in table.index:
            above = sum(abs(other) > abs(value[name]) for other in value.values())
            assert table.loc[name, f"rank in {side}"] == 1 + above and table.loc[name, side] == value[name]
    assert (table["change of rank"] == table["rank in A"] - table["rank in B"]).all()
    assert [what for what, *_ in found.mismatches] == ["Method"]


def test_f_at_equal_sizes_is_tested_over_the_same_pairs(both, found):
    curves = [one.evaluation.curve for one in both]
    rows = {(one.ranking, one.edges): one for one in found.sizes}
    assert found.paired and len(rows) == 4
    for (ranking, edges), row in rows.items():
        runs = [
            next(run for run in (curve.signed if ranking == "signed" else curve.absolute) if run.edges == edges)
            for curve in curves
        ]
        assert row.f == tuple(run.f for run in runs) and row.difference == pytest.approx(runs[1].f - runs[0].f)
        parts = runs[1].influence().numpy() - runs[0].influence().numpy()
        error = parts.std(ddof=1) / len(parts) ** 0.5
        p = 2 * stats.t.sf(abs(row.difference) / error, len(parts) - 1) if error else float(row.difference == 0)
        assert row.stderr == pytest.approx(error) and row.p == pytest.approx(p) and row.p_holm >= row.p


def test_pairs_that_both_were_evaluated_on_are_told_where_they_are_not_paired(both):
    apart, n = vc.discovery.beside(*both, paired=False), len(both[0].evaluation.pairs)
    what, *counts = apart.mismatches[-1]
    assert what.endswith("takes for independent") and counts == [f"{n} of {n}"] * 2 and not apart.paired


def test_of_circuits_alone_ranks_are_among_their_own_edges(both, lm, tmp_path):
    one, other = both[0].circuit, both[1].circuit
    found = one | dataclasses.replace(other, importance=None)
    assert found.worth is None and found.sizes == () and found.scored == (len(one), 0)
    ranks = found.table().set_index("name")["rank in A"].dropna()
    assert sorted(ranks) == list(range(1, len(one) + 1)) and found.table()["rank in B"].isna().all()
    empty = dataclasses.replace(one, edges=one.edges[:0], importance=one.importance[:0])
    assert (one | empty).shared == 0 and (empty | one).jaccard == 0
    assert (empty | empty).sentences[-1] == "Neither keeps an edge."
    assert "Neither keeps an edge" in (empty | empty).page(tmp_path / "empty.html").read_text(encoding="utf-8")
    mixed = both[0] | other
    assert mixed.worth is None and mixed.scored == (lm.graph.size, len(other))


def test_what_cannot_be_laid_side_by_side_is_refused_in_words(both, tiny, task_of):
    one = both[0]
    with pytest.raises(MethodError, match=r"A Scores has no circuit of edges"):
        one | one.scores
    other = tiny("gpt2")
    circuit = vc.select(vc.attribute(other, task_of(7, n=2), units="edges", method="eap", **QUIET), n=5, how="abs")
    with pytest.raises(UnitError, match="graphs of other shapes"):
        one | circuit
    with pytest.raises(MethodError, match="a circuit alone has none"):
        vc.discovery.beside(one, one.circuit, paired=True)
    config, *rest = one.circuit.model["identity"].split()
    identity = " ".join(["0" * len(config), *rest])
    tuned = dataclasses.replace(one.circuit, model=one.circuit.model | {"identity": identity})
    with pytest.raises(UnitError, match="other configurations"):
        one | tuned
    assert vc.discovery.beside(one, tuned, corresponding=True).jaccard == 1


def test_it_comes_back_from_its_file(found, tmp_path):
    read = vc.open(found.save(tmp_path / "compared.json"))
    assert read.sentences == found.sentences and read.table().equals(found.table())
    assert read.by_size().equals(found.by_size()) and read.describe() == found.describe()

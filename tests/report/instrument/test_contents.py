"""What the page's script is told of a study: the scores' own numbers, pair by pair, and what findings say of units."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from naive_columns import unpacked
from scipy import stats

from veracausa.behaviour.results import AblationStudy
from veracausa.causes.curves.responses import Responses
from veracausa.causes.results import Disagreement
from veracausa.counterfactuals.roles import HeadRoles
from veracausa.reading.attributions import LogitAttribution
from veracausa.report.instrument.contents import contents, interval
from veracausa.report.instrument.told import CALLS, tell
from veracausa.report.packing import Columns


@pytest.fixture(scope="module")
def packed(views):
    """The contents with every column in its place."""
    columns = Columns()
    found = contents(views, columns)

    def filled(value):
        if isinstance(value, dict) and list(value) == ["column"]:
            return unpacked(columns.packed[value["column"]])
        if isinstance(value, dict):
            return {key: filled(one) for key, one in value.items()}
        return [filled(one) for one in value] if isinstance(value, list) else value

    return filled(found)


def test_effects_pair_by_pair_average_to_the_shares_of_the_tables(packed, study):
    for told, section in zip(packed["sections"], study.sections, strict=True):
        for kind, panel in zip(told["kinds"], section.panels, strict=True):
            table = panel.exact.table()
            assert kind["names"] == table["name"].tolist()
            assert kind["exact"]["value"] == pytest.approx(
                table["share" if kind["share"] else "effect"].tolist(), rel=1e-4
            )
            if panel.exact.n == 1:
                assert kind["each"] is None and kind["exact"]["low"] == [None] * len(panel.exact)
                continue
            each = np.array(kind["each"], dtype=float).reshape(len(panel.exact), panel.exact.n)
            assert np.nanmean(each, 1) == pytest.approx(kind["exact"]["value"], rel=1e-3, abs=1e-6)
            for estimate, scores in zip(kind["estimates"], panel.estimates, strict=True):
                own = dict(zip(scores.units.names, scores.table()["share" if kind["share"] else "effect"], strict=True))
                assert estimate["value"] == pytest.approx([own[name] for name in kind["names"]], rel=1e-4)


def test_intervals_are_students(study):
    """Where every pair has the same gap a share is a mean of numbers, whose interval scipy knows."""
    exact = study.sections[1].panels[0].exact
    same = dataclasses.replace(exact, clean=torch.full((exact.n,), 2.0), corrupted=torch.zeros(exact.n))
    low, high = interval(same)
    own = same.values.double().numpy() / 2
    wanted = stats.t.interval(0.95, exact.n - 1, own.mean(0), stats.sem(own))
    assert low == pytest.approx(wanted[0], rel=1e-5) and high == pytest.approx(wanted[1], rel=1e-5)


def test_findings_tell_of_units_what_they_hold(packed, study):
    findings = {type(one): one for one in study.sections[1].findings}
    told = {one["title"]: one for one in packed["sections"][1]["told"]}
    curve, found = told["Response"], findings[Responses]
    assert curve["units"] == list(found)
    assert curve["columns"]["values"][0] == pytest.approx(found[curve["units"][0]].values.tolist(), rel=1e-4, abs=1e-6)
    answers, ablated = told["What became of answers"], findings[AblationStudy]
    for i, unit in enumerate(answers["units"]):
        outcome = ablated[unit, answers["columns"]["ablation"][i]]
        row = {name: column[i] for name, column in answers["columns"].items()}
        assert (row["right"], row["n"], row["lost"], row["gained"]) == (
            outcome.right, outcome.n, outcome.lost, outcome.gained,
        )  # fmt: skip
        assert row["before"] == ablated.unablated.right
    looks = next(one for one in packed["sections"][1]["told"] if one["what"] == "looks")
    for run, name in enumerate(("clean", "corrupted")):
        assert looks["columns"][name] == np.round(100 * findings[HeadRoles].looks[run]).tolist()
        assert len(looks["columns"][name][0]) == len(packed["sections"][1]["pairs"][0][name])
    direct = told["Direct effect"]
    wanted = [one.value for one in findings[Disagreement].shares("direct")]
    assert direct["columns"]["value"] == pytest.approx(wanted, rel=1e-4, abs=1e-8)
    assert "What the stream says there" in told and "What it writes to the logits" in told
    writes, raises = findings[LogitAttribution], told["Tokens that it raises"]
    assert raises["units"] == list(writes.writers) and all(
        f"“{token}”" in raises["columns"]["text"][2] for token in writes.raised(writes.writers[2])
    )


def test_what_two_findings_say_of_a_unit_is_told_once(study):
    found = next(one for one in study.sections[1].findings if isinstance(one, Disagreement))
    once, twice = tell([found]), tell([found, found])
    assert [(one.title, one.units) for one in twice] == [(one.title, one.units) for one in once] and once


def test_every_call_names_a_title_that_a_finding_tells_or_no_study_has(study):
    titles = {one.title for one in tell(study.sections[1].findings)}
    assert {title for _, title, _ in CALLS} - titles == {"Edges"}
    assert len(CALLS) == len({title for _, title, _ in CALLS})

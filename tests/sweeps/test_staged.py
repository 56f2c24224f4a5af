"""Studies and discoveries as cells: what several processes do stage by stage is what one process does."""

import dataclasses

import pandas as pd
import pytest
import torch
from command_line import model_folder, pairs_file
from tiny_sweeps import PAIRS, TINY, plan, quiet

import veracausa as vc
from veracausa.cost import Step
from veracausa.errors import FileError, NumericsError
from veracausa.planning.stages import Stage
from veracausa.studies import questions, section
from veracausa.sweeps import working
from veracausa.sweeps.folder import Seen
from veracausa.sweeps.items import Item
from veracausa.sweeps.staged import ranges

STUDY = {"ask": "study", "level": "quick", "neurons": 6, "sample": 4, "circuit": True, "seed": 1}
DISCOVERY = {"ask": "discover", "method": "eap", "edges": 20, "top": 5, "sample": 4, "seed": 1}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged")
    return model_folder(folder / "model"), pairs_file(folder / "pairs.csv", PAIRS)


@pytest.fixture(scope="module")
def asked(there):
    lm = vc.load(str(there[0]), dtype="float64", device="cpu")
    return lm, vc.task(lm, there[1])


def alike(one, other):
    """Two results say the same: tables to 1e-9 of their size (float64), sentences word by word; times may differ."""
    timeless = [each.table().drop(columns="seconds", errors="ignore") for each in (one, other)]
    pd.testing.assert_frame_equal(*timeless, rtol=1e-9, atol=1e-11)
    assert one.sentences == other.sentences and (one.cost is None or one.cost.full == other.cost.full)


@pytest.mark.slow
def test_a_study_done_stage_by_stage_is_that_of_one_process(there, asked, tmp_path):
    done = quiet(plan(there, STUDY, seconds=TINY), tmp_path)
    turns = [item.turn for item in done.folder.items]
    assert done.finished and {0, 1, 2} == {*turns} and turns.count(0) > 4 and turns.count(2) == 1
    merged, options = done[0], {name: value for name, value in STUDY.items() if name != "ask"}
    alone = vc.study(*asked, **options, show_progress=False)
    alike(merged, alone)
    for ours, theirs in zip(merged.sections[0].panels, alone.sections[0].panels, strict=True):
        for one, other in zip(ours.scores, theirs.scores, strict=True):
            torch.testing.assert_close(one.values, other.values, rtol=1e-9, atol=1e-11, equal_nan=True)
    found, wanted = merged.sections[0].findings, alone.sections[0].findings
    assert len(found) == len(wanted) > 5
    for one, other in zip(found, wanted, strict=True):
        assert type(one) is type(other)
        alike(one, other)
    assert [step.what for _, step in merged.steps] == [step.what for _, step in alone.steps]
    took = [step.seconds for _, step in merged.steps]
    assert min(took) > 0 and merged.seconds > sum(took)
    assert not (done.folder.result(0) / "pieces").exists()
    page = done.page().read_text(encoding="utf-8")
    assert page.count(f'href="results/{done.folder.result(0).name}/report.html"') == 2


def test_a_discovery_done_stage_by_stage_is_that_of_one_process(there, asked, tmp_path):
    done = quiet(plan(there, DISCOVERY, seconds=TINY), tmp_path)
    assert [item.turn for item in done.folder.items] == [0, 1, 2, 2, 2, 2, 3]
    merged, options = done[0], {name: value for name, value in DISCOVERY.items() if name != "ask"}
    alone = vc.discover(*asked, **options, show_progress=False)
    alike(merged, alone)
    alike(merged.evaluation, alone.evaluation)
    alike(merged.receipt, alone.receipt)
    assert merged.circuit.names == alone.circuit.names and merged.verified == alone.verified
    assert merged.evaluation.circuit.settings == alone.evaluation.circuit.settings
    assert dataclasses.asdict(vc.open(tmp_path)[0].evaluation.pairs) == dataclasses.asdict(merged.evaluation.pairs)


@pytest.mark.slow
def test_a_short_study_is_one_item_and_a_damaged_one_is_made_anew(there, tmp_path):
    asking = plan(there, DISCOVERY, seconds=1e9)
    done = quiet(asking, tmp_path)
    assert [(item.units, item.turn) for item in done.folder.items] == [(None, 0)]
    scores = done.folder.result(0) / "scores.safetensors"
    scores.write_bytes(scores.read_bytes()[:-9])
    with pytest.raises(FileError, match=r"damaged.*run the sweep again"):
        quiet(asking, tmp_path)[0]
    assert quiet(asking, tmp_path)[0].verified


@pytest.mark.slow
def test_a_stage_that_fails_is_a_sentence_in_its_chapter_and_a_panel_that_fails_stops_its_cell(
    there, tmp_path, monkeypatch
):
    monkeypatch.setattr(questions, "responses", poisoned(questions.responses))
    done = quiet(plan(there, STUDY, seconds=TINY), tmp_path / "further")
    assert done.finished and "NaN in layer 1" in str([one.describe() for one in done[0].sections[0].findings])
    monkeypatch.setattr(section, "exact", poisoned(section.exact))
    stuck = quiet(plan(there, STUDY, seconds=TINY, tries=1), tmp_path / "panels")
    assert not stuck.folder.open_items() and not stuck.finished and "NaN in layer 1" in stuck.describe()
    assert {item.turn for item in stuck.folder.items if stuck.folder.done(item)} == {0}


def poisoned(verb):
    """A verb that can be forecast, and fails when it is called."""

    def fails(*given, **named):
        raise NumericsError("NaN in layer 1")

    fails.work = verb.work
    return fails


def test_a_sweep_of_a_study_goes_on_where_it_was(there, tmp_path, monkeypatch):
    asking, run, ran = plan(there, DISCOVERY, seconds=TINY), working.Asked.run, []

    def counted(self, part, *rest):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(part.units)
        return run(self, part, *rest)

    monkeypatch.setattr(working.Asked, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        quiet(asking, tmp_path)
    later = []

    def noted(self, part, *rest):
        later.append(part.units)
        return run(self, part, *rest)

    monkeypatch.setattr(working.Asked, "run", noted)
    assert quiet(asking, tmp_path).finished and len(later) == 4 and not {*later} & {*ran}


def test_stages_are_cut_by_turn_and_time_and_not_before_joined_ones():
    step = Step("", "exact", 1.0, 1.0)
    kinds = [(0, False, 3.0), (0, False, 3.0), (0, False, 3.0), (0, True, 9.0), (1, False, 1.0), (1, False, None)]
    stages = [Stage(step, lambda: None, None, turn, joined) for turn, joined, _ in kinds]
    steps = [dataclasses.replace(step, seconds=seconds) for *_, seconds in kinds]
    assert ranges(stages, steps, 6.0) == [(0, (0, 2)), (0, (2, 4)), (1, (4, 5)), (1, (5, 6))]


def test_items_wait_for_earlier_turns_of_their_own_cell_alone():
    items = [Item(f"{cell}{turn}", cell, None, None, 1.0, 1.0, 1, turn=turn) for cell in (0, 1) for turn in (0, 1, 2)]
    seen = Seen({"10"}, {"01"}, set(), set())
    assert [item.id for item in seen.left(items)] == ["00", "11", "12"]

"""Sweeps: what is merged is what one process gives; nothing that is done is lost, and nothing wrong is kept."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import model_folder, pairs_file
from tiny_sweeps import PAIRS, TINY, plan, quiet

import veracausa as vc
from veracausa.behaviour.study import ablation_study
from veracausa.cost import Cost
from veracausa.errors import FileError, MethodError, NumericsError
from veracausa.planning.rates import Rate
from veracausa.sweeps import items, plan_of, working
from veracausa.sweeps.asking import Asked, Part
from veracausa.sweeps.claims import STALE, claimed, give_up_stale
from veracausa.sweeps.sweep import laid_out


@pytest.fixture(autouse=True)
def _as_small_as_can_be(monkeypatch):
    """Where a plan allows an item no time at all; else what every item does anew keeps them larger."""
    count = items._count

    def small(whole, fixed, seconds, most):
        return min(most, 4) if seconds == TINY else count(whole, fixed, seconds, most)

    monkeypatch.setattr(items, "_count", small)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return model_folder(folder / "model"), pairs_file(folder / "pairs.csv", PAIRS)


@pytest.fixture(scope="module")
def asked(there):
    lm = vc.load(str(there[0]), dtype="float64", device="cpu")
    return lm, vc.task(lm, there[1])


QUESTIONS = (
    {"ask": "exact", "units": "heads"},
    {"ask": "exact", "units": "heads@positions"},
    {"ask": "exact", "units": "mlps", "ablation": "mean"},
    {"ask": "exact", "units": "neurons", "ablation": "resample", "seed": 3},
    {"ask": "exact", "units": "a0.h0->m0,a0.h1->logits,m0->a1.h0<q>"},
    {"ask": "exact", "units": "a0.h1,m1+m2"},
    {"ask": "attribute", "units": "heads", "method": "ig"},
    {"ask": "attribute", "units": "heads", "method": "atp", "baseline": "mean"},
    {"ask": "attribute", "units": "heads", "method": "expected-gradients", "nodes": 3},
    {"ask": "attribute", "units": "edges", "method": "ifr"},
)


def direct(lm, task, question):
    options = {name: value for name, value in question.items() if name != "ask"}
    if "," in options["units"]:
        options["units"] = options["units"].split(",")
    return getattr(vc, question["ask"])(lm, task, **options, show_progress=False)


@pytest.mark.cases(4)
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda one: "-".join(map(str, one.values())))
def test_merged_scores_are_those_of_one_process(there, asked, tmp_path, question):
    """Cut as small as can be. float64: other batches change sums by their last bits."""
    merged, alone = quiet(plan(there, question, seconds=TINY), tmp_path)[0], direct(*asked, question)
    torch.testing.assert_close(merged.values, alone.values, rtol=1e-9, atol=1e-11, equal_nan=True)
    for name in ("clean", "corrupted"):
        torch.testing.assert_close(getattr(merged, name), getattr(alone, name), rtol=1e-12, atol=1e-12)
    for name in ("settings", "task", "model", "method", "signed", "verified", "notes"):
        assert getattr(merged, name) == getattr(alone, name), name
    assert merged.units.names == alone.units.names and merged.cost.full == alone.cost.full
    if alone.completeness is not None:
        torch.testing.assert_close(merged.completeness.claimed, alone.completeness.claimed)
        torch.testing.assert_close(merged.completeness.true, alone.completeness.true)
    if alone.draw_stderr is not None:
        torch.testing.assert_close(merged.draw_stderr, alone.draw_stderr)


def test_what_is_cut_and_what_is_not(there, tmp_path):
    """Pairs and units where numbers allow it; units alone where a pair's place draws; else nothing."""
    found = laid_out(plan_of(plan(there, *QUESTIONS, seconds=TINY)), tmp_path, show_progress=False)
    first = [found.of_cell(cell)[0] for cell in range(len(QUESTIONS))]
    cut = [(item.pairs is not None, item.units is not None) for item in first]
    assert cut == [(True, True)] * 3 + [(False, True), (True, True), (False, True)] + [(True, False)] * 2 + [
        (False, False), (True, False)
    ]  # fmt: skip
    for cell in range(len(QUESTIONS)):
        items = found.of_cell(cell)
        assert len({item.id for item in items}) == len(items)
        covered = sorted(pair for item in items for pair in item.pairs or range(4))
        assert sorted(set(covered)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("ablation", "held"), [("counterfactual", True), ("mean", False)])
def test_recordings_of_pairs_are_forecast_for_the_first_of_their_units(asked, ablation, held):
    """A worker keeps recordings; means over the task's prompts it takes anew for every item."""
    cell = plan_of({"models": ["m"], "tasks": ["ioi"], "questions": [{"ask": "exact", "ablation": ablation}]}).cells[0]
    whole, rate = Asked(cell, *asked), {"exact": Rate(1000.0, 0.0)}
    parts = [Part(units=units) for units in ((0, 3), (3, 6))]
    alone = [sum(step.seconds for step in items.Clock(whole, rate).steps(part)) for part in parts]
    first, second = (items.Clock(whole, rate).seconds(part) for part in parts)
    assert first == alone[0]
    rows = whole.costs()[3:6].sum() / 1000
    assert second == (pytest.approx(rows) if held else alone[1]) and rows < alone[1]


def test_items_are_cut_by_memory_too(there, asked, tmp_path, monkeypatch):
    """Half of the numbers of four pairs fit into an eighth of what is free; units of one pair are never cut for it."""
    question, free = {"ask": "attribute", "units": "edges", "method": "eap"}, items.free_memory
    needed = items.peak(vc.attribute.work(*asked, units="edges", method="eap")).scores
    for room, pairs in ((8 * needed, [None]), (4.5 * needed, [2, 2]), (1, [1] * 4)):
        monkeypatch.setattr(items, "free_memory", lambda device, room=room: room)
        found = laid_out(plan_of(plan(there, question, seconds=1e9)), tmp_path / str(room), show_progress=False).items
        assert [item.pairs and len(item.pairs) for item in found] == pairs
    monkeypatch.setattr(items, "free_memory", free)
    cut = vc.open(tmp_path / "1").folder.items
    assert all(
        0 < item.memory < items.peak(vc.attribute.work(*asked, units="edges", method="eap")).beside for item in cut
    )
    same(quiet(plan(there, question, seconds=1e9), tmp_path / "1")[0].values, direct(*asked, question).values)


JUDGED = (
    {"ask": "verify", "units": "heads", "method": "ig", "top": 3, "sample": 4, "tau": 0.05},
    {"ask": "verify", "units": "neurons@positions", "method": "atp", "baseline": "mean", "top": 9, "sample": 20},
    {"ask": "curve", "method": "eap"},
    {"ask": "curve", "method": "eap", "ablation": "mean"},
    {"ask": "ablation_study", "units": "a0.h1,m1", "ablations": "zero,mean"},
    {"ask": "ablation_study", "units": "a0.h1,m1", "ablations": "counterfactual", "new_tokens": 2},
)


def same(one, other):
    """Results without their seconds: numbers within 1e-9 of their size (other batches change their last bits)."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, equal_nan=True)
    elif isinstance(one, Cost):
        assert one.full == other.full
    elif is_dataclass(one):
        for field in fields(one):
            same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple | list) and one and not isinstance(one[0], str):
        assert len(one) == len(other) and [same(*pair) for pair in zip(one, other, strict=True)]
    elif isinstance(one, np.ndarray | float):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    else:
        assert one == other


def judged(lm, task, question):
    """What one process gives."""
    own = {name: value for name, value in question.items() if name != "ask"}
    if question["ask"] == "ablation_study":
        listed = {name: own.pop(name).split(",") for name in ("units", "ablations")}
        return ablation_study(lm, task, **listed, **own, show_progress=False)
    checks = {name: own.pop(name) for name in ("top", "sample", "tau", "ablation") if name in own}
    estimate = vc.attribute(lm, task, **({"units": "edges"} | own), show_progress=False)
    return getattr(vc, question["ask"])(lm, task, estimate, **checks, show_progress=False)


@pytest.mark.cases(3)
@pytest.mark.parametrize("question", JUDGED, ids=lambda one: "-".join(map(str, one.values())))
def test_merged_receipts_curves_and_studies_are_those_of_one_process(there, asked, tmp_path, question):
    """Cut as small as can be: the estimate by pairs, then what is checked with the whole of it."""
    done = quiet(plan(there, question, seconds=TINY), tmp_path)
    items = done.folder.items
    assert done.finished and len(items) > 3
    assert {item.step for item in items} == ({""} if question["ask"] == "ablation_study" else {"estimate", "checked"})
    merged, alone = done[0], judged(*asked, question)
    units = [one.exact.units.names for one in (merged, alone)] if question["ask"] == "verify" else ()
    assert len(set(map(tuple, units))) <= 1
    same(merged, alone)
    assert merged.sentences == alone.sentences


@pytest.mark.cases(1)
@pytest.mark.parametrize("seconds", [TINY, 60.0])
def test_a_receipt_with_a_reference_set_of_its_own(there, asked, tmp_path, seconds):
    """Estimate and exact effects take their means over the same prompts: in items of their own, and in one."""
    (tmp_path / "prompts.txt").write_text("the keys near the cabinet\nAfter the key near the store\n", encoding="utf-8")
    where = {"reference": str(tmp_path / "prompts.txt")}
    question = {"ask": "verify", "units": "heads", "method": "atp", "baseline": "mean", "top": 3, "sample": 2} | where
    done = quiet(plan(there, question, seconds=seconds), tmp_path / "out")
    estimate = vc.attribute(*asked, units="heads", method="atp", baseline="mean", **where, show_progress=False)
    alone = vc.verify(*asked, estimate, top=3, sample=2, **where, show_progress=False)
    assert ({item.step for item in done.folder.items} == {""}) is (seconds != TINY)
    same(done[0], alone)
    assert done[0].exact.settings["reference_digest"] == estimate.settings["reference_digest"]


def test_items_are_told_apart_by_what_a_reference_file_holds(there, tmp_path):
    """The same plan, with the file's prompts written anew: other items, so nothing of the old ones is taken."""
    prompts, found = tmp_path / "prompts.txt", []
    question = {"ask": "exact", "units": "mlps", "ablation": "mean", "reference": str(prompts)}
    for number, text in enumerate(("the keys near the cabinet\n", "After the key near the store\n")):
        prompts.write_text(text, encoding="utf-8")
        found.append(laid_out(plan_of(plan(there, question)), tmp_path / str(number), show_progress=False).items[0].id)
    assert found[0] != found[1]
    prompts.write_text("the key near the store\n", encoding="utf-8")
    with pytest.raises(FileError, match="reference set whose file has changed"):
        quiet(plan(there, question), tmp_path / "0")


def test_a_disk_that_is_too_small_is_said_before_anything_is_run(there, tmp_path, monkeypatch):
    """What is forecast is what the files take, but for their headers."""
    asking = plan(there, {"ask": "exact", "units": "neurons"}, {"ask": "attribute", "units": "heads", "method": "atp"})
    found = quiet(asking, tmp_path / "done").folder
    for item in found.items:
        assert found.shard(item).stat().st_size == pytest.approx(item.disk, abs=4096)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(FileError, match=r"take about .* but .* free"):
        quiet(asking, tmp_path / "full")
    assert not (tmp_path / "full" / "sweep.json").exists()


def test_a_receipt_that_takes_no_long_is_one_item(there, asked, tmp_path):
    done = quiet(plan(there, JUDGED[0]), tmp_path)
    assert [item.step for item in done.folder.items] == [""]
    same(done[0], judged(*asked, JUDGED[0]))


@pytest.mark.slow
def test_what_waits_for_an_estimate_that_is_set_aside_is_not_tried(there, tmp_path, monkeypatch):
    run = working.Asked.run

    def poisoned(self, part, *rest):
        if self.cell.ask == "attribute" and 0 in part.pairs:
            raise NumericsError("NaN in layer 1")
        return run(self, part, *rest)

    monkeypatch.setattr(working.Asked, "run", poisoned)
    found = quiet(plan(there, JUDGED[0], seconds=TINY, tries=1), tmp_path)
    ((row, *_), aside) = found.table().to_dict("records"), found.failures
    assert len(aside) == row["set aside"] == 1 and row["done"] == 3 and not found.folder.open_items()
    assert "NaN in layer 1" in found.describe()


def test_a_sweep_goes_on_where_it_was(there, tmp_path, monkeypatch):
    """Interrupted behind two items: the rest is done, and those two are not run again."""
    asked, run = plan(there, {"ask": "exact", "units": "heads"}, seconds=TINY), working.Asked.run
    ran = []

    def counted(self, part, *rest):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(part)
        return run(self, part, *rest)

    monkeypatch.setattr(working.Asked, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        quiet(asked, tmp_path)
    assert len(list((tmp_path / "items").iterdir())) == 2 and not list((tmp_path / "claims").glob("[0-9a-f]*"))
    later = []
    monkeypatch.setattr(working.Asked, "run", lambda self, part, *rest: later.append(part) or run(self, part, *rest))
    done = quiet(asked, tmp_path)
    assert done.finished and len(later) == len(done.folder.items) - 2
    assert not {(one.pairs, one.units) for one in later} & {(one.pairs, one.units) for one in ran}


def test_names_may_have_commas_of_their_own(there, tmp_path):
    names = "m0.down[4,17],a0.h1<pattern>@2,1+m1"
    asked = working.Asked.of(plan_of(plan(there, {"ask": "exact", "units": names})).cells[0], vc.load(str(there[0])))
    assert asked._call(Part())[1]["units"] == ["m0.down[4,17]", "a0.h1<pattern>@2,1+m1"]


def test_an_item_that_fails_is_tried_set_aside_and_said(there, tmp_path, monkeypatch):
    run, tries = working.Asked.run, []

    def poisoned(self, part, *rest):
        if part.units[0] == 0:
            tries.append(part)
            raise NumericsError("NaN in layer 1")
        return run(self, part, *rest)

    monkeypatch.setattr(working.Asked, "run", poisoned)
    found = quiet(plan(there, {"ask": "exact", "units": "mlps"}, seconds=TINY, tries=2), tmp_path)
    aside = [item for item in found.folder.items if item.units[0] == 0]
    assert len(tries) == 2 * len(aside) and not found.finished
    assert {why for _, why in found.failures} == {"NumericsError: NaN in layer 1"}
    assert "set aside" in found.describe() and "NaN in layer 1" in found.describe()
    with pytest.raises(FileError, match="are not done"):
        found[0]


def test_a_damaged_item_is_found_put_away_and_made_anew(there, asked, tmp_path):
    asking = plan(there, {"ask": "exact", "units": "heads"}, seconds=TINY)
    found = quiet(asking, tmp_path)
    shard = found.folder.shard(found.folder.items[0])
    body = bytearray(shard.read_bytes())
    body[-3] ^= 1
    shard.write_bytes(body)
    with pytest.raises(FileError, match=r"damaged.*run the sweep again"):
        found[0]
    again = quiet(asking, tmp_path)
    torch.testing.assert_close(again[0].values, direct(*asked, {"ask": "exact", "units": "heads"}).values)


def test_another_plan_model_or_pairs_in_the_folder_are_refused(there, tmp_path):
    asking = plan(there, {"ask": "exact", "units": "heads"})
    quiet(asking, tmp_path / "out")
    with pytest.raises(FileError, match="another sweep"):
        quiet(plan(there, {"ask": "exact", "units": "mlps"}), tmp_path / "out")
    body = json.loads((tmp_path / "out" / "sweep.json").read_text())
    for item in (tmp_path / "out" / "items").iterdir():
        item.unlink()
    there[1].write_text(there[1].read_text().replace("store", "cabinet"))
    try:
        with pytest.raises(FileError, match="other pairs"):
            quiet(asking, tmp_path / "out")
    finally:
        pairs_file(there[1], PAIRS)
    assert body["format"] == "veracausa-sweep-4"
    with pytest.raises(MethodError, match="workers="):
        quiet(asking, tmp_path / "out", workers=2)


def test_a_claim_is_one_processs_until_it_is_given_up(tmp_path):
    with claimed(tmp_path, "aa") as mine, claimed(tmp_path, "aa") as other:
        assert mine and not other and give_up_stale(tmp_path) == []
    path = tmp_path / "claims" / "aa"
    assert not path.exists()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path.write_text(json.dumps({"host": socket.gethostname(), "process": gone.pid}))
    (tmp_path / "claims" / "bb").write_text(json.dumps({"host": "elsewhere", "process": 1}))
    assert [name for name, _ in give_up_stale(tmp_path)] == ["aa"]
    os.utime(tmp_path / "claims" / "bb", (time.time() - 2 * STALE,) * 2)
    assert "silent" in dict(give_up_stale(tmp_path))["bb"]


def kill_one(folder, running):
    """SIGKILL to the first process that has an item in hand, while `running()`; how many were killed."""
    while running():
        for claim in (folder / "claims").glob("[0-9a-f]*"):
            with suppress(OSError, ValueError):
                os.kill(json.loads(claim.read_text())["process"], signal.SIGKILL)
                return 1
        time.sleep(0.01)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["pool", "ray"])
def test_a_worker_may_be_killed(there, asked, tmp_path, runner):
    """SIGKILL while an item is in hand: it is done by another worker, and the merged numbers are one process's."""
    if runner == "ray":
        pytest.importorskip("ray")
    question = {"ask": "exact", "units": "neurons"}
    asking = plan(there, question, seconds=TINY)
    laid_out(plan_of(asking), tmp_path, show_progress=False)
    body = f"import veracausa as vc; vc.sweep({asking!r}, out={str(tmp_path)!r}, runner={runner!r}, workers=2)"
    workers = subprocess.Popen([sys.executable, "-c", body], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert kill_one(tmp_path, lambda: workers.poll() is None) == 1 and workers.wait(300) == 0
    found = quiet(asking, tmp_path)
    assert found.finished
    torch.testing.assert_close(found[0].values, direct(*asked, question).values, rtol=1e-9, atol=1e-11)
    (failure,) = (tmp_path / "failed").glob("*.json")  # the item that was in hand, and no other
    assert "is gone" in json.loads(failure.read_text())["why"]

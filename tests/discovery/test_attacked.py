"""An evaluation whose edges outside are attacked: against the public call, its files, resuming, its page."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html import unescape

import pytest
import torch
from bridges import watched

import veracausa as vc
from veracausa.discovery.evaluation import NOT_TRIED, TRIED
from veracausa.errors import FileError, MethodError
from veracausa.report.pages.discovery import page
from veracausa.storage.files import write_json

OPTIONS = {"edges": 60, "sizes": (0.3, 1.0), "top": 2, "sample": 2, "show_progress": False}


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama", dtype=torch.float32)


@pytest.fixture(scope="module")
def task(task_of):
    return task_of((5, 7), n=8)


@pytest.fixture(scope="module")
def found(lm, task):
    return vc.discover(lm, task, attack=True, **OPTIONS)


@pytest.fixture(scope="module")
def saved(found, tmp_path_factory):
    return found.save(tmp_path_factory.mktemp("attacked") / "out").parent


def text_of(html):
    """What a page says."""
    body = html[html.index("<main") : html.index('<script type="application/json"')]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


@pytest.mark.slow
def test_it_is_the_public_call_on_the_pairs_held_out(lm, task, found):
    other = task.split(0.5, 0)[1]
    alone = vc.circuits.adversary(lm, other, found.circuit, **TRIED, show_progress=False)
    attack = found.evaluation.attack
    assert attack.attempts == alone.attempts and torch.equal(attack.metric, alone.metric)
    assert float(attack.f[0]) == pytest.approx(found.evaluation.circuit.f, abs=1e-6)  # r = 0 is faithfulness
    assert {one.budget for one in attack.attempts} == {"none", "sparse", "bounded"}
    said = alone.said()
    assert found.evaluation.sentences[-1 - len(said) : -1] == said and "other edges" in said[-2]
    assert "chose by these very pairs" in found.evaluation.sentences[-1]
    assert alone.radii() in found.describe() and alone.radii() in found.evaluation.describe()
    assert found.evaluation.cost.token_layers == found.steps[-1].token_layers + sum(
        step.token_layers for step in found.steps[2:-1]
    )


def test_the_forecast_bounds_it(lm, found):
    plan, step = found.plan[-1], found.steps[-1]
    assert plan.what.startswith("an adversary on 4 pairs") and 0 < step.token_layers <= plan.most
    work = vc.discovery.evaluate.work(lm, found, found.pairs, attack=True)
    assert len(work.steps()) == 5 and work.tokens() == sum(one.token_layers for one in work.steps())
    assert len(vc.discovery.evaluate.work(lm, found, found.pairs).steps()) == 4


def test_its_files_come_back_and_those_of_before_open(lm, task, found, saved, tmp_path):
    again = vc.open(saved)
    assert again.describe() == found.describe() and again.evaluation.attack.attempts == found.evaluation.attack.attempts
    one = vc.open(found.evaluation.save(tmp_path / "one.safetensors"))
    assert torch.equal(one.attack.metric, found.evaluation.attack.metric)
    assert one.sentences == found.evaluation.sentences
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    path = folder / "evaluations/held-out/attack.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(FileError, match="attack"):
        vc.open(folder)
    path.unlink()  # as folders of before have it
    assert vc.open(folder).evaluation.attack is None and vc.open(folder).evaluation.attacked == ()
    with pytest.raises(FileError, match="attack: True there"):
        vc.discover(lm, task, out=folder, **OPTIONS)


def test_a_folder_begun_without_an_adversary_goes_on_with_one(lm, task, found, saved, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(saved, folder)
    (folder / "evaluations/held-out/attack.safetensors").unlink()
    told = json.loads((folder / "run.json").read_text())
    del told["asked"]["attack"]
    write_json(folder / "run.json", {key: one for key, one in told.items() if key != "checksum"})
    assert vc.open(folder).evaluation.attack is None
    again = vc.discover(lm, task, attack=True, out=folder, **OPTIONS)
    assert torch.equal(again.evaluation.attack.metric, found.evaluation.attack.metric)
    assert again.asked["attack"] and again.scores.cost == found.scores.cost  # scores were read
    with pytest.raises(FileError, match="edges: "):
        vc.discover(lm, task, attack=True, out=folder, **(OPTIONS | {"edges": OPTIONS["edges"] + 1}))


def test_the_page_says_what_it_takes_or_that_it_was_not_asked(lm, found):
    html = page(found)
    text = text_of(html)
    assert 'id="held-out-attack"' in html and NOT_TRIED not in text and "chose by these very pairs" in text
    assert found.evaluation.attacked[0] in text
    other = vc.discovery.evaluate(lm, found, found.pairs, sizes=(1.0,), show_progress=False)
    text = text_of(page(dataclasses.replace(found, evaluation=other)))
    assert NOT_TRIED in text and "chose by" not in text


class Stop(Exception):
    """What interrupts."""


def test_an_interrupted_attack_goes_on(tiny, task, found, saved, tmp_path):
    lm, folder, calls = tiny("llama", fresh=True, dtype=torch.float32), tmp_path / "out", 0
    shutil.copytree(saved, folder)
    shutil.rmtree(folder / "evaluations")
    (folder / "report.html").unlink()

    def stop(x):
        nonlocal calls
        calls += 1
        if calls > 120:
            raise Stop

    with watched(lm.hf.model.layers[1].mlp, stop), pytest.raises(Stop):
        vc.discover(lm, task, attack=True, out=folder, **OPTIONS)
    assert list(folder.glob("evaluations/held-out/pieces/adversary-*"))
    again = vc.discover(lm, task, attack=True, out=folder, **OPTIONS)
    assert again.evaluation.attack.attempts == found.evaluation.attack.attempts
    torch.testing.assert_close(again.evaluation.attack.metric, found.evaluation.attack.metric)


SLOWLY = [pytest.param(one, marks=pytest.mark.slow) for one in ("resample", "mean")]


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["zero", *SLOWLY])
def test_further_evaluations_keep_it_under_any_ablation(lm, saved, task_of, tmp_path, ablation):
    """Asked again, kept parts are read though the run without edges is not the corrupted one."""
    folder, other = tmp_path / "copy", task_of((6,), n=3, seed=11)
    shutil.copytree(saved, folder)
    how = {"sizes": (0.3, 1.0), "ablation": ablation, "show_progress": False}
    first = vc.discovery.evaluate(lm, folder, other, attack=True, **how)
    assert float(first.attack.f[0]) == pytest.approx(first.circuit.f, abs=1e-6)
    again = vc.discovery.evaluate(lm, folder, other, **how)  # not asked for, and there
    assert again.attack.attempts == first.attack.attempts and vc.open(folder).further[0].attack is not None
    with pytest.raises(MethodError, match="optimal"):
        vc.discovery.evaluate(lm, folder, other, attack=True, ablation="optimal", show_progress=False)

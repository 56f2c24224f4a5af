"""What goes wrong around a sweep: each is one clear sentence, and nothing that is done is lost."""

import json
import socket
import subprocess
import sys

import pytest
import torch
from command_line import model_folder, pairs_file
from tiny_sweeps import PAIRS, TINY, plan, quiet

import veracausa as vc
from veracausa.errors import FileError, WorkerError
from veracausa.scores.scores import Scores
from veracausa.sweeps import pool, working
from veracausa.sweeps.claims import held_by
from veracausa.sweeps.cluster import on_ray
from veracausa.sweeps.items import Item

HEADS = {"ask": "exact", "units": "heads"}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return model_folder(folder / "modèle"), pairs_file(folder / "пары 対.csv", PAIRS)


def test_a_plan_means_the_same_wherever_it_is_started(there, tmp_path, monkeypatch):
    """Its files lie beside it; a worker that is started elsewhere later finds them, too."""
    text = f'models = [{{name = "{there[0].name}", device = "cpu"}}]\n[[tasks]]\nfile = "{there[1].name}"\n'
    (there[0].parent / "plan.toml").write_text(
        text + '[[questions]]\nask = "exact"\nunits = "mlps"\n', encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    done = quiet(there[0].parent / "plan.toml", "out")
    assert done.finished and done.names == [f"{there[0].name} device=cpu · {there[1].name} · exact units=mlps"]
    for item in done.folder.items:
        done.folder.shard(item).unlink()
    monkeypatch.chdir(tmp_path.parent)
    working.work_through(vc.open(tmp_path / "out").folder)
    lm = vc.load(str(there[0]), device="cpu")
    direct = vc.exact(lm, vc.task(lm, there[1]), units="mlps", show_progress=False)
    assert torch.equal(vc.open(tmp_path / "out")[0].values, direct.values)


def test_a_long_name_in_any_script_is_a_file_that_can_be_written(there, tmp_path):
    long = there[1].with_name("対" * 60 + ".csv")
    long.write_bytes(there[1].read_bytes())
    done = quiet(plan((there[0], long), HEADS), tmp_path)
    assert done[0] is not None and done.folder.result(0).exists()


def test_a_folder_that_cannot_be_written_is_read_all_the_same(there, tmp_path, monkeypatch):
    done = quiet(plan(there, HEADS, seconds=TINY), tmp_path)

    def refused(scores, path):
        raise FileError(f"{path} cannot be written (Read-only file system).")

    monkeypatch.setattr(Scores, "save", refused)
    with pytest.warns(UserWarning, match="Read-only"):
        assert done[0].values.isfinite().all()
    assert not done.folder.result(0).exists()


def test_a_plan_that_was_edited(there, tmp_path, capsys):
    """Other questions are named; another size of items changes nothing, and that is said."""
    more = {"ask": "exact", "units": "mlps"}
    quiet(plan(there, HEADS), tmp_path)
    with pytest.raises(FileError, match=r"another sweep: it does not ask “.*exact units=mlps”"):
        quiet(plan(there, HEADS, more), tmp_path)
    with pytest.raises(FileError, match=r"another sweep: it does not ask “.*exact units=mlps”"):
        quiet(plan(there, more), tmp_path)
    assert vc.sweep(plan(there, HEADS, seconds=7, tries=2), out=tmp_path).finished
    assert "it keeps seconds = 60 and tries = 3" in capsys.readouterr().err
    quiet(plan(there, HEADS, more), tmp_path / "both")
    with pytest.raises(FileError, match=r"it asks, and this plan does not, “.*exact units=mlps”"):
        quiet(plan(there, HEADS), tmp_path / "both")


def test_a_damaged_list_of_items_is_mended_from_its_copy(there, tmp_path):
    quiet(plan(there, HEADS), tmp_path)
    whole = (tmp_path / "sweep.json").read_bytes()
    (tmp_path / "sweep.json").write_bytes(whole[: len(whole) // 2])
    assert vc.open(tmp_path).finished and (tmp_path / "sweep.json").read_bytes() == whole
    for name in ("sweep.json", "sweep-copy.json"):
        (tmp_path / name).write_bytes(whole[:9])
    with pytest.raises(FileError, match=r"sweep-copy.json is damaged"):
        vc.open(tmp_path)


@pytest.mark.parametrize("pairs", [None, (4,), (2, 3, 4), (0, 2, 3, 9, 1)])
def test_an_item_is_read_as_it_was_written(pairs):
    item = Item("aa", 0, pairs, (1, 3), 1.0, None, 1)
    again = Item.from_dict(json.loads(json.dumps(item.to_dict())))
    assert (again.part.pairs, again.part.units) == (pairs, (1, 3)) and again.to_dict() == item.to_dict()


@pytest.mark.parametrize("name", ["study.json", "run.json"])
def test_the_folder_of_another_command_is_left_alone(there, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(FileError, match=f"results of another command .{name}."):
        quiet(plan(there, HEADS), tmp_path)
    assert not (tmp_path / "sweep.json").exists()


def test_items_of_another_version_are_not_mixed_with_those_of_this_one(there, tmp_path, monkeypatch):
    done = quiet(plan(there, HEADS), tmp_path)
    done.folder.shard(done.folder.items[0]).unlink()
    monkeypatch.setattr("veracausa.sweeps.items.__version__", "0.0.9")
    with pytest.raises(FileError, match="another version of veracausa"):
        quiet(plan(there, HEADS), tmp_path)


def test_workers_that_die_before_they_begin_are_not_started_for_ever(there, tmp_path, monkeypatch):
    """Three, with nothing done in between; the sentence has what the last one said."""
    started = []

    def dying(folder, number, workers, memory, logs, own):
        started.append(number)
        (logs / f"{number}.log").write_text("loading\n\nno memory for the weights")
        return subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])

    monkeypatch.setattr(pool, "_begin", dying)
    with pytest.raises(WorkerError, match=r"3 workers were killed \(signal 9\).*no memory for the weights"):
        quiet(plan(there, HEADS), tmp_path, runner="pool", workers=1)
    assert len(started) == 3


def test_a_worker_that_fails_by_itself_says_why_in_its_last_sentence(there, tmp_path):
    """Whatever it is: here a model that is no longer there."""
    done = quiet(plan(there, HEADS), tmp_path)
    done.folder.shard(done.folder.items[0]).unlink()
    body = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    away = there[0].with_name("away")
    there[0].rename(away)
    try:
        with pytest.raises(FileError, match="There is no folder"):
            working.work_through(vc.open(tmp_path).folder)
    finally:
        away.rename(there[0])
    assert body["format"] and not list((tmp_path / "claims").glob("[0-9a-f]*")) and not (tmp_path / "failed").exists()


def test_whose_claim_it_was_is_known_after_a_worker_is_gone(tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "aa").write_text(json.dumps({"host": socket.gethostname(), "process": 7}))
    (tmp_path / "claims" / "bb").write_text("")  # being written
    assert held_by(tmp_path, 7) and not held_by(tmp_path, 8)


def test_a_ray_cluster_is_the_one_that_is_named_or_a_new_one(monkeypatch):
    """Not the last one of this machine, which Ray would look for, long after it is gone."""
    ray, asked = pytest.importorskip("ray"), []

    def begin(address, **options):
        asked.append(address)
        raise InterruptedError

    monkeypatch.setattr(ray, "init", begin)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for named in ("", "auto"):
        monkeypatch.setenv("RAY_ADDRESS", named)
        with pytest.raises(InterruptedError):
            on_ray(None, 2, None, lambda: None)
    assert asked == ["local", None]

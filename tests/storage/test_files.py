"""Files are whole or absent, whatever goes wrong, and every writer goes through the one in `storage.files`."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import stat
import warnings
from pathlib import Path

import pandas as pd
import pytest
import safetensors
import torch

import veracausa as vc
from veracausa.circuits.exchange.graphml import write_csv, write_graphml
from veracausa.errors import FileError
from veracausa.storage import files
from veracausa.storage.files import (
    at,
    csv_text,
    keep,
    make_folder,
    read_json,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)

SOURCE = Path(vc.__file__).parent


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def small_disk():
    """Files of more than 64 KiB cannot be written, as on a full disk: the write itself fails, half-way."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


WRITERS = {
    "bytes": lambda path, size: write_bytes(path, b"x" * size),
    "text": lambda path, size: write_text(path, "x" * size),
    "json": lambda path, size: write_json(path, {"a": "x" * size}),
    "tensors": lambda path, size: write_tensors(path, "kind", {"a": 1}, {"t": torch.zeros(size, dtype=torch.uint8)}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, small_disk, write):
    path = write(tmp_path / "deep" / "a", 10)
    old = path.read_bytes()
    with pytest.raises(FileError, match=r"a cannot be written \(.*[Ff]ile too large.*Choose another place"):
        write(path, 1_000_000)
    assert path.read_bytes() == old and [one.name for one in path.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failure_at_the_last_moment(tmp_path, monkeypatch, write, step):
    path = write(tmp_path / "a", 10)
    old = path.read_bytes()
    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(FileError, match="No space left"):
        write(path, 20)
    assert path.read_bytes() == old and [one.name for one in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_places_where_nothing_can_be_written(tmp_path, write):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "x", tmp_path / "folder", Path("/proc/x"), tmp_path / ("n" * 300), "a\0b"):
        with pytest.raises(FileError, match="cannot be"):
            write(place, 10)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder"]
    with pytest.raises(FileError, match="cannot be a folder"):
        make_folder(tmp_path / "file" / "x")


def test_permissions_are_the_usual_ones(tmp_path):
    (tmp_path / "usual").write_text("")
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    for name, write in WRITERS.items():
        assert stat.S_IMODE(write(tmp_path / name, 10).stat().st_mode) == usual


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, write in WRITERS.items():
        assert write(f"~/new/{name}", 10) == tmp_path / "new" / name
    assert make_folder("~/pieces") == tmp_path / "pieces"
    assert read_json("~/new/json", "a test")["a"] == "x" * 10
    assert read_tensors("~/new/tensors", "kind")[0] == {"a": 1}
    assert at("~nobody-of-this-name/x").name == "x" and not (tmp_path / "~").exists()


def test_every_call_expands_the_home_folder(tiny, task_of, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lm, task = tiny("llama"), task_of(6)
    scores = vc.exact(lm, task, out="~/out", show_progress=False)
    vc.effects.optimal_constants(
        lm, task, units=["a0.h0"], learning=vc.effects.Learning(steps=1), out="~/out", show_progress=False
    )
    scores.save("~/s.safetensors")
    task.save("~/t.json")
    assert len(vc.open("~/s.safetensors")) == len(scores) and vc.open("~/t.json").digest() == task.digest()
    edges = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    vc.select(edges, n=40).save("~/c.json")
    assert vc.open("~/c.json").names == vc.select(edges, n=40).names
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx"])
def test_formulas_in_tables_are_text(text):
    frame = pd.DataFrame({"name": [text, "a0.h0"], text: [-1.5, float("nan")], "mixed": [-2, text]})
    lines = csv_text(frame).replace('"', "").split("\n")
    assert lines[0] == f"name,'{text},mixed" and lines[1] == f"'{text},-1.5,-2"
    assert f"a0.h0,,'{text}" in csv_text(frame).replace('"', "")


@pytest.mark.parametrize(("broken", "state"), [(False, 1), (True, 2)])
def test_a_file_that_is_replaced_while_it_is_read(tmp_path, monkeypatch, broken, state):
    """safetensors opens a file twice: the header of one state and the tensors of the next are no damage."""
    path, own = write_tensors(tmp_path / "pieces", "kind", {"state": 1}, {"x": torch.ones(2)}), safetensors.safe_open

    def replaced(*args, **options):
        monkeypatch.setattr(safetensors, "safe_open", own)
        found = own(*args, **options)
        write_tensors(path, "kind", {"state": 2}, {"x": 2 * torch.ones(2)})
        if broken:
            raise safetensors.SafetensorError("of two states")
        return found

    monkeypatch.setattr(safetensors, "safe_open", replaced)
    found, tensors = read_tensors(path, "kind")
    assert found == {"state": state} and tensors["x"].tolist() == [state] * 2
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileError, match="damaged or cut short"):
        read_tensors(path, "kind")


def test_no_other_writer():
    """Whatever writes a file for the user is `storage.files`; models that are converted have writers of their own."""
    ways = (r"\.write_text\(", r"\.write_bytes\(", r"to_csv\([^)]*path", r"save_file\(", r"os\.replace\(")
    writes = re.compile("|".join((*ways, "open\\([^)]*[\"']w")))
    own = {"storage/files.py", "loading/conversion.py", "loading/gguf_reading.py", "loading/packaged.py"}
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if writes.search(path.read_text(encoding="utf-8"))
    }
    assert found <= own
    tables = [path for path in SOURCE.rglob("*.py") if ".to_csv(" in path.read_text(encoding="utf-8")]
    assert [path.name for path in tables] == ["files.py"]


def test_a_long_computation_survives_a_full_disk(tiny, task_of, tmp_path, monkeypatch):
    """Pieces that cannot be kept are said once they cannot; the numbers are returned all the same."""
    lm, task = tiny("llama"), task_of(6)
    whole = vc.exact(lm, task, show_progress=False)
    own, calls = os.replace, []

    def fills_up(*paths):
        calls.append(paths)
        return own(*paths) if len(calls) == 1 else full()

    monkeypatch.setattr(files.os, "replace", fills_up)
    with pytest.warns(UserWarning, match=r"not kept: .*No space left.*goes on"):
        kept = vc.exact(lm, task, out=tmp_path, show_progress=False)
    assert torch.equal(kept.values, whole.values)
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(FileError, match="No space left"):  # nothing at all can be kept: said before anything is run
        vc.exact(lm, task, out=tmp_path / "new", show_progress=False)
    with pytest.warns(UserWarning, match="not kept"):
        keep(lambda: write_text(tmp_path / "x", "y"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(files.os, "replace", own)
        keep(lambda: write_text(tmp_path / "x", "y"))


def test_every_result_is_whole_or_absent(tiny, task_of, tmp_path, monkeypatch):
    lm, task = tiny("llama"), task_of(6, n=2)
    edges = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    circuit = vc.select(edges, n=40)
    results = {
        "scores": edges.save,
        "circuit": circuit.save,
        "task": task.save,
        "receipt": vc.verify(lm, task, edges, top=4, sample=4, show_progress=False).save,
        "graphml": lambda path: write_graphml(circuit, path),
        "csv": lambda path: write_csv(circuit, path),
        "constants": vc.effects.optimal_constants(
            lm, task, units=["a0.h0"], learning=vc.effects.Learning(steps=1), show_progress=False
        ).save,
        "surface": vc.causes.surface(lm, task, units=("a0.h0", "a1.h1"), alphas=(0, 1), show_progress=False).save,
        "ablation": vc.behaviour.ablation_study(
            lm, task, units=["a0.h0"], ablations=["zero"], show_progress=False
        ).save,
    }
    monkeypatch.setattr(files.os, "replace", full)
    for name, save in results.items():
        with pytest.raises(FileError, match=rf"{name} cannot be written \(No space left"):
            save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_sealed_json(tmp_path):
    path = write_json(tmp_path / "x.json", {"b": [1, float("nan"), "é"], "a": {"1": None}})
    body = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(body.items()))), encoding="utf-8")  # other order and spaces: the same
    read_json(path, "a test")
    for change in ({"b": []}, {"c": 1}, {"checksum": ""}, {"checksum": None}):
        path.write_text(json.dumps(body | change), encoding="utf-8")
        with pytest.raises(FileError, match="checksum"):
            read_json(path, "a test")
        read_json(path, "a test", sealed=False)
    shutil.copy(path, tmp_path / "y.json")
    with pytest.raises(FileError, match="no checksum"):
        (tmp_path / "y.json").write_text("{}")
        read_json(tmp_path / "y.json", "a test")

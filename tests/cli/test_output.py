"""What commands print and keep: JSON of every one, files before words, statuses, pipes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from command_line import called, model_folder, pairs_file
from processes import shell

import veracausa as vc
from veracausa.cli.app import main
from veracausa.cli.command import BEGUN, status_of
from veracausa.cli.output import finish, print_json
from veracausa.errors import (
    DownloadError,
    ExtraError,
    FileError,
    GapError,
    MethodError,
    OutOfMemoryError,
    TaskError,
    UnitError,
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    return model_folder(folder / "tiny-llama"), pairs_file(folder / "pairs.csv")


def nothing_else(text):
    """The one JSON value that a text is; NaN and Infinity are no JSON."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


DISCOVER = ("--edges", 60, "--top", 4, "--sample", 2, "--sizes", "0.3,1")


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("words", "result", "rows"),
    [
        (("exact", "PAIRS", "--units", "mlps"), "Scores", 3),
        (("attribute", "PAIRS", "--method", "ig", "--nodes", 2, "--units", "mlps"), "Scores", 3),
        (("attribute", "PAIRS", "--verify", "--top", 2, "--sample", 2), "Scores", 12),
        (("ablate", "PAIRS", "--units", "a0.h1", "--ablations", "zero"), "AblationStudy", 2),
        (("lens", "PAIRS", "--tokens", 2), "Lens", 14),
        (("dla", "PAIRS", "--neurons", "1", "--positions"), "LogitAttribution", None),
        (("discover", "PAIRS", "--held-out", "PAIRS", *DISCOVER), "Discovery", None),
        (("compare", "PAIRS", "--units", "heads", "--methods", "atp"), "Study", None),
        (("study", "PAIRS", "--quick"), "Study", None),
        (("task", "PAIRS"), None, 2),
        (("check",), None, 14),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_json_is_all_that_a_command_prints(places, tmp_path, monkeypatch, words, result, rows):
    monkeypatch.chdir(tmp_path)
    model, pairs = places
    done = called(model, *(pairs if word == "PAIRS" else word for word in words), "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    body = nothing_else(done.stdout)
    assert body.get("result") == result and "model" in body and done.stderr.startswith("model  ")
    if rows:
        assert len(body["table"]) == rows
    if words[0] == "study":
        assert body["sentences"] and Path(body["saved"]).name == "report.html"
    if words[0] == "compare":
        assert [row["method"] for row in body["tables"][0]["table"]] == ["atp"]
    if "--verify" in words:
        assert body["receipt"]["result"] == "Receipt"


def test_json_numbers_are_the_results_own(places, tmp_path):
    model, pairs = places
    body = nothing_else(called(model, "exact", pairs, "--out", tmp_path, "--json").stdout)
    scores = vc.open(body["saved"])
    assert [row["effect"] for row in body["table"]] == scores.mean().tolist()
    assert body["task"]["digest"] == scores.task["digest"] and body["cost"]["forward"] == scores.cost.forward


def test_json_holds_any_value(capsys):
    print_json({"a": float("nan"), "b": np.float32(0.5), "c": torch.tensor([1, 2]), "d": {3: ("x\x1b", None, True)},
                "e": Path("p"), "f": np.array([np.inf])})  # fmt: skip
    text = capsys.readouterr().out
    assert nothing_else(text) == {"a": None, "b": 0.5, "c": [1, 2], "d": {"3": ["x\x1b", None, True]}, "e": "p",
                                  "f": [None]}  # fmt: skip
    assert "\x1b" not in text


# ---- nothing is lost ------------------------------------------------------------------------------------------------


def write(folder):
    folder.mkdir(exist_ok=True)
    (folder / "result").write_text("kept")
    return folder / "result"


@pytest.fixture
def rescue(tmp_path, monkeypatch):
    """Where temporary files go."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def fails():
    raise RuntimeError("cannot be shown")


def test_results_are_kept_before_they_are_printed(tmp_path, rescue, capsys):
    with pytest.raises(RuntimeError, match="cannot be shown"):
        finish(False, fails, dict, write, tmp_path / "out")
    assert (tmp_path / "out" / "result").read_text() == "kept" and not list(rescue.iterdir())
    assert str(tmp_path / "out" / "result") in capsys.readouterr().out


def test_what_cannot_be_printed_is_kept_all_the_same(rescue, capsys):
    """Nobody asked to keep it, but it took an hour."""
    with pytest.raises(RuntimeError):
        finish(True, lambda: None, fails, write, None)
    (kept,) = rescue.glob("*/result")
    assert kept.read_text() == "kept" and str(kept.parent) in capsys.readouterr().err


def test_what_cannot_be_kept_where_it_should_be(tmp_path, rescue, capsys):
    def only_elsewhere(folder):
        if folder == tmp_path / "out":
            raise FileError("the disk is full")
        return write(folder)

    with pytest.raises(typer.Exit) as ended:
        finish(False, lambda: print("shown"), dict, only_elsewhere, tmp_path / "out")
    told = capsys.readouterr()
    assert ended.value.exit_code == 1 and "shown" in told.out and "the disk is full" in told.err
    assert len(list(rescue.glob("*/result"))) == 1

    def nowhere(folder):
        raise FileError("the disk is full")

    with pytest.raises(FileError):
        finish(False, lambda: print("shown"), dict, nowhere, tmp_path / "out")


def test_ablate_is_kept_whatever_printing_does(places, tmp_path, monkeypatch):
    model, pairs = places
    monkeypatch.setattr("veracausa.cli.behaviour.echo", lambda *_: fails())
    done = called(model, "ablate", pairs, "--units", "a0.h1", "--ablations", "zero", "--out", tmp_path)
    assert isinstance(done.exception, RuntimeError)
    assert len(vc.open(tmp_path / "ablation-study.safetensors").table()) == 2


def test_an_estimate_is_kept_whatever_its_receipt_does(places, tmp_path, monkeypatch):
    model, pairs = places
    monkeypatch.setattr("veracausa.receipts.verify.verify", lambda *_, **__: fails())
    done = called(model, "attribute", pairs, "--verify", "--out", tmp_path)
    assert isinstance(done.exception, RuntimeError)
    assert vc.open(tmp_path / "atp-heads.safetensors").method == "atp" and (tmp_path / "atp-heads.csv").exists()


# ---- statuses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (MethodError, 2, 2), (UnitError, 2, 2), (FileError, 2, 1), (TaskError, 2, 1), (GapError, 2, 1),
        (DownloadError, 1, 1), (ExtraError, 1, 1), (OutOfMemoryError, 1, 1),
    ],
)  # fmt: skip
def test_wrong_arguments_have_status_2_and_the_rest_1(error, before, after):
    for begun, status in ((False, before), (True, after)):
        BEGUN.set(begun)
        assert status_of(error("said")) == status
    BEGUN.set(False)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("exact",), 2, "Usage: veracausa exact"),
        (("exact", "none.csv"), 2, "FileError: there is no file none.csv"),
        (("exact", "PAIRS", "--model", "MODEL", "--units", "a9.h9"), 2, "UnitError: 'a9.h9' is not in"),
        (("open", "DAMAGED"), 1, "FileError: "),
        (("open", "none"), 2, "FileError: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_statuses(places, tmp_path, monkeypatch, capsys, words, status, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 100)
    there = {"MODEL": places[0], "PAIRS": places[1], "DAMAGED": tmp_path / "damaged.safetensors"}
    monkeypatch.setattr(sys, "argv", ["veracausa", *(str(there.get(word, word)) for word in words)])
    BEGUN.set(False)
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    assert stopped.value.code == status and said in told.err and not told.out


@pytest.mark.slow
def test_statuses_of_the_process(places, tmp_path):
    """Two whose reason comes late: from the model's answers, and from a hub that is not there."""
    flat = pairs_file(tmp_path / "flat.csv", [("the keys near", "the key near", " are", " is"),
                                              ("the keys near", "the key near", " is", " are")])  # fmt: skip
    for words, said in (
        (("exact", flat, "--model", places[0]), "GapError: "),
        (("check", "--model", "owner/none"), "DownloadError: "),
    ):
        done = shell(*words)
        assert done.returncode == 1, (words, done)
        assert said in done.stderr and "Traceback" not in done.stderr and not done.stdout


@pytest.mark.cases(2)
@pytest.mark.parametrize("words", [["--help"], ["attribute", "--help"], ["methods"], ["tasks", "--json"]], ids=" ".join)
def test_a_closed_pipe_is_quiet(words):
    """As `| head -1` leaves it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "veracausa", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child.stdout.close()
    assert child.stderr.read() == "" and child.wait(60) in (0, 1)


# ---- forecasts ------------------------------------------------------------------------------------------------------


def test_a_call_is_priced_with_its_own_arguments_and_then_made(capsys, monkeypatch):
    """Timing the machine is for long work; a verb without a forecast, or a call that means nothing, says so itself."""
    from types import SimpleNamespace

    from veracausa.cli.foretelling import foretold

    priced = []

    def forecast(verb, lm, task, measure=True, **asked):
        priced.append((measure, asked))
        if asked["units"] == "nothing":
            raise MethodError("no forecast")
        return SimpleNamespace(passes=asked["passes"])

    monkeypatch.setattr("veracausa.planning.price.forecast", forecast)

    def verb(lm, task, **given):
        return lm, task, given

    assert foretold(verb, "lm", "task", {"out": "o"}, units="heads", passes=3) == (
        "lm", "task", {"units": "heads", "passes": 3, "out": "o"},
    )  # fmt: skip
    assert priced == [(False, {"units": "heads", "passes": 3})] and capsys.readouterr().err.startswith("cost   ")
    foretold(verb, "lm", "task", units="heads", passes=300)
    assert [measure for measure, _ in priced[1:]] == [False, True] and capsys.readouterr().err.count("cost   ") == 1
    assert foretold(verb, "lm", "task", units="nothing")[2] == {"units": "nothing"} and not capsys.readouterr().err

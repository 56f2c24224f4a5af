"""`veracausa open` on every kind of saved result of a tiny model: text, JSON, CSV, folders, errors."""

import io
import json

import pandas as pd
import pytest
from command_line import called, model_folder, pairs_file
from typer.testing import CliRunner

import veracausa as vc
from veracausa.cli.app import app
from veracausa.errors import FileError, MethodError


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of results: scores, a receipt, an ablation study, a task, a discovery."""
    folder = tmp_path_factory.mktemp("results")
    model, pairs = model_folder(folder / "model"), pairs_file(folder / "pairs.csv")
    lm = vc.load(model, device="cpu")
    task = vc.task(lm, pairs)
    task.save(folder / "task.json")
    for words in (
        ("exact", pairs, "--out", folder / "out"),
        ("attribute", pairs, "--verify", "--top", 3, "--sample", 2, "--out", folder / "out"),
        ("ablate", pairs, "--units", "a0.h1", "--ablations", "zero", "--out", folder / "out"),
        ("discover", pairs, "--held-out", pairs, "--edges", 60, "--top", 4, "--sample", 2, "--sizes", "0.3,1",
         "--out", folder / "circuit"),
    ):  # fmt: skip
        done = called(model, *words)
        assert done.exit_code == 0, (words, done.exception)
    return folder


def opened(*words):
    result = CliRunner().invoke(app, ["open", *map(str, words)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


NAMES = [
    "out/exact-heads.safetensors", "out/atp-heads.safetensors", "out/atp-heads-receipt.safetensors",
    "out/ablation-study.safetensors", "task.json", "circuit", "circuit/circuit.json", "circuit/scores.safetensors",
]  # fmt: skip


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", NAMES)
def test_every_saved_result_is_shown(results, name):
    found = vc.open(results / name)
    text = opened(results / name)
    assert text.startswith(found.describe())
    body = json.loads(opened(results / name, "--json"))
    table = pd.read_csv(io.StringIO(opened(results / name, "--csv")))
    assert body["result"] == type(found).__name__ and body["table"]
    assert list(body["table"][0]) == list(table.columns) and len(body["table"]) == len(table)


def test_the_strongest_come_first(results):
    scores = vc.open(results / "out/exact-heads.safetensors")
    path = results / "out/exact-heads.safetensors"
    shown = opened(path, "--rows", 3).splitlines()[-4:-1]
    assert [line.split()[0] for line in shown] == scores.top(3)["name"].tolist()
    assert "… 2 more rows" in opened(path) and "… 9 more rows" in opened(path, "--rows", 3)
    assert "more rows" not in opened(path, "--rows", 12)


def test_a_folder_of_results_lists_them(results):
    text = opened(results / "out")
    assert "out holds 4 results" in text and "  scores          exact-heads.safetensors" in text
    assert "  receipt         atp-heads-receipt.safetensors" in text
    assert {one["result"] for one in json.loads(opened(results / "out", "--json"))} == {
        "scores", "receipt", "ablation-study",
    }  # fmt: skip


def test_a_study_is_opened_as_a_whole_although_it_holds_results(tiny, task_of, tmp_path):
    study = vc.compare(tiny("llama"), task_of(6), units=["heads"], methods=["atp"], show_progress=False)
    study.save(tmp_path)
    text = opened(tmp_path)
    assert study.title in text and "Open one of them" not in text
    assert json.loads(opened(tmp_path, "--json"))["result"] == "Study"


def test_what_cannot_be_opened(results, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((results / "out/exact-heads.safetensors").read_bytes()[:-20])
    (tmp_path / "empty").mkdir()
    for words, kind, said in (
        ((tmp_path / "none.safetensors",), FileError, "no file or folder"),
        ((damaged,), FileError, "damaged"),
        ((tmp_path / "empty",), FileError, "is no discovery"),
        ((results / "pairs.csv",), FileError, "no result of veracausa's"),
        ((results / "task.json", "--json", "--csv"), MethodError, "give one of them"),
    ):
        refused = CliRunner().invoke(app, ["open", *map(str, words)]).exception
        assert isinstance(refused, kind) and said in str(refused), (words, refused)


def test_two_results_side_by_side(results, tmp_path):
    """`veracausa compare-pages`: what differs in how they were made comes first; all is kept."""
    one, other = results / "out" / "exact-heads.safetensors", results / "out" / "atp-heads.safetensors"
    words = ["compare-pages", str(one), str(other), "--out", str(tmp_path), "--rows", "3"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.index("Method: exact in A, atp in B.") < done.stdout.index("largest differences")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "comparison.safetensors", "comparison.csv"}
    found = vc.open(one) | vc.open(other)
    assert vc.open(tmp_path / "comparison.safetensors").sentences == found.sentences
    said = json.loads(CliRunner().invoke(app, [*words[:3], "--json"]).stdout)
    assert said["result"] == "Comparison" and len(said["table"]) == len(found.table())
    circuits = ["compare-pages", str(results / "circuit"), str(results / "circuit" / "circuit.json")]
    done = CliRunner().invoke(app, [*circuits, "--out", str(tmp_path / "circuits")])
    assert done.exit_code == 0 and "Jaccard 1.000" in done.stdout, (done.output, done.exception)
    assert vc.open(tmp_path / "circuits" / "comparison.json").jaccard == 1
    gone = CliRunner().invoke(app, ["compare-pages", str(one), str(tmp_path / "none")])
    assert isinstance(gone.exception, FileError)

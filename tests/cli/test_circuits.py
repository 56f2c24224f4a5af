"""`veracausa discover` and `veracausa evaluate` on a tiny model in a folder: files, output, errors, a kill."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pandas as pd
import pytest
import torch
from command_line import called, model_folder, pairs_file
from typer.testing import CliRunner

import veracausa as vc
from veracausa.cli.app import app
from veracausa.errors import CircuitError, FileError, GapError, MethodError, PromptError, TaskError, VeracausaError

#: Ten pairs: two lengths, five frames.
ROWS = [
    (f"{start}the keys near the {word}", f"{start}the key near the {word}", " are", " is")
    for start, word in itertools.product(("After ", "", "Mary went to ", "to ", "Tom gave "), ("cabinet", "store"))
]
SMALL = ("--edges", 60, "--top", 8, "--sample", 4, "--sizes", "0.05,0.3,1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return pairs_file(tmp_path_factory.mktemp("data") / "agreement.csv", ROWS)


@pytest.fixture
def call(folder):
    return partial(called, folder)


@pytest.fixture(scope="module")
def out(folder, pairs, tmp_path_factory):
    """The folder of one discovery, and what the command printed."""
    path = tmp_path_factory.mktemp("out") / "deep" / "out"
    result = called(folder, "discover", "--task", pairs, *SMALL, "--out", path)
    assert result.exit_code == 0, (result.output, result.exception)
    return path, result


def test_help():
    for command in ("discover", "evaluate"):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0 and "--sizes" in result.output and "--model" in result.output


def test_discover_is_the_public_call(folder, pairs, out):
    path, result = out
    lm = vc.load(folder)
    found = vc.discover(lm, vc.task(lm, pairs), edges=60, top=8, sample=4, sizes=(0.05, 0.3, 1), show_progress=False)
    again = vc.open(path)
    assert again.circuit.names == found.circuit.names and again.verified == found.verified
    assert again.evaluation.circuit.metric.equal(found.evaluation.circuit.metric)
    assert str((path / "report.html").resolve()) in result.output.replace("\n", "")
    for words in ("selected on 5, evaluated on 5; held out", "faithfulness f =", "CPR", "CMD", "KL", "random", "trust",
                  "token-layers  passes  seconds", "together, about"):  # fmt: skip
        assert words in result.output, words
    assert len(pd.read_csv(path / "evaluations/held-out/faithfulness.csv")) == 5
    assert json.loads((path / "run.json").read_text())["asked"]["edges"] == 60


@pytest.mark.slow
def test_the_same_command_again_and_another_one(call, pairs, out):
    path, result = out
    again = call("discover", pairs, *SMALL, "--out", path)
    assert again.exit_code == 0 and "faithfulness f =" in again.output
    figures = [line for line in result.stdout.splitlines() if line.startswith(("faithfulness", "areas", "trust"))]
    assert figures and all(line in again.output for line in figures)
    other = call("discover", pairs, *SMALL, "--method", "eap", "--out", path)
    assert isinstance(other.exception, FileError) and "'eap-ig' there, 'eap' here" in str(other.exception)


def test_evaluate(call, pairs, out, tmp_path):
    path, _ = out
    more = pairs_file(tmp_path / "more.csv", ROWS[:3])
    result = CliRunner().invoke(app, ["evaluate", str(path), "--task", str(more), "--sizes", "0.1,1", "--attack"])
    assert result.exit_code == 0, (result.output, result.exception)  # the model is that of the circuit
    found = vc.open(path)
    assert found.further[0].held_out in result.output and "faithfulness f =" in result.output
    assert found.further[0].seen == sum(text in found.pairs.clean_text for text, *_ in ROWS[:3])
    assert len(found.further) == 1 and found.further[0].curve.sizes == (0.1, 1.0)
    assert found.evaluation.attack is None and found.further[0].attack.radii() in result.output
    table = pd.read_csv(path / "evaluations" / found.further[0].name / "curve.csv")
    assert len(table) == 6 and "3 pairs of" in (path / "report.html").read_text()


def test_adversary(pairs, out, tmp_path):
    """It is the public call on the first half of other pairs, the other half held out; kept, and read again."""
    path, _ = out
    more = pairs_file(tmp_path / "more.csv", ROWS[:3])
    result = CliRunner().invoke(app, ["adversary", str(path), "--task", str(more), "--budgets", "sparse"])
    assert result.exit_code == 0, (result.output, result.exception)
    (kept,) = path.glob("attack-*.safetensors")
    attack = vc.open(kept)
    assert attack.metric.shape[1] == 2 and attack.held.shape[1] == 1
    assert attack.sentences[0] in result.output and "radius" in result.output
    lm = vc.load(vc.open(path).circuit.model["name"])
    task = vc.task(lm, more)
    own = vc.faithfulness(lm, task[:2], vc.open(path).circuit, show_progress=False)
    assert torch.equal(attack.metric[0], own.metric)
    kept.unlink()
    assert "cost   " in result.output  # before anything runs


def test_an_adversary_of_whole_nodes(pairs, out, tmp_path):
    """It is the public call on the circuit of all edges between the found one's nodes, with every option given."""
    path, _ = out
    more = pairs_file(tmp_path / "more.csv", ROWS[:3])
    words = "--budgets sparse,free --restored 1,4 --steps 2 --goals away --starts zero --draws 1 --whole-nodes"
    result = CliRunner().invoke(app, ["adversary", str(path), "--task", str(more), *words.split()])
    assert result.exit_code == 0, (result.output, result.exception)
    (kept,) = path.glob("attack-nodes-*.safetensors")
    attack, found = vc.open(kept), vc.open(path)
    lm = vc.load(found.circuit.model["name"])
    task, circuit = vc.task(lm, more), vc.Circuit.of_nodes(lm, found.circuit.nodes)
    asked = {"budgets": ["sparse", "free"], "sizes": (1, 4), "steps": (2,), "goals": ["away"], "starts": ["zero"]}
    own = vc.circuits.adversary(
        lm, task[:2], circuit, held_out=task[2:], parts="nodes", draws=1, **asked, show_progress=False
    )
    assert attack.parts == "nodes" and attack.attempts == own.attempts and torch.equal(attack.metric, own.metric)
    kept.unlink()
    for words, message in (("--restored many", "'many' is no list of numbers"), ("--largest 2", "rising weights in")):
        with pytest.raises(MethodError, match=message):
            CliRunner().invoke(app, ["adversary", str(path), *words.split()], catch_exceptions=False)


def test_scoreboard(folder, call, pairs, tmp_path):
    """It is the public call, on half of the pairs; run again it reads what is kept."""
    words = ("scoreboard", pairs, "--rankings", "eap,random", "--parts", "curve,specificity", "--tasks", pairs)
    result = call(*words, "--size", 0.2, "--out", tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    board, lm = vc.open(tmp_path / "scoreboard.json"), vc.load(folder)
    scored, judged = vc.task(lm, pairs).split(0.5, 0)
    scores = vc.attribute(lm, scored, units="edges", method="eap", show_progress=False)
    curve = vc.curve(lm, judged, scores, show_progress=False)
    assert board.cells["eap"]["CPR"].value == curve.cpr and board.sentences[0] in result.output
    assert board.cells["random"]["price"].value == 0 and board.cells["eap"]["other damage"].value is not None
    again = call(*words, "--size", 0.2, "--out", tmp_path)
    assert again.exit_code == 0 and vc.open(tmp_path / "scoreboard.json").cells == board.cells


def test_specificity(out, tmp_path):
    """The circuits' own model, and the pairs that they were evaluated on."""
    path, _ = out
    result = CliRunner().invoke(app, ["specificity", str(path), "--draws", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, (result.output, result.exception)
    matrix, found = vc.open(tmp_path / "specificity.safetensors"), vc.open(path)
    lm = vc.load(found.circuit.model["name"])
    tasks, circuits = {"out": found.evaluation.pairs}, {"out": found.circuit}
    own = vc.circuits.specificity(lm, tasks, circuits, draws=1, show_progress=False)
    assert torch.equal(matrix.damage, own.damage) and matrix.sentences[0] in result.output


def test_evaluate_what_cannot_be(call, out, folder, tmp_path):
    path, _ = out
    for words, kind, said in (
        (("evaluate", tmp_path / "none"), FileError, "no folder"),
        (("evaluate", tmp_path), FileError, "no discovery"),
        (("evaluate", path, "--task", "no-such-task"), TaskError, "no-such-task"),
        (("evaluate", path, "--task", tmp_path / "none.csv"), FileError, "none.csv"),
        (("evaluate", path, "--ablation", "optimal", "--attack"), MethodError, "optimal"),
        (("evaluate", path), TaskError, "--task"),  # its pairs came from a file, and cannot be drawn anew
    ):
        result = call(*words)
        assert isinstance(result.exception, kind) and said in str(result.exception), (words, result.exception)
    other = model_folder(tmp_path / "other")
    lm = vc.load(other)
    with torch.no_grad():
        lm.hf.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    lm.hf.save_pretrained(other)
    result = called(other, "evaluate", path, "--task", pairs_file(tmp_path / "p.csv", ROWS[:2]))
    assert isinstance(result.exception, CircuitError) and "was found in" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (("--edges", 0), MethodError, "edges=0"),
        (("--edges", 10**6), MethodError, "190"),
        (("--how", "best"), MethodError, "greedy"),
        (("--method", "nonsense"), MethodError, "eap-ig"),
        (("--method", "atp"), MethodError, "eap"),
        (("--sizes", "0.5,0.1"), MethodError, "rising"),
        (("--sizes", "a,b"), MethodError, "0.001,0.01"),
        (("--metric", "nonsense"), VeracausaError, "logit_diff"),
        (("--held-out", "nowhere.csv"), FileError, "nowhere.csv"),
    ],
)
def test_what_discover_refuses_leaves_nothing_behind(call, pairs, tmp_path, words, kind, said):
    result = call("discover", pairs, *SMALL, *words, "--out", tmp_path / "out")
    assert isinstance(result.exception, kind) and said in str(result.exception), result.exception
    assert not (tmp_path / "out").exists()


def test_usage_errors(call, pairs, tmp_path):
    for words in (("--n", 0), ("--edges", "many")):
        result = call("discover", pairs, *words, "--out", tmp_path / "out")
        assert result.exit_code == 2 and not (tmp_path / "out").exists()
    unknown = call("discover", "no-such-task", "--out", tmp_path / "out")
    assert isinstance(unknown.exception, TaskError) and not (tmp_path / "out").exists()
    uneven = pairs_file(tmp_path / "uneven.csv", [("the keys near", "After the keys near", " are", " is")])
    assert isinstance(call("discover", uneven, "--out", tmp_path / "out").exception, PromptError)
    swapped = [*ROWS[:1], (*ROWS[0][:2], " is", " are")]
    flat = pairs_file(tmp_path / "flat.csv", swapped)
    result = call("discover", flat, *SMALL, "--held-out", flat, "--out", tmp_path / "out")
    assert isinstance(result.exception, GapError) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_and_continued(folder, pairs, out, tmp_path):
    words = ("discover", pairs, "--model", folder, "--device", "cpu", *SMALL, "--out", tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-m", "veracausa", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "scores.safetensors").exists():
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (tmp_path / "report.html").exists()
    unfinished = called(folder, "evaluate", tmp_path, "--task", pairs)
    assert isinstance(unfinished.exception, FileError) and "not finished" in str(unfinished.exception)
    done = called(folder, "discover", pairs, *SMALL, "--out", tmp_path)
    assert done.exit_code == 0, done.exception
    figures = [line for line in out[1].stdout.splitlines() if line.startswith(("circuit of", "areas", "trust"))]
    assert figures and all(line in done.output for line in figures)

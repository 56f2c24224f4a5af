"""The command line on a tiny model in a folder: every command, its files, and its errors in one paragraph."""

import csv
import io
import json
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import tiny_models
import torch
from command_line import PAIRS, TEXT, called, model_folder, pairs_file
from processes import shell
from typer.testing import CliRunner
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.anatomy import FAMILIES
from veracausa.cli.app import _warning, app, main
from veracausa.cli.command import Terminated
from veracausa.engine import budget
from veracausa.errors import FileError, MethodError, OutOfMemoryError, UnitError, VeracausaError

WIDE = {"COLUMNS": "200"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return pairs_file(tmp_path_factory.mktemp("data") / "agreement.csv")


@pytest.fixture
def call(folder):
    return partial(called, folder)


def test_help_and_version():
    run = CliRunner()
    text = run.invoke(app, ["--help"]).output
    assert all(command in text for command in ("study", "compare", "check", "task", "exact", "attribute", "discover"))
    assert run.invoke(app, ["--version"]).output.strip() == vc.__version__
    for command in ("study", "compare", "check", "task", "exact", "attribute", "discover"):
        result = run.invoke(app, [command, "--help"])
        assert result.exit_code == 0 and "--model" in result.output and "smollm2-135m" in result.output


@pytest.mark.parametrize("command", ["exact", "attribute"])
def test_what_was_computed_is_not_lost_on_a_full_disk(call, pairs, tmp_path, monkeypatch, command):
    """It is saved in a folder for temporary files, which is named, and printed; the status is a failure's."""
    own, out, rescue = os.replace, tmp_path / "out", tmp_path / "tmp"
    rescue.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(rescue))

    def full(source, target):
        if Path(target).parent == out and ".pieces." not in str(target):
            raise OSError(28, "No space left on device")
        return own(source, target)

    monkeypatch.setattr("veracausa.storage.files.os.replace", full)
    result = call(command, pairs, "--out", out)
    assert result.exit_code == 1 and "No space left on device" in result.stderr
    (instead,) = rescue.iterdir()
    assert f"is in {instead} instead" in result.stderr
    saved = vc.open(next(instead.glob("*.safetensors")))
    assert repr(saved.top(10).iloc[0]["name"])[1:-1] in result.stdout
    assert not [path for path in out.glob("*") if ".pieces." not in path.name]


def test_check(call):
    result = call("check")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("holds")]
    assert len(lines) == 14 and all("error" in line and "tolerance 0" in line for line in lines)
    assert "All 14 contracts hold" in result.output


def test_check_proposes_an_anatomy_for_an_unknown_family(tmp_path, pairs, monkeypatch):
    """What it prints, given back as a file, makes every other command run."""
    tokenizer = word_tokenizer(TEXT.split())
    hf = tiny_models.make("phi", seed=1, dtype=torch.float32, vocab_size=len(tokenizer))
    for one in (hf, tokenizer):
        one.save_pretrained(tmp_path / "model")
    expected = vc.exact(lm := vc.load(tmp_path / "model"), vc.task(lm, pairs), show_progress=False)
    monkeypatch.delitem(FAMILIES, "phi")
    result = called(tmp_path / "model", "check")
    assert result.exit_code == 0, result.output
    own = next(line for line in result.output.splitlines() if line.startswith('{"like"'))
    assert '"parallel": true' in own and "All 14 contracts hold" in result.output
    (tmp_path / "own.json").write_text(own)
    result = called(tmp_path / "model", "exact", pairs, "--anatomy", tmp_path / "own.json", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    found = vc.open(tmp_path / "exact-heads.safetensors")
    torch.testing.assert_close(found.values, expected.values)
    assert "FileError" in repr(called(tmp_path / "model", "check", "--anatomy", tmp_path / "none.json").exception)


def test_task(call, pairs, folder):
    result = call("task", pairs, "--show", 1)
    assert result.exit_code == 0, result.output
    measured = vc.load(folder).measure(vc.task(vc.load(folder), pairs))
    assert "After| the| keys| near| the| cabinet" in result.output
    assert f"gap {measured.gap.mean():.3f}" in result.output
    assert f"{measured.clean[0]:+.3f} clean, {measured.corrupted[0]:+.3f} corrupted" in result.output
    assert f"positive on {(measured.clean > 0).double().mean():.0%} of the clean prompts" in result.output
    assert "\n1  clean" not in result.output  # --show 1


def test_a_task_of_chats_keeps_its_lines_and_a_warning_is_one_line(tmp_path):
    """Chat templates write line breaks."""
    tokenizer = word_tokenizer(TEXT.split())
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    tokenizer.add_tokens(["\n"])
    chats = model_folder(tmp_path / "model", tokenizer)
    row = {key: [{"role": "user", "content": PAIRS[0][i]}] for i, key in enumerate(("clean", "corrupted"))}
    (tmp_path / "chats.jsonl").write_text(json.dumps(row | {"correct": " are", "incorrect": " is"}))
    result = called(chats, "task", tmp_path / "chats.jsonl")
    assert result.exit_code == 0, result.output
    assert "After| the| keys| near| the| cabinet|⏎\n" in result.output
    assert _warning("said", UserWarning, "file.py", 3) == "UserWarning: said\n"


def test_the_published_pair(call):
    result = call("task", "ioi-published")
    assert result.exit_code == 0, result.output
    assert "| Mary| gave" in result.output and "| John" in result.output


def test_exact_writes_scores_and_a_table(call, pairs, folder, tmp_path):
    result = call("exact", pairs, "--units", "heads", "--out", tmp_path / "deep" / "out")
    assert result.exit_code == 0, result.output
    scores = vc.open(tmp_path / "deep" / "out" / "exact-heads.safetensors")
    lm = vc.load(folder)
    direct = vc.exact(lm, vc.task(lm, pairs), show_progress=False)
    assert torch.equal(scores.values, direct.values)
    with (tmp_path / "deep" / "out" / "exact-heads.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == direct.units.names
    assert float(rows[5]["effect"]) == pytest.approx(float(direct.mean()[5]), abs=1e-6)
    assert scores.top(1)["name"][0] in result.output and "not verified" not in result.output
    assert "… 2 weaker ones: --json" in result.stdout


def test_exact_options(call, pairs, folder):
    lm = vc.load(folder)
    task = vc.task(lm, pairs, metric="prob")
    result = call("exact", pairs, "--units", "a1.h0,a2.h3", "--direction", "denoising", "--metric", "prob")
    assert result.exit_code == 0, result.output
    direct = vc.exact(lm, task, units=["a1.h0", "a2.h3"], direction="denoising", show_progress=False)
    assert str(direct.top(10).to_string(index=False, float_format=lambda x: f"{x:+.4f}")) in result.output
    result = call("exact", pairs, "--units", "m1", "--ablation", "mean")
    assert result.exit_code == 0 and "ablation mean" in result.output


def test_commands_work_within_the_memory_that_they_are_given(call, pairs):
    plenty, some = (call("exact", pairs, "--memory", size, "--json") for size in ("1GB", "300kB"))
    assert plenty.exit_code == some.exit_code == 0, some.output
    few = call("exact", pairs, "--memory", "2kB")
    assert isinstance(few.exception, OutOfMemoryError) and "more than was given: memory=" in str(few.exception)
    assert isinstance(call("exact", pairs, "--memory", "much").exception, MethodError)
    assert budget.given() is None


def test_units_at_spans(call, folder, tmp_path):
    columns = ("clean", "corrupted", "correct", "incorrect", "span subject", "span store")
    rows = [(*PAIRS[0], '{"clean": "keys", "corrupted": "key"}', ""), (*PAIRS[1], "[1, 2]", "store")]
    with (tmp_path / "spans.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    lm = vc.load(folder)
    task = vc.task(lm, tmp_path / "spans.csv")
    for units in ("mlps@spans", "heads@subject", "m0@store,m1@subject", "m0+m1@subject"):
        result = call("exact", tmp_path / "spans.csv", "--units", units, "--out", tmp_path / units)
        assert result.exit_code == 0, result.output
        scores = vc.open(next(one for one in (tmp_path / units).glob("*.safetensors") if "pieces" not in one.name))
        direct = vc.exact(lm, task, units=units.split(",") if "," in units else units, show_progress=False)
        assert torch.equal(scores.values.nan_to_num(7), direct.values.nan_to_num(7)) and len(direct)
        assert "store (1 of 2 pairs)" in result.output
    result = call("task", tmp_path / "spans.csv")
    assert "spans      subject ' keys' (@2)" in result.stdout and "store ' store' (@4)" in result.stdout
    assert "has no span 'verb'" in str(call("exact", tmp_path / "spans.csv", "--units", "heads@verb").exception)


def test_attribute(call, pairs, folder, tmp_path):
    result = call("attribute", pairs, "--method", "ig", "--baseline", "zero", "--nodes", 3, "--units", "mlps",
                  "--out", tmp_path)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "not verified" in result.output and "sum     completeness" in result.output
    lm = vc.load(folder)
    direct = vc.attribute(lm, vc.task(lm, pairs), units="mlps", method="ig", baseline="zero", nodes=3,
                          show_progress=False)  # fmt: skip
    assert torch.equal(vc.open(next(tmp_path.glob("*.safetensors"))).values, direct.values)


def test_attribute_with_a_receipt(call, pairs, folder, tmp_path):
    result = call("attribute", pairs, "--verify", "--top", 3, "--sample", 4, "--tau", 0.02, "--seed", 5,
                  "--out", tmp_path)  # fmt: skip
    assert result.exit_code == 0, result.output
    lm = vc.load(folder)
    task = vc.task(lm, pairs)
    direct = vc.verify(lm, task, vc.attribute(lm, task, show_progress=False), top=3, sample=4, tau=0.02, seed=5,
                       show_progress=False)  # fmt: skip
    receipt = vc.open(tmp_path / "atp-heads-receipt.safetensors")
    assert torch.equal(receipt.exact.values, direct.exact.values) and receipt.missed == direct.missed
    assert vc.open(tmp_path / "atp-heads.safetensors").verified == direct.sentence
    assert "7 of 12 units exactly" in result.output and "not verified" not in result.output
    assert result.output.index("trust   7 of 12") < result.output.index("receipt atp")
    assert (tmp_path / "atp-heads-receipt.txt").read_text().splitlines()[:6] == repr(direct).splitlines()[:6]


def test_verify_until(call, pairs):
    result = call("attribute", pairs, "--verify", "--top", 2, "--sample", 2, "--until-missed", 0)
    assert result.exit_code == 0 and "12 of 12 units exactly" in result.output, result.output
    assert "at most 0 missed is certified" in result.output
    result = call("attribute", pairs, "--verify", "--top", 2, "--sample", 2, "--until-missed", 0, "--budget", 0.9)
    assert result.exit_code == 0 and "the budget of 90% ended before" in result.output, result.output
    for options in (("--until-missed", 0), ("--budget", 0.5)):
        result = call("attribute", pairs, *options)
        assert isinstance(result.exception, MethodError) and "Add --verify" in str(result.exception)


def test_two_baselines_do_not_overwrite_each_other(call, pairs, tmp_path):
    for baseline in ("corrupted", "zero"):
        call("attribute", pairs, "--method", "ig", "--nodes", 2, "--baseline", baseline, "--out", tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_study(call, tmp_path):
    result = call("study", "ioi-published", "--quick", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    report = tmp_path / "out" / "report.html"
    assert str(report.resolve()) in result.output.replace("\n", "")
    assert report.stat().st_size > 10_000
    assert "• " in result.output


def test_a_study_has_one_size(call, tmp_path):
    both = call("study", "ioi-published", "--quick", "--full", "--out", tmp_path / "out")
    assert type(both.exception).__name__ == "MethodError" and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_compare(call, pairs, tmp_path):
    result = call("compare", "--task", pairs, "--methods", "atp,eap-ig,gradpath-complete", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    page = tmp_path / "report.html"
    assert str(page.resolve()) in result.output.replace("\n", "") and "Which method to take" in page.read_text()
    for word in ("heads of", "neurons of", "Spearman", "wrong signs", "stability", "residual", "passes", "• Heads"):
        assert word in result.output, word
    short = call("compare", pairs, "--units", "heads", "--minutes", 1e-9, "--out", tmp_path / "short")
    assert short.exit_code == 0 and "left out on heads" in short.output and "mask: needs about" in short.output
    wrong = call("compare", pairs, "--methods", "atq", "--out", tmp_path / "wrong")
    assert type(wrong.exception).__name__ == "MethodError" and not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("words", [["--task", "{}"], ["--task={}"], ["--n", "2", "--task", "{}"], ["{}"]])
def test_the_task_by_position_or_by_name(call, pairs, words):
    result = call("task", *(word.format(pairs) for word in words))
    assert result.exit_code == 0, result.output


def test_the_task_given_twice_or_not_at_all(call, pairs):
    for words in ((pairs, "--task", pairs), ("--task",), ()):
        assert call("task", *words).exit_code == 2


@pytest.mark.slow
def test_a_learned_mask(call, pairs, folder, tmp_path):
    result = call("attribute", pairs, "--method", "mask", "--seed", 3, "--out", tmp_path)
    assert result.exit_code == 0 and "gate is open" in result.output, result.output
    lm = vc.load(folder)
    direct = vc.estimates.learn_mask(lm, vc.task(lm, pairs), seed=3, show_progress=False)
    assert torch.equal(vc.open(tmp_path / "mask-heads.safetensors").values, direct.values)
    words = ("--method", "mask", "--learner", "top-k", "--seeds", 2, "--keep", 3)
    assert call("attribute", pairs, *words, "--out", tmp_path).exit_code == 0
    direct = vc.estimates.learn_mask(lm, vc.task(lm, pairs), how="top-k", keep=3, seeds=2, show_progress=False)
    found = vc.open(tmp_path / "mask-top-k-heads.safetensors")
    assert torch.equal(found.values, direct.values) and torch.equal(found.draw_stderr, direct.draw_stderr)
    for wrong, message in ((("--method", "mask", "--learner", "luck"), "luck"), (("--seeds", 2), "Add --method mask")):
        assert message in str(call("attribute", pairs, *wrong).exception)
    refused = call("attribute", pairs, "--method", "mask", "--nodes", 3).exception
    assert isinstance(refused, MethodError) and "no baseline, direction or nodes" in str(refused)


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_errors_are_veracausas_own(call, pairs, tmp_path):
    for words, kind in (
        (("exact", pairs, "--units", "a9.h9"), UnitError),
        (("exact", tmp_path / "none.csv"), FileError),
        (("task", "no-such-task"), VeracausaError),
        (("exact", pairs, "--metric", "no-such-metric"), VeracausaError),
        (("exact", pairs, "--direction", "up"), VeracausaError),
        (("attribute", pairs, "--method", "eap"), VeracausaError),
    ):
        result = call(*words)
        assert isinstance(result.exception, kind), (words, result.output, result.exception)


@pytest.mark.parametrize(
    "words", [["exact", "x.csv", "--n", "0"], ["task"], ["nonsense"], ["exact", "x.csv", "--bogus"]]
)
def test_usage_errors_exit_with_2(words):
    assert CliRunner().invoke(app, words).exit_code == 2


def test_an_unknown_precision_or_device(folder):
    run = CliRunner()
    words = ["check", "--model", str(folder)]
    for option, value in (("--device", "toaster"), ("--dtype", "int8"), ("--dtype", "float99")):
        result = run.invoke(app, [*words, option, value])
        assert isinstance(result.exception, VeracausaError) and value in str(result.exception)


def test_as_a_process(folder, pairs, tmp_path):
    done = shell("exact", pairs, "--model", folder, "--device", "cpu", "--out", tmp_path, env=WIDE)
    assert done.returncode == 0, done.stderr
    assert "exact · 12 heads" in done.stdout and (tmp_path / "exact-heads.csv").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_error_is_one_paragraph_and_exit_code_2(folder, pairs):
    done = shell("exact", pairs, "--units", "heads@5", "--model", folder, env=WIDE)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    paragraph = done.stderr.strip().splitlines()[-1]
    assert paragraph.startswith("UnitError: units='heads@5' is not known")
    assert not done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exact", "none.csv", "--model", "FOLDER"], ["FileError", "none.csv"]),
        (["check", "--model", "no/where/at/all"], ["FileError", "no/where/at/all"]),
        (["task", "nonsense", "--model", "FOLDER"], ["TaskError", "nonsense", "greater-than"]),
    ],
)
def test_errors_of_the_main_function(folder, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["veracausa", *(str(folder) if word == "FOLDER" else word for word in words)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert all(word in told.err.strip().splitlines()[-1] for word in said) and not told.out


@pytest.mark.parametrize(
    ("error", "kept", "code", "said"),
    [
        (KeyboardInterrupt, True, 130, "Finished pieces are kept in"),
        (Terminated, True, 143, "run the same command again"),
        (KeyboardInterrupt, False, 130, "No piece was finished yet"),
        (KeyboardInterrupt, None, 130, "Nothing is kept; with --out"),
    ],
)
def test_an_interrupted_command_says_what_is_kept(call, pairs, tmp_path, monkeypatch, error, kept, code, said):
    out = tmp_path / "out"

    def stop(*_, **__):
        if kept:
            out.mkdir()
            (out / "piece").write_text("")
        raise error

    monkeypatch.setattr("veracausa.effects.exact.exact", stop)
    result = call("exact", pairs, *(() if kept is None else ("--out", out)))
    assert result.exit_code == code and said in result.stderr and not result.stdout


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
def test_interrupted_outside_a_command(monkeypatch, capsys, error):
    def stop(**_):
        raise error

    monkeypatch.setattr("veracausa.cli.app.app", stop)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == (130 if error is KeyboardInterrupt else 143)
    assert capsys.readouterr().err == "Interrupted.\n"


def test_sigterm_ends_like_ctrl_c(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    try:
        monkeypatch.setattr("veracausa.cli.app.app", lambda **_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 143
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- checked before the model is loaded -----------------------------------------------------------------------------


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model is a failure of the test."""
    monkeypatch.setattr("veracausa.loading.load.load", lambda *_, **__: pytest.fail("the model was loaded"))


WRONG = [
    (("task", "ioii"), "Did you mean 'ioi'?"),
    (("task", "ioi-publishd"), "Did you mean 'ioi-published'?"),
    (("task", "ioi", "--metric", "logitdiff"), "Did you mean 'logit_diff'?"),
    (("task", "none.csv"), "there is no file none.csv"),
    (("task", "ioi", "--columns", "clean=x"), "ioi is no file"),
    (("task", "BAD", "--columns", "clean"), "write it as --columns clean=prompt"),
    (("task", "BAD", "--unequal", "drop"), "unequal='drop'"),
    (("task", "BAD", "--align", "first"), "align='first'"),
    (("task", "ioi", "--align", "last"), "Leave --columns, --unequal and --align out"),
    (("task", "BAD"), "no examples"),
    (("task", "notes.txt"), "none of .csv"),
    (("exact", "ioi", "--units", "head"), "Did you mean 'heads'?"),
    (("exact", "ioi", "--units", "a1.h0,m1.x"), "not known"),
    (("exact", "ioi", "--ablation", "zeros"), "Did you mean 'zero'?"),
    (("exact", "ioi", "--direction", "noisin"), "Did you mean 'noising'?"),
    (("exact", "ioi", "--direction", "denoising", "--ablation", "mean"), "restores a unit's clean value"),
    (("exact", "ioi", "--out", "BAD/deeper"), "is a file"),
    (("attribute", "ioi", "--method", "atpp"), "Did you mean 'atp'?"),
    (("attribute", "ioi", "--method", "eap"), "scores edges"),
    (("attribute", "ioi", "--method", "ig", "--nodes", "0"), "nodes"),
    (("attribute", "ioi", "--method", "ig", "--baseline", "zeros"), "Did you mean 'zero'?"),
    (("attribute", "ioi", "--verify", "--tau", "-1"), "tau"),
    (("attribute", "ioi", "--verify", "--budget", "2"), "budget"),
    (("attribute", "ioi", "--verify", "--until-missed", "-1"), "missed"),
    (("study", "iol"), "Did you mean 'ioi'?"),
    (("study", "ioi", "--out", "BAD"), "is a file"),
    (("compare", "ioi", "--units", "head"), "Did you mean 'heads'?"),
    (("compare", "ioi", "--methods", "atp,igg"), "Did you mean 'ig'?"),
    (("compare", "ioi", "--minutes", "0"), "budget"),
    (("discover", "ioi", "--method", "eapig"), "Did you mean 'eap-ig'?"),
    (("discover", "ioi", "--edges", "0"), "edges=0"),
    (("discover", "ioi", "--how", "greed"), "Did you mean 'greedy'?"),
    (("discover", "ioi", "--sizes", "0.5,0.1"), "rising"),
    (("discover", "ioi", "--held-out", "none.csv"), "none.csv"),
    (("evaluate", "none"), "none"),
    (("evaluate", "none", "--ablation", "zeros"), "Did you mean 'zero'?"),
    (("adversary", "none"), "none"),
    (("adversary", "none", "--budgets", "sparce"), "Did you mean 'sparse'?"),
    (("adversary", "none", "--ablation", "optimal"), "learns constants for one circuit"),
    (("scoreboard", "ioi", "--rankings", "eapig"), "Did you mean 'eap-ig'?"),
    (("scoreboard", "ioi", "--rankings", "random"), "Name one beside it"),
    (("scoreboard", "ioi", "--parts", "curves"), "Did you mean 'curve'?"),
    (("scoreboard", "ioi", "--tasks", "iol"), "Did you mean 'ioi'?"),
    (("specificity", "none"), "none"),
    (("ablate", "ioi", "--units", "a20.x"), "not known"),
    (("ablate", "ioi", "--units", "heads"), "whole kind of units; name those to ablate"),
    (("ablate", "ioi", "--units", "a20.h0", "--ablations", "zeros"), "Did you mean 'zero'?"),
    (("dla", "ioi", "--neurons", "1,x"), "no list of layers"),
    (("dla", "ioi", "--metric", "prob"), "no sum of logits"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_is_wrong_is_found_before_the_model_is_loaded(no_model, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.csv"
    bad.write_text("clean,corrupted,correct,incorrect\n")
    before = set(tmp_path.iterdir())
    result = CliRunner().invoke(app, [word.replace("BAD", str(bad)) for word in words])
    assert isinstance(result.exception, VeracausaError) and said in str(result.exception), result.exception
    assert set(tmp_path.iterdir()) == before


def test_a_folder_that_may_not_be_written_is_found_before_the_model_is_loaded(no_model, tmp_path, monkeypatch):
    monkeypatch.setattr("veracausa.cli.checks.os.access", lambda *_: False)  # root may write everywhere
    result = CliRunner().invoke(app, ["exact", "ioi", "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, FileError) and "may not be written" in str(result.exception)


def test_home_is_meant_by_a_tilde(call, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "pairs.csv").write_text(Path(pairs).read_text())
    result = call("exact", "~/pairs.csv", "--units", "a0.h0", "--out=~/results")
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "home" / "results" / "exact-heads.csv").exists() and not (tmp_path / "~").exists()


def test_every_flag_that_a_text_names_exists():
    from typer.main import get_command

    group = get_command(app)
    known = {flag for command in (group, *group.commands.values()) for one in command.params for flag in one.opts}
    known |= {flag for command in group.commands.values() for one in command.params for flag in one.secondary_opts}
    others = {"--help", "--task"} | {  # of pip and uv
        "--quiet", "--no-deps", "--only-binary", "--require-hashes", "--no-input", "--dest", "--python", "--target",
        "--hash",
        "--array", "--wrap", "--nproc-per-node", "--no-python",  # of Slurm and torchrun
    }  # fmt: skip
    named = {
        (flag, path.name)
        for path in Path(vc.__file__).parent.rglob("*.py")
        if path.name != "frame.py"  # of style sheets
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", path.read_text())
    }
    assert {(flag, where) for flag, where in named if flag not in known | others} == set()
    from veracausa.studies.levels import LEVELS
    from veracausa.studies.study import _asked

    assert {word for level in LEVELS for word in re.findall(r"--[a-z-]+", _asked(level))} <= known


# ---- what reaches the terminal ---------------------------------------------------------------------------------------


def test_names_give_the_terminal_no_orders(call, pairs, tmp_path):
    evil = tmp_path / "\x1b[2J[red]\x1b]0;x\x07.csv"
    evil.write_text(Path(pairs).read_text().replace("cabinet", "cab\x9b31minet"))
    for words in (("exact", evil, "--units", "a0.h0", "--out", tmp_path / "\x1b[31mout"), ("task", evil)):
        result = call(*words)
        assert result.exit_code == 0, result.exception
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", result.stdout + result.stderr)
        assert "\\x1b[2J[red]" in result.output
    missing = call("task", tmp_path / "\x1b[2J.csv")
    assert "\x1b" not in str(missing.exception) and "\\x1b[2J" in str(missing.exception)
    refused = str(call("exact", pairs, "--dtype", "[/red]\x1b[2J").exception)
    assert "[/red]" in refused and "\x1b[2J" not in refused


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_results_that_an_encoding_lacks_are_printed_and_saved(folder, pairs, tmp_path, monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    words = ["exact", pairs, "--model", folder, "--device", "cpu", "--units", "a0.h0", "--out", tmp_path / "aus·gabe"]
    monkeypatch.setattr(sys, "argv", ["veracausa", *map(str, words)])
    monkeypatch.setattr("veracausa.cli.app.signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0 and (tmp_path / "aus·gabe" / "exact-heads.csv").exists()
    assert b"exact" in raw.getvalue()


def test_a_reader_that_goes_away_does_not_cost_the_results(folder, pairs, tmp_path, monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does when it has seen enough
    words = ["exact", pairs, "--model", folder, "--device", "cpu", "--units", "a0.h0", "--out", tmp_path]
    with os.fdopen(writing, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "argv", ["veracausa", *map(str, words)])
        patch.setattr("veracausa.cli.app.signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as caught:
            main()
    assert caught.value.code == 0 and (tmp_path / "exact-heads.csv").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_pairs_as_jsonl_and_bad_files(call, tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {"clean": "the keys near", "corrupted": "the key near", "correct": [" are"], "incorrect": [" is"]}
    path.write_text(json.dumps(row) + "\n")
    assert call("task", path).exit_code == 0
    for text, words in (
        (json.dumps(row | {"clean": "After the keys near"}), ["After", "tokens"]),
        (json.dumps(row | {"clean": "the key near"}), ["are the same"]),
        (json.dumps({"clean": "the keys"}), ["corrupted"]),
        ("", ["no examples"]),
    ):
        path.write_text(text)
        result = call("task", path)
        assert isinstance(result.exception, VeracausaError)
        assert all(word in str(result.exception) for word in words), result.exception


def test_columns_of_a_file_and_pairs_that_do_not_fit(call, tmp_path):
    path = tmp_path / "pairs.json"
    row = {"prompt": "the keys near", "other": "the key near", "correct": " are", "incorrect": " is"}
    rows = [
        row,
        row | {"prompt": "the keys"},
        row | {"prompt": "the key", "other": "the keys", "correct": " is", "incorrect": " are"},
    ]
    path.write_text(json.dumps(rows))
    columns = ("--columns", "clean=prompt,corrupted=other")
    refused = call("task", path, *columns)
    assert "row 1: the clean prompt is 2 tokens" in str(refused.exception)
    found = call("task", path, *columns, "--unequal", "skip")
    assert found.exit_code == 0 and "2 pairs (file pairs.json, 1 left out)" in found.output


def test_pairs_of_different_lengths(call, tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {"clean": "the keys near", "corrupted": "the key and cabinet near", "correct": " are", "incorrect": " is"}
    row |= {"spans": {"thing": {"clean": "keys", "corrupted": "key and cabinet"}}}
    path.write_text(json.dumps(row))
    assert "align='last'" in str(call("task", path).exception)
    shown = call("task", path, "--align", "last")
    assert shown.exit_code == 0 and "1 of unequal prompts, aligned at spans" in shown.output
    assert re.search(r"corrupted  ·+\| ?key\| ?and\| ?cabinet\|·+", shown.output)
    found = call("exact", path, "--align", "mean", "--units", "mlps@spans", "--json")
    assert found.exit_code == 0 and "an activation of neither run" in found.output + found.stderr
    assert "position by position" in str(call("exact", path, "--align", "mean").exception)


def test_readable_names(folder):
    assert Path(folder).name == "tiny-llama" and vc.load(folder).name == str(folder)

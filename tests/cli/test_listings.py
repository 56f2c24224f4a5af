"""`veracausa models`, `tasks`, `methods`, and what the shell offers: all from the library's tables, without torch."""

import json
import re

import pytest
import tiny_models
import torch
from command_line import called, model_folder, pairs_file
from processes import python, started
from typer.testing import CliRunner

from veracausa.circuits.selection.ways import HOW
from veracausa.cli.app import app
from veracausa.cli.choices import models, one_of, several_of, tasks
from veracausa.cli.listing import listing
from veracausa.discovery.ways import FURTHER
from veracausa.estimates.parts import COMBINATIONS, PATHS, RULES
from veracausa.estimates.presets import EDGE_PRESETS, ESTIMATES, PAPERS, PRESETS
from veracausa.loading.local import local_models
from veracausa.loading.wheels import PACKAGED
from veracausa.scores.estimands import ABLATIONS, DIRECTIONS
from veracausa.tasks.registry import BUILTIN, CORRUPTIONS


def run(*words):
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


# ---- models ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches of models: veracausa's, and the hub's."""
    monkeypatch.setenv("VERACAUSA_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def hub_model(caches, repo, commit="c0ffee"):
    """A tiny model in the hub's cache, as a download leaves it."""
    place = caches / "hub" / f"models--{repo.replace('/', '--')}"
    folder = place / "snapshots" / commit
    folder.parent.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    tiny_models.make("gpt2", seed=0, dtype=torch.float32).save_pretrained(folder)
    return folder


def test_models_with_empty_caches(caches):
    text = run("models")
    assert all(name in text for name in PACKAGED) and "MB to fetch" in text and "none yet" in text
    found = json.loads(run("models", "--json"))
    assert [one["name"] for one in found["packaged"]] == list(PACKAGED) and found["here"] == []
    assert not any(one["ready"] for one in found["packaged"])
    assert "llama" in found["architectures"] and "compiled" not in found["architectures"]


def test_models_of_the_hub_cache(caches, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(caches / "hub"))
    whole = hub_model(caches, "owner/tiny-gpt2")
    cut = hub_model(caches, "other")
    (cut / "model.safetensors").unlink()
    config = json.loads((cut / "config.json").read_text()) | {"model_type": "rwkv"}
    (cut / "config.json").write_text(json.dumps(config))
    here = {one["name"]: one for one in json.loads(run("models", "--json"))["here"]}
    assert here["owner/tiny-gpt2"]["whole"] and here["owner/tiny-gpt2"]["known"]
    assert here["owner/tiny-gpt2"]["folder"] == str(whole) and here["owner/tiny-gpt2"]["bytes"] > 1000
    assert not here["other"]["whole"] and not here["other"]["known"] and here["other"]["architecture"] == "rwkv"
    text = run("models")
    assert "rwkv (unknown), not whole" in text and "owner/tiny-gpt2" in text
    assert models("owner/t") == ["owner/tiny-gpt2"]


def test_converted_models_are_called_by_their_name(caches):
    from veracausa.loading.packaged import folder_of

    folder = folder_of(PACKAGED["smollm2-135m"])
    model_folder(folder)
    assert local_models() == []  # without its manifest nothing was finished
    (folder / "veracausa.json").write_text(json.dumps({"files": {"config.json": 0}}))
    (cut,) = local_models()
    assert cut.name == "smollm2-135m" and not cut.whole
    size = (folder / "config.json").stat().st_size
    (folder / "veracausa.json").write_text(json.dumps({"files": {"config.json": size}}))
    (found,) = local_models()
    assert found.whole and found.architecture == "llama"
    assert json.loads(run("models", "--json"))["packaged"][0]["ready"]


# ---- tasks ----------------------------------------------------------------------------------------------------------


def test_tasks_show_a_pair_of_each():
    found = {one["task"]: one for one in json.loads(run("tasks", "--json"))}
    assert set(found) == {*BUILTIN, "ioi-published"}
    text = run("tasks")
    for name, one in found.items():
        assert one["clean"] != one["corrupted"] and one["correct"] and one["incorrect"]
        assert one["corruptions"] == list(CORRUPTIONS.get(name, ()))
        assert one["spans"]
        for part in (
            one["clean"],
            one["corrupted"],
            one["metric"],
            one["description"],
            *one["corruptions"],
            *one["spans"],
        ):
            assert part in text
    assert found["greater-than"]["metric"] == "prob_diff"
    assert found["ioi-published"]["correct"] == [" John"]


@pytest.mark.slow
def test_long_sums_and_a_temperature_are_asked_for(tmp_path):
    model = model_folder(tmp_path / "model")
    # the tiny model's words are not numbers, so its tokenizer makes one of all: the error shows what was asked for
    said = str(called(model, "task", "arithmetic", "--n", 1, "--digits", 3, "--show", 1).exception)
    assert re.search(r"\b\d{3} \+ \d{3} =", said), said
    result = called(model, "task", "ioi", "--n", 2, "--metric", "neg_kl_t2", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["metric"] == "neg_kl_t2", result.exception
    for asked, words in (
        (("ioi", "--digits", 3), "--digits is for arithmetic, not for ioi"),
        (("arithmetic", "--digits", 12), "1 to 9 digits"),
        (("arithmetic", "--digits", 3, "--metric", "logit_diff"), "leave digits out"),
        (("ioi", "--metric", "neg_kl_t0"), "temperature above 0"),
    ):
        assert words in str(called(model, "task", *asked).exception)


def test_a_corruption_is_chosen(tmp_path):
    model = model_folder(tmp_path / "model")
    result = called(model, "task", "ioi", "--n", 2, "--corruption", "third", "--show", 1)
    assert result.exit_code == 0 and "corruption third" in result.stdout, result.exception
    for words, said in (
        (("ioi", "--corruption", "thrid"), "Did you mean 'third'?"),
        (("hypernymy", "--corruption", "swap"), "one kind only"),
        ((pairs_file(tmp_path / "pairs.csv"), "--corruption", "swap"), "--corruption is for ioi, greater-than"),
    ):
        assert said in str(called(model, "task", *words).exception)


# ---- methods --------------------------------------------------------------------------------------------------------


def test_methods_list_every_table():
    found = json.loads(run("methods", "--json"))
    assert [one["method"] for one in found["units"]] == list(ESTIMATES)
    assert [one["method"] for one in found["edges"]] == list(EDGE_PRESETS)
    for one in found["units"]:
        parts = PRESETS.get(one["method"])
        assert one["paper"] == PAPERS[one["method"]]
        assert (one["path"], one["rule"]) == ((parts.path, parts.rule) if parts else (None, None))
    assert set(found["paths"]) == set(PATHS) and found["rules"] == RULES and found["combinations"] == COMBINATIONS
    assert set(found["selections"]) == set(HOW) and found["ablations"] == ABLATIONS
    assert found["directions"] == DIRECTIONS and found["further"] == FURTHER
    text = run("methods")
    for table in (ESTIMATES, EDGE_PRESETS, PATHS, RULES, COMBINATIONS, HOW, ABLATIONS, DIRECTIONS, FURTHER):
        assert all(f"  {name} " in text for name in table)
    assert "inputs × plain × mean, 5 points" in text and "2403.17806" in text


def test_a_listing_is_wrapped_into_its_last_column(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    text = listing("Title", [("a", "bb", "word " * 20), ("long", "b", "short")])
    lines = text.splitlines()
    assert lines[0] == "Title" and lines[1].startswith("  a     bb  word") and max(map(len, lines)) <= 50
    assert all(line.startswith(" " * 12 + "word") for line in lines[2:-1]) and lines[-1] == "  long  b   short"


@pytest.mark.parametrize("command", ["tasks", "methods"])
def test_listings_need_no_torch(command):
    code = (
        f"import sys; from veracausa.cli.app import main; sys.argv = ['veracausa', '{command}']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"
    )
    python(code)


# ---- completion -----------------------------------------------------------------------------------------------------


def test_names_are_completed():
    assert one_of(["noising", "denoising"])("no") == ["noising"]
    assert several_of(["zero", "mean", "resample"])("") == ["zero", "mean", "resample"]
    assert several_of(["zero", "mean", "resample"])("zero,") == ["zero,mean", "zero,resample"]
    assert several_of(["zero", "mean"])("zero,m") == ["zero,mean"]


def test_files_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("pairs.csv", "pairs.txt", "model.gguf"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "more.jsonl").write_text("")
    assert tasks("pa") == ["pairs.csv"] and tasks("fol") == ["folder/"]
    assert tasks("folder/") == ["folder/more.jsonl"] and tasks("~/pa") == ["~/pairs.csv"]
    assert tasks("i") == ["ioi", "induction", "ioi-published"]
    assert models("mod") == ["model.gguf"] and models("smo") == ["smollm2-135m"] and tasks("[") == []


def test_the_shell_completes_commands_and_choices():
    def offered(words):
        asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        done = started(
            "-c", "from veracausa.cli.app import main; main()", env={"_VERACAUSA_COMPLETE": "complete_bash", **asked}
        )
        return done.stdout.split()

    assert offered(["veracausa", "att"]) == ["attribute"]
    assert offered(["veracausa", "attribute", "ioi", "--method", "eap-"]) == ["eap-ig", "eap-gp", "eap-ig-activations"]
    assert offered(["veracausa", "task", "hyp"]) == ["hypernymy"]

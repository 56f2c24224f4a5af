"""Where a file's prompts are read, prompts without a counterpart and metrics of one's own, on the command line."""

import json

import pytest
from command_line import called, model_folder, pairs_file


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    (folder / "texts.csv").write_text("clean\nMary gave a bottle of milk to John\nJohn gave milk to Mary\n")
    (folder / "own.py").write_text(
        "def surprise(logits):\n    return -logits.log_softmax(-1).amax(-1)\n\n\nNUMBER = 3\n"
    )
    (folder / "broken.py").write_text("raise RuntimeError('not today')\n")
    return model_folder(folder / "tiny-llama"), pairs_file(folder / "pairs.csv"), folder


def test_texts_without_counterparts(places):
    model, _, folder = places
    words = ("exact", folder / "texts.csv", "--unpaired", "--read", "text", "--metric", "logprob", "--units", "mlps")
    found = json.loads(called(model, *words, "--ablation", "mean", "--json").stdout)
    assert found["settings"]["unit"] == "the metric, without a gap" and len(found["table"]) == 3
    assert "needs the corrupted prompts" in str(called(model, *words).exception)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("own.py:NUMBER", "has no function 'NUMBER'"),
        ("none.py:surprise", "there is no file"),
        ("broken.py:surprise", "RuntimeError: not today"),
        ("logit_dif", "Did you mean 'logit_diff'"),
    ],
)
def test_what_is_no_metric(places, metric, said):
    model, pairs, folder = places
    name = f"{folder}/{metric}" if ".py" in metric else metric
    assert said in str(called(model, "exact", pairs, "--units", "mlps", "--metric", name).exception)


def test_a_function_of_a_file(places):
    model, pairs, folder = places
    words = ("exact", pairs, "--units", "mlps", "--json", "--read", "-2", "--over", "sum")
    found = json.loads(called(model, *words, "--metric", f"{folder}/own.py:surprise").stdout)
    assert found["task"]["metric"] == "surprise()" and "at position -2" in found["task"]["description"]


def test_built_in_tasks_are_read_where_they_end(places):
    assert "is no file" in str(called(places[0], "task", "ioi", "--read", "-2").exception)

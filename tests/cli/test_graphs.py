"""Attribution graphs on the command line."""

import json

import pytest
import torch
from command_line import PAIRS, called, model_folder, pairs_file

import veracausa as vc


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    model, pairs = model_folder(folder / "tiny-llama"), pairs_file(folder / "pairs.csv")
    lm = vc.load(str(model))
    g = torch.Generator().manual_seed(0)
    read, write = torch.randn(lm.width, 9, generator=g), torch.randn(9, lm.width, generator=g)
    dic = vc.dictionary(lm, {"W_enc": read, "W_dec": write, "k": 3}, site="n1", writes="m1")
    return model, pairs, folder, dic.save(folder / "coder.safetensors")


def test_graphs_and_their_check_are_those_of_the_library(places):
    model, pairs, folder, coder = places
    words = ("graph", pairs, "--dictionary", coder, "--top", "5", "--out", folder / "out")
    shown = called(model, *words).stdout
    assert "Replacement score" in shown and "frozen ablation" in shown
    one = vc.open(folder / "out" / "graph-0.safetensors")
    assert isinstance(vc.open(folder / "out" / "graph-check.safetensors"), vc.graphs.GraphCheck)
    read = vc.graphs.read_graph_json(folder / "out" / "graph-0.json")
    assert len(read.names) == int(one.pruned().nodes.sum())
    body = json.loads(called(model, *words, "--json").stdout)
    assert body["graphs"][0]["table"] and body["check"]["sentences"]


def test_a_prompt_in_plain_words_has_a_graph_and_a_page(places):
    model, _, folder, coder = places
    text = " ".join(PAIRS[0][0].split()[:4])
    words = ("graph", text, "--dictionary", coder, "--top", "3", "--out", folder / "words")
    ran = called(model, *words)
    one = vc.open(folder / "words" / "graph-0.safetensors")
    assert "".join(one.tokens) == text and one.settings["targets"].startswith("the likeliest tokens")
    assert "token-layers" in ran.stderr and "Replacement score" in (folder / "words" / "report.html").read_text()
    again = called(model, *words)
    assert again.exit_code == 0 and "Replacement score" in again.stdout
    assert "--metric is about a task's pairs" in str(called(model, *words, "--metric", "prob").exception)


def test_without_a_transcoder_it_says_what_to_give(places):
    model, pairs, *_ = places
    assert "--dictionary smollm2-135m-m10" in str(called(model, "graph", pairs).exception)

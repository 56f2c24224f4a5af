"""Graphs of prompts in plain words; what they cost, and going on from what was kept."""

import pytest
import torch
from bridges import as_model
from tiny_models import make
from transcoders import random_task, transcoder
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.errors import AnswerError, MethodError, PromptError
from veracausa.graphs import rows as rows_of

TEXT, NAMES = "the keys to the old cabinet", [" are", " is"]
WORDS = [TEXT, *NAMES, "a was were dog cat sat ran here there in on by of and or so red blue tall"]


@pytest.fixture(scope="module")
def lm():
    return as_model(make("llama"), "llama", word_tokenizer(WORDS))


def test_a_prompt_is_a_task_of_its_likeliest_token(lm):
    text, own = TEXT, [transcoder(lm.width, layer) for layer in range(3)]
    graph = vc.graphs.attribution_graph(lm, text, dictionary=own, show_progress=False, mass=0.5, most=3)
    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = lm.hf(ids).logits[0, -1]
    chances = logits.softmax(-1)
    best = int(logits.argmax())
    tokens = [int(i) for i in chances.topk(int((graph.kinds == 3).sum())).indices]
    assert torch.allclose(graph.weights[graph.kinds == 3], chances[tokens], rtol=0, atol=1e-9)
    assert float(chances[tokens].sum()) >= 0.5 or len(tokens) == 3
    assert torch.allclose(graph.total[graph.kinds == 3], logits[tokens] - logits.mean(), rtol=0, atol=1e-9)
    task = vc.graphs.prompt(lm, text)
    assert task.correct == ((best,),) and task.clean == (tuple(ids[0].tolist()),)
    assert float(lm.measure(task).clean[0]) == pytest.approx(float(logits[best]), abs=1e-9)
    found = vc.graphs.check(lm, graph, text, dictionary=own, top=3)
    assert float(found.circuits[0, 0]) == pytest.approx(float(logits[best]), abs=1e-9)


def test_tokens_may_be_named(lm):
    own = [transcoder(lm.width, 1)]
    graph = vc.graphs.attribution_graph(lm, TEXT, dictionary=own, targets=NAMES, show_progress=False)
    ids = [lm.tokenizer(name)["input_ids"][-1] for name in NAMES]
    with torch.no_grad():
        logits = lm.hf(torch.tensor([lm.tokenizer(TEXT)["input_ids"]])).logits[0, -1]
    assert torch.allclose(graph.total[graph.kinds == 3], logits[ids] - logits.mean(), rtol=0, atol=1e-9)
    assert torch.allclose(graph.weights[graph.kinds == 3], logits.softmax(-1)[ids], rtol=0, atol=1e-9)
    for targets, error in ((["nosuchword"], AnswerError), ([NAMES[0]] * 2, MethodError), ([], MethodError)):
        with pytest.raises(error):
            vc.graphs.attribution_graph(lm, TEXT, dictionary=own, targets=targets)
    with pytest.raises(PromptError):
        vc.graphs.attribution_graph(lm, " ", dictionary=own)


def test_the_forecast_is_the_cost_where_all_that_may_be_nodes_are(lm):
    own, task = [transcoder(lm.width, layer) for layer in range(3)], random_task()
    asked = {"dictionary": own, "max_features": 20}
    price = vc.forecast(vc.graphs.attribution_graph, lm, task, measure=False, **asked)
    assert vc.graphs.attribution_graph(lm, task, show_progress=False, **asked).cost.token_layers == price.token_layers
    assert "an attribution graph" in repr(price) and price.memory.gradients > 0
    words = vc.graphs.prompt(lm, TEXT)
    assert vc.forecast(vc.graphs.attribution_graph, lm, words, **asked).seconds > 0
    most = vc.forecast(vc.graphs.attribution_graph, lm, task, measure=False, dictionary=own).token_layers
    assert vc.graphs.attribution_graph(lm, task, show_progress=False, dictionary=own).cost.token_layers < most


def test_an_interrupted_graph_goes_on(lm, tmp_path, monkeypatch):
    own, task = [transcoder(lm.width, layer) for layer in range(3)], random_task()
    monkeypatch.setattr(rows_of, "TOGETHER", 4)
    asked = {"dictionary": own, "max_features": 30, "show_progress": False}
    whole = vc.graphs.attribution_graph(lm, task, **asked)
    made, plain = [], rows_of.GraphRows._features

    def stopping(self, *given):
        made.append(1)
        if len(made) == 4:
            raise KeyboardInterrupt
        return plain(self, *given)

    monkeypatch.setattr(rows_of.GraphRows, "_features", stopping)
    with pytest.raises(KeyboardInterrupt):
        vc.graphs.attribution_graph(lm, task, out=tmp_path, **asked)
    graph = vc.graphs.attribution_graph(lm, task, out=tmp_path, **asked)
    assert len(made) == 4 + len(range(12, 30, 4)) and graph.names == whole.names
    assert torch.allclose(graph.adjacency, whole.adjacency, rtol=0, atol=1e-12)
    again = vc.graphs.attribution_graph(lm, task, out=tmp_path, **asked)
    assert len(made) == 4 + len(range(12, 30, 4)) and torch.equal(again.adjacency, graph.adjacency)
    assert again.names == graph.names and graph.cost.token_layers > whole.cost.token_layers

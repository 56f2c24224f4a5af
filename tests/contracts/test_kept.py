"""Contract 14 holds, and finds a library that knows its model by the weights it was loaded with."""

import torch

import veracausa.model
from veracausa.contracts.kept import kept_pieces_belong_to_their_model


def test_it_holds(tiny, task_of):
    assert kept_pieces_belong_to_their_model(tiny("llama", fresh=True), task_of(6)) == 0


def test_it_finds_an_identity_that_stays(tiny, task_of, monkeypatch):
    lm = tiny("llama", fresh=True)
    monkeypatch.setattr(veracausa.model.Model, "identity", "always the same")
    assert kept_pieces_belong_to_their_model(lm, task_of(6)) >= 1
    assert not any(module._forward_hooks for module in lm.hf.modules())


def test_a_float32_model(tiny, task_of):
    assert kept_pieces_belong_to_their_model(tiny("gpt2", dtype=torch.float32), task_of(6)) == 0

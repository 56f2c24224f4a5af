"""Interactions of two layers on the command line."""

import json

import pytest
from command_line import called, model_folder, pairs_file

import veracausa as vc


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interplay")
    return model_folder(folder / "tiny-llama"), pairs_file(folder / "pairs.csv"), folder


def test_interactions_are_those_of_the_library(places):
    model, pairs, folder = places
    words = ("interactions", pairs, "--sources", "heads:0", "--readers", "m2.n1,m2.n3", "--out", folder / "out")
    body = json.loads(called(model, *words, "--json").stdout)
    found = vc.open(folder / "out" / "interactions.safetensors")
    assert found.readers == ("m2.n1", "m2.n3") and len(body["table"]) == len(found.table())
    assert (folder / "out" / "interactions.csv").read_text().startswith("source,reader,strength,mean,verified")
    assert "Who drives whom" in (folder / "out" / "report.html").read_text(encoding="utf-8")
    shown = called(model, *words, "--verify").stdout
    assert "No pair is unchecked." in shown and "strongest" in shown
    assert isinstance(vc.open(folder / "out" / "interactions.safetensors"), vc.interplay.CheckedInteractions)


def test_what_means_nothing_is_refused(places):
    model, pairs, _ = places
    words = ("interactions", pairs, "--sources", "heads:2", "--readers", "heads:1")
    assert "readers come behind" in str(called(model, *words).exception)

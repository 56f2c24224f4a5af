"""`veracausa dictionary` on a tiny model in a folder."""

import json

import pytest
import torch
from command_line import called, model_folder, pairs_file
from safetensors.torch import save_file

import veracausa as vc


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return pairs_file(tmp_path_factory.mktemp("data") / "agreement.csv")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    g = torch.Generator().manual_seed(0)
    tensors = {"W_enc": torch.randn(24, 9, generator=g), "W_dec": torch.randn(9, 24, generator=g)}
    home = tmp_path_factory.mktemp("dictionary")
    save_file(tensors, home / "own.safetensors")
    return home / "own.safetensors"


def test_it_says_what_it_is_and_how_good(folder, pairs, path):
    result = called(folder, "dictionary", path, "--site", "r1", "--task", pairs)
    assert result.exit_code == 0, result.output
    lm = vc.load(folder, device="cpu")
    quality = vc.dictionary(lm, path, "r1").check(lm, vc.task(lm, pairs))
    assert f"{quality.variance_explained:>10.4g}" in result.stdout and "tensors, " in result.stdout
    found = json.loads(called(folder, "dictionary", path, "--site", "r1", "--task", pairs, "--json").stdout)
    assert found["dictionary"]["features"] == 9 and found["dictionary"]["reads"] == "r1"
    assert found["table"][0]["value"] == pytest.approx(quality.variance_explained)


def test_errors_say_what_to_do(folder, pairs, path):
    result = called(folder, "dictionary", path, "--task", pairs)
    assert result.exit_code != 0 and "Say site='r10'" in repr(result.exception)
    result = called(folder, "dictionary", path.parent / "none", "--task", pairs)
    assert "There is nothing at" in repr(result.exception)

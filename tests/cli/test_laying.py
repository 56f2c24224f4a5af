"""Dictionaries at the command line: their features are units of exact and attribute."""

import json

import numpy as np
import pytest
from command_line import called, model_folder, pairs_file

from veracausa.errors import VeracausaError


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """(model folder, pairs, dictionary file) of a tiny model and random features."""
    path = tmp_path_factory.mktemp("laying")
    folder, pairs = model_folder(path / "model"), pairs_file(path / "pairs.csv")
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    drawn = np.random.default_rng(0).normal
    parts = {"W_enc": drawn(size=(width, 12)), "W_dec": drawn(size=(12, width)) / 4, "b_enc": drawn(size=12)}
    np.savez(path / "sae.npz", b_dec=np.zeros(width, "f4"), **{name: part.astype("f4") for name, part in parts.items()})
    return folder, pairs, path / "sae.npz"


def test_features_are_units_of_exact_and_attribute(given):
    folder, pairs, sae = given
    exact = called(folder, "exact", pairs, "--units", "features", "--dictionary", f"{sae}@r1", "--json")
    assert exact.exit_code == 0, exact.output
    names = [row["name"] for row in json.loads(exact.stdout)["table"]]
    assert "f1.error" in names and len(names) > 2
    ig = called(
        folder, "attribute", pairs, "--units", ",".join(names[:3]), "--method", "ig", "--verify", "--top", "2",
        "--sample", "1", "--dictionary", f"{sae}@r1",
    )  # fmt: skip
    assert ig.exit_code == 0 and "3 of 3 units checked exactly" in ig.output, ig.output


def test_several_dictionaries_of_a_layer_have_names(given):
    folder, pairs, sae = given
    found = called(
        folder, "exact", pairs, "--units", "f1.one.error+f1.error", "--dictionary", f"{sae}@r1:one", "--dictionary",
        f"{sae}@m1",
    )  # fmt: skip
    assert found.exit_code == 0 and "f1.one.error+f1.error" in found.output, found.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--units", "features"], "--dictionary"),
        (["--units", "features", "--dictionary", "nothing@r1"], "nothing at"),
        (["--units", "f1.99", "--dictionary", "{sae}@r1"], "12 features"),
        (["--units", "features", "--dictionary", "{sae}"], "site="),
        (["--units", "features", "--dictionary", "{sae}@q1"], "not known"),
    ],
)
def test_what_does_not_fit_is_said(given, words, said):
    folder, pairs, sae = given
    found = called(folder, "exact", pairs, *(word.replace("{sae}", str(sae)) for word in words))
    assert isinstance(found.exception, VeracausaError) and said in str(found.exception)

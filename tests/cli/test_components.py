"""Components of weights on the command line: effects, an estimate, curves, words, and their page."""

import json

import pandas as pd
from command_line import called, model_folder, pairs_file

import veracausa as vc


def test_effects_curves_words_and_the_page(tmp_path):
    model, pairs = model_folder(tmp_path / "tiny-llama"), pairs_file(tmp_path / "pairs.csv")
    asked = ("components", pairs, "--maps", "m1.down,a0.ov", "--top", "3", "--interactions", "2", "--out", tmp_path)
    body = json.loads(called(model, *asked, "--json").stdout)
    assert [one["map"] for one in body["maps"]] == ["m1.down", "a0.ov"]
    for one in body["maps"]:
        exact, curve = (vc.open(tmp_path / f"{one['map']}-{what}.safetensors") for what in ("exact", "curve"))
        assert exact.settings["ablation"] == "zero" and curve.ranked[0] == exact.top(1)["name"][0]
        strongest = pd.read_csv(tmp_path / f"{one['map']}-strongest.csv")
        assert list(strongest["name"]) == [row["name"] for row in one["strongest"]] == list(exact.top(3)["name"])
        assert strongest["effect"].abs().is_monotonic_decreasing
        assert (tmp_path / "report.html").read_text().count(curve.ranked[0]) > 1
    text = called(model, "components", pairs, "--maps", "m*.down", "--top", "1").stdout
    assert "m0.down.c" in text and "the sum of singles" in text
    assert "is no linear map" in str(called(model, "components", pairs, "--maps", "m1.sideways").exception)

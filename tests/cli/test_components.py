"""Components of weights on the command line: effects, an estimate, curves, words, and their page."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import called, model_folder, pairs_file

import veracausa as vc


@pytest.mark.slow
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


@pytest.mark.slow
def test_ranks_factors_and_another_checkpoint(tmp_path):
    """What `vc.components` makes is named on the command line, too, with the same numbers."""
    model, other, pairs = model_folder(tmp_path / "tiny"), tmp_path / "other", pairs_file(tmp_path / "pairs.csv")
    lm = vc.load(model)
    task = vc.task(lm, pairs)
    zero = {"ablation": "zero", "show_progress": False}
    lm.hf.model.layers[1].mlp.down_proj.weight.data *= 0.5
    lm.hf.save_pretrained(other)
    lm.tokenizer.save_pretrained(other)
    lm = vc.load(model)
    inputs, outputs = lm.hf.model.layers[1].mlp.down_proj.weight.T.shape
    drawn = np.random.default_rng(0).normal
    factors = {"m1.down.U": drawn(size=(3, outputs)), "m1.down.V": drawn(size=(inputs, 3))}
    np.savez(tmp_path / "spd.npz", **factors)
    for words, unit, made in (
        (("m1.down", "--against", other), "m1.down.diff", {"against": vc.load(other)}),
        ((f"m1.down@{tmp_path / 'spd.npz'}:spd",), "m1.down.spd1", {"factors": tmp_path / "spd.npz", "name": "spd"}),
    ):
        laid = lm.reading(*vc.components(lm, "m1.down", **made))
        wanted = vc.exact(laid, task, units=[unit], **zero).table()["effect"][0]
        asked = ("exact", pairs, "--units", unit, "--ablation", "zero", "--components", *words, "--json")
        (row,) = json.loads(called(model, *asked).stdout)["table"]
        assert abs(row["effect"] - wanted) < 1e-6
        out = tmp_path / unit
        body = json.loads(called(model, "components", pairs, "--maps", *words, "--json", "--out", out).stdout)
        assert body["maps"][0]["map"] == unit.rstrip("1") and (out / f"{unit.rstrip('1')}-exact.safetensors").exists()
    for words, said in (
        (("exact", pairs, "--against", other), "--components m5.down"),
        (("components", pairs, "--maps", "m1.down@lora", "--against", other), "without @"),
        (("components", pairs, "--maps", "m1.down@lora"), "no LoRA"),
        (("components", pairs, "--maps", "m0.down", "--against", other), "the same in both models"),
    ):
        assert said in str(called(model, *words).exception)


def test_an_adapters_folder_is_its_base_model_with_it(tmp_path):
    """Its ranks are units of every command; without all of them the model is the base."""
    peft = pytest.importorskip("peft")
    base, pairs, folder = model_folder(tmp_path / "base"), pairs_file(tmp_path / "pairs.csv"), tmp_path / "adapter"
    lm = vc.load(base)
    task = vc.task(lm, pairs)
    before = lm.measure(task).clean
    with torch.random.fork_rng():
        tuned = peft.get_peft_model(
            lm.hf, peft.LoraConfig(r=3, target_modules=["down_proj"], layers_to_transform=[1], init_lora_weights=False)
        )
    tuned.save_pretrained(folder)
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.peft_config["default"].save_pretrained(folder)
    asked = ("exact", pairs, "--units", "m1.down.lora", "--ablation", "zero", "--components", "m1.down@lora", "--json")
    body = json.loads(called(folder, *asked).stdout)
    own = vc.load(folder)
    assert "adapter in" in own.source and own.identity != vc.load(base).identity
    now = own.measure(task).clean
    assert body["table"][0]["effect"] == pytest.approx(float((before - now).mean()), abs=1e-5) and now[0] != before[0]
    out = tmp_path / "out"
    assert called(folder, "components", pairs, "--maps", "m1.down@lora", "--out", out).exit_code == 0
    assert len(vc.open(out / "m1.down.lora-exact.safetensors")) == 3
    (folder / "adapter_model.safetensors").unlink()
    assert "never read" in str(called(folder, *asked).exception)

"""Pruning on the command line."""

import json

from command_line import called, model_folder, pairs_file
from transformers import AutoModelForCausalLM

import veracausa as vc


def test_a_cut_its_page_and_its_checkpoint(tmp_path):
    model, pairs = model_folder(tmp_path / "tiny-llama"), pairs_file(tmp_path / "pairs.csv")
    (tmp_path / "text.txt").write_text("After John and Mary went to the store , Anna gave a bottle of milk . " * 20)
    words = ("prune", pairs, "--how", "fgp,random", "--share", "0.3", "--sizes", "0.1,0.5", "--text-tokens", "200",
             "--text", tmp_path / "text.txt", "--out", tmp_path / "out")  # fmt: skip
    asked = (*words, "--per-layer", "--export", tmp_path / "small", "--json")
    body = json.loads(called(model, *asked).stdout)
    found = vc.open(tmp_path / "out" / "pruned.safetensors")
    assert isinstance(found, vc.pruning.Pruned) and found.rankings == ("fgp", "random")
    assert found.sizes == (0.1, 0.3, 0.5) and len(body["table"]) == len(found.table()) == 14
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert small.config.intermediate_size == 40 - found.chosen.sum() // 3 and "padding" not in body["exported"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert found.cut[0] in page and f"{found.saved:,}" in page and "Checkpoint" in page
    again = called(model, *words, "--units", "kv_groups+mlps", "--text", "none")
    assert "rows of" not in again.stdout and "held-out pair" in again.stdout and "token-layers" in again.stderr
    assert "kind of parts to cut" in str(called(model, "prune", pairs, "--units", "eyes").exception)

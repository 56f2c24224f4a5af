"""Circuits of features on the command line."""

import json

import torch
from command_line import called, model_folder, pairs_file

import veracausa as vc


def test_a_circuit_its_curves_and_its_page(tmp_path):
    model, pairs = model_folder(tmp_path / "tiny-llama"), pairs_file(tmp_path / "pairs.csv")
    lm, g = vc.load(str(model)), torch.Generator().manual_seed(0)
    laid = []
    for site in ("r1", "r2"):
        read, write = torch.randn(lm.width, 9, generator=g), torch.randn(9, lm.width, generator=g)
        made = vc.dictionary(lm, {"W_enc": read, "W_dec": write, "k": 3}, site=site, name=site)
        laid += ["--dictionary", made.save(tmp_path / f"{site}.safetensors")]
    words = ("features", pairs, *laid, "--method", "atp", "--node-threshold", "0", "--most", "6", "--out", tmp_path)
    body = json.loads(called(model, *words, "--json").stdout)
    circuit = vc.open(tmp_path / "feature-circuit.safetensors")
    assert isinstance(circuit, vc.circuits.FeatureCircuit) and len(circuit.parts) == 6
    assert body["table"] and [one["settings"]["errors"] for one in body["curves"]] == ["node", "kept", "moved"]
    assert len(vc.open(tmp_path / "part-curve-moved.safetensors").sizes) > 1
    assert circuit.parts[0] in (tmp_path / "report.html").read_text()
    again = called(model, *words, "--no-curves", "--by-position")
    assert "token-layers" in again.stderr and "at most 6" not in again.stdout and "estimates" in again.stdout
    assert "--dictionary smollm2" in str(called(model, "features", pairs).exception)

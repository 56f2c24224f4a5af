"""Export: a plain transformers checkpoint gives the logits of the model without the parts, in every claimed family."""

import json

import every_result
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import veracausa as vc
from veracausa.cost import Cost
from veracausa.errors import ArchitectureError, FileError, MethodError
from veracausa.pruning.cutting import constants_of, cut_of, cut_out
from veracausa.pruning.parts import Parts
from veracausa.pruning.shapes import SHAPES
from veracausa.pruning.smaller import smaller

QUIET = {"show_progress": False}
#: Type of config → name of the tiny model.
TINY = {"gemma3_text": "gemma3"} | {kind: kind for kind in SHAPES if kind != "gemma3_text"}
IDS = torch.tensor([[5, 9, 11, 20, 7, 33, 12, 8]])


@pytest.fixture(autouse=True)
def gemma(monkeypatch):
    monkeypatch.setitem(tiny_models._SETTINGS, "gemma", ("gemma", tiny_models._GQA))


def logits(hf):
    with torch.no_grad():
        return hf(IDS, use_cache=False).logits


def compared(lm, units, share, tmp_path, ablation="zero", seed=0):
    """The largest difference of logits, as a share of the largest, and the model that was read again."""
    parts = Parts.of(lm, units)
    gone = np.random.default_rng(seed).random(len(parts)) < share
    cut = cut_of(lm, parts, gone)
    constants = constants_of(lm, parts, [tuple(IDS[0].tolist())], Cost()) if ablation == "mean" else {}
    with cut_out(lm, cut, constants):
        expected = logits(lm.hf)
    made, kept = smaller(lm, cut, constants)
    made.save_pretrained(tmp_path)
    chosen = lm.hf.config._attn_implementation
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation=chosen).eval()
    assert type(again) is type(lm.hf)
    off = float((logits(tiny_models.compute_in_float64(again)) - expected).abs().max() / expected.abs().max())
    return off, again, kept


@pytest.mark.parametrize("kind", SHAPES)
def test_in_every_family_it_gives_the_logits_of_the_model_without_the_parts(kind, tmp_path):
    lm = as_model(tiny_models.make(TINY[kind]))
    assert lm.hf.config.model_type == kind
    for at, (units, share) in enumerate((("heads+neurons", 0.4), ("kv_groups+mlps", 0.5), ("layers", 0.4))):
        off, again, kept = compared(lm, units, share, tmp_path / units, seed=at + 1)
        assert off < 1e-9, units  # float64: only the order of sums differs
        if units == "heads+neurons":
            assert kept.counts["neurons"] < 40
            assert sum(p.numel() for p in again.parameters()) < Parts.of(lm, units).whole
        if units == "layers":
            assert kept.counts["layers"] < lm.layers


@pytest.mark.parametrize("kind", [kind for kind, shape in SHAPES.items() if shape.attention_bias])
def test_means_become_biases(kind, tmp_path):
    lm = as_model(tiny_models.make(TINY[kind]))
    units = "heads+neurons" if SHAPES[kind].mlp_bias else "heads"
    off, again, _ = compared(lm, units, 0.4, tmp_path, "mean", seed=1)
    assert off < 1e-9
    assert any(name.endswith(("o_proj.bias", "c_proj.bias", "dense.bias")) for name, _ in again.named_parameters())


def test_where_a_family_has_no_bias_means_are_refused(tmp_path):
    lm = as_model(tiny_models.make("mistral"))
    with pytest.raises(ArchitectureError, match="ablation='zero'"):
        compared(lm, "heads", 0.4, tmp_path, "mean")
    with pytest.raises(ArchitectureError, match="Nothing is left"):
        compared(lm, "layers", 1.1, tmp_path)
    with pytest.raises(ArchitectureError, match="only these can be exported"):
        compared(as_model(tiny_models.make("cohere")), "neurons", 0.4, tmp_path)


@pytest.mark.parametrize("units", ["heads", "kv_groups"])
def test_uneven_counts_are_padded_and_counted(units, tmp_path):
    words, task = every_result.setting()
    hf = tiny_models.make("llama", num_key_value_heads=4)  # every head has keys and values of its own
    lm = as_model(hf, tokenizer=words.tokenizer)
    found = vc.pruning.prune(lm, task, units=units, share=0.3, text=None, how="random", seed=3, **QUIET)
    done = found.export(lm, tmp_path / "uneven")
    size = found.parts.parameters[0]
    kept = (~found.chosen).reshape(lm.layers, -1).sum(1)
    assert done.counts["heads"] == kept.max() and done.padded == size * (kept.max() - kept).sum()
    assert done.before - done.after == found.saved - done.padded


def test_the_same_number_in_every_layer_leaves_no_padding(tmp_path):
    lm, task = every_result.setting()
    found = vc.pruning.prune(lm, task, units="neurons", share=0.25, text=None, per_layer=True, **QUIET)
    before = {name: value.clone() for name, value in lm.hf.state_dict().items()}
    done = found.export(lm, tmp_path / "even")
    assert done.padded == 0 and done.after == done.before - found.saved and done.counts["neurons"] == 30
    assert all(torch.equal(value, lm.hf.state_dict()[name]) for name, value in before.items())
    again = AutoModelForCausalLM.from_pretrained(done.folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    ids = torch.tensor([tokenizer("The key to")["input_ids"]])
    with cut_out(lm, cut_of(lm, found.parts, found.chosen), {}), torch.no_grad():
        expected = lm.hf(ids).logits
    with torch.no_grad():
        found_logits = tiny_models.compute_in_float64(again)(ids).logits
    assert float((found_logits - expected).abs().max()) < 1e-9 * float(expected.abs().max())
    receipt = json.loads((done.folder / "veracausa-pruned.json").read_text())
    assert receipt["cut"] == found.cut and receipt["parameters"] == [done.before, done.after]
    # this library reads it, too, and finds the same metric
    small = vc.load(done.folder, dtype=torch.float64)
    _, held = task.split(0.5, 0)
    assert torch.allclose(small.measure(held).clean, found.metric[0][1].to(small.measure(held).clean), atol=1e-5)


def test_only_the_model_that_was_pruned_is_exported_and_nothing_is_overwritten(tmp_path):
    lm, task = every_result.setting()
    found = vc.pruning.prune(lm, task, units="heads", ablation="mean", share=0.3, text=None, how="random", **QUIET)
    other = as_model(tiny_models.make("llama", seed=9), tokenizer=lm.tokenizer)
    with pytest.raises(MethodError, match="weights"):
        found.export(other, tmp_path / "other")
    (tmp_path / "there.txt").write_text("mine")
    with pytest.raises(FileError, match="not empty"):
        found.export(lm, tmp_path)
    again = vc.open(found.save(tmp_path / "pruned.safetensors"))  # what stands for cut parts is in the file
    done = again.export(lm, tmp_path / "again")
    assert done.off < 1e-4 and f"{done.before:,} → {done.after:,} parameters" in done.describe()

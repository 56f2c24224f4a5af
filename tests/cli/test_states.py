"""Causal tracing, steering, and tensors, vectors and noise of one's own, on the command line."""

import json

import numpy as np
import pytest
import torch
from command_line import called, model_folder, pairs_file
from safetensors.torch import save_file

import veracausa as vc
from veracausa.effects.steered import SCALES

QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model, pairs, and files of vectors; "numbers" and "words" are in a file that no unit is called like."""
    folder = tmp_path_factory.mktemp("states")
    model, pairs = model_folder(folder / "tiny-llama"), pairs_file(folder / "pairs.csv")
    lm, made = vc.load(model), torch.Generator().manual_seed(0)
    units = {"r1": lm.width, "r2": lm.width, "m0": lm.width, "a1.h0": lm.decoder.head_dim}
    vectors = {name: torch.randn(wide, generator=made) for name, wide in units.items()}
    save_file(vectors, folder / "vectors.safetensors")
    np.savez(folder / "vectors.npz", **{name: one.numpy() for name, one in vectors.items()})
    np.savez(folder / "words.npz", r1=np.array(["much"]))
    np.savez(folder / "objects.npz", r1=np.array([{"r1": 1}], dtype=object))
    np.savez(folder / "none.npz")
    save_file({"happy": vectors["r1"]}, folder / "happy.safetensors")
    (folder / "broken.safetensors").write_bytes((folder / "vectors.safetensors").read_bytes()[:-7])
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    (folder / "vectors.pt").write_bytes(b"")
    return model, pairs, folder, vectors


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
@pytest.mark.parametrize(("ablation", "more"), [("own", ()), ("added", ()), ("added", ("--scale", -1.5))])
def test_tensors_of_a_file(places, tmp_path, ending, ablation, more):
    model, pairs, folder, vectors = places
    words = ("exact", pairs, "--units", "r1@2,r2@3", "--ablation", ablation, *more)
    result = called(model, *words, "--tensor", folder / f"vectors.{ending}", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lm = vc.load(model)
    scale = more[1] if more else 1.0
    instead = vc.effects.Own(vectors) if ablation == "own" else vc.effects.Added(vectors, scale)
    direct = vc.exact(lm, vc.task(lm, pairs), units=["r1@2", "r2@3"], ablation=instead, **QUIET)
    saved = vc.open(tmp_path / f"exact-residual-{ablation}.safetensors")
    assert torch.equal(saved.values, direct.values) and len(saved.units) == 2
    assert saved.settings["replacement_digest"] == direct.settings["replacement_digest"]
    assert "cost   exact effects of 2 residual" in result.stderr and "exact-residual-" in result.stdout


@pytest.mark.cases(2)
@pytest.mark.parametrize("units", ["r1@2,r2@3", "r1+m0@1-2", "residual", "mlps@positions"])
def test_one_tensor_for_every_unit(places, units):
    model, pairs, folder, vectors = places
    words = ("exact", pairs, "--units", units, "--ablation", "added", "--tensor", f"{folder}/happy.safetensors:happy")
    result = called(model, *words, "--json")
    assert result.exit_code == 0, result.output
    lm = vc.load(model)
    stems = ["r1", "r2", "m0"] if "," in units or "+" in units else vc.exact.work(
        lm, vc.task(lm, pairs), units=units.partition("@")[0]).units.names  # fmt: skip
    given = vc.effects.Added(dict.fromkeys(stems, vectors["r1"]))
    direct = vc.exact(
        lm, vc.task(lm, pairs), units=units.split(",") if "," in units else units, ablation=given, **QUIET
    )
    found = json.loads(result.stdout)["table"]
    assert [row["effect"] for row in found] == pytest.approx(direct.table()["effect"].tolist(), abs=1e-6)


def test_noise(places):
    model, pairs, *_ = places
    words = ("exact", pairs, "--units", "mlps", "--ablation", "noise", "--seed", 3, "--json")
    lm = vc.load(model)
    task = vc.task(lm, pairs)
    for more, noise in (
        ((), vc.effects.Noise(seed=3)),
        (("--scale", 0.5, "--draws", 2), vc.effects.Noise(0.5, 2, 3)),
    ):
        found = json.loads(called(model, *words, *more).stdout)
        direct = vc.exact(lm, task, units="mlps", ablation=noise, **QUIET)
        assert [row["effect"] for row in found["table"]] == pytest.approx(direct.table()["effect"].tolist(), abs=1e-6)
        assert found["settings"]["draws"] == noise.draws and found["settings"]["sd"] == noise.sd


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("words", "where"),
    [((), [1, 2]), (("--span", "end", "--units", "attention", "--window", 2), "end")],
)
def test_trace(places, tmp_path, words, where):
    model, pairs, *_ = places
    span = ("--span", "1,2") if not words else ()
    result = called(model, "trace", pairs, *span, *words, "--draws", 2, "--sd", 2, "--seed", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lm, units = vc.load(model), "attention" if words else "residual"
    asked = {"units": units, "window": 2 if words else 1, "sd": 2, "draws": 2, "seed": 1}
    direct = vc.effects.causal_tracing(lm, vc.task(lm, pairs), span=where, **asked, **QUIET)
    saved = vc.open(tmp_path / f"tracing-{units}.safetensors")
    assert torch.equal(saved.values.nan_to_num(9), direct.values.nan_to_num(9)) and saved.settings == direct.settings
    assert (tmp_path / f"tracing-{units}.csv").is_file() and "causal tracing of" in result.stderr
    assert saved.top(1)["name"][0] in result.stdout


@pytest.mark.cases(1)
@pytest.mark.parametrize("form", ["--scales=-2,1", "--scales"])
def test_steer(places, tmp_path, form):
    model, pairs, folder, vectors = places
    scales = (form,) if "=" in form else (form, "-2,1")
    words = ("steer", pairs, "--tensor", folder / "vectors.npz", "--units", "r1@2,r2@3", *scales)
    result = called(model, *words, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    lm = vc.load(model)
    how = {"units": ["r1@2", "r2@3"], "scales": (-2, 1)}
    direct = vc.effects.steering(lm, vc.task(lm, pairs), vectors, **how, **QUIET)
    saved, found = vc.open(tmp_path / "steering.safetensors"), json.loads(result.stdout)
    assert torch.equal(saved.effects, direct.effects) and found["result"] == "Steering"
    assert [row["scale"] for row in found["table"]] == [-2, 0, 1] * 2 and (tmp_path / "steering.csv").is_file()
    printed = called(model, *words)
    assert "steering · 2 residual" in printed.stdout and "cost   steering of 2 residual" in printed.stderr


def test_steering_without_names_takes_all_that_have_a_vector(places):
    model, pairs, folder, _ = places
    words = ("steer", pairs, "--tensor", folder / "vectors.safetensors", "--scales", 1, "--json")
    assert "mixes kinds of units" in str(called(model, *words).exception)
    one = called(model, "steer", pairs, "--tensor", f"{folder}/happy.safetensors:happy", "--units", "r2", "--scales", 1)
    assert one.exit_code == 0 and "r2" in one.stdout, one.output
    refused = called(model, "steer", pairs, "--tensor", f"{folder}/happy.safetensors:happy")
    assert refused.exit_code and "--units" in str(refused.exception)


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("--ablation", "own"), "MethodError", "needs --tensor"),
        (("--ablation", "zero", "--tensor", "vectors.npz"), "MethodError", "--tensor is for --ablation own and added"),
        (("--ablation", "own", "--tensor", "vectors.npz", "--scale", 2), "MethodError", "--scale is for"),
        (("--ablation", "added", "--tensor", "vectors.npz", "--draws", 2), "MethodError", "--draws is for"),
        (("--ablation", "noise", "--scale", -1), "MethodError", "sd is at least 0"),
        (("--ablation", "noise", "--direction", "denoising"), "MethodError", "the clean run"),
        (("--ablation", "nois"), "MethodError", "Did you mean 'noise'"),
        (("--ablation", "own", "--tensor", "nowhere.npz"), "FileError", "There is no file"),
        (("--ablation", "own", "--tensor", "vectors.pt"), "FileError", "nothing is unpickled"),
        (("--ablation", "own", "--tensor", "vectors.npz:r9"), "FileError", "key='r9' is not known"),
        (("--ablation", "own", "--tensor", "broken.npz"), "FileError", "damaged"),
        (("--ablation", "own", "--tensor", "broken.safetensors"), "FileError", "damaged"),
        (("--ablation", "own", "--tensor", "objects.npz"), "FileError", "no .npz file of numbers"),
        (("--ablation", "own", "--tensor", "words.npz"), "FileError", "no .npz file of numbers"),
        (("--ablation", "own", "--tensor", "none.npz"), "FileError", "holds no tensor"),
        (("--ablation", "own", "--tensor", "vectors.npz:a1.h0"), "MethodError", "wide"),
        (("--ablation", "own", "--tensor", "happy.safetensors"), "UnitError", "'happy'"),
        (("--ablation", "own", "--tensor", "vectors.npz", "--units", "m1"), "UnitError", "no tensor for m1"),
        (("--ablation", "own", "--tensor", "vectors.npz:r1", "--units", "m0->m1"), "MethodError", "Own"),
    ],
)
def test_what_does_not_fit_is_one_sentence(places, words, error, said):
    model, pairs, folder, _ = places
    words = [f"{folder}/{one}" if str(one).partition(":")[0].endswith((".npz", ".pt", ".safetensors")) else one
             for one in words]  # fmt: skip
    units = () if "--units" in words else ("--units", "r1")
    result = called(model, "exact", pairs, *units, *words)
    assert type(result.exception).__name__ == error and said in str(result.exception), result.exception


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("trace", "--span", "subjet"), "span='subjet' is not known"),
        (("trace", "--span", "1", "--units", "heads"), "units='heads' is not known"),
        (("trace", "--span", "1,99"), "positions lie in every prompt"),
        (("trace", "--span", "1", "--sd", 0), "standard deviation above 0"),
        (("steer",), "needs --tensor"),
        (("steer", "--tensor", "vectors.npz", "--scales", "much"), "no list of numbers"),
        (("steer", "--tensor", "vectors.npz", "--units", "r1", "--scales", "0"), "other than 0"),
        (("steer", "--tensor", "vectors.npz", "--units", "r0"), "no tensor for r0"),
        (("steer", "--tensor", "vectors.npz:r1", "--units", "m0->m1"), "no vector is added"),
    ],
)
def test_what_means_nothing(places, words, said):
    model, pairs, folder, _ = places
    command, *rest = (f"{folder}/{one}" if "vectors" in str(one) else one for one in words)
    result = called(model, command, pairs, *rest)
    assert isinstance(result.exception, vc.VeracausaError) and said in str(result.exception), result.exception


def test_prompts_without_a_counterpart(places, tmp_path):
    """Neither command needs corrupted prompts."""
    model, _, folder, _ = places
    (tmp_path / "alone.csv").write_text("clean,correct\nAfter the keys near, are\nthe keys near the, are\n")
    how = (tmp_path / "alone.csv", "--unpaired", "--metric", "logprob")
    traced = called(model, "trace", *how, "--span", 1, "--draws", 1, "--json")
    steered = called(model, "steer", *how, "--tensor", folder / "vectors.npz", "--units", "r1", "--json")
    assert traced.exit_code == steered.exit_code == 0, traced.output + steered.output
    found = json.loads(steered.stdout)["table"]
    assert [row["scale"] for row in found] == sorted({*SCALES, 0.0}) and len(json.loads(traced.stdout)["table"]) == 16

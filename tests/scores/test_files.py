"""Score files come back as they were; damaged, foreign and half-written ones are refused."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

import veracausa as vc
from veracausa.errors import FileError
from veracausa.storage.files import read_tensors, write_tensors


def equal(a, b):
    torch.testing.assert_close(a.values, b.values, rtol=0, atol=0, equal_nan=True)
    for name in ("clean", "corrupted"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert a.units.names == b.units.names and a.units.kind == b.units.kind
    for name in ("method", "settings", "model", "task", "signed", "verified", "notes", "cost"):
        assert getattr(a, name) == getattr(b, name), name
    if a.completeness is None:
        assert b.completeness is None
    else:
        assert torch.equal(a.completeness.claimed, b.completeness.claimed)
        assert torch.equal(a.completeness.true, b.completeness.true)


@pytest.fixture(scope="module")
def several(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    return {
        "exact": vc.exact(lm, task, units="heads@positions", show_progress=False),
        "resample": vc.exact(lm, task_of(5, n=3), units="mlps", ablation="resample", seed=4, show_progress=False),
        "atp": vc.attribute(tiny("gpt2", dtype=torch.float32), task, units="neurons", show_progress=False),
        "ig": vc.attribute(lm, task, units="residual", method="ig", nodes=2, baseline="zero", show_progress=False),
        "cells": vc.exact(lm, task, units=["a1.h2<pattern>@4,3", "a0.h1<pattern>@5,0"], show_progress=False),
        "groups": vc.exact(lm, task, units=["a1.h2<pattern>@-1,0-2", ("a1.h2<pattern>", "m1")], show_progress=False),
    }


@pytest.mark.parametrize("which", ["exact", "resample", "atp", "ig", "cells", "groups"])
def test_round_trip(several, tmp_path, which):
    scores = several[which]
    path = scores.save(tmp_path / "deep" / "er" / "scores.safetensors")
    again = vc.open(path)
    equal(scores, again)
    assert again.values.dtype == scores.values.dtype
    assert repr(again) == repr(scores)
    assert [p.name for p in path.parent.iterdir()] == ["scores.safetensors"]  # no temporary files left
    equal(scores, vc.open(str(again.save(path))))  # overwritten by itself


def test_the_header_is_json_that_says_what_it_is(several, tmp_path):
    raw = several["atp"].save(tmp_path / "s.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["veracausa"])
    assert header["version"] == vc.__version__ and header["method"] == "atp" and header["kind"] == "neurons"
    assert header["verified"] == "not verified" and header["model"] == several["atp"].model
    assert header["cost"]["token_layers"] == several["atp"].cost.token_layers


@pytest.fixture
def good(several, tmp_path):
    return several["ig"].save(tmp_path / "scores.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_cut_short(good, share):
    raw = good.read_bytes()
    good.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(FileError, match=r"damaged or cut short"):
        vc.open(good)


@pytest.mark.parametrize("content", [b"name,effect\na0.h0,1\n", b"\x80\x04\x95pickle", b"{}", b"\x00" * 64])
def test_foreign_bytes(tmp_path, content):
    path = tmp_path / "scores.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=str(path.name)):
        vc.open(path)


def test_somebody_elses_safetensors(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(FileError, match=r"no result that this version of veracausa reads: it has no header"):
        vc.open(tmp_path / "model.safetensors")


def test_missing(tmp_path):
    with pytest.raises(FileError, match=r"no file .*none\.safetensors"):
        vc.open(tmp_path / "none.safetensors")
    with pytest.raises(FileError, match="no discovery"):
        vc.open(tmp_path)


def rewritten(path, header=None, **tensors):
    """The same file, sealed anew, with parts of its header or tensors replaced; None leaves one out."""
    old, kept = read_tensors(path, "veracausa-scores-2")
    kept |= tensors
    whole = {name: value for name, value in kept.items() if value is not None}
    return write_tensors(path, "veracausa-scores-2", old | (header or {}), whole)


@pytest.mark.parametrize("name", ["values", "clean", "layer", "position", "true"])
def test_a_tensor_is_missing(good, name):
    with pytest.raises(FileError, match=name):
        vc.open(rewritten(good, **{name: None}))


def test_a_kind_of_a_later_version(good):
    with pytest.raises(FileError, match="'wheels'"):
        vc.open(rewritten(good, header={"kind": "wheels"}))


@pytest.mark.parametrize("name", ["values", "clean", "layer"])
def test_tensors_that_do_not_fit_together(good, name):
    """The right names with the wrong sizes: an error on loading, not when they are used."""
    with pytest.raises(FileError):
        vc.open(rewritten(good, **{name: torch.zeros(1, 2)[0] if name != "values" else torch.zeros(1, 2)}))


@pytest.mark.parametrize("header", [{"cost": 3}, {"notes": None}])
def test_a_header_of_other_types(good, header):
    with pytest.raises(FileError):
        vc.open(rewritten(good, header=header))

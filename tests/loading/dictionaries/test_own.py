"""Files of this library, and those that come with it."""

import pytest
import torch

import veracausa as vc
from veracausa.errors import FileError
from veracausa.loading.dictionaries.own import HEADER, header_of, packaged_file, packaged_names


def test_every_kind_is_kept_and_read_again(llama, tmp_path, draw):
    wide = {"W_enc": draw(24, 9), "W_dec": draw(9, 24), "b_enc": draw(9), "b_dec": draw(24)}
    kinds = [
        {"activation": "relu", "subtract_b_dec": True},
        {"k": 3},
        {"threshold": draw(9).abs()},
        {"r_mag": draw(9) / 4, "b_mag": draw(9)},
        {"activation": "linear", "labels": tuple("abcdefghi")},
        {"norm": "layer_norm", "norm_eps": 0.1},
        {"norm": "constant_norm", "k": 2},
    ]
    for i, more in enumerate(kinds):
        dic = vc.dictionary(llama, wide | more, "r1")
        path = dic.save(tmp_path / f"{i}.safetensors")
        again = vc.dictionary(llama, path)
        assert again.digest() == dic.digest() and again.labels == dic.labels
    skipping = vc.dictionary(llama, wide | {"W_skip": draw(24, 24)}, "n1", writes="m1")
    assert vc.dictionary(llama, skipping.save(tmp_path / "skip.safetensors")).digest() == skipping.digest()


def test_numbers_that_do_not_fit_are_not_kept(llama, tmp_path, draw):
    dic = vc.dictionary(llama, {"W_enc": draw(24, 9) * 1e6, "W_dec": draw(9, 24)}, "r1")
    with pytest.raises(FileError, match=r"W_enc does not fit into torch.float16"):
        dic.save(tmp_path / "half.safetensors", dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_a_file_of_anything_else_has_no_header(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={HEADER: "{no json"})
    with pytest.raises(FileError, match="cannot be read as safetensors"):
        header_of(tmp_path / "a.safetensors")


def test_which_come_along():
    assert packaged_names() == tuple(f"smollm2-135m-{site}" for site in ("m10", "m20", "r10", "r20"))
    size = sum(packaged_file(f"{name}.safetensors").stat().st_size for name in packaged_names())
    assert size < 8e6
    for name in packaged_names():
        header = header_of(packaged_file(f"{name}.safetensors"))
        assert header["model"] == "smollm2-135m" and "WordNet" in header["text"]
        assert header["quality"]["recovered"] > 0.5 and header["quality"]["dead"] < 0.1


def test_those_that_come_along_fit_the_model(smollm2):
    """Text that none of them was trained on: most of the loss is recovered, as their headers say."""
    text = "The library of the town was closed on Monday, so the children read their books at home and told stories."
    for name, sites in {"smollm2-135m-r10": ("r10", "r10"), "smollm2-135m-m20": ("n20", "m20")}.items():
        dic = vc.dictionary(smollm2, name)
        assert (dic.reads.name, dic.writes.name) == sites and dic.size == 768 and dic.encoder.k == 32
        found = dic.check(smollm2, [text])
        assert found.variance_explained > 0.3 and found.recovered > 0.3

"""`vc.causes.responses` against naive runs, and its slopes against differences of them; far beyond [0, 1], too.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT); slopes by central differences 1e-6.
"""

import naive
import numpy as np
import pytest
import torch
from bridges import naive_metric, naive_units

import veracausa as vc
from veracausa.errors import FileError, MethodError

ALPHAS = [-2.0, -0.5, 0.0, 0.5, 1.0, 3.0]


def responses(lm, task, names, **options):
    return vc.causes.responses(lm, task, units=names, show_progress=False, **options)


def sites_of(names, found):
    """The whole site of each layer, for naive runs."""
    return [(naive_units(found.units)[0][0], int(layer), None, None) for layer in found.layers]


@pytest.mark.cases(2)
@pytest.mark.parametrize("names", [["a0.h1", "a2.h3"], ["m1"], ["m0.n3", "m1.n5"], ["r1"]], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_both_paths(tiny, task_of, agree, family, names):
    lm, task = tiny(family), task_of((5, 6), n=2, seed=4)
    found = responses(lm, task, names, alphas=ALPHAS)
    single = names[0][0] == "r" or names == ["m1"]
    for path, ours, slopes in (("unit", found.own, found.slopes), ("site", found.sites, found.site_slopes)):
        if path == "site" and single:
            assert not len(ours) and found.site(names[0]) is None
            continue
        for k, unit in enumerate(naive_units(found.units)) if path == "unit" else enumerate(sites_of(names, found)):
            for i in range(2):
                theirs = naive.alpha_curve(
                    lm.hf, family, task.clean[i], task.corrupted[i], naive_metric(lm, task, i), unit,
                    [*ALPHAS, -1e-5, 1e-5],
                )  # fmt: skip
                agree(ours[k, :, i], theirs[: len(ALPHAS)] - theirs[ALPHAS.index(0.0)], found.gap)
                agree(slopes[k, i], (theirs[-1] - theirs[-2]) / 2e-5, found.gap, 1e-6)
    one = found[names[0]]
    exact = vc.exact(lm, task, units=names, show_progress=False)
    assert one.secant.value == pytest.approx(float(exact.scaled()[0]))
    # two pairs do not tell these tiny models' gap from 0, so that a share of it has no error
    assert np.isnan(one.secant.stderr) and bool(exact.scaled_stderr().isnan().all())
    assert str(one.secant) in one.sentence and "2 pairs" in one.sentence
    assert found.describe() in repr(found) and len(found.table()) == len(names)


@pytest.mark.parametrize(("family", "names"), [("llama", ["a0.h1", "a2.h3"]), ("gpt_neox", ["m1"])], ids=str)
def test_planned_is_what_it_takes(tiny, task_of, family, names):
    lm, task = tiny(family), task_of((6, 7), n=4)
    planned = vc.causes.responses.work(lm, task, units=names, alphas=ALPHAS).tokens()
    assert responses(lm, task, names, alphas=ALPHAS).cost.token_layers == planned


def test_files_and_finished_pieces(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((6, 7), n=3)
    found = responses(lm, task, ["a0.h1"], alphas=np.linspace(-1, 2, 7), out=tmp_path)
    back = vc.open(found.save(tmp_path / "found.safetensors"))
    assert back.sentences == found.sentences and back.table().equals(found.table())
    assert repr(back) == repr(found)
    assert torch.equal(responses(lm, task, ["a0.h1"], alphas=np.linspace(-1, 2, 7), out=tmp_path).own, found.own)
    (tmp_path / "found.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(FileError):
        vc.open(tmp_path / "found.safetensors")


@pytest.mark.parametrize("name", ["a0.h1@3", "a0.h1->m1"])
def test_units_without_a_response(tiny, task_of, name):
    with pytest.raises(MethodError, match=r"vc\.exact, which"):
        responses(tiny("llama"), task_of(6), [name])

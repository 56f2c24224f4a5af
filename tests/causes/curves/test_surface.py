"""`vc.causes.surface`: corners against `vc.exact` and naive joint patches, all points against naive runs.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT).
"""

import naive
import pytest
import tiny_models
import torch
from bridges import naive_metric, naive_units

import veracausa as vc
from veracausa.errors import FileError, MethodError
from veracausa.units.resolve import resolve_units

SHARES = [-0.7, 0.0, 0.4, 1.0, 1.6]
PAIRS = [("a0.h1", "a2.h3"), ("a1.h0", "a1.h2"), ("m2", "m0.n3"), ("m1.n5", "m1"), ("a1", "m1")]


def surface(lm, task, units, **options):
    return vc.causes.surface(lm, task, units=units, show_progress=False, **options)


def naive_point(lm, task, example, units, shares):
    """M of a whole forward in which each unit goes its share of the way from what it is in this run."""
    other = naive.activations(lm.hf, lm.name, task.corrupted[example])
    edits = []
    for (kind, layer, index, _), share in zip(units, shares, strict=True):

        def move(a, kind=kind, layer=layer, index=index, share=share):
            rows, columns = naive.where(lm.hf, kind, index, None, a.shape[1])
            a = a.clone()
            a[rows, columns] += share * (other[naive.SITE_OF[kind]][layer][rows, columns] - a[rows, columns])
            return a

        edits.append((naive.SITE_OF[kind], layer, move))
    with torch.no_grad():
        return naive_metric(lm, task, example)(naive._run(lm.hf, lm.name, task.clean[example], edits)[-1])


@pytest.mark.cases(2)
@pytest.mark.parametrize("names", PAIRS, ids="+".join)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES, ("llama", "gpt_neox", "gemma2")))
def test_every_point_naively(tiny, task_of, agree, family, names):
    lm, task = tiny(family), task_of((6, 7), n=2)
    found = surface(lm, task, names, alphas=SHARES, betas=[0.5])
    assert found.values.shape == (5, 3, 2)
    units = [naive_units(resolve_units(lm, [name], 7))[0] for name in names]
    for example in range(2):
        clean = naive_point(lm, task, example, units, (0, 0))
        for a, alpha in enumerate(found.alphas):
            for b, beta in enumerate(found.betas):
                theirs = naive_point(lm, task, example, units, (alpha, beta)) - clean
                agree(found.values[a, b, example], theirs, found.gap)
    corners = [vc.exact(lm, task, units=[name], show_progress=False).values[:, 0] for name in names]
    agree(found.values[3, 0], corners[0], found.gap)
    agree(found.values[1, 2], corners[1], found.gap)


def test_interaction_pair_by_pair(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 7), n=4)
    found = surface(lm, task, ("a0.h1", "a1.h2"), alphas=[0, 1])
    (_, v), (u, both) = found.values
    rest = both - u - v
    share = rest.mean() / found.gap.mean()
    assert found.interaction.value == pytest.approx(float(share))
    spread = (rest - share * found.gap).std() / 2 / found.gap.mean().abs()
    assert found.interaction.stderr == pytest.approx(float(spread))
    assert str(found.interaction) in found.sentences[0] and "4 pairs" in found.sentences[0]
    assert found.kind in ("redundancy", "synergy") or not found.interaction.clear


def test_files_and_finished_pieces(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((6, 7), n=3)
    found = surface(lm, task, ("a0.h1", "m2"), alphas=[0.5], out=tmp_path)
    back = vc.open(found.save(tmp_path / "found.safetensors"))
    assert back.table().equals(found.table()) and repr(back) == repr(found)
    again = surface(lm, task, ("a0.h1", "m2"), alphas=[0.5], out=tmp_path)
    assert torch.equal(again.values, found.values)
    (tmp_path / "found.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(FileError):
        vc.open(tmp_path / "found.safetensors")


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_planned_is_what_it_takes(tiny, task_of, family):
    lm, task = tiny(family), task_of((6, 7), n=4)
    for names in (("a1.h1", "a2.h0"), ("m2", "m1")):
        planned = vc.causes.surface.work(lm, task, units=names, alphas=[0.5]).tokens()
        assert surface(lm, task, names, alphas=[0.5]).cost.token_layers == planned


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("a0.h1", "a0.h1"), "two different"),
        (("a0.h1",), "two different"),
        ("a0.h1", "a list of text"),
        (("a0.h1", "r1"), "r1"),
        (("a0.h1<q>", "a1.h1"), "a0.h1<q>"),
        (("a0.h1@3", "a1.h1"), "a0.h1@3"),
        (("a0", "a0.h1"), "part of the other"),
    ],
)
def test_units_without_a_surface(tiny, task_of, names, what):
    with pytest.raises(MethodError, match=what):
        surface(tiny("llama"), task_of(6), names)


def test_points_that_it_has_not(tiny, task_of):
    found = surface(tiny("llama"), task_of(6), ("a0.h1", "m2"), alphas=[0, 1])
    with pytest.raises(MethodError, match=r"0\.5"):
        found.at(0.5, 1)

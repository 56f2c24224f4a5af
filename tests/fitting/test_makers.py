"""Directions against their definitions, on activations that transformers itself gives."""

import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.errors import MethodError


@pytest.fixture(scope="module")
def lm():
    return as_model(tiny_models.make("llama"), "llama")


@pytest.fixture(scope="module")
def task(task_of):
    return task_of(7, n=12, seed=3)


def stream(lm, prompts, layer):
    with torch.no_grad():
        return torch.stack(
            [lm.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0] for ids in prompts]
        )


def test_principal_components(lm, task):
    dic = vc.fitting.pca(lm, task, "r1", k=4)
    prompts = list(dict.fromkeys((*task.clean, *task.corrupted)))
    x = stream(lm, prompts, 1)[:, 1:].flatten(0, 1)
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    for i in range(4):
        own, wanted = dic.weight[i], vectors[:, -1 - i]
        assert abs(float(own @ wanted)) == pytest.approx(1, abs=1e-9)
        assert float(dic.encode(x)[:, i].square().sum()) == pytest.approx(float(values[-1 - i]), rel=1e-9)
        assert own[own.abs().argmax()] > 0
    assert dic.labels == ("pc0", "pc1", "pc2", "pc3") and dic.reads.name == "r1"
    with pytest.raises(MethodError, match="25"):
        vc.fitting.pca(lm, task, "r1", k=25)


def test_a_full_basis_leaves_no_error(lm, task):
    dic = vc.fitting.pca(lm, task, "m1", k=24)
    x = torch.randn(5, 24, dtype=torch.float64)
    torch.testing.assert_close(dic.reconstruct(x), x, rtol=0, atol=1e-10)
    every = {"all": [f"d1.{label}" for label in dic.labels]}
    basis = vc.exact(lm, task, units=every, dictionary=dic, show_progress=False).values
    whole = vc.exact(lm, task, units=["m1"], show_progress=False).values
    torch.testing.assert_close(basis, whole, rtol=0, atol=1e-9)
    slopes = vc.attribute(lm, task, units="directions", dictionary=dic, show_progress=False).values.sum(1)
    torch.testing.assert_close(slopes, vc.attribute(lm, task, units=["m1"], show_progress=False).values[:, 0])
    assert float(whole.abs().min()) > 1e-6


def test_difference_of_means(lm, task):
    dic = vc.fitting.difference(lm, task, "r2")
    wanted = stream(lm, task.clean, 2)[:, -1].mean(0) - stream(lm, task.corrupted, 2)[:, -1].mean(0)
    torch.testing.assert_close(dic.weight[0], wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(dic.encode(wanted[None] * 3), torch.tensor([[3.0]], dtype=torch.float64))
    assert dic.labels == ("difference",)


def test_a_probe_stands_where_its_loss_has_no_slope(lm, task):
    dic = vc.fitting.probe(lm, task.clean, task.corrupted, "r2", penalty=0.7)
    x = torch.cat([stream(lm, side, 2)[:, -1] for side in (task.clean, task.corrupted)])
    sign = torch.tensor([1.0] * len(task) + [-1.0] * len(task), dtype=torch.float64)
    u = (x - x.mean(0)) / x.std()
    assert float(dic.weight[0].norm()) == pytest.approx(1)
    scores = u @ dic.weight[0]

    def slope(size, offset):  # of the loss along the direction's length, with w = size · direction
        return (-sign * torch.sigmoid(-sign * (size * scores + offset)) * scores).sum() + 0.7 * size

    def level(size, offset):
        return (-sign * torch.sigmoid(-sign * (size * scores + offset))).sum()

    size, offset = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    for _ in range(4000):
        size, offset = size - 0.02 * slope(size, offset), offset - 0.02 * level(size, offset)
    whole = torch.autograd.functional.jacobian(
        lambda w: torch.nn.functional.softplus(-sign * (u @ w + offset)).sum() + 0.35 * w.square().sum(),
        size * dic.weight[0],
    )
    assert float(whole.abs().max()) < 1e-5


def test_directions_take_what_they_span(lm):
    g = torch.Generator().manual_seed(0)
    a, b, x = (torch.randn(24, generator=g, dtype=torch.float64) for _ in range(3))
    dic = vc.directions(lm, {"truth": a, "tense": b}, "r1", name="mine")
    gram = torch.stack([a, b])
    wanted = torch.linalg.solve(gram @ gram.T, gram @ x)
    torch.testing.assert_close(dic.encode(x[None])[0], wanted)
    assert float((dic.error(x[None], x[None]) @ gram.T).abs().max()) < 1e-10  # the error is at right angles to both
    assert dic.labels == ("truth", "tense") and dic.name == "mine"
    assert vc.directions(lm, torch.stack([a, b]).numpy(), "r1").labels == ("v0", "v1")
    away = vc.directions(lm, gram, "r1", center=x - 2 * a)  # x − center is 2a, which is what comes back
    torch.testing.assert_close(away.encode(x[None])[0], torch.tensor([2.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(away.decode(away.encode(x[None]))[0], x)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ({}, "no direction"),
        ({"a": torch.ones(23)}, "23 wide"),
        ({"a": torch.zeros(24)}, "0 everywhere"),
        ({"a": torch.ones(24), "b": torch.ones(24) * 2}, "not independent"),
        ({"error": torch.ones(24)}, "no name of a feature"),
        (torch.ones(24), "matrix"),
        ({"a": "north"}, "a tensor of numbers"),
    ],
)
def test_what_is_no_direction_is_refused(lm, vectors, said):
    with pytest.raises(MethodError, match=said):
        vc.directions(lm, vectors, "r1")

"""Training finds features that are known; a dictionary is kept and read again as it was."""

import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.errors import FileError, MethodError
from veracausa.fitting.training import Plan, trained


def sparse(tokens=6000, features=20, width=12, active=2, seed=0):
    """Activations that are sums of a few of more features than there are dimensions."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(features, width, generator=g)
    rows /= rows.norm(dim=-1, keepdim=True)
    f = torch.zeros(tokens, features).scatter(
        -1,
        torch.rand(tokens, features, generator=g).topk(active).indices,
        torch.rand(tokens, active, generator=g) + 0.5,
    )
    return 3 * f @ rows + 7, rows


def test_known_features_are_found():
    x, rows = sparse()
    dic = trained(x, x, Plan(features=24, k=2, steps=600, rows=256, rate=5e-3), site="r1")
    cosines = torch.nn.functional.normalize(dic.weight, dim=-1) @ rows.T
    assert float(cosines.max(0).values.mean()) > 0.95
    error = dic.error(x, x)
    assert 1 - float(error.square().sum() / (x - x.mean(0)).square().sum()) > 0.9


def test_a_transcoder_learns_a_map():
    x, _ = sparse()
    y = torch.relu(x - 7) @ torch.randn(12, 12, generator=torch.Generator().manual_seed(4))
    dic = trained(x, y, Plan(features=48, k=6, steps=600, rows=256, rate=5e-3), site="n1", writes="m1")
    assert 1 - float(dic.error(x, y).square().sum() / (y - y.mean(0)).square().sum()) > 0.8
    assert dic.transcodes


def test_a_token_of_huge_norm_does_not_rule():
    """The first token of a text: all others are explained as if it were not there."""
    x, _ = sparse(tokens=3000)
    tall = x.clone()
    tall[::100] = 400.0
    plan = Plan(features=24, k=2, steps=400, rows=256, rate=5e-3)
    usual = torch.arange(len(x)) % 100 != 0
    explained = []
    for given in (x, tall):
        dic = trained(given, given, plan, site="r1")
        error = dic.error(x[usual], x[usual])
        explained.append(1 - float(error.square().sum() / (x - x.mean(0)).square().sum()))
    assert explained[1] > explained[0] - 0.1


def test_the_same_seed_gives_the_same():
    x, _ = sparse(tokens=600)
    one, two, other = (trained(x, x, Plan(16, 2, 20, 64, seed=s), site="r1").digest() for s in (0, 0, 1))
    assert one == two != other


def test_training_on_a_models_activations(tmp_path):
    lm = as_model(tiny_models.make("llama", dtype=torch.float32), "llama")
    g = torch.Generator().manual_seed(0)
    prompts = [tuple(row) for row in torch.randint(1, 60, (40, 12), generator=g).tolist()]
    dic = vc.fitting.train(lm, prompts, "n1", writes="m1", features=64, k=8, steps=400, rate=1e-2, name="own")
    assert dic.check(lm, prompts).variance_explained > 0.3
    path = dic.save(tmp_path / "own.safetensors")
    assert vc.dictionary(lm, path, name="own").digest() == dic.digest()
    half = vc.dictionary(lm, dic.save(tmp_path / "half.safetensors", dtype=torch.float16))
    torch.testing.assert_close(half.weight, dic.weight, rtol=1e-3, atol=1e-3)
    with pytest.raises(FileError, match=r"ends in .safetensors"):
        dic.save(tmp_path / "own.pt")


@pytest.mark.parametrize("more", [{"k": 0}, {"k": 99}, {"steps": 0}, {"rate": 0.0}])
def test_numbers_that_make_no_sense_are_refused(more):
    with pytest.raises(MethodError, match="k is 1 … features"):
        Plan(**{"features": 9, "k": 2, **more})

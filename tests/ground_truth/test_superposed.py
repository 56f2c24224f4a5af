"""The model of known features: its stream is what it says, and a trained dictionary finds them."""

import pytest
import torch

import veracausa as vc
from veracausa.dictionaries import Site
from veracausa.errors import MethodError
from veracausa.fitting.sites import activations
from veracausa.ground_truth.superposed import SITE


@pytest.fixture(scope="module")
def toy():
    return vc.ground_truth.load_superposed(dtype=torch.float64)


def test_the_stream_is_the_sum_of_its_features(toy):
    lm, truth = toy
    prompts = truth.prompts(20, seed=3)
    stream = activations(lm, prompts, [Site.of(SITE)])[Site.of(SITE)]
    torch.testing.assert_close(truth.values(prompts).flatten(0, 1) @ truth.directions, stream, rtol=0, atol=1e-6)


def test_directions_are_apart_but_more_than_dimensions(toy):
    _, truth = toy
    assert truth.features == 24 > truth.directions.shape[1]
    assert 0.2 < truth.interference < 0.45
    torch.testing.assert_close(truth.directions.norm(dim=-1), torch.ones(24, dtype=torch.float64), rtol=0, atol=1e-6)


def test_what_a_feature_does_is_known(toy):
    """Without its feature, the metric falls by f wₐ · (wₐ − w_b)."""
    lm, truth = toy
    task = truth.task(6)
    measured = lm.measure(task).clean
    w = truth.directions
    for i in range(len(task)):
        a, b = task.correct[i][0] // 3, task.incorrect[i][0] // 3
        f = truth.values([task.clean[i]])[0, -1]
        assert float(measured[i]) == pytest.approx(float(f @ w @ (w[a] - w[b])), abs=1e-6)
        without = f.clone()
        without[a] = 0
        fall = float(f @ w @ (w[a] - w[b]) - without @ w @ (w[a] - w[b]))
        assert fall == pytest.approx(float(w[a] @ (w[a] - w[b])), abs=1e-9)


@pytest.mark.slow
def test_a_trained_dictionary_finds_them(toy):
    lm, truth = toy
    dic = vc.fitting.train(lm, truth.prompts(3000), SITE, features=32, k=5, steps=1500, rate=5e-3, show_progress=False)
    found = vc.ground_truth.features_found(lm, dic, truth)
    assert found.found > 0.8 and found.mean_cosine > 0.9, found
    start = vc.fitting.train(lm, truth.prompts(300), SITE, features=32, k=5, steps=1, show_progress=False)
    nothing = vc.ground_truth.features_found(lm, start, truth)
    assert nothing.found < 0.2 and len(found.table()) == 24
    assert vc.ground_truth.features_found(lm, truth.dictionary(), truth).found == 1


def test_another_site_is_refused(toy):
    lm, truth = toy
    with pytest.raises(MethodError, match="are at r1"):
        vc.ground_truth.features_found(lm, vc.directions(lm, torch.eye(12), "r2"), truth)
    with pytest.raises(MethodError, match="at least 5 features"):
        vc.ground_truth.load_superposed(features=2)

"""Areas of a ranking against counting pairs, hand-made cases, and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from veracausa.statistics.ranking import auroc, average_precision


def drawn(seed, n, levels):
    """A random truth with both kinds in it, and scores with ties where there are few levels."""
    draw = np.random.default_rng(seed)
    true = draw.random(n) < 0.3
    true[:2] = True, False
    return true, draw.integers(levels, size=n) / 7


@pytest.mark.parametrize("n", [2, 3, 17, 300, 5000])
@pytest.mark.parametrize("levels", [1, 2, 10, 10**9])
def test_both_are_what_scikit_learn_computes(n, levels):
    for seed in range(10):
        true, scores = drawn(seed, n, levels)
        assert auroc(true, scores) == pytest.approx(roc_auc_score(true, scores), rel=1e-14, abs=0)
        assert average_precision(true, scores) == average_precision_score(true, scores)


@pytest.mark.parametrize("levels", [2, 10, 10**9])
def test_auroc_is_the_share_of_pairs_in_order(levels):
    true, scores = drawn(1, 60, levels)
    over = scores[true][:, None] - scores[~true]
    assert auroc(true, scores) == ((over > 0) + (over == 0) / 2).sum() / over.size


@pytest.mark.parametrize(
    ("true", "scores", "area", "average"),
    [
        ([True, False], [2.0, 1.0], 1.0, 1.0),
        ([True, False], [1.0, 2.0], 0.0, 0.5),
        ([True, False, True], [3.0, 2.0, 1.0], 0.5, (1 + 2 / 3) / 2),
        ([True, False, False, False], [1.0, 1.0, 1.0, 1.0], 0.5, 0.25),  # all equal: K / N
    ],
)
def test_by_hand(true, scores, area, average):
    assert auroc(np.array(true), np.array(scores)) == pytest.approx(area)
    assert average_precision(np.array(true), np.array(scores)) == pytest.approx(average)

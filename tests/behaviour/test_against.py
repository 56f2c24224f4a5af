"""Forecasts of what ablation does to accuracy: figures against their definitions, on answers made for the purpose."""

import numpy as np
import pytest
import torch
from scipy import stats

import veracausa as vc
from veracausa.behaviour.chosen import conditions
from veracausa.behaviour.results import AblationStudy
from veracausa.cost import Cost
from veracausa.errors import MethodError
from veracausa.scores.scores import Scores

NAMES = ("a0.h0", "a0.h1", "a0.h2", "a1.h0", "a1.h3")
#: Prompts of 40 that each unit's ablation loses and gains; the first two and the last change accuracy significantly.
LOST, GAINED = (20, 12, 3, 0, 0), (0, 0, 2, 0, 12)
#: Each method's scores, in shares of the gap.
SCORE = (-0.5, -0.2, -0.05, -0.004, 0.002)


@pytest.fixture
def study(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, 2)
    real = vc.behaviour.ablation_study(lm, task, units=NAMES, ablations=["zero"], together=False, show_progress=False)
    right = torch.zeros(1 + len(NAMES), 40, dtype=torch.bool)
    right[:, :25] = True
    for i, (lost, gained) in enumerate(zip(LOST, GAINED, strict=True), 1):
        right[i, :lost] = False
        right[i, 25 : 25 + gained] = True
    return AblationStudy(
        conditions(NAMES, ["zero"], False), torch.zeros(6, 40), torch.zeros(6, 40, 1), right, 0.05, real.settings,
        real.model, real.task, Cost(),
    )  # fmt: skip


@pytest.fixture
def scores(tiny, task_of):
    """Scores of all heads, with `SCORE` for the study's units."""
    lm, task = tiny("llama"), task_of(6, 2)

    def build(values=SCORE, signed=True) -> Scores:
        atp = vc.attribute(lm, task, show_progress=False)
        for name, value in zip(NAMES, values, strict=True):
            atp.values[:, atp.units.find(name)] = value * atp.gap
        object.__setattr__(atp, "signed", signed)
        return atp

    return build


def test_the_outcomes_are_the_counts(study):
    for name, lost, gained in zip(NAMES, LOST, GAINED, strict=True):
        one = study[name, "zero"]
        assert (one.lost, one.gained, one.right) == (lost, gained, 25 - lost + gained)
        assert one.accuracy_change == pytest.approx((gained - lost) / 40)
    assert [one.condition.name for one in study.significant] == ["a0.h0", "a0.h1", "a1.h3"]


def test_figures_are_their_definitions(study, scores):
    found = study.against(scores(), ablation="zero")
    change = (np.array(GAINED) - np.array(LOST)) / 40
    one = found["atp"]
    assert found.names == NAMES and found.change.tolist() == pytest.approx(change.tolist())
    assert one.r == pytest.approx(np.corrcoef(SCORE, change)[0, 1])
    assert one.spearman == pytest.approx(stats.spearmanr(SCORE, change).statistic)
    # over 1% of the gap: a0.h0, a0.h1, a0.h2, of which the first two changed accuracy, of three that did
    assert (one.forecast, one.hits) == (3, 2)
    assert one.precision == pytest.approx(2 / 3) and one.recall == pytest.approx(2 / 3)
    # by |score| the hits are first, second and fifth: (1/1 + 2/2 + 3/5) / 3
    assert one.average_precision == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert len(found.table()) == 1 and len(found.sentences) == 2


def test_k_strongest_and_magnitudes(study, scores):
    found = study.against(scores(signed=False), ablation="zero", k=1)
    one = found["atp"]
    assert (one.forecast, one.precision, one.recall) == (1, 1.0, pytest.approx(1 / 3))
    change = np.abs(np.array(GAINED) - np.array(LOST)) / 40
    assert one.r == pytest.approx(np.corrcoef(np.abs(SCORE), change)[0, 1])


def test_exact_effects_of_another_ablation_are_told_apart(study, tiny, task_of):
    lm, task = tiny("llama"), task_of(6, 2)
    both = [vc.exact(lm, task, ablation=ablation, show_progress=False) for ablation in ("counterfactual", "zero")]
    found = study.against(*both, ablation="zero")
    assert [one.method for one in found.forecasts] == ["exact", "exact (zero ablation)"]


def test_scores_that_do_not_correspond_are_refused(study, scores, tiny, task_of):
    with pytest.raises(MethodError, match="the study has zero"):
        study.against(scores(), ablation="mean")
    with pytest.raises(MethodError, match="Pass the scores"):
        study.against(ablation="zero")
    with pytest.raises(MethodError, match="k=9"):
        study.against(scores(), ablation="zero", k=9)
    other = vc.attribute(tiny("llama"), task_of(6, 2, name="other"), show_progress=False)
    with pytest.raises(MethodError, match="do not correspond"):
        study.against(other, ablation="zero")
    mlps = vc.attribute(tiny("llama"), task_of(6, 2), units="mlps", show_progress=False)
    with pytest.raises(MethodError, match="Only 0"):
        study.against(mlps, ablation="zero")

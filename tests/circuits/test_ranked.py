"""Rankings of edges and nodes: which model they are about is asked before anything runs."""

import pytest
import tiny_models
from bridges import as_model

import veracausa as vc
from veracausa.errors import MethodError


def test_scores_of_another_model_rank_nothing_here(task_of):
    here, there = (as_model(tiny_models.make("llama", seed=seed), "llama") for seed in (1, 2))
    task = task_of(6, n=2)
    scores = vc.attribute(there, task, units="edges", method="eap", show_progress=False)
    for call in (
        lambda: vc.curve(here, task, scores, show_progress=False),
        lambda: vc.circuits.cause_curve(here, task, scores, show_progress=False),
        lambda: vc.circuits.specificity(here, {"a": task}, {"a": scores}, n=5, show_progress=False),
        lambda: vc.circuits.scoreboard(here, task, {"eap": scores}, parts=["curve"], show_progress=False),
    ):
        with pytest.raises(MethodError, match="now has other weights"):
            call()

"""What stages of a study hand on is what the others would have computed."""

from __future__ import annotations

import torch

import veracausa as vc
from veracausa.studies.shared import first_pairs


def test_the_first_pairs_of_scores_are_the_scores_of_the_first_pairs(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=5)
    few = task[:3]
    for verb, how in ((vc.exact, {}), (vc.attribute, {"method": "ig", "nodes": 3})):
        shared = first_pairs(verb(lm, task, show_progress=False, **how), task, few)
        alone = verb(lm, few, show_progress=False, **how)
        torch.testing.assert_close(shared.values, alone.values, rtol=0, atol=1e-9)
        torch.testing.assert_close(shared.gap, alone.gap, rtol=0, atol=1e-9)
        assert shared.task == alone.task and shared.cost.full == alone.cost.full
        if alone.completeness is not None:
            torch.testing.assert_close(shared.completeness.claimed, alone.completeness.claimed, rtol=0, atol=1e-9)

"""A study's chapter of which parts feed which: the public calls on two halves of the pairs, forecast and kept."""

import pytest
import torch

import veracausa as vc
from veracausa.errors import ArchitectureError, MethodError
from veracausa.studies.levels import LEVELS
from veracausa.studies.study import study

QUIET = {"show_progress": False}
LEVEL = LEVELS["quick"]


def test_edges_are_scored_on_one_half_and_run_on_the_other(tiny, task_of, tmp_path):
    lm, task = tiny("llama", dtype=torch.float32), task_of(6, n=4)
    section = study.work(lm, task, level=LEVEL, circuit=True).sections(tmp_path)[0]
    assert not study.work(lm, task, level=LEVEL).sections()[0].feeding.stages()
    scoring, running = section.feeding.stages()
    costs = [scoring.run(), running.run()]
    scores, curve = section.section().findings
    chosen, other = task.split(0.5, 0)
    alone = vc.attribute(lm, chosen, units="edges", method="eap-ig", **QUIET)
    torch.testing.assert_close(scores.values, alone.values, rtol=1e-4, atol=1e-6)  # float32, other batches
    again = vc.curve(lm, other, scores, **QUIET)
    assert [one.f for one in curve.absolute] == pytest.approx([one.f for one in again.absolute], rel=1e-4, abs=1e-6)
    assert scoring.step.token_layers == costs[0].token_layers == alone.cost.token_layers
    assert costs[1].token_layers <= running.step.token_layers  # sizes that are alike are run once
    assert [path.name for path in tmp_path.glob("eap-ig-edges-*.safetensors")]  # so that a resumed study reads it


def test_the_strongest_edges_at_positions_sum_to_their_scores(tiny, task_of, tmp_path, monkeypatch):
    monkeypatch.setattr("veracausa.studies.feeding.PLACED", 30)
    lm, task = tiny("llama", dtype=torch.float32), task_of([6, 8], n=4)
    with pytest.raises(MethodError, match="circuit=True"):
        study.work(lm, task, level=LEVEL, positions=True)
    section = study.work(lm, task, level=LEVEL, circuit=True, positions=True).sections(tmp_path)[0]
    scoring, _, placing = section.feeding.stages()
    scoring.run()
    assert placing.run().token_layers == placing.step.token_layers  # whichever edges they are
    scores, placed = section.section().findings
    strongest = scores.ranking()[:30]
    assert [name.split("@")[0] for name in placed.units.names[::8]] == scores.units[strongest].names
    torch.testing.assert_close(  # float32, sums over 8 positions; NaN where a prompt has none
        placed.values.nan_to_num().reshape(len(placed.values), 30, 8).sum(-1),
        scores.values[:, strongest],
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_model_without_edges_is_refused_before_anything_is_run(tiny, task_of):
    lm = tiny("gemma4-own-inputs")
    with pytest.raises(ArchitectureError):
        study(lm, task_of(6, n=2), level=LEVEL, circuit=True, **QUIET)

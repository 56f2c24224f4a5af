"""Contract 12 on models that change their behaviour with the prompt's length."""

import pytest
import tiny_models
from bridges import as_model
from long_models import long_model

from veracausa.contracts.long import changing_lengths, long_prompts_equal_bare_runs, reach
from veracausa.contracts.pairs import pair_for


@pytest.mark.parametrize("kind", ["longrope", "dynamic", "gemma3 longrope"])
def test_long_prompts_equal_bare_runs(kind):
    lm = long_model(kind)
    assert min(changing_lengths(lm).values()) < 48 and reach(lm) == "48 tokens"
    assert long_prompts_equal_bare_runs(lm, pair_for(lm)) < 1e-9 * float(lm.measure(pair_for(lm)).gap.abs())


def test_lengths_that_are_not_reached_are_said():
    lm = as_model(tiny_models.make("mistral", seed=1, sliding_window=4096), "mistral")
    assert changing_lengths(lm) == {"sliding_window": 4096}
    assert reach(lm) == "48 tokens, not beyond sliding_window 4,096"


def test_a_prefix_that_is_shared_all_the_same_fails(monkeypatch):
    """What the guard of every call would refuse is put to the contract alone: it judges by itself."""
    monkeypatch.setattr("veracausa.engine.sharing._same_alone", lambda *_: True)
    monkeypatch.setattr("veracausa.engine.measure.require_whole", lambda *_: None)
    lm = long_model("longrope")
    assert long_prompts_equal_bare_runs(lm, pair_for(lm)) > 1e-3 * float(lm.measure(pair_for(lm)).gap.abs())

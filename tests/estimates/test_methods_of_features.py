"""Which estimates features have: the guide's table against what runs, and what is refused in words."""

import re
from pathlib import Path

import pytest
import torch
from laid_features import asked, dictionary

import veracausa as vc
from veracausa.errors import MethodError
from veracausa.estimates.presets import PRESETS
from veracausa.scores.estimands import BASELINES

GUIDE = Path(__file__).parents[2] / "docs" / "features.md"
ROW = re.compile(r"^\| ((?:`[\w-]+`(?:, )?)+) \| (.*) \| ([\w, –]+) \|$", re.M)


def told() -> dict[str, set[str]]:
    """Method → the baselines that the guide's table names."""
    rows = [(re.findall(r"`([\w-]+)`", row[1]), row[3]) for row in ROW.finditer(GUIDE.read_text(encoding="utf-8"))]
    return {name: {*said.split(", ")} - {"–"} for names, said in rows for name in names if name in PRESETS}


@pytest.fixture(scope="module")
def laid():
    _, lm, _, task = asked("llama", count=3)
    return lm.reading(*(dictionary(lm.width, site, "relu")[0] for site in ("r1", "r2.mid"))), task


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", PRESETS)
def test_the_guide_names_what_runs_and_all_else_is_refused(laid, method):
    lm, task = laid
    names = vc.attribute(lm, task, units="features", show_progress=False).units.names
    assert set(told()) == set(PRESETS)
    for baseline in BASELINES:
        how = {"method": method, "baseline": baseline, "nodes": 2, "show_progress": False}
        if baseline in told()[method]:
            scores = vc.attribute(lm, task, units="features", **how)
            assert scores.units.names == names and torch.isfinite(scores.values).all() and scores.values.any()
        else:
            with pytest.raises(MethodError, match=r"baselines are|other prompt"):
                vc.attribute(lm, task, units="features", **how)

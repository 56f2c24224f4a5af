"""A study's chapter of which layers talk to each other: exact interactions of a chain, forecast, kept, on its page."""

import pytest
import torch

import veracausa as vc
from veracausa.errors import VeracausaError
from veracausa.interplay.interacting import InteractionsWork
from veracausa.studies.levels import LEVELS
from veracausa.studies.study import study

QUIET = {"show_progress": False}
LEVEL = LEVELS["quick"].but(prompts=0, explained=1)
CHAIN = ["heads:0", "heads:1", "neurons:2"]


@pytest.mark.slow
def test_a_chain_has_its_chapter(tiny, task_of, tmp_path, monkeypatch):
    lm, task = tiny("llama", dtype=torch.float32), task_of(6, n=4)
    found = study(lm, task, level=LEVEL, interactions=CHAIN, out=tmp_path / "out", **QUIET)
    modules, *talks = [one for one in found.sections[0].findings if type(one).__name__ in ("Modules", "Interactions")]
    alone = [vc.interactions(lm, task, *pair, method="exact", **QUIET) for pair in (CHAIN[:2], CHAIN[1:])]
    for one, other in zip(talks, alone, strict=True):
        torch.testing.assert_close(one.squares, other.squares, rtol=1e-4, atol=1e-7)  # float32, other batches
    assert [one.split()[1:] for one in modules.layers] == [["heads", "of", "layer", "0"], ["heads", "of", "layer", "1"],
                                                           ["neurons", "of", "layer", "2"]]  # fmt: skip
    assert modules.settings["trust"] == "of exact interactions"
    plan, done = next(steps for steps in found.steps if "interactions" in steps[0].what)
    assert plan.token_layers == done.token_layers == sum(one.cost.token_layers for one in alone)
    page = found.save(tmp_path / "out").read_text()
    assert "Which layers talk to each other" in page and "How much the average hides" in page
    assert vc.open(tmp_path / "out").sections[0].findings[-1].table().equals(talks[-1].table())
    run = []
    row = InteractionsWork._row
    monkeypatch.setattr(InteractionsWork, "_row", lambda work, i, kept: run.append(i) or row(work, i, kept))
    study(lm, task, level=LEVEL, interactions=CHAIN, out=tmp_path / "out", **QUIET)
    assert not run  # finished pieces are read


def test_a_chain_that_means_nothing_is_refused_before_anything_is_run(tiny, task_of):
    lm, task = tiny("llama", dtype=torch.float32), task_of(6, n=2)
    for asked, said in (("heads:0", "one site"), (["heads:1", "heads:0"], "come behind"), ("queries", "not queries")):
        with pytest.raises(VeracausaError, match=said):
            study(lm, task, level=LEVEL, interactions=asked, **QUIET)
    every = study.work(lm, task, level=LEVEL, interactions="heads")
    assert every.chain == ("heads:0", "heads:1", "heads:2")

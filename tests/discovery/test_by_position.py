"""A circuit's edges at every position: their sums are the edges' own scores; files, resuming, refusals, forecast."""

from __future__ import annotations

import pytest
import torch

import veracausa as vc
from veracausa.discovery.steps import Scoring
from veracausa.errors import FileError, MethodError
from veracausa.report.instrument.circuits import discovery_contents
from veracausa.report.packing import Columns
from veracausa.storage.files import write_text

OPTIONS = {"edges": 30, "sizes": (1.0,), "top": 2, "sample": 2, "show_progress": False}


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def task(task_of):
    return task_of((5, 7), n=4)


@pytest.fixture(scope="module")
def found(lm, task):
    return vc.discover(lm, task, method="eap", positions=True, **OPTIONS)


def sums(scores) -> dict[str, torch.Tensor]:
    """Edge → its scores, pair by pair, summed over positions."""
    total: dict[str, torch.Tensor] = {}
    for name, column in zip(scores.units.names, scores.values.double().nan_to_num().T, strict=True):
        stem = name.partition("@")[0]
        total[stem] = total.get(stem, 0) + column
    return total


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("family", "method"), [("llama", "eap"), ("gpt2", "eap-gp"), ("gemma3", "relp"), ("llama", "ifr")]
)
def test_over_positions_they_sum_to_the_edges_own_scores(family, method, tiny, task_of):
    lm = tiny(family)
    scoring = Scoring.of(lm, task_of((5, 7), n=4), method, 30, 0)
    scores = scoring.run(None, show_progress=False)
    edges = scores.units[scores.ranking()[:30]]
    whole = dict(zip(scores.units.names, scores.values.double().T, strict=True))
    total = sums(scoring.placed(edges).run(show_progress=False))
    for name, column in total.items():
        # both are float32 columns of float64 runs
        torch.testing.assert_close(column, whole[name], atol=1e-6, rtol=1e-5)
    assert set(total) == set(edges.names)


def test_they_come_back_from_the_folder_and_can_be_asked_for_later(found, lm, task, tmp_path, monkeypatch):
    monkeypatch.setattr("veracausa.report.pages.discovery.write_page", lambda found, path: write_text(path, "a page"))
    vc.discover(lm, task, method="eap", out=tmp_path, **OPTIONS)
    later = vc.discover(lm, task, method="eap", positions=True, out=tmp_path, **OPTIONS)
    torch.testing.assert_close(later.by_position.values, found.by_position.values, equal_nan=True)
    later.save(tmp_path)
    read = vc.open(tmp_path)
    torch.testing.assert_close(read.by_position.values, found.by_position.values, atol=0, rtol=0, equal_nan=True)
    with pytest.raises(FileError, match="positions: True there"):
        vc.discover(lm, task, method="eap", out=tmp_path, **OPTIONS)
    (tmp_path / "positions.safetensors").unlink()
    with pytest.raises(FileError, match=r"positions\.safetensors"):
        vc.open(tmp_path)


def test_they_are_forecast_and_counted(found, lm, task):
    assert set(sums(found.by_position)) == set(found.circuit.names)
    forecast, done = (next(s for s in steps if "at every position" in s.what) for steps in (found.plan, found.steps))
    assert found.by_position.cost.token_layers == done.token_layers <= forecast.token_layers
    assert found.cost.token_layers >= found.scores.cost.token_layers + found.by_position.cost.token_layers
    work = vc.discover.work(lm, task, method="eap", positions=True, edges=30)
    assert any("30 edges at every position" in step.what for step in work.steps())


@pytest.mark.parametrize("method", ["exact", "iterated", "learned", "qk-exact", vc.Method(rule="qk-exact")])
def test_methods_whose_scores_are_no_sums_are_refused(method, lm, task):
    with pytest.raises(MethodError, match="no sums over positions"):
        vc.discover(lm, task, method=method, positions=True, **OPTIONS)


def test_the_page_names_columns_by_tokens_only_where_all_prompts_are_as_long(found, lm, task_of):
    def told(discovery):
        return discovery_contents(discovery, Columns())["sections"][0]["circuits"][0]["positions"]

    assert told(found)["named"] is False and "pooled by their index" in told(found)["caution"]
    even = vc.discover(lm, task_of((6,), n=4), method="eap", positions=True, **OPTIONS)
    assert told(even)["named"] is True and told(even)["caution"] == ""
    assert [text for _, text in told(even)["axes"]["columns"]] == [t.strip() for t in even.pairs.tokens(0)[0]]

"""A study with a dictionary on its model: its panel, how well the dictionary fits, where features fire, its page."""

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.dictionaries import Dictionary, Encoder
from veracausa.studies.levels import LEVELS
from veracausa.studies.study import study

QUIET = {"show_progress": False}
LEVEL = LEVELS["quick"].but(features=8, sample=4, prompts=0)


def _laid(lm, size=40, site="r1"):
    g = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    return Dictionary.of(Encoder(draw(lm.width, size), draw(size), "topk", k=9), draw(size, lm.width) / 9, site=site)


@pytest.fixture(scope="module")
def made(tiny, task_of):
    lm = tiny("llama", dtype=torch.float32)
    laid = lm.reading(_laid(lm), _laid(lm, 20, "m2"))
    return laid, task_of(6, n=3), study(laid, task_of(6, n=3), level=LEVEL, **QUIET)


def test_the_panel_holds_the_error_the_strongest_and_a_sample(made):
    lm, task, found = made
    panel = next(one for one in found.sections[0].panels if one.kind == "features")
    assert panel.sampled == 4 and len(panel.exact) == 12
    assert set(panel.exact.units.names[:2]) == {"f1.error", "f2.error"}
    alone = vc.exact(lm, task, units=panel.exact.units.names, **QUIET)
    torch.testing.assert_close(panel.exact.values, alone.values, rtol=0, atol=1e-5)
    every = vc.attribute(lm, task, units="features", **QUIET)
    assert torch.equal(panel.estimates[0].values, every.values) and panel.labels[:2] == ["atp", "ig"]
    own = ~np.isin(panel.agreements[0].names, ["f1.error", "f2.error"])
    r = np.corrcoef(panel.agreements[0].exact[own], panel.agreements[0].estimate[own])[0, 1]
    said = next(one for one in found.summary if one.startswith("Features"))
    assert f"over the features alone r is atp {r:.3f}".replace("-", "−") in said


def test_a_dictionary_fits_in_a_study_as_it_does_alone(made):
    """Recordings are shared within a study, and the gap under the reconstruction must not be one of them."""
    lm, task, found = made
    told = [one for one in found.sections[0].findings if isinstance(one, vc.fitting.Quality)]
    alone = [code.dictionary.check(lm, task) for code in lm.decoder.codes.values()]
    assert [one.site for one in told] == ["r1", "m2"]
    for one, other, code in zip(told, alone, lm.decoder.codes.values(), strict=True):
        assert one.figures() == other.figures() and abs(one.gap_kept - one.gap) > 0.01 * abs(one.gap)
        assert one.digest == code.digest


@pytest.mark.slow
def test_where_they_fire_and_the_page(made, tmp_path):
    found = made[2]
    fires = next(one for one in found.sections[0].findings if isinstance(one, vc.reading.Activations))
    assert fires.units.names[:2] == ["f1.error", "f2.error"] and len(fires.units) == 12
    page = found.save(tmp_path / "study").read_text()
    for title in ("How well the dictionary fits: r1", "How well the dictionary fits: m2", "Where the strongest"):
        assert title in page
    back = vc.open(tmp_path / "study")
    assert [type(one) for one in back.sections[0].findings] == [type(one) for one in found.sections[0].findings]
    assert "f1.error" in (tmp_path / "study" / "tables").joinpath(
        next(p.name for p in (tmp_path / "study" / "tables").iterdir() if p.name.endswith("features-units.csv"))
    ).read_text()  # fmt: skip


def test_quality_is_a_result(made, tmp_path):
    lm, task, _ = made
    code = next(iter(lm.decoder.codes.values()))
    found = code.dictionary.check(lm, task)
    back = vc.open(found.save(tmp_path / "q.safetensors"))
    assert back.figures() == found.figures() and back.sentences == found.sentences and isinstance(found, vc.Result)
    assert found.chart().to_dict() and found.cost.token_layers > 0
    texts = code.dictionary.check(lm, [task.clean[0]])
    assert texts.gap is None and "1 text" in texts.describe()
    assert vc.open(texts.save(tmp_path / "t.safetensors")).gap is None


def test_forecast_of_a_study_with_a_dictionary_holds(made):
    for plan, done in made[2].steps:
        bound = plan.most or plan.token_layers
        assert done.token_layers <= 1.01 * bound, plan.what

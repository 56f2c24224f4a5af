"""The first screen's sentences are true of every study: strong effects, noise, one pair, none at all, mixers."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.quality.curve import Curve
from veracausa.estimates.attribute import attribute
from veracausa.report.instrument.findings import asked, findings, matters, question, stands_out, trust, trusted
from veracausa.report.instrument.marking import TERMS, marked
from veracausa.report.instrument.naming import percent, quoted
from veracausa.scores.scores import Scores
from veracausa.studies.results import Panel, Section


@pytest.fixture
def several(study):
    """Four pairs, whose gap is made 1 so that effects are shares of it."""
    section = study.sections[1]
    return dataclasses.replace(section, panels=(with_effects(section.panels[0], section.panels[0].exact.values),))


def with_effects(panel: Panel, values: torch.Tensor, estimates: torch.Tensor | None = None) -> Panel:
    """The panel with these exact effects (and estimates) over a gap of 1 in every pair."""
    n = len(values)
    ends = {"clean": torch.ones(n), "corrupted": torch.zeros(n)}
    exact = dataclasses.replace(panel.exact, values=values.float(), **ends)
    rated = values if estimates is None else estimates
    atp = dataclasses.replace(panel.estimates[0], values=rated.float(), **ends)
    return dataclasses.replace(panel, exact=exact, estimates=(atp,))


def effects(panel, *means: float, pairs: int = 8, spread: float = 0.0) -> torch.Tensor:
    """Pairs × units: the first units have these means, the others 0, all with noise."""
    own = (
        np.random.default_rng(0).normal(0, spread, (pairs, len(panel.exact)))
        if spread
        else np.zeros((pairs, len(panel.exact)))
    )
    own[:, : len(means)] += np.array(means)
    return torch.from_numpy(own)


def test_a_strong_unit_is_named_with_its_size_and_its_sign(several):
    panel = several.panels[0]
    names = panel.exact.units.names
    said = matters(with_effects(panel, effects(panel, -0.44, 0.2, 0.005, spread=1e-3)))
    assert f"({names[0]}) matters most: replaced, it alone lowers the model’s preference for the right answer" in said
    assert "right answer by 44 % of the gap" in said
    assert f"2 of {len(names)} heads change it by more than 1 % of the gap; after it comes {names[1]} (+20 %)." in said
    assert "A minus supports the answer, a plus works against it." in said
    assert "chance" not in said
    against = matters(with_effects(panel, effects(panel, 0.44, spread=1e-3)))
    assert "raises the model’s preference for the right answer by 44 %" in against


def test_noise_is_called_noise(several):
    panel = several.panels[0]
    noise = with_effects(panel, effects(panel, spread=0.3))
    assert not stands_out(noise.exact).any()
    assert "These 8 pairs do not tell that from chance (standard error" in matters(noise)
    assert "Take more pairs" in findings(dataclasses.replace(several, panels=(noise,)), "m").said[-1][1]
    clear = with_effects(panel, effects(panel, -0.5, spread=0.01))
    assert stands_out(clear.exact)[0]
    assert "Take more pairs" not in findings(dataclasses.replace(several, panels=(clear,)), "m").said[2][1]


def test_holm_keeps_false_alarms_of_all_units_together_under_the_level(several):
    panel = several.panels[0]
    draws = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        noise = torch.from_numpy(draws.normal(0, 1, (8, len(panel.exact))))
        alarms += bool(stands_out(with_effects(panel, noise).exact).any())
    assert alarms <= 18  # 5% of 200, and three standard deviations of a binomial


def test_small_effects_none_and_one_pair(several):
    panel = several.panels[0]
    small = matters(with_effects(panel, effects(panel, -0.004, spread=1e-5)))
    assert small.startswith("No single head matters: the largest effect") and "−0.4 % of the gap" in small
    assert matters(with_effects(panel, effects(panel))) == f"None of the {len(panel.exact)} heads has any effect."
    alone = with_effects(panel, effects(panel, -0.44, pairs=1))
    assert "One pair cannot say" in matters(alone) and not stands_out(alone.exact).any()
    single = findings(dataclasses.replace(several, panels=(alone,)), "m")
    assert "Ask the same of more pairs" in single.said[-1][1]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda x: x, "For a first look, yes."),
        (lambda x: -x, "No."),
        (lambda x: torch.zeros_like(x), "That cannot be told"),
    ],
)
def test_the_verdict_on_an_estimate_follows_its_agreement(several, change, verdict):
    panel = several.panels[0]
    true = effects(panel, -0.4, 0.3, -0.2, 0.1, -0.05, spread=1e-3)
    assert trusted(with_effects(panel, true, change(true))).startswith(verdict)


def test_wrong_signs_and_the_farthest_unit_are_told(several):
    panel = several.panels[0]
    true = effects(panel, -0.4, 0.3, -0.2, 0.1, -0.05)
    wrong = true.clone()
    wrong[:, 1] = -0.02
    rated = with_effects(panel, true, wrong)
    agreement = rated.agreements[0]
    text = trusted(rated)
    assert agreement.sign_errors == 1 and trust(agreement) != "good"
    assert "of 5 effects over 1 % of the gap 1 has the wrong sign" in text
    assert f"farthest off on {panel.exact.units.names[1]}, where it says −2.0 % and +30 % is true" in text


def test_nothing_strong_and_nothing_estimated(several):
    panel = several.panels[0]
    weak = with_effects(panel, effects(panel, 0.001, spread=1e-5))
    assert trusted(weak).startswith("There is little to be right about")
    assert trusted(dataclasses.replace(weak, estimates=())).startswith("Nothing was estimated")


def test_an_inverted_gap_is_said_and_no_share_is(several):
    panel = several.panels[0]
    values = effects(panel, -0.5, spread=0.01)
    turned = with_effects(panel, values)
    ends = {"clean": torch.zeros(8), "corrupted": torch.ones(8)}
    turned = dataclasses.replace(
        turned, exact=dataclasses.replace(turned.exact, **ends),
        estimates=(dataclasses.replace(turned.estimates[0], **ends),),
    )  # fmt: skip
    said = dict(findings(dataclasses.replace(several, panels=(turned,)), "m").said)
    assert "on the metric" in said["What matters"] and "gap is inverted" in said["What matters"]
    assert "is true" not in said["Can the cheap estimate be trusted?"]


def test_the_question_names_model_parts_and_answers(study):
    first = study.sections[0]
    assert question(first, "tiny").startswith("Which heads make tiny say “")
    assert asked(first).startswith("A pair of prompts that differ in the marked words; the right answer to the first")
    mlps = dataclasses.replace(first, panels=first.panels[1:])
    assert question(mlps, "tiny").startswith("Which MLPs make tiny say “")
    silent = dataclasses.replace(first.task, correct=((),), incorrect=((),), metric="entropy")
    assert question(dataclasses.replace(first, task=silent), "tiny") == "Which heads decide what tiny says next?"


def test_a_model_without_heads_has_its_mixers_in_the_sentences(tiny, task_of):
    lm = tiny("mamba")
    task = task_of(7, n=3)
    exact = vc.exact(lm, task, units="mixers", show_progress=False)
    estimate = attribute(lm, task, units="mixers", method="atp", show_progress=False)
    section = Section("Mixers", task, lm.measure(task), (Panel("mixers", exact, (estimate,)),))
    found = findings(section, "tiny")
    assert found.question.startswith("Which mixers make tiny say")
    said = " ".join(text for _, text in found.said)
    assert re.search(r"[Tt]he mixer of layer \d \(x\d\)", said) and "head" not in said


def test_percent_and_quotes():
    assert [percent(x) for x in (-0.4404, 0.0042, 1e-6, 0.0, 12.5)] == [
        "−44 %",
        "+0.4 %",
        "under 0.1 %",
        "0 %",
        "+1,250 %",
    ]
    assert [quoted(x) for x in (" Mary", "\n", " ")] == ["“Mary”", "“↵”", "“␣”"]


def test_terms_and_units_become_buttons_and_nothing_else_becomes_markup():
    text = "Head <b> (a9.h6) and a9.h66: heads, heads & `vc.exact(lm)`; the gap."
    done: set[str] = set()
    html = str(marked(text, {"a9.h6"}, done))
    assert done == {"head", "gap"} and "popover" not in str(marked("Heads and a head; the gap.", (), done))
    assert html.count('data-unit="a9.h6"') == 1 and "&lt;b&gt;" in html and "<code>vc.exact(lm)</code>" in html
    assert html.count('popovertarget="meaning-head"') == 1 and html.count('id="meaning-gap"') == 1
    assert '">Head</button>' in html  # the first mention, whatever letter it begins with
    shown = re.sub(r'<span class="meaning".*?</span>', "", html)
    assert re.sub(r"<[^>]+>", "", shown).replace("&lt;", "<").replace("&gt;", ">").replace(
        "&amp;", "&"
    ) == text.replace("`", "")
    assert all(len(meaning) > 40 for meaning in TERMS.values())
    for term in TERMS:
        for written in (term, term.capitalize(), f"{term.removesuffix('s')}s"):
            done = set()
            assert f">{written}</button>" in str(marked(f"A {written}.", (), done)) and done == {term}


def test_how_few_connections_keep_the_behaviour_is_read_off_what_was_run(study):
    section = study.sections[1]
    scores, curve = (next(one for one in section.findings if type(one) is kind) for kind in (Scores, Curve))
    said = dict(findings(section, "m").said)
    kept = next(one for one in curve.absolute if one.f >= 0.8)
    wanted = f"has the {kept.edges:,} strongest of {len(scores):,} edges (connections between parts): it keeps "
    assert f"{wanted}{percent(kept.f)[1:]}" in said["How few connections do it?"]
    assert "looks for a circuit" not in said["What to do next"]
    none = dataclasses.replace(section, findings=(scores,))
    assert "How few connections do it?" not in dict(findings(none, "m").said)
    fewer = dataclasses.replace(curve, sizes=curve.sizes[:1], signed=curve.signed[:1], absolute=curve.absolute[:1])
    assert fewer.absolute[0].f < 0.8
    lost = dict(findings(dataclasses.replace(section, findings=(scores, fewer)), "m").said)
    assert "No circuit that was run keeps 80 % of the gap" in lost["How few connections do it?"]

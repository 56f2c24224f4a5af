"""A study end to end on a tiny model: sampled neurons, resuming from pieces, and sentences that match the numbers."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model
from typer.main import get_command

import veracausa as vc
from veracausa.cli.app import app
from veracausa.errors import ArchitectureError, FileError
from veracausa.studies.choosing import choose_some
from veracausa.studies.study import study


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama", dtype=torch.float32)


@pytest.fixture(scope="module")
def page(lm, task_of):
    return study(lm, [task_of(6, name="tiny-published"), task_of((5, 6), n=3)], neurons=20, sample=15, nodes=3,
                 show_progress=False)  # fmt: skip


def test_sections_and_panels(page):
    assert [len(section.task) for section in page.sections] == [1, 3]
    for section in page.sections:
        assert [panel.kind for panel in section.panels] == ["heads", "mlps", "neurons"]
        heads, mlps, neurons = section.panels
        assert len(heads.exact) == 12 and len(mlps.exact) == 3
        assert len(neurons.exact) == 35 and neurons.sampled == 15 and len(neurons.estimates[0]) == 120
        assert heads.labels[:2] == ["atp", "ig"] and neurons.labels[:2] == ["atp", "ig"]
    assert page.sections[0].panels[0].labels == ["atp", "ig", "ig (zero baseline)"]
    assert page.model == page.sections[0].panels[0].exact.model
    assert page.seconds > 0 and page.versions["veracausa"] == vc.__version__


def test_panels_hold_what_the_public_functions_give(lm, page):
    for section in page.sections:
        heads, mlps, neurons = section.panels
        assert torch.equal(heads.exact.values, vc.exact(lm, section.task, show_progress=False).values)
        assert torch.equal(mlps.exact.values, vc.exact(lm, section.task, units="mlps", show_progress=False).values)
        names = neurons.exact.units.names
        alone = vc.exact(lm, section.task, units=names, show_progress=False)
        torch.testing.assert_close(neurons.exact.values, alone.values, rtol=0, atol=1e-5)
        atp = vc.attribute(lm, section.task, show_progress=False)
        assert torch.equal(heads.estimates[0].values, atp.values)


def test_chosen_neurons_are_the_strongest_and_a_sample_of_the_rest(lm, page):
    panel = page.sections[0].panels[2]
    ranking = panel.estimates[0].ranking()
    names = np.array(panel.estimates[0].units.names)
    chosen = panel.exact.units.names
    assert chosen[:20] == names[ranking[:20]].tolist()
    assert set(chosen[20:]) <= set(names[ranking[20:]].tolist()) and len(set(chosen)) == 35
    [random, *_] = panel.random_agreements
    assert set(random.names) == set(chosen[20:])


def test_the_sample_is_drawn_by_its_seed(lm, page):
    guess = page.sections[0].panels[2].estimates[0]
    one, same, other = (choose_some(guess, 20, 15, seed)[0].names for seed in (0, 0, 1))
    assert one == same and one[:20] == other[:20] and one[20:] != other[20:]
    every, sampled = choose_some(guess, None, 15, 0)
    assert (len(every), sampled) == (120, 0)
    assert choose_some(guess, 500, 15, 0)[1] == 0
    most, sampled = choose_some(guess, 110, 15, 0)
    assert (len(most), sampled) == (120, 10) and len(set(most.names)) == 120


def test_the_sample_is_uniform(lm, page):
    """Every neuron outside the top is drawn about equally often."""
    guess = page.sections[0].panels[2].estimates[0]
    counts = dict.fromkeys(guess.units.names, 0)
    for seed in range(400):
        for name in choose_some(guess, 20, 15, seed)[0].names[20:]:
            counts[name] += 1
    drawn = sorted(counts.values())
    assert drawn[:20] == [0] * 20
    # 400 draws of 15 out of 100: 60 each, standard deviation 7
    assert drawn[20] > 30 and drawn[-1] < 90


def test_sentences_match_the_numbers(page):
    """Every number that the summary should tell is in it, next to what it is about; words may change."""
    lines = [line.replace("−", "-") for line in page.summary]
    for section in page.sections:
        measured = section.measured
        clean, corrupted = float(measured.clean.mean()), float(measured.corrupted.mean())
        [gap] = [line for line in lines if f"{clean:+.2f} clean" in line]
        assert f"{corrupted:+.2f} corrupted" in gap and f"{clean - corrupted:.2f}" in gap
        inverted = f"on {int((measured.gap < 0).sum())} of {len(section.task)} pair"
        assert any("gap is inverted" in line and inverted in line for line in lines) or clean > corrupted
        for panel in section.panels:
            share, effect = panel.exact.scaled(), panel.exact.mean()
            top = int(share.abs().argmax())
            size = f"{share[top]:+.3f} of" if panel.exact.has_shares else f"an effect of {effect[top]:+.3f}"
            [about] = [line for line in lines if f"{panel.exact.units.names[top]} matters most ({size}" in line]
            assert f"{int((share.abs() > 0.01).sum())} of {len(panel.exact)}" in about
            for found in panel.agreements:
                few = " (3 pairs: no interval)" if found.n == 3 else ""
                assert f"{found.method} agrees with r = {found.r:.3f}{few}" in about
            if panel.sampled:
                assert "20 " in about and "15 " in about and "random" in about
    for found in page.sections[-1].panels[0].agreements[:2]:
        assert any(f"{found.method} " in line and f"r = {found.r:.3f}" in line for line in lines)


def _finding(section, name):
    [found] = [finding for finding in section.findings if type(finding).__name__ == name][:1]
    return found


def test_outliers_are_explained(lm, page):
    """Where errors arise, why, and the paths: each is about the outliers of the heads' first estimate, and fits."""
    for section in page.sections:
        heads = section.panels[0]
        outliers, exact = heads.agreements[0].outliers, heads.exact.scaled()
        walked = _finding(section, "Responses")
        assert list(walked)[: len(outliers[:6])] == outliers[:6]
        for name, one in walked.items():
            i = heads.exact.units.find(name)
            assert one.secant.value == pytest.approx(float(exact[i]), abs=1e-4)
            assert one.slope.value == pytest.approx(float(heads.estimates[0].scaled()[i]), abs=1e-4)
        why = _finding(section, "Disagreement")
        assert why.scores["exact"].units.names == heads.exact.units.names
        assert {cause.unit for cause in why.causes if cause.method == "atp"} == set(outliers)
        if outliers:
            assert list(_finding(section, "Locations")) == outliers[:6]


def test_the_last_section_has_what_the_level_asks_for(lm, page):
    first, last = ([type(finding).__name__ for finding in section.findings] for section in page.sections)
    assert set(first) <= {"Locations", "Disagreement", "Responses"}
    asked = {"Surface", "AblationStudy", "Against", "Baselines", "GeneralPurpose", "Lens", "LogitAttribution"}
    assert asked <= set(last)
    # the pairs are no built-in task's: there is no other corruption of them, and no more prompts
    assert "CounterfactualComparison" not in last and _finding(page.sections[1], "AblationStudy").n == 3


def test_every_stage_was_forecast(lm, page):
    assert len(page.steps) > 15
    for plan, done in page.steps:
        assert plan.what == done.what
        assert done.token_layers == plan.token_layers or done.token_layers <= (plan.most or 0)
        assert plan.seconds is not None and plan.seconds >= 0 and done.seconds > 0
    assert sum(done.seconds for _, done in page.steps) < page.seconds


@pytest.mark.slow
def test_levels_nest_and_are_told(lm, task_of, capfd):
    task = task_of((5, 6), n=3)
    quick, default = (study.work(lm, task, level=level).tokens() for level in ("quick", "default"))
    assert quick < default
    study(lm, task, level="quick", show_progress=True)
    told = capfd.readouterr().err
    assert "token-layers" in told and "together, about" in told
    assert "left out: loading the model, timing it, drawing the page" in told
    number = r"\d+ (?:s|min \d+ s|h \d+ min)"
    assert re.search(rf"other sizes, about: default \(no option\) {number}, full \(--full\) {number}\n", told)
    options = {option for one in get_command(app).commands["study"].params for option in one.opts}
    assert set(re.findall(r"--[a-z]+", told)) <= options  # no option that does not exist
    steps = re.findall(r"step (\d+) of (\d+) took", told)
    assert steps == [(str(i + 1), str(len(steps))) for i in range(len(steps))] and len(steps) > 3
    with pytest.raises(vc.errors.MethodError, match="quick, default, full"):
        study(lm, task, level="thorough")


def test_a_study_resumes_from_its_pieces(task_of, tiny, tmp_path):
    task = task_of(6, name="tiny-published")
    options = {"neurons": 20, "sample": 15, "nodes": 3, "out": tmp_path, "show_progress": False}
    tokens = []

    def count(module, args):
        tokens[-1] += args[0].shape[0] * args[0].shape[1]

    def counted():
        lm = tiny("llama", fresh=True, dtype=torch.float32)
        lm.hf.model.layers[1].mlp.register_forward_pre_hook(count)
        tokens.append(0)
        return study(lm, task, **options)

    first, again = counted(), counted()
    assert list((tmp_path / "pieces").iterdir())
    for one, other in zip(first.sections[0].panels, again.sections[0].panels, strict=True):
        assert torch.equal(one.exact.values, other.exact.values)
        assert all(torch.equal(a.values, b.values) for a, b in zip(one.estimates, other.estimates, strict=True))
    # what is left: timing the machine, recordings that every call checks itself by, and findings that are not kept
    assert tokens[1] < tokens[0] / 2


@pytest.mark.slow
def test_costs_of_a_resumed_study_are_the_whole_costs(task_of, tiny, tmp_path):
    """Otherwise the price in the last sentence, and the cost–truth chart, depend on how often it was interrupted."""
    lm, task = tiny("llama", dtype=torch.float32), task_of(6, name="tiny-published")
    options = {"neurons": 20, "sample": 15, "nodes": 3, "out": tmp_path, "show_progress": False}
    first, again = (study(lm, task, **options) for _ in range(2))
    assert again.sections[0].panels[0].exact.cost.token_layers >= first.sections[0].panels[0].exact.cost.token_layers
    assert again.summary == first.summary


@pytest.mark.slow
def test_pieces_of_other_settings_are_not_used(task_of, tiny, tmp_path):
    lm, task = tiny("llama", dtype=torch.float32), task_of(6)
    options = {"neurons": 20, "sample": 15, "out": tmp_path, "show_progress": False}
    coarse, fine = (study(lm, task, nodes=nodes, **options).sections[0].panels[0].estimates[1] for nodes in (2, 9))
    assert (coarse.settings["nodes"], fine.settings["nodes"]) == (2, 9)
    assert not torch.equal(coarse.values, fine.values)


def test_the_model_is_given_back(task_of, tiny):
    lm = tiny("gpt2", fresh=True, dtype=torch.float32)
    lm.hf.train()
    study(lm, task_of(6), neurons=20, sample=15, nodes=2, show_progress=False)
    assert lm.hf.training and all(p.requires_grad for p in lm.hf.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.hf.modules())


@pytest.mark.cases(1)
@pytest.mark.parametrize("sample", [0, 1, 2])
def test_small_samples(lm, task_of, sample):
    page = study(lm, task_of(6), neurons=20, sample=sample, nodes=2, show_progress=False)
    assert len(page.sections[0].panels[2].exact) == 20 + sample


def test_ones_own_pairs_are_not_called_published_or_generated(lm, task_of):
    one = study(lm, task_of(6, name="mine"), neurons=20, sample=9, nodes=2, show_progress=False)
    assert not any("published" in line for line in one.summary) and "generated" not in one.sections[0].title


def test_no_task_is_a_clear_error(lm):
    with pytest.raises(vc.VeracausaError):
        study(lm, [], show_progress=False)


def test_other_families_and_metrics(task_of, tiny):
    lm = as_model(tiny("gemma3").hf, "gemma3")
    page = study(lm, task_of((5, 6), n=2, metric="prob_diff"), neurons=10, sample=5, nodes=2, show_progress=False)
    assert any("probability difference" in line for line in page.summary)


@pytest.mark.slow
def test_a_study_of_experts_leaves_out_what_they_have_not_and_says_so(task_of):
    lm = as_model(tiny_models.make("mixtral", seed=1), "mixtral")
    found = vc.study(lm, task_of(7), show_progress=False)
    assert [note.split(":")[0] for note in found.notes] == ["no neurons", "nothing about where errors arise"]
    assert {panel.kind for panel in found.sections[-1].panels} == {"heads", "mlps"}
    with pytest.raises(ArchitectureError, match="made of experts"):
        vc.study(lm, task_of(7), neurons=5, show_progress=False)


def test_a_task_that_no_file_could_hold_is_refused_before_the_study(tiny, task_of):
    """Not when it is saved, with everything computed."""
    task = replace(task_of(6), name="half \ud800")
    with pytest.raises(FileError, match="half of a character"):
        vc.study(tiny("llama"), task, level="quick", show_progress=False)

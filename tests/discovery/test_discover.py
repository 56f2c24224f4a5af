"""Discovery against the public calls it is made of; its folder, resuming, what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html import unescape

import numpy as np
import pandas as pd
import pytest
import torch
from bridges import as_model, watched

import veracausa as vc
from veracausa.cost import told
from veracausa.discovery.evaluation import alike, random_ranking, read, seen_by
from veracausa.discovery.files import claim
from veracausa.discovery.steps import Scoring, running, verifying
from veracausa.errors import CircuitError, FileError, GapError, MethodError, TaskError
from veracausa.estimates.learned import learner
from veracausa.estimates.learned.learner import LEARNERS
from veracausa.report.pages.discovery import page

LEARNED = ("learned", "matryoshka", "bottleneck", "adversarial", "edge-pruning", "ugs", "discogp")
OPTIONS = {"edges": 60, "sizes": (0.05, 0.3, 1.0), "top": 12, "sample": 8, "show_progress": False}


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama", dtype=torch.float32)


@pytest.fixture(scope="module")
def task(task_of):
    return task_of((5, 7), n=8)


@pytest.fixture(scope="module")
def found(lm, task):
    return vc.discover(lm, task, **OPTIONS)


@pytest.fixture(scope="module")
def saved(found, tmp_path_factory):
    return found.save(tmp_path_factory.mktemp("discovery") / "out").parent


def text_of(html):
    """What a page says; `html`: its text, or its path."""
    html = html if isinstance(html, str) else html.read_text(encoding="utf-8")
    body = html[html.index("<main") : html.index('<script type="application/json"')]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


# ---- what it computes ------------------------------------------------------------------------------------------------


def test_it_is_the_public_calls_one_after_the_other(lm, task, found):
    chosen, other = task.split(0.5, 0)
    assert [found.pairs.digest(), found.evaluation.pairs.digest()] == [chosen.digest(), other.digest()]
    assert found.evaluation.seen == 0
    scores = vc.attribute(lm, chosen, units="edges", method="eap-ig", show_progress=False)
    assert torch.equal(found.scores.values, scores.values)
    circuit = vc.select(scores, n=60)
    assert found.circuit.names == circuit.names and np.array_equal(found.circuit.importance, circuit.importance)
    alone = vc.faithfulness(lm, other, circuit, show_progress=False)
    assert torch.equal(found.evaluation.circuit.metric, alone.metric)
    curve = vc.curve(lm, other, scores, sizes=OPTIONS["sizes"], show_progress=False)
    pd.testing.assert_frame_equal(found.evaluation.curve.table(), curve.table())
    receipt = vc.verify(lm, chosen, scores, top=12, sample=8, show_progress=False)
    assert torch.equal(found.receipt.exact.values, receipt.exact.values) and found.verified == receipt.sentence


def test_edges_have_what_is_known_of_each(found):
    table = found.table()
    assert table["importance"].abs().is_monotonic_decreasing and set(table["name"]) == set(found.circuit.names)
    exact = dict(zip(found.receipt.exact.units.names, (-found.receipt.exact.mean()).tolist(), strict=True))
    stderr = dict(zip(found.scores.units.names, found.scores.stderr().tolist(), strict=True))
    for row in table.to_dict("records"):
        assert row["stderr"] == pytest.approx(stderr[row["name"]])
        if found.scores.has_shares:
            assert row["share"] == pytest.approx(row["importance"] / float(found.scores.gap.mean()))
        known = exact.get(row["name"])
        assert np.isnan(row["exact"]) if known is None else row["exact"] == pytest.approx(known)
        assert found.stability is None or 0 <= row["chosen"] <= 1
    assert ("chosen" in table) is (found.stability is not None)  # which needs more pairs than these
    assert found.checked == table["exact"].notna().sum() == len(set(exact) & set(found.circuit.names))


def test_the_random_row_is_a_random_ranking_selected_in_the_same_way(lm, found):
    chance = random_ranking(found.scores, 0)
    ranks = chance.importance()
    assert len(set(chance.ranking("importance"))) == len(found.scores) and (ranks >= 0).all() and (ranks <= 1).all()
    # uniform in (0, 1): mean 1/2, and no more than chance to do with the scores (190 edges: |r| < 4 / √190)
    assert float(ranks.mean()) == pytest.approx(0.5, abs=0.1)
    assert abs(np.corrcoef(ranks, found.scores.importance())[0, 1]) < 0.29
    circuit = vc.select(chance, n=60)
    alone = vc.faithfulness(lm, found.evaluation.pairs, circuit, show_progress=False)
    assert torch.equal(found.evaluation.random.metric, alone.metric)
    table = found.evaluation.table()
    assert table["ranking"].tolist() == ["eap-ig", "random ranking"]
    assert table["f"].tolist() == [found.evaluation.circuit.f, alone.f]
    assert not random_ranking(found.scores, 1).values.equal(chance.values)


def test_an_integer_program_is_not_run_on_a_random_ranking(found):
    circuit = vc.select(found.scores, n=20, how="optimal")
    chance = random_ranking(found.scores, 0)
    assert alike(circuit, chance).names == vc.select(chance, n=20, how="connected").names


def test_held_out_pairs_of_ones_own(lm, task, task_of):
    other = task_of((6,), n=3, seed=9)
    found = vc.discover(lm, task, held_out=other, **OPTIONS)
    assert len(found.pairs) == 8 and found.evaluation.pairs == other and "held out: " in found.describe()
    overlapping = vc.discover(lm, task[:4], held_out=task[2:6], **OPTIONS)
    assert overlapping.evaluation.seen == 2 == seen_by(task[2:6], task[:4])
    assert "not all held out: the selection saw 2 of these 4 pairs" in overlapping.describe()


def test_a_single_pair_is_not_held_out_and_every_output_says_so(lm, task):
    found = vc.discover(lm, task[:1], **OPTIONS)
    assert found.stability is None and "not held out" in found.describe()
    text = text_of(page(found))
    assert "Not held out: the circuit was selected on these very pairs." in text and "held-out pair" not in text


def test_no_edge_is_shown_without_a_receipt_or_the_words(lm, task, found, saved):
    assert "trust   20 of 190 units checked exactly" in found.describe()
    assert "Exact effects verified 20 of the scores" in text_of(saved / "report.html")
    bare = vc.discover(lm, task, **(OPTIONS | {"top": 0, "sample": 0}))
    assert bare.receipt is None and "trust   not verified" in bare.describe() and bare.checked == 0
    text = text_of(page(bare))
    assert "not verified: no exact effect was taken" in text and "None of them is verified" in text


@pytest.mark.slow
def test_exact_scores_and_iterated_ranks(lm, task, tmp_path):
    exact = vc.discover(lm, task[:4], method="exact", out=tmp_path / "exact", **OPTIONS)
    assert exact.verified == "exact effects" and exact.checked == len(exact.circuit) and exact.receipt is None
    assert np.allclose(exact.table()["exact"], exact.table()["importance"])
    assert "The scores are exact effects." in text_of(page(exact))
    ranks = vc.discover(lm, task[:4], method="iterated", **OPTIONS)
    assert ranks.stability is None and not {"stderr", "share"} & set(ranks.table())
    assert ranks.receipt is not None and "iterated" in text_of(page(ranks))
    balanced = vc.discover(lm, task[:4], method="balanced", **OPTIONS)
    assert balanced.scores.settings["by"] == "balanced" and balanced.scores.values.shape == ranks.scores.values.shape
    settled = Scoring.of(lm, balanced.pairs, "settled", 30, 0).run(tmp_path, show_progress=False)
    assert len(list(tmp_path.glob("pieces/iterated-*"))) == 1  # finished rounds are kept
    assert settled.settings["settle"] > 0 and settled.settings["smallest"] == 30
    assert Scoring.of(lm, balanced.pairs, "guarded", 30, 0).work.settings["guard"] == [30, 100]
    most = Scoring.of(lm, balanced.pairs, "balanced", OPTIONS["edges"], 0).work.tokens()
    assert 0 < balanced.scores.cost.token_layers <= most
    parts = vc.discover(lm, task[:4], method=vc.Method(path="inputs", nodes=2), **OPTIONS)
    assert parts.asked["method"]["nodes"] == 2


def test_other_families_and_metrics(tiny, task_of):
    lm = as_model(tiny("gemma3").hf, "gemma3")
    found = vc.discover(lm, task_of((5, 6), n=4, metric="neg_kl"), **OPTIONS)
    assert found.evaluation.circuit.measured.clean.abs().max() < 1e-9 and "neg_kl" in page(found)


# ---- cost ------------------------------------------------------------------------------------------------------------


def test_the_forecast_is_what_it_costs(lm, task, found):
    plan, steps = found.plan, found.steps
    assert [step.what for step in plan] == [step.what for step in steps] and len(steps) == 6
    assert steps[0].token_layers == plan[0].token_layers == found.scores.cost.token_layers
    for forecast, step in zip(plan[2:], steps[2:], strict=True):
        assert 0 < step.token_layers <= forecast.token_layers  # small circuits run fewer blocks
    every = verifying(lm, found.pairs, lm.graph.size).token_layers
    spent = vc.exact(lm, found.pairs, units="edges", show_progress=False).cost.token_layers
    assert spent == pytest.approx(every, rel=0.3)  # edges whose writer does not differ cost nothing
    whole = running(lm, found.pairs, 1, "all")
    assert whole.passes == pytest.approx(whole.token_layers / (sum(found.pairs.lengths) * lm.layers))
    lines = told(plan).splitlines()
    assert len(lines) == 8 and "–" in lines[-1] and f"{sum(step.token_layers for step in plan):,.0f}" in lines[-1]
    bounded = told([dataclasses.replace(plan[0], most=5 * plan[0].token_layers), *plan[1:]]).splitlines()[-1]
    most = sum(step.token_layers for step in plan) + 4 * plan[0].token_layers
    assert f"at most: {most:,.0f}" in bounded and plan[0].what in bounded


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    "method",
    [
        *("eap", "ceap", "expected-gradients", "gim", "ifr", "iterated"),
        *(pytest.param(how, marks=pytest.mark.slow) for how in LEARNED),
    ],
)
def test_what_scores_cost(lm, task, method, monkeypatch):
    if method not in ("learned", "matryoshka"):  # published ones take thousands of steps
        few = {name: dataclasses.replace(one, steps=3) for name, one in LEARNERS.items()}
        monkeypatch.setattr(learner, "LEARNERS", few)
    found = vc.discover(lm, task[:2], method=method, **OPTIONS)
    forecast = Scoring.of(lm, found.pairs, method, OPTIONS["edges"], 0).work.tokens()
    # two runs of what is kept, of a circuit that is not known before: of a few steps a larger part
    loose = {"learned": 0.02, "matryoshka": 0.02} | dict.fromkeys(LEARNED[2:], 0.2)
    assert found.scores.cost.token_layers == pytest.approx(forecast, rel=loose.get(method, 1e-9))
    assert (found.receipt is None) == (method in ("ifr", "ugs"))
    assert method not in LEARNED or found.scores.settings["learner"] == {"learned": "top-k"}.get(method, method)


def test_the_forecast_is_shown_beforehand_with_seconds(lm, task, capsys):
    vc.discover(lm, task, **(OPTIONS | {"show_progress": True}))
    said = capsys.readouterr().err
    assert "token-layers" in said and "scores of 190 edges by eap-ig on 4 pairs" in said
    assert re.search(r"together, about +[\d,]+ +[\d,.]+\n", said)
    assert "left out: loading the model, timing it, selecting the circuit, drawing the page" in said
    assert re.findall(r"step (\d) of 6 took .*: (scores of|exact effects of) .* · (\d) steps left, about", said) == [
        ("1", "scores of", "5"), ("2", "exact effects of", "4"),
    ]  # fmt: skip


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_the_folder_has_everything_and_comes_back(lm, found, saved):
    files = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    wanted = {"run.json", "pairs.json", "scores.safetensors", "circuit.json", "circuit.graphml", "edges.csv",
              "receipt.safetensors", "receipt.txt", "report.html"}  # fmt: skip
    wanted |= {f"evaluations/held-out/{name}" for name in ("pairs.json", "faithfulness.csv", "curve.csv")}
    assert wanted <= files and not [name for name in files if "tmp" in name or name.endswith(".part")]
    again = vc.open(saved)
    assert again.describe() == found.describe() and again.asked == json.loads(json.dumps(found.asked))
    pd.testing.assert_frame_equal(again.table(), found.table())
    assert again.steps == found.steps and again.plan == found.plan
    assert vc.open(saved / "circuit.json").require_for(lm).names == found.circuit.names
    assert vc.open(saved / "scores.safetensors").verified == found.receipt.sentence
    pairs = pd.read_csv(saved / "evaluations/held-out/faithfulness.csv")
    assert pairs["f"].tolist() == pytest.approx(found.evaluation.circuit.per_example.tolist())
    sizes = pd.read_csv(saved / "evaluations/held-out/curve.csv")
    assert len(sizes) == 9 and sizes["f"][0] == pytest.approx(found.evaluation.curve.signed[0].f)
    assert pd.read_csv(saved / "edges.csv")["name"].tolist() == found.table()["name"].tolist()


def test_the_page_says_what_was_found(found, saved):
    text = text_of(saved / "report.html")
    one = found.evaluation.circuit
    for words in (
        f"A circuit of {len(found.circuit)} edges for tiny in llama",
        f"f = {one.f:.3f}".replace("-", "−"),
        "held out: the selection saw none of these pairs".capitalize(),
        "Selected on 4 pairs",
        "Beside a random ranking",
        "random ranking",
        found.table()["name"][0],
        found.pairs.describe(),
        "positive supports",
    ):
        assert words in text, words
    html = (saved / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in html and not re.findall(r"(?:src|href)\s*=\s*[\"']?https?:", html[:20_000])
    for figure in ("receipt", "held-out-f"):
        assert f'id="{figure}"' in html and (saved / "figures" / f"{figure}.png").exists()


class Tokens:
    """Counts the tokens that pass an MLP."""

    def __init__(self, lm):
        self.lm, self.count = lm, 0

    def __call__(self, x):
        self.count += x.shape[0] * x.shape[1]

    def during(self, call):
        self.count = 0
        with watched(self.lm.hf.model.layers[1].mlp, self):
            return call(), self.count


def test_it_continues_from_finished_pieces(tiny, task, tmp_path):
    counted = Tokens(tiny("llama", fresh=True, dtype=torch.float32))
    first, spent = counted.during(lambda: vc.discover(counted.lm, task, out=tmp_path, **OPTIONS))
    again, less = counted.during(lambda: vc.discover(counted.lm, task, out=tmp_path, **OPTIONS))
    # what is left: M of both runs for the gap, and again before exact effects, all of which are there; and since kept
    # scores and evaluations are held against the bare model, once more for each of these
    # (pairs of several lengths share batches there, which takes a tenth more tokens)
    assert less < 0.28 * spent
    assert again.describe().splitlines()[:-1] == first.describe().splitlines()[:-1]
    assert [step.token_layers for step in again.steps] == [step.token_layers for step in first.steps]


class Stop(Exception):
    """What interrupts."""


@pytest.mark.cases(1)
@pytest.mark.parametrize("after", [15, 30, 45])
def test_an_interrupted_call_continues_and_gives_the_same(tiny, task, found, tmp_path, after):
    lm, calls = tiny("llama", fresh=True, dtype=torch.float32), 0

    def stop(x):
        nonlocal calls
        calls += 1
        if calls > after:
            raise Stop

    with watched(lm.hf.model.layers[1].mlp, stop), pytest.raises(Stop):
        vc.discover(lm, task, out=tmp_path, **OPTIONS)
    assert not (tmp_path / "report.html").exists() and not list(tmp_path.rglob("*.tmp"))
    with pytest.raises(FileError, match="not finished"):
        vc.open(tmp_path)
    again = vc.discover(lm, task, out=tmp_path, **OPTIONS)
    assert again.circuit.names == found.circuit.names
    torch.testing.assert_close(again.evaluation.circuit.metric, found.evaluation.circuit.metric)


# ---- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_on_other_pairs(lm, task_of, saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    found, other = vc.open(folder), task_of((6,), n=3, seed=11, name="elsewhere")
    evaluation = vc.discovery.evaluate(lm, folder, other, sizes=(0.1, 1.0), show_progress=False)
    alone = vc.faithfulness(lm, other, found.circuit, show_progress=False)
    assert torch.equal(evaluation.circuit.metric, alone.metric) and evaluation.seen == 0
    assert evaluation.curve.sizes == (0.1, 1.0)
    again = vc.open(folder)
    assert [one.name for one in again.further] == [evaluation.name]
    assert again.further[0].describe() == evaluation.describe()
    text = text_of(folder / "report.html")
    assert "3 pairs of elsewhere" in text and "that were held out" in text
    assert (folder / "evaluations" / evaluation.name / "curve.csv").exists()
    vc.discovery.evaluate(
        lm, folder, other, sizes=(0.1, 1.0), show_progress=False
    )  # the same once more: no second section
    assert len(vc.open(folder).further) == 1
    memory = vc.discovery.evaluate(lm, found, other, show_progress=False)
    assert memory.curve.sizes == OPTIONS["sizes"] and torch.equal(memory.circuit.metric, alone.metric)
    own = vc.discovery.evaluate(lm, found, found.pairs, show_progress=False)
    assert own.seen == len(found.pairs) and "not held out" in own.describe()


def test_evaluate_refuses_another_model_and_bad_sizes(tiny, lm, task, task_of, saved, tmp_path):
    before = sorted(path for path in saved.rglob("*"))
    other = tiny("llama", fresh=True, dtype=torch.float32)
    other.hf.model.norm.weight.data[3] *= 2
    with pytest.raises(CircuitError, match="other weights"):
        vc.discovery.evaluate(other, saved, task, show_progress=False)
    with pytest.raises(CircuitError, match="Graph"):
        vc.discovery.evaluate(tiny("gpt2"), saved, task, show_progress=False)
    with pytest.raises(MethodError, match=r"ablation='none'.*mean"):
        vc.discovery.evaluate(lm, saved, task, ablation="none", show_progress=False)
    with pytest.raises(MethodError, match="rising"):
        vc.discovery.evaluate(lm, saved, task, sizes=(0.5, 0.1), show_progress=False)
    same = vc.Task("flat", ((1, 2, 3),) * 2, ((2, 2, 3),) * 2, ((4,), (5,)), ((5,), (4,)))  # the gaps cancel
    with pytest.raises(GapError):
        vc.discovery.evaluate(lm, saved, same, show_progress=False)
    with pytest.raises(FileError, match="no folder"):
        vc.discovery.evaluate(lm, tmp_path / "nowhere", task, show_progress=False)
    assert sorted(path for path in saved.rglob("*")) == before


@pytest.mark.cases(1)
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample", pytest.param("optimal", marks=pytest.mark.slow)])
def test_evaluate_under_another_ablation(lm, found, task_of, ablation, tmp_path):
    other = task_of((6,), n=3, seed=11)
    evaluation = vc.discovery.evaluate(lm, found, other, sizes=(0.3, 1.0), ablation=ablation, show_progress=False)
    alone = vc.faithfulness(lm, other, found.circuit, ablation=ablation, show_progress=False)
    torch.testing.assert_close(evaluation.circuit.metric, alone.metric)
    assert f"{ablation} ablation" in evaluation.describe() and evaluation.curve.signed[0].ablation == ablation
    work = vc.discovery.evaluate.work(lm, found, other, sizes=(0.3, 1.0), ablation=ablation)
    assert [step.token_layers for step in work.steps()] == [
        one.cost.token_layers
        for one in (evaluation.circuit, evaluation.curve, evaluation.random, evaluation.random_curve)
    ]
    folder = tmp_path / "here"
    evaluation.keep(folder)
    assert read(folder, evaluation.name, other, 0).describe() == evaluation.describe()
    redrawn = text_of(page(dataclasses.replace(found, further=(evaluation,))))
    assert f"{ablation} ablation" in redrawn


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"edges": 0}, "n=0"),
        ({"edges": 191}, "n=191.*190"),
        ({"how": "best"}, "how='best'.*greedy"),
        ({"how": "iterated"}, "method='iterated'"),
        ({"how": "abs", "by": "importance"}, "by='importance'"),
        ({"method": "eap-iq"}, "eap-iq.*eap-ig"),
        ({"method": "gaurded"}, "Did you mean 'guarded'.*balanced"),
        ({"method": "atp"}, "eap"),
        ({"method": vc.Method(path="unit")}, "means nothing"),
        ({"sizes": (0.5, 0.1)}, "rising"),
        ({"top": -1}, "top=-1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(lm, task, tmp_path, options, words):
    with pytest.raises(MethodError, match=words):
        vc.discover(lm, task, out=tmp_path / "out", **(OPTIONS | options))
    assert not (tmp_path / "out").exists()


def test_pairs_without_a_gap_are_refused_before_anything_is_written(lm, tmp_path):
    same = vc.Task("flat", ((1, 2, 3),) * 2, ((2, 2, 3),) * 2, ((4,), (5,)), ((5,), (4,)))
    with pytest.raises(GapError):
        vc.discover(lm, same, held_out=same, out=tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(TaskError):
        same.split(0.1)


def test_other_settings_in_the_same_folder(lm, task, tiny, saved, tmp_path):
    before = (saved / "run.json").read_text()
    for options, words in (
        ({"edges": 61}, "edges: 60 there, 61 here"),
        ({"method": "eap"}, "'eap-ig' there, 'eap' here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
    ):
        with pytest.raises(FileError, match=words):
            vc.discover(lm, task, out=saved, **(OPTIONS | options))
    with pytest.raises(FileError, match="selected on"):
        vc.discover(lm, task[:6], out=saved, **OPTIONS)
    other = tiny("llama", fresh=True, dtype=torch.float32)
    other.hf.model.layers[0].mlp.register_forward_hook(lambda module, args, output: output)
    with pytest.raises(FileError, match="model: it had other hooks"):
        vc.discover(other, task, out=saved, **OPTIONS)
    (tmp_path / "report.html").write_text("a study")
    with pytest.raises(FileError, match="another command"):
        vc.discover(lm, task, out=tmp_path, **OPTIONS)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError):
        claim(tmp_path / "file", {})
    assert (saved / "run.json").read_text() == before and (tmp_path / "report.html").read_text() == "a study"


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FileError, match="no discovery"):
        vc.open(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "something"}')
    with pytest.raises(FileError, match="no checksum"):
        vc.open(tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "run.json",
        "pairs.json",
        "scores.safetensors",
        "circuit.json",
        "receipt.safetensors",
        "evaluations/held-out/circuit.safetensors",
        "evaluations/held-out/curve.safetensors",
        "evaluations/held-out/random-circuit.safetensors",
        "evaluations/held-out/pairs.json",
    ],
)
def test_files_cut_short_or_foreign(saved, tmp_path, file):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    whole = (folder / file).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1] if file.endswith("json") else whole[:-8], b"", b"{}"):
        (folder / file).write_bytes(content)
        with pytest.raises(FileError) as caught:
            vc.open(folder)
        assert file.rpartition("/")[2] in str(caught.value)
    (folder / file).unlink()
    if file != "receipt.safetensors":  # which there need not be
        with pytest.raises(FileError):
            vc.open(folder)


def test_pieces_of_other_pairs_are_refused(lm, task, saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    vc.attribute(lm, task, units="edges", method="eap", show_progress=False).save(folder / "scores.safetensors")
    with pytest.raises(FileError, match="other pairs"):
        vc.open(folder)
    with pytest.raises(FileError, match="other pairs"):
        vc.discover(lm, task, out=folder, **OPTIONS)

"""The reference set as people have it: sentences, tables, files; against means that are taken by hand."""

import naive
import pandas as pd
import pytest
import tiny_models
import torch
from bridges import as_model
from command_line import called, model_folder, pairs_file
from word_tokenizer import word_tokenizer

import veracausa as vc
from veracausa.errors import FileError, MethodError, TaskError

QUIET = {"show_progress": False}
TEXTS = ["the store near the key", "Mary gave a bottle to John", "the keys are near"]
WORDS = "After John and Mary went to the store , gave a bottle of milk key keys are is cabinet near"


@pytest.fixture(scope="module")
def lm():
    tokenizer = word_tokenizer(WORDS.split())
    return as_model(tiny_models.make("llama", seed=1, vocab_size=len(tokenizer)), "llama", tokenizer)


@pytest.fixture(scope="module")
def task(lm):
    clean, corrupted = ["After the keys near the cabinet", "the keys near the store"], []
    corrupted = [text.replace("keys", "key") for text in clean]
    return vc.task(lm, clean=clean, corrupted=corrupted, correct=[" are"] * 2, incorrect=[" is"] * 2)


def ids(lm, texts):
    return [lm.tokenizer(text)["input_ids"] for text in texts]


def means(lm, task, reference, prompts, units="heads"):
    """Effects of mean ablation by hooks on whole runs, over these prompts."""
    found = vc.exact(lm, task, units=units, ablation="mean", reference=prompts, **QUIET)
    return found, reference(naive.exact, lm, task, found.units, ablation="mean", reference=ids(lm, TEXTS))


@pytest.mark.parametrize("units", ["heads", "mlps", "residual"])
@pytest.mark.parametrize("form", ["list", "frame", "records", "ids", "task"])
def test_means_over_sentences(lm, task, reference, agree, units, form):
    given = {
        "list": TEXTS,
        "frame": pd.DataFrame({"text": TEXTS, "other": [1, 2, 3]}),
        "records": [{"sentence": text} for text in TEXTS],
        "ids": ids(lm, TEXTS),
        "task": vc.task(lm, clean=TEXTS, paired=False, metric="entropy"),
    }[form]
    found, theirs = means(lm, task, reference, given, units)
    agree(found.values, theirs, found.gap)
    assert "3 prompts" in found.settings["reference"]


@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl"])
def test_a_file_is_its_sentences(lm, task, tmp_path, ending):
    path = tmp_path / f"plain{ending}"
    frame = pd.DataFrame({"text": TEXTS})
    if ending == ".txt":
        path.write_text("\n\n".join(TEXTS) + "\n", encoding="utf-8")
    elif ending == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    found = vc.exact(lm, task, ablation="mean", reference=path, **QUIET)
    assert torch.equal(found.values, vc.exact(lm, task, ablation="mean", reference=TEXTS, **QUIET).values)
    assert found.settings["reference"].startswith("plain: 3 prompts")
    assert vc.tasks.reference(lm, str(path)).clean == vc.tasks.reference(lm, TEXTS).clean


def test_clean_prompts_only(lm, task, reference, agree):
    clean = vc.tasks.reference(lm, task, prompts="clean")
    assert clean.prompts == task.clean and vc.tasks.reference(lm, task) is task
    found = vc.exact(lm, task, ablation="mean", reference=clean, **QUIET)
    theirs = reference(naive.exact, lm, task, found.units, ablation="mean", reference=task.clean)
    agree(found.values, theirs, found.gap)
    frame = pd.DataFrame({"clean": task.clean_text, "corrupted": task.corrupted_text})
    assert vc.tasks.reference(lm, frame).prompts == task.prompts
    assert vc.tasks.reference(lm, frame, prompts="clean").prompts == task.clean
    assert vc.tasks.reference(lm, frame, column="corrupted").prompts == task.corrupted


def test_wherever_a_reference_is_taken(lm, task):
    """Sentences are the task that they make, in every verb."""
    made = vc.tasks.reference(lm, TEXTS)

    def both(verb, *given, **how):
        return [verb(lm, *given, reference=one, **how, **QUIET) for one in (TEXTS, made)]

    one, other = both(vc.attribute, task, method="ig", baseline="mean")
    assert torch.equal(one.values, other.values)
    receipt = vc.verify(lm, task, one, top=3, sample=3, reference=TEXTS, **QUIET)
    assert receipt.scores.settings["reference_digest"] == one.settings["reference_digest"]
    for verb in (vc.effects.direct, vc.effects.last_in, vc.effects.shapley):
        one, other = both(verb, task, ablation="mean")
        assert torch.equal(one.values, other.values) and "3 prompts" in one.settings["reference"]
    one, other = both(vc.effects.interactions, task, units=["a0.h0+m1"], ablation="mean")
    assert torch.equal(one.values, other.values)
    circuit = vc.select(vc.attribute(lm, task, units="edges", method="eap", **QUIET), n=20)
    one, other = both(vc.faithfulness, task, circuit, ablation="mean")
    assert torch.equal(one.metric, other.metric) and "3 prompts" in one.settings["reference"]
    one, other = both(vc.behaviour.ablation_study, task, units=["a0.h1"], ablations=["mean"])
    assert one.table().equals(other.table())
    price = vc.forecast(vc.exact, lm, task, ablation="mean", reference=TEXTS, measure=False)
    plain = vc.forecast(vc.exact, lm, task, ablation="zero", measure=False)
    assert price.token_layers - plain.token_layers == lm.layers * sum(map(len, ids(lm, TEXTS)))


@pytest.mark.parametrize(
    ("given", "how", "error", "says"),
    [
        ([], {}, TaskError, "no prompts"),
        (3, {}, TaskError, "a list of texts, a table or a file"),
        ({"words": ["a"]}, {}, TaskError, "'words'"),
        ({"text": ["a", ""]}, {}, TaskError, "row 1"),
        ({"text": ["a"]}, {"column": "other"}, TaskError, "'other'"),
        ({"text": ["a"]}, {"prompts": "dirty"}, TaskError, "both"),
        (["a"], {"column": "text"}, TaskError, "column"),
        ("missing.txt", {}, FileError, "missing.txt"),
    ],
)
def test_what_is_no_reference(lm, given, how, error, says):
    with pytest.raises(error, match=says):
        vc.tasks.reference(lm, given, **how)


def test_the_command_line_takes_a_file(tmp_path):
    folder, pairs = model_folder(tmp_path / "tiny"), pairs_file(tmp_path / "pairs.csv")
    path = tmp_path / "plain.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    asked = ("exact", pairs, "--ablation", "mean", "--reference", path, "--out", tmp_path / "out")
    assert (result := called(folder, *asked)).exit_code == 0, result.output
    saved = vc.open(tmp_path / "out" / "exact-heads-mean.safetensors")
    lm = vc.load(folder, device="cpu")
    mine = vc.exact(lm, vc.task(lm, pairs), ablation="mean", reference=TEXTS, **QUIET)
    assert torch.equal(saved.values, mine.values)
    estimate = ("attribute", pairs, "--baseline", "mean", "--reference", path, "--verify", "--top", 2, "--sample", 2)
    assert (result := called(folder, *estimate)).exit_code == 0, result.output
    study = ("ablate", pairs, "--units", "a0.h1", "--ablations", "mean", "--reference", path)
    assert (result := called(folder, *study)).exit_code == 0, result.output
    wrong = called(folder, "exact", pairs, "--reference", path).exception
    assert isinstance(wrong, MethodError) and "--reference is for mean, resample, noise" in str(wrong)
    lost = called(folder, "exact", pairs, "--ablation", "mean", "--reference", tmp_path / "no.txt").exception
    assert isinstance(lost, FileError)

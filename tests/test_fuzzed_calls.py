"""Public calls with one argument of another type, shape, size or spelling: an answer, or an error of ours; no other.

`PYTHONPATH=tests/helpers python tests/test_fuzzed_calls.py 5000 [seed]` tries so many and lists what came out.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from bridges import as_model
from word_tokenizer import word_tokenizer

import veracausa as vc

CALLS = 300  # of the suite; each a few milliseconds, for most are refused before anything runs


def values() -> list[Any]:
    """What users hand over by mistake, and what no user would."""
    return [
        None, True, 0, -1, 3, 10**30, -(10**5000), 0.5, -0.5, 1e308, float("nan"), float("inf"), 1 + 2j,
        "", " ", "heads", "edges", "x" * 10_000, "a0.h0", "a0.h0@1", "a0.h0@007", "A0.H0", "a٣.h0",
        "a0.h0@" + "9" * 30, "a0.h0->m1", "a0.h00->m1", "\x1b[31m\x00", b"heads", Path("x"),
        [], [[]], [None], [1], [0.5], [float("nan")], ["a0.h0"], ["a0.h0", "a0.h00"], [["a0.h0", "a1.h1"]],
        ["x"] * 1000,
        (), set(), {}, {"a0.h0": 1}, {"role": "user"}, [{"role": "user"}], [[{"role": "user", "content": "The key"}]],
        object(), object, len, iter([1]), range(2), vc.Method(),
        torch.zeros(3, 4), torch.tensor(2.5), torch.tensor([1, 2]), torch.tensor([]), torch.zeros(2, 3).long(),
        np.array([1.5, np.nan]), np.int64(1), np.float32(0.25), np.array("x"), np.array([["a0.h0"]]),
        pd.DataFrame({"clean": ["The key"]}), pd.Series(["a0.h0"]), pd.Series([1.0]),
    ]  # fmt: skip


def setting() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Name → a public call and arguments with which it works, on a model of two layers."""
    words = ["The", "key", "keys", "to", "cabinet", "is", "are"]
    lm = as_model(tiny_models.make("llama", seed=1, num_hidden_layers=2), tokenizer=word_tokenizer(words, start=True))
    texts: dict[str, Any] = {"clean": ["The key to", "The key is"], "corrupted": ["The keys to", "The keys is"]}
    texts |= {"correct": [" is", " to"], "incorrect": [" are", " are"]}
    task = vc.task(lm, **texts)
    on = {"lm": lm, "task": task}
    quiet = {"show_progress": False}
    scores = vc.attribute(lm, task, units="heads", **quiet)
    exact = vc.exact(lm, task, units="heads", **quiet)
    edges = vc.attribute(lm, task, units="edges", method="eap", **quiet)
    circuit = vc.select(edges, n=20, prune=False)
    effects = {"units": ["a0.h0"], "direction": "noising", "reference": None, "seed": 0, "out": None}
    one: dict[str, Any] = {"nodes": 2, "grid": "gauss", "seed": 0, "baseline": "corrupted"}
    ids = {key: getattr(task, key) for key in ("name", "clean", "corrupted", "correct", "incorrect", "metric")}
    return {
        "task": (vc.task, {"lm": lm, **texts, "metric": "logit_diff", "name": "x", "chat": False}),
        "Task": (vc.Task, {**ids, "clean_text": (), "info": (), "options": {}, "vocabulary": {}}),
        "Task.split": (task.split, {"fraction": 0.5, "seed": 0}),
        "Task.with_metric": (task.with_metric, {"metric": "prob"}),
        "tasks.build": (vc.tasks.build, {"name": "no task", "lm": lm}),
        "task of a file": (vc.task, {"lm": lm, "data": "no.csv", "metric": "prob", "name": None}),
        "Method": (vc.Method, {"path": "point", "rule": "plain", "combine": "mean", **one, "descent": 3}),
        "Until": (vc.receipts.Until, {"missed": 1, "tau": 0.1, "confidence": 0.9}),
        "Learning": (vc.effects.Learning, {"steps": 1, "rate": 0.1, "batch": 1, "seed": 0}),
        "exact": (vc.exact, {**on, **effects, "ablation": "zero", "rows": 2, "share_prefix": True, **quiet}),
        "last_in": (vc.effects.last_in, {**on, **effects, "ablation": "zero", **quiet}),
        "attribute": (vc.attribute, {**on, "units": ["a0.h0"], "method": "ig", "direction": "noising", **one, **quiet}),
        "shapley": (vc.effects.shapley, {**on, "units": ["a0.h0"], "permutations": 1, "seed": 0, **quiet}),
        "verify": (vc.verify, {**on, "estimate": scores, "top": 1, "sample": 1, "tau": 0.1, "seed": 0, "until": None,
                               "budget": None, "out": None, **quiet}),
        "agreement": (vc.agreement, {"estimate": scores, "exact": exact}),
        "stability": (vc.scores.stability, {"scores": scores, "top": 2, "draws": 4, "seed": 0, "bar": 0.5}),
        "select": (vc.select, {"scores": edges, "n": 5, "how": "top", "by": None, "bootstrap": False, "draws": 9,
                               "prune": False, "seed": 0, "seconds": 1.0, "lm": None, "task": None}),
        "faithfulness": (vc.faithfulness, {**on, "circuit": circuit, "ablation": "zero", "seed": 0, **quiet}),
        "curve": (vc.curve, {**on, "scores": edges, "sizes": (0.5, 1.0), "ablation": "zero", "seed": 0, **quiet}),
        "responses": (vc.causes.responses, {**on, "units": ["a0.h0"], "alphas": [0.0, 0.5, 1.0], "out": None, **quiet}),
        "surface": (vc.causes.surface, {**on, "units": ["a0.h0", "a1.h1"], **quiet}),
        "ablation_study": (vc.behaviour.ablation_study, {**on, "units": ["a0.h0"], "ablations": ("zero",),
                           "together": True,
                           "new_tokens": 1, "answers": None, "top": 1, "alpha": 0.05, "seed": 0, "out": None, **quiet}),
        "head_roles": (vc.counterfactuals.head_roles, on),
        "interactions": (vc.interactions, {**on, "sources": "heads:0", "readers": "heads:1", "method": "ig", "nodes": 1,
                         "probes": 1, "mode": "auto", "way": "direct", "ablation": "zero", "seed": 0, **quiet}),
        "lens": (vc.reading.lens, {**on, "tokens": 1, **quiet}),
        "dla": (vc.reading.dla, {**on, "neurons": [0], "positions": True, **quiet}),
        "locate": (vc.causes.locate, {**on, "units": ["a0.h0"], "out": None, **quiet}),
        "optimal_constants": (vc.effects.optimal_constants, {**on, "units": ["a0.h0"],
                              "learning": vc.effects.Learning(1), **quiet}),
        "learn_mask": (vc.estimates.learn_mask, {**on, "units": "heads", "keep": 0.5, "steps": 1, "lr": 0.1,
                       "loss": "kl",
                                       "batch": 2, "start": None, "seed": 0, **quiet}),
        "pool": (vc.counterfactuals.pool, {**on, "corruptions": None, "edits": {"x": words},
                                                         "positions": None, "most": 1, "seed": 0}),
        "Model.measure": (lm.measure, {"task": task}),
        "Model.check": (lm.check, {"strict": 3}),
        "Circuit.from_names": (vc.Circuit.from_names, {"lm": lm, "names": ["a0.h0->logits"], "method": "stated"}),
        "Circuit.of_nodes": (vc.Circuit.of_nodes, {"lm": lm, "names": ["input", "a0.h0"], "method": "stated"}),
        "Scores.top": (scores.top, {"k": 2, "by": "abs_mean"}),
        "published": (vc.circuits.published, {"name": "ioi-gpt2"}),
        "Noise": (vc.effects.Noise, {"sd": 0.5, "draws": 2, "seed": 0}),
        "Added": (vc.effects.Added, {"values": {"r1": torch.zeros(24)}, "scale": 1.0}),
        "dictionary": (vc.dictionary, {"lm": lm, "source": "no folder", "site": "r1"}),
        "evaluate": (vc.discovery.evaluate, {"lm": lm, "discovery": "no folder", "task": task, **quiet}),
        "load_scores": (vc.open, {"path": "no.safetensors"}),
        "load_circuit": (vc.open, {"path": "no.safetensors"}),
        "Task.load": (vc.open, {"path": "no.json"}),
        "Scores.save": (scores.save, {"path": "scores.safetensors"}),
        "Task.save": (task.save, {"path": "task.json"}),
    }  # fmt: skip


def outcomes(count: int, seed: int) -> Iterator[tuple[str, str, int, BaseException | None]]:
    """(call, argument, which value, what it raised) of calls with one argument, sometimes two, exchanged."""
    rng, calls = random.Random(seed), setting()
    for _ in range(count):
        name = rng.choice(list(calls))
        function, arguments = calls[name]
        wrong = rng.sample(list(arguments), min(len(arguments), 1 + (rng.random() < 0.2)))
        which = [rng.randrange(len(values())) for _ in wrong]
        change = {key: values()[i] for key, i in zip(wrong, which, strict=True)}
        try:
            function(**(arguments | change))
        except Exception as error:
            yield name, "+".join(wrong), which[0], error
        else:
            yield name, "+".join(wrong), which[0], None


def test_wrong_arguments_give_an_answer_or_an_error_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foreign, said = [], []
    for name, argument, which, error in outcomes(CALLS, seed=0):
        if error is None:
            continue
        if isinstance(error, vc.VeracausaError):
            said.append("" if isinstance(error, vc.errors.FileError) else str(error))  # paths are shown whole
        else:
            foreign.append(f"{name}({argument}=values()[{which}]): {type(error).__name__}: {error}")
    assert not foreign, "\n".join(foreign)
    assert max(len(text) for text in said) < 1500, "a message shows the start of a value, not all of it"


TABLES = [pd.Series(["cpu"]), pd.DataFrame({"a": ["cpu", "cpu"]}), np.array([1, 2]), np.array(["cpu", "cpu"])]


@pytest.mark.parametrize("value", TABLES, ids=["series", "frame", "numbers", "words"])
def test_tables_where_one_thing_is_asked_are_refused_in_words(value):
    """Each came out as "The truth value … is ambiguous", from deep inside."""
    _, texts = setting()["task"]
    lm, task = texts["lm"], vc.task(**texts)
    for name, error in (("device", vc.errors.DeviceError), ("dtype", vc.errors.MethodError)):
        with pytest.raises(error, match=f"^{name} is a"):
            vc.load(lm.hf, lm.tokenizer, **{name: value})
        with pytest.raises(error, match=f"^{name} is a"):
            vc.load("no-such-model", **{name: value})
    with suppress(vc.VeracausaError):  # two numbers are where two prompts are read
        vc.task(**{**texts, "read": value})
    with pytest.raises(vc.VeracausaError):
        vc.causes.locate(lm, task, units=["a0.h0"], dictionary=value, show_progress=False)


def test_a_number_in_a_tensor_or_array_without_axes_is_that_number():
    _, how = setting()["verify"]
    plain, *others = (vc.verify(**{**how, "seed": seed}) for seed in (3, torch.tensor(3), np.array(3)))
    assert all(one.table().equals(plain.table()) for one in others)
    with pytest.raises(vc.VeracausaError, match="dictionary"):
        _, own = setting()["locate"]
        vc.causes.locate(**{**own, "dictionary": 3})


@pytest.mark.parametrize("name", ["exact", "attribute", "verify", "task", "Method", "faithfulness"])
def test_a_keyword_that_does_not_exist_is_pythons_own_error(name):
    function, arguments = setting()[name]
    with pytest.raises(TypeError, match="unexpected keyword argument 'unit'"):
        function(**arguments, unit="heads")


def main(count: int, seed: int = 0) -> None:
    """Try so many calls and list the foreign errors, each kind once."""
    kinds: Counter[str] = Counter()
    shown: set[str] = set()
    for name, argument, which, error in outcomes(count, seed):
        ours = error is None or isinstance(error, vc.VeracausaError)
        kinds["answers" if error is None else "ours" if ours else "foreign"] += 1
        if ours or error is None:
            continue
        place = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{name}({argument}): {type(error).__name__} at {place.filename.rpartition('/')[2]}:{place.lineno}"
        if key not in shown:
            shown.add(key)
            print(f"{key}  values()[{which}] {str(error)[:90]!r}", flush=True)
    print(dict(kinds))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))

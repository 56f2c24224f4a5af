"""One result of every kind that a public function returns, of a tiny model and pairs of IOI's form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tiny_models
import torch
from bridges import as_model
from flipping import flipping
from word_tokenizer import word_tokenizer

import veracausa as vc

QUIET: dict[str, Any] = {"show_progress": False}


def transcoder(lm: vc.Model) -> Any:
    """A random transcoder of block 1."""
    g = torch.Generator().manual_seed(0)
    read, write = torch.randn(lm.width, 9, generator=g), torch.randn(9, lm.width, generator=g)
    return vc.dictionary(lm, {"W_enc": read, "W_dec": write, "k": 3}, site="n1", writes="m1")


def setting() -> tuple[vc.Model, vc.Task]:
    """A model of three layers that reads words, and four pairs of two lengths."""
    words = ["The", "key", "keys", "to", "cabinet", "is", "are", "old"]
    lm = as_model(tiny_models.make("llama", seed=1), tokenizer=word_tokenizer(words, start=True))
    texts = [("The key to", "The keys to"), ("The old key to", "The old keys to"), ("The key is", "The keys is"),
             ("The old key is", "The old keys is")]  # fmt: skip
    clean, corrupted = zip(*texts, strict=True)
    task = vc.task(lm, clean=clean, corrupted=corrupted, correct=[" is"] * 4, incorrect=[" are"] * 4)
    return lm, task


def every_result() -> dict[str, Any]:
    """Name of the class → a result of it."""
    lm, task = setting()
    on = {"lm": lm, "task": task}
    exact, atp = vc.exact(**on, **QUIET), vc.attribute(**on, **QUIET)
    edges = vc.attribute(**on, units="edges", method="eap", **QUIET)
    circuit = vc.select(edges, n=20, how="abs")
    study = vc.behaviour.ablation_study(**on, units=["a0.h0", "a1.h1", "a2.h0"], ablations=["zero"], **QUIET)
    found = vc.discover(lm, task, edges=20, sizes=(0.1, 1.0), top=3, sample=4, held_out=task[2:], **QUIET)
    other = replace(task, corrupted=task.corrupted[2:] + task.corrupted[:2])
    pool = vc.counterfactuals.pool(lm, task, edits={"noun": ["key", "keys", "cabinet"]}, most=3)
    program = vc.ground_truth.load_compiled("sort")[1]
    made = {
        "Scores": exact,
        "Agreement": vc.agreement(atp, exact),
        "Comparison": exact | atp,
        "CircuitComparison": circuit | vc.select(edges, n=12, how="connected"),
        "Stability": vc.scores.stability(exact, top=3, draws=8),
        "Receipt": vc.verify(**on, estimate=edges, top=3, sample=4, **QUIET),
        "Circuit": circuit,
        "Faithfulness": vc.faithfulness(**on, circuit=circuit, **QUIET),
        "Curve": vc.curve(**on, scores=edges, sizes=(0.1, 1.0), **QUIET),
        "Completeness": vc.circuits.completeness(**on, circuit=circuit, draws=2, greedy=1, candidates=2, **QUIET),
        "Minimality": vc.circuits.minimality(**on, circuit=circuit, sample=3, **QUIET),
        "CircuitTests": vc.circuits.tests(**on, circuit=circuit, draws=4, edges=3, permutations=20, **QUIET),
        "Attack": vc.circuits.adversary(
            **on, circuit=circuit, sizes=(2, 9), largest=(0.5,), steps=(1,), starts=["zero"], draws=1, **QUIET
        ),
        "CauseCurve": vc.circuits.cause_curve(lm, flipping(lm, task), edges, sizes=(1, 20), **QUIET),
        "Specificity": vc.circuits.specificity(lm, {"one": task, "two": task[:2]}, {"one": circuit}, draws=2, **QUIET),
        "Sheaf": vc.circuits.sheaf(**on, steps=2, **QUIET),
        "Scoreboard": vc.circuits.scoreboard(
            lm, flipping(lm, task), {"eap": edges}, parts=["curve", "cause"], sizes=(0.1, 1.0), **QUIET
        ),
        "CircuitStability": vc.circuits.stability(edges, n=20, draws=4),
        "Discovery": found,
        "Evaluation": found.evaluation,
        "Disagreement": vc.causes.disagreement(**on, nodes=2, zero_nodes=None, **QUIET),
        "Locations": vc.causes.locate(**on, units=["a0.h0"], **QUIET),
        "Responses": vc.causes.responses(**on, units=["a0.h0"], alphas=(0, 0.5, 1), **QUIET),
        "Surface": vc.causes.surface(**on, units=("a0.h0", "a1.h1"), alphas=(0, 1), **QUIET),
        "AblationStudy": study,
        "Against": study.against(vc.exact(**on, ablation="zero", **QUIET), ablation="zero"),
        "Baselines": vc.counterfactuals.baselines(**on, ablations=("counterfactual", "zero"), nodes=2, **QUIET),
        "CounterfactualComparison": vc.counterfactuals.corruptions(lm, {"one": task, "other": other}, **QUIET),
        "GeneralPurpose": vc.counterfactuals.general_purpose(**on, **QUIET),
        "Interactions": (talk := vc.interactions(**on, sources="heads:0", readers="neurons:2", nodes=2, **QUIET)),
        "Modules": vc.interplay.modules([talk], draws=3),
        "CheckedInteractions": vc.interplay.check(**on, estimate=talk, top=2, sample=3, **QUIET),
        "AttributionGraph": (graph := vc.graphs.attribution_graph(lm, task, dictionary=(coder := transcoder(lm)))),
        "GraphCheck": vc.graphs.check(lm, graph, task, dictionary=coder, top=12),
        "Activations": vc.reading.activations(**on, units=["m1.n3"], **QUIET),
        "Quality": coder.check(lm, task),
        "FeatureCircuit": vc.circuits.feature_circuit(
            **on, dictionary=coder, node_threshold=0.001, edge_threshold=0, **QUIET
        ),
        "PartCurve": vc.circuits.part_curve(
            lm, task, vc.attribute(**on, units="features", dictionary=coder, **QUIET), dictionary=coder, **QUIET
        ),
        "PartRanking": vc.pruning.rank(**on, how="atp-zero", units="heads", **QUIET),
        "Pruned": vc.pruning.prune(
            **on, how=["magnitude", "random"], units="heads", share=0.3, text=["The old keys to " * 40], **QUIET
        ),
        "Lens": vc.reading.lens(**on, tokens=2, **QUIET),
        "LogitAttribution": vc.reading.dla(**on, neurons=[1], positions=True, **QUIET),
        "HeadRoles": vc.counterfactuals.head_roles(lm, task),
        "Search": vc.counterfactuals.search(lm, pool, units=["a0.h0"], **QUIET),
        "RemovalCurve": vc.effects.removal_curve(**on, scores=atp, sizes=(1, 3), pairs=3, **QUIET),
        "Steering": vc.effects.steering(**on, vectors={"r1": [0.1] * lm.width}, scales=(-1, 1), **QUIET),
        "OptimalConstants": vc.effects.optimal_constants(
            **on, units=["a0.h0", "a1.h1"], learning=vc.effects.Learning(steps=1), **QUIET
        ),
        "Recovery": vc.ground_truth.recovery(
            vc.Circuit.from_names(vc.ground_truth.load_compiled("sort")[0], sorted(program.edges)[:3]), program
        ),
        "Study": vc.study(lm, task, level="quick", **QUIET),
    }
    assert all(type(one).__name__ == name for name, one in made.items())
    return made

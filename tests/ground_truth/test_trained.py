"""The trained model does what its program does, by its circuit and by nothing else."""

from __future__ import annotations

import importlib.util
import json
import random
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
import torch

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.errors import PromptError, TaskError
from veracausa.ground_truth import criteria
from veracausa.ground_truth.interchange import graph, run
from veracausa.ground_truth.registers import SIZE, TRUE_EDGES, TRUE_NODES, WORDS, inputs, outcome, words_of

ROOT = Path(__file__).parents[2]


@cache
def loaded():
    return vc.ground_truth.load_trained(dtype=torch.float64)


def sample(n: int, seed: int = 0):
    return random.Random(seed).sample(loaded()[1].pairs(), n)


def expected(text: str) -> int:
    """The algorithm, written anew."""
    flag, one, two, shift, switch = text.split()
    registers = dict([tuple(one), tuple(two)])
    chosen = "y" if int(flag[1]) + int(switch[1]) == 1 else "x"
    return (int(registers[chosen]) + int(shift[1])) % 4


def test_answers_on_every_input():
    lm, program = loaded()
    every = program.inputs()
    with torch.no_grad():
        logits = lm.hf(torch.tensor([program.tokens(words) for words in every])).logits[:, -1]
    answers = [int(WORDS[token]) for token in logits.argmax(-1).tolist()]
    right = [expected(" ".join(words)) for words in every]
    assert len(every) == len(set(every)) == 512
    assert [program.outputs_of(words)[0] for words in every] == right == outcome(inputs()).tolist()
    assert sum(a == b for a, b in zip(answers, right, strict=True)) / 512 >= criteria.ACCURACY


def test_pairs_differ_in_one_variable_and_in_the_answer():
    lm, program = loaded()
    pairs = program.pairs()
    assert len(set(pairs)) == len(pairs)
    for pair in random.Random(0).sample(pairs, 100):
        clean, corrupted = map(" ".join, pair[:2])
        differ = [a != b for a, b in zip(pair.clean, pair.corrupted, strict=True)]
        swapped = [word[0] for word in pair.clean[1:3]] == [word[0] for word in pair.corrupted[2:0:-1]]
        assert sum(differ) == 1 or (swapped and sum(differ) == 2)
        assert expected(clean) != expected(corrupted)
        assert pair._replace(clean=pair.corrupted, corrupted=pair.clean) in pairs
    assert float(lm.measure(program.task(200)).gap.min()) > 4


def counterfactual(values: dict, source: dict, taken: set[str]) -> int:
    """The causal model written anew: every node asks for its inputs, here or on the source."""

    def node(name: str, x: dict, other: dict | None):
        def ask(edge, what, *part):
            at = other if other is not None and edge in taken else x
            return node(what, at, other if at is x else None) if not part else at[part[0]]

        if name == "flag":
            return ask("input->a0.kv1<v>", None, "flag")
        if name == "shift":
            return ask("input->a0.kv3<v>", None, "shift")
        if name == "chosen":
            return (ask("a0.h1->m0", "flag") + ask("input->m0", None, "switch")) % 2
        if name == "content":
            first = (ask("m0->a1.h2<q>", "chosen") + ask("input->a1.kv2<k>", None, "order")) % 2 == 0
            return ask("input->a1.kv2<v>", None, "first" if first else "second")
        return (ask("a1.h2->m2", "content") + ask("a0.h3->m2", "shift")) % 4

    return node("result", source if "m2->logits" in taken else values, None if "m2->logits" in taken else source)


def test_interchanges_of_the_causal_model():
    names = ("flag", "order", "first", "second", "shift", "switch")
    draw, every = random.Random(0), inputs()
    for _ in range(300):
        i, j = draw.randrange(512), draw.randrange(512)
        taken = {edge for edge in TRUE_EDGES if draw.random() < 0.3}
        found = outcome(every[i : i + 1], every[j : j + 1], torch.tensor([[edge in taken for edge in TRUE_EDGES]]))
        by_name = [dict(zip(names, every[row].tolist(), strict=True)) for row in (i, j)]
        assert int(found) == counterfactual(*by_name, taken)


def test_the_plain_run_is_the_model():
    """Without interchanges it is the model's own run, with all of them the source's (float64 rounding)."""
    lm, _ = loaded()
    ids = criteria.tokens(inputs()[::100])
    with torch.no_grad():
        logits, writes = run(lm.hf, ids)
        torch.testing.assert_close(logits, lm.hf(ids).logits[:, -1], rtol=0, atol=1e-11)
        every = torch.ones(len(ids), lm.graph.readers, lm.graph.writers, dtype=torch.bool)
        other = run(lm.hf, ids, every, writes.roll(1, 0))[0]
    torch.testing.assert_close(other, logits.roll(1, 0), rtol=0, atol=1e-11)


def test_the_criteria_hold_on_held_out_inputs():
    train, held = criteria.split()
    assert len(held) == 102 and len(torch.cat([train, held]).unique(dim=0)) == 512
    found = criteria.judge(loaded()[0].hf, held)
    assert found.hold, str(found)
    assert len(found.leaks) == 10 and len(found.nodes) == 5


def test_the_criteria_refuse_another_model():
    lm, _ = vc.ground_truth.load_trained(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # heads outside the circuit begin to copy something of the input
        for weight in (lm.hf.transformer.h[2].attn.c_attn.weight, lm.hf.transformer.h[2].attn.c_proj.weight):
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    found = criteria.judge(lm.hf, criteria.split()[1])
    assert not found.hold and max(found.leaks, key=found.leaks.get).startswith("a2")


def test_stored_truth_is_what_the_definition_gives():
    """On a sample of pairs, by plain runs, which are also what the engine finds."""
    lm, program = loaded()
    pairs = sample(12)
    names, shares = criteria.effects(lm.hf, program, pairs)
    task = program.task_of(pairs)
    for units in ("edges", "heads", "mlps"):
        ours = vc.exact(lm, task, units=units, show_progress=False)
        theirs = shares[:, [names.index(name) for name in ours.units.names]] * ours.gap[:, None]
        torch.testing.assert_close(ours.values, theirs, rtol=0, atol=1e-9)
    largest = dict(zip(names, shares.abs().amax(0).tolist(), strict=True))
    true = program.edges | program.nodes
    assert max(share for name, share in largest.items() if name not in true) <= program.largest_false + 1e-6
    assert program.edges == set(TRUE_EDGES) and program.nodes == set(TRUE_NODES)


def test_true_parts_stand_clear_of_false_ones():
    lm, program = loaded()
    assert program.largest_false < program.floor < program.smallest_true
    scores = vc.exact(lm, program.task(100), units="edges", show_progress=False)
    found = vc.ground_truth.recovery(scores, program, by="mean_abs")
    assert found.auroc == 1 and found.average_precision == pytest.approx(1)
    assert vc.ground_truth.recovery(scores, program, by="mean_abs", nodes=True).f1 == 1


def test_the_true_circuit_alone_does_it():
    """All false edges carry the corrupted run's writes, many at once, so more may leak than by each alone."""
    lm, program = loaded()
    task = program.task(50)
    found = run_circuits(lm, task, [vc.Circuit.from_names(lm, sorted(program.edges)).mask], show_progress=False)
    missing = (found.metric[0] - found.measured.clean).abs() / found.measured.gap
    assert float(missing.max()) < 0.25 and float(missing.mean()) < 0.05


def test_contracts():
    assert all(check.ok for check in loaded()[0].check())


def test_the_script_learns(tmp_path):
    spec = importlib.util.spec_from_file_location("train", ROOT / "scripts" / "train_ground_truth.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.ROWS = 32
    hf = script.untrained(0)
    history = script.train(hf, criteria.split()[0], 25, 0)
    for name in ("behaviour", "interchange", "strictness"):
        first, last = (sum(step[name] for step in part) / 5 for part in (history[:5], history[-5:]))
        assert last < 0.8 * first, name  # from ln 21 towards ln 4
    one, other = (script.train(script.untrained(0), criteria.split()[0], 2, 0) for _ in range(2))
    assert one == other


def test_masks_are_the_graph():
    hf = loaded()[0].hf
    true, false = criteria.masks(hf)
    assert true.sum((1, 2)).tolist() == [1] * len(TRUE_EDGES)
    assert int(true.any(0).sum() + false.sum()) == graph(hf).size == 262
    assert not (true.any(0) & false).any()


def test_files_are_small():
    folder = files("veracausa.ground_truth") / "data"
    assert len((folder / "registers.safetensors").read_bytes()) < 300_000
    header = json.loads((folder / "registers.json").read_text(encoding="utf-8"))
    assert header["pairs"] == len(loaded()[1].pairs())


def test_what_cannot_be_is_said():
    _, program = loaded()
    assert program.tokens(words_of(inputs()[0])) == (0, 1, 3, 7, 11, 15)
    for words in (("f1", "x1", "x2", "+0", "g0"), ("f1", "x1", "y9", "+0", "g0"), ("f1", "x1"), ()):
        with pytest.raises(PromptError, match="five words"):
            program.tokens(words)
    with pytest.raises(TaskError, match="cannot be drawn"):
        program.task(10**6)
    assert SIZE == 4 and program.task(5).name == "trained-registers"

"""Exact effects of edges against the naive reference, which rewrites one projection's input.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT).
"""

import dataclasses

import naive_edges
import numpy as np
import pytest
import tiny_models
import torch
from bridges import naive_metric

import veracausa as vc
from veracausa.anatomy.graph import Graph
from veracausa.engine.recording import record
from veracausa.engine.writes import SITES, writes_until
from veracausa.errors import MethodError, UnitError
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_edges
from veracausa.units.unit_names import parse_edges

FAMILIES = tiny_models.FAMILIES
FEW = ("llama", "gpt_neox", "gemma2")


def exact(lm, task, units="edges", **options):
    return vc.exact(lm, task, units=units, show_progress=False, **options)


def theirs(lm, task, names, **options):
    rows = []
    for i in range(len(task)):
        here = [name for name in names if "@" not in name or int(name.split("@")[1]) < task.lengths[i]]
        found = iter(
            naive_edges.edge_effects(
                lm.hf, lm.name, task.clean[i], task.corrupted[i], naive_metric(lm, task, i), here, **options
            )
        )
        rows.append(torch.stack([next(found) if name in here else torch.tensor(float("nan")) for name in names]))
    return torch.stack(rows)


@pytest.mark.cases(1)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_edge(tiny, task_of, agree, family, direction):
    lm, task = tiny(family), task_of((5, 7), n=2)
    scores = exact(lm, task, direction=direction)
    assert len(scores) == lm.graph.size
    values = theirs(lm, task, scores.units.names, direction=direction)
    agree(scores.values, values, scores.gap)
    assert (values.abs() > 1e-6).double().mean() > 0.9  # otherwise anything agrees


@pytest.mark.parametrize("family", FEW)
def test_zero_ablation(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 7), n=2)
    scores = exact(lm, task, all_edges(lm)[::7], ablation="zero")
    agree(scores.values, theirs(lm, task, scores.units.names, ablation="zero"), scores.gap)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_per_position(tiny, task_of, agree, family, direction):
    """Before the first difference 0, beyond a prompt's end NaN."""
    lm, task = tiny(family), task_of((5, 7), n=2)
    scores = exact(lm, task, all_edges(lm, 7)[3::29], direction=direction)
    agree(scores.values, theirs(lm, task, scores.units.names, direction=direction), scores.gap)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("options", [{"rows": 1}, {"rows": 7}, {"share_prefix": False}])
def test_chunks_and_the_prefix_change_nothing(tiny, task_of, agree, family, options):
    lm, task = tiny(family), task_of((5, 7), n=2)
    chosen = all_edges(lm)[::3]
    scores = exact(lm, task, chosen)
    agree(exact(lm, task, chosen, **options).values, scores.values, scores.gap)


def test_one_order_of_edges_or_another(tiny, task_of, agree):
    lm, task = tiny("llama"), task_of((5, 7), n=3)
    every = exact(lm, task)
    shuffled = np.random.default_rng(0).permutation(len(every))
    agree(exact(lm, task, every.units[shuffled]).values, every.values[:, shuffled], every.gap)
    agree(exact(lm, task[1]).values[0], every.values[1], every.gap)


@pytest.mark.parametrize("family", FAMILIES)
def test_writes_and_constants_add_up_to_the_stream(tiny, task_of, family):
    """Contract 2: what remains is the same at all positions of all prompts (output biases)."""
    lm, task = tiny(family), task_of(6, n=2)
    with torch.no_grad():
        state, _ = record(lm.decoder, torch.tensor(task.clean), sites=SITES)
        rest = state.residual[-1] - writes_until(lm.decoder, state, lm.graph.writers).sum(0)
    torch.testing.assert_close(rest, rest[:1, :1].expand_as(rest), rtol=0, atol=1e-11)


def test_what_does_not_move_costs_nothing(tiny, task_of):
    """The logits are read at the last position, where the prompts' own tokens agree: input->logits is 0 and free."""
    lm, task = tiny("llama"), task_of(6, n=1)
    recorded = vc.exact(lm, task, units=["a2.h0->logits"], show_progress=False).cost.forward
    scores = exact(lm, task, ["input->logits", "a2.h0->logits"])
    assert scores.values[0, 0] == 0 and scores.values[0, 1] != 0 and scores.cost.forward == recorded


def test_cost_in_token_layers(tiny):
    """n = 6, L = 3, first difference at 2, S = 4; see `edge_rows`."""
    lm = tiny("llama")
    task = vc.Task("hand", ((1, 2, 3, 4, 5, 6),), ((1, 2, 9, 4, 5, 6),), ((7,),), ((8,),))
    base = exact(lm, task, ["input->logits"]).cost.forward
    assert exact(lm, task, ["a0.h0->logits"]).cost.forward == base
    # the attention module once for both readers; then two rows from the middle of block 1 on
    both = exact(lm, task, ["a0.h0->a1.h0<q>", "a0.h0->a1.kv0<v>"]).cost.forward
    assert both == base + 4 * (1 + 2 * 2)
    assert exact(lm, task, ["a0.h0->m1"]).cost.forward == base + 4 * (1 + 1)  # the MLP itself, then block 2


def test_scores_of_edges_are_saved_loaded_and_tabled(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(6, n=2)
    scores = exact(lm, task)
    again = vc.open(scores.save(tmp_path / "edges.safetensors"))
    assert torch.equal(again.values, scores.values) and again.units.names == scores.units.names
    assert again.units.digest() == scores.units.digest()
    table = scores.top(4)
    assert list(table.columns)[:4] == ["name", "writer", "reader", "layer"]
    assert (table["name"] == table["writer"] + "->" + table["reader"]).all()


def test_a_killed_run_continues(tiny, task_of, tmp_path, monkeypatch):
    lm, task = tiny("llama"), task_of((5, 7), n=2)
    whole = exact(lm, task)

    class Killed(Exception):
        pass

    from veracausa.effects.edge_rows import EdgeRows

    chunk, left = EdgeRows.chunk, [4]

    def dying(*args, **how):
        left[0] -= 1
        if not left[0]:
            raise Killed
        return chunk(*args, **how)

    monkeypatch.setattr(EdgeRows, "chunk", dying)
    with pytest.raises(Killed):
        exact(lm, task, rows=20, out=tmp_path)
    monkeypatch.setattr(EdgeRows, "chunk", chunk)
    again = exact(lm, task, rows=20, out=tmp_path)
    torch.testing.assert_close(again.values, whole.values, rtol=0, atol=1e-9)


def test_names(tiny):
    lm = tiny("llama")
    every = all_edges(lm)
    assert parse_edges(lm, every.names).digest() == every.digest()
    assert all_edges(lm, 2).names[:2] == ["input->a0.h0<q>@0", "input->a0.h0<q>@1"]
    assert "edges" in repr(every)


@pytest.mark.parametrize(
    ("units", "words"),
    [
        (["a0.h0->a0.h1<q>"], ["cannot exist"]),
        (["a0.h0->m1", "a0.h0->m1"], ["twice", "a0.h0->m1"]),
        (["a0.h0->m1@2", "a0.h0->m1"], ["with @"]),
        (["a0.h0->m1", "a0.h0"], ["'a0.h0'", "a9.h6->m10"]),
        (["a0.h0->m1@99"], ["99", "longest"]),
        ("edges@7", ["edges@7"]),
        (["wheel->m1"], ["wheel"]),
    ],
)
def test_names_that_are_wrong(tiny, task_of, units, words):
    with pytest.raises(UnitError) as caught:
        exact(tiny("llama"), task_of(6), units)
    assert all(word in str(caught.value) for word in words), caught.value


def test_tables_that_are_wrong(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    foreign = Graph(5, 2, 2)
    with pytest.raises(UnitError, match="layers=5"):
        exact(lm, task, Edges.of(foreign, np.array([0]), np.array([0])))
    with pytest.raises(UnitError, match="cannot exist"):
        exact(lm, task, Edges.of(lm.graph, np.array([5]), np.array([0])))
    with pytest.raises(UnitError, match="empty"):
        exact(lm, task, all_edges(lm)[:0])


@pytest.mark.parametrize("options", [{"ablation": "mean"}, {"ablation": "resample"}, {"direction": "up"},
                                     {"ablation": "zero", "direction": "denoising"}])  # fmt: skip
def test_meaningless_options(tiny, task_of, options):
    with pytest.raises(MethodError):
        exact(tiny("llama"), task_of(6), ["a0.h0->m1"], **options)


def test_kept_positions_are_those_of_the_table(tiny, task_of):
    """A position before the first difference cannot change anything."""
    lm, task = tiny("llama"), task_of(6, n=1)
    start = next(t for t, (a, b) in enumerate(zip(task.clean[0], task.corrupted[0], strict=True)) if a != b)
    scores = exact(lm, task, all_edges(lm, 6))
    before = scores.units.position < start
    assert before.any() and (scores.values[0, before] == 0).all()
    assert dataclasses.replace(scores).values[0, ~before].abs().max() > 1e-3

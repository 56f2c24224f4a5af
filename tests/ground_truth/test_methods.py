"""Estimates of edges and runs of circuits on every compiled program, where attention looks both ways.

Tolerance: 1e-9 of the gap in float64. A program's gap is its output's difference, at most 2.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.circuits.selection.iterated import iterate
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.estimates.presets import EDGE_PRESETS
from veracausa.ground_truth import COMPILED, truth

every_program = pytest.mark.parametrize("name", COMPILED)
EXACT = 1e-9


@cache
def loaded(name: str, n: int = 3):
    """Model, program, and pairs of different lengths."""
    lm, program = vc.ground_truth.load_compiled(name, dtype=torch.float64)
    pairs = program.pairs()
    return lm, program, program.task_of(pairs[:: len(pairs) // n][:n])


def score(name: str, method: str):
    lm, _, task = loaded(name)
    return vc.attribute(lm, task, units="edges", method=method, show_progress=False)


@pytest.mark.cases(2)
@every_program
def test_all_edges_none_the_true_ones_and_all_but_one(name):
    """Contract 4, and that the true circuit alone does what the program does."""
    lm, program, task = loaded(name)
    effects = vc.exact(lm, task, units="edges", show_progress=False)
    whole = all_edges_mask(lm.graph)
    masks = [whole, np.zeros_like(whole), vc.Circuit.from_names(lm, sorted(program.edges)).mask]
    chosen = range(0, len(effects), max(1, len(effects) // 10))
    for edge in chosen:
        masks.append(whole.copy())
        masks[-1][effects.units.reader[edge], effects.units.writer[edge]] = False
    found = run_circuits(lm, task, masks, show_progress=False)
    assert float((found.metric[0] - found.measured.clean).abs().max()) < EXACT
    assert float((found.metric[1] - found.measured.corrupted).abs().max()) < EXACT
    # attention of a false edge leaks up to 2e-5 of the gap into true ones
    assert float((found.metric[2] - found.measured.clean).abs().max()) < truth.THRESHOLD
    error = found.metric[3:].T - found.measured.clean[:, None] - effects.values[:, list(chosen)]
    assert float(error.abs().max()) < EXACT


@pytest.mark.cases(1)
@every_program
def test_every_method_scores_every_edge(name):
    lm, _, task = loaded(name)
    for method in EDGE_PRESETS.keys() - {"geodesic-ig"}:
        values = score(name, method).values
        assert values.shape == (len(task), lm.graph.size) and torch.isfinite(values).all(), method


@pytest.mark.parametrize("name", ["histogram", "pair_balance"])
def test_the_geodesic_path_too(name):
    assert torch.isfinite(score(name, "geodesic-ig").values).all()


@pytest.mark.cases(4)
@every_program
def test_edges_of_a_writer_sum_to_its_node(name):
    """Σ_v EAP(u → v) is attribution patching of u's write; without post-norms that of z and of the MLP."""
    lm, _, task = loaded(name)
    edges = score(name, "eap")
    for units in ("heads", "mlps"):
        nodes = vc.attribute(lm, task, units=units, method="atp", show_progress=False)
        for i, unit in enumerate(nodes.units.names):
            out = edges.units.writer == lm.graph.writer_names.index(unit)
            assert float((edges.values[:, out].sum(1) - nodes.values[:, i]).abs().max()) < EXACT


@pytest.mark.cases(2)
@every_program
def test_complete_paths_sum_over_a_cut(name):
    """All edges into the logits: increments of a complete path add up to M(x′) − M(x).

    These models have no norms, so the logits read the stream linearly and the sum telescopes, whatever the grid.
    """
    lm = loaded(name)[0]
    for method in ("conductance", "ceap", "gradpath-complete"):
        found = score(name, method)
        into = found.units.reader == lm.graph.readers - 1
        assert float((found.values[:, into].sum(1) + found.gap).abs().max()) < EXACT, method


@pytest.mark.cases(2)
@every_program
def test_iterated_selection_ranks_every_edge(name):
    lm, _, task = loaded(name)
    found = iterate(lm, task, rounds=6, smallest=0.02, by="abs_mean", show_progress=False)
    assert sorted(found.ranking()) == list(range(lm.graph.size))

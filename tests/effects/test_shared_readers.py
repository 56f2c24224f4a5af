"""Edges into readers that all heads of a block share (flat norms of queries and keys, latent attention), against plain
runs of the bare model (`naive_shared_readers`).

Tolerance 1e-9 of the gap in float64 (conftest.EXACT), of slopes 1e-6: a central difference with step 1e-4 leaves
1e-8 · M''' and 1e-12 of rounding.
"""

from functools import lru_cache

import numpy as np
import pytest
import torch
from bridges import as_model, naive_metric
from naive_shared_readers import FAMILIES, Bare
from tiny_models import make

import veracausa as vc
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.errors import UnitError
from veracausa.units.every_unit import all_edges

FAST = ("olmo2", "deepseek_v3", "deepseek_v3-whole")
EVERY = [pytest.param(one, marks=[] if one in FAST else pytest.mark.slow) for one in FAMILIES]
QUIET = {"show_progress": False}


@lru_cache
def setting(family):
    """The model, and its bare self."""
    name, _, whole = family.partition("-")
    hf = make(name, seed=1, **({"q_lora_rank": None} if whole else {}))
    return as_model(hf, name), Bare(hf, family)


def exact(lm, task, units, **options):
    return vc.exact(lm, task, units=units, **QUIET, **options)


def pair(task):
    return list(task.clean[0]), list(task.corrupted[0])


@pytest.mark.parametrize("family", EVERY)
def test_exact_effects_and_slopes_are_those_of_plain_runs(family, task_of, agree):
    (lm, bare), task = setting(family), task_of(6)
    metric, asked = naive_metric(lm, task, 0), all_edges(lm)[:: 1 if family == "olmo2" else 3]
    ours = exact(lm, task, asked)
    theirs = torch.tensor(bare.effects(metric, *pair(task), asked.names), dtype=torch.float64)
    agree(ours.values[0], theirs, ours.gap)
    assert (theirs.abs() > 1e-7).double().mean() > 0.7  # otherwise anything agrees (windows hide some)
    some = asked[::2]
    eap = vc.attribute(lm, task, units=some, method="eap", **QUIET)
    slopes = bare.slopes(metric, *pair(task), some.names)
    agree(eap.values[0], torch.tensor(slopes, dtype=torch.float64), eap.gap, 1e-6)


@pytest.mark.parametrize("family", EVERY)
def test_at_positions_from_the_other_side_and_of_nothing(family, task_of, agree):
    (lm, bare), task = setting(family), task_of(6)
    metric = naive_metric(lm, task, 0)
    shared = [name for name in lm.graph.reader_names if name.startswith("a1<")]
    names = [f"{writer}->{reader}" for reader in shared for writer in ("input", "a0.h2", "m0")]
    placed = [f"{name}@{position}" for name in names for position in (3, 5)]
    own, other = pair(task)
    for asked, options, ends in (
        (placed, {}, (own, other)),
        (names, {"direction": "denoising"}, (other, own)),
        (names, {"ablation": "zero"}, (own, other)),
    ):
        ours = exact(lm, task, asked, **options)
        theirs = bare.effects(metric, *ends, asked, zero="ablation" in options)
        agree(ours.values[0], torch.tensor(theirs, dtype=torch.float64), ours.gap)
    positions = vc.attribute(lm, task, units="edges@positions", method="eap", **QUIET)
    whole = vc.attribute(lm, task, units="edges", method="eap", **QUIET)
    summed = torch.zeros(len(whole), dtype=torch.float64)
    index = {name: i for i, name in enumerate(whole.units.names)}
    rows = torch.tensor([index[name.partition("@")[0]] for name in positions.units.names])
    summed.index_add_(0, rows, positions.values[0].double())
    agree(summed, whole.values[0], whole.gap)


@pytest.mark.parametrize("family", EVERY)
def test_integrated_gradients_and_patterns(family, task_of, agree):
    """EAP-IG: slopes at points between the prompts' embeddings; qk-exact: the whole change of z by a reader."""
    (lm, bare), task = setting(family), task_of(6)
    metric = naive_metric(lm, task, 0)
    names = [f"{w}->{r}" for r in lm.graph.reader_names if r.startswith("a2") for w in ("a0.h1", "m1")]
    ours = vc.attribute(lm, task, units=names, method="eap-ig", **QUIET)
    points = [(1 - k / 5, 1 / 5) for k in range(5)]
    theirs = bare.slopes(metric, *pair(task), names, points)
    agree(ours.values[0], torch.tensor(theirs, dtype=torch.float64), ours.gap, 1e-6)
    values = [name for name in names if name.endswith("<v>")]
    recomputed = [name for name in names if name not in values]
    patterns = vc.attribute(lm, task, units=recomputed, method="qk-exact", **QUIET)
    theirs = through_z(bare, metric, *pair(task), recomputed)
    agree(patterns.values[0], torch.tensor(theirs, dtype=torch.float64), patterns.gap)


def through_z(bare, metric, own, other, names):
    """(z that a reader makes of another stream − z) · ∂M/∂z at the clean run."""
    embeds = bare.embedded(own)
    base, towards = bare.run(embeds), bare.run(bare.embedded(other))

    def z_of(name, change):
        writer, reader = name.split("->")
        layer, seen = int(reader[1]), []
        keep = bare.blocks[layer].self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        told = bare.hears(reader, base.stream[layer] + change * (towards.writes[writer] - base.writes[writer]))
        value = metric(bare.logits(embeds.clone().requires_grad_(), told, keep))
        return seen[0], value

    found = []
    for name in names:
        before, value = z_of(name, 0)
        slope = torch.autograd.grad(value, before)[0]
        found.append(((z_of(name, 1)[0] - before) * slope).sum().item())
    return found


@pytest.mark.parametrize("family", EVERY)
def test_circuits_are_those_of_plain_runs(family, task_of, agree):
    (lm, bare), task = setting(family), task_of(6)
    metric, graph, whole = naive_metric(lm, task, 0), lm.graph, all_edges_mask(lm.graph)
    draws = np.random.default_rng(3)
    masks = [whole & (draws.random(whole.shape) < share) for share in (0.8, 0.5)]
    ours = run_circuits(lm, task, [whole, np.zeros_like(whole), *masks], **QUIET)
    zero = run_circuits(lm, task, masks, ablation="zero", **QUIET)
    measured = ours.measured
    agree(ours.metric[:2, 0], torch.stack([measured.clean[0], measured.corrupted[0]]), measured.gap)
    for mask, found, other in zip(masks, ours.metric[2:, 0], zero.metric[:, 0], strict=True):
        kept = {f"{graph.writer_names[w]}->{graph.reader_names[r]}" for r, w in np.argwhere(mask)}
        theirs = bare.circuit(metric, *pair(task), kept, graph.reader_names)
        agree(found, torch.tensor(theirs, dtype=torch.float64), measured.gap)
        theirs = bare.circuit(metric, *pair(task), kept, graph.reader_names, zero=True)
        agree(other, torch.tensor(theirs, dtype=torch.float64), measured.gap)


@pytest.mark.parametrize("family", EVERY)
def test_paths_through_a_shared_reader(family, task_of, agree):
    """a0.h1 → the reader → logits: what all heads write otherwise because of it alone, seen by the logits alone."""
    (lm, bare), task = setting(family), task_of(6)
    metric, (own, other) = naive_metric(lm, task, 0), pair(task)
    shared = [name for name in lm.graph.reader_names if name.startswith("a1<")]
    ours = exact(lm, task, [f"a0.h1->{reader}->logits" for reader in shared])
    embeds = bare.embedded(own)
    base, towards = bare.run(embeds), bare.run(bare.embedded(other))
    theirs = []
    for reader in shared:
        told = bare.hears(reader, base.stream[1] + towards.writes["a0.h1"] - base.writes["a0.h1"])
        new = bare.run(embeds, told).writes
        change = sum(new[f"a1.h{h}"] - base.writes[f"a1.h{h}"] for h in range(lm.heads))
        theirs.append(bare.edge(metric, embeds, base, "a1->logits", change) - float(metric(base.logits)))
    agree(ours.values[0], torch.tensor(theirs, dtype=torch.float64), ours.gap)
    with pytest.raises(UnitError, match="its heads share a1<"):
        exact(lm, task, [f"a0.h1->a1.h0<{lm.graph.joint[0][0]}>->logits"])
    with pytest.raises(UnitError, match=r"a1\.h0 reads nothing by itself"):
        exact(lm, task, ["a0.h1->a1.h0->logits"])

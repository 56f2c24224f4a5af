"""Errors that public implementations make or made without a word; each has its test here, by its name.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT); 1e-8 where a path over the input amplifies rounding.
"""

import dataclasses

import naive
import naive_edges
import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.exchange.eap_json import write_eap_json
from veracausa.circuits.exchange.graphml import write_csv, write_graphml
from veracausa.circuits.runs.ablations import mean_writes
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.cost import Cost
from veracausa.engine.circuit_forward import all_edges_mask, wiring_of
from veracausa.errors import FileError, MethodError, PromptError, UnitError
from veracausa.estimates.presets import EDGE_PRESETS
from veracausa.units.every_unit import all_edges

METHODS = ["exact", *EDGE_PRESETS]
BATCHES = ("estimates.attribute", "effects.plan", "engine.measure", "circuits.runs.tapes")


def masks_of(lm, seed=0):
    whole = all_edges_mask(lm.graph)
    return [whole & (np.random.default_rng([seed, k]).random(whole.shape) < 0.5) for k in range(2)]


def in_batches_of(monkeypatch, size):
    for module in BATCHES:
        monkeypatch.setattr(f"veracausa.{module}.examples_per_batch", lambda *_, size=size, **__: size)


# ---- mean ablation ---------------------------------------------------------------------------------------------------


def test_mean_ablation_averages_over_examples_at_each_position_and_of_each_node(tiny, task_of):
    """Not over nodes, and not over the last token only: those constants are others, and so are the effects."""
    lm, task = tiny("llama"), task_of(6, n=3)
    prompts = [*task.clean, *task.corrupted]
    z = torch.stack([naive.activations(lm.hf, lm.name, ids)["z"][1] for ids in prompts]).unflatten(-1, (lm.heads, -1))
    right = z.mean(0)[:, 2]  # [positions, head_dim] of a1.h2
    wrong = {"over nodes": z.mean((0, 2)), "the last token only": z[:, -1:].mean(0)[:, 2].expand_as(right),
             "over positions": z.mean((0, 1))[2].expand_as(right)}  # fmt: skip
    effect = vc.exact(lm, task, units=["a1.h2"], ablation="mean", show_progress=False).values[0, 0]

    def patched(value):
        columns = slice(2 * z.shape[-1], 3 * z.shape[-1])

        def hook(_, args):
            changed = args[0].clone()
            changed[0, :, columns] = value
            return (changed,)

        handle = lm.decoder.blocks[1].attention_out.register_forward_pre_hook(hook)
        try:
            logits = lm.hf(torch.tensor([task.clean[0]])).logits[0, -1]
        finally:
            handle.remove()
        return logits[task.correct[0][0]] - logits[task.incorrect[0][0]]

    with torch.no_grad():
        gap, clean = float(lm.measure(task).gap[0].abs()), patched(z[0, :, 2])
        assert abs(effect - (patched(right) - clean)) < 1e-9 * gap
        for name, value in wrong.items():
            assert abs(effect - (patched(value) - clean)) > 1e-3 * gap, name


def test_means_of_circuits_are_each_writers_own_at_each_position(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=3)
    ours = mean_writes(lm, task, task.lengths, Cost())
    traces = [naive_edges.trace(lm.hf, lm.name, ids).writes for ids in (*task.clean, *task.corrupted)]
    every = torch.stack([torch.stack([one[name] for name in lm.graph.writer_names]) for one in traces])
    torch.testing.assert_close(ours, every.mean(0), rtol=0, atol=1e-12)
    for wrong in (every.mean((0, 1)), every[:, :, -1:].mean(0), every.mean((0, 2))[:, None]):
        assert (ours - wrong).abs().max() > 0.1


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", tiny_models.mostly_slow(METHODS, [one for one in METHODS if one != "geodesic-ig"]))
def test_scores_do_not_depend_on_the_batch_size(tiny, task_of, agree, monkeypatch, method):
    """Five pairs of one length in batches of 5, 2 and 1: the last batch of 2 is a partial one, and not dropped."""
    lm, task = tiny("llama"), task_of(6, n=5, seed=4)

    def scores():
        if method == "exact":
            return vc.exact(lm, task, units=all_edges(lm)[::9], show_progress=False)
        return vc.attribute(lm, task, units="edges", method=method, show_progress=False)

    whole = scores()
    assert whole.values.shape[0] == 5 and not whole.values.isnan().any()
    for size in (2, 1):
        in_batches_of(monkeypatch, size)
        part = scores()
        agree(part.values, whole.values, whole.gap, 1e-8)
        assert (part.values[4].abs() > 0).any()
        assert part.mean().tolist() == pytest.approx(whole.mean().tolist(), abs=1e-7)


def test_circuits_do_not_depend_on_the_batch_size(tiny, task_of, agree, monkeypatch):
    lm, task = tiny("llama"), task_of(6, n=5)
    whole = run_circuits(lm, task, masks_of(lm), show_progress=False)
    for size in (2, 1):
        in_batches_of(monkeypatch, size)
        part = run_circuits(lm, task, masks_of(lm), show_progress=False)
        agree(part.metric, whole.metric, whole.measured.gap)
        agree(part.kl, whole.kl, whole.measured.gap)
        agree(part.measured.clean, whole.measured.clean, whole.measured.gap)


# ---- prompts ---------------------------------------------------------------------------------------------------------


def test_a_corrupted_prompt_of_another_length_is_refused():
    with pytest.raises(PromptError, match="4 tokens and the corrupted one 3"):
        vc.Task("lengths", ((1, 2, 3, 4),), ((1, 2, 3),), ((5,),), ((6,),))


# ---- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_edges_that_cannot_exist_are_not_counted(tiny, task_of, family):
    """Shares and sizes are of edges that exist: a head's readers see no head of their own layer or of a later one."""
    lm = tiny(family)
    graph, task = lm.graph, task_of(6, n=1)
    heads, kv, parallel = lm.heads, lm.kv_heads, graph.parallel
    before = [1 + layer * (heads + 1) for layer in range(lm.layers)]
    count = sum((heads + 2 * kv) * n + n + (0 if parallel else heads) for n in before) + 1 + lm.layers * (heads + 1)
    assert graph.size == count == all_edges_mask(graph).sum() == len(all_edges(lm))
    scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    every = vc.select(scores, n=graph.size, how="abs", prune=False)
    assert every.share == 1 and len(every) == count
    with pytest.raises(MethodError, match=f"{count:,}"):
        vc.select(scores, n=graph.size + 1)
    with pytest.raises(UnitError, match="cannot exist"):
        Circuit.from_names(lm, ["a1.h0->a1.h1<q>"])


def test_dead_edges_count_as_kept_but_not_as_living(tiny):
    """A curve says how many of the kept edges can matter; edges of a circuit that lead nowhere are no achievement."""
    lm = tiny("llama")
    circuit = Circuit.from_names(lm, ["a0.h0->m1", "m1->a2.h0<q>", "input->logits"])
    assert len(circuit) == 3 and wiring_of(lm.decoder, circuit.mask).living.sum() == 1
    assert circuit.prune().names == ["input->logits"]


# ---- attention implementations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3"])
def test_sdpa_gives_what_eager_gives(task_of, agree, family):
    task, found = task_of((5, 6), n=2, seed=4), []
    for attention in ("eager", "sdpa"):
        lm = as_model(tiny_models.make(family, seed=1, attn_implementation=attention), family)
        assert lm.hf.config._attn_implementation == attention
        exact = vc.exact(lm, task, units=all_edges(lm)[::7], show_progress=False)
        estimates = [vc.attribute(lm, task, units="edges", method=method, show_progress=False).values
                     for method in ("eap-ig", "qk-exact", "gim")]  # fmt: skip
        circuits = run_circuits(lm, task, masks_of(lm), show_progress=False).metric
        found.append((exact.values, *estimates, circuits))
        assert lm.hf.config._attn_implementation == attention
    for eager, sdpa in zip(*found, strict=True):
        agree(sdpa, eager, exact.gap)


# ---- grouped keys and values -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ungrouped():
    """The tiny Llama with grouped keys and values, and the same function with one key and one value head per query."""
    grouped = tiny_models.make("llama", seed=1)
    group = grouped.config.num_attention_heads // grouped.config.num_key_value_heads
    single = tiny_models.make("llama", seed=1, num_key_value_heads=grouped.config.num_attention_heads)
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weight.unflatten(0, (grouped.config.num_key_value_heads, -1))
            weights[name] = heads.repeat_interleave(group, 0).flatten(0, 1)
    single.load_state_dict(weights)
    return as_model(grouped, "llama"), as_model(single, "llama")


def ends_in(grouped, name):
    """Names, in the ungrouped model, of the edges that a grouped model's edge stands for."""
    writer, reader = name.split("->")
    if ".kv" not in reader:
        return [name]
    stem, rest = reader.split(".kv")
    group, kind = grouped.heads // grouped.kv_heads, rest[-3:]
    return [f"{writer}->{stem}.kv{int(rest[:-3]) * group + i}{kind}" for i in range(group)]


def test_edges_into_keys_and_values_are_of_the_whole_group(ungrouped, task_of, agree):
    """A key/value edge is one edge: its slope is the sum over its query heads, its effect that of all at once."""
    (grouped, single), task = ungrouped, task_of((5, 7), n=2)
    of = {name: i for i, name in enumerate(all_edges(single).names)}
    parts = [[of[part] for part in ends_in(grouped, name)] for name in all_edges(grouped).names]
    assert sum(map(len, parts)) == single.graph.size > grouped.graph.size
    eap, theirs = (vc.attribute(lm, task, units="edges", method="eap", show_progress=False) for lm in (grouped, single))
    agree(eap.values, torch.stack([theirs.values[:, part].sum(1) for part in parts], 1), eap.gap)
    masks, chosen = [], range(0, grouped.graph.size, 7)
    for edge in chosen:
        masks.append(all_edges_mask(single.graph))
        for part in parts[edge]:
            masks[-1][theirs.units.reader[part], theirs.units.writer[part]] = False
    found = run_circuits(single, task, masks, show_progress=False)
    exact = vc.exact(grouped, task, units=all_edges(grouped)[list(chosen)], show_progress=False)
    agree(exact.values, (found.metric - found.measured.clean).T, exact.gap)


def test_a_circuit_of_grouped_edges_is_that_of_all_their_heads(ungrouped, task_of, agree):
    (grouped, single), task = ungrouped, task_of((5, 7), n=2)
    names = np.random.default_rng(0).permutation(all_edges(grouped).names)[:110].tolist()
    own = vc.faithfulness(grouped, task, Circuit.from_names(grouped, names), show_progress=False)
    spread = Circuit.from_names(single, [part for name in names for part in ends_in(grouped, name)])
    agree(own.metric, vc.faithfulness(single, task, spread, show_progress=False).metric, own.measured.gap)
    assert 0.01 < abs(own.f) < 50  # neither nothing nor everything


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_an_empty_circuit_is_the_corrupted_run_and_says_so(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 7), n=2)
    empty = Circuit.of(lm.graph, np.array([], dtype=int), np.array([], dtype=int))
    found = vc.faithfulness(lm, task, empty, show_progress=False)
    assert found.f == pytest.approx(0, abs=1e-12) and found.edges == 0 and "0 edges" in repr(found)
    assert empty.nodes == [] and empty.prune() is empty and "no edges" in repr(empty)


@pytest.mark.parametrize("kind", ["json", "graphml", "csv", "eap"])
def test_a_file_that_cannot_be_finished_leaves_the_old_one_whole(tiny, tmp_path, monkeypatch, kind):
    lm = tiny("llama")
    circuit, path = Circuit.from_names(lm, ["input->m0", "m0->logits"]), tmp_path / f"circuit.{kind}"
    save = {
        "json": Circuit.save, "graphml": write_graphml, "csv": write_csv,
        "eap": lambda circuit, path: write_eap_json(lm, path, circuit=circuit),
    }[kind]  # fmt: skip
    save(circuit, path)
    before = path.read_bytes()
    larger = dataclasses.replace(Circuit.from_names(lm, ["input->m0", "m0->m1", "m1->logits"]), method="another")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    for name in ("replace", "rename"):
        monkeypatch.setattr(f"os.{name}", full)
        monkeypatch.setattr(f"pathlib.Path.{name}", full)
    with pytest.raises(FileError, match=path.name):
        save(larger, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no rest of the new one either

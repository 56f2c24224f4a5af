"""Information flow routes: against the formula written out, writer by writer and position by position."""

import naive_edges
import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.errors import GapError, MethodError, UnitError
from veracausa.units.every_unit import all_edges


def flow(lm, task, units="edges", **options):
    return vc.attribute(lm, task, units=units, method="ifr", show_progress=False, **options)


def by_hand(lm, ids):
    """Name → share of every edge, from the naive trace of one prompt."""
    graph, run = lm.graph, naive_edges.trace(lm.hf, lm.name, ids)
    found = {}
    for r, reader in enumerate(graph.reader_names):
        layer, mlp = int(graph.reader_layer[r]), reader.startswith("m")
        stream = run.middle[layer] if mlp else run.stream[layer]
        seen = [name for w, name in enumerate(graph.writer_names) if graph.sees(r, w)]
        at = range(len(ids)) if reader != "logits" else [len(ids) - 1]
        for t in at:
            y = stream[t]
            near = {u: max(0.0, float(y.abs().sum() - (y - run.writes[u][t]).abs().sum())) for u in seen}
            for u in seen:
                name = f"{u}->{reader}"
                found[name] = found.get(name, 0) + near[u] / (sum(near.values()) or 1) / len(at)
    return found


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_against_the_formula(tiny, task_of, family):
    """1e-9: shares lie in [0, 1], and both sides sum 24 or 32 absolute values in float64."""
    lm, task = tiny(family), task_of((5, 7), n=2)
    scores = flow(lm, task)
    with torch.no_grad():
        for i in range(2):
            theirs = by_hand(lm, task.clean[i])
            assert scores.values[i].tolist() == pytest.approx([theirs[name] for name in scores.units.names], abs=1e-9)
    assert ((scores.values > 0.01) & (scores.values < 0.5)).double().mean() > 0.2


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3"])
def test_a_readers_edges_sum_to_one_on_every_pair(tiny, task_of, family):
    lm, task = tiny(family), task_of((5, 7), n=3)
    scores = flow(lm, task)
    reader = torch.as_tensor(scores.units.reader)
    sums = torch.zeros(3, lm.graph.readers, dtype=torch.float64).index_add_(1, reader, scores.values)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-12)


def test_positions_sum_to_the_edge(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 7), n=2)
    every, single = flow(lm, task), flow(lm, task, all_edges(lm, 7))
    values = single.values.unflatten(1, (-1, 7))
    torch.testing.assert_close(values.nansum(2), every.values, rtol=0, atol=1e-12)
    assert values[task.lengths.index(5), :, 5:].isnan().all() and not values[:, :, :5].isnan().any()
    logits = torch.as_tensor(every.units.reader == lm.graph.readers - 1)
    assert (values[task.lengths.index(7), logits, :6] == 0).all()


def test_some_edges_and_single_pairs_are_those_of_all(tiny, task_of):
    lm, task = tiny("gemma2"), task_of((5, 7), n=3)
    every = flow(lm, task)
    assert torch.equal(flow(lm, task, every.units[[7, 3, 50]]).values, every.values[:, [7, 3, 50]])
    torch.testing.assert_close(flow(lm, task[1]).values[0], every.values[1], rtol=0, atol=1e-12)


def test_the_corrupted_prompt_does_not_matter(tiny, task_of):
    """Only the header's M of the corrupted run does."""
    lm, task = tiny("llama"), task_of(6)
    other = tuple((*prompt[:-1], (prompt[-1] + 1) % tiny_models.VOCAB) for prompt in task.clean)
    swapped = vc.Task("other", task.clean, other, task.correct, task.incorrect, task.metric)
    assert torch.equal(flow(lm, task).values, flow(lm, swapped).values)


def test_it_is_a_magnitude_like_any_other(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=4, seed=4)
    scores = flow(lm, task)
    assert not scores.signed and scores.verified == "not verified" and "magnitudes only" in repr(scores)
    assert scores.cost.forward == 2 * sum(task.lengths) * lm.layers and scores.cost.backward == 0
    found = vc.agreement(scores, vc.exact(lm, task, units="edges", show_progress=False))
    assert not found.signed and found.r > 0  # a hint, in random models, that shares have to do with effects
    assert vc.attribute.work(lm, task, units="edges", method="ifr").tokens() == scores.cost.token_layers
    assert len(vc.select(scores, n=60)) > 0
    assert len(vc.curve(lm, task, scores, sizes=(0.1, 1.0), show_progress=False).signed) == 2


@pytest.mark.parametrize("options", [{"direction": "denoising"}, {"baseline": "zero"}, {"nodes": 3}, {"seed": 1}])
def test_what_means_nothing_is_refused(tiny, task_of, options):
    with pytest.raises(MethodError, match="clean run"):
        flow(tiny("llama"), task_of(6), **options)


def test_nodes_and_foreign_names_are_refused(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    with pytest.raises(MethodError, match="scores edges"):
        flow(lm, task, "heads")
    with pytest.raises(UnitError, match="cannot exist"):
        flow(lm, task, ["m2->m1"])


def test_a_task_that_the_model_cannot_do_is_an_error(tiny, task_of):
    lm, task = tiny("llama", fresh=True), task_of(6)
    ends = ((*task.clean[0][:-1], 0),), ((*task.clean[0][:-1], 1),)
    with torch.no_grad():
        lm.hf.model.embed_tokens.weight[1] = lm.hf.model.embed_tokens.weight[0]
    with pytest.raises(GapError):
        flow(lm, vc.Task("none", *ends, task.correct, task.incorrect, task.metric))

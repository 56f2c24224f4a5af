"""Sources and readers at positions and spans, against masks of a triple loop on the bare model."""

from dataclasses import replace

import naive_interactions as plain
import pytest
import torch
from two_layers import QUIET, asked

import veracausa as vc
from veracausa.errors import VeracausaError
from veracausa.tasks.spans import Span

#: Spans of both pairs, (first, end) in the clean prompt and in the corrupted one; the second pair lacks "b".
STAY = ({"a": Span((1, 3), (1, 3)), "b": Span((4, 5), (4, 5))}, {"a": Span((2, 4), (2, 4))})
MOVED = ({"a": Span((1, 3), (3, 5)), "b": Span((4, 5), (1, 2))}, {"a": Span((2, 4), (2, 4))})


def spanned(family, spans):
    hf, lm, task = asked(family)
    return hf, lm, replace(task, spans=spans)


def naive(hf, lm, family, task, example, method, nodes=2):
    """J of the neurons of layer 2 by heads of layer 0 at spans "a" and "b", [numbers, positions, 2 × heads]."""
    ids, other, spans = task.clean[example], task.corrupted[example], task.spans[example]
    own, there = (plain.values(hf, family, side, ("z", 0)) for side in (ids, other))
    width, masks, baseline = lm.decoder.head_dim, [], own.clone()
    moves = any(span.moved for each in task.spans for span in each.values())
    if not moves:
        baseline = there.clone()
    for head in range(lm.heads):
        for name in ("a", "b"):
            mask = torch.zeros_like(own, dtype=torch.bool)
            if name in spans:
                (first, end), (from_, to) = spans[name].clean, spans[name].corrupted
                mask[first:end, head * width : (head + 1) * width] = True
                baseline[first:end] = there[from_:to]
            masks.append(mask)
    run = {"ig": plain.ig, "exact": plain.exact}[method]
    how = (nodes,) if method == "ig" else ()
    return run(hf, family, ids, ("z", 0), own, baseline, ("neurons", 2), masks, *how)


def close(ours, theirs):
    # float64: rounding of sums in another order
    assert torch.allclose(ours, theirs, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.cases(2)
@pytest.mark.parametrize(("family", "how", "spans"), [
    ("llama", {"method": "exact"}, STAY), ("gemma2", {"method": "exact"}, MOVED), ("gemma2", {"mode": "forward"}, STAY),
    ("gpt2", {"mode": "reverse"}, MOVED),
])  # fmt: skip
def test_sources_at_spans_move_there_alone_and_readers_are_read_there_alone(family, how, spans):
    hf, lm, task = spanned(family, spans)
    sources = ["a0.h0@a", "a0.h0@b", "a0.h1@a", "a0.h1@b"]
    every = vc.interactions(lm, task, sources, "neurons:2", nodes=2, **how, **QUIET)
    at = vc.interactions(lm, task, every.sources, "neurons:2@a", nodes=2, **how, **QUIET)
    end = vc.interactions(lm, task, every.sources, ["m2.n1@end", "m2.n0@end"], nodes=2, **how, **QUIET)
    for example in range(2):
        j = naive(hf, lm, family, task, example, every.method)[:, :, :4]  # of two heads
        first, last = task.spans[example]["a"].clean
        if example == 1:
            assert every.squares[example][:, 1::2].isnan().all()  # it has no "b"
        there = [0, 1, 2, 3] if example == 0 else [0, 2]
        close(every.squares[example][:, there], (j**2).mean(1)[:, there])
        close(at.squares[example][:, there], (j[:, first:last] ** 2).mean(1)[:, there])
        close(at.means[example][:, there], j[:, first:last].mean(1)[:, there])
        close(end.squares[example][:, there], (j[[1, 0], -1] ** 2)[:, there])
    assert at.positions.tolist() == [[2] * lm.neurons] * 2
    assert at.sources == ("a0.h0@a", "a0.h0@b", "a0.h1@a", "a0.h1@b") and at.readers[0] == "m2.n0@a"
    # the strength of what one prompt lacks is the mean over the positions of the other
    assert every.strength[0, 1] == pytest.approx(float(every.squares[0, 0, 1].sqrt()))
    assert every.spread(4).notna().all().all() and every.overlap(3).shape == (2,)
    if spans is MOVED:
        assert any("elsewhere" in note for note in every.notes)


def test_a_part_s_interaction_is_the_sum_of_those_at_its_positions():
    """Of one grid J is linear in where sources move, whatever the mode; of readers squares add up."""
    _, lm, task = asked("llama", count=3, length=[6, 8, 6])
    whole = vc.interactions(lm, task, "heads:0", "neurons:2", nodes=2, **QUIET)
    for mode in ("forward", "reverse"):
        found = vc.interactions(lm, task, "heads:0@positions", "neurons:2", nodes=2, mode=mode, **QUIET)
        assert len(found.sources) == 8 * lm.heads
        sums = found.means.nan_to_num().unflatten(2, (lm.heads, 8)).sum(-1)
        close(sums, whole.means)
        assert found.residual == pytest.approx(whole.residual, rel=1e-6)
        read = vc.interactions(lm, task, "heads:0", "neurons:2@positions", nodes=2, mode=mode, **QUIET)
        squares = read.squares.nan_to_num().unflatten(1, (lm.neurons, 8))
        close(squares.sum(2) / torch.tensor(task.lengths)[:, None, None], whole.squares)
        work = vc.interactions.work(lm, task, "heads:0", "neurons:2@5", nodes=2, mode=mode)
        one = work.run(show_progress=False)
        close(one.squares, squares[:, :, 5])
        assert one.cost.token_layers == work.tokens()
    exact = vc.interactions(lm, task, "heads:0@positions", "neurons:2", method="exact", **QUIET)
    assert exact.residual > 0


def test_a_linear_reader_s_exact_and_integrated_interactions_agree_at_spans():
    _, lm, task = spanned("llama", STAY)
    basis = vc.directions(lm, {"e": torch.eye(lm.width, dtype=torch.float64)[0]}, site="r2")
    sides = [f"m1.n{i}@{span}" for i in range(4) for span in ("a", "b")], ["d2.e@a"]
    own = [vc.interactions(lm, task, *sides, method=method, dictionary=basis, **QUIET) for method in ("ig", "exact")]
    assert torch.allclose(own[0].means, own[1].means, atol=1e-12, equal_nan=True)
    checked = vc.interplay.check(lm, task, own[0], top=2, sample=4, dictionary=basis, **QUIET)
    assert checked.known.any()


def test_random_signs_are_of_the_reader_s_positions_alone():
    _, lm, task = spanned("llama", STAY)
    exact = vc.interactions(lm, task, "heads:0@a", ["m2.n3@a", "m2.n3@end"], nodes=2, **QUIET)
    how = {"mode": "reverse", "nodes": 2, "probes": 8, "orthogonal": True}
    every = vc.interactions(lm, task, "heads:0@a", ["m2.n3@a", "m2.n3@end"], **how, **QUIET)
    close(every.squares, exact.squares)
    close(every.means, exact.means)


def test_prompts_of_unequal_lengths_are_aligned_by_their_spans():
    hf, lm, task = asked("llama", count=2, length=[6, 7])
    uneven = replace(
        task, align="last", corrupted=(task.corrupted[0][:1] + task.corrupted[0], task.corrupted[1]),
        spans=({"a": Span((1, 3), (2, 4))}, {"a": Span((1, 3), (1, 3))}),
    )  # fmt: skip
    found = vc.interactions(lm, uneven, "heads:0@a", "neurons:2", method="exact", **QUIET)
    for reader, source in ((0, 0), (3, 1)):
        one = vc.interactions(lm, uneven, [f"a0.h{source}@a"], [f"m2.n{reader}"], method="exact", **QUIET)
        close(one.squares[:, 0, 0], found.squares[:, reader, source])
    for example in range(2):
        j = naive(hf, lm, "llama", uneven, example, "exact")[:, :, ::2]
        close(found.squares[example], (j**2).mean(1))
    with pytest.raises(VeracausaError, match="spans alone correspond"):
        vc.interactions(lm, uneven, "heads:0", "neurons:2", **QUIET)


def test_places_that_mean_nothing_are_refused(tmp_path):
    last = ({"a": Span((1, 3), (1, 3))}, {"a": Span((4, 6), (4, 6))})  # which is the end, too
    apart = ({"a": Span((1, 3), (1, 3))}, {"b": Span((2, 4), (2, 4))})
    for spans, sources, readers, said in (
        (last, "heads:0@spans", "neurons:2", "share tokens"), (apart, "heads:0@a", "neurons:2@b", "No prompt"),
        (STAY, "heads:0@c", "neurons:2", "no span 'c'"), (STAY, "heads:0@9", "neurons:2", "position 9"),
        (STAY, ["a0.h0@17"], "neurons:2", "no prompt"),
    ):  # fmt: skip
        _, lm, task = spanned("llama", spans)
        with pytest.raises(VeracausaError, match=said):
            vc.interactions(lm, task, sources, readers, **QUIET)
    found = vc.interactions(lm, task, ["a0.h0@a", "a0.h1@b"], "neurons:2@end", **QUIET)
    again = vc.open(found.save(tmp_path / "found.safetensors"))
    assert repr(again) == repr(found) and again.spread().equals(found.spread())
    with pytest.raises(VeracausaError, match="reference="):
        vc.exact(lm, task, units="heads", ablation="zero", reference=task, **QUIET)

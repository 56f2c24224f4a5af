"""Patterns in groups: beside values they are the head's output; rows and parts of them; what is refused."""

from dataclasses import replace

import naive_patterns
import pytest
import tiny_models
import torch
from bridges import naive_metric

import veracausa as vc
from veracausa.errors import MethodError, UnitError
from veracausa.tasks.spans import Span
from veracausa.units.groups import is_grouped, pieces

FAMILIES = tiny_models.FAMILIES
QUIET = {"show_progress": False}


def sharing(lm, kv):
    """The query heads that share a key/value head."""
    share = lm.heads // lm.kv_heads
    return range(kv * share, (kv + 1) * share)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pattern_and_value_are_the_output(tiny, task_of, agree, family, direction):
    """A head's z is its pattern times the values that it shares: of all heads of a group, both from the other run."""
    lm, task = tiny(family), task_of((6, 8), n=2)
    kv = lm.kv_heads - 1
    heads = sharing(lm, kv)
    parts = "+".join([*(f"a1.h{head}<pattern>" for head in heads), f"a1.kv{kv}<v>"])
    scores = vc.exact(
        lm, task, units={"parts": parts, "outputs": [f"a1.h{head}" for head in heads]}, direction=direction, **QUIET
    )
    agree(scores.values[:, 0], scores.values[:, 1], scores.gap)
    assert scores.values.abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_one_pattern_of_a_shared_value_is_not(tiny, task_of, family):
    """The other heads that share the value still look where they looked, and mix the new values."""
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = vc.exact(lm, task, units={"parts": "a1.h2<pattern>+a1.kv1<v>", "output": ["a1.h2"]}, **QUIET)
    assert (scores.values[:, 0] - scores.values[:, 1]).abs().max() > 1e-3


GROUPS = [
    "a1.h2<pattern>@2-4",
    "a1.h2<pattern>@5,1-3",
    "a1.h2<pattern>@-1",
    "a1.h2<pattern>@-2--1,0",
    "a0.h1<pattern>@end,-3--1",
    ("a1.h2<pattern>@3", "a1.h2<pattern>@4,2", "a0.h0<pattern>"),
]


def members_of(group, n):
    """(layer, head, queries, keys) of a group's members in a prompt of n tokens."""
    for one in group:
        queries = slice(None) if one.first is None else slice(one.first % n, one.last % n + 1)
        keys = slice(None) if one.keys is None else slice(one.keys[0] % n, one.keys[1] % n + 1)
        yield one.layer, one.index, queries, keys


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_spans_of_rows_and_keys(tiny, task_of, agree, family, direction):
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = vc.exact(lm, task, units=GROUPS, direction=direction, **QUIET)
    for i in range(len(task)):
        own, other = (task.clean[i], task.corrupted[i])[:: 1 if direction == "noising" else -1]
        metric, new = naive_metric(lm, task, i), naive_patterns.patterns(lm.hf, other)
        with torch.no_grad():
            bare = metric(naive_patterns.logits(lm.hf, own))
            patches = [
                [(layer, head, *where, new[layer]) for layer, head, *where in members_of(group, len(own))]
                for group in scores.units.members
            ]
            theirs = torch.stack([metric(naive_patterns.logits(lm.hf, own, each)) - bare for each in patches])
        agree(scores.values[i], theirs, scores.gap)
    moved = scores.values.abs().amax(0) > 1e-6
    assert moved.sum() >= 5  # where a window hides key 0 from the last queries, all but one


def test_behind_a_window_there_is_nothing_to_replace(tiny, task_of):
    """Mistral's tiny window is 4: what query 5 takes from keys 0 and 1 is 0 in every run, and so are their effects."""
    lm, task = tiny("mistral"), task_of(7, n=2)
    hidden = vc.exact(lm, task, units=["a1.h2<pattern>@5,0", "a1.h2<pattern>@5,1"], **QUIET)
    seen = vc.exact(lm, task, units=["a1.h2<pattern>@5,2", "a1.h2<pattern>@6,5"], ablation="zero", **QUIET)
    assert (hidden.values.abs() < 1e-12).all() and (seen.values.abs() > 1e-9).all()


@pytest.mark.cases(1)
@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean", "resample"])
def test_a_group_of_one_is_that_unit_and_all_cells_are_the_row(tiny, task_of, agree, ablation):
    lm, task = tiny("llama"), task_of(6, n=4)
    asked = {"ablation": ablation, "seed": 3, **QUIET}
    for name in ("a1.h2<pattern>", "a1.h2<pattern>@4", "a1.h2<pattern>@5,3"):
        alone = vc.exact(lm, task, units=[name], **asked)
        if ablation != "resample" or "@" not in name:  # alone a row draws for itself, in a group as its head
            agree(vc.exact(lm, task, units=[(name,)], **asked).values, alone.values, alone.gap)
    row = vc.exact(lm, task, units=[("a1.h2<pattern>@4",)], **asked)
    cells = [f"a1.h2<pattern>@4,{key}" for key in range(5)]
    agree(vc.exact(lm, task, units=[tuple(cells)], **asked).values, row.values, row.gap)
    agree(vc.exact(lm, task, units="a1.h2<pattern>@4,0-4", **asked).values, row.values, row.gap)
    every = vc.exact(lm, task, units={"rows": [f"a1.h2<pattern>@{at}" for at in range(6)]}, **asked)
    agree(every.values, vc.exact(lm, task, units=[("a1.h2<pattern>",)], **asked).values, row.gap)


def test_patterns_beside_other_units(tiny, task_of, agree):
    """In one patch with an MLP behind it, and with a head's own output, which has the last word."""
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    scores = vc.exact(
        lm, task, units={"both": "a1.h2<pattern>+m1", "z": ["a1.h2"], "z last": "a1.h2<pattern>+a1.h2"}, **QUIET
    )
    agree(scores.values[:, 2], scores.values[:, 1], scores.gap)
    singles = vc.exact(lm, task, units=[("a1.h2<pattern>",), ("m1",)], **QUIET)
    together = vc.effects.interactions(lm, task, units="a1.h2<pattern>+m1", **QUIET)
    agree(together.values[:, 0], scores.values[:, 0] - singles.values.sum(1), scores.gap)


def test_names_read_back():
    assert pieces("a9.h6<pattern>@12,5", "") == [("a9.h6<pattern>", (12, 12), (5, 5))]
    assert pieces("a9.h6<pattern>@12,-3--1+m3@2", "") == [("a9.h6<pattern>", (12, 12), (-3, -1)), ("m3", (2, 2), None)]
    assert pieces("a9.h6<pattern>+a9.h7<pattern>@end,end", "") == [
        ("a9.h6<pattern>", (-1, -1), (-1, -1)), ("a9.h7<pattern>", (-1, -1), (-1, -1)),
    ]  # fmt: skip
    for name in ("a9.h6<pattern>@12", "a9.h6<pattern>@12,5", "m3@x", "m3@2@5", "a9.h6<pattern>"):
        assert not is_grouped(name)
    assert pieces("a9.h6<pattern>@verb,subject", "") == [("a9.h6<pattern>", "verb", "subject")]
    for name in ("a9.h6<pattern>@end,subject", "a9.h6<pattern>@5,subject", "a9.h6<pattern>@subject,5"):
        assert is_grouped(name)
    for name in ("a9.h6<pattern>@-1,5", "a9.h6<pattern>@12,end", "a9.h6<pattern>@1-2,5", "a9.h6<pattern>@12,3-5"):
        assert is_grouped(name)


@pytest.mark.parametrize(
    ("units", "words"),
    [
        (["a1.h2<pattern>@3,4"], "a query sees the keys from 0 to its own position"),
        (["a1.h2<pattern>@1-3,4-5"], "a query sees the keys"),
        (["a1.h2<pattern>@-3,-1"], "a query sees the keys"),
        (["a1.h2<pattern>@4,3", "a1.h2<pattern>@4"], "mixes whole rows of patterns and single cells"),
        (["a1.h2<pattern>@4,3", "a1.h2<pattern>"], "mixes units at one position"),
        (["a1.h2<pattern>@4,3", "a1.h2<pattern>@4,3"], "listed twice"),
        (["a1.h2<pattern>@9,3"], "no prompt of this task has such a position"),
        (["a1.h2<pattern>@9"], "no prompt of this task has such a position"),
        (["a1.h4<pattern>"], "each with 4 patterns"),
        (["a7.h2<pattern>"], "its layers are 0 … 2"),
        (["a1.h2<Pattern>"], "Did you mean 'a1.h2<pattern>'"),
        (["a1.h2@4,3"], "is not the name of a unit"),
        (["m1@4,3"], "is not the name of a unit"),
        (["a1.h2<pattern>@4,"], "is not the name of a unit"),
        (["a1.h2<pattern>@4,3,2"], "is not the name of a unit"),
        (["a1.h2<pattern>@,3"], "is not the name of a unit"),
        (["a1<pattern>"], "is not the name of a unit"),
        ("m1@4,2-3", "only cells of patterns have"),
        ("m1+a1.h2<pattern>@4,3", "Give every unit of the group its own positions"),
        ([("a1.h2<pattern>@4,3", "a1.h2<pattern>@4")], "which overlap"),
        ([("a1.h2<pattern>@4,3", "a1.h2<pattern>@4,3")], "twice"),
        ([("a1.h2<pattern>@4,1-3", "a1.h2<pattern>@3-5,2")], "which overlap"),
        ([("a1.h2<pattern>@4,3-1",)], "are no range"),
        ([("a1.h2<pattern>@9,3-4",)], "no prompt of this task has such a position"),
        ([("a1.h2<pattern>@-1,9",)], "no prompt of this task has such a position"),
    ],
)
def test_names_that_are_none(tiny, task_of, units, words):
    with pytest.raises(UnitError, match=words):
        vc.exact(tiny("llama"), task_of(7), units=units, **QUIET)


def test_cells_that_a_prompt_lacks(tiny, task_of):
    """NaN where a prompt has no such key; 0 where its query does not see it; alike cells apart do not overlap."""
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    scores = vc.exact(lm, task, units=["a1.h2<pattern>@-1,7", "a1.h2<pattern>@4,-1", "a1.h2<pattern>@-8,0"], **QUIET)
    assert scores.values[0].isnan().tolist() == [True, False, True]
    assert (scores.values[:, 1] == 0).all() and scores.values[1].isfinite().all()
    apart = vc.exact(lm, task, units=[("a1.h2<pattern>@4,1-2", "a1.h2<pattern>@4,3", "a1.h2<pattern>@5,1-2")], **QUIET)
    assert apart.values.isfinite().all()


SPANS = ({"subject": (1, 3), "verb": (5, 6)}, {"subject": (4, 7), "verb": (7, 8)}, {"verb": (2, 3)})


@pytest.fixture
def spanned(task_of):
    """A task of two lengths whose pairs have two spans, the last one of them only."""
    return replace(task_of((6, 8), n=3), spans=tuple({k: Span(at, at) for k, at in one.items()} for one in SPANS))


@pytest.mark.cases(1)
@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_cells_at_spans_are_those_at_their_positions(tiny, spanned, agree, ablation):
    lm, asked = tiny("llama"), {"ablation": ablation, **QUIET}
    names = ["a1.h2<pattern>@verb,subject", "a1.h2<pattern>@-1,verb", "a0.h1<pattern>@subject,0", "a0.h0<pattern>@-1"]
    scores = vc.exact(lm, spanned, units=names, **asked)
    assert scores.units.names == names
    for i, spans in enumerate(SPANS):
        for name in names:
            at = {span: f"{first}-{end - 1}" for span, (first, end) in spans.items()}
            value = scores.values[i, scores.units.find(name)]
            if "subject" in name and "subject" not in at:
                assert value.isnan()
                continue
            stem, _, where = name.partition("@")
            plain = f"{stem}@{','.join(at.get(part, part) for part in where.split(','))}"
            one = vc.exact(lm, spanned[i : i + 1], units=[(plain,)], **asked)
            assert float(value) == pytest.approx(float(one.values), rel=1e-9, abs=1e-11)
    (saved,) = [scores.units.to_list()]
    assert [one["members"][0].get("keys_at") for one in saved] == ["subject", "verb", None, None]


def test_cells_at_spans_in_files_and_what_is_refused(tiny, spanned, tmp_path):
    lm = tiny("llama")
    scores = vc.exact(lm, spanned, units=["a1.h2<pattern>@verb,subject", ("a1.h2<pattern>@end,verb", "m1")], **QUIET)
    again = vc.open(scores.save(tmp_path / "cells.safetensors"))
    assert again.units.names == scores.units.names and again.units.keys == scores.units.keys
    assert torch.equal(
        vc.exact(lm, spanned, units=again.units, **QUIET).values.nan_to_num(), scores.values.nan_to_num()
    )
    for units, words in (
        (["a1.h2<pattern>@end,object"], "has no span 'object'"),
        (["m1@end,subject"], "only cells of patterns have"),
        ([("a1.h2<pattern>@verb,subject", "a1.h2<pattern>@verb,subject")], "twice"),
        ([("a1.h2<pattern>@verb,subject", "a1.h2<pattern>@verb")], "which overlap"),
        ([("a1.h2<pattern>@verb,subject", "a1.h2<pattern>@5,2")], "overlap in pair 0"),
    ):
        with pytest.raises(UnitError, match=words):
            vc.exact(lm, spanned, units=units, **QUIET)
    apart = [("a1.h2<pattern>@verb,subject", "a1.h2<pattern>@verb,verb", "a1.h2<pattern>@0")]
    assert vc.exact(lm, spanned, units=apart, **QUIET).values[:2].isfinite().all()
    moved = replace(spanned, spans=({"verb": Span((4, 5), (5, 6))}, *spanned.spans[1:]))
    with pytest.raises(UnitError, match="Queries, keys and patterns belong to their"):
        vc.exact(lm, moved, units=["a1.h2<pattern>@end,verb"], **QUIET)


def test_replacements_that_patterns_do_not_have(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    for units in ("patterns", ["a1.h2<pattern>@4,3"], "a1.h2<pattern>+m1"):
        with pytest.raises(MethodError, match="6 to 8 tokens"):
            vc.exact(lm, task, units=units, ablation="mean", **QUIET)
    with pytest.raises(MethodError, match="no one constant"):
        vc.exact(lm, task_of(6, n=2), units="patterns", ablation="optimal", **QUIET)
    with pytest.raises(MethodError, match="no one constant"):
        vc.attribute(lm, task_of(6, n=2), units="patterns", baseline="optimal", method="ig", **QUIET)
    with pytest.raises(MethodError, match="6 to 8 tokens"):
        vc.attribute(lm, task, units="patterns", baseline="mean", **QUIET)
    with pytest.raises(MethodError, match="denoising"):
        vc.exact(lm, task, units="patterns", ablation="zero", direction="denoising", **QUIET)

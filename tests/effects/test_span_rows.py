"""Units at named spans: against plain hooks on whole runs, single positions, groups of them, and what is refused."""

import dataclasses

import pytest
import tiny_models
import torch
from naive_groups import effects

import veracausa as vc
from veracausa.errors import MethodError, UnitError, VeracausaError
from veracausa.tasks.placing import places
from veracausa.tasks.spans import Span
from veracausa.units.at_spans import SpanUnits
from veracausa.units.every_unit import all_units
from veracausa.units.members import Member

QUIET = {"show_progress": False}
KINDS = ("heads", "mlps", "attention", "neurons", "residual", "queries", "keys", "values")
#: One span that every pair has, one of several tokens that some lack, one at the very start.
WHERE = [
    {"subject": (2, 4), "verb": (4, 5), "first": (0, 1)},
    {"subject": (3, 5), "first": (0, 2)},
    {"subject": (1, 2), "verb": (3, 6)},
    {"subject": (2, 5), "verb": (5, 6), "first": (0, 1)},
]
#: The same with places that differ between the prompts.
MOVED = [
    {"subject": [(2, 4), (3, 5)], "verb": [(4, 5), (1, 2)]},
    {"subject": [(3, 5), (1, 3)], "verb": [(5, 6), (5, 6)]},
    {"subject": [(1, 2), (4, 5)]},
    {"subject": [(2, 4), (0, 2)], "verb": [(4, 6), (2, 4)]},
]


@pytest.fixture
def at_spans(task_of):
    """A task of two lengths with spans at these places."""

    def build(where=WHERE, lengths=(6, 8), **options):
        return dataclasses.replace(task_of(lengths, n=len(where), **options), spans=tuple(where))

    return build


def member(kind, layer, index):
    return Member(kind, int(layer), int(index))


def naive(lm, task, units, direction="noising", ablation="counterfactual"):
    """Effects of units at spans by hooks on whole runs."""
    noising = direction == "noising"

    def placed(i):
        found = []
        for layer, index, name in units.keys:
            own, other = (places(task, i, [name], clean).get(name) for clean in (noising, not noising))
            there = own if ablation == "zero" else other
            found.append(own and [(member(units.kind, layer, index), slice(*own), slice(*there))])
        return found

    return effects(lm, task, placed, direction, ablation)


def some(units):
    """A few units of each layer, so that naive runs take seconds."""
    return units[[u for u, (_, index, _) in enumerate(units.keys) if index < 2 or index == 7]]


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
@pytest.mark.parametrize("kind", ["heads", "mlps", "neurons", "residual"])
@pytest.mark.parametrize("where", [WHERE, MOVED], ids=["same", "moved"])
def test_spans_are_what_hooks_on_a_whole_run_give(tiny, at_spans, family, kind, where):
    lm, task = tiny(family), at_spans(where)
    units = some(SpanUnits.at(all_units(lm, kind), [*task.span_names, "end"]))
    for direction in ("noising", "denoising"):
        scores = vc.exact(lm, task, units=units, direction=direction, **QUIET)
        wanted = naive(lm, task, units, direction)
        # the same sums in another order, in float64
        torch.testing.assert_close(scores.values, wanted, rtol=1e-8, atol=1e-10, equal_nan=True)
        assert (scores.mean().abs() > 1e-6).any()


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", ["queries", "keys", "values", "attention"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_what_attention_reads_at_spans(tiny, at_spans, family, kind):
    lm, task = tiny(family), at_spans(WHERE if kind in ("queries", "keys") else MOVED)
    units = some(SpanUnits.at(all_units(lm, kind), task.span_names))
    for direction in ("noising", "denoising"):
        scores = vc.exact(lm, task, units=units, direction=direction, **QUIET)
        torch.testing.assert_close(
            scores.values, naive(lm, task, units, direction), rtol=1e-8, atol=1e-10, equal_nan=True
        )


@pytest.mark.parametrize("where", [WHERE, MOVED], ids=["same", "moved"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3"])
def test_spans_set_to_zero(tiny, at_spans, family, where):
    lm, task = tiny(family), at_spans(where)
    scores = vc.exact(lm, task, units="mlps@spans", ablation="zero", **QUIET)
    wanted = naive(lm, task, scores.units, ablation="zero")
    torch.testing.assert_close(scores.values, wanted, rtol=1e-8, atol=1e-10, equal_nan=True)


@pytest.mark.cases(4)
@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean"])
@pytest.mark.parametrize("kind", [*KINDS, "patterns"])
def test_a_span_of_one_token_is_that_position(tiny, at_spans, kind, ablation):
    lm, task = tiny("llama"), at_spans([{"here": (3, 4)}] * 3, lengths=6)
    spans = vc.exact(lm, task, units=f"{kind}@here", ablation=ablation, **QUIET)
    single = vc.exact(
        lm, task, units=[name.replace("@here", "@3") for name in spans.units.names], ablation=ablation, **QUIET
    )
    assert torch.equal(spans.values, single.values)


@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean", "resample"])
def test_a_span_is_the_group_of_its_positions(tiny, at_spans, ablation):
    """A unit at a span, the same as a group of one at that span, and one at those positions."""
    lm, task = tiny("llama"), at_spans([{"here": (2, 5)}] * 6, lengths=6)
    names = [f"{stem}@here" for stem in ("a1.h0", "a2.h3", "a0.h1")]
    grouped = vc.exact(lm, task, units=[(name,) for name in names], ablation=ablation, **QUIET)
    ranged = vc.exact(lm, task, units=[name.replace("@here", "@2-4") for name in names], ablation=ablation, **QUIET)
    torch.testing.assert_close(grouped.values, ranged.values, rtol=1e-9, atol=1e-11)
    if ablation != "resample":  # a unit alone draws one prompt, a group one for each part
        spans = vc.exact(lm, task, units=names, ablation=ablation, **QUIET)
        torch.testing.assert_close(spans.values, ranged.values, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_groups_at_spans_that_move(tiny, at_spans, family):
    lm, task = tiny(family), at_spans(MOVED)
    asked = [
        "m0+m1@subject",
        ("a0.h1@subject", "m1@verb"),
        ("a1.h0@subject", "a1.h2@verb", "a1.h3@3"),
        ("a1.h1@end", "r2@verb"),
    ]
    for direction in ("noising", "denoising"):
        scores = vc.exact(lm, task, units=asked, direction=direction, **QUIET)

        def placed(i, direction=direction, groups=scores.units):
            n, noising = task.lengths[i], direction == "noising"
            found = []
            for members in groups.members:
                group = []
                for one in members:
                    if one.first is not None:
                        own = other = (one.first % n, one.last % n + 1)
                    else:
                        own, other = (places(task, i, [one.at], clean).get(one.at) for clean in (noising, not noising))
                    group.append(own and (one, slice(*own), slice(*other)))
                found.append(None if None in group else group)
            return found

        wanted = effects(lm, task, placed, direction)
        torch.testing.assert_close(scores.values, wanted, rtol=1e-8, atol=1e-10, equal_nan=True)


def test_effects_line_up_over_prompts_of_different_lengths(tiny, at_spans):
    lm, task = tiny("llama"), at_spans(lengths=(6, 7, 8, 9))
    scores = vc.exact(lm, task, units="heads@spans", **QUIET)
    for i in range(len(task)):
        had = [u for u, name in enumerate(scores.units.spans) if name in (*task.spans[i], "end")]
        alone = vc.exact(lm, task[i : i + 1], units=scores.units[had], **QUIET)
        torch.testing.assert_close(scores.values[i : i + 1, had], alone.values, rtol=1e-10, atol=1e-12)
        assert scores.values[i].isfinite().nonzero().flatten().tolist() == had
    pairs = dict(zip(scores.units.names, scores.pairs().tolist(), strict=True))
    assert pairs["a0.h0@subject"] == 4 and pairs["a0.h0@verb"] == 3 and pairs["a0.h0@end"] == 4
    assert "verb (3 of 4 pairs)" in repr(scores) and "pooled" not in repr(scores)
    table = scores.table()
    assert list(table.columns[:4]) == ["name", "layer", "head", "span"] and table.columns[-1] == "pairs"
    column = scores.units.find("a1.h0@verb")
    assert float(scores.mean()[column]) == pytest.approx(float(scores.values[[0, 2, 3], column].mean()))


def test_a_span_that_no_pair_of_a_part_has(tiny, at_spans):
    lm, task = tiny("llama"), at_spans()
    scores = vc.exact(lm, task[1:2], units=["m0@subject", "m0@first"], **QUIET)
    assert scores.values.isfinite().all()
    with pytest.raises(UnitError, match=r"has no span 'verb'; its spans are subject, first, end"):
        vc.exact(lm, task[1:2], units=["m0@verb"], **QUIET)


@pytest.mark.cases(1)
@pytest.mark.parametrize("where", [WHERE, MOVED], ids=["same", "moved"])
def test_chunks_forecasts_and_interrupted_calls(tiny, at_spans, where, tmp_path):
    lm, task = tiny("llama"), at_spans(where)
    for units in ("heads@spans", "neurons@subject", [("m0@subject", "m1@end"), "m2@verb+a1.h0@subject"]):
        whole = vc.exact(lm, task, units=units, **QUIET)
        assert vc.exact.work(lm, task, units=units).tokens() == whole.cost.token_layers
        small = vc.exact(lm, task, units=units, rows=2, share_prefix=False, **QUIET)
        torch.testing.assert_close(small.values, whole.values, rtol=1e-9, atol=1e-11, equal_nan=True)
        first = vc.exact(lm, task, units=units, out=tmp_path, **QUIET)
        again = vc.exact(lm, task, units=units, out=tmp_path, **QUIET)
        assert torch.equal(first.values.nan_to_num(7), whole.values.nan_to_num(7))
        assert torch.equal(again.values.nan_to_num(7), whole.values.nan_to_num(7))
        # the same units at other places find nothing of these
        other = dataclasses.replace(task, spans=tuple({"subject": (1, 2), "verb": (2, 3)} for _ in where))
        elsewhere = vc.exact(lm, other, units=units, out=tmp_path, **QUIET)
        assert not torch.equal(elsewhere.values.nan_to_num(7), whole.values.nan_to_num(7))


def test_resampling_draws_by_the_span(tiny, at_spans):
    lm, task = tiny("llama"), at_spans([{"one": (2, 3), "two": (3, 4)}] * 6, lengths=6)
    both = vc.exact(lm, task, units=["m0@one", "m0@two"], ablation="resample", **QUIET)
    alone = vc.exact(lm, task, units=["m0@two"], ablation="resample", **QUIET)
    torch.testing.assert_close(alone.values[:, 0], both.values[:, 1], rtol=1e-10, atol=1e-12)
    other = vc.exact(lm, task, units=["m0@two"], ablation="resample", seed=1, **QUIET)
    assert not torch.equal(other.values, alone.values)


def test_files_tables_and_charts(tiny, at_spans, tmp_path):
    lm, task = tiny("llama"), at_spans()
    for units in ("heads@spans", "mlps@spans", [("m0@subject", "m1@verb"), "m0@2"]):
        scores = vc.exact(lm, task, units=units, **QUIET)
        again = vc.open(scores.save(tmp_path / "spans.safetensors"))
        assert again.units.names == scores.units.names and again.units.digest() == scores.units.digest()
        assert torch.equal(again.values.nan_to_num(7), scores.values.nan_to_num(7)) and repr(again) == repr(scores)
        assert vc.agreement(again, scores).r == pytest.approx(1)
        scores.chart().save(str(tmp_path / "spans.html"))
    kept = vc.open(task.save(tmp_path / "task.json"))
    assert kept.spans == task.spans and kept.digest() == task.digest()
    bare = vc.exact(lm, dataclasses.replace(task, spans=()), units="heads", **QUIET)
    assert "spans" not in bare.settings and bare.task == vc.exact(lm, task, units="heads", **QUIET).task


def test_effects_at_other_places_are_not_compared(tiny, at_spans):
    lm, task = tiny("llama"), at_spans()
    one = vc.exact(lm, task, units="heads@subject", **QUIET)
    other = dataclasses.replace(task, spans=tuple({"subject": (1, 2)} for _ in WHERE))
    with pytest.raises(MethodError, match="different places of the spans"):
        vc.agreement(one, vc.exact(lm, other, units="heads@subject", **QUIET))


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("heads@sujet", r"has no span 'sujet'; its spans are subject, verb, first, end.*Did you mean 'subject'"),
        ("heads@position", r"Did you mean 'positions'"),
        (["m0@sub ject"], "is not the name of a unit"),
        (["m0@subject", "m1"], "mixes units at one position"),
        (["m0@subject", "m1@3"], "mixes units at one position"),
        (["m0@subject", "a0.h0@verb"], "mixes kinds"),
        (["m0@subject", "m0@subject"], "listed twice"),
        (["m0@subject+m0@verb+m0@subject"], "holds m0@subject twice"),
        ([("m0@subject", "m0@2")], r"overlap in pair 0 of 'tiny'"),
        ([("m0@subject", "m0")], "which overlap"),
        ([("m0@verb", "m0@end")], "overlap in pair 2"),
        ("edges@subject", "is not known"),
    ],
)
def test_what_is_no_unit_at_a_span(tiny, at_spans, units, message):
    with pytest.raises(UnitError, match=message):
        vc.exact(tiny("llama"), at_spans(), units=units, **QUIET)


def test_tasks_and_calls_that_have_no_spans(tiny, task_of, at_spans):
    lm, task = tiny("llama"), task_of(6, n=2)
    with pytest.raises(UnitError, match=r"no spans but 'end'.*spans={'subject': …}"):
        vc.exact(lm, task, units="heads@spans", **QUIET)
    ends = vc.exact(lm, task, units="heads@end", **QUIET)
    last = vc.exact(lm, task, units=[f"{name.partition('@')[0]}@5" for name in ends.units.names], **QUIET)
    assert torch.equal(ends.values, last.values)
    for units in ("mlps@subject", ["m0@subject"], ends.units):
        for verb in (vc.effects.last_in, vc.effects.shapley, vc.effects.direct):
            with pytest.raises(UnitError, match=r"vc\.exact and vc\.attribute take"):
                verb(lm, at_spans(), units=units, **QUIET)
        with pytest.raises(VeracausaError, match=r"vc\.exact"):
            vc.estimates.learn_mask(lm, at_spans(), units=units, **QUIET)


def test_queries_and_keys_belong_to_their_positions(tiny, at_spans):
    lm, task = tiny("llama"), at_spans(MOVED)
    for units in ("queries@subject", "patterns@spans", ["a1.kv0<k>@verb"], [("a1.h0<q>@subject", "m0")]):
        with pytest.raises(UnitError, match=r"Pair 0 .* Queries, keys and patterns belong to their"):
            vc.exact(lm, task, units=units, **QUIET)
    assert vc.exact(lm, task, units="keys@subject", ablation="zero", **QUIET).values.isfinite().all()


def test_interactions_at_spans(tiny, at_spans):
    lm, task = tiny("llama"), at_spans(MOVED)
    found = vc.effects.interactions(lm, task, units=["m0+m1@subject", ("a0.h1@verb", "m1@end")], **QUIET)
    both = vc.exact(lm, task, units=["m0+m1@subject", ("a0.h1@verb", "m1@end")], **QUIET)
    mlps = vc.exact(lm, task, units=["m0@subject", "m1@subject"], **QUIET)
    head, last = (vc.exact(lm, task, units=[name], **QUIET) for name in ("a0.h1@verb", "m1@end"))
    wanted = torch.stack([mlps.values.sum(1), (head.values + last.values)[:, 0]], 1)
    torch.testing.assert_close(found.values, both.values - wanted, rtol=1e-9, atol=1e-11, equal_nan=True)


def test_patterns_at_a_span_are_their_rows_together(tiny, at_spans):
    lm, task = tiny("llama"), at_spans([{"it": (2, 4)}] * 3, lengths=6)
    spans = vc.exact(lm, task, units=["a1.h0<pattern>@it", "a0.h3<pattern>@it"], **QUIET)
    ranged = vc.exact(lm, task, units=["a1.h0<pattern>@2-3", "a0.h3<pattern>@2-3"], **QUIET)
    torch.testing.assert_close(spans.values, ranged.values, rtol=1e-9, atol=1e-11)
    estimate = vc.attribute(lm, task, units=["a1.h0<pattern>@it"], **QUIET)
    rows = vc.attribute(lm, task, units=["a1.h0<pattern>@2", "a1.h0<pattern>@3"], **QUIET)
    torch.testing.assert_close(estimate.values[:, 0], rows.values.sum(1), rtol=1e-9, atol=1e-11)


def test_prompts_that_say_it_in_more_tokens(tiny, at_spans):
    lm = tiny("llama")
    task = at_spans([{"subject": [(2, 4), (2, 5)]}, {"subject": [(1, 2), (1, 2)]}])
    assert not Span((2, 4), (2, 5)).alike
    with pytest.raises(UnitError, match=r"Pair 0 .* is 2 tokens of the clean prompt and 3 of the corrupted one"):
        vc.exact(lm, task, units="heads@spans", **QUIET)
    assert vc.exact(lm, task, units="mlps@subject", ablation="zero", **QUIET).values.isfinite().all()
    assert vc.exact(lm, task, units="mlps@end", **QUIET).values.isfinite().all()
